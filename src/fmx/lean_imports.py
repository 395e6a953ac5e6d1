"""Imports that are put off until they are used: torch's compiler and parts of scipy.

Libraries import them to ask something small on the way (was this network compiled?), or to use them another day. So
modules stand for them that answer such questions, and make way for the real ones once anything else is asked of them.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any

__all__ = ["put_off_imports"]

COMPILER, SIGNAL, STATS = "torch._dynamo", "scipy.signal", "scipy.stats"


def put_off_imports() -> None:
    """Have modules stand for those that nothing has imported yet."""
    config = _PutOff("torch._inductor.config")  # where torch.use_deterministic_algorithms leaves word for the compiler
    _put_off(
        _PutOff(COMPILER, OptimizedModule=_Compiled, disable=_disable, graph_break=lambda *_, **__: None),
        _PutOff(f"{COMPILER}.utils", is_compile_supported=_later(f"{COMPILER}.utils", "is_compile_supported")),
        _PutOff("torch._inductor", config=config),
        config,
    )
    _put_off(_PutOff(SIGNAL, hamming=_later(f"{SIGNAL}.windows", "hamming")))  # which torchmetrics would add to it
    _put_off(_PutOff(STATS, rankdata=_later(STATS, "rankdata")))


class _PutOff(ModuleType):
    """A module that has some answers, until it and those that are put off with it are imported in earnest."""

    def __init__(self, name: str, **answers: object) -> None:
        super().__init__(name)
        self.__dict__.update(answers)
        self.together: tuple[_PutOff, ...] = ()
        self.own = {*self.__dict__, "own"}

    def __getattr__(self, name: str) -> Any:
        importer = vars(importlib._bootstrap)  # noqa: SLF001 - which asks for __path__ to find a submodule
        submodule = name == "__path__" and sys._getframe(1).f_globals is importer  # noqa: SLF001
        if name.startswith("__") and not submodule:  # asked for by `from … import`, or by who looks through all modules
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module = _imported(self.__name__)
        if not submodule and not hasattr(module, name):  # `from package import module`, which nothing imported before
            with suppress(ModuleNotFoundError):
                importlib.import_module(f"{self.__name__}.{name}")
        return getattr(module, name)


def _put_off(*modules: _PutOff) -> None:
    if not {module.__name__ for module in modules} & sys.modules.keys():
        for module in modules:
            module.together = modules
            sys.modules[module.__name__] = module


def _imported(name: str) -> Any:
    """The module of that name, imported in earnest; what was set where it was put off, holds."""
    put_off = sys.modules.get(name)
    together = put_off.together if isinstance(put_off, _PutOff) else ()
    for each in together:
        sys.modules.pop(each.__name__, None)
    module = importlib.import_module(name)
    for each in together:
        for key in each.__dict__.keys() - each.own:
            setattr(importlib.import_module(each.__name__), key, each.__dict__[key])
    return module


def _later(module: str, name: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return getattr(_imported(module), name)(*args, **kwargs)

    return function


def _compiler() -> Any:
    """torch._dynamo if it was imported in earnest, else None."""
    module = sys.modules.get(COMPILER)
    return None if isinstance(module, _PutOff) else module


class _IsCompiled(type):
    def __instancecheck__(cls, instance: object) -> bool:
        compiler = _compiler()
        return compiler is not None and isinstance(instance, compiler.OptimizedModule)


class _Compiled(metaclass=_IsCompiled):
    """What torch.compile makes of a network: nothing is one before the compiler is there."""


def _disable(fn: Any = None, recursive: bool = True, **options: Any) -> Any:  # noqa: FBT002 - torch's own
    """Have the compiler leave a function alone, once there is one."""
    if not isinstance(fn, FunctionType):
        return _imported(COMPILER).disable(fn, recursive, **options)
    disabled = None

    @functools.wraps(fn)
    def function(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if disabled is None and (compiler := _compiler()) is not None:
            disabled = compiler.disable(fn, recursive, **options)
        return (disabled or fn)(*args, **kwargs)

    return function
