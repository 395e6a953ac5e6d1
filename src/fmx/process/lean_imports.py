"""Imports that are put off until they are used: torch's compiler, parts of scipy, matplotlib, torchvision.

Libraries import them to ask something small on the way (was this network compiled?), or to use them another day. So
modules stand for them that answer such questions, and make way for the real ones once anything else is asked of them.
"""

import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

__all__ = ["defer_imports"]

ALLOWED_CALLERS = {"torch", "torchvision", "pytorch_lightning", "lightning_fabric", "torchmetrics", "sklearn"}
COMPILER = "torch._dynamo"


def defer_imports() -> None:
    """Have modules stand for those that nothing has imported yet."""
    config = _DeferredModule("torch._inductor.config")  # torch.use_deterministic_algorithms sets an attribute of it
    _defer(
        _DeferredModule(COMPILER, "OptimizedModule", disable=_disable_compiler, graph_break=_do_nothing),
        _DeferredModule("torch._dynamo.utils", "is_compile_supported"),
        _DeferredModule("torch._inductor", config=config),
        config,
    )
    _defer(_DeferredModule("torch.utils.flop_counter", "FlopCounterMode"))
    # For scikit-learn; hamming is what torchmetrics would add to scipy.signal.
    _defer(_DeferredModule("scipy.interpolate", "BSpline"))
    _defer(_DeferredModule("scipy.optimize", "linear_sum_assignment"))
    _defer(_DeferredModule("scipy.signal", hamming=_stand_in("scipy.signal.windows", "hamming")))
    _defer(_DeferredModule("scipy.stats", "rankdata"))
    # What torchmetrics would plot its metrics and judge images with.
    axes, colors = _DeferredModule("matplotlib.axes", "Axes"), _DeferredModule("matplotlib.colors", "Colormap")
    pyplot = _DeferredModule("matplotlib.pyplot", "Figure", style=SimpleNamespace(context=_style_context))
    _defer(_DeferredModule("matplotlib", axes=axes, colors=colors, pyplot=pyplot), axes, colors, pyplot)
    transforms = _DeferredModule("torchvision.transforms")
    models = _DeferredModule("torchvision.models", "resnet50", "vgg16", "VGG16_Weights")
    _defer(_DeferredModule("torchvision", transforms=transforms, models=models), transforms, models)


class _DeferredModule(ModuleType):
    """A module that has some answers, until it and those that are put off with it are imported in earnest.

    later: its classes and functions that can be asked for, but not used, before that. answers: what else can.
    """

    def __init__(self, name: str, *later: str, **answers: object) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # for importlib.util.find_spec: there is such a module
        self.answers = {each: _stand_in(name, each) for each in later} | answers
        self.group: tuple[_DeferredModule, ...] = ()
        self.own = {*self.__dict__, "own"}

    def __getattr__(self, name: str) -> Any:
        caller = sys._getframe(1).f_globals  # noqa: SLF001
        if name in self.answers and caller.get("__name__", "").partition(".")[0] in ALLOWED_CALLERS:
            return self.answers[name]
        submodule = name == "__path__" and caller is vars(importlib._bootstrap)  # noqa: SLF001 - which looks for one
        if name.startswith("__") and not submodule and name != "__version__":
            # Asked for by `from … import`, or by who looks through all modules.
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module = _import_real(self.__name__)
        if not submodule and not hasattr(module, name):  # `from package import module`, which nothing imported before
            with suppress(ModuleNotFoundError):
                importlib.import_module(f"{self.__name__}.{name}")
        return getattr(module, name)


def _defer(*modules: _DeferredModule) -> None:
    if not {module.__name__ for module in modules} & sys.modules.keys():
        for module in modules:
            module.group = modules
            sys.modules[module.__name__] = module


def _import_real(name: str) -> Any:
    """The module of that name, imported in earnest; what was set where it was put off, holds."""
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
    """The module of that name if it was imported in earnest, else None."""
    module = sys.modules.get(name)
    return None if isinstance(module, _DeferredModule) else module


class _StandIn(type):
    """Stands for a class or function of a module that is put off: nothing is its instance before that is there."""

    def __instancecheck__(cls, instance: object) -> bool:
        module = _real_module(cls.__module__)
        return module is not None and isinstance(instance, getattr(module, cls.__name__, ()))

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.real(), name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.real()(*args, **kwargs)

    def real(cls) -> Any:
        """What it stands for, imported in earnest."""
        return getattr(_import_real(cls.__module__), cls.__name__)


def _stand_in(module: str, name: str) -> type:
    return _StandIn(name, (), {"__module__": module})


def _do_nothing(*_: object, **__: object) -> None:
    """Do nothing."""


@contextmanager
def _style_context(*args: Any, **kwargs: Any) -> Iterator[None]:
    """A style of matplotlib's for what is drawn, which is also asked for when a function is defined."""
    with _import_real("matplotlib.style").context(*args, **kwargs):
        yield


def _disable_compiler(fn: Any = None, recursive: bool = True, **options: Any) -> Any:  # noqa: FBT002 - torch's own
    """Have the compiler leave a function alone, once there is one."""
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
