"""Steps of one's own: subclasses of the Classifier, and distillation from a run."""

import json
import shutil

import pandas as pd
import pytest
import torch
from torch.nn import functional

from fmx.training.distillation import Distillation

pytestmark = pytest.mark.usefixtures("no_figures")

CODE = """
import torch
from fmx.training.classifier import Classifier


class Penalised(Classifier):  # another loss, and a trained part of its own
    def __init__(self, *, strength, **parts):
        super().__init__(**parts)
        self.strength = strength
        self.scale = torch.nn.Linear(10, 10)

    def loss_and_logits(self, images, labels):
        logits = self.net(images)
        return self.loss(logits, labels) + self.strength * self.loss(self.scale(logits), labels), logits


class TwoPasses(Classifier):  # sharpness-aware minimisation: two backward passes, one step
    def __init__(self, *, radius, **parts):
        super().__init__(**parts)
        self.radius, self.automatic_optimization = radius, False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        weights = [p for p in self.net.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in weights]).norm()
        moves = [p.grad * (self.radius / (norm + 1e-12)) for p in weights]
        with torch.no_grad():
            torch._foreach_add_(weights, moves)
        optimizer.zero_grad()
        self.manual_backward(self.loss_and_logits(*batch)[0])
        with torch.no_grad():
            torch._foreach_sub_(weights, moves)
        optimizer.step()


class Silent(Classifier):
    def training_step(self, batch, batch_idx):
        images, labels = batch
        return self.loss(self.net(images), labels)


class Recorded(Classifier):
    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.net(images)
        loss = self.loss(logits, labels)
        self.record(batch_idx, loss, logits, labels)
        return loss


class Needy(Classifier):
    def __init__(self, *, net):
        super().__init__(net=net)


class Forward(Classifier):
    def forward(self, images):
        return 2 * self.net(images)


class Other(torch.nn.Module):
    pass
"""
SHORT = ["data=digits", "model=lenet", "augment=none", "logger=none", "trainer=smoke"]


