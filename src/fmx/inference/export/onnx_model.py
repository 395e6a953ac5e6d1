"""ONNX files: written from a network with its signature as metadata, and run by onnxruntime."""

import json
import logging
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError, DataError, FmxError, first_line
from fmx.inference.export import onnx_worker
from fmx.inference.export.signature import Signature

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DEFAULT_OPSET", "Logits", "open_onnx", "require", "write_onnx"]

Logits = Callable[[NDArray[Any]], NDArray[np.float32]]  # pixels (N, C, H, W) to logits (N, K)
DEFAULT_OPSET = 18  # the oldest that torch's exporter knows, so that old runtimes read the file as well
MAX_ANSWER = 2**26  # bytes of a line, enough for 100,000 class names


def require(*packages: str) -> list[Any]:
    """Import packages of the onnx extra; ConfigError with the command that installs them."""
    try:
        return [import_module(package) for package in packages]
    except ImportError as error:
        missing = error.name or packages[0]
        how = printed_command("pip", "install", "onnx", "onnxscript", "onnxruntime")
        raise ConfigError(f"ONNX needs the package {missing}: {how}") from error


def write_onnx(module: "nn.Module", signature: Signature, path: Path, *, opset: int) -> None:
    """Write a network with a dynamic batch; its signature goes into the file's metadata.

    The input is `pixels` (N, C, H, W) of the signature's type, or `images` float32 where the normalisation stays
    outside; the output is `logits` float32 (N, K). FmxError if torch cannot export the network, ConfigError for the
    opset.
    """
    onnx, _ = require("onnx", "onnxscript")
    import torch

    inside = signature.normalize == "inside"
    example = torch.zeros(2, *signature.shape, dtype=getattr(torch, signature.input_dtype))
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                external_data=False,
                verbose=False,
                opset_version=opset,
                input_names=["pixels" if inside else "images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except Exception as error:  # torch's exporter may raise any exception
        raise FmxError(
            f"{signature.model} cannot be written as ONNX: {first_line(error)}; try --format torchscript"
        ) from error
    assert program is not None
    model = program.model_proto
    reached = {entry.domain: entry.version for entry in model.opset_import}[""]
    if reached != opset:
        raise ConfigError(f"--opset {opset} cannot be reached, only {reached}; leave it out, or use that")
    _remove_source_notes(model.graph)
    onnx.helper.set_model_props(model, signature.to_texts())
    onnx.save(model, path)


def _remove_source_notes(graph: Any) -> None:
    """Remove torch's notes on the source code, which name folders of this machine."""
    del graph.metadata_props[:]
    for item in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        item.ClearField("doc_string")
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's log messages and warnings; failures are raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def open_onnx(path: Path) -> tuple[Signature, Logits]:
    """Open a file that fmx export wrote: its signature, and the function from pixels to logits.

    The file runs in a process of its own, limited to 6 GiB plus four times the size of the file, and to 15 minutes of
    CPU time per core and batch. DataError if the file is missing, damaged, not from fmx, or contradicts its signature;
    if it has external weights or a loop; and if it crashes that process.
    """
    require("onnx", "onnxruntime")
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    worker = _Worker(path)
    facts = worker.answer("cannot be read as an ONNX model")
    signature = Signature.from_texts(facts["texts"], path)
    dtype = signature.input_dtype.removesuffix("32")
    inputs = [(kind, tuple(shape[1:])) for _, kind, shape in facts["inputs"]]
    if inputs != [(f"tensor({dtype})", signature.shape)] or facts["num_outputs"] != 1:
        raise DataError(f"{path} has other inputs or outputs than its signature says")
    num_classes = len(signature.class_names)

    def logits(pixels: NDArray[Any]) -> NDArray[np.float32]:
        worker.ask(signature.as_input(pixels))
        reply = worker.answer("cannot be run")
        shape = (len(pixels), num_classes)
        if (reply["dtype"], tuple(reply["shape"])) != ("float32", shape):
            raise DataError(
                f"{path} gives {reply['dtype']} {tuple(reply['shape'])}, not a number for each of its classes"
            )
        return np.frombuffer(worker.read(4 * len(pixels) * num_classes), np.float32).reshape(shape)

    return signature, logits


class _Worker:
    """The process that runs a file; it ends with this object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        command = [sys.executable, "-P", onnx_worker.__file__, str(path)]  # -P: import nothing from the current folder
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
        self.end = weakref.finalize(self, _end, self.process)

    def ask(self, batch: NDArray[Any]) -> None:
        """Send an array."""
        line = json.dumps({"shape": batch.shape, "dtype": str(batch.dtype)}) + "\n"
        with suppress(BrokenPipeError):  # answer() reports that the process has died
            self.process.stdin.write(line.encode() + np.ascontiguousarray(batch).tobytes())
            self.process.stdin.flush()

    def answer(self, failure: str) -> dict[str, Any]:
        """Read the next line from the process; DataError if it is an error, or if the process has died."""
        line = self.process.stdout.readline(MAX_ANSWER)
        try:
            facts = json.loads(line)
        except ValueError:
            self.process.kill()
            code = self.process.wait()
            raise DataError(f"{self.path} {failure}: it brings down the process that runs it ({code})") from None
        if "error" in facts:
            raise DataError(f"{self.path} {failure}: {facts['error']}")
        assert isinstance(facts, dict)
        return facts

    def read(self, num_bytes: int) -> bytes:
        """Read the bytes that follow the last line; DataError if there are fewer."""
        contents: bytes = self.process.stdout.read(num_bytes)
        if len(contents) < num_bytes:
            raise DataError(f"{self.path} cannot be run: it brings down the process that runs it")
        return contents


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    process.wait()
