"""ONNX files: written from a network with all that is needed to use them, and run by onnxruntime."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import ConfigError, DataError, FmxError
from fmx.exporting.signature import Signature

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DEFAULT_OPSET", "Logits", "open_onnx", "require", "write_onnx"]

Logits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # pixels (N, C, H, W) to logits (N, K)
DEFAULT_OPSET = 18  # the oldest that torch's exporter knows, so that old runtimes read the file as well
ERRORS_ONLY = 4  # onnxruntime's own log; what goes wrong is raised as well


def require(*packages: str) -> list[Any]:
    """Import packages of the onnx extra; ConfigError with the command that installs them."""
    try:
        return [import_module(package) for package in packages]
    except ImportError as error:
        missing = error.name or packages[0]
        raise ConfigError(f"ONNX needs the package {missing}: pip install 'fmx[onnx]'") from error


def write_onnx(module: "nn.Module", signature: Signature, path: Path, *, opset: int) -> None:
    """Write a network with a dynamic batch; its signature goes into the file's metadata.

    The input is `pixels` uint8 (N, C, H, W), or `images` float32 where the normalisation stays outside; the
    output is `logits` float32 (N, K). FmxError where torch cannot express the network, ConfigError for the opset.
    """
    onnx, _ = require("onnx", "onnxscript")
    import torch

    inside = signature.normalize == "inside"
    example = torch.zeros(2, *signature.shape, dtype=torch.uint8 if inside else torch.float32)
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
    except Exception as error:  # whatever the network does, torch's tracer may stumble over
        raise FmxError(
            f"{signature.model} cannot be written as ONNX: {_first_line(error)}; try --format torchscript"
        ) from error
    assert program is not None
    model = program.model_proto
    reached = {entry.domain: entry.version for entry in model.opset_import}[""]
    if reached != opset:
        raise ConfigError(f"--opset {opset} cannot be reached, only {reached}; leave it out, or use that")
    _forget_sources(model.graph)
    onnx.helper.set_model_props(model, signature.to_texts())
    onnx.save(model, path)


def _forget_sources(graph: Any) -> None:
    """Remove what torch notes of the source code: it names folders of this machine."""
    del graph.metadata_props[:]
    for item in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        item.ClearField("doc_string")
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice on its own workings from the reader; what fails is raised."""
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
    """Read a file that fmx export wrote: what it takes and gives, and the function from pixels to logits.

    DataError where the file is missing, damaged, not from fmx, or not what it says of itself.
    """
    (ort,) = require("onnxruntime")
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))  # 0: one a core
    try:
        session = ort.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
        texts = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise DataError(f"{path} cannot be read as an ONNX model: {_first_line(error)}") from error
    signature = Signature.from_texts(texts, path)
    dtype = "uint8" if signature.normalize == "inside" else "float"
    inputs = [(entry.type, tuple(entry.shape[1:])) for entry in session.get_inputs()]
    if inputs != [(f"tensor({dtype})", signature.shape)] or len(session.get_outputs()) != 1:
        raise DataError(f"{path} takes and gives other arrays than it says of itself")
    name = session.get_inputs()[0].name

    def logits(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            (result,) = session.run(None, {name: signature.as_input(pixels)})
        except Exception as error:
            raise DataError(f"{path} cannot be run: {_first_line(error)}") from error
        if result.shape != (len(pixels), len(signature.class_names)) or result.dtype != np.float32:
            raise DataError(f"{path} gives {result.dtype} {result.shape}, not a number for each of its classes")
        return result  # type: ignore[no-any-return]

    return signature, logits


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
