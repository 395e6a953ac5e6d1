"""What `-m` uses by itself. Hydra imports this file at every start, so it imports nothing but Hydra."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

__all__ = ["ProductSweeper"]


class ProductSweeper(BasicSweeper):
    """Hydra's basic sweeper, except that no job is composed twice."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Leave it to fmx's launchers, which compose and check every job before the first one starts."""
        if not type(self.launcher).__module__.startswith("hydra_plugins.fmx_"):
            super().validate_batch_is_legal(batch)
