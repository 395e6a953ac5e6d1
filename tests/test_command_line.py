"""The first keystrokes: help, verbs, options in any order, the names that other programs use, Tab."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fmx import __version__
from fmx.__main__ import main
from fmx.commands.verbs import MORE_VERBS, VERBS

FMX = Path(sys.executable).with_name("fmx")


def test_bare_fmx_prints_the_help_and_trains_nothing(tmp_path):
    done = subprocess.run([FMX], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for verb, what in {**VERBS, **MORE_VERBS}.items():
        assert f"\n  {verb:<13}{what}\n" in done.stdout
    assert "--resume-sweep DIR" in done.stdout
    assert "model: avgpool, cosine_cnn" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_and_version_are_found_by_every_usual_name(command, tmp_path):
    whole = command("--help", cwd=tmp_path).stdout
    for words in (["help"], ["-h"], ["--help"], ["help", "run"], ["run", "--help"], []):
        done = command(*words, cwd=tmp_path, module="cli")
        assert (done.returncode, done.stdout) == (0, whole), words
    for words in (["version"], ["--version"], ["run", "--version"], ["model=mlp", "--version"]):
        assert command(*words, cwd=tmp_path, module="cli").stdout == f"fmx {__version__}\n", words
    for verb in ("evaluate", "data", "tensorboard"):
        helped = [command(*words, cwd=tmp_path, module="cli").stdout for words in (["help", verb], [verb, "--help"])]
        assert helped[0] == helped[1]
        assert helped[0].startswith(f"usage: fmx {verb} ")


def test_python_m_fmx_runs_every_verb_and_a_run(tmp_path):
    def typed(*words):
        words = [sys.executable, "-m", "fmx", *words]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    trained = typed("run", "data=digits", "model=mlp", "trainer=smoke", "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    assert recorded["command"].endswith("-m fmx.run data=digits model=mlp trainer=smoke hydra.run.dir=run")
    assert "test" in typed("report", "run").stdout
    assert typed("evaluat", "run").returncode == 2


# What was typed, and what the answer must hold.
MEANT = {
    "lr=0.1": "'optim.lr'",
    "+lr=0.1": "'optim.lr'",
    "lr=": "'optim.lr'",
    "model.lr=0.1": "'optim.lr'",
    "optimizer.lr=0.1": "'optim.lr'",
    "optim.learning_rate=0.1": "'optim.lr'",
    "learning-rate=0.1": "'optim.lr'",
    "learnin_rate=0.1": "'optim.lr'",
    "epochs=3": "'trainer.max_epochs'",
    "max_epochs=3": "'trainer.max_epochs'",
    "trainer.epochs=3": "'trainer.max_epochs'",
    "batch_size=32": "'data.batch_size'",
    "bs=32": "'data.batch_size'",
    "dataset.batch_size=32": "'data.batch_size'",
    "bacth_size=32": "'data.batch_size'",
    "momentum=0.9": "'optim.momentum' with optim=muon or optim=rmsprop or optim=sgd",
    "optim.nesterov=true": "'optim.nesterov' with optim=muon or optim=sgd",
    "dropout=0.3": "'model.net.dropout_prob' with model=dropout_cnn",
    "patience=3": "'callbacks.early_stopping.patience' with 'callbacks=[default,early_stopping]'",
    "gpus=1": "'trainer.devices'",
    "devices=2": "'trainer.devices'",
    "workers=4": "'data.num_workers' or 'hydra.launcher.workers'",
    "num_workers=4": "'data.num_workers'",
    "name=mine": "'hydra.run.dir'",
    "dataset=mnist": "'data'",
    "optimizer=adam": "'optim'",
    "network=mlp": "'model'",
    "scheduler=cosine": "'schedule'",
    "hydra.launcher.worker=3": "'workers'",
    "lr 0.1": "optim.lr=VALUE (without spaces)",
    "optim.lr = 0.1": "optim.lr=VALUE (without spaces)",
    "mlp": "model=mlp",
    "early_stopping=true": "did you mean 'callbacks=[default,early_stopping]'?",
    "ema": "did you mean 'callbacks=[default,ema]'?",
    "--ema": "without dashes, 'callbacks=[default,ema]'",
    "pretrained=true": "'model=pretrained'",
    "fast_dev_run=true": "'trainer=smoke'",
    "debug": "did you mean trainer=smoke (without spaces)?",
    "img_size=32": "'data.image_size'",
    "channels=3": "'data.in_channels'",
    "limit=100": "'trainer.limit_train_batches'",
    "verbose=true": "no key 'verbose'. Keys:",
    "model mlp": "model=VALUE (without spaces)",
    "model = mlp": "model=VALUE (without spaces)",
    "models": "model=VALUE (without spaces)",
    "model:mlp": "did you mean model=mlp?",
    "lr:0.1": "did you mean optim.lr=0.1?",
    "model=MLP": "did you mean 'mlp'?",
    "data=MNIST": "did you mean 'mnist'?",
    "data=FashionMNIST": "did you mean 'fashion_mnist'?",
    "data=fashion-mnist": "did you mean 'fashion_mnist'?",
    "optim=AdamW": "did you mean 'adamw'?",
    "schedule=none": "did you mean 'constant'?",
    "schedule=CosineAnnealingLR": "did you mean 'cosine'?",
    "schedule=reduce_on_plateau": "did you mean 'plateau'?",
    "loss=CrossEntropyLoss": "did you mean 'cross_entropy'?",
    "loss=ce": "did you mean 'cross_entropy'?",
    "trainer=cuda": "did you mean 'gpu'?",
    "data=cifar10": "there is no data 'cifar10'. Choices:",
    "train": "fmx run",
    "eval outputs/latest": "fmx evaluate",
    "sweep model=mlp": "fmx -m KEY=A,B",
    "evaluat": "'evaluate'",
    "--lr 0.1": "without dashes, optim.lr=VALUE",
    "--optim.lr=0.1": "without dashes, optim.lr=0.1",
    "--epochs=3": "without dashes, trainer.max_epochs=3",
    "model=mlp --seed 3": "without dashes, seed=VALUE",
    "--model mlp": "without dashes, model=VALUE",
    "--multirum seed=1,2": "'--multirun'",
    "--configdir my": "'--config-dir'",
    "--resume_sweep x": "'--resume-sweep'",
    "--resume-sweep": "takes the directory of a sweep",
    "model=mlp --resume-sweep x": "takes the directory of a sweep",
    "--cfg jobb": "choose from 'job'",
    "evaluate": "RUN is missing; for example: fmx evaluate outputs/latest",
    "export": "RUN is missing; for example: fmx export outputs/latest",
    "export x --frmat onnx": "'--format'",
    "compare a b --jsno f": "'--json'",
}


@pytest.mark.parametrize("typed", MEANT)
def test_what_other_programs_call_it_is_answered_with_its_name_here(capfd, monkeypatch, tmp_path, typed):
    """In this process, as a script would: the answer costs the imports of Hydra otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fmx", *typed.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr()
    assert ended.value.code == 2
    assert MEANT[typed] in said.err
    assert said.err.count("\n") == 1, "one line"
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_options_may_stand_between_overrides(command, tmp_path):
    (tmp_path / "my" / "model").mkdir(parents=True)
    (tmp_path / "my" / "model" / "tiny.yaml").write_text(
        "name: tiny\nnet:\n  _target_: fmx.models.mlp.MLP\n  in_channels: ${data.in_channels}\n"
        "  num_classes: ${data.num_classes}\n  image_size: ${data.image_size}\n  hidden_sizes: [4]\n"
    )
    for words in (
        "seed=7 --config-dir my model=tiny --cfg job data=digits",
        "--cfg=job seed=7 -cd my model=tiny data=digits",
        "seed=7 data=digits -c job model=tiny --config-dir=my",
        "run seed=7 --cfg job data=digits model=tiny --config-dir my",
    ):
        done = command(*words.split(), cwd=tmp_path, module="cli")
        assert done.returncode == 0, done.stderr
        assert "seed: 7\n" in done.stdout
        assert "name: tiny\n" in done.stdout
    assert "Config search path" in command("seed=7", "--info", "model=mlp", cwd=tmp_path, module="cli").stdout
    swept = command(
        "data=digits", "model=mlp", "-m", "seed=1,2", "--config-dir", "my", "trainer=smoke", "hydra.sweep.dir=sweep",
        cwd=tmp_path, module="cli",
    )  # fmt: skip
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert [(tmp_path / "sweep" / job / "metrics.json").is_file() for job in "01"] == [True, True]


