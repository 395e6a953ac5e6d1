"""Restore what a command changes in a process that lives on: a notebook's kernel, a script, a debugger."""

import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from fmx.compat import preserve_log_handlers
from fmx.process.lock import release_locks

__all__ = ["preserve_process_state"]


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restore the process's state at the end of the block.

    Restored: environment, arguments, import path, working directory, loggers, warning filters, random states, torch's
    switches and threads, Hydra's globals, locks on run directories. Not restored: imported modules, OmegaConf's
    resolvers.
    """
    with ExitStack() as undo:
        undo.callback(_restore_lists, sys.argv, [*sys.argv])
        undo.callback(_restore_lists, sys.path, [*sys.path])
        undo.callback(_restore_environment, dict(os.environ))
        undo.callback(os.chdir, os.getcwd())  # noqa: PTH109 - links unresolved
        undo.enter_context(warnings.catch_warnings())
        undo.enter_context(release_locks())
        undo.enter_context(_preserve_loggers())
        undo.enter_context(_preserve_random_states())
        undo.enter_context(_preserve_torch())
        undo.enter_context(_preserve_hydra())
        yield


def _restore_lists(current: list[str], before: list[str]) -> None:
    current[:] = before


def _restore_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


@contextmanager
def _preserve_loggers() -> Iterator[None]:
    """Restore levels and handlers of all loggers, and close added handlers such as that of run.log."""
    loggers = {"": logging.getLogger(), **_named_loggers()}
    before = {name: (logger.level, logger.propagate, [*logger.handlers]) for name, logger in loggers.items()}
    try:
        with preserve_log_handlers():
            yield
    finally:
        for name, logger in {"": logging.getLogger(), **_named_loggers()}.items():
            level, propagate, handlers = before.get(name, (logging.NOTSET, True, []))
            for handler in set(logger.handlers) - set(handlers):
                handler.close()
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate


def _named_loggers() -> dict[str, logging.Logger]:
    loggers = logging.root.manager.loggerDict
    return {name: logger for name, logger in loggers.items() if isinstance(logger, logging.Logger)}


@contextmanager
def _preserve_random_states() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch; reseed those of modules that the block imported."""
    python, numpy, torch = random.getstate(), sys.modules.get("numpy"), sys.modules.get("torch")
    legacy = numpy.random.get_state() if numpy else None
    cpu = torch.get_rng_state() if torch else None
    gpus = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        if after := sys.modules.get("numpy"):
            after.random.seed() if legacy is None else after.random.set_state(legacy)
        if after := sys.modules.get("torch"):
            after.seed() if cpu is None else after.set_rng_state(cpu)
            if gpus is not None:
                after.cuda.set_rng_state_all(gpus)


@contextmanager
def _preserve_torch() -> Iterator[None]:
    torch = sys.modules.get("torch")
    before = [value for _, value in _torch_settings(torch)] if torch else AT_IMPORT
    try:
        yield
    finally:
        if torch := sys.modules.get("torch"):
            for (setter, present), value in zip(_torch_settings(torch), before, strict=True):
                if value not in {None, present}:
                    setter(value)


def _torch_settings(torch: Any) -> list[tuple[Callable[[Any], None], Any]]:
    """The setter and the present value of each setting that Lightning's Trainer, fmx or a part of a run may change."""
    cudnn, deterministic = torch.backends.cudnn, torch.utils.deterministic
    algorithms = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    return [
        (lambda how: torch.use_deterministic_algorithms(how[0], warn_only=how[1]), algorithms),
        (partial(setattr, deterministic, "fill_uninitialized_memory"), deterministic.fill_uninitialized_memory),
        (partial(setattr, cudnn, "benchmark"), cudnn.benchmark),
        (partial(setattr, cudnn, "deterministic"), cudnn.deterministic),
        (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()),
        (torch.set_default_dtype, torch.get_default_dtype()),
        (torch.multiprocessing.set_sharing_strategy, torch.multiprocessing.get_sharing_strategy()),
        (torch.set_num_threads, torch.get_num_threads()),
    ]


# Values of these settings after torch's import; None where the machine decides.
AT_IMPORT = [(False, False), True, False, False, "highest", None, None, None]


@contextmanager
def _preserve_hydra() -> Iterator[None]:
    """Clear Hydra's globals, since Hydra refuses to start after `hydra.initialize`, and restore them."""
    initialized, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = initialized
        HydraConfig.instance().cfg = config
