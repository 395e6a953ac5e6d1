"""The house: which names stand at its top, and that no two files import each other."""

from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
MOST = 16  # names at the top of the package


def test_the_top_is_small_and_explained():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    package = ROOT / "src/fmx"
    names = {path.relative_to(package).parts[0] for path in package.rglob("*") if path.suffix in {".py", ".typed"}}
    assert 10 < len(names) <= MOST, names
    for name in names:
        entry = f"`{name}`" if "." in name else f"`{name}/`"
        assert f"| {entry} |" in page, name


def test_no_circle():
    graph = grimp.build_graph("fmx")
    circles = []
    for module in sorted(graph.modules - {"fmx"}):
        for other in graph.find_modules_directly_imported_by(module):
            if other != "fmx" and graph.chain_exists(importer=other, imported=module):
                circles.append((module, other))  # noqa: PERF401 - a loop reads better
    assert len(graph.modules) > 100
    assert not circles
