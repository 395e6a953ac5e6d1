"""Checkpoints on disk: written atomically with their SHA-256 sums, and read as tensors, never as code."""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import Tensor, nn

from fmx.config.bounded_files import read_bytes
from fmx.errors import DataError
from fmx.models.tensor_file import read_tensors

__all__ = [
    "NEWEST",
    "PREVIOUS",
    "CheckpointFiles",
    "apply_weights",
    "check_shapes",
    "load_checkpoint",
    "load_weights",
    "newest_checkpoint",
]

MAX_SUMS_BYTES = 1_000_000  # a few lines of about a hundred bytes are expected
SUMS = "SHA256SUMS"  # as sha256sum writes it: `sha256sum -c SHA256SUMS` checks a folder
NEWEST, PREVIOUS = "last.ckpt", "previous.ckpt"


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning writes checkpoints: under a temporary name, flushed to disk, then renamed.

    The previous last.ckpt stays as previous.ckpt. Whenever the process is killed, each name holds a whole file or
    nothing, and SHA256SUMS lists its sum: during a rename both the old and the new one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *_: Any, **__: Any) -> None:
        """Write a checkpoint; OSError where the disk refuses, with every earlier file intact."""
        path = Path(path)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        contents = buffer.getbuffer()
        path.parent.mkdir(exist_ok=True)  # fails where the run directory was removed
        sums, digest = _read_sums(path.parent), hashlib.sha256(contents).hexdigest()
        partial = path.with_name(f".{path.name}.part")
        try:
            _write_and_sync(partial, contents)
            sums_after = sums | {path.name: [digest]}
            if path.name == NEWEST and path.exists():
                sums_after[PREVIOUS] = sums.get(NEWEST, [])
                path.with_name(PREVIOUS).unlink(missing_ok=True)  # last.ckpt is whole, so nothing is lost
                sums_during = {name: [*sums.get(name, []), *sums_after.get(name, [])] for name in {*sums, *sums_after}}
                _write_sums(path.parent, sums_during)
                path.replace(path.with_name(PREVIOUS))
            else:
                _write_sums(path.parent, sums | {path.name: [*sums.get(path.name, []), digest]})
            partial.replace(path)
            _write_sums(path.parent, sums_after)
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint; the paths in it that ModelCheckpoint stored are moved to its folder."""
        path = Path(path)
        state = load_checkpoint(path)
        for callback in (state.get("callbacks") or {}).values():
            _relocate_paths(callback, path)
        return state


PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")  # in the state of Lightning's ModelCheckpoint


def _relocate_paths(callback: Any, path: Path) -> None:
    """Move the paths that a ModelCheckpoint stored to this folder: it deletes the files that they name."""
    if not isinstance(callback, dict) or not callback.keys() & {*PATHS, "best_k_models", "dirpath"}:
        return
    models = callback.get("best_k_models")
    if models is not None and not isinstance(models, dict):
        raise DataError(f"{path} cannot be continued from: it does not say which checkpoints were best as it should")
    callback["dirpath"] = str(path.parent)
    callback |= {key: _relocated(callback[key], path) for key in PATHS if key in callback}
    if models is not None:
        callback["best_k_models"] = {_relocated(name, path): score for name, score in models.items()}


def _relocated(name: object, path: Path) -> str:
    base = str(name or "").replace("\\", "/").rpartition("/")[2]
    if base and not base.endswith(".ckpt"):
        raise DataError(f"{path} cannot be continued from: it takes {str(name)!r:.80} for a checkpoint")
    return str(path.with_name(base)) if base else ""


def _write_and_sync(path: Path, contents: "memoryview | bytes") -> None:
    with path.open("wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())


def _write_sums(folder: Path, sums: Mapping[str, list[str]]) -> None:
    lines = [f"{digest}  {name}\n" for name, digests in sorted(sums.items()) for digest in dict.fromkeys(digests)]
    partial = folder / f".{SUMS}.part"
    _write_and_sync(partial, "".join(lines).encode())
    partial.replace(folder / SUMS)


def _read_sums(folder: Path) -> dict[str, list[str]]:
    """The allowed sums of each file, by name; empty where the folder has no SHA256SUMS."""
    sums: dict[str, list[str]] = {}
    try:
        if not (folder / SUMS).is_file():
            return sums
        text = read_bytes(folder / SUMS, at_most=MAX_SUMS_BYTES).decode("utf-8")
    except (DataError, ValueError):
        return sums
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        sums.setdefault(name, []).append(digest)
    return sums


def newest_checkpoint(folder: Path) -> tuple[Path | None, int, list[str]]:
    """The newest intact checkpoint, if any, its step, and what was wrong with those that were skipped.

    Raises DataError where all checkpoints are damaged.
    """
    complaints: list[str] = []
    for name in (NEWEST, PREVIOUS):
        if (folder / name).is_file():
            try:
                return folder / name, _step(folder / name), complaints
            except DataError as error:
                complaints.append(str(error))
    if complaints:
        raise DataError(f"{complaints[0]}; no other checkpoint is whole. Start the run anew in another folder")
    return None, 0, []


def _step(path: Path) -> int:
    step = load_checkpoint(path).get("global_step")
    if not isinstance(step, int):
        raise DataError(f"{path} cannot be continued from: it holds no global_step")
    return step


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint onto the CPU; DataError where it is missing, damaged, or holds more than tensors."""
    if not path.is_file():
        raise DataError(f"there is no checkpoint {path}")
    known = _read_sums(path.parent).get(path.name)
    try:
        with path.open("rb") as file:
            whole = not known or hashlib.file_digest(file, "sha256").hexdigest() in known
    except OSError as error:
        raise DataError(f"{path} cannot be read as a checkpoint: {error.strerror}") from error
    if not whole:
        raise DataError(f"{path} is damaged: its SHA-256 sum is not the one in {path.parent / SUMS}")
    state = read_tensors(path)
    if not isinstance(state, dict) or not _is_state_dict(state.get("state_dict")):
        raise DataError(f"{path} is not a checkpoint of fmx: it holds no state_dict")
    return state


def _is_state_dict(node: object) -> bool:
    return isinstance(node, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in node.items())


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a checkpoint's weights into a module; DataError names the first weights that do not fit."""
    apply_weights(module, load_checkpoint(path)["state_dict"], path)


def apply_weights(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy the weights that were read from `path` into a module; DataError names the first that do not fit."""
    own = module.state_dict()
    check_shapes(own, state, path)
    extra = next((name for name in state if name not in own), None)
    if extra is not None:
        raise DataError(f"{path} does not fit this model: it has weights {extra!r} that the model lacks")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # a dtype that cannot be copied into these weights
        raise DataError(f"{path} does not fit this model: {str(error).partition(chr(10))[0]}") from error


def check_shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """DataError where weights that a model needs are not in `state`, or have another shape there."""
    for name, tensor in own.items():
        if name not in state:
            raise DataError(f"{path} does not fit this model: it has no weights {name!r}")
        if state[name].shape != tensor.shape:
            raise DataError(
                f"{path} does not fit this model: {name} has shape {tuple(state[name].shape)} there and "
                f"{tuple(tensor.shape)} here"
            )
