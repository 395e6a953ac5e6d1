"""What makes training quick changes nothing: losses to the bit, images, steps without Lightning's hooks."""

import csv
import gc
import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging, LambdaCallback

from fmx.data.augment import RandomCrop, RandomErasing, RandomHorizontalFlip
from fmx.runs.checkpoint_files import load_checkpoint
from fmx.runs.composition import compose_config
from fmx.training.build import build_classifier, build_data
from fmx.training.callbacks.lean_steps import LeanSteps
from fmx.training.hardware import ask_for_gpus_once, resolve_precision
from same_runs import assert_same, points

DIGITS = ["data=digits", "model=lenet", "augment=none", "trainer.precision=32-true"]


@pytest.mark.parametrize(
    ("units", "model", "precision"),
    [
        ("amx_bf16", "dilated", "bf16-mixed"),
        ("avx512_bf16", "two_conv", "bf16-mixed"),
        ("avx512_bf16", "lenet", "32-true"),
        ("avx512_bf16", "mlp", "32-true"),
        ("avx512_f", "dilated", "32-true"),
    ],
)
def test_auto_is_bf16_where_the_cpu_multiplies_it_and_the_network_repays_it(monkeypatch, units, model, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {units: True})
    net = build_classifier(compose_config([f"model={model}"])).net
    assert resolve_precision("auto", accelerator="cpu", net=net) == precision
    assert resolve_precision("16-mixed", accelerator="cpu", net=net) == "16-mixed"


