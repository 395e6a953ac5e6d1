"""Where data lies is not what it is: after it has moved, everything goes on, and other data is refused as ever."""

import json
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from test_sweep import here

pytestmark = pytest.mark.usefixtures("no_figures")

CSV = ["data=fashion_mnist_csv", "data.validation=20", "model=mlp", "data.batch_size=8", "logger=none"]
LONG = ["trainer.max_epochs=40", "trainer.checkpoint_every_s=0.1"]


def write_set(root, *, seed=0):
    rng = np.random.default_rng(seed)
    header = ",".join(["label", *(f"pixel{number}" for number in range(1, 785))])
    root.mkdir()
    for part in ("train", "test"):
        rows = np.column_stack([np.arange(60) % 10, rng.integers(0, 256, (60, 784))])
        lines = [header, *(",".join(map(str, row)) for row in rows)]
        (root / f"fashion-mnist_{part}.csv").write_text("\n".join(lines) + "\n")


def ok(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def record(run):
    return json.loads((run / "run.json").read_text())


@pytest.fixture
def moved(command, tmp_path):
    """An interrupted run whose data has moved since; returns its command and where the data is."""
    write_set(tmp_path / "old")
    run = [*CSV, *LONG, "hydra.run.dir=outputs/runs/cut"]
    sent = (tmp_path / "outputs/runs/cut/checkpoints/last.ckpt", signal.SIGTERM)
    done = command(*run, cwd=tmp_path, env={"FMX_DATA_ROOT": str(tmp_path / "old")}, send=sent)
    assert done.returncode == 143, done.stdout + done.stderr
    (tmp_path / "old").rename(tmp_path / "new")
    return run, tmp_path / "new"


@pytest.mark.parametrize("how", ["alone", "alone, told", "auto", "whole command", "whole command, told"])
def test_an_interrupted_run_goes_on(command, tmp_path, moved, how):
    run, root = moved
    env = {"FMX_DATA_ROOT": "" if "told" in how else str(root)}
    told = [f"data.root={root}"] if "told" in how else []
    again = {"alone": ["resume=outputs/runs/cut"], "auto": [*run[:-1], "resume=auto"]}
    arguments = again.get(how.partition(",")[0], [*run, "resume=outputs/runs/cut"])
    ok(command(*arguments, *told, cwd=tmp_path, env=env))
    assert [path.name for path in (tmp_path / "outputs/runs").iterdir()] == ["cut"]
    assert len(record(tmp_path / "outputs/runs/cut")["parts"]) == 1


def test_other_data_at_the_new_place_is_refused(command, tmp_path, moved):
    _, root = moved
    shutil.rmtree(root)
    write_set(root, seed=1)
    done = command("resume=outputs/runs/cut", cwd=tmp_path, env={"FMX_DATA_ROOT": str(root)})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the data is not what" in done.stderr
    assert "fingerprint changed" in done.stderr


def test_verbs_on_a_finished_run(command, tmp_path):
    write_set(tmp_path / "old")
    ok(command(*CSV, "trainer=smoke", "data.root=old", "hydra.run.dir=run", cwd=tmp_path))
    (tmp_path / "mnt").mkdir()
    (tmp_path / "old").rename(tmp_path / "mnt/new")
    root = str(tmp_path / "mnt/new")
    for verb in ("evaluate", "export"):
        ok(command("run", module=verb, cwd=tmp_path, env={"FMX_DATA_ROOT": root}))
    again = ok(command("run", "--dir", "again", module="reproduce", cwd=tmp_path, env={"FMX_DATA_ROOT": root}))
    assert "identical: " in again.stdout
    for number, told in enumerate(([f"data.root={root}"], ["--set", "data.root=mnt/new"])):
        again = ok(command("run", *told, "--dir", f"told{number}", module="reproduce", cwd=tmp_path))
        assert "identical: " in again.stdout
        assert "differs" not in again.stdout
    done = command("run", "data.batch_size=3", module="reproduce", cwd=tmp_path)
    assert (done.returncode, "only data.root=DIR can be changed here" in done.stderr) == (2, True)
    (tmp_path / "elsewhere").mkdir()
    ok(command(str(tmp_path / "told0"), module="evaluate", cwd=tmp_path / "elsewhere"))
    # told to the other verbs as to these
    assert "is missing" in command("run", module="evaluate", cwd=tmp_path).stderr
    assert "identical to" in ok(command("run", "data.root=mnt/new", module="evaluate", cwd=tmp_path)).stdout
    export = ["run", "--format", "state_dict", "--out", "told.pt", "data.root=mnt/new"]
    assert "all 60 test images" in ok(command(*export, module="export", cwd=tmp_path)).stdout
    ok(command(*CSV, "trainer=smoke", "seed=2", "data.root=mnt/new", "hydra.run.dir=other", cwd=tmp_path))
    for number, told in enumerate(([], ["data.root=mnt/new"])):
        done = command("run", "other", *told, "--grid", f"{number}.png", module="compare", cwd=tmp_path)
        assert (tmp_path / f"{number}.png").exists() == bool(told), done.stdout + done.stderr
    done = command("run", "other", "data.root=elsewhere", "--grid", "x.png", module="compare", cwd=tmp_path)
    assert "elsewhere/fashion-mnist_train.csv is missing" in done.stderr


@pytest.mark.parametrize("kind", ["sweep", "search"])
def test_a_sweep_goes_on(command, tmp_path, kind):
    write_set(tmp_path / "old")
    jobs = ["-m", *CSV, "trainer=smoke", "seed=1,2", "hydra.sweep.dir=jobs", "hydra.launcher.workers=1"]
    if kind == "search":
        jobs += ["hydra/sweeper=search", "hydra.sweeper.sampler=grid"]
    jobs += ["+callbacks.fault={_target_:faults.Fault,seed:${seed}}"]
    (tmp_path / "faults.json").write_text('{"2": "hang"}')
    env = here() | {"FMX_DATA_ROOT": str(tmp_path / "old")}
    slow = (tmp_path / "jobs/1/run.json", signal.SIGTERM)
    assert command(*jobs, cwd=tmp_path, env=env, send=slow).returncode == 143
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "faults.json").unlink()
    first = record(tmp_path / "jobs/0")
    env = here() | {"FMX_DATA_ROOT": str(tmp_path / "new")}
    if kind == "sweep":
        again = command("--resume-sweep", "jobs", "--allow", "faults", "--dry-run", cwd=tmp_path, env=env)
        assert "1 of them done already" in ok(again).stdout
        shutil.copytree(tmp_path / "jobs", tmp_path / "told", symlinks=True)
        told = ["--resume-sweep", "told", "--allow", "faults", f"data.root={tmp_path / 'new'}"]
        ok(command(*told, cwd=tmp_path, env=here() | {"FMX_DATA_ROOT": ""}))
        assert record(tmp_path / "told/1")["status"] == "completed"
    ok(command(*jobs, cwd=tmp_path, env=env))
    assert record(tmp_path / "jobs/1")["status"] == "completed"
    assert record(tmp_path / "jobs/0") == first
    assert sorted(path.name for path in (tmp_path / "jobs").glob("[0-9]*")) == ["0", "1"]
    if kind == "sweep":
        assert "2 of them done already" in ok(command(*jobs, "--dry-run", cwd=tmp_path, env=env)).stdout
        last = ok(command("--resume-sweep", "jobs", "--allow", "faults", cwd=tmp_path, env=env))
        assert "2 of them done already" in last.stdout


def test_an_image_folder_whose_relative_root_moved_beside_a_copy_elsewhere(command, tmp_path):
    for number, (part, label) in enumerate([(p, c) for p in ("train", "test") for c in "abab" * 3]):
        (tmp_path / "set" / part / label).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.full((8, 8), 20 * number % 256, np.uint8))
        picture.save(tmp_path / "set" / part / label / f"{number}.png")
    run = ["data=image_folder", "data.image_size=8", "data.num_workers=0", "model=mlp", "data.validation=2"]
    cut = [*run, *LONG, "data.batch_size=2", "data.root=set", "hydra.run.dir=cut"]
    sent = (tmp_path / "cut/checkpoints/last.ckpt", signal.SIGTERM)
    done = command(*cut, cwd=tmp_path, send=sent)
    assert done.returncode == 143, done.stdout + done.stderr
    (tmp_path / "other").mkdir()
    shutil.move(tmp_path / "cut", tmp_path / "other/cut")
    shutil.move(tmp_path / "set", tmp_path / "other/jö r=g, 1")
    where = 'data.root="jö r=g, 1"'
    ok(command("resume=cut", where, cwd=tmp_path / "other"))
    assert record(tmp_path / "other/cut")["status"] == "completed"
