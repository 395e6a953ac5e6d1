"""A page that works without a network: plotly.js, a script, a style and the data, in one HTML file."""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

__all__ = ["offline_page"]

TEMPLATES = Path(__file__).parent / "templates"


def offline_page(name: str, **contents: Any) -> str:
    """Render templates/NAME.html.j2 with NAME.js and plotly.js.

    Texts are escaped, and the page's Content-Security-Policy allows only these scripts, and no network address.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    scripts = [get_plotlyjs().strip(), (TEMPLATES / f"{name}.js").read_text(encoding="utf-8").strip()]
    return environment.get_template(f"{name}.html.j2").render(
        scripts=scripts,
        hashes=[b64encode(sha256(script.encode()).digest()).decode() for script in scripts],
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        **contents,
    )
