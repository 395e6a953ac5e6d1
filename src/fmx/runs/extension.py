"""`extend=RUN`: a new run that goes on with a finished one, by the finished one's configuration and its own changes."""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fmx.config.bounded_files import read_yaml, read_yaml_or_empty
from fmx.config.conf_dir import CONF_DIR
from fmx.config.from_environment import from_stored
from fmx.config.frozen import freeze, relocated
from fmx.config.layout import GROUPS
from fmx.config.printed_command import printed_command
from fmx.config.quoting import override, unquoted
from fmx.config.renamed_targets import with_first_names
from fmx.errors import ConfigError, DataError
from fmx.runs.data_root import KEY as DATA_ROOT
from fmx.runs.data_root import without_root
from fmx.runs.launch_folder import from_launch_folder
from fmx.runs.resume import choices_of, config_to_train, given_keys
from fmx.runs.run_dir import Run, open_run

__all__ = ["Extension", "expand_extend", "extension_of"]

KEY = "extend="
SOURCES = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")
# Where a run's folder and its start are, and what no longer counts once it goes on.
NOT_CHANGES = ("run_dir", "resume", "extend", "init", "init_strict", "sweep.", "vars.", "callbacks.pruning.")
# Keys of `data` that leave the images and their split alone.
FREE_DATA = (
    "root",
    "batch_size",
    "eval_batch_size",
    "num_workers",
    "shuffle",
    "sampler",
    "drop_last",
    "persistent_workers",
)
LENGTHS = ("total_steps", "T_max", "total_iters")  # of schedulers; null means the length of the training
MANY = 8  # changes that a message lists


