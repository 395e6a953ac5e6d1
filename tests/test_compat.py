"""Private parts of other libraries: all in one file, and what comes out without them is the same to the bit."""

import ast
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment

from fmx import compat
from fmx.commands.command_line import make_parser, options
from fmx.runs.checkpoint_files import load_checkpoint
from same_runs import assert_same, points

ROOT = Path(__file__).resolve().parents[1]
OFF = {compat.SWITCH: "off"}
RUN = ["data=digits", "model=mlp", "data.batch_size=64"]
OFF_ON = ("off", "on")
SMOKE = ["data=digits", "model=mlp", "trainer=smoke"]
NOTE = "FMX_COMPAT=off: fmx uses public names of its libraries alone, which is slower"

STOP = """
import os
import signal
from pathlib import Path

from pytorch_lightning import Callback


class Stop(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 29 and not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), signal.SIGTERM)
"""


def done(finished, code=0):
    assert finished.returncode == code, finished.stdout + finished.stderr
    return finished


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compat")


@pytest.fixture(scope="module")
def with_and_without(command, cold_command, folder):
    """The same run with private parts and, in a process of its own from the start, without."""
    run = [*RUN, "trainer.max_epochs=2", "trainer.log_every_n_steps=7"]
    done(command(*run, "hydra.run.dir=on", cwd=folder))
    done(cold_command(*run, "hydra.run.dir=off", cwd=folder, env=OFF))
    return folder / "on", folder / "off"


def test_a_run(with_and_without):
    on, off = with_and_without
    assert_same(off, on)
    assert points(off) == points(on)
    one, other = (load_checkpoint(run / "checkpoints/last.ckpt") for run in (off, on))
    assert one["loops"] == other["loops"]
    assert (off / "run.log").read_text().count(NOTE) == 1
    assert compat.SWITCH not in (on / "run.log").read_text()


def test_a_run_with_nothing_held_out(command, tmp_path):
    for name, env in {"on": {}, "off": OFF}.items():
        run = [*RUN, "data.validation=none", "trainer.max_epochs=2", f"hydra.run.dir={name}"]
        done(command(*run, "trainer.check_val_every_n_epoch=2", cwd=tmp_path, env=env))
        best, last = (load_checkpoint(tmp_path / name / f"checkpoints/{each}.ckpt") for each in ("best", "last"))
        assert best["global_step"] == last["global_step"]
    assert_same(tmp_path / "off", tmp_path / "on")


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_a_resumed_run(command, tmp_path, schedule):
    """Stopped in the middle of its second epoch; onecycle asks for the loaders' length before Lightning makes them."""
    (tmp_path / "stop.py").write_text(STOP)
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    run = [*RUN, f"schedule={schedule}", "trainer.max_epochs=3", "+callbacks.stop._target_=stop.Stop"]
    (tmp_path / "stopped").touch()
    done(command(*run, "hydra.run.dir=whole", cwd=tmp_path, env=env))
    (tmp_path / "stopped").unlink()
    done(command(*run, "hydra.run.dir=cut", cwd=tmp_path, env=env | OFF), code=143)
    done(command(*run, "resume=cut", cwd=tmp_path, env=env | OFF))
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert points(tmp_path / "cut") == points(tmp_path / "whole")


def test_a_plateau_schedule_is_not_resumed_in_the_middle_of_an_epoch(command, tmp_path):
    (tmp_path / "stop.py").write_text(STOP)
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    run = [*RUN, "schedule=plateau", "trainer.max_epochs=3", "+callbacks.stop._target_=stop.Stop"]
    done(command(*run, "hydra.run.dir=cut", cwd=tmp_path, env=env), code=143)
    refused = done(command(*run, "resume=cut", cwd=tmp_path, env=env | OFF), code=1)
    assert "training cannot resume in the middle of this epoch with this version of pytorch-lightning" in refused.stderr
    done(command(*run, "resume=cut", cwd=tmp_path, env=env))


def test_a_sweep(command, tmp_path):
    for name, env in {"on": {}, "off": OFF}.items():
        done(command("-m", *SMOKE, "seed=1,2", f"hydra.sweep.dir={name}", cwd=tmp_path, env=env))
    for job in ("0", "1"):
        assert_same(tmp_path / "off" / job, tmp_path / "on" / job)


def test_a_search(command, tmp_path):
    search = ["-m", "hydra/sweeper=search", *SMOKE, "optim.lr=tag(log,interval(1e-4,1e-1))"]
    for name, env in {"on": {}, "off": OFF}.items():
        done(command(*search, "hydra.sweeper.n_trials=2", f"hydra.sweep.dir={name}", cwd=tmp_path, env=env))
    for trial in ("0", "1"):
        assert_same(tmp_path / "off" / trial, tmp_path / "on" / trial)
        one, other = (yaml.safe_load((tmp_path / run / trial / ".hydra/overrides.yaml").read_text()) for run in OFF_ON)
        assert one == other


@pytest.mark.parametrize("arguments", [["--help"], [*SMOKE, "--cfg", "job"], ["--version"]])
def test_what_is_printed(command, tmp_path, arguments):
    on, off = (done(command(*arguments, cwd=tmp_path, env=env)) for env in ({}, OFF))
    assert on.stdout == off.stdout
    assert off.stderr == ""


