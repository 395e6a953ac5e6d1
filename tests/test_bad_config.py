"""Wrong commands and configurations: one plain line, exit code 2, and nothing written."""

import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from fmx.config.hydra_errors import likely_keys
from fmx.config.layout import ROOT_KEYS

LISTED = "three_conv, timm, two_conv"  # the end of the list of models

COMMAND_LINE = {
    "model.name=lenet": ["model.name=lenet would only give mlp another name", "model=lenet chooses lenet"],
    # names
    "model=dilatd": ["model=dilatd", "did you mean 'dilated'?", LISTED],
    "experiment=mlp_sdg": ["no experiment 'mlp_sdg'", "did you mean 'mlp_sgd'?", "three_conv_adam"],
    "callbacks=[default,emaa]": ["no callbacks 'emaa'", "did you mean 'ema'?", "early_stopping"],
    "optim.lr=loguniform(1e-4,1e-1)": ["loguniform(…) is not written so", "tag(log,interval(A,B))"],
    "optim.lr={sgd:interval(1e-4,1)}": ["cannot hold distributions", "optim.lr=tag(sgd,log,interval(1e-2,1))"],
    "--config-dir a --config-dir b": ["--config-dir is given 2 times"],
    "+hydra.callbacks.note._target_=mine.Note": ["hydra.callbacks.note: cannot import", "PYTHONPATH=FOLDER"],
    "seeds=3": ["no key 'seeds'", "did you mean 'hydra.sweeper.seeds' with hydra/sweeper=search?"],
    "hydra.sweeper.n_trials=3": ["hydra.sweeper has no key 'n_trials'", "with hydra/sweeper=search?"],
    "modl=dilated": ["modl", "did you mean 'model'?"],
    "optm.lr=0.1": ["optm", "did you mean 'optim'?"],
    "optim.lrr=0.1": ["optim.lrr", "did you mean 'lr'?", "weight_decay", "+optim.KEY=VALUE"],
    "+optim.lrr=0.1": ["optim.lrr", "takes no 'lrr'", "did you mean 'lr'?", "amsgrad"],
    "+trainer.max_epoch=3": ["trainer.max_epoch", "did you mean 'max_epochs'?"],
    "+sed=3": ["no key 'sed'", "did you mean 'seed'?", "+vars.NAME=VALUE"],
    "+model.widht=8": ["model has no key 'widht'", "model.net.widht"],
    "callbacks.best.moniter=val/loss": ["callbacks.best.moniter", "did you mean 'monitor'?"],
    "schedule.scheduler.pct_strat=0.2": ["schedule.scheduler.pct_strat", "did you mean 'pct_start'?"],
    "+metrics.accuracy.averag=micro": ["metrics.accuracy", "averag", "did you mean 'average'?"],
    "+data.train.images.mdd5=x": ["data.train.images", "did you mean 'md5'?"],
    "~trainer": ["lacks 'trainer'"],
    "~optim.lr": ["refers to optim.lr, which does not exist"],
    "optim=null": ["a group takes the name of a member", "null"],
    "callbacks.best=null": ["callbacks.best must make a", "~callbacks.best leaves it out"],
    "~callbacks.best": ["no callback keeps", "callbacks.best"],
    "callbacks.best.monitor=val/per_class": ["no metric 'val/per_class'", "Metrics: "],
    "callbacks.best.monitor=val/loss": ["callbacks.best.mode=max keeps the worst val/loss", "callbacks.best.mode=min"],
    "~callbacks.history": ["no callback writes history.csv", "callbacks.history"],
    "+trainer.logger=false": ["trainer.logger would be without effect", "logger=none"],
    "+trainer.default_root_dir=there": ["trainer.default_root_dir would be without effect", "hydra.run.dir=DIR"],
    "callbacks.best.monitor=val/acc": ["no metric 'val/acc'", "did you mean 'val/accuracy'?"],
    # types and ranges
    "trainer.max_epochs=ten": ["trainer.max_epochs must be a whole number of at least 1, got 'ten'"],
    "trainer.max_epochs=0": ["trainer.max_epochs must be a whole number of at least 1, got 0"],
    "trainer.precision=8": ["trainer.precision must be one of auto, 32-true, bf16-mixed", "got 8"],
    "trainer.strategy=foo": ["trainer", "'foo'", "ddp"],
    "trainer.gradient_clip_val=-1": ["trainer.gradient_clip_val must be a number greater than 0 or null, got -1"],
    "trainer.max_epochs=3 trainer.check_val_every_n_epoch=4": ["check_val_every_n_epoch=4", "leaves no validation"],
    "+trainer.max_steps=0": ["trainer.max_steps must be a whole number of at least 1, or -1", "got 0"],
    "+trainer.fast_dev_run=true": ["trainer.fast_dev_run must be false", "trainer=smoke"],
    "+trainer.overfit_batches=2": [
        "trainer.overfit_batches must be 0",
        "trainer.limit_train_batches=N data.shuffle=false",
    ],
    "schedule=plateau experiment=mlp_sgd": ["schedule=plateau", "check_val_every_n_epoch=null", "so set it to 1"],
    "trainer.precision=16-mixed trainer.gradient_clip_val=1": ["gradient_clip_val", "set optim.fused=false"],
    "optim.lr=-1": ["optim.lr must be a number greater than 0, got -1"],
    "optim.lr=abc": ["optim.lr must be a number greater than 0, got 'abc'"],
    "optim.lr=null": ["optim.lr must be a number greater than 0, got null"],
    "optim.lr=nan": ["optim.lr must be a number greater than 0, got nan"],
    "optim.weight_decay=-0.1": ["optim.weight_decay must be a number of at least 0, got -0.1"],
    "optim.betas=[0.9,2]": ["optim: torch.optim.AdamW refuses its values", "beta"],
    "data.batch_size=0": ["data.batch_size must be a whole number of at least 1, got 0"],
    "data.validation=1.5": ["data.validation must be a count", "a fraction between 0 and 1", "got 1.5"],
    "data.validation=-3": ["data.validation must be a count", "got -3"],
    "data.normalize=foo": ["data.normalize must be dataset, unit or [mean, std]: numbers", "got 'foo'"],
    "data.normalize=[a,b]": ["data.normalize must be dataset, unit or [mean, std]: numbers", "got ['a', 'b']"],
    "data.normalize={mean:0.1}": ["data.normalize must be dataset, unit or [mean, std]: numbers"],
    "data.std=[0]": ["data.normalize: mean [0.305295] and std [0] must have one number", "above 0"],
    "data.mean=0.3": ["data.mean must be a list of numbers", "got 0.3"],
    "data.class_names=fr": ["data.class_names=fr is no list and no known language"],
    "data.num_classes=5": ["data.class_names has 10 names for data.num_classes=5"],
    "loss.label_smoothing=1.5": ["loss.label_smoothing must be a number from 0 to below 1, got 1.5"],
    "loss.weight=[1,2,3]": ["loss.weight must have one number for each of the 10 classes, got 3"],
    "data.sampler=[1,2,3]": ["data.sampler must have one number for each of the 10 classes, got 3"],
    "data.sampler=even": ["data.sampler must be uniform, balanced, or a list of numbers"],
    "loss.weight=even": ["loss.weight must be a list of numbers of at least 0, one per class and not all 0, balanced"],
    "loss.weight=[1,a]": ["loss.weight must be a list of numbers"],
    "schedule.scheduler.pct_start=3": ["schedule", "pct_start"],
    "schedule.scheduler.pct_start=1.0": ["schedule.scheduler.pct_start must be a number from 0 to below 1, got 1.0"],
    "schedule=cosine schedule.scheduler.eta_min=-1": ["schedule.scheduler.eta_min must be a number of at least 0"],
    "schedule=cosine schedule.scheduler.T_max=0": ["schedule.scheduler.T_max must be a whole number of at least 1"],
    "schedule=step schedule.scheduler.step_size=0": ["schedule.scheduler.step_size must be a whole number", "got 0"],
    "schedule=plateau schedule.scheduler.mode=max": ["validation loss", "schedule.scheduler.mode=min"],
    "callbacks=[default,ema] callbacks.ema.update_every_n_steps=0": ["update_every_n_steps must be a whole number"],
    "augment=erasing augment._args_.2.aspect=[-1,3]": ["augment.aspect must be two numbers above 0", "got [-1, 3]"],
    "augment=erasing augment._args_.2.area=[0.3,0.2]": ["augment.area must be two shares", "got [0.3, 0.2]"],
    "augment=flip augment.prob=7": ["augment.prob must be from 0 to 1, got 7"],
    "data=digits data.class_names=[0,1,2,3,4,5,6,7,8,9]": [
        "data.class_names must be a language, or a list",
        "in quotes",
    ],
    "+metrics.loss={_target_:torchmetrics.classification.MulticlassAccuracy,num_classes:10}": [
        "metrics.loss would replace the loss",
    ],
    "+metrics.top5={_target_:torchmetrics.classification.MulticlassAccuracy,num_classes:5}": [
        "metrics.top5: MulticlassAccuracy does not take logits (B, 10)",
    ],
    "+metrics.roc={_target_:torchmetrics.classification.MulticlassROC,num_classes:10}": [
        "metrics.roc: MulticlassROC gives a tuple",
    ],
    "callbacks.best.monitor=train/accuracy": ["by its training images", "select=last"],
    "run_dir=there": ["run_dir follows hydra.run.dir", "hydra.run.dir=DIR"],
    "~metrics.macro_f1": ["metrics.macro_f1 is missing"],
    "metrics.macro_f1.average=mikro": ["metrics.macro_f1", "'macro'", "mikro"],
    "select=worst": ["select must be one of best, last, got 'worst'"],
    "resume=outputs/latest": ["resume=outputs/latest is not a run directory", "resume=auto"],
    "seed=-1": ["seed must be a whole number from 0 to 4294967295, got -1"],
    # syntax
    "foo": ["cannot read the override 'foo'", "KEY=VALUE"],
    "optim.lr=[": ["cannot read the override 'optim.lr=['", "KEY=VALUE"],
    "optim.lr=1e-3,1e-4": ["optim.lr=1e-3,1e-4", "add -m"],
    "optim.lr=${optim.lrr}": ["optim.lr refers to optim.lrr, which does not exist"],
    "--config-dir=nowhere": ["nowhere", "not found"],
    # targets
    "data._target_=builtins.dict": ["data", "no fmx.data.module.ImageDataModule"],
    "optim._target_=torch.optim.Adamm": ["torch.optim has no 'Adamm'", "did you mean 'Adam'?"],
    "optim._target_=optimizers.Mine": ["cannot import", "no 'optimizers'", "PYTHONPATH"],
    "+optim.foreach=true": ["optim: torch.optim.AdamW refuses its values", "`fused` and `foreach`"],
    "optim._partial_=false": ["optim", "also needs params", "_partial_: true"],
    # what does not fit together
    **{
        f"model={name} data.image_size=1": ["image_size must be at least", f"for '{name}', got 1", "data.image_size=28"]
        for name in ("lenet", "two_conv", "three_conv", "avgpool", "dilated", "dropout_cnn")
    },
    "model=pretrained model.net.architecture=vit_b_16": ["cannot take images of 28 pixels", "model.net.resize=224"],
    "schedule=plateau data.validation=none": ["schedule", "val/loss", "data.validation=none"],
}