@pytest.fixture(scope="module")
def desk(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    (folder / "mine.py").write_text(CODE)
    done = command(*SHORT, "trainer.limit_train_batches=12", "hydra.run.dir=teacher", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def rows(run):
    return pd.read_csv(run / "history.csv")


def test_a_loss_of_features_and_a_part_of_its_own(command, desk):
    env = {"PYTHONPATH": str(desk)}
    words = ["classifier._target_=mine.Penalised", "+classifier.strength=0.01", *SHORT]
    done = command(*words, "hydra.run.dir=penalised", cwd=desk, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    state = torch.load(desk / "penalised/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert "scale.weight" in state
    scored = command("penalised", "--allow", "mine", module="evaluate", cwd=desk, env=env)
    assert "identical to metrics.json" in scored.stdout, scored.stdout + scored.stderr
    untrusted = command("penalised", module="evaluate", cwd=desk, env=env)
    assert untrusted.returncode == 1
    assert "names the target 'mine.Penalised' in classifier" in untrusted.stderr


def test_two_backward_passes_follow_the_schedule(command, desk):
    words = ["classifier._target_=mine.TwoPasses", "+classifier.radius=0.05", *SHORT, "trainer.max_epochs=2"]
    env = {"PYTHONPATH": str(desk)}
    done = command(*words, "hydra.run.dir=two", cwd=desk, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    plain = command(*SHORT, "trainer.max_epochs=2", "hydra.run.dir=plain", cwd=desk)
    assert plain.returncode == 0, plain.stderr
    two, one = rows(desk / "two"), rows(desk / "plain")
    assert two["lr"].tolist() == one["lr"].tolist()
    assert two["step"].tolist() == one["step"].tolist() == [3, 6]
    assert two["train/loss"][1] != one["train/loss"][1]
    again = command("two", "--allow", "mine", module="reproduce", cwd=desk, env=env)
    assert "identical: history" in again.stdout, again.stdout + again.stderr
    clipped = command(*words, "trainer.gradient_clip_val=1", "hydra.run.dir=no", cwd=desk, env=env)
    assert clipped.returncode == 2
    assert "trainer.gradient_clip_val=1 would be without effect: mine.TwoPasses" in clipped.stderr


def test_a_step_that_is_recorded_by_hand_is_the_same_as_fmx_s_own(command, desk):
    words = ["classifier._target_=mine.Recorded", *SHORT, "trainer.max_epochs=2", "hydra.run.dir=recorded"]
    done = command(*words, cwd=desk, env={"PYTHONPATH": str(desk)})
    assert done.returncode == 0, done.stdout + done.stderr
    plain = command(*SHORT, "trainer.max_epochs=2", "hydra.run.dir=unchanged", cwd=desk)
    assert plain.returncode == 0, plain.stderr
    first, second = (rows(desk / run).drop(columns="seconds") for run in ("recorded", "unchanged"))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mine.Silent", "mine.Silent.training_step records nothing, so history.csv would have no training loss: call"),
        ("mine.Other", "classifier: mine.Other is no subclass of fmx.training.classifier.Classifier"),
        ("mine.Needy", "its __init__ takes its own keys and **parts, which it passes on"),
        (
            "mine.Forward",
            "mine.Forward overrides forward, but predictions and exports use the network alone: do that in",
        ),
        ("mine.Nothing", "classifier: cannot import _target_ 'mine.Nothing'"),
    ],
)
def test_a_step_that_cannot_be_is_refused_with_the_remedy(command, desk, target, said):
    done = command(f"classifier._target_={target}", *SHORT, "hydra.run.dir=no", cwd=desk, env={"PYTHONPATH": str(desk)})
    assert done.returncode in {1, 2}
    assert said in done.stderr
    shutil.rmtree(desk / "no", ignore_errors=True)


def test_distillation_from_a_run(command, desk):
    words = [*SHORT, "model=mlp", "loss=distill", "loss.teacher=teacher"]
    done = command(*words, "hydra.run.dir=student", cwd=desk)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((desk / "student/run.json").read_text())
    assert record["teacher"]["run"] == str(desk / "teacher")
    assert record["teacher"]["sha256"] in (desk / "teacher/checkpoints/SHA256SUMS").read_text()
    state = torch.load(desk / "student/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(name.startswith("net.") for name in state)
    assert not any("conv" in name for name in state), "the teacher is no part of the student"
    again = command("student", "--dir", "again", module="reproduce", cwd=desk)
    assert "identical: history" in again.stdout, again.stdout + again.stderr
    shutil.copytree(desk / "student", desk / "foreign")
    resolved = desk / "foreign/.hydra/resolved.yaml"
    resolved.write_text(resolved.read_text().replace("allow: []", "allow: [os]"))
    foreign = command("foreign", module="reproduce", cwd=desk)
    assert foreign.returncode == 1
    assert "lets the run of its teacher name code of 'os' (loss.allow)" in foreign.stderr
    shutil.move(desk / "teacher", desk / "moved")
    try:
        scored = command("student", module="evaluate", cwd=desk)
        gone = command("student", "--dir", "gone", module="reproduce", cwd=desk)
    finally:
        shutil.move(desk / "moved", desk / "teacher")
    assert "identical to metrics.json" in scored.stdout, scored.stdout + scored.stderr
    assert gone.returncode == 1
    assert "loss.teacher=teacher: teacher is not a run directory: it does not exist" in gone.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "loss=distill needs a trained run to learn from: loss.teacher=RUN"),
        (["loss.teacher=nowhere"], "loss.teacher=nowhere: nowhere is not a run directory"),
        (["loss.teacher=teacher", "data.normalize=unit"], "another normalisation; the teacher takes the images of"),
        (["loss.teacher=teacher", "loss.alpha=2"], "loss: alpha must be from 0 to 1, got 2"),
        (["loss.teacher=teacher", "loss.temperature=0"], "loss: temperature must be above 0, got 0"),
    ],
)
def test_a_teacher_that_cannot_be_is_refused_before_data_is_loaded(command, desk, words, said):
    done = command(*SHORT, "loss=distill", *words, "hydra.run.dir=refused", cwd=desk)
    assert done.returncode in {1, 2}
    assert said in done.stderr
    assert not (desk / "refused").exists()


def test_the_loss_is_that_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    logits, taught = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    labels, images = torch.tensor([0, 1, 2, 3, 0, 1]), torch.zeros(6, 1)
    loss = Distillation(teacher="x", temperature=3.0, alpha=0.25, allow=[])
    teacher = torch.nn.Linear(1, 4, dtype=torch.float64)
    teacher.forward = lambda _: taught
    loss.use_teacher(teacher)
    soft = (taught / 3).softmax(1)
    divergence = (soft * (soft.log() - (logits / 3).softmax(1).log())).sum(1).mean()
    hard = functional.cross_entropy(logits, labels)
    assert loss.train()(logits, labels, images).item() == pytest.approx(float(0.75 * hard + 0.25 * 9 * divergence))
    assert loss.eval()(logits, labels) == hard
    assert [*loss.parameters()] == [*loss.state_dict()] == []