COMPLETED = {
    "fmx eva": ["evaluate"],
    "fmx --resu": ["--resume-sweep"],
    "fmx model=ml": ["model=mlp"],
    "fmx run model=ml": ["model=mlp"],
    "fmx model=mlp -m seed=1 optim.l": ["optim.layer_decay=", "optim.lr="],
    "fmx seed=1 --config-dir my model=ti": ["model=timm", "model=tiny"],
    "fmx evaluate --chec": ["--checkpoint"],
    "fmx evaluate outputs/": ["outputs/latest", "outputs/runs/b", "outputs/runs/a", "outputs/sweeps/s"],
    "fmx export outputs/latest --format o": ["onnx"],
    "fmx data dig": ["digits"],
    "fmx help comp": ["compare"],
    "fmx --resume-sweep outputs/s": ["outputs/sweeps/s"],
    "fmx resume=outputs/runs/a": ["resume=outputs/runs/a"],
    "fmx --cfg j": ["job"],
}
BASH = """\
eval "$(fmx --shell-completion install=bash)"
while IFS= read -r line; do
    COMP_LINE="$line" COMP_POINT=${#line} COMP_WORDS=($line) COMPREPLY=()
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    hydra_bash_completion
    echo "${COMPREPLY[@]}"
done
"""
FISH = """\
fmx --shell-completion install=fish | source
while read -l line
    echo (complete -C "$line")
end
"""


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_tab_completes_verbs_options_run_directories_and_hydras_names(tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    for folder in ("my/model", "outputs/runs/a", "outputs/runs/b", "outputs/sweeps/s"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "outputs" / "latest").symlink_to("runs/b")
    (tmp_path / "my" / "model" / "tiny.yaml").write_text("name: tiny\n")
    done = subprocess.run(
        [shell, "-c", BASH if shell == "bash" else FISH],
        cwd=tmp_path,
        env={"PATH": f"{FMX.parent}:/usr/bin:/bin", "HOME": str(tmp_path)},
        input="\n".join(COMPLETED) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    offered = dict(zip(COMPLETED, (line.split() for line in done.stdout.splitlines()), strict=True))
    assert {line: sorted(words) for line, words in offered.items()} == {k: sorted(v) for k, v in COMPLETED.items()}