YAML = {
    "experiment/key.yaml": "# @package _global_\noptim: {lrr: 0.1}\n",
    "experiment/root.yaml": "# @package _global_\noptm: {lr: 0.1}\n",
    "experiment/nested.yaml": "# @package _global_\nschedule: {scheduler: {pct_strat: 0.1}}\n",
    "experiment/member.yaml": "# @package _global_\ndefaults:\n  - override /model: dilatd\n",
    "experiment/group.yaml": "# @package _global_\ndefaults:\n  - override /modl: dilated\n",
    "experiment/package.yaml": "optim: {lr: 0.1}\n",
    "experiment/syntax.yaml": "# @package _global_\noptim: {lr: 0.1\nseed: 3\n",
    "experiment/defaults.yaml": "# @package _global_\ndefaults: dilated_adam\n",
    "optim/typo.yaml": "_target_: torch.optim.SGD\n_partial_: true\nlr: 0.1\nmomentom: 0.9\n",
    "callbacks/mapping.yaml": "mine: {_target_: builtins.dict}\n",
    "model/nameless.yaml": "net: {_target_: my_nets.Fine}\n",
    **{
        f"model/{name}.yaml": f"name: {name}\nnet:\n  _target_: {target}\n  num_classes: ${{data.num_classes}}\n"
        for name, target in {
            "no_module": "my_netz.Fine",
            "no_class": "my_nets.Fin",
            "no_callable": "my_nets.DEPTH",
            "no_network": "my_nets.NoNetwork",
            "import_fails": "my_broken_net.Net",
            "syntax_fails": "my_unreadable_net.Net",
            "needs_more": "my_nets.NeedsMore",
            "raises": "my_nets.Raises",
            "wrong_width": "my_nets.WrongWidth",
            "wrong_output": "my_nets.WrongOutput",
            "looks_at_values": "my_nets.LooksAtValues",
        }.items()
    },
}
CODE = {
    "my_broken_net.py": "import a_package_that_nobody_has\n",
    "my_unreadable_net.py": "def Net(:\n",
    "my_nets.py": """
import torch
from omegaconf import OmegaConf

from fmx.config.hydra_errors import likely_keys
from fmx.config.layout import ROOT_KEYS
from torch import nn

DEPTH = 3


class Fine(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(784, num_classes))


class NoNetwork:
    def __init__(self, num_classes):
        pass


class NeedsMore(Fine):
    def __init__(self, num_classes, width):
        super().__init__(num_classes)


class Raises(Fine):
    def __init__(self, num_classes):
        raise KeyError("width")


class WrongWidth(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(3, num_classes))


class WrongOutput(Fine):
    def __init__(self, num_classes):
        super().__init__(7)


class LooksAtValues(Fine):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
""",
}
USERS_OWN = {
    "experiment=key": ["optim.lrr", "takes no 'lrr'", "did you mean 'lr'?"],
    "experiment=root": ["no key 'optm'", "did you mean 'optim'?"],
    "experiment=nested": ["schedule.scheduler.pct_strat", "did you mean 'pct_start'?"],
    "experiment=member": ["no model 'dilatd'", "did you mean 'dilated'?", "looks_at_values"],
    "experiment=group": ["experiment/group", "'modl'", "did you mean 'model'?"],
    "experiment=package": ["# @package _global_"],
    "experiment=syntax": ["experiment/syntax.yaml, line 3"],
    "experiment=defaults": ["experiment/defaults", "must be a list"],
    "optim=typo": ["optim.momentom", "did you mean 'momentum'?"],
    "callbacks=mapping": ["callbacks.mine must make a pytorch_lightning", "not dict"],
    "model=nameless": ["model.name is missing"],
    "model=no_module": ["model.net", "no 'my_netz'", "PYTHONPATH"],
    "model=no_class": ["model.net", "my_nets has no 'Fin'", "did you mean 'Fine'?"],
    "model=no_callable": ["model.net", "'my_nets.DEPTH' is int"],
    "model=no_network": ["model.net", "must make a torch.nn.Module, not NoNetwork"],
    "model=import_fails": ["model.net", "importing my_broken_net raised", "a_package_that_nobody_has"],
    "model=syntax_fails": ["model.net", "SyntaxError", "my_unreadable_net.py, line 1"],
    "model=needs_more": ["my_nets.NeedsMore also needs width", "add model.net.width"],
    "model=raises": ["model.net", "my_nets.Raises", "KeyError", "width"],
    "model=wrong_width": ["model=wrong_width cannot take images of shape (1, 28, 28)"],
    "model=wrong_output": ["model=wrong_output", "(1, 10)", "(1, 7)"],
}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> tuple[str, dict[str, str]]:
    """A folder of YAML files and one of code, as a user has them outside the repository."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in ({f"conf/{name}": text for name, text in YAML.items()} | CODE).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return f"--config-dir={folder / 'conf'}", {"PYTHONPATH": str(folder)}


def refusal(done, cwd: Path) -> str:
    """What a refused command says, once it is sure that it says it plainly and left nothing."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) <= 3, done.stderr
    assert list(cwd.iterdir()) == []
    return done.stderr


