"""The dry run of a search: its distributions, the trials that are known beforehand, their number and disk space."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from fmx.sweeps.disk import REST_BYTES, in_words, runs_in_words
from fmx.sweeps.search.options import Options
from fmx.sweeps.search.repeats import in_a_sweep
from fmx.sweeps.search.samplers import draw_value, make_sampler
from fmx.sweeps.search.space import Space

__all__ = ["disk_in_words", "preview"]

log = logging.getLogger(__name__)


def disk_in_words(
    sweep_dir: Path,
    options: Options,
    space: Space,
    *,
    known: Sequence[FrozenTrial],
    num_begun: int,
    largest: int,
    keep: int | None,
) -> str:
    """Describe the disk space that the trials take which have not begun yet.

    known: trials of earlier studies, which are not run. num_begun: trials that the study has already. largest: bytes
    of a run's checkpoints, at most. keep: sweep.keep_checkpoints.
    """
    total = _num_trials(options, space, known)
    if total is None:
        return f"each run at most {in_words(largest + REST_BYTES, sweep_dir)}"
    each = options.runs_per_trial
    return f"at most {runs_in_words([largest] * max(0, total - num_begun) * each, sweep_dir, keep=keep, of_each=each)}"


def _num_trials(options: Options, space: Space, known: Sequence[FrozenTrial]) -> int | None:
    total = options.n_trials
    if options.sampler != "grid":
        return total
    points = space.num_points - len({frozenset(trial.params.items()) for trial in known})
    return points if total is None else min(total, points)


def preview(
    sweep_dir: Path,
    options: Options,
    space: Space,
    *,
    known: Sequence[FrozenTrial],
    num_begun: int,
    disk: str,
    runs: Sequence[Sequence[str]],
) -> None:
    """Log what would be drawn.

    known: trials of earlier studies, which come first. num_begun: trials that the study has already. disk: a text on
    the disk space that all trials take. runs: the overrides of each run of a trial.
    """
    for key, described in space.description().items():
        log.info("%s from %s", key, described)
    total = _num_trials(options, space, known)
    first_trials = _first_trials(options, space, total, known)
    seen: dict[tuple[str, ...], int] = {}
    for number, drawn in enumerate(first_trials, len(known)):
        first = seen.setdefault(tuple(drawn), number)
        same = f" · the same as trial {first}" if first != number else ""
        if number - len(known) >= num_begun:
            log.info("trial %d: %s%s", number, " ".join(drawn), same)
    num_equal = len(first_trials) - len(seen)
    if total is None:
        log.info("trials until %g s have passed", options.timeout_s or 0)
        log.info("%s · %s", disk, sweep_dir)
        return
    if len(runs) > 1:
        log.info("each trial is the mean of %d runs: %s", len(runs), " ".join(in_a_sweep(runs)))
    left = max(0, total - max(num_begun, len(first_trials)))
    parts = [f"{total} trials by {options.sampler}"]
    parts += [f"{num_begun} of them begun already"] if num_begun else []
    parts += [f"{num_equal} equal to others"] if num_equal else []
    parts += [f"{left} to be drawn from earlier results"] if left else []
    log.info("%s", ", ".join(parts))
    log.info("%s · %s", disk, sweep_dir)


def _first_trials(options: Options, space: Space, total: int | None, known: Sequence[FrozenTrial]) -> list[list[str]]:
    """The overrides of the first trials, as far as they depend on the seed alone."""
    random = max(0, options.startup - len(known))
    count = total if options.sampler in {"grid", "random"} else min(random, total or random)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=[each.direction for each in options.objectives])
    study.add_trials(known)
    drawn = []
    for number in range(len(known), len(known) + (count or 0)):
        study.sampler = make_sampler(
            options.sampler,
            space,
            seed=options.seed,
            number=number,
            startup=max(options.startup, number + 1),
            trials=study.get_trials(deepcopy=False),
        )
        trial = study.ask()
        drawn.append(space.overrides(space.draw(partial(draw_value, trial))))
    return drawn
