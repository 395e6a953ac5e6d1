"""A new run that starts from the weights of another one, or of a file."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from fmx.training.initial_weights import start_from

pytestmark = pytest.mark.usefixtures("no_figures")

SHORT = ["data=digits", "augment=none", "trainer=smoke", "logger=none"]


@pytest.fixture(scope="module")
def first(command, tmp_path_factory):
    """A folder with the run `outputs/runs/first`, and its network's weights as files."""
    folder = tmp_path_factory.mktemp("init")
    done = command("model=lenet", *SHORT, "hydra.run.dir=outputs/runs/first", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    state = torch.load(folder / "outputs/runs/first/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    state = {name.removeprefix("net."): tensor for name, tensor in state.items()}
    torch.save({f"module.{name}": tensor.half() for name, tensor in state.items()}, folder / "half.pth")
    torch.save({"model": state, "optimizer": {"lr": 1.0}, "epoch": 3}, folder / "other program.pt")
    bad = {name: tensor * float("nan") for name, tensor in state.items()}
    torch.save(bad, folder / "nan.pth")
    return folder


def initial(folder, run):
    return json.loads((folder / run / "run.json").read_text())["init"]


def test_it_starts_where_the_run_ended(command, first):
    words = ["model=lenet", *SHORT, "optim.lr=1e-12", "schedule=constant", "optim.weight_decay=0"]
    done = command(*words, "init=outputs/runs/first", "hydra.run.dir=again", cwd=first)
    assert done.returncode == 0, done.stdout + done.stderr
    best = first / "outputs/runs/first/checkpoints/best.ckpt"
    assert "init: 10 of 10 tensors of the network come from outputs/runs/first/checkpoints/best.ckpt" in done.stdout
    assert "random start" not in done.stdout
    before, after = (
        torch.load(path, weights_only=True)["state_dict"] for path in (best, first / "again/checkpoints/last.ckpt")
    )
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    recorded = initial(first, "again")
    assert recorded["file"] == str(best)
    sums = (best.parent / "SHA256SUMS").read_text()
    assert f"{recorded['sha256']}  best.ckpt" in sums
    assert (recorded["taken"], recorded["left"], recorded["unused"]) == (10, [], [])
    # What evaluates it does not read the first run again.
    moved = first / "outputs/runs/moved"
    shutil.move(first / "outputs/runs/first", moved)
    try:
        scored = command("again", module="evaluate", cwd=first)
        gone = command("again", module="reproduce", cwd=first)
    finally:
        shutil.move(moved, first / "outputs/runs/first")
    assert "identical to metrics.json" in scored.stdout, scored.stderr
    assert gone.returncode == 1
    assert "init=outputs/runs/first: there is neither a run directory nor a file" in gone.stderr
    elsewhere = first / "elsewhere"
    elsewhere.mkdir()
    repeated = command("../again", "--dir", "repeated", module="reproduce", cwd=elsewhere)
    assert "identical: history" in repeated.stdout, repeated.stdout + repeated.stderr


def test_another_number_of_classes_leaves_the_head_as_it_is(command, first):
    images, labels = np.random.default_rng(0).integers(0, 255, (60, 28, 28), np.uint8), np.arange(60) % 3
    np.savez(first / "three.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = ["model=lenet", "data=npz", "data.file=three.npz", "data.root=.", *SHORT[1:]]
    done = command(*words, "init=outputs/runs/first", "hydra.run.dir=three", cwd=first)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "init: 8 of 10 tensors" in done.stdout
    left = initial(first, "three")["left"]
    assert len(left) == 2
    for name in left:
        assert f"{name} (3" in done.stdout
    assert "there (10, 84)" in done.stdout
    refused = command(*words, "init=outputs/runs/first", "init_strict=true", "hydra.run.dir=no", cwd=first)
    assert refused.returncode == 2
    assert "not all of outputs/runs/first/checkpoints/best.ckpt fits, as init_strict=true demands" in refused.stderr
    assert not (first / "no").exists()


def test_any_file_of_weights_in_a_sweep(command, first):
    files = 'init=half.pth,"other program.pt"'
    done = command("-m", "model=lenet", *SHORT, files, "hydra.sweep.dir=sweep", cwd=first)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [initial(first, f"sweep/{job}")["taken"] for job in range(2)] == [10, 10]


def test_names_of_modules_around_a_network_are_passed_over(tmp_path):
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    inner = {name: torch.full_like(tensor, 7) for name, tensor in net.state_dict().items()}
    other = {f"teacher.{name}": torch.zeros(9, 9) for name in inner}
    torch.save({"state_dict": {f"student.net.{name}": each for name, each in inner.items()} | other}, tmp_path / "a.pt")
    taken = start_from(net, str(tmp_path / "a.pt"), strict=False)
    assert (taken["taken"], taken["left"], taken["unused"]) == (9, [], [*other])
    assert all((tensor == 7).all() for tensor in net.state_dict().values())
    torch.save({name: tensor + 1 for name, tensor in inner.items()}, tmp_path / "b.pt")
    outer = nn.ModuleDict({"backbone": net})
    assert start_from(outer, str(tmp_path / "b.pt"), strict=True)["taken"] == 9
    assert all((tensor == 8).all() for tensor in net.state_dict().values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init=nowhere"], "init=nowhere: there is neither a run directory nor a file nowhere; init=null starts"),
        (["init=."], "init=.: . is not a run directory: it has no run.json"),
        (["init=nan.pth"], "init=nan.pth: nan.pth holds weights that are not finite"),
        (["init=my.txt"], "init=my.txt: my.txt cannot be read as a checkpoint"),
        (
            ["init=outputs/runs/first", "model=mlp"],
            "nothing in outputs/runs/first/checkpoints/best.ckpt fits the network",
        ),
        (["init_strict=true"], "init_strict=true would be without effect"),
        (["init=3"], "init=3: there is neither a run directory nor a file 3"),
        (
            ["init=outputs/runs/first", "model=pretrained", "model.net.weights=half.pth"],
            "model.net.weights=half.pth would be without effect: init=outputs/runs/first says where",
        ),
    ],
)
def test_what_cannot_be_started_from_is_refused_before_data_is_loaded(command, first, words, said):
    (first / "my.txt").write_text("no weights")
    done = command("model=lenet", *SHORT, *words, "data.root=/nowhere", "hydra.run.dir=refused", cwd=first)
    assert done.returncode in {1, 2}
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (first / "refused").exists()
