"""Register fmx's launchers and sweepers as Hydra plugins of this process alone.

A `hydra_plugins` package would make them plugins of every Hydra application in the environment.
"""

from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
from omegaconf import DictConfig

__all__ = ["use_plugins"]

BASIC = ".BasicSweeper"  # the default of -m, Hydra's own
OWN_PACKAGE = "fmx."
_allowed = Plugins.is_in_toplevel_plugins_module


def use_plugins(config: DictConfig) -> None:
    """Register fmx's launchers and sweepers, so that Hydra can instantiate those of a multirun; safe to repeat.

    With a launcher of fmx, Hydra's basic sweeper is replaced here, since an `override hydra/sweeper` in
    conf/config.yaml would take precedence over those of experiment files.
    """
    from fmx.sweeps.launchers import LocalLauncher, SlurmLauncher
    from fmx.sweeps.product import ProductSweeper
    from fmx.sweeps.search.sweeper import SearchSweeper

    plugins: list[type[Plugin]] = [LocalLauncher, SlurmLauncher, ProductSweeper, SearchSweeper]
    for plugin in plugins:
        Plugins.instance().register(plugin)
    Plugins.is_in_toplevel_plugins_module = staticmethod(_may_hold_plugins)  # type: ignore[assignment, method-assign]
    hydra = config.hydra
    if str(hydra.sweeper.get("_target_")).endswith(BASIC) and hydra.launcher.get("_target_") in map(_name, plugins):
        hydra.sweeper._target_ = _name(ProductSweeper)


def _name(plugin: type[Plugin]) -> str:
    return f"{plugin.__module__}.{plugin.__name__}"


def _may_hold_plugins(target: str) -> bool:
    """Allow fmx's classes as well as `hydra_plugins.`; Hydra 1.3 still requires that a class is registered."""
    return _allowed(target) or target.startswith(OWN_PACKAGE)
