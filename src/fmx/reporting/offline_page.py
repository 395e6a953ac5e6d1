"""A page that works without a network: plotly.js, a script, a style and the data, in one HTML file."""

from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

__all__ = ["Live", "offline_page", "plotly_js"]

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Live:
    """What makes a page renew itself: its version, a line on the state of things, the address of plotly.js.

    version: of no other page that was served at the address; at most 2⁵³, as JavaScript's numbers are exact to there.
    """

    version: int
    line: str
    plotly: str


def plotly_js() -> str:
    """The script that draws charts."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).strip()


def offline_page(name: str, *, live: Live | None = None, **contents: Any) -> str:
    """Render templates/NAME.html.j2 with NAME.js and plotly.js.

    Texts are escaped, and the page's Content-Security-Policy allows only these scripts, and no network address.
    live: for a page that `fmx watch` serves, which may ask its own server, and has plotly.js from there.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    script = _script(name)
    # The page's script runs again when the page is renewed, so its names may not be global ones.
    scripts = [plotly_js(), script] if live is None else [_script("live"), f"(() => {{\n{script}\n}})();"]
    return environment.get_template(f"{name}.html.j2").render(
        scripts=scripts,
        hashes=[b64encode(sha256(script.encode()).digest()).decode() for script in scripts],
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        live=live,
        **contents,
    )


def _script(name: str) -> str:
    return (TEMPLATES / f"{name}.js").read_text(encoding="utf-8").strip()
