"""Replace a generated table in README.md: what stands between `<!-- NAME -->` and `<!-- /NAME -->`."""

import re
from pathlib import Path

from machine import kind

README = Path(__file__).resolve().parents[1] / "README.md"


def write_table(
    name: str, header: list[str], rows: list[list[str]], caption: str, *, machine: dict[str, object] | None = None
) -> None:
    """Print a Markdown table and a caption, and put them at the marker.

    Where one `machine` measured it all, README.md shows that with AMX alone: the others are in its table of targets.
    """
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    table = "\n".join([*lines, "", caption])
    print(table)
    if machine and kind(machine) != "amx":
        return
    text = README.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no place <!-- {name} --> … <!-- /{name} -->")
    README.write_text(pattern.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text), encoding="utf-8")
