"""What `-m` uses by itself. Hydra imports this file at every start, so it imports nothing but Hydra."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore

__all__ = ["ProductSweeper"]


class ProductSweeper(BasicSweeper):
    """Hydra's basic sweeper, except that no job is composed twice."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Leave it to fmx's launchers, which compose and check every job before the first one starts."""
        if not type(self.launcher).__module__.startswith("hydra_plugins.fmx_"):
            super().validate_batch_is_legal(batch)


@dataclass
class _ProductConf(BasicSweeperConf):
    _target_: str = f"{__name__}.{ProductSweeper.__name__}"


# Under Hydra's own name: an `override hydra/sweeper` in conf/config.yaml would beat those of experiment files.
ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=_ProductConf, provider="fmx")
