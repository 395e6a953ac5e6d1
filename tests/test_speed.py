"""What makes training quick changes nothing: losses to the bit, images, figures, hooks that somebody uses."""

import csv
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.profilers import PassThroughProfiler

from fmx.augment import RandomCrop, RandomErasing, RandomHorizontalFlip
from fmx.build import build_classifier, build_data
from fmx.composition import compose_config
from fmx.idle_hooks import skip_idle_hooks

DIGITS = ["data=digits", "model=lenet", "augment=none", "trainer.precision=32-true"]


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
        optimizer, max_lr=cfg.optim.lr, total_steps=2 * steps, pct_start=0.3, div_factor=25.0, final_div_factor=1e4
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


def test_only_hooks_that_do_nothing_are_skipped():
    class Counts(Callback):
        seen = 0

        def on_before_zero_grad(self, *_):
            self.seen += 1

    class Module(LightningModule):
        def on_after_backward(self):
            pass

    counts, module = Counts(), Module()
    trainer = SimpleNamespace(callbacks=[counts], profiler=PassThroughProfiler())
    skip_idle_hooks(trainer, module)
    assert callable(counts.on_before_zero_grad)
    assert callable(module.on_after_backward)
    assert counts.on_after_backward is None
    assert module.on_before_zero_grad is None
