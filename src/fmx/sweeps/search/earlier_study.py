"""The trials of an earlier study that a search takes over: those that its own command would have trained just so.

The earlier study is read only, and its files are data: nothing that they name is composed, imported or made.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import FrozenTrial, TrialState, create_trial

from fmx.config.bounded_files import read_yaml
from fmx.config.from_environment import to_stored
from fmx.config.frozen import relocated
from fmx.config.renamed_targets import with_first_names
from fmx.errors import ConfigError, DataError, FmxError
from fmx.process.table import printable
from fmx.runs.data_root import without_root
from fmx.runs.resume import choices_of
from fmx.runs.run_dir import open_run
from fmx.runs.settings import flat, show
from fmx.sweeps.gate import check_sweep_dir
from fmx.sweeps.preparation import Preparation
from fmx.sweeps.search.space import Parameter, Space, by_key
from fmx.sweeps.search.study import FROM, JOURNAL, SETTINGS, recorded_study
from fmx.sweeps.search.swept import plain_key

__all__ = ["Earlier", "read_earlier"]

log = logging.getLogger(__name__)
MAX_TRIALS = 10_000
NAMED = 3  # differing keys that an error names
# Settings of a search with which a trial's values do not change; those that do are in its configuration.
FREE = {"distribution", "override", "sampler", "seed", "startup", "pruning", "warmup", "reduction"}
FREE_KEYS = ("run_dir", "resume", "sweep.", "callbacks.pruning.")
ENDED = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "interrupted"}


@dataclass(frozen=True)
class Earlier:
    """What was read from an earlier study. trials: those that fit. unfit: the number of others by reason."""

    path: Path
    trials: Sequence[FrozenTrial]
    unfit: Mapping[str, int]

    def log(self) -> None:
        """Log how many trials fit, and why the others do not; a warning where none does."""
        fit, total = len(self.trials), len(self.trials) + sum(self.unfit.values())
        if fit:
            how = "fits, and is taken over" if fit == 1 else "fit, and are taken over"
            log.info("%d of %d trials of %s %s; what was run there is not run again", fit, total, self.path, how)
        else:
            log.warning("none of the %d trials of %s fits: the search begins without any", total, self.path)
        for reason, count in self.unfit.items():
            log.info("%d %s not fit: %s", count, "does" if count == 1 else "do", reason)


class _UnfitError(Exception):
    """Why one trial does not fit."""


def read_earlier(
    path: Path, wanted: Mapping[str, Any], space: Space, compose: Callable[[list[str]], DictConfig]
) -> Earlier:
    """Read the study in a directory.

    wanted: the settings of this search. compose: its configuration with further overrides. ConfigError where metric,
    direction or a fixed setting differs, so that values would not compare.
    """
    if not (path / JOURNAL).is_file():
        raise ConfigError(f"hydra.sweeper.from_study={path} is not the directory of a search: it has no {JOURNAL}")
    check_sweep_dir(path)
    study = recorded_study(path)
    trials = study.get_trials(deepcopy=False)
    if len(trials) > MAX_TRIALS:
        raise DataError(f"{path / JOURNAL} has {len(trials):,} trials; a search takes over {MAX_TRIALS:,} at most")
    _check_settings(path, study.user_attrs[SETTINGS], wanted)
    fitting, unfit = [], Counter[str]()
    with Preparation(
        f"comparing the {len(trials)} trials of {path} with this search", len(trials), log.info
    ) as progress:
        for trial in trials:
            try:
                fitting.append(_as_ours(trial, path, space, compose))
            except _UnfitError as reason:
                unfit[str(reason)] += 1
            progress.advance()
    return Earlier(path, fitting, unfit)


def _check_settings(path: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    known = {"seeds": 1, "folds": None, **known}  # absent from studies of earlier versions
    for name in [*wanted, *known]:
        if name not in FREE and known.get(name) != wanted.get(name):
            was, now = (printable(show(each.get(name)))[:80] for each in (known, wanted))
            raise ConfigError(_incomparable(path, f"hydra.sweeper.{printable(name)[:80]} was {was} and is {now} here"))


def _incomparable(path: Path, why: str) -> str:
    return f"the values of {path} do not compare with those of this search: {why}. Leave hydra.sweeper.from_study out"


def _as_ours(trial: FrozenTrial, path: Path, space: Space, compose: Callable[[list[str]], DictConfig]) -> FrozenTrial:
    """A trial of an earlier study as one of this search."""
    run_dir = path / str(trial.number)
    if trial.state not in ENDED:
        raise _UnfitError("failed" if trial.state == TrialState.FAIL else "has not ended")
    if FROM in trial.user_attrs:
        raise _UnfitError("is of another study itself, which from_study=[DIR,OTHER] may name too")
    try:
        run = open_run(run_dir, finished=False)
        stored = read_yaml(run_dir / ".hydra" / "resolved.yaml")
    except DataError:
        raise _UnfitError("its run is missing or damaged") from None
    if run.status != ENDED[trial.state]:
        raise _UnfitError(f"its run is {printable(run.status)}")
    drawn = {plain_key(key): value for key, value in by_key(trial.params).items()}
    choices = choices_of(run_dir)
    values = space.draw(lambda each: _value(each, drawn, choices, stored))
    try:
        config = compose(space.overrides(values))
    except (FmxError, HydraException, OmegaConfBaseException) as error:
        raise _UnfitError("this search cannot have its values together") from error
    _check_same(trial, path, drawn, stored, config)
    try:
        ours = create_trial(
            state=trial.state,
            values=trial.values if trial.state == TrialState.COMPLETE else None,
            params=values,
            distributions={name: space.distributions[name] for name in values},
            intermediate_values=trial.intermediate_values,
            user_attrs={FROM: {"study": str(path), "trial": trial.number}},
        )
    except ValueError:  # between the steps of a range
        raise _UnfitError("a value is between the steps of its range") from None
    ours.datetime_start, ours.datetime_complete = trial.datetime_start, trial.datetime_complete
    return ours


def _value(
    parameter: Parameter, drawn: Mapping[str, Any], choices: Mapping[str, str], stored: Mapping[str, Any]
) -> object:
    """The value that a trial has for a parameter of this search, whether it was drawn, fixed or a default."""
    key = plain_key(parameter.key)
    found = drawn[key] if key in drawn else choices[key] if key in choices else _select(stored, key)
    if parameter.is_choice:
        fitting = next((text for text in parameter.corners() if text == found or _is_same(text, found)), None)
    else:
        low, high = parameter.corners()[0], parameter.corners()[-1]
        fitting = found if type(found) in {int, float} and low <= found <= high else None
    if fitting is None:
        raise _UnfitError(f"{key} is not in {parameter.description()}")
    return fitting


def _is_same(text: str, value: object) -> bool:
    """Whether a choice, as a text, is a value, or the text of a list of members."""
    if not isinstance(value, str | int | float | list | dict | None):
        return False
    parsed = OverridesParser.create().parse_override(f"key={text}").value()
    return bool(parsed == value) or str(parsed) == value


def _select(node: object, key: str) -> object:
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _check_same(
    trial: FrozenTrial, path: Path, drawn: Mapping[str, Any], stored: Mapping[str, Any], config: DictConfig
) -> None:
    """_UnfitError where a value that the earlier study drew differs here, ConfigError where one that it fixed does."""
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = trial.number
    was, now = (flat(with_first_names(without_root(relocated(each)))) for each in (stored, to_stored(config)))
    differing = [
        key for key in dict.fromkeys([*now, *was]) if was.get(key) != now.get(key) and not key.startswith(FREE_KEYS)
    ]
    chosen = config.hydra.runtime.choices
    other = [key for key, value in drawn.items() if "." not in key and key in chosen and str(chosen[key]) != value]
    longest_first = sorted(drawn, key=len, reverse=True)  # model.net.width before model
    below = (next((key for key in longest_first if f"{each}.".startswith(f"{key}.")), None) for each in differing)
    for key in [*other, *below]:
        if key is not None:
            raise _UnfitError(f"{printable(key)[:80]} was drawn there, and has another value here")
    if differing:
        named = [f"{printable(key)[:80]} was {_shown(was, key)} and is {_shown(now, key)}" for key in differing[:NAMED]]
        more = f", and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
        raise ConfigError(_incomparable(path, f"in trial {trial.number} {', '.join(named)}{more}"))


def _shown(flat_config: Mapping[str, Any], key: str) -> str:
    return printable(show(flat_config[key]))[:80] if key in flat_config else "not set"