@pytest.mark.parametrize("line", COMMAND_LINE)
def test_on_the_command_line(command, tmp_path, line):
    data = "data=fashion_mnist" if "train.images" in line else "data=digits"
    said = refusal(command(data, "model=mlp", *line.split(" "), cwd=tmp_path), tmp_path)
    assert [part for part in COMMAND_LINE[line] if part not in said] == [], said


def test_the_settings_of_launchers_and_sweepers_are_found_by_their_names_alone():
    for name in ("pruning", "rank", "from_study", "n_trials", "trials", "timeout_min", "jobs_per_gpu", "partition"):
        said = likely_keys(name, name, ROOT_KEYS, None)
        assert re.match(r"; did you mean 'hydra\.(sweeper|launcher)\.\w+' with hydra/\1=\w+\?", said), said
    assert "'data.folds'" in likely_keys("folds", "folds", ROOT_KEYS, OmegaConf.create({"data": {"folds": None}}))
    assert "'hydra/sweeper'" in likely_keys("sweeper", "sweeper", ROOT_KEYS, None), "not sweep, which is a key"
    of_local = likely_keys("hydra.launcher.jobs_per_gpu", "jobs_per_gpu", ["timeout_min"], None)
    assert of_local == "; did you mean 'hydra.launcher.jobs_per_gpu' with hydra/launcher=local?"


