"""A run's exact configuration as a file that `python -m fmx.run` takes: later edits of conf/ change nothing."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fmx.config.expansion import check_expansion
from fmx.config.from_environment import Place, references, to_stored, why_unresolved, with_references
from fmx.config.quoting import as_typed, escape_interpolations
from fmx.errors import DataError, Refusal

__all__ = [
    "DEFAULTS",
    "FROZEN",
    "REFERENCES",
    "Origin",
    "check_same",
    "freeze",
    "freeze_job",
    "origin",
    "relocated",
    "stored_of",
    "write_frozen",
]

FROZEN = "exact"  # the name to pass as --config-name
HYDRA: dict[str, Any] = {
    "job": {"name": "run"},
    "callbacks": {"check": {"_target_": "fmx.commands.hydra_callback.Check", "bounded": True}},
}
REFERENCES = re.compile(r"(?:[^$]*\$\{[\w.]+\})+[^$]*")  # to other keys; a resolver might do anything
DEFAULTS: list[Any] = ["_self_", {"override hydra/job_logging": "fmx"}, {"override hydra/hydra_logging": "fmx"}]


def freeze(
    config: DictConfig,
    folder: Path,
    *,
    written: Mapping[str, Any],
    overrides: Sequence[str],
    choices: Mapping[str, str],
    stored: Mapping[Place, str],
) -> list[str]:
    """Write exact.yaml into a folder and return the arguments with which fmx.run composes just that.

    config: resolved and trusted; what lies below its run_dir will lie below the new run's. written: the same before it
    was resolved, which says what values follow from others. overrides, choices: what the new run's records will name.
    stored: what the run has of the environment (`references`), which stays a reference.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    moved = relocated(plain)
    following = _restore_references(moved, written)
    if _resolved(following) != _resolved(moved):  # somebody has changed one of the two since
        following = moved
    hydra = HYDRA | {"callbacks": {**HYDRA["callbacks"], "origin": origin(overrides, choices)}}
    following = with_references(following, stored)
    write_frozen(folder / f"{FROZEN}.yaml", {**following, "run_dir": "${run_dir:}"}, hydra)
    return ["--config-dir", str(folder), "--config-name", FROZEN]


def _restore_references(resolved: Any, written: Any) -> Any:
    """A node with every value that was written with `${another.key}` in it written so again."""
    if isinstance(written, str) and REFERENCES.fullmatch(written):
        return written
    if isinstance(resolved, Mapping) and isinstance(written, Mapping):
        return {key: _restore_references(child, written.get(key)) for key, child in resolved.items()}
    if isinstance(resolved, list) and isinstance(written, list) and len(resolved) == len(written):
        return [_restore_references(*pair) for pair in zip(resolved, written, strict=True)]
    return resolved


def _resolved(plain: Mapping[str, Any]) -> object:
    """The values that a configuration comes to; None where it cannot be resolved, or grows beyond the bound."""
    try:
        for key in plain:
            check_expansion(plain, key, Path(FROZEN))
        return OmegaConf.to_container(OmegaConf.create({**plain, "run_dir": "."}), resolve=True)
    except (DataError, OmegaConfBaseException):
        return None


def origin(
    overrides: Sequence[str], choices: Mapping[str, Any], stored: Mapping[Place, str] | None = None
) -> dict[str, str]:
    """The node of the callback Origin, with what it is told as one text.

    Hydra would make an object of any mapping below a callback that names a target, and resolve any interpolation.
    """
    facts: dict[str, Any] = {"overrides": list(overrides), "choices": dict(choices)}
    if stored:
        facts["environment"] = [[list(place), text] for place, text in stored.items()]
    return {"_target_": "fmx.config.frozen.Origin", "facts": json.dumps(facts).replace("$", r"\u0024")}


def write_frozen(path: Path, config: Mapping[str, Any], hydra: Mapping[str, Any]) -> None:
    """Write a configuration that needs no other file but Hydra's logging; whoever reads it sees a whole one."""
    text = yaml.safe_dump({"defaults": DEFAULTS, **config, "hydra": dict(hydra)}, sort_keys=False, allow_unicode=True)
    partial = path.with_suffix(".yaml.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def freeze_job(config: DictConfig, path: Path) -> None:
    """Write a composed job of a sweep as a configuration of its own.

    config: with its hydra node, not resolved: an interpolation still says that a value follows from another one. What
    follows from the time instead is as it is now; what follows from the environment must be as it is now.
    """
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    written: Any = OmegaConf.to_container(ours, resolve=False)
    resolved: Any = OmegaConf.to_container(ours, resolve=True)
    stored = references(to_stored(ours))
    plain = with_references(_restore_references(relocated(resolved), written), stored)
    plain["run_dir"] = written["run_dir"]
    hydra: Any = OmegaConf.to_container(OmegaConf.masked_copy(config.hydra, ["job", "callbacks"]), resolve=False)
    job = {key: hydra["job"][key] for key in ("name", "num", "chdir", "env_set", "env_copy") if key in hydra["job"]}
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices, resolve=False)
    told = origin(as_typed(config.hydra.overrides.task), choices, stored)
    write_frozen(path, plain, {"job": job, "callbacks": {**hydra["callbacks"], "origin": told}})


class Origin(Callback):
    """The Hydra callback that gives a frozen job back what freezing takes away: who chose what, in which words."""

    def __init__(self, facts: str) -> None:
        told = json.loads(facts)
        self.overrides: list[str] = told["overrides"]  # which nothing resolves: see as_typed
        self.choices: dict[str, Any] = escape_interpolations(told["choices"])
        self.stored = stored_of(told)

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Let the run's records name the overrides and choices of the sweep."""
        with open_dict(config):
            config.hydra.overrides.task = self.overrides
            config.hydra.runtime.choices = self.choices
        if self.stored:
            try:
                check_same(self.stored, references(to_stored(config)), "this job")
            except DataError as error:  # Hydra would warn of it, and begin the run
                raise Refusal(error) from None


def stored_of(facts: Mapping[str, Any]) -> dict[Place, str]:
    """What a frozen job has of the environment, from what its callback Origin is told."""
    return {tuple(place): text for place, text in facts.get("environment", [])}


def check_same(then: Mapping[Place, str], now: Mapping[Place, str], what: str) -> None:
    """DataError for the first value of a job that the environment said then, and does not now."""
    for place, text in then.items():
        if now.get(place) != text:
            raise DataError(f"{what}: {why_unresolved(place, then)}")


def relocated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A plain, resolved configuration with every path below its run_dir written from `${run_dir}` on."""
    moved: dict[str, Any] = _relocate(config, str(config.get("run_dir")))
    return moved


def _relocate(node: Any, run_dir: str) -> Any:
    """The node with every path below the old run directory below the new one; other text stays as it is."""
    if isinstance(node, Mapping):
        return {key: _relocate(child, run_dir) for key, child in node.items()}
    if isinstance(node, list):
        return [_relocate(child, run_dir) for child in node]
    if isinstance(node, str) and (node == run_dir or node.startswith(f"{run_dir}/")):
        return "${run_dir}" + escape_interpolations(node.removeprefix(run_dir))
    return escape_interpolations(node)  # resolved once, never again
