"""`fmx watch` in a browser: the page of a sweep renews itself, asks nobody else, and outlives what it shows."""

import shutil
import signal
import socket
import sys
import time

import pytest

from chromium import chromium_page
from test_status import begin, kill
from test_sweep import alive, status, wait_for
from watched_page import asked, watched

FMX = [sys.executable, "-m", "fmx"]
ROWS = "document.querySelectorAll('#leaderboard tbody tr').length"
LINE = "document.getElementById('live').textContent"
OTHERS = "[...document.querySelectorAll('#unfinished tbody tr')].map(row => row.cells[1].textContent).join()"


def sees(tab, expression, *, timeout_s=90):
    """Wait until a JavaScript expression holds on the page."""
    until = time.monotonic() + timeout_s
    while not tab.evaluate(expression):
        assert time.monotonic() < until, (expression, tab.evaluate("document.body.innerText")[:3000], tab.console)
        time.sleep(0.2)


@pytest.mark.browser
def test_rows_appear_as_jobs_end_and_the_page_outlives_command_files_and_folder(tmp_path):
    gates = [tmp_path / "slow-0.001", tmp_path / "slow-0.004"]  # of the first job and of the last one
    for gate in gates:
        gate.touch()
    rates = "optim.lr=0.001,0.002,0.003,0.004"
    running = begin(tmp_path, rates, "hydra.sweep.dir=sweep", file="slow-${optim.lr}")
    sweep = tmp_path / "sweep"
    wait_for((sweep / "0/history.csv").exists)
    with watched(tmp_path, "sweep") as (server, address), chromium_page() as tab:
        tab.open(address, height=400)
        assert "No run has completed" in tab.evaluate("document.body.textContent")
        assert "1 running · 3 queued" in tab.evaluate(LINE)
        tab.evaluate("window.loaded = 'once'")
        gates[0].unlink()
        sees(tab, f"{ROWS} >= 1")
        tab.evaluate("document.querySelectorAll('#leaderboard th button')[1].click()")
        tab.evaluate("document.querySelector('[data-curve=\"train/loss\"]').click()")
        tab.evaluate(
            "document.querySelector('details').open = true; document.getElementById('curves').scrollIntoView()"
        )
        place = tab.evaluate("scrollY")
        sees(tab, f"{ROWS} === 3")
        sees(tab, f"{LINE}.includes('1 running · 3 completed')")
        assert place > 300
        assert tab.evaluate("scrollY") > 300
        assert tab.evaluate("document.querySelectorAll('#leaderboard th')[1].ariaSort") == "descending"
        assert (
            tab.evaluate("document.querySelector('#curve-choice [aria-pressed=true]').textContent") == "training loss"
        )
        assert tab.evaluate("document.querySelector('#curves .ytitle').textContent") == "training loss"
        assert tab.evaluate("document.querySelector('details').open")
        assert tab.evaluate("document.querySelectorAll('#live, #charts').length") == 2

        wait_for((sweep / "3/history.csv").exists)
        kill(running)
        sees(tab, f"{LINE}.includes('no command is at work') && {OTHERS} === 'interrupted'")
        record = (sweep / "1/run.json").read_text()
        (sweep / "1/run.json").write_text(record[:300])
        sees(tab, f"{ROWS} === 2 && {OTHERS}.includes('unreadable')")
        (sweep / "1/run.json").write_text(record)
        sees(tab, f"{ROWS} === 3")
        shutil.move(sweep, tmp_path / "moved")
        sees(tab, f"{LINE}.includes('does not exist')")
        assert tab.evaluate(ROWS) == 3
        shutil.move(tmp_path / "moved", sweep)
        sees(tab, f"{LINE}.includes('3 completed')")
        assert tab.evaluate("window.loaded") == "once", "the page was loaded anew"
        assert tab.console == []
        foreign = [url for url in tab.requests if not url.startswith((address, "data:", "blob:"))]
        assert foreign == []
        assert {url.removeprefix(address) for url in tab.requests} >= {"", "state", "plotly.js"}
        server.send_signal(signal.SIGINT)
        sees(tab, f"{LINE}.includes('fmx watch has ended')")


@pytest.mark.browser
def test_killed_and_started_again_it_serves_the_open_page_and_the_sweep_goes_on(tmp_path):
    held = "+callbacks.held={_target_:faults.Held,file:'held-${seed}'}"
    for seed in (1, 2):
        (tmp_path / f"held-{seed}").touch()
    running = begin(tmp_path, "seed=1,2", "hydra.sweep.dir=sweep", held, file="none")
    sweep = tmp_path / "sweep"
    wait_for((sweep / "0/history.csv").exists)
    with chromium_page() as tab:
        with watched(tmp_path, "sweep", code=-signal.SIGKILL) as (server, address):
            tab.open(address)
            sees(tab, f"{LINE}.includes('1 running · 1 queued')")
            tab.evaluate("window.loaded = 'once'")
            kill(server)
            sees(tab, f"{LINE}.includes('cannot be reached')")
        (tmp_path / "held-1").unlink()
        wait_for((sweep / "1/history.csv").exists)
        assert tab.evaluate(ROWS) == 0
        port = address.rpartition(":")[2].strip("/")
        with watched(tmp_path, "sweep", "--port", port) as (_, again):
            assert again == address
            sees(tab, f"{LINE}.includes('1 running · 1 completed') && {ROWS} === 1")
            (tmp_path / "held-2").unlink()
            sees(tab, f"{ROWS} === 1 && {LINE}.includes(' 2 completed')")
            assert tab.evaluate("window.loaded") == "once", "the page was loaded anew"
    assert running.wait() == 0
    wait_for(lambda: not alive(tmp_path))
    assert status(sweep) == {"0": "completed", "1": "completed"}
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]
    tables = {"leaderboard.csv", "leaderboard.md", "leaderboard.html"}
    assert {path.name for path in sweep.iterdir()} == {
        "0",
        "1",
        "jobs",
        "sweep.json",
        "multirun.yaml",
        ".lock",
    } | tables


def test_only_the_page_is_served_and_only_under_its_own_name(command, digits_run, tmp_path):
    with watched(tmp_path, str(digits_run)) as (_, address):
        port = int(address.rpartition(":")[2].strip("/"))
        assert asked(address)[0] == 200
        assert asked(address, Host=f"localhost:{port + 1}")[0] == 200, "the end of a tunnel"
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost:80:80", ""):
            assert asked(address, Host=name)[0] == 421, name
        for path in ("run.json", "../run.json", "%2e%2e/run.json", "static/", "/etc/passwd", "page"):
            assert asked(address, path) == (404, "there is no such page\n"), path
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((socket.gethostbyname(socket.gethostname()), port), timeout=5).close() or refuse()
        taken = command(str(digits_run), "--port", str(port), cwd=tmp_path, module="watch")
        assert (taken.returncode, f"port {port} of 127.0.0.1 is not available" in taken.stderr) == (2, True)
    assert command("nowhere", cwd=tmp_path, module="watch").returncode == 1
    assert command(cwd=tmp_path, module="watch").returncode == 1
    assert command("--port", "70000", cwd=tmp_path, module="watch").returncode == 2


def refuse():
    """For a host name that is the loopback address itself, which says nothing."""
    raise ConnectionRefusedError("refused")
