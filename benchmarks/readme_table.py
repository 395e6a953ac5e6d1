"""Replace a generated table in README.md: what stands between `<!-- NAME -->` and `<!-- /NAME -->`."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def write_table(name: str, header: list[str], rows: list[list[str]], caption: str) -> None:
    """Put a Markdown table and a caption below it at the marker; print them too."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    table = "\n".join([*lines, "", caption])
    print(table)
    text = README.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no place <!-- {name} --> … <!-- /{name} -->")
    README.write_text(pattern.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text), encoding="utf-8")
