"""The tables in docs/ are what the benchmarks' result files say."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WRITE_EACH = """
import importlib, sys
sys.path.insert(0, "benchmarks")
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    module.main() if name == "targets" else module.write(module.load(name))
"""


def test_tables_are_those_of_the_result_files(tmp_path):
    """Of each result of the kind of machine that docs/ show, and the table of targets over all kinds."""
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    pages = sorted((tmp_path / "docs").glob("*.md"))
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    names = sorted({path.stem for path in (ROOT / "benchmarks/results/amx").glob("*.json")} | {"compat", "scoring"})
    assert len(names) > 8
    for name in [*names, "targets"]:
        (page,) = [each for each in pages if f"<!-- {name} -->\n" in texts[each]]
        before, start, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
        table, end, after = rest.partition(f"<!-- /{name} -->")
        assert "|" in table, name
        page.write_text(before + start + end + after, encoding="utf-8")
    subprocess.run([sys.executable, "-c", WRITE_EACH, *names, "targets"], cwd=tmp_path, check=True)
    assert {page: page.read_text(encoding="utf-8") for page in pages} == texts


STACKED = """
import sys
sys.path.insert(0, "benchmarks")
import torch
from stacked import NETS, STACKED, separate, stacked
torch.set_num_threads(1)
for name in NETS:
    alone = torch.tensor(separate(name, range(3), 8)(5))
    assert len({*alone[:, -1].tolist()}) == 3
    for side in ("vmap", "by hand", "by hand, N rates"):
        together = torch.tensor(stacked(name, range(3), 8, **STACKED[side])(5))
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
"""


def test_stacked_networks_of_the_prototype_train_as_separate_ones():
    done = subprocess.run([sys.executable, "-c", STACKED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


NEWER = """
import json, sys
sys.path.insert(0, "benchmarks")
from pathlib import Path
import targets
from result_file import measured_before
overhead = json.loads(Path("benchmarks/results/float32/overhead.json").read_text())
print({row["date"] for row in measured_before("overhead", overhead["machine"]).values()} == {overhead["date"]})
for name, date in ("memory", "2099-12-31"), ("startup", "2099-12-30"):
    path = Path(f"benchmarks/results/float32/{name}.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"date": date}))
targets.main()
"""


def test_targets_mark_results_that_are_older_than_others(tmp_path):
    """Columns without a result of the newest day, and in the column that has one, cells of earlier days."""
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    done = subprocess.run([sys.executable, "-c", NEWER], cwd=tmp_path, check=True, capture_output=True, text=True)
    kept, header, _, *rows = done.stdout.splitlines()
    assert kept == "True"
    columns = [cell.strip() for cell in header.strip("|").split("|")][2:]
    (current,) = [number for number, name in enumerate(columns) if not name.endswith("(older)")]
    assert "neither" in columns[current]
    cells = {row.split("|")[1].strip(): row.split("|")[3 + current].strip() for row in rows if row.startswith("|")}
    assert not cells["peak memory of a run"].endswith("]")
    assert cells["`--help`"].endswith("s [12-30]")
