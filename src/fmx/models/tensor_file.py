"""Files of torch.save, read as tensors and plain values: no code runs, and memory is bounded."""

import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from fmx.errors import DataError

__all__ = ["is_safetensors", "read_tensors"]

MAX_RECORDS = 100_000
MAX_PICKLE_BYTES = 8_000_000  # of the pickle that lists the tensors; 10,000 tensors take about 1 MB
MAX_CALLS = 100_000  # objects that the pickle may construct
MAX_VALUES = 5_000_000  # when traversed: a list that is shared counts once for each reference
# The globals in checkpoints of fmx, Lightning and torchvision. torch's own list of safe globals is longer; some of them
# make arrays of any size from a number, or tensors without data.
STORAGES = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
DTYPES = ("bfloat16", "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64")
NAMES = {
    *("collections OrderedDict", "collections defaultdict", "collections Counter", "__builtin__ set", "_codecs encode"),
    *("torch Size", "torch device", "torch.storage UntypedStorage"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter"),
    *(f"torch {kind}Storage" for kind in STORAGES),
    *(f"torch {dtype}" for dtype in (*DTYPES, "uint8", "uint16", "uint32", "uint64")),
}
CALLS = {"BINPERSID", "BUILD", "NEWOBJ", "REDUCE"}
REFUSED = {"BYTEARRAY8", "EXT1", "EXT2", "EXT4", "INST", "NEWOBJ_EX", "NEXT_BUFFER", "OBJ", "PERSID", "STACK_GLOBAL"}
PLAIN = (str, int, float, complex, bytes, torch.device, torch.dtype, type(None))
ARCHIVE = b"PK"  # how an archive begins, even one that was cut off
# First bytes of files that are mistaken for weights, what these files are, and how to convert them.
OTHER_KINDS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: git lfs pull fetches it",
    b"<": "a web page, which came in the place of a file that was to be fetched",
    b"\x1f\x8b": "compressed: gunzip unpacks it",
    b"BZh": "compressed: bunzip2 unpacks it",
    b"\xfd7zXZ": "compressed: unxz unpacks it",
    b"\x28\xb5\x2f\xfd": "compressed: unzstd unpacks it",
    b"\x93NUMPY": "an array of NumPy",
    b"\x89HDF": "HDF5, as Keras writes it",
}
NUM_OLD_PICKLES = 4  # in the format before archives: magic number, version, sizes of C types, tensors


def read_tensors(path: Path, *, old_format: bool = False) -> Any:
    """Read a file of torch.save onto the CPU, in memory of at most about three times its size.

    old_format: accept files from before torch 1.6 too, of which torchvision has some.
    DataError: the file is missing, damaged, holds more than tensors and plain values, or claims tensors larger than
    the file.
    """
    if not path.is_file():
        raise DataError(f"there is no checkpoint {path}" if not path.exists() else f"{path} is no plain file")
    try:
        num_bytes = path.stat().st_size
        _check_kind(path)
        is_archive = _is_archive(path)
        if is_archive or not old_format:
            with zipfile.ZipFile(path) as archive:
                _check_records(path, archive, num_bytes)
        else:
            with path.open("rb") as file:
                for _ in range(NUM_OLD_PICKLES):
                    _check_pickle(path, file)
        # The CPU, even where the caller's default device is another, such as meta.
        with warnings.catch_warnings(), torch.device("cpu"):
            warnings.simplefilter("ignore")  # about files that are no checkpoint; real problems raise
            # A memory-mapped tensor cannot reach beyond the file, whatever size the file claims.
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
            return _Copies(path, at_most=num_bytes).of(contents)
    except DataError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything in zipfile, pickletools and torch
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise DataError(f"{path} cannot be read as a checkpoint: {reason}") from error


def _is_archive(path: Path) -> bool:
    """Whether a file is a complete archive; DataError where it is a truncated one."""
    whole = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        if not whole and file.read(len(ARCHIVE)) == ARCHIVE:
            raise DataError(f"{path} cannot be read as a checkpoint: it is cut off or damaged")
    return whole


def _check_kind(path: Path) -> None:
    """DataError where another program wrote the file."""
    if other := _other_kind(path):
        raise DataError(f"{path} cannot be read as a checkpoint: it is {other}")


