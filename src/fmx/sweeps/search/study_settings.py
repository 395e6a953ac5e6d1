"""The settings that all commands of a study share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmx.config.printed_command import printed_command
from fmx.config.quoting import override
from fmx.errors import ConfigError, DataError
from fmx.runs.data_root import KEY
from fmx.sweeps.ledger import JOURNAL
from fmx.sweeps.search.options import Options
from fmx.sweeps.search.space import Space

__all__ = ["check_same", "settings_of"]


def settings_of(options: Options, space: Space, fixed: Mapping[str, str]) -> dict[str, Any]:
    """The settings that all commands of a study must share: everything except how long they search."""
    return {
        "metric": [each.metric for each in options.objectives],
        "direction": [each.direction for each in options.objectives],
        "distribution": space.description(),
        "override": {key: text for key, text in fixed.items() if key != KEY},  # the data may be moved
        **{name: getattr(options, name) for name in ("sampler", "seed", "startup", "pruning", "warmup", "reduction")},
        "seeds": options.seeds,
        "folds": options.folds,
    }


def check_same(sweep_dir: Path, known: object, wanted: Mapping[str, Any]) -> None:
    """ConfigError if the study in a directory has other settings; DataError if it has none."""
    if not isinstance(known, Mapping) or not isinstance(known.get("override") or {}, Mapping):
        raise DataError(f"{sweep_dir / JOURNAL} has no valid settings of its search")
    if _without_root(known) != wanted:
        raise ConfigError(_difference(sweep_dir, known, wanted))


def _without_root(known: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a study without data.root, which earlier versions included, and with those that they lacked."""
    overrides = known.get("override")
    known = {"seeds": 1, "folds": None, **known}
    return {**known, "override": {key: text for key, text in overrides.items() if key != KEY}} if overrides else known


def _difference(sweep_dir: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Describe the first difference between the study in a directory and the wanted settings."""
    then, now = _flatten(_without_root(known)), _flatten(wanted)
    key = next(key for key in [*now, *then] if then.get(key) != now.get(key))
    is_space = key in wanted["distribution"]
    single = known.get("seeds", 1) == 1 and known.get("folds") is None  # hydra.sweeper.from_study takes no others over
    from_study = printed_command(override("hydra.sweeper.from_study", sweep_dir))
    taken_over = f", and take its trials over: {from_study}" if is_space and single else ""
    was, is_now = (flat.get(key, "not given") for flat in (then, now))
    return (
        f"the search in {sweep_dir} is another one, so its trials do not compare: {key} was {was} and is {is_now} now. "
        f"Repeat its command, or name another folder with hydra.sweep.dir=DIR{taken_over}"
    )


def _flatten(settings: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {str(key): str(child) for key, child in value.items()}
        else:
            flat[f"hydra.sweeper.{name}"] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat
