"""Hydra's default sweeper for `-m`: every combination of the values."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn

from fmx.errors import ConfigError, Refusal

__all__ = ["ProductSweeper"]


class ProductSweeper(BasicSweeper):
    """Hydra's basic sweeper in a single batch, since fmx's launchers check all jobs before the first one starts."""

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Launch all combinations of the values in `arguments`."""
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        if self.max_batch_size is not None:  # later batches would be checked late, and be missing from the ledger
            raise Refusal(
                ConfigError("hydra.sweeper.max_batch_size is not for sweeps of fmx: hydra.launcher.workers=N")
            )
        batches = self.split_arguments(overrides, None)
        return [self.launcher.launch(batch, initial_job_idx=0) for batch in batches]
