"""benchmarks/results/KIND/NAME.json: what one benchmark measured, and on what; a kind of machine has its own folder.

search.py and augmentations.py, whose figures depend on no machine, keep results/search.json and augmentations.json.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from machine import kind

__all__ = ["KINDS", "load", "measured_before", "of_kind", "save"]

RESULTS = Path(__file__).with_name("results")
KINDS = {"amx": "CPU with AMX", "avx512_bf16": "with AVX512-BF16", "float32": "with neither", "gpu": "GPU"}
ALIKE = [
    "processor",
    "cores",
    "amx_bf16",
    "avx512_bf16",
    "gpu",
]  # rows of one table are of machines that agree on these
SHOWN = {"cpu": "amx", "cuda": "gpu"}  # the kind whose table stands for a device


def save(name: str, machine: dict[str, object], measured: dict[str, Any]) -> dict[str, Any]:
    """Write NAME.json of this kind of machine, and return what `load` does."""
    path = _path(name, kind(machine))
    path.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    contents = {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": machine, "measured": measured}
    path.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path} written", flush=True)
    return _read(path)


def load(name: str, device: str = "cpu") -> dict[str, Any]:
    """What was measured on the kind of machine that docs/ show for a device."""
    return _read(_path(name, SHOWN[device]))


def measured_before(name: str, machine: dict[str, object], *, under: str | None = None) -> dict[str, Any]:
    """The rows of an earlier go on such a machine, beside which new ones may stand; none where it was another one.

    Each row, all of which are `under` one key where it is given, keeps the `date` at which it was measured.
    """
    path = _path(name, kind(machine))
    if not path.exists():
        return {}
    before = _read(path)
    unlike = [key for key in ALIKE if before["machine"][key] != machine[key]]
    if unlike:
        print(f"{path} is of another machine ({', '.join(unlike)} differ): its rows will go", flush=True)
        return {}
    measured: dict[str, Any] = before["measured"]
    for row in (measured[under] if under else measured).values():
        row.setdefault("date", before["date"])
    return measured


def of_kind(name: str, kind_of_machine: str) -> dict[str, Any] | None:
    """What was measured on a kind of machine, or None."""
    path = _path(name, kind_of_machine)
    return _read(path) if path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return contents | {"machine": contents["machine"] | {"date": contents["date"]}}


def _path(name: str, kind_of_machine: str) -> Path:
    return RESULTS / kind_of_machine / f"{name}.json"
