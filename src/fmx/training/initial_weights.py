"""The weights that a new run starts from: those of another run or of a file, as far as they fit its network."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fmx.config.bounded_files import read_yaml
from fmx.errors import ConfigError, DataError
from fmx.models.weights_file import read_state
from fmx.runs.checkpoint_files import load_checkpoint
from fmx.runs.launch_folder import from_launch_folder
from fmx.runs.run_dir import Run, open_run

__all__ = ["check_initial_weights", "start_from", "tested_checkpoint"]

log = logging.getLogger(__name__)
MANY = 6  # names that a message lists
MAX_RECORDED = 1000  # names in run.json
DEPTH = 4  # names of modules that may be in front of a network's own
WRAPPED_SHARE = 1 / 3  # of a file's tensors: those of one of the networks that it holds


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file fit a network's.

    taken: the tensors by the network's names. left: the network's tensors that keep their start, each with the shape
    that the file has under that name, None where it has none. unused: names in the file.
    """

    taken: Mapping[str, Tensor]
    left: Mapping[str, tuple[int, ...] | None]
    unused: Sequence[str]


def check_initial_weights(own: Mapping[str, Tensor], init: str, *, strict: bool) -> None:
    """Raise what `start_from` would raise for a network with these tensors, which may be on the meta device."""
    file, state = _read(init)
    _check(_fit(own, state), own, state, init, file, strict=strict)


def start_from(net: nn.Module, init: str, *, strict: bool) -> dict[str, Any]:
    """Copy the weights that fit into a network, and log what did not; returns what run.json records of it.

    init: a run directory, of which the checkpoint counts that `select` chooses, or a file of torch.save or safetensors.
    strict: refuse weights that do not all fit.
    ConfigError: nothing fits, or not all with `strict`. DataError: the file cannot be read as weights.
    """
    own = net.state_dict()
    file, state = _read(init)
    fit = _fit(own, state)
    _check(fit, own, state, init, file, strict=strict)
    with torch.no_grad():
        for name, tensor in fit.taken.items():
            own[name].copy_(tensor)
    log.info("init: %d of %d tensors of the network come from %s", len(fit.taken), len(own), file)
    if fit.left:
        log.info("init: at their random start: %s", _listed(_left(fit, own)))
    if fit.unused:
        log.info("init: not used: %s", _listed(fit.unused))
    frozen = [name for name, weight in net.named_parameters() if name in fit.left and not weight.requires_grad]
    if frozen:
        log.warning("init: frozen at their random start, so never trained: %s", _listed(frozen))
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {
        "source": init,
        "file": str(file.resolve()),
        "sha256": digest,
        "taken": len(fit.taken),
        "left": [*fit.left][:MAX_RECORDED],
        "unused": [*fit.unused][:MAX_RECORDED],
    }


def tested_checkpoint(run: Run) -> Path:
    """The checkpoint that a run tested, or would test by its `select` once it is finished."""
    if run.status == "completed":
        return run.checkpoint(run.tested)
    chosen = str(read_yaml(run.path / ".hydra" / "resolved.yaml").get("select"))
    there = [
        name
        for name in (chosen, "last")
        if name in {"best", "last"} and (run.path / "checkpoints" / f"{name}.ckpt").is_file()
    ]
    return run.checkpoint(there[0] if there else "last")


def _read(init: str) -> tuple[Path, Mapping[str, Tensor]]:
    """The file that `init` leads to, and its tensors."""
    path = from_launch_folder(Path(init).expanduser())
    if not path.exists():
        raise DataError(f"init={init}: there is neither a run directory nor a file {path}; init=null starts at random")
    try:
        if not path.is_dir():
            return path, read_state(path, without="init=null")
        file = path / "checkpoints" / tested_checkpoint(open_run(path, finished=False)).name
        return file, load_checkpoint(file)["state_dict"]
    except DataError as error:
        raise DataError(f"init={init}: {error}") from error


def _fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Fit:
    """The tensors of a file by the names of a network, either of which may be wrapped in other modules.

    The names in front that leave most tensors of the same name and shape are dropped.
    """
    own = {name: tensor for name, tensor in own.items() if not is_lazy(tensor)}
    best: tuple[dict[str, str], str, str] = ({}, "", "")
    for here, there in product([*_prefixes(own, share=1)], [*_prefixes(state, share=WRAPPED_SHARE)]):
        places = {name: there + name.removeprefix(here) for name in own}
        fitting = {name: place for name, place in places.items() if place in state and _fits(own[name], state[place])}
        if len(fitting) > len(best[0]):
            best = fitting, here, there
    fitting, here, there = best
    left = {name: state.get(there + name.removeprefix(here)) for name in own if name not in fitting}
    return Fit(
        taken={name: state[place] for name, place in fitting.items()},
        left={name: None if tensor is None else tuple(tensor.shape) for name, tensor in left.items()},
        unused=[name for name in state if name not in {*fitting.values()}],
    )


def _prefixes(tensors: Mapping[str, Tensor], *, share: float) -> Iterator[str]:
    """No prefix, and the dotted prefixes that at least a share of the names have, shortest first."""
    counts = Counter[str]()
    for name in tensors:
        parts = name.split(".")[:-1][:DEPTH]
        counts.update(".".join([*parts[:length], ""]) for length in range(1, len(parts) + 1))
    yield ""
    yield from sorted((each for each, count in counts.items() if count >= share * len(tensors)), key=len)


def _fits(own: Tensor, other: Tensor) -> bool:
    """Whether a tensor can be copied to the place of another without losing its meaning."""
    return own.shape == other.shape and (
        own.dtype == other.dtype or own.is_floating_point() == other.is_floating_point()
    )


def _check(
    fit: Fit, own: Mapping[str, Tensor], state: Mapping[str, Tensor], init: str, file: Path, *, strict: bool
) -> None:
    """ConfigError where nothing fits, or not all of it with `strict`."""
    if not any(tensor.dim() > 1 for tensor in fit.taken.values()):
        there = [f"{name} {tuple(state[name].shape)}" for name in fit.unused]
        raise ConfigError(
            f"init={init}: nothing in {file} fits the network. Here: {_listed(_left(fit, own))}; there: "
            f"{_listed(there)}. Choose the model that it was saved from, or init=null"
        )
    if strict and (fit.left or fit.unused):
        parts = [
            f"the network has besides {_listed(_left(fit, own))}" if fit.left else "",
            f"the file has besides {_listed(fit.unused)}" if fit.unused else "",
        ]
        raise ConfigError(
            f"init={init}: not all of {file} fits, as init_strict=true demands: {'; '.join(filter(None, parts))}. "
            "init_strict=false takes what fits"
        )


def _left(fit: Fit, own: Mapping[str, Tensor]) -> list[str]:
    """The network's tensors that keep their start, each with its shape, and the file's if that differs."""
    shapes = {name: tuple(own[name].shape) for name in fit.left}
    return [
        f"{name} {shapes[name]}" + (f", there {there}" if there not in {None, shapes[name]} else "")
        for name, there in fit.left.items()
    ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return f"{'; '.join(name[:120] for name in names[:MANY])}{more}" or "nothing"
