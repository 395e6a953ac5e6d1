"""Defer imports until first use: torch's compiler and its symbolic algebra, two parts of scipy, matplotlib.

Libraries import these modules only for small questions (was this network compiled?) or for later use. A stand-in
module answers such questions, and is replaced by the real one on any other attribute access. Each is worth at least
0.3 s to the first step (benchmarks/lean_imports.py, docs/performance_notes.md).
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from fmx.compat import is_tested

__all__ = ["defer_imports"]

ALLOWED_CALLERS = {"torch", "torchvision", "pytorch_lightning", "lightning_fabric", "torchmetrics", "sklearn"}
COMPILER = "torch._dynamo"
# What torch's questions about symbolic sizes come to for numbers.
ABOUT_SIZES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("expect_true", "guard_or_false", "guard_or_true", "guard_size_oblivious"), bool),
    "statically_known_true": bool,
    "guarding_hint_or_throw": lambda size: size,
    "has_guarding_hint": lambda _: True,
    "sym_and": lambda *each: all(each),
    "sym_or": lambda *each: any(each),
    "sym_eq": lambda one, other: one == other if isinstance(one, int) else [*one] == [*other],
    "is_nested_int": lambda _: False,
    "guard_int": int,
}


def defer_imports() -> None:
    """Put stand-ins into sys.modules for those modules that are not imported yet; none with untested versions."""
    if not all(map(is_tested, ("torch", "pytorch-lightning", "torchmetrics"))):
        return
    config = _DeferredModule("torch._inductor.config")  # torch.use_deterministic_algorithms sets an attribute of it
    _defer(
        _DeferredModule(COMPILER, "OptimizedModule", disable=_disable_compiler, graph_break=_do_nothing),
        _DeferredModule("torch._dynamo.utils", "is_compile_supported"),
        _DeferredModule("torch._inductor", config=config),
        config,
    )
    # Imported on the meta device, where the sizes of a network's tensors are numbers.
    shapes = "torch.fx.experimental.symbolic_shapes"
    _defer(_DeferredModule(shapes, **{name: _of_numbers(shapes, name, rule) for name, rule in ABOUT_SIZES.items()}))
    _defer(_DeferredModule("sympy", "Basic"))
    # Imported by scikit-learn; torchmetrics adds hamming to scipy.signal.
    _defer(_DeferredModule("scipy.signal", hamming=_stand_in("scipy.signal.windows", "hamming")))
    _defer(_DeferredModule("scipy.stats", "rankdata"))
    # Imported by torchmetrics for plots, which takes classes from it at once, so that a lazy loader would not wait.
    axes, colors = _DeferredModule("matplotlib.axes", "Axes"), _DeferredModule("matplotlib.colors", "Colormap")
    pyplot = _DeferredModule("matplotlib.pyplot", "Figure", style=SimpleNamespace(context=_style_context))
    _defer(_DeferredModule("matplotlib", axes=axes, colors=colors, pyplot=pyplot), axes, colors, pyplot)


class _DeferredModule(ModuleType):
    """A stand-in for a module, until it and the other modules of its group are really imported.

    later: names of classes and functions to provide as `_StandIn`s. answers: other attributes to provide.
    """

    def __init__(self, name: str, *later: str, **answers: object) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # for importlib.util.find_spec
        self.answers = {each: _stand_in(name, each) for each in later} | answers
        self.group: tuple[_DeferredModule, ...] = ()
        self.own = {*self.__dict__, "own"}

    def __getattr__(self, name: str) -> Any:
        caller = _caller_globals()
        if name in self.answers and caller.get("__name__", "").partition(".")[0] in ALLOWED_CALLERS:
            return self.answers[name]
        submodule = name == "__path__" and caller.get("__name__") == "importlib._bootstrap"  # importing a submodule
        if name.startswith("__") and not submodule and name != "__version__":
            # `from … import` and code that inspects all modules look for these.
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module = _import_real(self.__name__)
        if not submodule and not hasattr(module, name):  # `from package import module`
            with suppress(ModuleNotFoundError):
                importlib.import_module(f"{self.__name__}.{name}")
        return getattr(module, name)


def _caller_globals() -> dict[str, Any]:
    """The globals of the code that asked a stand-in for an attribute."""
    frame = inspect.currentframe()
    stand_in = frame.f_back if frame else None
    return stand_in.f_back.f_globals if stand_in and stand_in.f_back else {}


def _defer(*modules: _DeferredModule) -> None:
    if not {module.__name__ for module in modules} & sys.modules.keys():
        for module in modules:
            module.group = modules
            sys.modules[module.__name__] = module


def _import_real(name: str) -> Any:
    """Import the real module, and copy over the attributes that were set on its stand-in."""
    deferred = sys.modules.get(name)
    group = deferred.group if isinstance(deferred, _DeferredModule) else ()
    for each in group:
        sys.modules.pop(each.__name__, None)
    module = importlib.import_module(name)
    for each in group:
        for key in each.__dict__.keys() - each.own:
            setattr(importlib.import_module(each.__name__), key, each.__dict__[key])
    return module


def _real_module(name: str) -> Any:
    """The real module if it is imported, else None."""
    module = sys.modules.get(name)
    return None if isinstance(module, _DeferredModule) else module


class _StandIn(type):
    """Stands for a class or function of a deferred module; nothing is an instance of it before the real import."""

    def __instancecheck__(cls, instance: object) -> bool:
        module = _real_module(cls.__module__)
        return module is not None and isinstance(instance, getattr(module, cls.__name__, ()))

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.real(), name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.real()(*args, **kwargs)

    def real(cls) -> Any:
        """Import and return the real class or function."""
        return getattr(_import_real(cls.__module__), cls.__name__)


def _stand_in(module: str, name: str) -> type:
    return _StandIn(name, (), {"__module__": module})


def _of_numbers(module: str, name: str, rule: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a deferred module that follows a rule for numbers and shapes of them, and is itself otherwise."""

    def function(*args: Any, **kwargs: Any) -> Any:
        if not kwargs and all(map(_is_number_or_shape, args)):
            return rule(*args)
        return getattr(_import_real(module), name)(*args, **kwargs)

    return function


def _is_number_or_shape(value: object) -> bool:
    return type(value) in {bool, int} or (isinstance(value, tuple | list) and all(map(_is_number_or_shape, value)))


def _do_nothing(*_: object, **__: object) -> None:
    """Do nothing."""


@contextmanager
def _style_context(*args: Any, **kwargs: Any) -> Iterator[None]:
    """Matplotlib's style context, which torchmetrics also uses as a decorator at import."""
    with _import_real("matplotlib.style").context(*args, **kwargs):
        yield


def _disable_compiler(fn: Any = None, recursive: bool = True, **options: Any) -> Any:  # noqa: FBT002 - torch's own
    """torch._dynamo.disable, applied at the first call after the compiler is imported."""
    if not isinstance(fn, FunctionType):
        return _import_real(COMPILER).disable(fn, recursive, **options)
    disabled = None

    @functools.wraps(fn)
    def function(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if disabled is None and (compiler := _real_module(COMPILER)) is not None:
            disabled = compiler.disable(fn, recursive, **options)
        return (disabled or fn)(*args, **kwargs)

    return function