def test_float32_losses_are_those_of_a_plain_loop_to_the_bit(command, tmp_path):
    overrides = [*DIGITS, "trainer.max_epochs=2", "callbacks.history.every_step=true", "trainer.accelerator=cpu"]
    finished = command(*overrides, "hydra.run.dir=run", cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    with (tmp_path / "run" / "steps.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cfg = compose_config(overrides)
    torch.manual_seed(cfg.seed)
    net = build_classifier(cfg).net
    data = build_data(cfg)
    images, labels = data.sources["train"].images, data.sources["train"].labels
    mean, std = torch.tensor(cfg.data.mean).view(1, 1, 1, 1), torch.tensor(cfg.data.std).view(1, 1, 1, 1)
    steps = -(-len(data.indices["train"]) // cfg.data.batch_size)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=cfg.optim.lr, weight_decay=cfg.optim.weight_decay, eps=cfg.optim.eps, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=cfg.optim.lr,
        total_steps=2 * steps,
        pct_start=0.3,
        div_factor=25.0,
        final_div_factor=1e4,
        cycle_momentum=False,
    )
    expected = []
    for epoch in range(2):
        generator = torch.Generator().manual_seed((cfg.seed << 20) + epoch)
        order = data.indices["train"][torch.randperm(len(data.indices["train"]), generator=generator)]
        for chunk in order.split(cfg.data.batch_size):
            x = torch.addcmul(-mean / std, images[chunk], 1 / (255 * std))
            loss = torch.nn.functional.cross_entropy(net(x), labels[chunk])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            expected.append(float(f"{loss.item():.8g}"))
    torch.set_num_threads(threads)
    assert losses == expected


def test_a_run_without_validation_logs_each_epoch_in_its_own_row(command, tmp_path):
    overrides = [*DIGITS, "data.validation=none", "trainer.max_epochs=2", "callbacks.history.every_step=true"]
    finished = command(*overrides, "hydra.run.dir=run", cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    with (tmp_path / "run" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "run" / "steps.csv").open() as file:
        steps = [float(row["loss"]) for row in csv.DictReader(file)]
    half = len(steps) // 2
    means = [sum(part) / half for part in (steps[:half], steps[half:])]
    assert [float(row["train/loss"]) for row in rows] == pytest.approx(means, rel=0.02)  # the last batch is smaller


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentations_are_what_they_say_pixel_by_pixel(channels):
    images = torch.randint(0, 256, (32, channels, 12, 12), dtype=torch.uint8)
    torch.manual_seed(1)
    mirrored = torch.rand(32) < 0.5
    torch.manual_seed(1)
    flipped = RandomHorizontalFlip(prob=0.5)(images)
    assert torch.equal(flipped, torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images))

    torch.manual_seed(1)
    top, left = torch.randint(5, (2, 32, 1)).flatten(1).tolist()
    torch.manual_seed(1)
    cropped = RandomCrop(padding=2)(images)
    padded = torch.nn.functional.pad(images, [2] * 4)
    for index in range(32):
        window = padded[index, :, top[index] : top[index] + 12, left[index] : left[index] + 12]
        assert torch.equal(cropped[index], window)

    erased = RandomErasing(prob=1.0, area=(0.1, 0.3), aspect=(0.5, 2.0))(images + 1 - (images == 255).byte())
    assert erased.dtype == torch.uint8
    assert 0.05 < (erased == 0).float().mean() < 0.35


LEAN = {
    "the defaults": ["model=lenet", "augment=flip", "trainer.max_epochs=3"],
    "clipped, in bf16": ["model=dropout_cnn", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.1"],
    "clipped by value": ["model=mlp", "trainer.gradient_clip_val=0.01", "+trainer.gradient_clip_algorithm=value"],
    "validated by steps": [
        "model=mlp", "schedule=step", "schedule.warmup_steps=9", "callbacks.history.every_step=true",
        "trainer.val_check_interval=17", "trainer.check_val_every_n_epoch=null", "trainer.log_every_n_steps=5",
    ],
    "so many steps": ["model=mlp", "optim=sgd", "+trainer.max_steps=33", "trainer.max_epochs=4"],
    "averaged weights": [
        "model=lenet", "trainer.max_epochs=4", "callbacks=[default,swa]", "callbacks.swa.start=0.5",
    ],
    "a part of each epoch": ["model=mlp", "schedule=plateau", "trainer.limit_train_batches=7", "trainer.max_epochs=4"],
}  # fmt: skip


@pytest.mark.parametrize("name", LEAN)
def test_lean_steps_are_lightnings_to_the_bit(command, tmp_path, name):
    """Weights, optimizer, schedule, history, each point of the curves, and Lightning's own counters."""
    for folder, seconds in ("lean", 10), ("plain", 0):
        overrides = ["data=digits", "data.batch_size=64", "trainer.max_epochs=2", *LEAN[name]]
        overrides += [f"callbacks.lean_steps.at_most_s={seconds}", f"hydra.run.dir={folder}"]
        finished = command(*overrides, cwd=tmp_path)
        assert finished.returncode == 0, finished.stdout + finished.stderr
    assert_same(tmp_path / "lean", tmp_path / "plain")
    assert points(tmp_path / "lean") == points(tmp_path / "plain")
    lean, plain = (load_checkpoint(tmp_path / folder / "checkpoints/last.ckpt") for folder in ("lean", "plain"))
    assert lean["loops"] == plain["loops"]
    assert lean["global_step"] == plain["global_step"] > 10


class SeesEachStep(Callback):
    def on_after_backward(self, *_):
        pass


class StepsSeldom(Callback):
    """Lets the schedule step at every so many steps, which only Lightning counts."""

    def __init__(self, frequency):
        self.frequency = frequency

    def on_train_start(self, trainer, _):
        (config,) = trainer.lr_scheduler_configs
        config.frequency = self.frequency


@pytest.mark.parametrize(
    ("callbacks", "options", "calls"),
    [
        ([], {}, [0, 9, 19]),  # the first step, the one that logs, the last
        ([], {"val_check_interval": 8}, [0, 7, 8, 9, 15, 16, 19]),
        ([SeesEachStep()], {}, list(range(20))),
        ([EMAWeightAveraging()], {}, list(range(20))),
        ([LambdaCallback(on_train_batch_end=lambda *_: None)], {}, list(range(20))),
        ([LambdaCallback(on_train_epoch_end=lambda *_: None)], {}, [0, 9, 19]),
        ([StepsSeldom(frequency=3)], {}, list(range(20))),
        ([], {"accumulate_grad_batches": 2}, list(range(20))),
        ([], {"profiler": "simple"}, list(range(20))),
    ],
)
def test_which_steps_stay_lightnings(tmp_path, callbacks, options, calls):
    cfg = compose_config(["data=digits", "model=mlp", "schedule=cosine"])
    classifier, data, seen = build_classifier(cfg), build_data(cfg), []
    step = classifier.training_step

    def training_step(batch, batch_idx):
        seen.append(batch_idx)
        return step(batch, batch_idx)

    classifier.training_step = training_step
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|lightning_utilities")
        trainer = Trainer(
        callbacks=[LeanSteps(at_most_s=10.0), *callbacks], max_epochs=1, log_every_n_steps=10, accelerator="cpu",
        default_root_dir=tmp_path, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, **options,
    )  # fmt: skip
        trainer.fit(classifier, datamodule=data)
    assert trainer.num_training_batches == 20
    assert seen == calls
    assert trainer.global_step == 20 // trainer.accumulate_grad_batches


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_step_without_a_gpu_does_not_search_for_its_library(monkeypatch):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
    searches = []
    monkeypatch.setattr(torch.cuda, "_raw_device_count_nvml", lambda: searches.append(True) or -1)
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.step()
    ask_for_gpus_once()
    searches.clear()
    optimizer.step()
    assert not searches
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "0"


LOOK = """
import gc
import json
import sys
from pathlib import Path

import torch
from pytorch_lightning import Callback


class Look(Callback):
    def on_train_end(self, *_):
        found = {"threshold": gc.get_threshold(), "kept": gc.get_freeze_count(), "collections": gc.get_stats()[2]}
        modules = {name: hasattr(module, "__file__") for name, module in sys.modules.items()}
        Path("found.json").write_text(json.dumps({**found, "modules": modules}))


class Compiled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)), backend="eager")

    def forward(self, x):
        return self.net(x)
"""


def test_imports_are_not_searched_for_garbage_but_training_is(cold_command, tmp_path):
    (tmp_path / "look.py").write_text(LOOK)
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    run = [*DIGITS, "trainer.max_epochs=1", "+callbacks.look={_target_: look.Look}", "logger=none"]
    done = cold_command(*run, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert tuple(found["threshold"]) == gc.get_threshold()
    assert found["kept"] > 100_000  # objects
    assert found["collections"]["collections"] < 4


@pytest.mark.parametrize("compiled", [False, True])
def test_the_compiler_is_imported_by_runs_that_compile_alone(cold_command, tmp_path, compiled):
    """And what asks whether something is compiled is answered all the same."""
    (tmp_path / "look.py").write_text(LOOK)
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    run = ["data=digits", "augment=none", "trainer.max_epochs=1", "+callbacks.look={_target_: look.Look}"]
    part = ["model=mlp", "~model.net", "+model.net={_target_: look.Compiled}"] if compiled else ["model=resnet20"]
    done = cold_command(*run, *part, "hydra.run.dir=run", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    modules = json.loads((tmp_path / "found.json").read_text())["modules"]
    assert modules["torch"]
    assert "torch._dynamo" in modules
    assert modules["torch._dynamo"] == ("sympy.core" in modules) == compiled
    unused = ["scipy.signal", "scipy.stats", "matplotlib"]
    assert not any(modules[name] for name in unused)
    assert (tmp_path / "run" / "metrics.json").exists()


ASK = """
import sys
from fmx.process.lean_imports import defer_imports

defer_imports()
import torch, torchmetrics, torchvision
from pytorch_lightning import Trainer
from lightning_fabric.wrappers import OptimizedModule

torch.use_deterministic_algorithms(True)
net = torch.nn.Linear(3, 3)
optimizer = torch.optim.AdamW(net.parameters())
optimizer.zero_grad()
optimizer.step()
assert not isinstance(net, OptimizedModule)
assert "sympy.core" not in sys.modules
{ask}
assert ("sympy.core" in sys.modules) == {compiler}
import torch._inductor.config
assert torch._inductor.config.deterministic
optimizer.step()
optimizer.zero_grad()
assert isinstance(torch.compile(net, backend="eager"), OptimizedModule)
"""


WITHOUT_COMPILER = """
import scipy.stats
assert 1.6 < scipy.stats.t.ppf(0.9, 3) < 1.7
from scipy.stats import norm
from scipy.signal import windows
import scipy.signal.windows
assert scipy.signal.windows.hamming(3)[1] == windows.hamming(3)[1] == 1
from sklearn.metrics import consensus_score, roc_auc_score
assert roc_auc_score([0, 1, 1], [0.1, 0.2, 0.3]) == 1
assert consensus_score(([[True, False]],) * 2, ([[True, False]],) * 2) == 1
from sklearn.preprocessing import SplineTransformer
assert SplineTransformer(n_knots=3).fit_transform([[0.0], [1.0]]).shape == (2, 5)
from scipy import interpolate, optimize
assert optimize.brentq(lambda x: x - 0.5, 0, 1) == interpolate.interp1d([0, 1], [0, 1])(0.5) == 0.5
import inspect
inspect.getmodule(inspect.stack()[0][0])
"""


PICTURES = """
from importlib.util import find_spec
assert find_spec("matplotlib.pyplot")
assert not any(hasattr(sys.modules[name], "__file__") for name in ("matplotlib", "matplotlib.pyplot"))
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.utilities.plot import trim_axs
figure, axes = MulticlassAccuracy(num_classes=3).plot(torch.tensor(0.5))
from matplotlib.axes import Axes
from matplotlib.figure import Figure
assert type(figure) is Figure and isinstance(axes, Axes)
assert trim_axs(axes, 1) is axes and len(trim_axs(figure.subplots(2, 2), 3)) == 3
import matplotlib.pyplot as plt
assert plt.Figure is Figure and plt.colormaps and plt.rcParams is sys.modules["matplotlib"].rcParams
"""


SIZES_THAT_ARE_NUMBERS = """
with torch.device("meta"):
    net = torchvision.models.resnet18()
    torch.nn.init.normal_(net.fc.weight)
    assert net(torch.empty(2, 3, 32, 32)).shape == (2, 1000)
    assert (torch.ones(3, 1).hypot(torch.ones(4)) ** 0.5).repeat(2, 1).shape == (6, 4)
    assert torch.einsum("uv,ui,vj->uvij", *[torch.ones(5, 5)] * 3).shape == (5, 5, 5, 5)
    for wrong in (lambda: torch.ones(3) + torch.ones(4), lambda: net(torch.empty(2, 1, 32, 32))):
        try:
            wrong()
        except RuntimeError:
            continue
        raise AssertionError
net = torch.nn.Linear(3, 3)
"""


SIZES_THAT_ARE_SYMBOLS = """
exported = torch.export.export(net, (torch.ones(4, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
assert exported.module()(torch.ones(9, 3)).shape == (9, 3)
from torch.fx.experimental.symbolic_shapes import ShapeEnv, expect_true
assert ShapeEnv.__module__ == expect_true.__module__ == "torch.fx.experimental.symbolic_shapes"
import sympy
assert str(sympy.Symbol("x") + 1) == "x + 1" and isinstance(sympy.Integer(1), sympy.Basic)
"""


@pytest.mark.parametrize(
    ("ask", "compiler"),
    [
        (PICTURES, False),
        (SIZES_THAT_ARE_NUMBERS, False),
        (SIZES_THAT_ARE_SYMBOLS, True),
        ("from torch._inductor import config; assert config.deterministic", True),
        ("import torch._dynamo.config; assert torch._dynamo.config.suppress_errors is False", True),
        ("from torch._inductor.utils import IndentedBuffer; assert torch._dynamo.is_compiling() is False", True),
        (
            "from torch._dynamo import testing; assert testing.CompileCounter; assert not hasattr(torch._dynamo, 'x')",
            True,
        ),
        (WITHOUT_COMPILER, False),
    ],
)
def test_what_is_put_off_is_there_once_it_is_used(ask, compiler):
    script = ASK.format(ask=ask, compiler=compiler)
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)  # noqa: PLW1510
    assert done.returncode == 0, done.stderr
