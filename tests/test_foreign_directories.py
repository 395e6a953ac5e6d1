"""Every verb on every file of a run, sweep or study directory that wants to leave a mark: none does."""

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from optuna.distributions import FloatDistribution
from PIL import Image

from fmx import __main__ as cli
from fmx.commands.reproduce import result_differences
from fmx.config.bounded_files import read_yaml
from fmx.config.expansion import check_expansion
from fmx.config.frozen import freeze
from fmx.config.trust import check_paths, check_processes
from fmx.data.csv_images import load_csv
from fmx.errors import ConfigError, DataError
from fmx.models.tensor_file import read_tensors
from fmx.process.cores import num_cores
from fmx.process.memory_bound import PAGES_IN_USE
from fmx.runs.checkpoint_files import CheckpointFiles
from fmx.runs.run_dir import open_run
from fmx.runs.trusted_config import trusted_config
from fmx.sweeps.search import frozen_conf
from fmx.sweeps.search.heartbeat import Searcher
from fmx.sweeps.search.options import Objective, Options
from fmx.sweeps.search.space import Parameter, Space
from fmx.sweeps.search.study import SharedStudy
from fmx.training.restore import check_fits, restore_classifier, restore_data

SECURITY = Path(__file__).parents[1] / "docs/security.md"
MARK, VICTIM = "PWNED", "victim.txt"
ESCAPE = "\x1b]0;PWNED\x07\x1b[2J"
SMALL = ["data=digits", "model=mlp", "trainer=smoke", "logger=none"]


class Touch:
    def __reduce__(self):
        return os.system, (f"touch {MARK}",)


@pytest.fixture
def cwd(tmp_path) -> Path:
    """A working folder with a pickle that leaves a mark, a picture, and a file that must stay as it is."""
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Touch()))
    (tmp_path / VICTIM).write_text("mine")
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    return tmp_path


READS_PICKLE = {"_target_": "pandas.read_pickle", "filepath_or_buffer": "evil.pkl"}
RESOLVER = "${oc.create:{_target_:pandas.read_pickle,filepath_or_buffer:evil.pkl}}"


def edit(path: Path, change, load=yaml.safe_load, dump=yaml.safe_dump) -> None:
    """Change a YAML or JSON file in place."""
    values = load(path.read_text())
    values = change(values) or values
    path.write_text(dump(values))


def edit_json(path: Path, **fields) -> None:
    edit(path, lambda values: values | fields, json.loads, json.dumps)


def in_choices(run: Path) -> None:
    edit(
        run / ".hydra/hydra.yaml", lambda v: v["hydra"]["runtime"].update(choices=READS_PICKLE | {"x": [READS_PICKLE]})
    )


def in_resolved(run: Path) -> None:
    edit(run / ".hydra/resolved.yaml", lambda v: v["callbacks"].update(x=READS_PICKLE))


def in_written(run: Path) -> None:
    grows = {f"a{n}": f"${{vars.a{n + 1}}}" * 10 for n in range(9)} | {"a9": "x", "y": RESOLVER, "z": READS_PICKLE}
    edit(run / ".hydra/config.yaml", lambda v: v.update(vars=grows) or v["data"].update(name="${vars.a0}"))


def in_record(run: Path) -> None:
    overrides = [
        f"data.in_channels={{_target_:pandas.read_pickle,filepath_or_buffer:{run.parent}/evil.pkl}}",
        "+model@hydra.callbacks.x=mlp", f"x={RESOLVER}", f"name={ESCAPE}",
    ]  # fmt: skip
    edit_json(run / "run.json", overrides=overrides, command=f"x{ESCAPE}; touch {MARK}", error=ESCAPE, host=ESCAPE)


def in_metrics(run: Path) -> None:
    edit_json(run / "metrics.json", test=READS_PICKLE | {"accuracy": 0.5, ESCAPE: 1.0}, selected_on=ESCAPE)


def in_history(run: Path) -> None:
    (run / "history.csv").unlink()
    os.mkfifo(run / "history.csv")


def in_predictions(run: Path) -> None:
    np.savez(run / "predictions.npz", labels=np.array([Touch()], object), logits=np.zeros((1, 2)), indices=np.zeros(1))


def in_checkpoints(run: Path) -> None:
    for name in ("best", "last"):
        torch.save({"state_dict": {}, "x": Touch(), "global_step": 1}, run / f"checkpoints/{name}.ckpt")
    (run / "checkpoints/SHA256SUMS").unlink()


def in_sums(run: Path) -> None:
    (run / "checkpoints/SHA256SUMS").unlink()
    os.mkfifo(run / "checkpoints/SHA256SUMS")


def in_calibration(run: Path) -> None:
    (run / "calibration.json").write_text(json.dumps({"temperature": ESCAPE, "parts": {ESCAPE: READS_PICKLE}}))


def in_ensemble(run: Path) -> None:
    """Members that name code, and one that is no place."""
    for name in ("m1", "m2"):
        shutil.rmtree(run.parent / name, ignore_errors=True)
        shutil.copytree(run, run.parent / name)
        edit(run.parent / name / ".hydra/resolved.yaml", lambda v: v.update(loss=READS_PICKLE))
    tested = Path(json.loads((run / "run.json").read_text())["best"]["checkpoint"]).stem
    weights = hashlib.sha256((run / f"checkpoints/{tested}.ckpt").read_bytes()).hexdigest()
    members = [
        {"path": str(run.parent / name), "relative": ESCAPE, "checkpoint": tested, "weights": weights}
        for name in ("m1", "m2")
    ]
    (run / "ensemble.json").write_text(json.dumps({"members": members, "command": ESCAPE}))


