"""fmx from Python: the lines that a script or a notebook has, run in a process of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from fmx.errors import ConfigError
from fmx.inference.image_model import pixels_of

EXAMPLES = Path(__file__).parents[1] / "examples"

SCRIPT = """
import json, logging, os, random, signal, sys
import fmx
heavy = [name for name in ("hydra", "numpy", "pandas", "torch") if name in sys.modules]
assert not heavy, heavy

def state():
    return (os.getcwd(), [*sys.argv], dict(os.environ), random.getstate(), signal.getsignal(signal.SIGINT),
            [*logging.getLogger().handlers], logging.getLogger("fmx").level)

random.seed(7)
before = state()
run = fmx.train("model=mlp", "data=digits", "trainer.max_epochs=2", "hydra.run.dir=first")
changed = [(was, now) for was, now in zip(before, state()) if was != now]
assert not changed, changed
again = fmx.train("model=lenet", "data=digits", "trainer.max_epochs=1", "seed=2", "hydra.run.dir=second")
changed = [(was, now) for was, now in zip(before, state()) if was != now]
assert not changed, changed

import numpy as np
import torch
from PIL import Image

assert isinstance(run, fmx.Run) and run.status == "completed" and repr(run) == f"Run({str(run.path)!r})"
assert 0.5 < run.metrics["test"]["accuracy"] <= 1
assert list(run.history["epoch"]) == [1, 2] and run.history["val/loss"].notna().all()
assert run.predictions.logits.shape == (len(run.predictions.labels), 10) == (360, 10)
assert run.config.model.name == "mlp" and run.config.trainer.max_epochs == 2
with Image.open(run.figures["confusion_matrix"]) as figure:
    assert figure.width > 100
assert fmx.open_run("second").config.seed == 2

from hydra.utils import instantiate
test = instantiate(run.config.data.test)
images, labels = test.images.numpy(), test.labels.numpy()
names, probabilities, classes = run.predict(images)
assert classes == run.class_names and probabilities.shape == (360, 10) and np.allclose(probabilities.sum(1), 1)
right = np.mean([name == classes[label] for name, label in zip(names, labels)])
assert abs(right - run.metrics["test"]["accuracy"]) < 1e-6, "what the run says of its test set is what its metrics say"
flat = images[:, 0]
assert run.predict(flat).names == names
pictures = [Image.fromarray(image) for image in flat[:20]]
assert run.predict(pictures).names == names[:20]
pictures[3].save("3.png")
assert run.predict("3.png").names == run.predict([pictures[3]]).names == [names[3]]

net = run.load_model()
assert isinstance(net, torch.nn.Module) and not net.training
with torch.inference_mode():
    assert torch.equal(net(torch.from_numpy(images)), net(images)) and net(pictures).shape == (20, 10)
    bare = run.load_model(raw=True)
    normalised = net.normalize(torch.from_numpy(images))
    assert normalised.dtype == torch.float32 and torch.equal(bare(normalised), net(images))
    stored = torch.from_numpy(run.predictions.logits)
    assert torch.allclose(net(images), stored[np.argsort(run.predictions.indices)], atol=1e-4)

import pathlib
mine = "import fmx.models.mlp as mlp; Mine = type('Mine', (mlp.MLP,), {'__module__': 'mine'})"
pathlib.Path("mine.py").write_text(mine)
own = fmx.train("model=mlp", "data=digits", "trainer=smoke", "model.net._target_=mine.Mine", "hydra.run.dir=own")
assert len(own.predict(pictures[:2]).names) == 2, "what this process has trained is trusted"
assert len(fmx.open_run("own", allow="mine").predict(pictures[:2]).names) == 2

