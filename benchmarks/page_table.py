"""Replace a generated table in docs/: what stands between `<!-- NAME -->` and `<!-- /NAME -->`."""

import re
from pathlib import Path

from machine import kind

DOCS = Path(__file__).resolve().parents[1] / "docs"


def write_table(
    name: str, header: list[str], rows: list[list[str]], caption: str, *, machine: dict[str, object] | None = None
) -> None:
    """Print a Markdown table and a caption, and put them at the marker, on whichever page that is.

    Where one `machine` measured it all, docs/ show that with AMX alone: the others are in the table of targets.
    """
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    table = "\n".join([*lines, "", caption])
    print(table)
    if machine and kind(machine) != "amx":
        return
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    pages = [page for page in sorted(DOCS.glob("*.md")) if pattern.search(page.read_text(encoding="utf-8"))]
    if len(pages) != 1:
        raise SystemExit(f"docs/ must have one place <!-- {name} --> … <!-- /{name} -->, and has {len(pages)}")
    text = pages[0].read_text(encoding="utf-8")
    pages[0].write_text(pattern.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text), encoding="utf-8")
