"""Compose many configurations that differ in few values."""

from collections.abc import Callable, Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fmx.compat import set_overrides, value_test

__all__ = ["Composer"]


class Composer:
    """Composes jobs from a sweep's master configuration, each equal to what Hydra by itself composes.

    Hydra reads the YAML files once for each choice among the groups; the values are then set in that configuration.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._parser = OverridesParser.create(config_loader=loader)
        self._is_value = value_test(loader, master)
        self._parsed: dict[str, Override] = {}
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._undo: Callable[[], None] | None = None  # takes back the values of the last job

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of a job until the next call, which may change it; Hydra's own errors for its overrides."""
        try:
            config = self._with_values(overrides)
        except (HydraException, OmegaConfBaseException):
            config = None  # Hydra says better what is wrong
        return self._by_hydra(overrides) if config is None else config

    def _by_hydra(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self._master, list(overrides))

    def _with_values(self, overrides: Sequence[str]) -> DictConfig | None:
        """The configuration with the values set; None where only Hydra can compose it."""
        if self._undo is not None:
            self._undo()
            self._undo = None
        parsed = [self._parse(each) for each in overrides]
        if self._is_value is None or any(each.is_sweep_override() or each.is_hydra_override() for each in parsed):
            return None
        choices = tuple(text for text, each in zip(overrides, parsed, strict=True) if not self._is_value(each))
        if choices not in self._composed:
            self._composed[choices] = self._by_hydra(choices)
        config = self._composed[choices]
        self._undo = set_overrides(config, [each for each in parsed if self._is_value(each)], written=parsed)
        return config

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            self._parsed[text] = self._parser.parse_override(text)
        return self._parsed[text]
