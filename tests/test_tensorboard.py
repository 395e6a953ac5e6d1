"""TensorBoard in a real browser, on the outputs of a real sweep, served as `make tensorboard` serves them."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chromium import chromium_page

# TensorBoard's text is spread over shadow roots.
TEXT = r"""(() => {
  const read = node => [...node.childNodes].map(child =>
    child.nodeType === 3 ? child.textContent :
    child.nodeType !== 1 || ['STYLE', 'SCRIPT'].includes(child.tagName) ? '' :
    read(child) + (child.shadowRoot ? read(child.shadowRoot) : '')).join(' ')
  return read(document.body).replace(/\s+/g, ' ')
})()"""
EXPECTED = {
    "scalars": ["tag: final/test_accuracy", " train 2 ", " val 3 ", " lr"],
    # Two of each: both jobs, and neither again as outputs/latest.
    "images": ["samples 2", "learning_curves 2", "confusion_matrix 2", "predictions 2", "mistakes 2"],
    "text": ["config/text_summary", "_target_: fmx.models.mlp.MLP"],
    "pr_curves": ["sweeps/sweep/0/tensorboard", "sweeps/sweep/1/tensorboard"],
    "hparams": ["model", "lenet", "mlp", "optim.lr", "final/test_accuracy", "final/val_accuracy"],
    "graphs": ["sweeps/sweep/0/tensorboard", "Trace inputs"],
}


def serving_command() -> list[str]:
    """The command of `make tensorboard`, by this interpreter and on any free port."""
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^tensorboard:.*\n\t(.*)", makefile, re.MULTILINE)
    assert recipe is not None
    return [sys.executable, "-m", "tensorboard.main", *shlex.split(recipe[1])[1:], "--port", "0"]


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tensorboard")
    done = command(
        "-m", "data=digits", "model=lenet,mlp", "augment=none", "trainer.max_epochs=2",
        "hydra.sweep.dir=outputs/sweeps/sweep", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(sweep):
    server = subprocess.Popen(serving_command(), cwd=sweep, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    found = (re.search(r"http://([\w.]+):(\d+)", line) for line in server.stderr)
    match = next(m for m in found if m)
    yield match
    server.kill()
    server.communicate()


@pytest.mark.browser
def test_every_tab_shows_the_sweep_and_asks_nothing_of_other_machines(address):
    assert address[1] == "127.0.0.1"
    with chromium_page() as page:
        for tab, words in EXPECTED.items():
            page.open(f"{address[0]}/?tab={tab}#{tab}", width=1400, height=1000)
            deadline, text = time.monotonic() + 60, ""
            while not all(word in text for word in words) and time.monotonic() < deadline:
                time.sleep(1)
                text = page.evaluate(TEXT)
            assert [word for word in words if word not in text] == [], f"#{tab} shows {text[-2000:]}"
        assert page.requests
        assert [url for url in page.requests if not url.startswith((address[0], "data:", "blob:", "about:"))] == []
        assert [entry for entry in page.console if entry.get("level") == "error"] == []


@pytest.mark.browser
def test_the_server_listens_on_the_loopback_address_alone(address):
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    port = f"{int(address[2]):04X}"
    addresses = {
        line.split()[1] for line in listening if line.split()[3] == "0A" and line.split()[1].endswith(f":{port}")
    }
    assert addresses == {f"0100007F:{port}"}


def test_the_embedding_has_sprites(sweep):
    for job in (0, 1):
        (config,) = sweep.glob(f"outputs/sweeps/sweep/{job}/tensorboard/projector_config.pbtxt")
        assert "sprite.png" in config.read_text()
