"""Files that are not on this machine: download them, or say how to continue without them."""

import logging
import os
from collections.abc import Sequence
from hashlib import md5
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import wrap_file

from fmx.errors import DataError

__all__ = ["fetch", "missing_file_error"]

TIMEOUT_S = 10  # of silence, not of the whole transfer
MAX_BYTES = 2**30  # a mirror that never stops sending must not fill the disk
BLOCK_BYTES = 2**18

log = logging.getLogger(__name__)


def missing_file_error(path: Path, *, reason: str, instead: Sequence[str]) -> DataError:
    """Build the error for a missing file: the reason, then every remedy."""
    remedies = ["data.root=DIR (or FMX_DATA_ROOT=DIR) for the folder that has it", *instead]
    return DataError(f"{path} is missing{reason}.\nWays out: {', or '.join(remedies)}.")


def fetch(path: Path, *, mirrors: Sequence[str], checksum: str | None, instead: Sequence[str]) -> None:
    """Download `path.name` from the first mirror that has it complete and with this MD5 sum.

    The file gets its name only when it is complete, so several processes may fetch it at the same time.

    Raises:
        DataError: no mirror gave it, with the reason of each; without a network immediately.
    """
    failures = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{path.name}"
        log.info("fetching %s", url)
        try:
            return _fetch_from(url, path, checksum)
        except (OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            failures.append(f"{urlsplit(url).netloc or url}: {getattr(reason, 'strerror', None) or reason}")
    reason = f" and could not be fetched ({', '.join(failures) or 'no mirrors'})"
    raise missing_file_error(path, reason=reason, instead=instead)


def _fetch_from(url: str, path: Path, checksum: str | None) -> None:
    console = Console(stderr=True)
    digest, num_bytes = md5(usedforsecurity=False), 0
    request = Request(url, headers={"User-Agent": "fmx"})  # noqa: S310 - ours; some mirrors refuse urllib's name
    with urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - addresses come from the configuration
        path.parent.mkdir(parents=True, exist_ok=True)  # after connecting: without a network no folder is left behind
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        bar = wrap_file(
            response,
            total=int(response.headers.get("Content-Length", 0)),
            description=path.name,
            console=console,
            disable=not console.is_terminal,
        )
        try:
            with bar as stream, part.open("wb") as file:
                while block := stream.read(BLOCK_BYTES):
                    num_bytes += len(block)
                    if num_bytes > MAX_BYTES:
                        raise ValueError(f"sends more than {MAX_BYTES:,} bytes")
                    digest.update(block)
                    file.write(block)
            if checksum not in (None, digest.hexdigest()):
                raise ValueError(f"sends {num_bytes:,} bytes with another MD5 sum, {digest.hexdigest()}")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