def refused(kind, what, *arguments):
    try:
        what(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError(arguments)

last = images[:, 0, :, :, None]
for same in (last, images.reshape(len(images), -1), torch.from_numpy(last)):
    assert torch.allclose(net(same), net(images), atol=1e-5)
    assert np.allclose(run.predict(same).probabilities, run.predict(images).probabilities, atol=1e-5)
small = np.zeros((1, 8, 8), np.uint8)
assert "(N, 1, 28, 28) or (N, 28, 28), got (1, 8, 8)" in refused(fmx.ConfigError, run.predict, small)
assert "uint8" in refused(fmx.ConfigError, net, torch.zeros(1, 1, 28, 28))
assert "no images" in refused(fmx.ConfigError, run.predict, [])
assert "no such file" in refused(fmx.DataError, run.predict, "nowhere.png")
assert "did you mean 'lenet'" in refused(fmx.ConfigError, fmx.train, "model=lenett")
assert "optim.lr" in refused(fmx.ConfigError, fmx.train, "model=mlp", "data=digits", "lr=0.1")
assert "trains one run" in refused(fmx.ConfigError, fmx.train, "-m", "seed=1,2")
assert "seed=1,2 gives several values: call fmx.train for each" in refused(fmx.ConfigError, fmx.train, "seed=1,2")
assert "holds a run already" in refused(fmx.ConfigError, fmx.train, "data=digits", "hydra.run.dir=first")
assert 'add --allow mine (in Python: allow=["mine"])' in refused(fmx.DataError, fmx.open_run("own").load_model)
assert "is not a run directory" in refused(fmx.DataError, fmx.open_run, "nowhere")
assert state()[0] == before[0] and state()[4] == before[4]

table = fmx.open_runs("first", "second")
assert list(table["model"]) == ["mlp", "lenet"] and list(table["seed"]) == [1, 2]
assert list(table["test_accuracy"]) == [each.metrics["test"]["accuracy"] for each in (run, again)]
board = table.leaderboard()
assert list(board["rank"]) == [1, 2] and set(board["model"]) == {"mlp", "lenet"} and list(board["n"]) == [1, 1]
assert len(table[table.seed == 2].leaderboard()) == 1
print("all lines hold")
"""


def test_channels_may_come_last_where_that_is_certain():
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    colour = SimpleNamespace(shape=(3, 4, 5), dtype="uint8", value_range=(0.0, 255.0))
    last = np.moveaxis(images, 1, -1)
    for given in (images, last, torch.from_numpy(last), list(last)):
        assert np.array_equal(pixels_of(given, colour, "auto"), images)
    with pytest.raises(ConfigError, match=r"images must be \(N, 3, 4, 5\) or \(N, 4, 5, 3\), got \(2, 5, 4, 3\)"):
        pixels_of(images.transpose(0, 3, 2, 1), colour, "auto")
    cube = SimpleNamespace(shape=(3, 3, 3), dtype="uint8", value_range=(0.0, 255.0))
    with pytest.raises(ConfigError, match=r"may be \(N, C, H, W\) or \(N, H, W, C\): give a tensor"):
        pixels_of(images[:, :, :3, :3], cube, "auto")
    assert np.array_equal(pixels_of(torch.from_numpy(images[:, :, :3, :3]), cube, "auto"), images[:, :, :3, :3])


def test_what_a_script_types(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "error", "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all lines hold"


def test_ctrl_c_saves_the_state_and_is_a_keyboard_interrupt(tmp_path):
    (tmp_path / "script.py").write_text(
        "import fmx\n"
        "try:\n"
        "    fmx.train('model=mlp', 'data=digits', 'trainer.max_epochs=100000', 'hydra.run.dir=run')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 200
    while not (tmp_path / "run/history.csv").exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert said.splitlines()[-1] == "interrupted", said
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


def test_a_foreign_run_runs_no_code(command, tmp_path):
    done = command("model=mlp", "data=digits", "trainer=smoke", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    resolved = tmp_path / "run/.hydra/resolved.yaml"
    resolved.write_text(resolved.read_text().replace("fmx.models.mlp.MLP", "os.system"))
    program = "import fmx; fmx.open_run('run').load_model()"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "fmx.errors.DataError: " in done.stderr.splitlines()[-1]
    assert "os.system" in done.stderr.splitlines()[-1]


KERNEL = """
import gc, locale, logging, multiprocessing, os, random, resource, signal, sys, threading, warnings
import matplotlib, numpy, pandas, torch
import fmx

def state():
    generator = numpy.random.get_state()
    return {
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "algorithms": (torch.are_deterministic_algorithms_enabled(),
                       torch.is_deterministic_algorithms_warn_only_enabled(),
                       torch.utils.deterministic.fill_uninitialized_memory),
        "precision": (torch.get_float32_matmul_precision(), torch.get_default_dtype(), torch.get_default_device()),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
                  torch.backends.mkldnn.enabled),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "sharing": (torch.multiprocessing.get_sharing_strategy(), multiprocessing.get_start_method(allow_none=True)),
        "torch": torch.get_rng_state().tolist(), "numpy": (generator[1].tolist(), *generator[2:]),
        "python": random.getstate(),
        "filters": [*warnings.filters], "showwarning": warnings.showwarning,
        "handlers": [*logging.getLogger().handlers], "level": logging.getLogger().level,
        "loggers": {name: (logger.level, logger.propagate, logger.disabled, [*logger.handlers])
                    for name in ("fmx", "mine", "pytorch_lightning", "matplotlib", "hydra")
                    for logger in [logging.getLogger(name)]},
        "logging": (logging.root.manager.disable, logging.getLoggerClass(), logging.getLogRecordFactory()),
        "signals": {each: signal.getsignal(each) for each in signal.valid_signals()},
        "timers": (signal.getitimer(signal.ITIMER_REAL), signal.getitimer(signal.ITIMER_PROF)),
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "cwd": os.getcwd(), "argv": [*sys.argv], "path": [*sys.path], "environment": dict(os.environ),
        "streams": (sys.stdin, sys.stdout, sys.stderr, sys.stdout.encoding, sys.stdout.errors),
        "hooks": (sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook),
        "limits": [resource.getrlimit(getattr(resource, each)) for each in dir(resource) if each.startswith("RLIMIT_")],
        "umask": (mask := os.umask(0o022), os.umask(mask))[0],
        "gc": (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()),
        "interpreter": (sys.getrecursionlimit(), sys.getswitchinterval(), sys.gettrace(), sys.getprofile(),
                        locale.setlocale(locale.LC_ALL)),
        "matplotlib": (matplotlib.get_backend(), dict(matplotlib.rcParams)),
        "figures": sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else [],
        "numbers": (numpy.geterr(), numpy.get_printoptions(), pandas.get_option("display.max_rows")),
    }