def test_evaluate(command, with_and_without, tmp_path):
    copies = [shutil.copytree(with_and_without[0], tmp_path / name / "run") for name in OFF_ON]
    evaluated = [
        done(command("run", module="evaluate", cwd=copy.parent, env=env)).stdout
        for copy, env in zip(copies, (OFF, {}), strict=True)
    ]
    assert evaluated[0].replace(NOTE, "") == evaluated[1]


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "pt2"])
def test_export(command, with_and_without, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnx")
    run = str(with_and_without[0])
    done(command(run, "--format", kind, "--out", f"m.{kind}", module="export", cwd=tmp_path, env=OFF))
    assert (tmp_path / f"m.{kind}").stat().st_size > 1000


def test_a_file_of_the_users_that_would_not_be_used_is_refused(command, tmp_path):
    (tmp_path / "my/optim").mkdir(parents=True)
    text = (ROOT / "conf/optim/adamw.yaml").read_text().replace("lr:", "lr: 0.5  #")
    (tmp_path / "my/optim/adamw.yaml").write_text(text)
    run = [*SMOKE, "optim=adamw", "--config-dir", "my", "hydra.run.dir=run"]
    refused = done(command(*run, cwd=tmp_path, env=OFF), code=2)
    assert "my/optim/adamw.yaml cannot replace fmx's own optim/adamw" in refused.stderr
    assert not (tmp_path / "run").exists()
    looked = command("digits", "--config-dir", "my", module="data", cwd=tmp_path, env=OFF)
    assert "cannot replace fmx's own optim/adamw" in done(looked, code=2).stderr


@pytest.mark.parametrize("library", compat.TESTED)
def test_an_unknown_version(monkeypatch, caplog, library):
    monkeypatch.delenv(compat.SWITCH, raising=False)
    monkeypatch.setattr(compat, "_notes", {})
    monkeypatch.setattr(compat, "_logged", set())
    caplog.set_level(logging.INFO, "fmx.compat")
    assert compat.is_tested(library)
    for version in ("99.0.1", "", "strange"):
        monkeypatch.setattr(compat, "_version", lambda _, version=version: version)
        assert not compat.is_tested(library)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{library} 99.0.1: fmx was tested with")


def test_every_library_has_a_row_in_the_page():
    page = (ROOT / "docs/compatibility.md").read_text()
    for library, versions in compat.TESTED.items():
        (row,) = [line for line in page.splitlines() if line.lower().startswith(f"| {library} |")]
        assert versions[0] in row
        assert versions[-1] in row


def test_importing_it_brings_no_library():
    heavy = {"torch", "hydra", "omegaconf", "pytorch_lightning", "optuna", "numpy"}
    said = subprocess.run(
        [sys.executable, "-c", "import sys, fmx.compat; print(*{name.partition('.')[0] for name in sys.modules})"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not heavy & {*said.stdout.split()}


def test_options_are_hydras_own():
    from hydra._internal.utils import get_args_parser

    ours, hydras = (
        {tuple(action.option_strings): (action.nargs, action.const if action.nargs == "?" else None, action.choices)
         for action in parser._actions if "--version" not in action.option_strings}
        for parser in (make_parser(), get_args_parser())
    )  # fmt: skip
    assert ours == hydras
    known = {name for action in get_args_parser()._actions for name in action.option_strings}
    assert {*options()} == {name for name in known if name.startswith("--")}


# Documented by Python in spite of its underscore.
PUBLIC = {"os._exit"}


def private_names(tree):
    """Names with one leading underscore that belong to something outside of fmx, inherited ones among them."""
    own = {*defined_names(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            of_self = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if not (of_self and node.attr in own) and ast.unparse(node) not in PUBLIC:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("fmx"):
            if any(map(is_private, [*node.module.split("."), *(alias.name for alias in node.names)])):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Import) and any(is_private(part) for a in node.names for part in a.name.split(".")):
            yield node.lineno, ast.unparse(node)


def defined_names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):  # a field of a dataclass
            yield node.target.id


def is_private(name):
    return name.startswith("_") and not name.endswith("_")  # _target_ is Hydra's key, and __name__ Python's


def test_references_are_resolved_anew_though_parsed_once():
    cfg = OmegaConf.create({"a": "${b} and ${.c}", "b": 1, "c": 2})
    with compat.parse_references_once():
        assert cfg.a == "1 and 2"
        cfg.b = 3
        assert cfg.a == "3 and 2"
        for _ in range(2):
            with pytest.raises(GrammarParseError):
                OmegaConf.create({"wrong": "${b"})
    assert cfg.a == "3 and 2"


@pytest.mark.parametrize("switch", OFF_ON)
def test_callbacks_of_installed_packages_come_to_every_trainer(tmp_path, monkeypatch, switch):
    package = tmp_path / "theirs-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: theirs\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[pytorch_lightning.callbacks_factory]\ntheirs = theirs:made\n")
    (tmp_path / "theirs.py").write_text("from pytorch_lightning.callbacks import Timer\nmade = lambda: [Timer()]\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(compat.SWITCH, switch)
    compat.has_entry_points.cache_clear()
    try:
        for _ in range(2):
            with compat.look_up_callbacks_once():
                trainer = Trainer(logger=False, enable_checkpointing=False, plugins=[LightningEnvironment()])
            assert "Timer" in {type(each).__name__ for each in trainer.callbacks}
    finally:
        compat.has_entry_points.cache_clear()


def test_private_names_stand_in_one_file():
    files = sorted((ROOT / "src/fmx").rglob("*.py"))
    found = {
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        if path.name != "compat.py"
        for line, name in private_names(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not found
    assert len([*private_names(ast.parse((ROOT / "src/fmx/compat.py").read_text(encoding="utf-8")))]) > 10
    lines = ["import os._x", "from a._internal.b import c", "from a import _b", "a._b()", "self._own = 1", "self._own",
             "self._base", "os._exit(0)", "a.b._c"]  # fmt: skip
    assert sorted(line for line, _ in private_names(ast.parse("\n".join(lines)))) == [1, 2, 3, 4, 7, 9]