def as_links(run: Path) -> None:
    """Every name that a run writes to leads to somebody's file."""
    for name in ("run.json.tmp", "run.log", "metrics.json.tmp", ".hydra/overrides.yaml", "checkpoints/.last.ckpt.part"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(run.parent / VICTIM)


def in_choices_alone(run: Path) -> None:
    edit(run / ".hydra/hydra.yaml", lambda v: v["hydra"]["runtime"].update(choices=READS_PICKLE))


def in_package_alone(run: Path) -> None:
    values = f"{{_target_:pandas.read_pickle,filepath_or_buffer:{run.parent}/evil.pkl}}"
    edit_json(run / "run.json", overrides=[*SMALL, f"data.in_channels={values}", "+model@hydra.callbacks.x=mlp"])


RUN_FILES = {
    "run.json": in_record, ".hydra/resolved.yaml": in_resolved, ".hydra/config.yaml": in_written,
    ".hydra/hydra.yaml": in_choices, "metrics.json": in_metrics, "history.csv": in_history,
    "predictions.npz": in_predictions, "checkpoints/*.ckpt": in_checkpoints, "checkpoints/SHA256SUMS": in_sums,
    "calibration.json": in_calibration, "ensemble.json": in_ensemble,
    "links": as_links,
}  # fmt: skip
RUN_VERBS = {
    "evaluate": ["evaluate", "foreign", "--set", "data.root=data"],
    "predict": ["predict", "foreign", "image.png"],
    "explain": ["explain", "foreign", "image.png", "--grid", "why.png"],
    "export": ["export", "foreign", "--format", "state_dict"],
    "compare": ["compare", "foreign", "foreign"],
    "report": ["report", "foreign", "--html", "page.html"],
    "status": ["status", "foreign", "--json"],
    "ensemble": ["ensemble", "foreign", "second", "--out", "again"],
    "reproduce": ["reproduce", "foreign", "--dir", "again"],
    "run resume=RUN": ["run", "resume=foreign"],
}


def assert_harmless(done, cwd: Path) -> None:
    assert list(cwd.rglob(MARK)) == [], done.stdout + done.stderr
    assert (cwd / VICTIM).read_text() == "mine"
    assert done.returncode in {0, 1, 2}, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.stdout + done.stderr)


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    done = command(*SMALL, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def interrupted(run: Path) -> None:
    edit_json(run / "run.json", status="interrupted")
    (run / "metrics.json").unlink(missing_ok=True)


TEXT = ["run.json", ".hydra/config.yaml", ".hydra/hydra.yaml"]  # what a second run records, and nobody obeys
OBEYED_ONCE = [in_choices_alone, in_package_alone]  # by themselves: nothing else stops the run before it comes to them


@pytest.mark.parametrize("verb", RUN_VERBS)
def test_a_run_directory(verb, command, finished, cwd):
    """Each file in turn; what is refused or shown as text is the verb's own matter, but there is no mark."""
    module, *arguments = RUN_VERBS[verb]
    trains = module in {"run", "reproduce"}
    turns = [[spoil] for file, spoil in RUN_FILES.items() if not (trains and file in TEXT)]
    if verb == "ensemble":
        edit_json(Path(shutil.copytree(finished, cwd / "second")) / "run.json", seed=2)
    recorded = [[spoil] for spoil in OBEYED_ONCE] + [[RUN_FILES[file] for file in TEXT]] if trains else []
    for turn in recorded + turns:
        for leftover in ("foreign", "again"):
            shutil.rmtree(cwd / leftover, ignore_errors=True)
        shutil.copytree(finished, cwd / "foreign")
        for spoil in turn:
            spoil(cwd / "foreign")
        if module == "run":
            interrupted(cwd / "foreign")
        done = command(*arguments, module=module, cwd=cwd, timeout_s=120)
        assert_harmless(done, cwd)
        if turn in recorded:
            assert done.returncode == 0, done.stdout + done.stderr
        for made in ("page.html", "why.png", "mlp_digits.state_dict.pt", "mlp_digits.state_dict.pt.md"):
            (cwd / made).unlink(missing_ok=True)


def own_part(sweep: Path) -> None:
    edit(sweep / "jobs/1.yaml", lambda v: v["callbacks"].update(x=READS_PICKLE))


def hydras_callback(sweep: Path) -> None:
    edit(sweep / "jobs/1.yaml", lambda v: v["hydra"]["callbacks"].update(x=READS_PICKLE))


def old_origin(sweep: Path) -> None:
    node = {"_target_": "fmx.config.frozen.Origin", "overrides": [READS_PICKLE], "choices": READS_PICKLE}
    edit(sweep / "jobs/1.yaml", lambda v: v["hydra"]["callbacks"].update(origin=node))


def a_package(sweep: Path) -> None:
    path = sweep / "jobs/1.yaml"
    path.write_text("# @package hydra.callbacks.x\n" + yaml.safe_dump(READS_PICKLE))


def logging_of_another(sweep: Path) -> None:
    """Python's logging calls whatever a handler names."""
    (sweep / "jobs/hydra/job_logging").mkdir(parents=True)
    handler = {"()": "pandas.read_pickle", "filepath_or_buffer": "evil.pkl"}
    text = yaml.safe_dump({"version": 1, "handlers": {"x": handler}, "root": {"handlers": ["x"]}})
    (sweep / "jobs/hydra/job_logging/fmx.yaml").write_text(text)


def hydras_logging(sweep: Path) -> None:
    handler = {"()": "pandas.read_pickle", "filepath_or_buffer": "evil.pkl"}
    logs = {"version": 1, "handlers": {"x": handler}, "root": {"handlers": ["x"]}}
    edit(sweep / "jobs/1.yaml", lambda v: v["hydra"].update(job_logging=logs))


def the_environment(sweep: Path) -> None:
    (sweep / "git").write_text(f"#!/bin/sh\ntouch {sweep.parent}/{MARK}\n")
    (sweep / "git").chmod(0o755)
    edit(sweep / "jobs/1.yaml", lambda v: v["hydra"]["job"].update(env_set={"PATH": str(sweep)}))


def a_resolver(sweep: Path) -> None:
    edit(sweep / "jobs/1.yaml", lambda v: v["model"].update(net=RESOLVER))


def growth(sweep: Path) -> None:
    edit(
        sweep / "jobs/1.yaml",
        lambda v: v.update(vars={f"a{n}": f"${{vars.a{n + 1}}}" * 10 for n in range(9)} | {"a9": 1}),
    )


def another_place(sweep: Path) -> None:
    edit(sweep / "jobs/1.yaml", lambda v: v["callbacks"]["best"].update(
        _target_="pytorch_lightning.callbacks.ModelCheckpoint", dirpath=str(sweep.parent / "elsewhere")))  # fmt: skip


def in_ledger(sweep: Path) -> None:
    def change(ledger):
        ledger["settings"] |= {"workers": 10**12}
        ledger["jobs"][1] |= {"number": "../../x", "overrides": [ESCAPE], "error": ESCAPE, "status": "failed"}

    edit(sweep / "sweep.json", change, json.loads, json.dumps)


def on_slurm(sweep: Path) -> None:
    settings = {"launcher": "slurm", "array_parallelism": 1, "timeout_min": 1, "signal_before_end_s": 0,
                "max_requeues": 0, "cpus_per_task": None, "gpus_per_node": None, "mem_gb": None, "poll_s": 1,
                "partition": f"x\ntouch {MARK}", "account": None, "qos": None, "constraint": None,
                "setup": [f"touch {MARK}"], "additional_parameters": {"wrap": f"touch {MARK}"}}  # fmt: skip
    edit_json(sweep / "sweep.json", settings=settings)


def links_of_a_sweep(sweep: Path) -> None:
    for name in ("jobs/1.log", "sweep.json.tmp", "multirun.yaml", "leaderboard.csv"):
        (sweep / name).unlink(missing_ok=True)
        (sweep / name).symlink_to(sweep.parent / VICTIM)


def in_a_job(sweep: Path) -> None:
    for spoil in (in_record, in_choices, in_written):
        spoil(sweep / "1")
    edit_json(sweep / "1/run.json", status="interrupted")


SWEEP_FILES = {
    "jobs/*.yaml": [own_part, hydras_callback, old_origin, a_package, logging_of_another, hydras_logging,
                    the_environment, a_resolver, growth, another_place],
    "sweep.json": [in_ledger, on_slurm],
    "links": [links_of_a_sweep],
    "run directories of jobs": [in_a_job],
}  # fmt: skip
AGAIN = ["-m", *SMALL, "seed=1,2", "hydra.sweep.dir=foreign", "hydra.launcher.workers=1"]
SWEEP_VERBS = {"run --resume-sweep DIR": ["--resume-sweep", "foreign"], "run -m hydra.sweep.dir=DIR": AGAIN}


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory) -> Path:
    """A sweep of two jobs, the second of which was interrupted."""
    folder = tmp_path_factory.mktemp("sweep")
    done = command(*AGAIN, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    interrupted(folder / "foreign/1")
    return folder / "foreign"


@pytest.mark.parametrize("verb", SWEEP_VERBS)
def test_a_sweep_directory(verb, command, sweep, cwd):
    arguments = SWEEP_VERBS[verb]
    for file, spoils in SWEEP_FILES.items():
        for spoil in spoils:
            shutil.rmtree(cwd / "foreign", ignore_errors=True)
            shutil.copytree(sweep, cwd / "foreign")
            spoil(cwd / "foreign")
            done = command(*arguments, cwd=cwd, timeout_s=200)
            assert_harmless(done, cwd)
            assert not (cwd / "elsewhere").exists()
            if arguments[0] == "--resume-sweep" and spoil is not in_a_job:
                assert done.returncode == 1, (file, spoil.__name__, done.stdout)
    done = command("--resume-sweep", "foreign", cwd=cwd)
    assert done.returncode in {0, 1}, done.stderr


def test_own_sweeps_go_on_by_all_ways(command, sweep, cwd):
    """Also one whose jobs were frozen by an earlier version, and one with parts and callbacks of one's own."""
    shutil.copytree(sweep, cwd / "foreign")

    def as_once(job):
        told = json.loads(job["hydra"]["callbacks"]["origin"].pop("facts"))
        job["hydra"]["callbacks"]["origin"] |= told

    edit(cwd / "foreign/jobs/1.yaml", as_once)
    done = command("--resume-sweep", "foreign", cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((cwd / "foreign/1/run.json").read_text())["overrides"][-1] == "seed=2"

    (cwd / "mine.py").write_text(
        "from pathlib import Path\nfrom fmx.models.mlp import MLP\nfrom hydra.experimental.callback import Callback\n"
        "class Net(MLP): pass\nclass Seen(Callback):\n    def on_run_start(self, **_): Path('seen').touch()\n"
    )
    own = ["model.net._target_=mine.Net", "+hydra.callbacks.seen={_target_:mine.Seen}"]
    mine = {"PYTHONPATH": str(cwd)}
    done = command(*AGAIN, *own, "hydra.sweep.dir=own", cwd=cwd, env=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    interrupted(cwd / "own/1")
    (cwd / "seen").unlink()
    refused = command("--resume-sweep", "own", cwd=cwd, env=mine)
    assert refused.returncode == 1
    assert "add --allow mine" in refused.stderr
    assert not (cwd / "seen").exists()
    done = command("--resume-sweep", "own", "--allow", "mine", cwd=cwd, env=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (cwd / "seen").exists()
    interrupted(cwd / "own/1")
    done = command(*AGAIN, *own, "hydra.sweep.dir=own", cwd=cwd, env=mine)
    assert done.returncode == 0, done.stdout + done.stderr


SEARCH = ["-m", "hydra/sweeper=search", *SMALL, "optim.weight_decay=interval(0.0,0.5)", "hydra.sweep.dir=foreign",
          "hydra.launcher.workers=1", "hydra.sweeper.sampler=random"]  # fmt: skip


def conf_part(search: Path) -> None:
    edit(search / "conf/0/model/mlp.yaml", lambda v: v["net"].update(READS_PICKLE))


def conf_callback(search: Path) -> None:
    edit(search / "conf/0/config.yaml", lambda v: v["hydra"]["callbacks"].update(x=READS_PICKLE))


def conf_package(search: Path) -> None:
    path = search / "conf/0/model/mlp.yaml"
    path.write_text(f"# @package _global_\n{path.read_text()}hydra: {{callbacks: {{x: {json.dumps(READS_PICKLE)}}}}}\n")


def conf_growth(search: Path) -> None:
    path = search / "conf/0/model/mlp.yaml"
    path.write_text(path.read_text() + "x: &a [1,1]\n" + "".join(f"y{n}: &b{n} [*a,*a]\n" for n in range(3)))


def conf_searchpath(search: Path) -> None:
    edit(search / "conf/0/config.yaml", lambda v: v["hydra"].update(searchpath=["pkg://mark"]))
    (search.parent / "mark.py").write_text(f"open({MARK!r}, 'w')")


def conf_defaults(search: Path) -> None:
    """Each file names the next one eight times."""
    folder = search / "conf/0/model"
    for number in range(12):
        text = "".join(f"  - part{number + 1}@x{place}\n" for place in range(8))
        (folder / f"part{number}.yaml").write_text(f"defaults:\n{text}")
    (folder / "part12.yaml").write_text("name: mlp\n")
    (folder / "mlp.yaml").write_text("defaults: [part0]\n" + (folder / "mlp.yaml").read_text())


def journal_of_anything(search: Path) -> None:
    with (search / "study.journal").open("a") as file:
        file.write("[" * 100_000 + "\n")


def journal(search: Path) -> None:
    """A trial that a command left, with a value that is an override of its own; and an owner that is a path."""
    (search / "searchers/host-1-x").mkdir(parents=True)
    distribution = {"name": "FloatDistribution", "attributes": {"step": None, "low": 0.0, "high": 0.5, "log": False}}
    text = "{_target_:pandas.read_pickle,filepath_or_buffer:evil.pkl}"
    owner = f"{os.uname().nodename}-1-x/../../../{VICTIM}"
    (search / f"searchers/{os.uname().nodename}-1-x").mkdir()
    lines = [
        {"op_code": 4, "study_id": 0, "datetime_start": "2026-01-01T00:00:00.000000"},
        {"op_code": 8, "trial_id": 1, "user_attr": {"owner": owner}},
        {"op_code": 5, "trial_id": 1, "param_name": "optim.weight_decay", "param_value_internal": text,
         "distribution": json.dumps(distribution)},
    ]  # fmt: skip
    with (search / "study.journal").open("a") as file:
        for line in lines:
            file.write(json.dumps({"worker_id": "x", **line}) + "\n")


def links_of_a_search(search: Path) -> None:
    for name in ("search.json.tmp", ".search.md.part", "jobs/1.log"):
        (search / name).symlink_to(search.parent / VICTIM)


SEARCH_FILES = {
    "conf/": [conf_callback, conf_part, conf_package, conf_growth, conf_searchpath, conf_defaults],
    "study.journal": [journal, journal_of_anything],
    "links": [links_of_a_search],
}


@pytest.fixture(scope="module")
def search(command, tmp_path_factory) -> Path:
    """A search whose first trial is done."""
    folder = tmp_path_factory.mktemp("search")
    done = command(*SEARCH, "hydra.sweeper.n_trials=1", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "foreign"


def test_a_study_directory(command, search, cwd):
    for spoil in [spoil for spoils in SEARCH_FILES.values() for spoil in spoils]:
        shutil.rmtree(cwd / "foreign", ignore_errors=True)
        shutil.copytree(search, cwd / "foreign")
        spoil(cwd / "foreign")
        done = command(*SEARCH, "hydra.sweeper.n_trials=2", cwd=cwd, env={"PYTHONPATH": str(cwd)})
        assert_harmless(done, cwd)
        assert done.returncode == 1, (spoil.__name__, done.stdout, done.stderr)


def test_the_list_of_the_documentation_is_complete():
    """Verb by verb, file by file: what docs/security.md says is read is what is tried here, and no verb is missing."""
    tried = {(verb, file) for verb in RUN_VERBS for file in RUN_FILES}
    tried |= {(verb, file) for verb in SWEEP_VERBS for file in SWEEP_FILES}
    tried |= {("run -m hydra/sweeper=search", file) for file in SEARCH_FILES}
    told = set()
    for line in SECURITY.read_text().splitlines():
        if match := re.fullmatch(r"\| `fmx ([^`]+)` \| (.+) \|", line):
            told |= {(match[1], file) for file in re.findall(r"`([^`]+)`", match[2])}
    assert told <= tried
    assert {verb for verb, _ in told} == {verb for verb, _ in tried}
    # `watch` shows what `status` and `report` read; test_watch tries what it serves.
    assert {verb for verb in cli.VERBS if verb not in {"data", "lr-find", "tensorboard", "watch"}} == {
        verb.split()[0] for verb in RUN_VERBS
    } - {"run"}
    assert {file for _, file in told} == {file for _, file in tried}


NETS = {
    "an invalid last layer": ({"_target_": "torch.nn.Sequential", "_args_": [
        {"_target_": "torch.nn.Linear", "in_features": 16000, "out_features": 16000},
        {"_target_": "torch.nn.Linear", "in_features": -1, "out_features": 10}]}, ""),
    "one that says meta": ({"_target_": "torch.nn.Sequential", "_args_": [
        {"_target_": "torch.nn.Linear", "in_features": 16000, "out_features": 16000},
        {"_target_": "torch.nn.Linear", "in_features": "meta", "out_features": 10}]}, ""),
    "an embedding": ({"_target_": "torch.nn.Embedding", "num_embeddings": 10**9, "embedding_dim": 10}, ""),
    "a lazy layer": ({"_target_": "torch.nn.LazyLinear", "out_features": 10**9}, "has no shape"),
    "many layers": ({"_target_": "torch.nn.Transformer", "num_encoder_layers": 10**6, "d_model": 8, "nhead": 1,
                     "dim_feedforward": 8}, "would take more"),
    "buffers": ({"_target_": "torch.nn.BatchNorm2d", "num_features": 10**10, "affine": False}, ""),
    "groups": ({"_target_": "torch.nn.Conv2d", "in_channels": 10**6, "out_channels": 10**6, "kernel_size": 999,
                "groups": 10**6}, ""),
    "classes": ({"_target_": "torchvision.models.resnet18", "num_classes": 10**8}, ""),
}  # fmt: skip


@pytest.mark.skipif(not PAGES_IN_USE.exists(), reason="this system does not say how much memory a process has")
@pytest.mark.parametrize("name", NETS)
def test_a_network_takes_no_more_memory_than_its_checkpoint(name, finished, cwd):
    """In a process of its own, which says how much it took at most."""
    run = shutil.copytree(finished, cwd / "foreign")
    node, said = NETS[name]
    edit(run / ".hydra/resolved.yaml", lambda v: v["model"].update(net=node))
    config = trusted_config(open_run(run))
    import torchvision  # noqa: F401 - before the memory is counted

    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        text = "made"
        try:
            restore_classifier(config, run / "checkpoints/best.ckpt")
        except DataError as error:
            text = str(error)
        except BaseException as error:  # noqa: BLE001
            text = f"WRONG {error!r}"
        taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        os.write(write, json.dumps([taken, text[:500]]).encode())
        os._exit(0)
    taken, text = json.loads(os.read(read, 10_000))
    os.waitpid(pid, 0)
    assert not text.startswith("WRONG"), text
    assert text != "made"
    assert said in text
    assert taken < 700, (taken, text)  # MiB, with what the copied process writes of its own


@pytest.mark.parametrize("key", ["num_classes", "image_size", "in_channels"])
def test_sizes_beyond_any_data_set(key, finished, cwd):
    run = shutil.copytree(finished, cwd / "foreign")
    edit(run / ".hydra/resolved.yaml", lambda v: v["data"].update({key: 10**9}))
    with pytest.raises(DataError, match="a run from a directory may have"):
        trusted_config(open_run(run))


@pytest.mark.parametrize("key", ["train", "test"])
def test_sizes_of_a_source_beyond_any_data_set(key, finished, cwd):
    """A source has a size of its own, which need not be the data's."""
    run = shutil.copytree(finished, cwd / "foreign")
    edit(run / ".hydra/resolved.yaml", lambda v: v["data"][key].update(image_size=10**6))
    with pytest.raises(DataError, match=f"data.{key} has"):
        trusted_config(open_run(run))
    edit(run / ".hydra/resolved.yaml", lambda v: v["data"][key].update(image_size=10_000))
    with pytest.raises(DataError, match="must be at most 512"):
        restore_data(trusted_config(open_run(run)))


def test_a_table_of_more_columns_than_its_file_can_have(tmp_path):
    (tmp_path / "x.csv").write_text("label,pixel1\n")
    with pytest.raises(DataError, match="too small"):
        load_csv(file=str(tmp_path / "x.csv"), image_size=16_000, num_classes=2, instead=[])


@pytest.mark.parametrize(("group", "key"), [("trainer", "devices"), ("data", "num_workers")])
def test_no_thousands_of_processes(group, key, finished, cwd):
    run = shutil.copytree(finished, cwd / "foreign")
    edit(run / ".hydra/resolved.yaml", lambda v: v[group].update({key: 3000}))
    config = trusted_config(open_run(run))
    with pytest.raises(DataError, match=rf"3000 processes \({group}.{key}\)"):
        check_processes(config, run)
    assert restore_data(config).num_workers <= num_cores()


HUGE = {"_target_": "torch.nn.Linear", "in_features": 10**6, "out_features": 10**6}
MATRIX = {"_target_": "torchmetrics.classification.MulticlassConfusionMatrix", "num_classes": 50_000}
CURVE = {"_target_": "torchmetrics.classification.MulticlassAUROC", "num_classes": 10, "thresholds": 100_000}
TOO_MUCH = {
    "weights": (lambda v: v["model"]["net"].update(hidden_sizes=[10**6, 10**6]), "does not fit this model"),
    "augmentation": (lambda v: v.update(augment=HUGE), "would take more memory"),
    "loss": (lambda v: v.update(loss=HUGE), "would take more memory"),
    "metric": (lambda v: v["metrics"].update(x=MATRIX), "would take more memory"),
    "counts of a metric": (lambda v: v["metrics"].update(x=CURVE), "would take more memory"),
}


def test_parts_of_any_size_in_a_run_that_goes_on(command, finished, sweep, cwd):
    """Each is refused before there is memory for it: by resume=RUN, in a job of a sweep, and by evaluate."""
    for name, (spoil, said) in TOO_MUCH.items():
        shutil.rmtree(cwd / "foreign", ignore_errors=True)
        run = shutil.copytree(finished, cwd / "foreign")
        edit(run / ".hydra/resolved.yaml", spoil)
        if name not in {"weights", "augmentation"}:
            done = command("foreign", module="evaluate", cwd=cwd)
            assert done.returncode == 1, (name, done.stdout)
            assert said in done.stderr, name
        if name == "counts of a metric":  # what a validation takes is training's
            continue
        interrupted(run)
        done = command("resume=foreign", cwd=cwd)
        assert done.returncode in {1, 2}, (name, done.stdout)
        assert said in done.stderr, name
    shutil.copytree(sweep, cwd / "sweep")
    shutil.rmtree(cwd / "sweep/1")
    edit(cwd / "sweep/jobs/1.yaml", lambda v: v.update(augment=HUGE))
    done = command("--resume-sweep", "sweep", cwd=cwd)
    assert done.returncode == 1
    assert "would take more memory" in done.stdout + done.stderr


def test_nothing_steers_a_terminal(command, finished, cwd):
    """What a run says of itself, where figures differ and its record is quoted; and a name that YAML escapes."""
    run = shutil.copytree(finished, cwd / "foreign")
    edit_json(run / "run.json", versions={ESCAPE: ESCAPE, "fmx": ESCAPE})
    edit_json(run / "metrics.json", test={ESCAPE: 0.5, "accuracy": 0.5, "loss": 0.5, "macro_f1": 0.5})
    for verb in (["evaluate", "foreign"], ["compare", "foreign", "foreign"], ["report", "foreign"]):
        done = command(*verb[1:], module=verb[0], cwd=cwd)
        assert done.returncode == (verb[0] == "evaluate"), done.stderr  # 1, where figures differ
        assert_harmless(done, cwd)
    edit(run / ".hydra/resolved.yaml", lambda v: v["data"].update(name=f"digits{ESCAPE}"))
    done = command("foreign", module="evaluate", cwd=cwd)
    assert done.returncode == 1
    assert "holds the character '\\x1b'" in done.stderr


BEGUN = {"op_code": 4, "study_id": 0, "datetime_start": "2026-01-01T00:00:00.000000"}
JOURNALS = {
    "a number": [5], "an unknown step": [{"op_code": 99}], "a date": [BEGUN | {"datetime_start": "x"}],
    "a state": [BEGUN, {"op_code": 6, "trial_id": 1, "state": 77, "values": [1.0]}],
    "settings": [{"op_code": 2, "study_id": 0, "user_attr": {"search": [1]}}],
    "too many values": [BEGUN, {"op_code": 6, "trial_id": 1, "state": 1, "values": [0.5] * 50}],
    "no number": [BEGUN, {"op_code": 6, "trial_id": 1, "state": 1, "values": ["x"]}],
    "an error": [BEGUN, {"op_code": 8, "trial_id": 1, "user_attr": {"error": 7}}],
    "a distribution": [BEGUN, {"op_code": 5, "trial_id": 1, "param_name": "x", "param_value_internal": 1,
                               "distribution": "x"}],
}  # fmt: skip


@pytest.mark.parametrize("name", [*JOURNALS, "large"])
def test_a_journal_of_anything(name, search, tmp_path):
    """Read as the search reads it, and refused in a sentence."""
    shutil.copy(search / "study.journal", tmp_path)
    with (tmp_path / "study.journal").open("a") as file:
        file.writelines(json.dumps({"worker_id": "x", **line} if isinstance(line, dict) else line) + "\n"
                        for line in JOURNALS.get(name, []))  # fmt: skip
        if name == "large":
            file.truncate(4 << 30)
    space = Space((Parameter("optim.weight_decay", FloatDistribution(0.0, 0.5)),))
    objectives = (Objective("val/accuracy", "maximize"),)
    options = Options(objectives, "random", "none", 2, None, seed=1, startup=10, warmup=1, reduction=3)
    with Searcher(tmp_path) as searcher, pytest.raises((ConfigError, DataError), match=r"study\.journal"):
        SharedStudy(tmp_path, options, space, searcher, fixed={each.partition("=")[0]: each for each in SMALL})


def test_a_batch_of_any_size_is_one_of_all_images(command, finished, cwd):
    run = shutil.copytree(finished, cwd / "foreign")
    edit(run / ".hydra/resolved.yaml", lambda v: v["data"].update(eval_batch_size=10**12))
    done = command("foreign", module="evaluate", cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_resolved_is_bounded(finished, cwd):
    """References that come to much time though to little text; and rows of backslashes."""
    run = shutil.copytree(finished, cwd / "foreign")
    config = trusted_config(open_run(run))
    grows = {"vars": {f"a{n}": f"${{vars.a{n + 1}}}" * 10 for n in range(5)} | {"a5": ""}}
    with pytest.raises(DataError, match="grow beyond measure"):
        check_expansion(grows, "vars", Path())
    written = read_yaml(run / ".hydra/config.yaml") | grows
    freeze(config, cwd, written=written, overrides=["\\" * 500_000], choices={}, stored={})
    edit(run / ".hydra/resolved.yaml", lambda v: v.update(vars={"x": "\\" * 500_000 + ": "}))
    trusted_config(open_run(run))
    edit(run / ".hydra/resolved.yaml", lambda v: v.update(vars={"x": "${a}" * 100_000 + ": "}))
    with pytest.raises(DataError, match="more than 5,000"):
        trusted_config(open_run(run))


def test_weights_of_another_network_are_not_reproduced(finished, cwd):
    run = shutil.copytree(finished, cwd / "foreign")
    edit(run / ".hydra/resolved.yaml", lambda v: v["model"]["net"].update(hidden_sizes=[10**6, 10**6]))
    with pytest.raises(DataError, match="does not fit this model"):
        check_fits(trusted_config(open_run(run)), run / "checkpoints/best.ckpt")


@pytest.mark.parametrize("key", ["best_model_path", "kth_best_model_path", "last_model_path", "best_k_models"])
def test_a_checkpoint_names_no_file_elsewhere(key, tmp_path):
    """Lightning removes what it takes for an earlier checkpoint, whole folders as well."""
    path = tmp_path / "checkpoints/last.ckpt"
    path.parent.mkdir()
    state = {"best_model_path": "", "best_model_score": None, "kth_value": None}
    for place, becomes in {
        "local:///home/me": None, "file:///home/me": None, "../../thesis": None,
        "/other/run/checkpoints/best.ckpt": str(path.with_name("best.ckpt")),
        f"{path.parent}/../../x.ckpt": str(path.with_name("x.ckpt")),
    }.items():  # fmt: skip
        value = {place: torch.tensor(1.0)} if key == "best_k_models" else place
        torch.save({"state_dict": {}, "callbacks": {"BestCheckpoint": state | {key: value}}}, path)
        if becomes is None:
            with pytest.raises(DataError, match="for a checkpoint"):
                CheckpointFiles().load_checkpoint(path)
        else:
            told = CheckpointFiles().load_checkpoint(path)["callbacks"]["BestCheckpoint"]
            assert (next(iter(told[key])) if key == "best_k_models" else told[key]) == becomes
            assert told["dirpath"] == str(path.parent)


def test_a_second_run_takes_no_code_from_where_it_is_started(finished, tmp_path):
    """`fmx reproduce .` inside of a directory with a module of a library's name."""
    run = shutil.copytree(finished, tmp_path / "foreign")
    (run / "torchmetrics.py").write_text(f"open({MARK!r}, 'w')\n")
    fmx = Path(sys.executable).with_name("fmx")
    done = subprocess.run(
        [fmx, "reproduce", ".", "--dir", "../again"], cwd=run, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (run / MARK).exists()


MODEL_CHECKPOINT = "pytorch_lightning.callbacks.ModelCheckpoint"
CSV_LOGGER = "pytorch_lightning.loggers.CSVLogger"
PLACES = {
    "a folder without a name": ("callbacks", {"_target_": MODEL_CHECKPOINT, "_args_": ["elsewhere"]}),
    "a logger's folder without a name": ("logger", {"_target_": CSV_LOGGER, "_args_": ["elsewhere"]}),
    "the folder that we are in": ("logger", {"_target_": CSV_LOGGER, "save_dir": ""}),
    "a fill": ("callbacks", {"_target_": MODEL_CHECKPOINT, "filename": "..{x:/>2}/y"}),
    "a code": ("callbacks", {"_target_": MODEL_CHECKPOINT, "filename": ".{step:c}/y"}),
    "the name of a figure": ("callbacks", {"_target_": MODEL_CHECKPOINT, "filename": "{../y}"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_a_part_that_would_write_elsewhere_by_a_way_round(name, finished, cwd):
    run = shutil.copytree(finished, cwd / "foreign")
    group, node = PLACES[name]
    edit(run / ".hydra/resolved.yaml", lambda v: v[group].update(x=node))
    with pytest.raises(DataError, match="would write to"):
        check_paths(trusted_config(open_run(run)), run)


@pytest.mark.parametrize("filename", ["best", "{epoch}-{step}", "{epoch:02d}-{val/loss:.2f}", "{val/accuracy:.3f}"])
def test_a_file_named_after_figures_is_fine(filename, finished, cwd):
    run = shutil.copytree(finished, cwd / "foreign{1}")
    node = {"_target_": MODEL_CHECKPOINT, "filename": filename, "dirpath": str(run / "more")}
    edit(run / ".hydra/resolved.yaml", lambda v: v["callbacks"].update(x=node))
    check_paths(trusted_config(open_run(run)), run)


RESNET = {"_target_": "torchvision.models.resnet18"}


@pytest.mark.parametrize(
    "node",
    [
        RESNET | {"weights": "DEFAULT"}, RESNET | {"pretrained": True}, RESNET | {"_args_": ["IMAGENET1K_V1"]},
        {"_target_": "torch.nn.Sequential", "_args_": [RESNET | {"weights": "DEFAULT"}]},
    ],
)  # fmt: skip
def test_no_weights_are_fetched_where_a_checkpoint_has_them(node, finished, cwd, monkeypatch):
    asked = []
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **_: asked.append(a))
    run = shutil.copytree(finished, cwd / "foreign")
    edit(run / ".hydra/resolved.yaml", lambda v: v["model"].update(net=node))
    with pytest.raises(DataError, match="does not fit this model"):
        restore_classifier(trusted_config(open_run(run)), run / "checkpoints/best.ckpt")
    assert asked == []


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "timm.create_model", "model_name": "resnet10t", "pretrained": True},
        {"_target_": "timm.create_model", "_args_": ["resnet10t", True]},
        {"_target_": "timm.models.resnet.resnet10t", "_args_": [True]},
    ],
)
def test_timm_fetches_no_weights_where_a_checkpoint_has_them(node, finished, cwd, monkeypatch):
    pytest.importorskip("timm")
    asked = []
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **_: asked.append(a))
    run = shutil.copytree(finished, cwd / "foreign")
    edit(run / ".hydra/resolved.yaml", lambda v: v["model"].update(net=node))
    with pytest.raises(DataError, match="does not fit this model"):
        restore_classifier(trusted_config(open_run(run), ["timm"]), run / "checkpoints/best.ckpt")
    assert asked == []


def test_an_augmentation_takes_no_memory_where_nothing_is_augmented(finished, cwd):
    run = shutil.copytree(finished, cwd / "foreign")
    edit(
        run / ".hydra/resolved.yaml",
        lambda v: v.update(augment={"_target_": "torch.nn.Linear", "in_features": 10**7, "out_features": 10**7}),
    )
    restore_data(trusted_config(open_run(run)))


def test_a_history_of_any_number_of_columns(finished, cwd):
    run = shutil.copytree(finished, cwd / "foreign")
    (run / "history.csv").write_text("epoch,seconds\n" + "," * 15_000_000)
    with pytest.raises(DataError, match="more than 10,000 columns"):
        next(result_differences(open_run(run), open_run(run)))


@pytest.mark.parametrize("shape", ["list in itself", "lists in lists"])
def test_a_checkpoint_of_lists_that_grow_when_they_are_copied(shape, tmp_path):
    """An optimizer copies the values of its state one by one, however often they are the same."""
    grown: list = []
    if shape == "list in itself":
        grown.append(grown)
    for _ in range(40):
        grown = [grown, grown]
    torch.save({"state_dict": {}, "optimizer_states": [{"state": {0: {"x": grown}}}]}, tmp_path / "last.ckpt")
    with pytest.raises(DataError, match=r"too many values|holds itself"):
        read_tensors(tmp_path / "last.ckpt")


@pytest.mark.parametrize("kind", ["large", "folder"])
def test_a_copy_of_the_configuration_that_is_no_such_file(kind, tmp_path):
    own, copies = tmp_path / "own", tmp_path / "conf/0"
    own.mkdir()
    copies.mkdir(parents=True)
    if kind == "folder":
        (copies / "x.yaml").mkdir()
    else:
        with (copies / "x.yaml").open("w") as file:
            file.truncate(4 << 30)
    with pytest.raises(DataError, match=r"x\.yaml"):
        frozen_conf._check_files([own], copies.parent)
