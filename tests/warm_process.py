"""Runs commands in processes forked from one that has imported the heavy packages: real processes, started at once.

Reads a JSON request a line from standard input and answers with a JSON line {"returncode": …}. Each command gets its
own working folder, environment, output files and arguments, as if `python -m fmx.MODULE` had been typed.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from functools import cache
from importlib import metadata
from multiprocessing import forkserver, util
from pathlib import Path
from typing import Any

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


COLD = "COLD"  # if set, the run of `fmx reproduce` starts as a process of its own
NO_FIGURES = "NO_FIGURES"  # if set, runs draw none: half of a short run's seconds


def draw_no_figures() -> None:
    """Have runs end without their figures, in this process and the jobs that are forked for it."""
    from fmx.reporting.gallery import Gallery

    Gallery.draw_samples = Gallery.draw_results = lambda *_: None


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


def lend_fork_server() -> None:
    """Have this process's fork server forked from here when it is wanted: it has its imports, which take seconds.

    Until then it waits, and ends with this process. It gets the environment, folder and signal mask of that moment.
    """
    ours, theirs = socket.socketpair()
    server = os.fork()
    if server == 0:
        ours.close()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        state, descriptors, *_ = socket.recv_fds(theirs, 1_000_000, 2)
        theirs.close()
        if state:
            be_fork_server(json.loads(state), *descriptors)
        os._exit(0)
    theirs.close()
    start = util.spawnv_passfds

    def start_or_lend(path: bytes, arguments: list[str], descriptors: list[int]) -> int:
        if "multiprocessing.forkserver" not in arguments[-1] or ours.fileno() < 0:
            return start(path, arguments, descriptors)
        mask = [int(signum) for signum in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
        state = {"code": arguments[-1], "env": dict(os.environ), "cwd": str(Path.cwd()), "mask": mask}
        socket.send_fds(ours, [json.dumps(state | {"descriptors": descriptors}).encode()], descriptors)
        ours.close()
        return server

    util.spawnv_passfds = start_or_lend


def be_fork_server(state: dict, *received: int) -> None:
    """What `python -c CODE` does, with the descriptors under the numbers that they have here."""
    os.environ.clear()
    os.environ.update(state["env"])
    os.chdir(state["cwd"])
    sys.argv = ["-c"]
    while early := signal.sigpending():  # a process that starts has none
        signal.sigwait(early)
    signal.pthread_sigmask(signal.SIG_SETMASK, state["mask"])
    here = dict(zip(state["descriptors"], received, strict=True))
    serve = forkserver.main
    forkserver.main = lambda listener, alive, *rest, **named: serve(here[listener], here[alive], *rest, **named)
    with contextlib.suppress(SystemExit):
        exec(state["code"])


def lend_second_run() -> None:
    """Have the run of `fmx reproduce` forked from here as well: it is the same to the bit in any process."""
    ours, theirs = socket.socketpair()
    runner = os.fork()
    if runner == 0:
        ours.close()
        if text := theirs.recv(1_000_000):
            be_command(json.loads(text))
        os._exit(0)
    theirs.close()
    start = subprocess.run

    def start_or_lend(words: list[str], **options: Any) -> subprocess.CompletedProcess:
        if words[:3] != [sys.executable, "-m", "fmx.run"]:
            return start(words, **options)
        request = {"module": "fmx.run", "arguments": words[3:], "cwd": str(Path.cwd()), "env": dict(options["env"])}
        sys.stdout.flush()
        ours.sendall(json.dumps(request | {"die_at_change": 0}).encode())
        _, status = os.waitpid(runner, 0)
        return subprocess.CompletedProcess(words, os.waitstatus_to_exitcode(status))

    subprocess.run = start_or_lend


def child(request: dict) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    be_command(request)


def be_command(request: dict) -> None:
    """Run a command in this process, as if it had been typed, and end with it."""
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
    if os.environ.get(NO_FIGURES):
        draw_no_figures()
    if {"-m", "--multirun", "--resume-sweep"} & set(request["arguments"]):
        lend_fork_server()
    if request["module"] == "fmx.commands.reproduce" and not os.environ.get(COLD):
        lend_second_run()
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


SEARCH = ("fmx.sweeps.search.study", "optuna.samplers", "optuna.visualization", "scipy.stats")  # more than a second


def main() -> None:
    from fmx.sweeps import warm

    note_printed_commands()
    metadata.entry_points = cache(metadata.entry_points)  # Lightning reads those of all packages for each Trainer
    for name in warm.PRELOADED[:-1]:  # the last one is for a fork server alone
        importlib.import_module(name)
    gc.freeze()  # a collection that looked through all of it would copy it into each command's process
    for line in sys.stdin:
        request = json.loads(line)
        if any("sweeper=search" in each for each in request["arguments"]):
            for name in SEARCH:
                importlib.import_module(name)
            gc.freeze()
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
