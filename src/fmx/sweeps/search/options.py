"""The checked settings of a search, from `hydra.sweeper`."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from fmx.config.printed_command import printed_command
from fmx.config.rules import Rule, above, one_of, whole
from fmx.config.suggest import nearest
from fmx.errors import ConfigError

__all__ = ["RESOURCES", "Objective", "Options", "read_options", "require_optuna"]

SAMPLERS = ["tpe", "random", "grid", "cmaes"]
RANKS = ["mean", "confidence_bound"]
PRUNINGS = ["median", "asha", "hyperband", "none"]
Direction = Literal["maximize", "minimize"]
RESOURCES = ["params", "seconds"]  # of a run, which a search can optimize besides its metrics
RULES: Mapping[str, Rule] = {
    "n_trials": whole(1, or_none=True),
    "timeout_s": above(0, or_none=True),
    "seed": whole(0),
    "startup": whole(1),
    "warmup": whole(1),
    "reduction": whole(2),
    "seeds": whole(1, 1000),
    "folds": whole(2, 1000, or_none=True),
}
KEYS = ["params", "metric", "direction", "sampler", "n_trials", "timeout_s", "seed", "startup", "pruning", "warmup"]
KEYS += ["reduction", "from_study", "seeds", "folds", "rank"]


@dataclass(frozen=True)
class Objective:
    """A metric to optimize, and the direction."""

    metric: str
    direction: Direction


@dataclass(frozen=True)
class Options:
    """The settings of one search."""

    objectives: tuple[Objective, ...]
    sampler: str
    pruning: str
    n_trials: int | None
    timeout_s: float | None
    seed: int
    startup: int
    warmup: int
    reduction: int
    seeds: int = 1
    folds: int | None = None
    rank: str = "mean"

    @property
    def runs_per_trial(self) -> int:
        """How many runs a trial has: as many as seeds, or folds, or the product."""
        return self.seeds * (self.folds or 1)

    @property
    def goal(self) -> str:
        """The objectives in words."""
        ranked = "" if self.rank == "mean" else ", ranked by the worse end of its 95 % interval"
        return ", ".join(f"{each.metric} {each.direction}d" for each in self.objectives) + ranked


def require_optuna() -> None:
    """ConfigError with the install command if Optuna is missing."""
    if find_spec("optuna") is None:
        how = printed_command("pip", "install", "optuna>=5,<6", "cmaes")
        raise ConfigError(f"hydra/sweeper=search needs Optuna, which is not installed: {how}")


def read_options(sweeper: Mapping[str, Any], logged: Collection[str]) -> Options:
    """Check the plain values of `hydra.sweeper`; ConfigError for the first that is wrong.

    logged: the metrics that a run logs at its validations.
    """
    for key in sweeper:
        if key not in {*KEYS, "_target_", "mode"}:
            raise ConfigError(f"hydra.sweeper has no key {key!r}{nearest(key, KEYS)} Keys: {', '.join(KEYS)}")
    sampler = _named(sweeper, "sampler", SAMPLERS)
    pruning = _named(sweeper, "pruning", PRUNINGS)
    if sampler == "cmaes" and find_spec("cmaes") is None:
        how = printed_command("pip", "install", "cmaes")
        raise ConfigError(f"hydra.sweeper.sampler=cmaes needs a package that is missing: {how}")
    for key, rule in RULES.items():
        if not rule.holds(sweeper[key]):
            raise ConfigError(f"hydra.sweeper.{key} must be {rule.expected}, got {_shown(sweeper[key])}")
    if sweeper["n_trials"] is None and sweeper["timeout_s"] is None and sampler != "grid":
        raise ConfigError(
            "the search would never end: give hydra.sweeper.n_trials=COUNT or hydra.sweeper.timeout_s=SECONDS"
        )
    _check_earlier(sweeper["from_study"])
    objectives = _objectives(sweeper, logged)
    if len(objectives) > 1 and pruning != "none":
        raise ConfigError(
            f"hydra.sweeper.pruning={pruning} judges trials by one metric, but hydra.sweeper.metric names "
            f"{len(objectives)}; use hydra.sweeper.pruning=none, or one metric"
        )
    if len(objectives) > 1 and sampler == "cmaes":
        raise ConfigError(
            "hydra.sweeper.sampler=cmaes optimizes a single metric; for several use hydra.sweeper.sampler=tpe"
        )
    if pruning != "none" and objectives[0].metric in RESOURCES:
        raise ConfigError(
            f"hydra.sweeper.pruning={pruning} follows a metric of the validations, and {objectives[0].metric} is none; "
            "use hydra.sweeper.pruning=none"
        )
    options = Options(
        objectives=objectives,
        sampler=sampler,
        pruning=pruning,
        rank=_named(sweeper, "rank", RANKS),
        **{key: sweeper[key] for key in RULES},
    )
    _check_rank(options)
    return options


def _check_rank(options: Options) -> None:
    if options.rank == "mean":
        return
    if options.runs_per_trial == 1:
        raise ConfigError(
            f"hydra.sweeper.rank={options.rank} needs several runs per trial, for a single one has no interval: add "
            "hydra.sweeper.seeds=3, or hydra.sweeper.folds=5"
        )
    if len(options.objectives) > 1:
        raise ConfigError(
            f"hydra.sweeper.rank={options.rank} ranks by one metric, but hydra.sweeper.metric names "
            f"{len(options.objectives)}; use hydra.sweeper.rank=mean, or one metric"
        )


def _check_earlier(named: object) -> None:
    for path in [] if named is None else named if isinstance(named, list) else [named]:
        if not isinstance(path, str) or not path:
            raise ConfigError(f"hydra.sweeper.from_study must be the directory of a search, or a list, got {path!r}")


def _named(sweeper: Mapping[str, Any], key: str, choices: list[str]) -> str:
    """The value of a key that must be one of `choices`; null stands for `none`."""
    value = "none" if sweeper[key] is None and "none" in choices else sweeper[key]
    if not one_of(*choices).holds(value):
        raise ConfigError(
            f"hydra.sweeper.{key}={_shown(value)}: there is no {key} {_shown(value)}"
            f"{nearest(str(value), choices)} Choices: {', '.join(choices)}"
        )
    return str(value)


def _objectives(sweeper: Mapping[str, Any], logged: Collection[str]) -> tuple[Objective, ...]:
    metrics = sweeper["metric"] if isinstance(sweeper["metric"], list) else [sweeper["metric"]]
    if not metrics:
        raise ConfigError("hydra.sweeper.metric must name a metric, for example val/accuracy")
    for metric in metrics:
        _check_metric(metric, logged)
    if len(set(metrics)) < len(metrics):
        raise ConfigError(f"hydra.sweeper.metric names a metric twice: {', '.join(metrics)}")
    given = sweeper["direction"]
    if given == "auto":
        given = ["auto"] * len(metrics)
    directions = given if isinstance(given, list) else [given]
    for direction in directions:
        if not one_of("maximize", "minimize", "auto").holds(direction):
            raise ConfigError(f"hydra.sweeper.direction must be maximize, minimize or auto, got {_shown(direction)}")
    if len(directions) != len(metrics):
        raise ConfigError(
            f"hydra.sweeper.direction must have one entry for each of the {len(metrics)} metrics, got "
            f"{len(directions)}: 'hydra.sweeper.direction=[maximize,minimize]'"
        )
    return tuple(
        Objective(metric, _natural_direction(metric) if direction == "auto" else direction)
        for metric, direction in zip(metrics, directions, strict=True)
    )


def _check_metric(metric: object, logged: Collection[str]) -> None:
    if isinstance(metric, str) and metric.startswith("test"):
        raise ConfigError(
            f"hydra.sweeper.metric={metric}: a configuration that was chosen by the test set "
            f"cannot be evaluated on it; use {metric.replace('test', 'val', 1)}"
        )
    known = [*logged, *RESOURCES]
    if metric not in known:
        raise ConfigError(
            f"hydra.sweeper.metric={_shown(metric)}: there is no metric {_shown(metric)}{nearest(str(metric), known)} "
            f"Metrics: {', '.join(known)}"
        )


def _natural_direction(metric: str) -> Direction:
    return "minimize" if metric in RESOURCES or metric.endswith("loss") else "maximize"


def _shown(value: object) -> str:
    return "null" if value is None else repr(value)
