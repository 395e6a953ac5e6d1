"""What an offline run of W&B wrote: the records of its .wandb file, in W&B's own protocol."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER, BLOCK, HEAD = 7, 32768, 7  # bytes: the file's own header, LevelDB's blocks, and the head of each chunk
LAST_CHUNKS = (1, 4)  # whole records, and the last chunks of longer ones


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, which is a log of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    contents, place, record = path.read_bytes(), HEADER, b""
    while place + HEAD <= len(contents):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", contents[place : place + HEAD])
        record += contents[place + HEAD : place + HEAD + length]
        place += HEAD + length
        if kind in LAST_CHUNKS:
            parsed, record = Record.FromString(record), b""
            yield parsed


def values(items: Any) -> dict[str, Any]:
    """The keys of a record's items, with their decoded values."""
    return {"/".join(each.nested_key) or each.key: json.loads(each.value_json) for each in items}
