"""Runs commands in processes forked from one that has imported the heavy packages: real processes, started at once.

Reads a JSON request a line from standard input and answers with a JSON line {"returncode": …}. Each command gets its
own working folder, environment, output files and arguments, as if `python -m fmx.MODULE` had been typed.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

HEAVY = [
    "fmx.sweeps.quick_start",  # first, as for the jobs of a sweep
    "torch",
    "pytorch_lightning",
    "torchmetrics",
    "pandas",
    "sklearn.datasets",
    "sklearn.metrics",
    "matplotlib",
    "torch.utils.tensorboard",
    "fmx.reporting.results",
]


PRINTED = "PRINTED_COMMANDS"  # names the file in which a command notes what it prints for people to type


def note_printed_commands() -> None:
    """Have every command line that fmx prints noted, with the file and the function that print it."""
    from fmx.config import printed_command

    made = printed_command.printed_command

    def noted(*words: str) -> str:
        text = made(*words)
        if file := os.environ.get(PRINTED):
            code = sys._getframe(1).f_code
            with Path(file).open("a", encoding="utf-8") as notes:
                notes.write(json.dumps([code.co_filename, code.co_name, words, text]) + "\n")
        return text

    printed_command.printed_command = noted


CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.symlink")


def die_at_change(number: int, folder: Path) -> None:
    """Kill this process before its change of that number, from 1, to the files below a folder.

    A file that is opened to be written is empty then, as one is whose contents have not reached it yet.
    """
    changes = 0

    def look(event: str, arguments: tuple) -> None:
        nonlocal changes
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not opened and event not in CHANGES:
            return
        if isinstance(arguments[0], int) or not Path(os.fsdecode(arguments[0])).absolute().is_relative_to(folder):
            return
        changes += 1
        if changes == number:
            if opened:
                os.open(arguments[0], arguments[2])
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def child(request: dict) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    if narrow := os.environ.get("PYTHONIOENCODING"):
        encoding, _, errors = narrow.partition(":")
        sys.stdout.reconfigure(encoding=encoding, errors=errors or "strict")
        sys.stderr.reconfigure(encoding=encoding)
    sys.path[0] = request["cwd"]
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv = [request["module"], *request["arguments"]]
    if request["die_at_change"]:
        die_at_change(request["die_at_change"], Path.cwd())
    code = 0
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001 - what Python itself would print
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    note_printed_commands()
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()  # a collection that looked through all of it would copy it into each command's process
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(request)
        answers.write(json.dumps({"pid": pid}) + "\n")
        answers.flush()
        _, status = os.waitpid(pid, 0)
        answers.write(json.dumps({"returncode": os.waitstatus_to_exitcode(status)}) + "\n")
        answers.flush()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    main()
