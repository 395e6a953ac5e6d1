"""What `-m` uses by itself. Hydra imports this file at every start, so it imports nothing but Hydra."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn

__all__ = ["ProductSweeper"]


class ProductSweeper(BasicSweeper):
    """Hydra's basic sweeper, except that fmx's launchers compose and check all jobs, each once, before it writes."""

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Launch all combinations of what `arguments` sweep over."""
        if not type(self.launcher).__module__.startswith("hydra_plugins.fmx_"):
            returned: list[Sequence[JobReturn]] = super().sweep(arguments)
            return returned
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        if self.max_batch_size is not None:  # a later batch would be checked after hours, and not be in the ledger
            from fmx.errors import ConfigError
            from fmx.exits import Refusal

            raise Refusal(
                ConfigError("hydra.sweeper.max_batch_size is not for sweeps of fmx: hydra.launcher.workers=N")
            )
        batches = self.split_arguments(overrides, None)
        return [self.launcher.launch(batch, initial_job_idx=0) for batch in batches]


@dataclass
class _ProductConf(BasicSweeperConf):
    _target_: str = f"{__name__}.{ProductSweeper.__name__}"


# Under Hydra's own name: an `override hydra/sweeper` in conf/config.yaml would beat those of experiment files.
ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=_ProductConf, provider="fmx")