@dataclass(frozen=True)
class Extension:
    """How a run goes on with its parent.

    epoch, step: how far the parent was trained. changed: the keys that differ from the parent's, with both values.
    anew: whether the schedule starts anew, over the added epochs, instead of going on with its state.
    """

    parent: Path
    epoch: int
    step: int
    changed: Mapping[str, tuple[Any, Any]]
    anew: bool

    @property
    def changes(self) -> str:
        """The changed keys in words; empty where there are none."""
        told = [f"{key} was {was!r}, is {now!r}" for key, (was, now) in [*self.changed.items()][:MANY]]
        more = f" and {len(self.changed) - MANY} more" if len(self.changed) > MANY else ""
        return f"{'; '.join(told)}{more}"

    def recorded(self) -> dict[str, Any]:
        """What run.json says of it."""
        return {
            "run": str(self.parent),
            "epoch": self.epoch,
            "step": self.step,
            "schedule": "anew" if self.anew else "goes on",
            "changed": {key: [*pair] for key, pair in self.changed.items()},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Extension | None":
        """The extension that a run.json describes, if any; DataError where it is not as it should be."""
        node = record.get("extends")
        if node is None:
            return None
        try:
            changed = {str(key): (was, now) for key, (was, now) in dict(node["changed"]).items()}
            return cls(Path(node["run"]), int(node["epoch"]), int(node["step"]), changed, node["schedule"] == "anew")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("run.json does not say extends as it should") from error


def expand_extend(arguments: list[str]) -> list[str]:
    """The command line; `extend=RUN` is expanded to the configuration of that run, which the other words change.

    Where the words name all keys that began the run, or a folder of configurations, they are composed as they are.
    """
    words = [each for each in arguments if each.startswith(KEY)]
    given = [each for each in arguments if each not in words]
    if len(words) != 1 or any(each.partition("=")[0] in SOURCES for each in given):
        return arguments
    path = Path(unquoted(words[0].removeprefix(KEY))).expanduser()
    if not (path / "run.json").is_file():
        return arguments  # the check of the configuration says what is wrong
    run = open_run(path, finished=False)
    typed = given_keys(given)
    if given_keys(run.recorded(list, "overrides")) - {"extend"} <= typed:
        return arguments
    for key in typed & {"experiment", *GROUPS}:
        if key in {"experiment", "data", "model", "optim", "classifier"}:
            raise ConfigError(
                f"extend={path} goes on with the {key} of that run: leave out {key}=…, or start a new run from its "
                f"weights, {printed_command(override('init', path))}"
            )
    roots = [each for each in given if each.startswith(f"{DATA_ROOT}=")]
    config = config_to_train(run, "extend", path, roots)
    OmegaConf.update(config, "resume", None)
    OmegaConf.update(config, "init", None)
    OmegaConf.update(config, "init_strict", value=False)
    config.callbacks.pop("pruning", None)  # of the search that it was a trial of
    _frozen.append(folder := tempfile.TemporaryDirectory(prefix="fmx-"))
    chosen = sorted(typed & {*GROUPS})
    config_arguments = freeze(
        OmegaConf.masked_copy(config, [str(key) for key in config if key not in chosen]),
        Path(folder.name),
        written=read_yaml_or_empty(run.path / ".hydra" / "config.yaml"),
        overrides=None,
        choices=choices_of(run.path),
        stored={place: text for place, text in run.from_environment.items() if place[0] not in chosen},
        groups=chosen,
        hydra=read_yaml(CONF_DIR / "config.yaml")["hydra"],
    )
    print(f"extend: {path}, with {' '.join(given) or 'no changes'}", file=sys.stderr)
    return [*config_arguments, *arguments]


_frozen: list[tempfile.TemporaryDirectory[str]] = []  # kept until this process ends: its ranks read them too


def extension_of(config: Mapping[str, Any]) -> Extension:
    """How a run of a resolved, plain configuration goes on with the run that its `extend` names.

    ConfigError where it cannot: that run is not finished or not there, its network, optimizer or data would be another
    one, or no epochs are added.
    """
    from fmx.runs.checkpoint_files import load_checkpoint  # imports torch

    named = str(config["extend"])
    path = from_launch_folder(Path(named).expanduser())
    word = printed_command(override("init", Path(named)))
    try:
        run = open_run(path, finished=False)
        if run.status != "completed":
            how = printed_command(override("resume", Path(named)))
            raise ConfigError(
                f"extend={named}: that run is {run.status}, and only a finished one goes on: {how} ends it first; "
                f"{word} starts a new run from its weights"
            )
        then = read_yaml(run.path / ".hydra" / "resolved.yaml")
        state = load_checkpoint(run.checkpoint("last"))
        epoch, step = _progress(state)
    except DataError as error:
        raise ConfigError(f"extend={named}: {error}") from error
    changed = _changes(run, then, config)
    if refused := [key for key in changed if _is_fixed(key)]:
        was, now = changed[refused[0]]
        raise ConfigError(
            f"extend={named} goes on with the network, the optimizer, the data and the random numbers of that run, but "
            f"{refused[0]} was {was!r}, is {now!r}; {word} starts a new run from its weights"
        )
    trainer = config["trainer"]
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    if (isinstance(epochs, int) and 0 < epochs <= epoch) or (isinstance(steps, int) and 0 < steps <= step):
        key, reached = ("max_steps", step) if isinstance(steps, int) and 0 < steps <= step else ("max_epochs", epoch)
        raise ConfigError(
            f"extend={named}: that run was trained for {reached} {key.removeprefix('max_')} already; add some, as in "
            f"trainer.{key}={2 * reached}, which counts all of them"
        )
    scheduler = config["schedule"].get("scheduler") or {}
    has_length = any(name in scheduler and scheduler[name] is None for name in LENGTHS)
    anew = has_length or any(key == "optim.lr" or key.startswith("schedule.") for key in changed)
    return Extension(run.path, epoch, step, changed, anew)


def _progress(state: Mapping[str, Any]) -> tuple[int, int]:
    """The epochs and steps that a checkpoint was trained for."""
    try:
        epoch = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        step = state["global_step"]
    except (KeyError, TypeError) as error:
        raise DataError("its last.ckpt does not say how far it was trained") from error
    if not isinstance(epoch, int) or not isinstance(step, int):
        raise DataError("its last.ckpt does not say how far it was trained")
    return epoch, step


def _changes(run: Run, then: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    from fmx.runs.settings import flat

    now = config if run.from_environment else from_stored(dict(config), run.path)
    was, is_now = (flat(with_first_names(without_root(relocated(each)))) for each in (then, now))
    return {
        key: (was.get(key), is_now.get(key))
        for key in {**was, **is_now}
        if was.get(key) != is_now.get(key)
        and not f"{key}.".startswith(tuple(f"{each.rstrip('.')}." for each in NOT_CHANGES))
    }


def _is_fixed(key: str) -> bool:
    """Whether a changed key would make another network, optimizer, data set or stream of random numbers."""
    group, _, rest = key.partition(".")
    if group == "data":
        return rest.partition(".")[0] not in FREE_DATA
    if group == "optim":
        return rest.startswith(("_target_", "groups", "no_decay", "layer_decay"))
    return group in {"model", "seed", "classifier"}
