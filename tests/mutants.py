"""Files with bytes changed, cut, moved and doubled, and the processes in which readers meet them."""

import json
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

TEMPTING = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
HANG_S = 30  # for one file; the slowest takes less than one
TEXTS = [b"1e999", b"-1", b"nan", b"${x}", b"9" * 400, b"null", b"[" * 50, b'"', b"\x00", b"\xff\xfe", b"../", b"\n"]


def mutant(corpus: Sequence[bytes], seed: int) -> bytes:
    """One file of the corpus, changed in one to four ways; the same for the same seed."""
    draw = random.Random(seed)
    data = bytearray(draw.choice(corpus))
    for _ in range(draw.randint(1, 4)):
        draw.choice(CHANGES)(data, draw, corpus)
    return bytes(data)


def _flip(data, draw, _):
    for _ in range(min(len(data), draw.choice([1, 1, 2, 8]))):
        data[min(_place(data, draw), len(data) - 1)] ^= 1 << draw.randrange(8)


def _number(data, draw, _):
    width = draw.choice("BHIQ")
    value = draw.choice(TEMPTING) & (2 ** (8 * struct.calcsize(width)) - 1)
    place = _place(data, draw)
    data[place : place + struct.calcsize(width)] = struct.pack(draw.choice("<>") + width, value)


def _cut(data, draw, _):
    del data[_place(data, draw) :]


def _remove(data, draw, _):
    place = _place(data, draw)
    del data[place : place + draw.choice([1, 2, 4, 30, 400])]


def _repeat(data, draw, _):
    place = _place(data, draw)
    piece = data[place : place + draw.choice([1, 4, 40, 400])]
    data[place:place] = piece * draw.choice([1, 2, 50])


def _insert(data, draw, _):
    place = _place(data, draw)
    data[place:place] = draw.choice([draw.randbytes(draw.choice([1, 4, 40])), *TEXTS])


def _zero(data, draw, _):
    place = _place(data, draw)
    size = min(draw.choice([4, 16, 200]), len(data) - place)
    data[place : place + size] = bytes([draw.choice([0, 255])]) * size


def _splice(data, draw, corpus):
    other = draw.choice(corpus)
    data[_place(data, draw) :] = other[_place(other, draw) :]


def _place(data, draw) -> int:
    """Headers are short and matter most, and so do the ends of archives."""
    end = len(data)
    near_end = end - draw.randrange(min(128, end) + 1)
    return draw.choice([draw.randrange(end + 1), draw.randrange(min(64, end) + 1), near_end])


CHANGES = [_flip, _flip, _number, _number, _cut, _remove, _repeat, _insert, _zero, _splice]


@dataclass
class Outcome:
    """What became of the files: how many gave what, the first that went wrong, and the memory above the start."""

    counts: Counter = field(default_factory=Counter)
    wrong: list[tuple[int, str]] = field(default_factory=list)
    died: list[tuple[int, int]] = field(default_factory=list)  # seed, signal
    peak_bytes: int = 0
    seconds: float = 0.0


def read_all(read: Callable[[int], str], seeds: range, folder: Path, *, address_bytes: int) -> Outcome:
    """Call `read` with each seed in forked processes, of which the next one goes on where one has died.

    read: writes the mutant, reads it, and returns a word for what came of it; what it raises is wrong.
    address_bytes: what a process may allocate above what it has at the start.
    """
    outcome, began, log = Outcome(), time.monotonic(), folder / "log"
    next_seed = seeds.start
    while next_seed < seeds.stop:
        log.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            _child(read, range(next_seed, seeds.stop), log, address_bytes)
        _, status = os.waitpid(pid, 0)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        for line in lines:
            if "word" in line:
                outcome.counts[line["word"]] += 1
            if "wrong" in line:
                outcome.wrong.append((line["seed"], line["wrong"]))
        outcome.peak_bytes = max([outcome.peak_bytes, *(line["peak"] for line in lines if "peak" in line)])
        last = max(line["seed"] for line in lines)
        if os.WIFSIGNALED(status):
            outcome.died.append((last, os.WTERMSIG(status)))
        elif not os.WIFEXITED(status) or os.WEXITSTATUS(status):
            raise RuntimeError(log.read_text()[-2000:])
        next_seed = last + 1
    outcome.seconds = time.monotonic() - began
    return outcome


def _child(read: Callable[[int], str], seeds: range, log: Path, address_bytes: int) -> None:
    code = 1
    try:
        with suppress(BaseException):
            read(seeds.start)  # what is imported and mapped once is not of a file
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        start = _status("VmRSS")
        limit = _status("VmSize") + address_bytes
        signal.signal(signal.SIGALRM, _hang)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        sys.setrecursionlimit(1000)
        with log.open("a", buffering=1) as file:
            for seed in seeds:
                file.write(json.dumps({"seed": seed}) + "\n")
                signal.setitimer(signal.ITIMER_REAL, HANG_S)
                try:
                    line = {"seed": seed, "word": read(seed)}
                except BaseException as error:  # noqa: BLE001 - that is what we are looking for
                    where = "".join(traceback.format_tb(error.__traceback__)[-3:])
                    line = {"seed": seed, "wrong": f"{type(error).__name__}: {str(error)[:300]}\n{where}"}
                signal.setitimer(signal.ITIMER_REAL, 0)
                file.write(json.dumps(line) + "\n")
            file.write(json.dumps({"seed": seeds.stop - 1, "peak": max(0, _status("VmHWM") - start)}) + "\n")
        code = 0
    finally:
        os._exit(code)


def _hang(*_):
    raise TimeoutError(f"took more than {HANG_S} s")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])
