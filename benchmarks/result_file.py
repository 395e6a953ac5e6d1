"""benchmarks/results/NAME.json: what one benchmark measured, and on what."""

import json
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["load", "save"]

RESULTS = Path(__file__).with_name("results")


def save(name: str, machine: dict[str, object], measured: dict[str, Any]) -> None:
    """Write NAME.json, or NAME_cuda.json for a GPU."""
    path = _path(name, str(machine["device"]))
    path.parent.mkdir(exist_ok=True)
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    contents = {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": machine, "measured": measured}
    path.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path} written", flush=True)


def load(name: str, device: str = "cpu") -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(_path(name, device).read_text(encoding="utf-8"))
    return contents


def _path(name: str, device: str) -> Path:
    return RESULTS / (f"{name}.json" if device == "cpu" else f"{name}_{device}.json")
