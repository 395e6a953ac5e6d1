"""Write the pages that are made from the code: docs/verbs.md from each verb's --help, docs/parts_list.md from conf/.

    python docs/generate.py

`make docs` does it, and tests/test_docs.py says where a page is not what this writes.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
CONF = DOCS.parent / "conf"
GROUPS = (
    *(
        "data",
        "model",
        "optim",
        "schedule",
        "augment",
        "loss",
        "classifier",
        "metrics",
        "trainer",
        "callbacks",
        "logger",
    ),
    *("experiment", "hydra/launcher", "hydra/sweeper"),
)
GENERATED = "<!-- written by docs/generate.py -->"


def verbs() -> str:
    """What each verb's --help says."""
    from fmx.commands.verbs import VERBS

    lines = ["# Verbs", "", GENERATED, "", "What `fmx help VERB` prints, and first what bare `fmx` does."]
    for verb in ("", *VERBS):
        lines += ["", f"## fmx {verb}".rstrip(), "", "```text", help_of(verb), "```"]
    return "\n".join(lines) + "\n"


def help_of(verb: str) -> str:
    """The help of a verb, 80 columns wide."""
    command = [sys.executable, "-m", "fmx", *([verb] if verb else []), "--help"]
    wide = os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=wide, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def parts() -> str:
    """The header of every file in conf/."""
    lines = ["# List of parts", "", GENERATED, "", "Every file of `conf/`, with its first lines: type `GROUP=NAME`."]
    for group in GROUPS:
        lines += ["", f"## {group}"]
        for file in sorted((CONF / group).glob("*.yaml")):
            if not file.name.startswith("_"):
                lines += ["", f"### {group}={file.stem}", "", *header_of(file)]
    return "\n".join(lines) + "\n"


def header_of(file: Path) -> Iterator[str]:
    """The comment at the top of a YAML file, as a text block."""
    yield "```text"
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            yield line.removeprefix("#").removeprefix(" ")
    yield "```"


PAGES = {"verbs.md": verbs, "parts_list.md": parts}


def main() -> None:
    """Write all generated pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
