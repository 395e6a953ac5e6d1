"""Hydra's default sweeper for `-m`: every combination of the values."""

from collections.abc import Mapping, Sequence
from itertools import product

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fmx.errors import ConfigError, Refusal

__all__ = ["ProductSweeper"]


class ProductSweeper(Sweeper):
    """Sweeps like Hydra's basic sweeper, in a single batch: fmx's launchers check all jobs before the first starts.

    params: values to sweep over, by key, besides those of the command line.
    """

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, str] | None = None) -> None:
        self.max_batch_size = max_batch_size
        self.params = params or {}
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the context and configuration, and create the launcher."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Launch all combinations of the values in `arguments`."""
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        swept = [f"{key}={values}" for key, values in self.params.items()]
        overrides = parser.parse_overrides([*swept, *arguments])
        if self.max_batch_size is not None:  # later batches would be checked late, and be missing from the ledger
            raise Refusal(
                ConfigError("hydra.sweeper.max_batch_size is not for sweeps of fmx: hydra.launcher.workers=N")
            )
        values = {override.get_key_element(): _values(override) for override in overrides}  # the last one of a key wins
        return [self.launcher.launch([list(job) for job in product(*values.values())], initial_job_idx=0)]


def _values(override: Override) -> list[str]:
    """The overrides `key=value` that an override of the command line stands for."""
    key = override.get_key_element()
    if override.is_discrete_sweep() and isinstance(value := override.value(), Sweep) and value.tags:
        tags = ", ".join(sorted(value.tags))
        raise Refusal(
            ConfigError(
                f"{override.input_line}: this sweep knows no tags ({tags}): add hydra/sweeper=search, where "
                "hydra.sweeper.sampler=grid hydra.sweeper.n_trials=null runs every combination"
            )
        )
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        assert override.value_type is not None
        raise HydraException(f"BasicSweeper does not support sweep type : {override.value_type.name}")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