@pytest.mark.parametrize("line", USERS_OWN)
def test_in_the_users_own_files(command, tmp_path, own, line):
    config_dir, env = own
    said = refusal(command(config_dir, "data=digits", line, cwd=tmp_path, env=env), tmp_path)
    assert [part for part in USERS_OWN[line] if part not in said] == [], said


def test_a_network_that_looks_at_values_is_not_refused(command, tmp_path, own):
    config_dir, env = own
    done = command(config_dir, "data=digits", "model=looks_at_values", "trainer=smoke", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("override", ["trainer=gpu", "trainer.accelerator=cuda"])
def test_a_gpu_where_there_is_none(command, tmp_path, override):
    said = refusal(command("data=digits", override, cwd=tmp_path), tmp_path)
    assert "torch sees no" in said
    assert "trainer=cpu" in said


def test_the_command_as_typed_answers_too(cold_command, tmp_path):
    said = refusal(cold_command("model=dilatd", cwd=tmp_path), tmp_path)
    assert said.startswith("model=dilatd: there is no model 'dilatd'; did you mean 'dilated'?")


def test_a_mistyped_verb(cold_command, tmp_path):
    said = refusal(cold_command("evalute", "outputs/latest", module="cli", cwd=tmp_path), tmp_path)
    assert "did you mean 'evaluate'?" in said
    assert "run, evaluate, predict" in said


def test_the_traceback_is_there_for_who_wants_it(command, tmp_path):
    done = command("data=digits", "optim.lr=-1", cwd=tmp_path, env={"HYDRA_FULL_ERROR": "1"})
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "optim.lr must be a number greater than 0, got -1"


def test_a_bad_job_of_a_sweep(command, tmp_path):
    """Job 19 of 20 is wrong: nothing runs."""
    seeds = ",".join(map(str, range(9)))
    overrides = ["data=digits", "model=mlp", "trainer=smoke", f"seed={seeds},-1", "optim.lr=1e-3,2e-3"]
    done = command("-m", *overrides, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("job 18 (")
    assert "): seed must be a whole number from 0" in done.stderr
    assert done.stderr.endswith(", got -1\n")
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(("path", "what"), [("file", "write"), ("file/run", "access")])
def test_a_run_directory_that_cannot_be_made(command, tmp_path, path, what):
    (tmp_path / "file").write_text("mine")
    done = command("data=digits", f"hydra.run.dir={path}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"cannot {what} {path}: ")
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["mine"]


def test_a_training_that_ends_before_its_first_validation(command, tmp_path):
    steps = ["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=50", "trainer.max_epochs=2"]
    done = command("data=digits", "model=mlp", *steps, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 2
    assert "val_check_interval=50 leaves no validation to choose a checkpoint by in 40 training batches" in done.stderr
    assert not (tmp_path / "run/history.csv").exists()


@pytest.mark.parametrize(
    ("values", "least", "batches"),  # of the 20 batches of an epoch
    [
        ([], 20, 19),
        (["trainer.accumulate_grad_batches=2"], 10, 18),
        (["trainer.check_val_every_n_epoch=3"], 60, 59),
        (["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=7"], 7, 6),
    ],
)
def test_the_fewest_steps_of_a_training(command, tmp_path, values, least, batches):
    arguments = ["data=digits", "model=mlp", "augment=none", "trainer.max_epochs=4", *values]
    one_less = command(*arguments, f"+trainer.max_steps={least - 1}", "hydra.run.dir=run", cwd=tmp_path)
    assert one_less.returncode == 2, one_less.stdout + one_less.stderr
    assert f"leaves no validation to choose a checkpoint by in {batches} training batches" in one_less.stderr
    done = command(*arguments, f"+trainer.max_steps={least}", "hydra.run.dir=other", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "other/checkpoints/best.ckpt").is_file()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["trainer.limit_test_batches=0.25"], "trainer.limit_test_batches=0.25 of 2 test batches is none"),
        (["schedule.scheduler.pct_start=0.2", "trainer.limit_train_batches=5"], "one of 5 steps"),
        (["schedule.scheduler.total_steps=19"], "the schedule ends after 19 of the training's 20 steps"),
        (
            ["data.in_channels=3"],
            "data.train has images of shape (1437, 1, 28, 28) and type uint8, but data.in_channels",
        ),
    ],
)
def test_what_only_the_data_tells_is_said_before_training(command, tmp_path, values, said):
    done = command("data=digits", "model=mlp", "trainer.max_epochs=1", *values, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert not (tmp_path / "run/history.csv").exists()
