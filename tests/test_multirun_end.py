"""Hydra's on_multirun_end: the example of docs/sweeps.md posts a note to a local server, however the sweep ends."""

import json
import os
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from test_sweep import here

pytestmark = pytest.mark.usefixtures("no_figures")

PAGE = Path(__file__).parents[1] / "docs/sweeps.md"
SMALL = ["data=digits", "model=mlp", "augment=none", "logger=none", "trainer=smoke", "--config-dir", "my"]
BAD = "+callbacks.bad={_target_:bad.Bad,seed:${seed}}"
HELD = "+callbacks.held={_target_:faults.Held}"
FAILS = """\
from pathlib import Path
from pytorch_lightning import Callback
class Bad(Callback):
    def __init__(self, seed):
        self.seed = seed
    def on_train_start(self, *_):
        if self.seed == 2 and Path("bad").exists():
            raise RuntimeError("out of luck")
"""


@pytest.fixture
def notes():
    """The texts posted to a server of this test, and its address."""
    texts = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield texts, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def example(folder):
    """Write the files of the page."""
    for text in re.findall(r"```(?:yaml|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        named = re.match(r"# ([\w/.]+)", text)
        if named and named[1].rpartition("/")[2].startswith("note."):
            (folder / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / named[1]).write_text(text)


def test_the_note_of_the_page(command, notes, tmp_path):
    texts, url = notes
    example(tmp_path)
    env = {"NOTE_URL": url, "PYTHONPATH": os.pathsep.join([str(tmp_path / "code"), str(tmp_path)])}
    (tmp_path / "bad.py").write_text(FAILS)
    (tmp_path / "bad").touch()
    sweep = ["-m", *SMALL, "hydra/callbacks=note", BAD, "seed=1,2", "hydra.sweep.dir=sweep"]

    def ends(*arguments, code=0):
        texts.clear()
        done = command(*arguments, cwd=tmp_path, env=env)
        assert done.returncode == code, done.stdout + done.stderr
        return [*texts], done.stdout + done.stderr

    assert ends(*sweep, "--dry-run")[0] == []
    assert ends(*sweep, code=1)[0] == ["sweep: {'completed': 1, 'failed': 1}"]
    (tmp_path / "bad").unlink()
    resumed, said = ends("--resume-sweep", "sweep", "--allow", "bad", "--allow", "note")
    assert resumed == ["sweep: {'completed': 2}"], said
    resumed, said = ends("--resume-sweep", "sweep")
    assert resumed == []
    assert "on_multirun_end is called of no callback" in said
    assert "--allow note" in said
    assert ends(*sweep)[0] == ["sweep: {'completed': 2}"]
    env["NOTE_URL"] = "http://127.0.0.1:9/"
    assert "Callback Note.on_multirun_end raised URLError" in ends(*sweep)[1]
    env["NOTE_URL"] = url
    search = [
        "-m",
        "hydra/sweeper=search",
        *SMALL,
        "hydra/callbacks=note",
        "optim.lr=0.001,0.002",
        "hydra.sweep.dir=found",
    ]
    assert ends(*search, "hydra.sweeper.n_trials=1")[0] == ["found: {'completed': 1}"]


@pytest.mark.parametrize("kind", ["sweep", "search"])
def test_the_note_of_a_sweep_that_is_stopped(command, notes, tmp_path, kind):
    texts, url = notes
    example(tmp_path)
    env = here() | {"NOTE_URL": url}
    env["PYTHONPATH"] += f"{os.pathsep}{tmp_path / 'code'}{os.pathsep}{tmp_path}"
    (tmp_path / "slow").touch()
    jobs = {
        "sweep": ["seed=1,2"],
        "search": ["hydra/sweeper=search", "optim.lr=0.001,0.002", "hydra.sweeper.n_trials=2"],
    }
    begins = ["-m", *SMALL, *jobs[kind], "hydra/callbacks=note", HELD, "hydra.launcher.workers=1", "trainer=cpu"]
    begins.append("trainer.max_epochs=2")

    def stopped(signum, code):
        texts.clear()
        send = (tmp_path / signum.name / "0/history.csv", signum)
        done = command(*begins, f"hydra.sweep.dir={signum.name}", cwd=tmp_path, env=env, send=send)
        assert done.returncode == code, done.stdout + done.stderr
        return [*texts]

    assert stopped(signal.SIGINT, 130) == ["SIGINT: {'interrupted': 1}"]
    assert stopped(signal.SIGTERM, 143) == ["SIGTERM: {'interrupted': 1}"]
    assert stopped(signal.SIGKILL, -9) == []
    (tmp_path / "slow").unlink()
    done = command(*begins, "hydra.sweep.dir=SIGKILL", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert texts == ["SIGKILL: {'completed': 2}"]
