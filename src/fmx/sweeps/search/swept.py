"""Overrides that have a distribution, with their tags."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import Override, Sweep

from fmx.errors import ConfigError

__all__ = ["LOG", "Swept", "plain_key", "read_swept"]

LOG = "log"  # the one tag that is no condition: a logarithmic scale


def plain_key(key: str) -> str:
    """A key of an override without the sign that adds or removes it."""
    return key.lstrip("+~")


@dataclass(frozen=True)
class Swept:
    """An override with a distribution. tags: of the choices with which it is sought; none: in every trial."""

    override: Override
    tags: tuple[str, ...]
    is_log: bool

    @property
    def line(self) -> str:
        """The override as it was typed."""
        return str(self.override.input_line)

    @property
    def key(self) -> str:
        """The key, without the sign that adds it."""
        return plain_key(self.override.get_key_element())

    @property
    def choices(self) -> list[str] | None:
        """Its choices as texts; None for an interval or a range."""
        return list(dict.fromkeys(self.override.sweep_string_iterator())) if self.override.is_choice_sweep() else None


def read_swept(override: Override, tags: Sequence[str]) -> Swept:
    """An override with its own tags and these, which an experiment file gives."""
    value = override.value() if override.is_sweep_override() else None
    own = sorted(value.tags - {LOG}) if isinstance(value, Sweep) else []
    if str(override.input_line).count("tag(") > 1:  # Hydra would forget the inner tags
        raise ConfigError(f"{override.input_line}: write all tags in one: tag(log,sgd,interval(A,B))")
    return Swept(override, (*own, *tags), is_log=isinstance(value, Sweep) and LOG in value.tags)
