"""The pages: short where they must be, true where they are made from the code, and no link that leads nowhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
MISTYPED = "dilatd"  # on purpose, to show the answer
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_front_page_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert 60 < len(lines) <= 150


def test_links_lead_somewhere():
    assert len(PAGES) > 15
    found = 0
    for page in PAGES:
        for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
                found += 1
    assert found > 40


def test_files_that_pages_name_exist():
    """Paths below the repository's own folders, written as code."""
    found = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:src|tests|benchmarks|conf|docs|examples)/[\w./-]*\w)/?`", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
            found += 1
    assert found > 20


@pytest.mark.parametrize("name", ["verbs.md", "parts_list.md"])
def test_generated_pages_are_current(name):
    page = generator().PAGES[name]()
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page, "type: make docs"


def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site/architecture/index.html").is_file()


def test_shell_blocks_name_verbs_and_groups_that_exist():
    """A command in a page is one that fmx knows."""
    from fmx.commands.verbs import MORE_VERBS, VERBS

    groups = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*") if path.is_dir()}
    found = 0
    for page in PAGES:
        for line in re.findall(r"(?m)^    (?:\$ )?(?:fmx|python -m fmx\.run) (.+)$", page.read_text(encoding="utf-8")):
            words = line.partition(" #")[0].split()
            if words and "=" not in words[0] and words[0][0] not in "-O":
                assert words[0] in {*VERBS, *MORE_VERBS}, f"{page.name}: {line}"
            for group, member in re.findall(r"(?<![\w.])([a-z/]+)=([a-z_0-9]+)(?=[\s,]|$)", " ".join(words)):
                if group in groups and member != MISTYPED:
                    assert (ROOT / "conf" / group / f"{member}.yaml").is_file() or "--config-dir" in line, line
            found += 1
    assert found > 30
