"""The dry run of a search: its distributions, the trials that are known beforehand, their number and disk space."""

import logging
from functools import partial
from pathlib import Path

import optuna

from fmx.sweeps.disk import REST_BYTES, in_words, runs_in_words
from fmx.sweeps.search.options import Options
from fmx.sweeps.search.samplers import draw_value, make_sampler
from fmx.sweeps.search.space import Space

__all__ = ["disk_in_words", "preview"]

log = logging.getLogger(__name__)


def disk_in_words(sweep_dir: Path, options: Options, space: Space, *, largest: int, keep: int | None) -> str:
    """Describe the disk space that all trials take.

    largest: bytes of a trial's checkpoints, at most. keep: sweep.keep_checkpoints.
    """
    total = _num_trials(options, space)
    if total is None:
        return f"each trial at most {in_words(largest + REST_BYTES, sweep_dir)}"
    return f"at most {runs_in_words([largest] * total, sweep_dir, keep=keep)}"


def _num_trials(options: Options, space: Space) -> int | None:
    total = options.n_trials
    return min(total or space.num_points, space.num_points) if options.sampler == "grid" else total


def preview(sweep_dir: Path, options: Options, space: Space, *, num_begun: int, disk: str) -> None:
    """Log what would be drawn.

    num_begun: trials that the study has already. disk: a text on the disk space that all trials take.
    """
    for key, described in space.description().items():
        log.info("%s from %s", key, described)
    total = _num_trials(options, space)
    known = _known_trials(options, space, total)
    seen: dict[tuple[str, ...], int] = {}
    for number, drawn in enumerate(known):
        first = seen.setdefault(tuple(drawn), number)
        same = f" · the same as trial {first}" if first != number else ""
        if number >= num_begun:
            log.info("trial %d: %s%s", number, " ".join(drawn), same)
    num_equal = len(known) - len(seen)
    if total is None:
        log.info("trials until %g s have passed", options.timeout_s or 0)
        log.info("%s · %s", disk, sweep_dir)
        return
    left = max(0, total - max(num_begun, len(known)))
    parts = [f"{total} trials by {options.sampler}"]
    parts += [f"{num_begun} of them begun already"] if num_begun else []
    parts += [f"{num_equal} equal to others"] if num_equal else []
    parts += [f"{left} to be drawn from earlier results"] if left else []
    log.info("%s", ", ".join(parts))
    log.info("%s · %s", disk, sweep_dir)


def _known_trials(options: Options, space: Space, total: int | None) -> list[list[str]]:
    """The overrides of the first trials, as far as they depend on the seed alone."""
    count = total if options.sampler in {"grid", "random"} else min(options.startup, total or options.startup)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=[each.direction for each in options.objectives])
    drawn = []
    for number in range(count or 0):
        study.sampler = make_sampler(
            options.sampler, space, seed=options.seed, number=number, startup=max(options.startup, number + 1)
        )
        trial = study.ask()
        drawn.append(space.overrides(space.draw(partial(draw_value, trial))))
    return drawn
