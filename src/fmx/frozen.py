"""A run's exact configuration as a file that `python -m fmx.run` takes: later edits of conf/ change nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

__all__ = ["FROZEN", "freeze"]

FROZEN = "exact"  # the name to pass as --config-name
HYDRA = {
    "job": {"name": "run"},
    "callbacks": {"check": {"_target_": "fmx.check.Check"}},
}
DEFAULTS: list[Any] = ["_self_", {"override hydra/job_logging": "fmx"}, {"override hydra/hydra_logging": "fmx"}]


def freeze(config: DictConfig, folder: Path) -> list[str]:
    """Write exact.yaml into a folder and return the arguments with which fmx.run composes just that.

    config: resolved; what lies below its run_dir will lie below the new run's.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    moved = _move(plain, str(config.run_dir)) | {"run_dir": "${run_dir:}"}
    text = yaml.safe_dump({"defaults": DEFAULTS, **moved, "hydra": HYDRA}, sort_keys=False, allow_unicode=True)
    (folder / f"{FROZEN}.yaml").write_text(text, encoding="utf-8")
    return ["--config-dir", str(folder), "--config-name", FROZEN]


def _move(node: Any, run_dir: str) -> Any:
    """The node with every path below the old run directory below the new one; other text stays as it is."""
    if isinstance(node, Mapping):
        return {key: _move(child, run_dir) for key, child in node.items()}
    if isinstance(node, list):
        return [_move(child, run_dir) for child in node]
    if isinstance(node, str):
        if node == run_dir or node.startswith(f"{run_dir}/"):
            return "${run_dir}" + node.removeprefix(run_dir)
        return node.replace("${", "\\${")  # resolved once, never again
    return node
