"""The process in which an untrusted ONNX file is opened and run, since the file may crash it.

A script that takes the file's path and imports nothing of fmx. It writes a line of JSON once the file is open, then one
for each batch. An array follows as raw bytes after the line with its shape.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

ERRORS_ONLY = 4  # level of onnxruntime's log; errors are raised as well
FREE_BYTES = 6 * 2**30  # of address space: for the libraries, and 250 images in torchvision's largest network
GROWTH = 4  # times the size of the file: as bytes, as a graph, as weights in another layout
BATCH_CPU_S = 900  # per core
LOOPS = {"Loop", "Scan", "SequenceMap"}  # the file decides when they end


def main() -> None:
    """Open the file, describe it, then run batches until the input ends."""
    path = Path(sys.argv[1])
    answer, sys.stdout = sys.stdout.buffer, sys.stderr  # prints of libraries must not mix with answers
    try:
        _limit_memory(FREE_BYTES + GROWTH * path.stat().st_size)
        _limit_time()
        session, facts = _open(path)
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no base class
        _write_answer(answer, {"error": _first_line(error)})
        return
    _write_answer(answer, facts)
    _serve(session, answer)


def _limit_memory(num_bytes: int) -> None:
    """Let an allocation beyond the limit fail, if the system supports such a limit."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))


def _limit_time() -> None:
    """Limit the CPU time until the next batch is done: a graph may be long without a loop. Not on Windows."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + BATCH_CPU_S * (os.cpu_count() or 1)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    import onnx
    import onnxruntime

    _check(onnx.load(path, load_external_data=False))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))  # 0: one per core of the affinity
    session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    inputs = [(entry.name, entry.type, list(entry.shape)) for entry in session.get_inputs()]
    texts = session.get_modelmeta().custom_metadata_map
    return session, {"texts": texts, "inputs": inputs, "num_outputs": len(session.get_outputs())}


def _check(model: Any) -> None:
    """ValueError if a model has external weights, or loops that may never end."""
    from onnx import external_data_helper

    def check_inside(tensors: Any) -> None:
        if any(map(external_data_helper.uses_external_data, tensors)):
            raise ValueError("it keeps weights in another file, which fmx export never does")

    waiting = [model.graph, *model.functions]
    while waiting:
        place = waiting.pop()
        check_inside(getattr(place, "initializer", []))  # a function has none
        for sparse in getattr(place, "sparse_initializer", []):
            check_inside([sparse.values, sparse.indices])
        for node in place.node:
            if node.op_type in LOOPS:
                raise ValueError(f"it holds a loop ({node.op_type}), which may never end")
            for attribute in node.attribute:
                waiting += [attribute.g, *attribute.graphs] if attribute.type else []
                check_inside([attribute.t, *attribute.tensors])
                for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                    check_inside([sparse.values, sparse.indices])


def _serve(session: Any, answer: Any) -> None:
    import numpy as np

    name = session.get_inputs()[0].name
    while line := sys.stdin.buffer.readline():
        asked = json.loads(line)
        count = int(np.prod(asked["shape"])) * np.dtype(asked["dtype"]).itemsize
        batch = np.frombuffer(sys.stdin.buffer.read(count), asked["dtype"]).reshape(asked["shape"])
        _limit_time()
        try:
            (result,) = session.run(None, {name: batch})
            result = np.ascontiguousarray(result)
            facts, contents = {"shape": result.shape, "dtype": str(result.dtype)}, result.tobytes()
        except Exception as error:  # noqa: BLE001 - as above
            facts, contents = {"error": _first_line(error)}, b""
        _write_answer(answer, facts, contents)


def _write_answer(answer: Any, facts: dict[str, Any], contents: bytes = b"") -> None:
    answer.write(json.dumps(facts).encode() + b"\n" + contents)
    answer.flush()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:500] or type(error).__name__


if __name__ == "__main__":
    main()
