"""Every command line that fmx prints, typed in a shell, in a folder whose name a shell and Hydra would misread."""

import ast
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

import fmx
from conftest import module_of
from test_foreign_directories import edit, interrupted
from test_sweep import here as with_faults

pytestmark = pytest.mark.usefixtures("no_figures")

SOURCES = Path(fmx.__file__).parent
FOLDER = "jö r=g, 1"
SMALL = ["data=digits", "model=mlp", "trainer=smoke", "logger=none"]
VERBS = "run|evaluate|predict|explain|export|ensemble|report|compare|reproduce|data|lr-find|status|watch|tensorboard"
A_COMMAND = re.compile(rf"\bfmx (?:{VERBS})\b|\bfmx -|\bfmx [\w/.]+=|python[\d.]* -m fmx|\bpip install|--allow \{{")
# A text with a command in it that the marker has not made, by its file and words of it.
WITHOUT_THE_MARKER = {
    ("__main__.py", "fmx run"): "a verb to go on from, without its arguments",
    ("__main__.py", "fmx evaluate"): "likewise",
    ("__main__.py", "fmx predict"): "likewise",
    ("__main__.py", "fmx report"): "likewise",
    ("__main__.py", "fmx compare"): "likewise",
    ("__main__.py", "fmx status"): "likewise",
    ("__main__.py", "fmx watch"): "likewise",
    ("__main__.py", "fmx tensorboard"): "likewise",
    ("__main__.py", "fmx lr-find"): "likewise",
    ("training/callback_rules.py", "fmx lr-find OVERRIDES"): "likewise, with what stands for overrides",
    ("__main__.py", "fmx run resume=RUN"): "likewise, with what stands for a run",
    ("__main__.py", "fmx -m KEY=A,B"): "likewise, with what stands for a key",
    ("__main__.py", "fmx -m hydra/sweeper=search KEY=A,B"): "likewise",
    ("commands/predict.py", "reads run directories"): "a sentence about a verb",
    ("commands/predict.py", "or what fmx export wrote"): "likewise",
    ("commands/explain.py", "It needs `pip install"): "it installs from a package index",
    ("commands/export.py", "with the temperature of"): "a sentence about a verb",
    ("commands/export.py", "take different images"): "likewise",
    ("commands/predict.py", "divides the logits"): "a description with what stands for a run",
    ("commands/predict.py", "use the temperature of"): "a sentence about a verb",
    ("commands/predict.py", "has a temperature inside"): "likewise",
    ("inference/grad_cam.py", "needs the package captum"): "it installs from a package index",
    ("reporting/leaderboard_text.py", "(fmx evaluate --calibration)"): "a sentence about a verb",
    ("runs/calibration.py", "is not what fmx evaluate"): "likewise",
    ("runs/ensemble.py", "makes a new one of runs"): "likewise",
    ("runs/ensemble.py", "is not what fmx ensemble writes"): "likewise",
    ("commands/export.py", "needs nothing else"): "a description with what stands for files",
    ("inference/export/signature.py", "is not from fmx export"): "a sentence about a verb",
    ("inference/export/onnx_worker.py", "which fmx export never does"): "likewise",
    ("inference/export/model_card.py", "fmx export --format pt2"): "likewise, for a run that is not named",
    ("commands/tensorboard.py", "fmx tensorboard"): "the program's name, told to TensorBoard",
    ("commands/watch.py", "fmx watch has ended"): "a sentence about a verb",
    ("config/trust.py", "in Python: allow="): "a package's name, which the gate has let through: an identifier",
    ("data/folder.py", "classify them with fmx predict"): "a sentence about a verb",
    ("data/parquet.py", "data=parquet needs pyarrow"): "it installs from a package index",
    ("data/torchvision_sets.py", "pip install"): "likewise",
    ("data/torchvision_sets.py", "on a machine with a network"): "with what stands for a folder",
    ("inference/export/model_card.py", "a picture of another size"): "a sentence about a verb",
    ("training/loggers.py", "or pip install"): "likewise",
    ("models/timm_net.py", "needs the package timm"): "it installs from a package index",
    ("training/first_batch.py", "fmx data prints their mean"): "a sentence about a verb",
}
# Calls of the marker that no test here types, by file and function.
NOT_TYPED = {
    "inference/export/onnx_model.py:require": "it installs from a package index",
    "inference/grad_cam.py:require_captum": "likewise",
    "commands/ensemble.py:ensemble": "test_ensemble finds it on the model card",
    "runs/calibration.py:needed_calibration": "test_calibration types it",
    "commands/lr_find.py:lr_find": "test_lr_find types it",
    "sweeps/search/options.py:require_optuna": "it installs from a package index",
    "sweeps/search/options.py:read_options": "likewise",
    "sweeps/slurm_queue.py:check_installed": "likewise",
    "sweeps/sweep_status.py:sweep_status": "test_status types it",
    "sweeps/search/summary_file.py:command_to_go_on": "likewise",
    "runs/command_again.py:command_to_resume": "as runs/record.py:recording, which is typed here",
    "sweeps/search/command.py:for_trial": "test_search_repeats and test_slurm_nodes type it",
    "sweeps/search/study_settings.py:_difference": "an override alone, which test_search_repeats parses",
    "sweeps/slurm.py:report_result": "test_slurm finds it",
    "runs/run_dir.py:find_runs": "test_report finds it",
    "commands/watch.py:watch": "ssh, to this machine",
    "sweeps/status.py:latest_sweep": "an example with what stands for a sweep",
    "config/image_size.py:as_override": "an override alone, which test_image_shapes types",
    "data/class_folders.py:_remedy": "an override alone, which test_image_folders types",
    "data/class_folders.py:_without_test": "likewise",
    "config/hydra_errors.py:_nested_distribution": "an override alone, as an example",
    "config/hydra_errors.py:_by_choice": "an override alone, with a word that stands for a choice",
    "sweeps/search/partial_keys.py:_messages": "an override alone, which test_search_branches reads",
    "training/fit.py:_plain_lost_connections": "as runs/record.py:recording, which is typed here; test_ddp finds it",
    "runs/trusted_config.py:_check_allowed": "an option alone, with a name that nothing quotes: test_own_steps",
    "inference/other_data.py:_check_shape": "an option alone, which test_image_shapes types",
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCES.rglob("*.py")):
        yield path.relative_to(SOURCES).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> set[int]:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    return {id(node.body[0].value) for node in ast.walk(tree)
            if isinstance(node, kinds) and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip


def texts(tree: ast.Module) -> Iterator[str]:
    """Every text of a module but its docstrings; `{…}` stands in it for what is put in."""
    passed = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            passed |= {id(each) for each in node.values}
            yield "".join(str(each.value) if isinstance(each, ast.Constant) else "{…}" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
            yield node.value


def calls_of_the_marker() -> set[str]:
    found = set()
    for file, tree in sources():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                names = {node.func.id for node in ast.walk(function)
                         if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
                found |= {f"{file}:{function.name}"} if "printed_command" in names else set()
    return found


def test_no_command_is_printed_past_the_marker():
    quoting = {file for file, tree in sources() if re.search(r"shlex\.(join|quote)", ast.unparse(tree))}
    assert quoting == {"config/printed_command.py"}
    used, unexpected = set(), []
    for file, tree in sources():
        for text in texts(tree):
            if A_COMMAND.search(text) and not text.startswith("examples:\n"):
                known = {key for key in WITHOUT_THE_MARKER if key[0] == file and key[1] in text}
                used |= known
                unexpected += [] if known else [(file, text)]
    assert not unexpected
    assert not WITHOUT_THE_MARKER.keys() - used, "no longer there"


class Desk:
    """A person in one folder, who runs commands and types what they print."""

    def __init__(self, command, folder: Path) -> None:
        self._command = command
        self.cwd = folder / FOLDER
        self.cwd.mkdir()
        self._notes = folder / "printed"
        self._notes.touch()
        self._bin = folder / "bin"
        self._bin.mkdir()
        self.places: set[str] = set()
        for name in ("fmx", "python", Path(sys.executable).name):  # they say what a shell has made of a line
            (self._bin / name).write_text('#!/bin/sh\nprintf \'%s\\0\' "${0##*/}" "$@"\n')
            (self._bin / name).chmod(0o755)

    def run(self, *arguments: str, code: int = 0, module: str = "run", env: dict[str, str] | None = None, **how):
        env = {"PRINTED_COMMANDS": str(self._notes)} | (env or {})
        self.last = self._command(*arguments, module=module, cwd=self.cwd, env=env, **how)
        assert self.last.returncode == code, f"{arguments}\n{self.last.stdout}{self.last.stderr}"
        return self.last

    def shown(self, place: str, *, of: Sequence[str] = (), number: int = -1) -> str:
        """The command that a place of the code has printed last, once it is seen where people look.

        number: -2 for the one before the last, and so on.
        """
        notes = [json.loads(line) for line in self._notes.read_text(encoding="utf-8").splitlines()]
        named = [(f"{Path(file).relative_to(SOURCES).as_posix()}:{name}", text) for file, name, _, text in notes]
        text = [text for at, text in named if at == place][number]
        seen = self.last.stdout + self.last.stderr + "".join((self.cwd / each).read_text() for each in of)
        variants = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        assert any(variant in seen + html.unescape(seen) for variant in variants), text
        self.places.add(place)
        return text

    def words(self, line: str) -> list[str]:
        """What two shells make of a line."""
        path = f"{self._bin}{os.pathsep}{os.environ['PATH']}"
        made = [subprocess.run([shell, "-c", line], cwd=self.cwd, env={"PATH": path}, stdout=-1, check=True).stdout
                for shell in ("sh", "bash")]  # fmt: skip
        assert made[0] == made[1]
        return made[0].decode().split("\0")[:-1]

    def type(self, line: str, **how):
        """Type a line, or words of one, which follow `fmx run`."""
        words = self.words(line if re.match(r"fmx|python", line) else f"fmx run {line}")
        if words[0] == "fmx":
            verb = re.fullmatch(VERBS, words[1])
            return self.run(*words[2 if verb else 1 :], module=words[1] if verb else "run", **how)
        assert words[1:3] == ["-m", "fmx.run"]
        return self.run(*words[3:], **how)


def a_run_with_a_folder_of_ones_own(desk: Desk) -> None:
    """It was cut, goes on, is exported and reported; its overrides refer to its folder."""
    own = "name: own\nnet: {_target_: fmx.models.mlp.MLP, hidden_sizes: [4], in_channels: '${data.in_channels}', "
    own += "image_size: '${data.image_size}', num_classes: '${data.num_classes}'}\n"
    (desk.cwd / "my conf/model").mkdir(parents=True)
    (desk.cwd / "my conf/model/own.yaml").write_text(own)
    rows = '+logger.csv={_target_:pytorch_lightning.loggers.CSVLogger,save_dir:"${run_dir}/rows"}'
    begins = ["--config-dir", "my conf", *SMALL[:-1], "model=own", rows, "trainer.max_epochs=20"]
    begins += ["trainer.limit_train_batches=1.0", "hydra.run.dir='2025_01_15'"]
    desk.run(*begins, code=143, send=(desk.cwd / "2025_01_15/checkpoints/last.ckpt", signal.SIGTERM))
    goes_on = desk.shown("runs/record.py:recording")
    recorded = desk.shown("runs/record.py:_start_record", of=["2025_01_15/run.json"])
    assert desk.words(recorded)[3:] == begins
    desk.type(recorded, code=2)
    desk.type(desk.shown("runs/resume.py:check_same_run"))
    assert "is complete" in desk.type(goes_on, code=2).stderr
    desk.run("2025_01_15", "--format", "state_dict", "--out", "m.pt", module="export")
    again = desk.shown("runs/command_again.py:command_again", of=["m.pt.md"])
    exported = desk.shown("commands/export.py:export", of=["m.pt.md"])
    for name in ("m.pt", "m.pt.md"):
        (desk.cwd / name).unlink()
    desk.type(exported)
    desk.run("2025_01_15", "--html", "page.html", module="report")
    assert desk.shown("runs/command_again.py:command_again", of=["page.html"]) == again
    desk.type(again)
    assert (next((desk.cwd / "outputs/runs").iterdir()) / "rows").is_dir()


def a_run_of_ones_own_code(desk: Desk) -> None:
    (desk.cwd / "mine.py").write_text("from fmx.models.mlp import MLP\nclass Net(MLP): pass\n")
    desk.run(*SMALL, "model.net._target_=mine.Net", "hydra.run.dir=my run")
    interrupted(desk.cwd / "my run")
    desk.run("resume=my run", code=1)
    word = desk.shown("runs/resume.py:config_to_train")
    desk.type(json.loads((desk.cwd / "my run/run.json").read_text())["command"] + f" {word}")


def a_run_that_goes_on(desk: Desk) -> None:
    desk.run(*SMALL, "hydra.run.dir=my run")
    desk.run("resume=my run", "trainer.max_epochs=2", code=2)
    same, extended, started = (
        desk.shown("runs/resume.py:_check_unchanged"),
        desk.shown("runs/resume.py:_how", number=-2),
        desk.shown("runs/resume.py:_how"),
    )
    assert "is complete" in desk.type(same, code=2).stderr
    assert "epoch 2/2" in desk.type(extended).stdout
    desk.type(f"{' '.join(SMALL)} {started}")
    desk.run("extend=my run", "model=lenet", code=2)
    desk.type(f"{' '.join(SMALL)} {desk.shown('runs/extension.py:expand_extend')}")
    interrupted(desk.cwd / "my run")
    desk.run("extend=my run", "trainer.max_epochs=2", code=2)
    resumed, started = (desk.shown("runs/extension.py:extension_of", number=each) for each in (-1, -2))
    desk.type(f"{' '.join(SMALL)} {started}")
    desk.type(resumed)
    assert json.loads((desk.cwd / "my run/run.json").read_text())["status"] == "completed"


def a_sweep_that_failed(desk: Desk) -> None:
    fault = "+callbacks.fault={_target_:faults.Fault,seed:${seed}}"
    (desk.cwd / "faults.json").write_text('{"2": "raise"}')
    desk.run("-m", *SMALL, "seed=1,2", fault, "hydra.launcher.workers=1", code=1, env=with_faults())
    (desk.cwd / "faults.json").unlink()
    desk.type(desk.shown("sweeps/local.py:resume_command"), env=with_faults())


def a_sweep_from_elsewhere(desk: Desk) -> None:
    (desk.cwd / "seen.py").write_text(
        "from hydra.experimental.callback import Callback\nclass Seen(Callback):\n    def __init__(self, **_): pass\n"
    )
    desk.run("-m", *SMALL, "seed=1,2", "hydra.sweep.dir=it's", "hydra.launcher.workers=1")
    shutil.rmtree(desk.cwd / "it's/1")
    edit(desk.cwd / "it's/jobs/1.yaml", lambda job: job["data"].update(mirrors=["http://$(touch x)/`id`'/"]))
    edit(desk.cwd / "it's/jobs/1.yaml", lambda job: job["hydra"]["callbacks"].update(s={"_target_": "seen.Seen"}))
    desk.run("--resume-sweep", "it's", code=1)
    first = desk.shown("sweeps/gate.py:_check_callbacks")
    desk.type(f'fmx run --resume-sweep "it\'s" {first}', code=1)
    both = f"{first} {desk.shown('sweeps/gate.py:_check_config')}"
    done = desk.type(f'fmx run --resume-sweep "it\'s" {both}', code=1)
    assert "takes no 'mirrors'" in done.stderr, "that place is trusted, but digits are not fetched from any"


def a_search(desk: Desk) -> None:
    choice = ["optim.lr=tag(log,interval(1e-4,1e-1))", "model=mlp", "+vars.tag='\"a, b\"'"]
    search = ["-m", "hydra/sweeper=search", "hydra.sweeper.n_trials=1", "hydra.launcher.workers=1"]
    desk.run(*search, *SMALL, *choice, "hydra.sweep.dir=found")
    files = ["found/search.md", "found/search.html", "found/search.json"]
    for place in ("sweeps/search/command.py:to_resume", "sweeps/search/command.py:_of_run"):
        desk.type(desk.shown(place, of=files))


def an_exported_file(desk: Desk) -> None:
    desk.run(*SMALL, "hydra.run.dir=run")
    desk.run("run", "--out", "my model's.onnx", module="export")
    Image.new("L", (8, 8)).save(desk.cwd / "i.png")
    line = desk.shown("inference/export/model_card.py:model_card", of=["my model's.onnx.md"])
    desk.type(f"{line} i.png")


def words_of_refusals(desk: Desk) -> None:
    desk.run(*SMALL, "hydra.launcher.workers=1", "+vars.tag='a, b'", code=2)
    desk.type(desk.shown("commands/hydra_callback.py:_check_mode"))
    desk.run(*SMALL, "hydra.sweeper=search", code=2)
    desk.type(f"-m {' '.join(SMALL)} seed=1,2 {desk.shown('config/typed_values.py:check_typed')} --dry-run")
    desk.run(*SMALL, "+vars.tag=it's (", code=2)
    desk.type(f"{' '.join(SMALL)} {desk.shown('config/hydra_errors.py:_unreadable_override')}")
    (desk.cwd / "my conf/model").mkdir(parents=True)
    (desk.cwd / "my conf/model/mine.yaml").write_text("defaults: [mlp, _self_]")
    mine = f"{' '.join(SMALL)} model=mine"
    desk.run(*SMALL, "model=mine", code=2)
    desk.type(f"{mine} {desk.shown('config/hydra_errors.py:_forgotten_config_dir')} --dry-run")
    started = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
               "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}  # fmt: skip
    desk.run(*SMALL, "+vars.tag='a, b'", code=2, env=started)
    desk.type(desk.shown("process/distributed.py:_check_torchrun"))
    (desk.cwd / "empty").mkdir()
    desk.run("empty", module="tensorboard", code=1)
    desk.type(desk.shown("commands/tensorboard.py:serve") + " model=mlp trainer=smoke")
    desk.run("nowhere", module="tensorboard", code=1)
    line = desk.shown("reporting/event_folders.py:_example")
    assert "1 run; starting TensorBoard" in desk.type(line, send=(8.0, signal.SIGINT)).stdout
    desk.run("--config-dir", code=2)
    assert "--config-dir" in desk.type(desk.shown("commands/command_line.py:_refuse")).stdout
    desk.run("--nonsense-of-mine", code=2)
    assert "--resume-sweep" in desk.type(desk.shown("commands/command_line.py:_refuse_option")).stdout
    desk.run(module="evaluate", code=2)
    assert "examples:" in desk.type(desk.shown("commands/verb_parser.py:error")).stdout


SCENARIOS: dict[str, tuple[set[str], Callable[[Desk], None]]] = {
    "run": (
        {
            "runs/record.py:recording",
            "runs/record.py:_start_record",
            "runs/resume.py:check_same_run",
            "runs/command_again.py:command_again",
            "commands/export.py:export",
        },
        a_run_with_a_folder_of_ones_own,
    ),
    "own code": ({"runs/resume.py:config_to_train"}, a_run_of_ones_own_code),
    "going on": (
        {
            "runs/resume.py:_check_unchanged",
            "runs/resume.py:_how",
            "runs/extension.py:extension_of",
            "runs/extension.py:expand_extend",
        },
        a_run_that_goes_on,
    ),
    "sweep": ({"sweeps/local.py:resume_command"}, a_sweep_that_failed),
    "foreign sweep": ({"sweeps/gate.py:_check_callbacks", "sweeps/gate.py:_check_config"}, a_sweep_from_elsewhere),
    "search": ({"sweeps/search/command.py:to_resume", "sweeps/search/command.py:_of_run"}, a_search),
    "exported": ({"inference/export/model_card.py:model_card"}, an_exported_file),
    "refusals": (
        {
            "commands/hydra_callback.py:_check_mode",
            "commands/command_line.py:_refuse",
            "commands/command_line.py:_refuse_option",
            "commands/verb_parser.py:error",
            "config/typed_values.py:check_typed",
            "config/hydra_errors.py:_forgotten_config_dir",
            "config/hydra_errors.py:_unreadable_override",
            "process/distributed.py:_check_torchrun",
            "commands/tensorboard.py:serve",
            "reporting/event_folders.py:_example",
        },
        words_of_refusals,
    ),
}


@pytest.mark.parametrize("kind", SCENARIOS)
def test_printed_commands_do_what_they_say(command, tmp_path, kind):
    places, scenario = SCENARIOS[kind]
    desk = Desk(command, tmp_path)
    scenario(desk)
    assert desk.places == places


@pytest.mark.parametrize("verb", VERBS.split("|")[1:])
def test_the_examples_of_help_are_understood(command, tmp_path, verb):
    module = import_module(module_of(verb))
    parser = module.make_parser()
    lines = [line.strip() for line in parser.epilog.splitlines() if line.startswith(f"  fmx {verb}")]
    assert lines
    for line in lines:
        words = Desk(command, tmp_path).words(re.split(r" {4,}", line)[0])
        tmp_path = tmp_path / "next"
        tmp_path.mkdir()
        parser.parse_args(words[2:])


def test_every_call_of_the_marker_is_typed():
    typed = {place for places, _ in SCENARIOS.values() for place in places}
    assert typed | NOT_TYPED.keys() == calls_of_the_marker()
    assert not typed & NOT_TYPED.keys()
