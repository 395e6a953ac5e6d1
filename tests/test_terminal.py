"""What a person sees on a terminal: all that a pipe gets, whole, however the terminal is; and how to go on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from terminal import Terminal

SMALL = ["data=digits", "model=mlp", "trainer=smoke", "logger=none"]
FAULT = "+callbacks.fault={_target_:faults.Fault,seed:${seed}}"
LONG = "+vars.note='a setting that is so long that no terminal of eighty columns has room for it in one row'"
FMX = [sys.executable, "-m", "fmx.run"]

# Everything that may write while the lines are live: log handlers of before, prints, warnings, other programs.
NOISE = """
import logging, os, subprocess, sys, time, warnings
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
logging.getLogger("other").addHandler(logging.StreamHandler(sys.stderr))
logging.getLogger("other").propagate = False
from rich.text import Text
from fmx.process.live_area import LiveArea

rows = [Text(f"#{number} job " + "x" * 100, no_wrap=True, overflow="ellipsis") for number in range(16)]
with LiveArea(lambda: [*rows, Text("a summary " * 12)], sys.stdout) as area:
    for number in range(8):
        logging.info("logged %d " + "y" * 100, number)
        logging.getLogger("other").warning("of another logger %d", number)
        print("printed", number)
        print("to stderr", number, file=sys.stderr)
        os.write(2, f"past Python {number}\\n".encode())
        subprocess.run(["echo", f"by another program {number}"])
        time.sleep(0.02)
    warnings.warn("a warning")
    sys.stdout.write("no newline at the end")
