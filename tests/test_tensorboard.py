"""TensorBoard in a real browser, on the outputs of a real sweep, served by `fmx tensorboard`."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from chromium import chromium_page

# TensorBoard's text is spread over shadow roots, and a frame for the projector.
TEXT = r"""(() => {
  const read = node => [...node.childNodes].map(child =>
    child.nodeType === 3 ? child.textContent :
    child.nodeType !== 1 || ['STYLE', 'SCRIPT', 'NOSCRIPT'].includes(child.tagName) ? '' :
    child.tagName === 'IFRAME' ? read(child.contentDocument.body) :
    read(child) + (child.shadowRoot ? read(child.shadowRoot) : '')).join(' ')
  return read(document.body).replace(/\s+/g, ' ')
})()"""
EXPECTED = {
    # The first two groups of charts are open: the curves are there without a click.
    "timeseries": ["curves /loss Alt", "curves /accuracy Alt", "sweeps/sweep/lenet/train", "sweeps/sweep/mlp/val"],
    "scalars": ["tag: curves/loss", "sweeps/sweep/lenet/train", "sweeps/sweep/mlp/val", "final", " steps", " lr"],
    # Two of each: both jobs, and neither again as outputs/latest.
    "images": ["samples 2", "learning_curves 2", "steps 2", "confusion_matrix 2", "predictions 2", "mistakes 2"],
    "text": ["config/text_summary", "_target_: fmx.models.mlp.MLP"],
    "pr_curves": ["sweeps/sweep/lenet", "sweeps/sweep/mlp"],
    "hparams": ["model", "lenet", "mlp", "optim.lr", "final/test_accuracy", "final/val_accuracy"],
    "graphs": ["sweeps/sweep/lenet", "Trace inputs"],
    # As many points as the test set has images.
    "projector": ["Points: 360", "Dimension: 10", "sweeps/sweep/lenet", "Label by"],
}
FMX = Path(sys.executable).with_name("fmx")


def serve(folder, *words):
    server = subprocess.Popen(
        [FMX, "tensorboard", "--port", "0", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    found = (re.search(r"(http://([\w.]+):(\d+))/ \(Ctrl-C", line) for line in server.stdout)
    return server, next(match for match in found if match)


def runs_of(address) -> list[str]:
    with urllib.request.urlopen(f"{address}/data/runs", timeout=60) as answer:
        return sorted(json.load(answer))


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tensorboard")
    done = command(
        "-m", "data=digits", "model=lenet,mlp", "augment=none", "trainer.max_epochs=2",
        "callbacks.history.every_step=true", "hydra.sweep.dir=outputs/sweeps/sweep", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(sweep):
    server, match = serve(sweep)
    yield match
    server.kill()
    server.communicate()


@pytest.mark.browser
def test_every_tab_shows_the_sweep_and_asks_nothing_of_other_machines(address):
    with chromium_page() as page:
        for tab, words in EXPECTED.items():
            page.open(f"{address[1]}/?tab={tab}#{tab}", width=1400, height=1000)
            deadline, text = time.monotonic() + 90, ""
            while not all(word in text for word in words) and time.monotonic() < deadline:
                time.sleep(1)
                text = page.evaluate(TEXT)
            if os.environ.get("SHOTS"):
                page.screenshot(Path(os.environ["SHOTS"]) / f"{tab}.png")
            assert [word for word in words if word not in text] == [], f"#{tab} shows {text[-2000:]}"
            assert "fmx-tensorboard-" not in text
            assert "latest" not in text
        assert page.requests
        assert [url for url in page.requests if not url.startswith((address[1], "data:", "blob:", "about:"))] == []
        assert [entry for entry in page.console if entry.get("level") == "error"] == []


def test_the_server_listens_on_the_loopback_address_alone(address):
    assert address[2] == "127.0.0.1"
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    port = f"{int(address[3]):04X}"
    addresses = {
        line.split()[1] for line in listening if line.split()[3] == "0A" and line.split()[1].endswith(f":{port}")
    }
    assert addresses == {f"0100007F:{port}"}


def test_training_and_validation_of_a_figure_are_two_curves_of_one_chart(sweep, address):
    with urllib.request.urlopen(f"{address[1]}/data/plugin/scalars/tags", timeout=60) as answer:
        tags = {run: {*tags} for run, tags in json.load(answer).items()}
    for job in ("lenet", "mlp"):
        run = f"sweeps/sweep/{job}"
        assert tags[f"{run}/train"] == {"curves/loss", "curves/accuracy", "steps/loss", "steps/accuracy"}
        assert tags[f"{run}/val"] >= {"curves/loss", "curves/accuracy"}
        assert not {tag for tag in tags[run] if tag.startswith(("train/", "val/", "curves/"))}
    assert (sweep / "outputs" / "sweeps" / "sweep" / "0" / "figures" / "steps.png").stat().st_size


def test_the_embedding_has_sprites(sweep):
    for job in (0, 1):
        (config,) = sweep.glob(f"outputs/sweeps/sweep/{job}/tensorboard/projector_config.pbtxt")
        assert "sprite.png" in config.read_text()


def events(folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        writer.add_scalar("x", 1.0, 0)


def run_directory(folder: Path, *overrides: str) -> Path:
    events(folder / "tensorboard")
    (folder / "run.json").write_text(json.dumps({"overrides": overrides, "status": "completed"}))
    return folder


def test_names_tell_runs_apart_and_lead_nowhere_else(tmp_path):
    """Odd, foreign and equal names; runs of other programs; a run that begins later; the end by Ctrl-C."""
    outputs = tmp_path / "outputs"
    odd = {
        0: ["model=mlp", "+vars.x=../../../etc", "seed=1"],
        1: ["model=mlp", "+vars.x=a/b", "seed=1"],
        2: ["model=mlp", "+vars.x=a_b", "seed=1"],  # as the one before, once it is a file's name
        3: ["model=mlp", "+vars.x=" + "ä" * 5000, "seed=1"],
        4: ["model=mlp", "+vars.x=\x1b[31m\n", "seed=1", "optim.lr=0.00019752223917"],
        5: [],
    }
    for number, overrides in odd.items():
        run_directory(outputs / "sweeps" / "s" / str(number), *overrides)
    (outputs / "sweeps" / "s" / "5" / "run.json").write_text("{ broken")
    run_directory(outputs / "runs" / "mine", "model=mlp")
    (outputs / "latest").symlink_to("runs/mine")
    events(tmp_path / "other" / "lightning_logs" / "version_0")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    server, address = serve(tmp_path, "outputs", "other")
    try:
        names = runs_of(address[1])
        run_directory(outputs / "runs" / "later")
        deadline = time.monotonic() + 60
        while "outputs/runs/later" not in runs_of(address[1]) and time.monotonic() < deadline:
            time.sleep(0.5)
        later = runs_of(address[1])
    finally:
        server.send_signal(signal.SIGINT)
        said, _ = server.communicate(timeout=60)
    assert names == sorted(
        [
            "other/lightning_logs/version_0",
            "outputs/runs/mine",
            "outputs/sweeps/s/mlp x=.._.._.._etc seed=1",
            "outputs/sweeps/s/mlp x=a_b seed=1",
            "outputs/sweeps/s/mlp x=a_b seed=1 #2",
            f"outputs/sweeps/s/mlp x={'ä' * 44}…{'ä' * 42} seed=1",
            r"outputs/sweeps/s/mlp x=_x1b[31m_n seed=1 lr=0.0001975",
            "outputs/sweeps/s/5",
        ]
    )
    assert set(later) - set(names) == {"outputs/runs/later"}
    assert server.returncode == 0
    assert said.splitlines()[-1] == "TensorBoard has ended."
    assert "Traceback" not in said
    changed = [path for path in before if path.lstat().st_mtime_ns != before[path]]
    assert changed == [outputs / "runs"], "nothing may be written where the runs are"


def test_what_cannot_be_served_is_told_in_one_line(tmp_path, command):
    def told(*words):
        done = command(*words, cwd=tmp_path, module="tensorboard")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.returncode, done.stderr

    assert told() == (1, "there is no folder outputs; `fmx tensorboard outputs` shows what was trained here\n")
    (tmp_path / "outputs").mkdir()
    code, said = told()
    assert (code, said[:42]) == (1, "outputs holds no TensorBoard event files; ")
    assert "fmx data=digits" in said
    (tmp_path / "file").write_text("")
    assert "file is no folder" in told("file")[1]
    assert told("--prot", "1")[0] == 2
    assert "'--port'" in told("--prot", "1")[1]
    assert told("--port", "70000")[0] == 2
    run_directory(tmp_path / "outputs" / "runs" / "mine")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = command("--port", port, cwd=tmp_path, module="tensorboard")
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "--port (0: any that is free)" in done.stderr
    assert "Traceback" not in done.stderr
    done = command("--", "--no_such_option", cwd=tmp_path, module="tensorboard")
    assert done.returncode == 2
    assert "--no_such_option" in done.stderr
