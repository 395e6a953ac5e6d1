"""`${hydra:…}` in any value of a run: alone, in a sweep, after a resume, and of the recorded configuration."""

import json
import shutil
import signal

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("no_figures")

RUN = ["data=digits", "model=mlp", "augment=none", "trainer.limit_train_batches=4"]
OWN = [
    "+vars.model=${hydra:runtime.choices.model}",
    "+vars.name=${hydra:job.name}",
    "+vars.number=${hydra:job.num}",
    "+vars.cwd=${hydra:runtime.cwd}",
    (
        "+callbacks.more={_target_: pytorch_lightning.callbacks.ModelCheckpoint, "
        "dirpath: '${hydra:runtime.output_dir}/more', filename: last-${hydra:job.name}}"
    ),
]


def resolved(run):
    return yaml.safe_load((run / ".hydra/resolved.yaml").read_text())


def test_in_a_run_and_the_verbs_after_it(command, tmp_path):
    done = command(*RUN, *OWN, "trainer.max_epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "run"
    assert resolved(run)["vars"] == {"model": "mlp", "name": "run", "number": None, "cwd": str(tmp_path)}
    assert (run / "more/last-run.ckpt").is_file()
    assert command("run", module="evaluate", cwd=tmp_path).returncode == 0
    done = command("run", "--dir", "again", module="reproduce", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical" in done.stdout
    assert resolved(tmp_path / "again")["callbacks"]["more"]["dirpath"] == str(tmp_path / "again/more")
    done = command(*RUN, *OWN, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = command(*RUN, "+vars.x=${hydra:job.nam}", "optim.lr=${hydra:job.name}", cwd=tmp_path)
    assert done.returncode == 2
    assert "optim.lr must be a number" in done.stderr


def test_after_a_resume(command, tmp_path):
    arguments = [*RUN, *OWN, "trainer.max_epochs=25", "resume=auto", "callbacks.last.every_s=0.01"]
    arguments += ["logger=none", "hydra.run.dir=outputs/runs/mine"]
    run, moved = tmp_path / "outputs/runs/mine", tmp_path / "moved"
    sent = (run / "checkpoints/previous.ckpt", signal.SIGTERM)
    assert command(*arguments, cwd=tmp_path, send=sent).returncode == 143
    shutil.copytree(run, moved)
    for again, folder in ((arguments, run), ([f"resume={moved}"], moved)):
        done = command(*again, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "resuming after step" in done.stdout
        assert resolved(folder)["callbacks"]["more"]["dirpath"] == str(folder / "more")
        assert len(json.loads((folder / "run.json").read_text())["parts"]) == 1


def test_in_a_sweep(command, tmp_path):
    own = [each for each in OWN if "job.name" not in each]
    arguments = ["-m", *RUN, *own, "trainer.max_epochs=1", "model=mlp,lenet", "hydra.sweep.dir=sweep"]
    done = command(*arguments, "+vars.out=${hydra:runtime.output_dir}", cwd=tmp_path, env={"FMX_DATA_ROOT": "/nowhere"})
    assert done.returncode == 0, done.stdout + done.stderr
    for number, model in enumerate(["mlp", "lenet"]):
        values = resolved(tmp_path / "sweep" / str(number))["vars"]
        assert (values["number"], values["model"]) == (number, model)
        assert values["out"] == str(tmp_path / "sweep" / str(number))