print("afterwards")
"""


def here():
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}


def wait_for(condition, timeout_s=100):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def without_figures(text):
    """A text without what differs from moment to moment: seconds, a place in an order, the free part of a disk."""
    return re.sub(r"\d+ s\b|\[\d+/\d+\]|[\d.]+ [kMGT]?B(?=\s+are\s+free)", "N", text)


@pytest.mark.parametrize(
    ("columns", "lines", "env"),
    [(60, 8, {}), (80, 24, {}), (160, 24, {"NO_COLOR": "1"}), (80, 24, {"TERM": "dumb"}), (80, 24, {"LC_ALL": "C"})],
)
def test_nothing_that_is_written_beside_live_lines_is_lost(tmp_path, columns, lines, env):
    (tmp_path / "noise.py").write_text(NOISE)
    terminal = Terminal([sys.executable, "noise.py"], cwd=tmp_path, columns=columns, lines=lines, env=env)
    assert terminal.read() == 0
    for number in range(8):
        for line in (
            f"logged {number} {'y' * 100}",
            f"of another logger {number}",
            f"printed {number}",
            f"to stderr {number}",
            f"past Python {number}",
            f"by another program {number}",
        ):
            assert terminal.shows(line), (line, terminal.text)
    assert "UserWarning: a warning" in terminal.unfolded
    if env.get("TERM") == "dumb":
        assert b"\x1b[" not in terminal.raw
    else:
        assert terminal.shows("no newline at the end")
        assert terminal.shows("afterwards")
        assert b"#15 job" in terminal.raw  # they were live
        assert "#15 job" not in terminal.text  # and are gone


@pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed")
def test_live_lines_on_a_terminal_that_is_resized(tmp_path):
    """In tmux, which folds lines anew as real terminals do, at each of three sizes."""
    (tmp_path / "noise.py").write_text(NOISE.replace("range(8)", "range(40)"))

    def tmux(*arguments):
        done = subprocess.run(
            ["tmux", "-S", "socket", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def shown():
        return tmux("capture-pane", "-p", "-J", "-S", "-").splitlines()

    (tmp_path / "tmux.conf").write_text("set -g history-limit 50000\nset -g remain-on-exit on\n")
    tmux("-f", "tmux.conf", "new-session", "-d", "-x", "100", "-y", "24", f"{sys.executable} noise.py")
    try:
        for number, (columns, rows) in ((2, (60, 10)), (15, (160, 40)), (25, (70, 24))):
            wait_for(lambda number=number: f"printed {number}" in shown())
            tmux("resize-window", "-x", str(columns), "-y", str(rows))
        wait_for(lambda: "afterwards" in shown())
        lines = [line.rstrip() for line in shown()]
    finally:
        tmux("kill-server")
    for number in range(40):
        for line in (f"logged {number} {'y' * 100}", f"printed {number}", f"to stderr {number}"):
            assert line in lines, (line, lines)


def test_a_terminal_shows_of_a_sweep_what_a_pipe_gets(command, tmp_path):
    """Result lines, failures and the table at the end; at 60 and 160 columns, with more jobs than rows."""
    (tmp_path / "faults.json").write_text(json.dumps({"2": "raise"}))
    jobs = ["-m", "seed=1,2,3", "optim.lr=1e-3,0.001", *SMALL, LONG, FAULT, "trainer.limit_train_batches=5"]
    piped = command(*jobs, "hydra.sweep.dir=piped", cwd=tmp_path, env=here())
    assert piped.returncode == 1, piped.stdout + piped.stderr
    lines = without_figures((piped.stdout + piped.stderr).replace("piped", "shown")).splitlines()
    assert sum("FAILED: " in line and "out of luck" in line for line in lines) == 1
    assert sum("it is run once" in line for line in lines) == 3
    assert sum(bool(re.match(r" *1 +2 +[\d.]+ ± [\d.]+ +[\d.]+ ± [\d.]+  ", line)) for line in lines) == 1, lines
    for columns, rows in ((60, 9), (160, 24)):
        terminal = Terminal(
            [*FMX, *jobs, "hydra.sweep.dir=shown"], cwd=tmp_path, columns=columns, lines=rows, env=here()
        )
        assert terminal.read() == 1, terminal.text
        shown = without_figures(terminal.unfolded)
        seen = re.sub(r"\s+", "", shown)
        for line in lines:
            if re.match("composing .* of ", line):
                continue  # as time passes
            assert re.sub(r"\s+", "", line) in seen, (line, terminal.text)
        assert max(len(row) for row in terminal.rows) <= columns
        (tmp_path / "shown").rename(tmp_path / f"shown{columns}")


SEARCH = ["-m", "hydra/sweeper=search", *SMALL, "hydra.sweep.dir=found", "hydra.sweeper.n_trials=3"]


def test_a_terminal_shows_of_a_search_what_a_pipe_gets(tmp_path):
    (tmp_path / "faults.json").write_text(json.dumps({"2": "raise"}))
    space = ["seed=1,2,3", "hydra.sweeper.sampler=grid", FAULT, "trainer.limit_train_batches=5"]
    terminal = Terminal([*FMX, *SEARCH, *space], cwd=tmp_path, env=here())
    assert terminal.read() == 1, terminal.text
    for number in range(1, 4):
        assert sum(row.startswith(f"[{number}/3] #") for row in terminal.rows) == 1, terminal.text
    assert "FAILED: RuntimeError: this seed is out of luck" in terminal.unfolded
    assert "3 trials: 2 completed, 1 failed" in terminal.text
    assert re.search(r"trial +val/accuracy +chosen", terminal.text), terminal.text


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_of_a_sweep_says_how_to_go_on(tmp_path, times):
    (tmp_path / "slow").touch()
    slow = "+callbacks.slow={_target_:faults.Slow}"
    jobs = ["-m", "seed=1,2,3", *SMALL, slow, "trainer.max_epochs=50", "hydra.sweep.dir=a sweep"]
    terminal = Terminal([*FMX, *jobs], cwd=tmp_path, env=here(), columns=60)
    terminal.read(until=lambda: len(list(tmp_path.glob("a sweep/*/history.csv"))) > 0)
    terminal.press(b"\x03")
    if times == 2:
        terminal.read(until=lambda: "stopping:" in terminal.unfolded)
        terminal.press(b"\x03")
    assert terminal.read() == 130
    assert terminal.shows("stopping: the running jobs save their states; once more ends them at once"), terminal.text
    assert terminal.shows(f"to go on: fmx run --resume-sweep '{tmp_path / 'a sweep'}' --allow faults"), terminal.text
    assert terminal.unfolded.rstrip().endswith("--allow faults")
    if times == 1:
        assert sum("interrupted" in row for row in terminal.rows) >= 1


@pytest.mark.parametrize(
    "moment", ["composing 2 jobs", "checking the parts of the jobs", "checking the 2 configurations"]
)
def test_an_interruption_before_the_first_job_says_how_to_go_on(tmp_path, moment):
    search = "configurations" in moment
    jobs = [*SEARCH, "seed=1,2"] if search else ["-m", "seed=1,2", *SMALL, "hydra.sweep.dir=sweep"]
    terminal = Terminal([*FMX, *jobs], cwd=tmp_path)
    terminal.read(until=lambda: moment in terminal.unfolded)
    terminal.press(b"\x03")
    assert terminal.read() == 130
    assert terminal.shows("interrupted before the first job: type the same command to start again"), terminal.text
    assert "Traceback" not in terminal.text
    assert list(tmp_path.iterdir()) == []


def test_sigterm_and_a_second_signal_to_a_search_say_how_to_go_on(tmp_path):
    (tmp_path / "slow").touch()
    jobs = [*SEARCH, "seed=1,2,3", "+callbacks.slow={_target_:faults.Slow}", "trainer.max_epochs=50"]
    for count in (1, 2):
        search = subprocess.Popen(
            [*FMX, *jobs], cwd=tmp_path, env=os.environ | here(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        for line in search.stdout:
            if line.startswith("search: "):
                break
        if count == 2:
            wait_for(lambda: list(tmp_path.glob("found/*/run.json")))
        search.send_signal(signal.SIGTERM)
        if count == 2:
            for line in search.stdout:
                if line.startswith("stopping: "):
                    search.send_signal(signal.SIGTERM)
                    break
        output = search.stdout.read()
        search.stdout.close()
        assert search.wait(100) == 143, output
        last = output.splitlines()[-1]
        assert last.startswith("to go on: python -m fmx.run -m hydra/sweeper=search"), output
        assert last.endswith(f"hydra.sweep.dir={tmp_path / 'found'}"), output


def test_the_bar_of_a_run_shows_epoch_and_figures_and_ctrl_c_stands_alone(tmp_path):
    run = ["data=digits", "model=mlp", "logger=none", "trainer.max_epochs=500", "hydra.run.dir=run"]
    terminal = Terminal([*FMX, *run], cwd=tmp_path, columns=60)

    def bar():
        return next((row for row in terminal.rows if re.match(r"epoch \d+/500  [━─]{20}  step", row)), "")

    terminal.read(until=lambda: bool(bar()) and "epoch 4/500  step" in terminal.text)
    terminal.read(until=lambda: bool(bar()))
    figures = terminal.text.rpartition("━" if "━" in terminal.text else "─")[2]
    assert "train loss" in figures, terminal.text
    assert "val loss" in figures, terminal.text
    terminal.press(b"\x03")
    assert terminal.read() == 130
    assert any(re.fullmatch(r"SIGINT: saving the state after step \d+", row) for row in terminal.rows), terminal.text
    assert terminal.shows(f"interrupted; resume={tmp_path / 'run'} continues it")
    assert not bar()
    epochs = re.findall(r"^epoch (\d+)/500  step", terminal.text, re.MULTILINE)
    assert epochs == [str(number) for number in range(1, len(epochs) + 1)]


def test_a_bar_beside_a_pipe_is_no_bar(tmp_path):
    """`fmx … | cat` prints to the terminal that stderr is as well."""
    line = f"{sys.executable} -m fmx.run {' '.join(SMALL)} hydra.run.dir=run | cat"
    terminal = Terminal(["bash", "-c", line], cwd=tmp_path)
    assert terminal.read() == 0
    assert any(row.startswith("epoch 1/1  step 3") for row in terminal.rows), terminal.text
    assert "━".encode() not in terminal.raw
