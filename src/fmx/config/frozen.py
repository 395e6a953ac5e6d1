"""Write a run's exact configuration as a file for `python -m fmx.run`, independent of later edits of conf/."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fmx.config.check import Checked
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
    "frozen_job",
    "origin",
    "relocated",
    "stored_of",
    "write_frozen",
    "write_text",
]

FROZEN = "exact"  # the name to pass as --config-name
HYDRA: dict[str, Any] = {
    "job": {"name": "run"},
    "callbacks": {"check": {"_target_": "fmx.commands.hydra_callback.Check", "bounded": True}},
}
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # equal; the first, of libyaml, is five times as fast
REFERENCES = re.compile(r"(?:[^$]*\$\{[\w.]+\})+[^$]*")  # references to other keys alone, no resolvers
DEFAULTS: list[Any] = ["_self_", {"override hydra/job_logging": "fmx"}, {"override hydra/hydra_logging": "fmx"}]


def freeze(
    config: DictConfig,
    folder: Path,
    *,
    written: Mapping[str, Any],
    overrides: Sequence[str] | None,
    choices: Mapping[str, str],
    stored: Mapping[Place, str],
    groups: Sequence[str] = (),
    hydra: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write exact.yaml into a folder; returns the arguments with which fmx.run composes exactly this configuration.

    config: resolved and trusted; paths below its run_dir move to the new run's. written: the same unresolved, to keep
    references between keys. overrides, choices: for the new run's records; None: those that are typed. stored: its
    environment references. groups: that the configuration lacks because the command line chooses their members. hydra:
    settings of Hydra for a run in a folder of its own, or for a sweep.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    moved = relocated(plain)
    following = _restore_references(moved, written)
    if _resolved(following) != _resolved(moved):  # one of the two files was edited
        following = moved
    node = {**(hydra or {}), **HYDRA, "callbacks": {**HYDRA["callbacks"], "origin": origin(overrides, choices)}}
    following = with_references(following, stored)
    launcher = ["_launcher"] if hydra else []
    defaults = [*launcher, DEFAULTS[0], *({group: None} for group in groups), *DEFAULTS[1:]]
    write_frozen(folder / f"{FROZEN}.yaml", {**following, "run_dir": "${run_dir:}"}, node, defaults)
    return ["--config-dir", str(folder), "--config-name", FROZEN]


def _restore_references(resolved: Any, written: Any) -> Any:
    """A resolved node with every value that was written as `${another.key}` written that way again."""
    if isinstance(written, str) and REFERENCES.fullmatch(written):
        return written
    if isinstance(resolved, Mapping) and isinstance(written, Mapping):
        return {key: _restore_references(child, written.get(key)) for key, child in resolved.items()}
    if isinstance(resolved, list) and isinstance(written, list) and len(resolved) == len(written):
        return [_restore_references(*pair) for pair in zip(resolved, written, strict=True)]
    return resolved


def _resolved(plain: Mapping[str, Any]) -> object:
    """A resolved configuration; None where it cannot be resolved, or expands beyond the bound."""
    try:
        for key in plain:
            check_expansion(plain, key, Path(FROZEN))
        return OmegaConf.to_container(OmegaConf.create({**plain, "run_dir": "."}), resolve=True)
    except (DataError, OmegaConfBaseException):
        return None


def origin(
    overrides: Sequence[str] | None, choices: Mapping[str, Any], stored: Mapping[Place, str] | None = None
) -> dict[str, str]:
    """The configuration node of the Origin callback, its facts encoded as one string.

    Otherwise Hydra would instantiate every mapping with a `_target_` below a callback, and resolve interpolations.
    """
    facts: dict[str, Any] = {"overrides": None if overrides is None else list(overrides), "choices": dict(choices)}
    if stored:
        facts["environment"] = [[list(place), text] for place, text in stored.items()]
    return {"_target_": "fmx.config.frozen.Origin", "facts": json.dumps(facts).replace("$", r"\u0024")}


def write_frozen(
    path: Path, config: Mapping[str, Any], hydra: Mapping[str, Any], defaults: Sequence[Any] = DEFAULTS
) -> None:
    """Atomically write a configuration whose defaults list holds Hydra's logging, and nothing else of conf/."""
    write_text(path, frozen_text(config, hydra, defaults))


