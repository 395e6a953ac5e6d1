"""The process in which an ONNX file is opened and run: it may come from anywhere, and this process may die of it.

Started as a script with the file's path and imports nothing of fmx. It answers with a line of JSON once the file is
open, then with one for each batch: an array comes as its raw bytes behind the line that says their shape.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

ERRORS_ONLY = 4  # onnxruntime's own log; what goes wrong is raised as well
FREE_BYTES = 6 * 2**30  # of addresses: for the libraries, and for 250 images in the largest network of torchvision
GROWTH = 4  # times the size of the file: as bytes, as a graph, as weights in another order
BATCH_CPU_S = 900  # of each core
LOOPS = {"Loop", "Scan", "SequenceMap"}  # they end when the file says so


def main() -> None:
    """Open the file, say what it is, then run batches until there is no more."""
    path = Path(sys.argv[1])
    answer, sys.stdout = sys.stdout.buffer, sys.stderr  # what a library prints is no answer
    try:
        _limit_memory(FREE_BYTES + GROWTH * path.stat().st_size)
        _limit_time()
        session, facts = _open(path)
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no base class
        _say(answer, {"error": _first_line(error)})
        return
    _say(answer, facts)
    _serve(session, answer)


def _limit_memory(num_bytes: int) -> None:
    """Let an allocation beyond the limit fail; where the system knows no such limit there is none."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    except (ValueError, OSError):
        return


def _limit_time() -> None:
    """Let the process end where what comes takes longer than any batch does: a graph may be long without a loop."""
    import resource

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
    """ValueError where a model reads other files, or may run for ever."""
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
        _say(answer, facts, contents)


def _say(answer: Any, facts: dict[str, Any], contents: bytes = b"") -> None:
    answer.write(json.dumps(facts).encode() + b"\n" + contents)
    answer.flush()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:500] or type(error).__name__


if __name__ == "__main__":
    main()
