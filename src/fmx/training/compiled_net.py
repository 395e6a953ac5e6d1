"""Training steps of a network as code that torch.compile makes."""

import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmx.errors import ConfigError, TrainingError, first_line

__all__ = ["CompiledNet", "check_compiler"]

log = logging.getLogger(__name__)
CXX = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # what torch takes without the variable CXX
INSTEAD = "or leave out trainer.compile"


class CompiledNet:
    """Runs a network's forward, and the backward that belongs to it, as compiled code in the training steps.

    Nothing of it is part of the network: checkpoints are the same with and without it, and who calls the network
    outside of `step`, as validation and test do, calls it as it is. batch_size: of the steps that are compiled. Each
    other size would be compiled anew, so a smaller batch, as the last of an epoch may be, is not.
    """

    def __init__(self, net: nn.Module, *, batch_size: int) -> None:
        self._net = net
        self.batch_size = batch_size
        self._forward: Callable[..., Any] | None = None  # made by the process that trains
        self._began: float | None = None  # the first step, until the second one begins

    @contextmanager
    def step(self, images: Tensor) -> Iterator[None]:
        """In the block, the network is compiled if the step has `batch_size` images.

        Its call raises TrainingError where torch cannot compile it.
        """
        if len(images) != self.batch_size:
            yield
            return
        if self._forward is None:
            self._began, self._forward = time.perf_counter(), _compiled(self._net)
        elif self._began is not None:  # the backward is compiled where it is called
            log.info("trainer.compile: the first step took %.1f s", time.perf_counter() - self._began)
            self._began = None
        before = vars(self._net).get("forward")
        self._net.forward = self._forward
        try:
            yield
        finally:
            if before is None:
                del self._net.forward
            else:
                self._net.forward = before


def _compiled(net: nn.Module) -> Callable[..., Any]:
    # What earlier trainings of this process compiled counts to torch's limit of variants per function.
    torch.compiler.reset()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA on any machine without
    compiled: Callable[..., Any] = torch.compile(net.forward, dynamic=False)

    def forward(*inputs: Any, **options: Any) -> Any:
        try:
            return compiled(*inputs, **options)
        except Exception as error:
            if not type(error).__module__.startswith("torch."):  # of its compilers; others raise built-in ones
                raise
            cause = getattr(error, "inner_exception", error)
            raise TrainingError(
                f"trainer.compile=true: torch cannot compile {type(net).__name__} "
                f"({type(cause).__name__}: {first_line(cause)}); leave out trainer.compile"
            ) from error

    return forward


def check_compiler(accelerator: str) -> None:
    """ConfigError where torch.compile lacks what it needs: a compiler, Python's headers, a folder for its code."""
    on_gpu = accelerator in {"gpu", "cuda"} or (accelerator == "auto" and torch.cuda.is_available())
    if on_gpu and importlib.util.find_spec("triton") is None:
        raise ConfigError(f"trainer.compile=true needs the package triton on a GPU: install it, {INSTEAD}")
    variable, usual = ("CC", ("gcc", "clang", "cc")) if on_gpu else ("CXX", (CXX,))
    wanted = [os.environ[variable]] if os.environ.get(variable) else usual
    if not any(map(shutil.which, wanted)):
        language = "C" if on_gpu else "C++"
        raise ConfigError(
            f"trainer.compile=true needs a {language} compiler, and PATH has no {' or '.join(wanted)}: install one, as "
            f"in `apt install g++`, name another one in {variable}, {INSTEAD}"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise ConfigError(
            f"trainer.compile=true needs Python's headers, and {header} is missing: install them, as in "
            f"`apt install python3-dev`, {INSTEAD}"
        )
    cache = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()).absolute()
    folder = next(each for each in (cache, *cache.parents) if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"trainer.compile=true keeps its code in {cache}, where nothing can be written: name another folder in "
            f"TORCHINDUCTOR_CACHE_DIR, {INSTEAD}"
        )