def frozen_text(config: Mapping[str, Any], hydra: Mapping[str, Any], defaults: Sequence[Any] = DEFAULTS) -> str:
    """What write_frozen writes."""
    node = {"defaults": [*defaults], **config, "hydra": dict(hydra)}
    return str(yaml.dump(node, Dumper=DUMPER, sort_keys=False, allow_unicode=True))


def write_text(path: Path, text: str) -> None:
    """Write a frozen configuration atomically."""
    partial = path.with_suffix(".yaml.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def frozen_job(config: DictConfig, checked: Checked) -> str:
    """A composed job of a sweep as the text of a configuration of its own.

    config: with its hydra node. checked: its values; references between keys are kept, values of other resolvers, such
    as the time, are fixed now, and environment variables must have the same values when the job starts.
    """
    written, resolved, stored = checked.written, checked.resolved, references(checked.stored)
    plain = with_references(_restore_references(relocated(resolved), written), stored)
    plain["run_dir"] = written["run_dir"]
    hydra: Any = {key: OmegaConf.to_container(config.hydra[key], resolve=False) for key in ("job", "callbacks")}
    job = {key: hydra["job"][key] for key in ("name", "num", "chdir", "env_set", "env_copy") if key in hydra["job"]}
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices, resolve=False)
    if (facts := OmegaConf.select(config, "hydra.callbacks.origin.facts")) is not None:  # of the run that is extended
        choices = {**json.loads(facts)["choices"], **choices}
    origin_node = origin(as_typed(config.hydra.overrides.task), choices, stored)
    return frozen_text(plain, {"job": job, "callbacks": {**hydra["callbacks"], "origin": origin_node}})


class Origin(Callback):
    """The Hydra callback that restores the overrides and choices that a frozen job was composed from."""

    def __init__(self, facts: str) -> None:
        decoded = json.loads(facts)
        self.overrides: list[str] | None = decoded["overrides"]  # never resolved: see as_typed; None: as typed
        self.choices: dict[str, Any] = escape_interpolations(decoded["choices"])
        self.stored = stored_of(decoded)

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Give the run the sweep's overrides and choices; Refusal where an environment variable has changed."""
        with open_dict(config):
            if self.overrides is None:
                config.hydra.runtime.choices = {**self.choices, **config.hydra.runtime.choices}
            else:
                config.hydra.overrides.task = self.overrides
                config.hydra.runtime.choices = self.choices
        if self.stored:
            try:
                check_same(self.stored, references(to_stored(config)), "this job")
            except DataError as error:  # Hydra would only warn, and start the run
                raise Refusal(error) from None


def stored_of(facts: Mapping[str, Any]) -> dict[Place, str]:
    """A frozen job's environment references, from the facts of its Origin callback."""
    return {tuple(place): text for place, text in facts.get("environment", [])}


def check_same(then: Mapping[Place, str], now: Mapping[Place, str], what: str) -> None:
    """DataError for the first environment reference whose value has changed. what: names the job in the error."""
    for place, text in then.items():
        if now.get(place) != text:
            raise DataError(f"{what}: {why_unresolved(place, then)}")


def relocated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A plain, resolved configuration with every path below its run_dir written relative to `${run_dir}`."""
    moved: dict[str, Any] = _relocate(config, str(config.get("run_dir")))
    return moved


def _relocate(node: Any, run_dir: str) -> Any:
    """A node with paths below `run_dir` rewritten, and all other interpolations escaped."""
    if isinstance(node, Mapping):
        return {key: _relocate(child, run_dir) for key, child in node.items()}
    if isinstance(node, list):
        return [_relocate(child, run_dir) for child in node]
    if isinstance(node, str) and (node == run_dir or node.startswith(f"{run_dir}/")):
        return "${run_dir}" + escape_interpolations(node.removeprefix(run_dir))
    return escape_interpolations(node)  # resolved already