def _other_kind(path: Path) -> str | None:
    """What kind of file another program wrote; None where torch may have written it."""
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        return "empty"
    if is_safetensors(path):
        return "of safetensors: torch.save(safetensors.torch.load_file(FILE), 'weights.pth') writes one for here"
    if not zipfile.is_zipfile(path):
        return next((kind for begins, kind in OTHER_KINDS.items() if start.lstrip().startswith(begins)), None)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith(".npy") for name in names):
        return "an archive of NumPy's arrays"
    if any("/code/" in name for name in names):
        return "a TorchScript module: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth') writes its weights"
    return None


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors does: the size of a header, and the header."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _check_records(path: Path, archive: zipfile.ZipFile, num_bytes: int) -> None:
    """DataError where torch would not write such an archive: uncompressed, with distinct records and one data.pkl."""
    records = archive.infolist()
    stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
    if len(records) > MAX_RECORDS or not stored or sum(record.file_size for record in records) > num_bytes:
        raise DataError(f"{path} cannot be read as a checkpoint: it is compressed, or claims more than its own size")
    pickles = [record for record in records if record.filename.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
        raise DataError(f"{path} cannot be read as a checkpoint: its list of tensors is missing or too large")
    with archive.open(pickles[0]) as pickle:
        _check_pickle(path, pickle)
    if damaged := archive.testzip():  # torch itself does not verify the sums
        raise DataError(f"{path} is damaged: the sum of {damaged[-80:]} in it is wrong")


def _check_pickle(path: Path, pickle: IO[bytes]) -> None:
    """DataError for the first name that tensors and plain values do not need; constructs and imports nothing.

    Bounds: 8 MB, and 100,000 constructed objects.
    """
    calls = 0
    for code, argument, position in pickletools.genops(pickle):
        if code.name in REFUSED or (code.name == "GLOBAL" and argument not in NAMES):
            name = str(argument).replace(" ", ".") if code.name == "GLOBAL" else code.name
            raise DataError(f"{path} holds more than tensors and plain values ({name[:80]!r}), so it is not loaded")
        calls += code.name in CALLS
        if calls > MAX_CALLS or (position or 0) > MAX_PICKLE_BYTES:
            raise DataError(f"{path} cannot be read as a checkpoint: its list of tensors is too large")


class _Copies:
    """Copies memory-mapped values, so that they do not change with the file; shared storage stays shared.

    Raises DataError for a value that is neither a tensor nor plain, or where the copies would be larger than the file.
    """

    def __init__(self, path: Path, *, at_most: int) -> None:
        self.path = path
        self.left = at_most
        self.storages: dict[tuple[int, int], torch.UntypedStorage] = {}
        self.containers: dict[int, Any] = {}
        self.values = 0
        self.inside: dict[int, int] = {}  # number of values in each container, nested ones included

    def of(self, node: Any) -> Any:
        """A copy of a tensor, a container or a plain value.

        Optimizers and Lightning copy nested lists without a memo, so a short pickle of shared lists could expand to any
        number of lists, or without end.
        """
        before = self.values
        self.values += 1
        if id(node) in self.containers:
            if id(node) not in self.inside:
                raise DataError(f"{self.path} cannot be read as a checkpoint: a list in it holds itself")
            self.values += self.inside[id(node)]
        if self.values > MAX_VALUES:
            raise DataError(f"{self.path} cannot be read as a checkpoint: it has too many values")
        copy = self._copy(node)
        if id(node) in self.containers:
            self.inside.setdefault(id(node), self.values - before)
        return copy

    def _copy(self, node: Any) -> Any:
        if isinstance(node, Tensor):
            return self._tensor(node)
        if isinstance(node, PLAIN):
            return node
        if id(node) in self.containers:
            return self.containers[id(node)]
        if isinstance(node, dict) and all(isinstance(key, PLAIN) for key in node):
            copy: Any = self.containers.setdefault(id(node), {})
            copy |= {key: self.of(child) for key, child in node.items()}
        elif isinstance(node, list):
            copy = self.containers.setdefault(id(node), [])
            copy += [self.of(child) for child in node]
        elif isinstance(node, tuple):
            copy = tuple(self.of(child) for child in node)
            self.containers[id(node)] = copy
        elif isinstance(node, set) and all(isinstance(child, PLAIN) for child in node):
            copy = set(node)
        else:
            raise DataError(f"{self.path} holds a {type(node).__name__}, which is neither a tensor nor a plain value")
        return copy

    def _tensor(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = (storage.data_ptr(), storage.nbytes())
        if key not in self.storages:
            self.left -= storage.nbytes()
            if self.left < 0 or storage.device.type != "cpu":
                raise DataError(f"{self.path} says that its tensors are larger than the file is")
            self.storages[key] = storage.clone()  # type: ignore[no-untyped-call]
        if tensor.numel() * tensor.itemsize > storage.nbytes():  # with strides of zero, one number can have any shape
            raise DataError(
                f"{self.path} says that a tensor of shape {tuple(tensor.shape)} is larger than what it holds"
            )
        copy = torch.empty(0, dtype=tensor.dtype)
        return copy.set_(self.storages[key], tensor.storage_offset(), tensor.shape, tensor.stride())