class Mine(logging.Handler):
    def emit(self, record):
        pass

def settings_of_mine():
    sys.modules["fmx.training.hardware"].keep_freed_memory = None  # nothing may call what cannot be undone
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    torch.multiprocessing.set_sharing_strategy("file_system")
    warnings.filterwarnings("ignore", message="mine")
    logging.getLogger().addHandler(Mine())
    logging.getLogger("mine").setLevel(logging.DEBUG)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.umask(0o027)
    os.environ["OMP_NUM_THREADS"], os.environ["MINE"] = "1", "1"
    matplotlib.rcParams["figure.dpi"] = 77
    numpy.seterr(over="ignore")
    sys.path.append("mine")

RUN = ["data=digits", "model=mlp", "trainer=smoke"]
DETERMINISTIC = ["trainer.deterministic=true", "+trainer.benchmark=true", "+callbacks=ema"]
TRAININGS = [RUN, [*RUN, *DETERMINISTIC], [*RUN, "optim.lr=-1"]]
changed = []
for change in (lambda: None, settings_of_mine):
    change()
    for number, overrides in enumerate(TRAININGS):
        before = state()
        try:
            fmx.train(*overrides)
        except fmx.ConfigError:
            assert number == 2, overrides
        after = state()
        changed += [(name, was, after[name]) for name, was in before.items() if after[name] != was]
assert not changed, changed
print("nothing changed")
"""


def test_a_training_leaves_the_state_of_its_process(tmp_path):
    """With the defaults of all libraries, and with other values of what a user may have set before."""
    done = subprocess.run([sys.executable, "-c", KERNEL], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "nothing changed"


NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(tmp_path, path):
    notebook = nbformat.read(path, as_version=4)
    assert not [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs], (
        "commit it without outputs"
    )
    os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    errors = [out for cell in notebook.cells for out in cell.get("outputs", []) if out.output_type == "error"]
    assert not errors
