"""Each key of conf/ does something: another value changes what a run leaves or says, or it is refused.

The keys are found in the files. A key for which no other value can be guessed needs a line in VALUES; one whose effect
no short run shows needs a line in UNSEEN, with the reason.
"""

import gzip
import hashlib
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from pytorch_lightning import seed_everything
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import data_files
from fmx.config.check import check_config
from fmx.config.conf_dir import CONF_DIR
from fmx.errors import FmxError
from fmx.inference.scoring import test as score_once
from fmx.runs.composition import compose_config
from fmx.runs.record import Record
from fmx.sweeps.search.options import read_options
from fmx.sweeps.settings import check_settings as check_local
from fmx.sweeps.slurm import check_settings as check_slurm
from fmx.training.build import build
from fmx.training.check import check_parts
from fmx.training.fit import fit
from fmx.training.hardware import set_up_process

pytestmark = pytest.mark.slow

SHARED = {"_loader": "data", "_optim": "optim"}  # files that members of a group include, by the group
STRUCTURE = {"_target_", "_partial_", "_args_", "defaults"}
TINY = ["model=mlp", "model.net.hidden_sizes=[16]", "trainer=smoke", "schedule=constant"]
QUICK = ["data.batch_size=16", "data.eval_batch_size=16", "trainer.limit_train_batches=1"]
BASE = ["data=digits", *TINY, "trainer.max_epochs=2"]
ARRAYS = ["data.validation=40", "data.batch_size=32", *TINY]
ANY_SUM = [f"data.{part}.{kind}.{sums}=null" for part in ("train", "test") for kind in ("images", "labels")
           for sums in ("md5", "gz_md5")]  # fmt: skip
# The run in which a member's keys matter, by file.
CONTEXT = {
    "augment/color": ["data=image_folder", "data.root=data/folder", "data.image_size=16", *TINY, "augment=color"],
    "augment/*": ["data=digits", *TINY, "augment={name}"],
    "callbacks/early_stopping": [*BASE, "callbacks=[default,early_stopping]", "trainer.max_epochs=9", "optim=sgd",
                                 "optim.lr=9"],
    "callbacks/skip_nonfinite": [*BASE, "callbacks=[default,skip_nonfinite]", "optim=sgd", "optim.lr=1e30"],
    "callbacks/ema": [*BASE, "callbacks=[default,ema]"],
    "data/digits": ["data=digits", *TINY],
    "_loader": ["data=digits", *TINY, "trainer.limit_train_batches=1.0"],
    "data/fashion_mnist_csv": ["data=fashion_mnist_csv", *ARRAYS],
    "data/image_folder": ["data=image_folder", "data.root=data/folder", "data.image_size=16", *TINY],
    "data/csv": ["data=csv", *data_files.NAMED["csv"], "data.root=named", *ARRAYS],
    "data/npz": ["data=npz", *data_files.NAMED["npz"], "data.root=named", *ARRAYS],
    "data/parquet": ["data=parquet", *data_files.NAMED["parquet"], "data.root=named", "data.image_size=[8,6]", *ARRAYS],
    "data/torchvision": ["data=torchvision", "data.dataset=EuroSAT", "data.root=named", "data.image_size=[16,12]",
                         *TINY],
    "data/*": ["data={name}", *ARRAYS, *ANY_SUM],
    "logger/*": ["data=digits", *TINY, "logger={name}"],
    "loss/nll": ["data=digits", *TINY, "loss=nll"],
    "model/pretrained": ["data=digits", "model=pretrained", "trainer=smoke", *QUICK],
    "model/*": ["data=digits", "model={name}", "trainer=smoke", *QUICK],
    "_optim": ["data=digits", *TINY, "optim.weight_decay=1"],
    "optim/*": ["data=digits", *TINY, "optim={name}"],
    "schedule/plateau": [*BASE, "schedule=plateau", "optim=sgd", "optim.lr=50", "trainer.max_epochs=9"],
    "schedule/step": [*BASE, "schedule=step", "trainer.max_epochs=7"],
    "schedule/*": [*BASE, "schedule={name}"],
    "trainer/cpu": ["data=digits", *TINY, "trainer=cpu", "trainer.max_epochs=1"],
    "trainer/*": ["data=digits", *TINY, "trainer={name}", "schedule=onecycle", "data.eval_batch_size=16"],
    "callbacks/default": [*BASE, "trainer.log_every_n_steps=1"],
    "*": ["data=digits", "model=lenet", "trainer=smoke", *QUICK],
}  # fmt: skip
# Another value than the default, where none can be guessed from it; with what else must be so for it to matter.
VALUES = {
    "select": "last",
    "memory_format": "contiguous",
    "callbacks.best.monitor": "val/loss",
    "callbacks.best.mode": "min",
    "callbacks.lr_monitor.logging_interval": "step",
    "callbacks.early_stopping.monitor": "val/accuracy",
    "callbacks.ema.decay": "0.1",
    "callbacks.skip_nonfinite.max_steps": "2",
    "callbacks.early_stopping.mode": "max",
    "callbacks.early_stopping.patience": "1",
    "callbacks.early_stopping.min_delta": "1e30",
    "data.validation": "60",
    "data.split": "tail",
    "data.sampler": "balanced",
    "data.folds": "5",
    "data.fold": "0",
    "data.normalize": "unit",
    "data.val": "{_target_: fmx.data.digits.load_digits, part: test, num_test: 360, test_seed: 0, image_size: 28}",
    "data.value_range": "[0,300]",
    "data.class_names": "[a,b,c,d,e,f,g,h,i,j]",
    "data.name": "mine",
    "data.eval_batch_size": "16",
    "data.num_workers": "-1",
    "data.dataset": "USPS",
    "data.drop": "[pixel1]",
    "data.file": "nowhere.npz",
    "data.label": "pixel3",
    "data.options": "{size: 3}",
    "data.resize": "crop",
    "data.test_file": "nowhere",
    "data.train.image": "nowhere",
    "data.train.images": "nowhere",
    "data.train.label": "nowhere",
    "data.train.labels": "nowhere",
    "data.train.split": "nowhere",
    "data.train_file": "nowhere",
    "data.test.images": "x_train",
    "data.test.labels": "y_train",
    "data.test.split": "nowhere",
    "data.translations.en": "[a,b,c,d,e,f,g,h,i,j]",
    "data.translations.ja": "[a]",
    "data.translations.zh": "[a]",
    "data.train.part": "test",
    "data.test.part": "train",
    "data.train.mirrors": "['http://127.0.0.1:9/']",
    "data.train.instead": "[another way]",
    "logger": "{mine: 1}",
    "logger.csv.name": "mine",
    "logger.csv.version": "mine",
    "logger.tensorboard.name": "mine",
    "logger.tensorboard.version": "mine",
    "loss.weight": "[1,2,3,4,5,6,7,8,9,10]",
    "metrics.accuracy.average": "macro",
    "metrics.macro_f1.average": "micro",
    "metrics.per_class.average": "macro",
    "model.name": "mine",
    "model.net.architecture": "resnet34",
    "model.net.weights": "nowhere.pt",
    "model.net.resize": "32",
    "model.net.options": "{drop_rate: 0.5}",
    "model.net.tta": "flip",
    "optim.groups": "{head: {params: head, lr_factor: 10}}",
    "optim.no_decay": "norm_and_bias",
    "optim.layer_decay": "0.75",
    "optim.adjust_lr_fn": "original",
    "callbacks.unfreeze.params": "'*.bias'",
    "schedule.scheduler": "{_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 1}",
    "schedule.interval": "day",
    "schedule.scheduler.T_max": "2",
    "schedule.scheduler.total_steps": "2",
    "schedule.scheduler.mode": "max",
    "trainer.accelerator": "tpu",
    "trainer.strategy": "fsdp",
    "trainer.precision": "bf16-mixed",
    "trainer.deterministic": "no",
    "trainer.gradient_clip_val": "0.01",
    "trainer.log_every_n_steps": "1",
    "trainer.checkpoint_every_s": "0.0",
}  # fmt: skip
# Keys whose effect no short run on a CPU shows.
UNSEEN = {
    "resume": "names a run that was interrupted: test_resume.py, and another word than that is refused",
    "extend": "names a finished run: test_extend.py, where another word is refused too",
    "init": "names a run or a file of weights: test_init.py, where another word is refused too",
    "loss.teacher": "names a finished run: test_own_steps.py, where another word is refused too",
    "loss.allow": "packages that the teacher's run may name: test_own_steps.py refuses those of a run from elsewhere",
    "sweep.keep_checkpoints": "for a sweep: test_sweep.py; a single run refuses it: test_obeyed.py",
    "vars": "holds nothing but what other keys refer to as ${vars.NAME}",
    "callbacks.lean_steps.at_most_s": "how long hooks wait; the steps are the same to the bit: test_speed.py",
    "trainer.compile": "the same steps as compiled code: test_compile.py",
    "optim.fused": "one kernel instead of several, for speed alone; some compute the same to the bit",
    "data.translations": "languages for data.class_names; test_figures.py shows what figures take of them",
    "data.train.instead": "words of an error that comes where files are missing: test_data_sources.py",
    "data/torchvision data.train.mirrors": "whether torchvision fetches what is missing: test_data_by_name.py",
    "logger.mlflow.experiment_name": "in MLflow's database, where test_loggers.py reads it",
    "logger.mlflow.run_name": "likewise, where test_loggers.py reads it",
    "logger.mlflow.tags": "likewise, where test_loggers.py reads it",
    "logger.mlflow.log_model": "likewise, where test_loggers.py reads it",
    "logger.mlflow.tracking_uri": "another database, or a server that must answer: test_loggers.py",
    "logger.mlflow.artifact_location": "the folder of MLflow's files, beside its database",
    "logger.wandb.project": "in W&B's own file, where test_loggers.py reads it",
    "logger.wandb.name": "likewise, where test_loggers.py reads it",
    "logger.wandb.group": "likewise, where test_loggers.py reads it",
    "logger.wandb.log_model": "likewise, where test_loggers.py reads it",
    "logger.wandb.offline": "false asks W&B's server, which no test does",
    "logger.wandb.settings.console": "W&B's own settings, which it checks: test_loggers.py",
    "logger.wandb.settings.silent": "likewise: what W&B itself prints",
    "logger.wandb.settings.symlink": "likewise: links in its folder",
    "logger.wandb.settings.finish_timeout": "likewise: seconds to wait for a server",
    "trainer.devices": "another number of processes, which start anew from a command line: test_ddp.py",
    "trainer.num_nodes": "another number of machines: test_ddp.py, test_launchers.py",
    "trainer.strategy": "likewise, and what a single process trains by is the same under each",
    "hydra.sweep.dir": "the folder of a multirun; a single run refuses it: test_obeyed.py",
    "hydra.job.name": "Hydra's own name for what it runs",
    "hydra.launcher.mode": "makes a multirun of what lacks -m: test_launchers.py",
    "hydra.launcher.partition": "a name that the cluster knows, handed to sbatch: test_slurm.py",
    "hydra.launcher.account": "likewise, where the cluster keeps accounts",
    "hydra.launcher.qos": "likewise, where the cluster has any",
    "hydra.launcher.constraint": "likewise, of nodes that differ",
    "hydra.sweeper.mode": "makes a multirun of what lacks -m: test_search.py",
    "hydra.sweeper.params": "the distributions themselves: test_search.py",
}
# Hydra's own settings, which it documents.
HYDRAS_OWN = {"hydra/help/fmx", "hydra/job_logging/fmx", "hydra/hydra_logging/fmx"}
# For several runs: of which file, and what is refused there since the key is read.
OF_MULTIRUNS: dict[str, tuple[str, Any]] = {
    "hydra.launcher.workers": ("hydra/launcher/local", 0),
    "hydra.launcher.threads": ("hydra/launcher/local", 0),
    "hydra.launcher.jobs_per_gpu": ("hydra/launcher/local", 0),
    "hydra.launcher.job_timeout_s": ("hydra/launcher/local", 0),
    "hydra.launcher.fail_fast": ("hydra/launcher/local", "maybe"),
    "hydra.launcher.array_parallelism": ("hydra/launcher/slurm", 0),
    "hydra.launcher.timeout_min": ("hydra/launcher/slurm", 0),
    "hydra.launcher.signal_before_end_s": ("hydra/launcher/slurm", -1),
    "hydra.launcher.max_requeues": ("hydra/launcher/slurm", -1),
    "hydra.launcher.mem_gb": ("hydra/launcher/slurm", 0),
    "hydra.launcher.cpus_per_task": ("hydra/launcher/slurm", 0),
    "hydra.launcher.gpus_per_node": ("hydra/launcher/slurm", -1),
    "hydra.launcher.setup": ("hydra/launcher/slurm", "module load cuda"),
    "hydra.launcher.additional_parameters": ("hydra/launcher/slurm", 3),
    "hydra.launcher.poll_s": ("hydra/launcher/slurm", 0),
    "hydra.sweeper.metric": ("hydra/sweeper/search", "val/beauty"),
    "hydra.sweeper.direction": ("hydra/sweeper/search", "up"),
    "hydra.sweeper.sampler": ("hydra/sweeper/search", "dice"),
    "hydra.sweeper.n_trials": ("hydra/sweeper/search", 0),
    "hydra.sweeper.timeout_s": ("hydra/sweeper/search", 0),
    "hydra.sweeper.seed": ("hydra/sweeper/search", -1),
    "hydra.sweeper.startup": ("hydra/sweeper/search", -1),
    "hydra.sweeper.from_study": ("hydra/sweeper/search", 3),
    "hydra.sweeper.seeds": ("hydra/sweeper/search", 0),
    "hydra.sweeper.folds": ("hydra/sweeper/search", 1),
    "hydra.sweeper.rank": ("hydra/sweeper/search", "luck"),
    "hydra.sweeper.pruning": ("hydra/sweeper/search", "scissors"),
    "hydra.sweeper.warmup": ("hydra/sweeper/search", -1),
    "hydra.sweeper.reduction": ("hydra/sweeper/search", 1),
}


class Case(NamedTuple):
    """A key of a file of conf/, and its default."""

    file: str
    key: str
    default: Any


def leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The keys that hold a value of their own: neither a mapping nor a reference to another key."""
    if isinstance(node, dict) and node:
        for name, child in node.items():
            if name not in STRUCTURE:
                yield from leaves(child, f"{key}.{name}" if key else str(name))
    elif not (isinstance(node, str) and node.startswith("${")):
        yield key, node


def cases() -> Iterator[Case]:
    for path in sorted(CONF_DIR.rglob("*.yaml")):
        file = path.relative_to(CONF_DIR).with_suffix("").as_posix()
        group = file.partition("/")[0]
        node: Any = OmegaConf.to_container(OmegaConf.load(path))
        above = SHARED.get(file, ".".join(file.split("/")[:-1]))
        for key, value in leaves(node, above):
            if group != "experiment":  # a recipe names values of keys that other files have
                yield Case(file, key, value)


def another(case: Case) -> str | None:
    """A value of the same kind, as one would type it; None where none can be guessed."""
    if case.key in VALUES:
        return VALUES[case.key]
    if re.fullmatch(r"data\.(train|test)\.(images|labels)\.(name|md5|gz_md5)", case.key):
        return "0123456789abcdef0123456789abcdef"
    value = case.default
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int | float):
        return str(value + 1 if isinstance(value, int) else value / 2 or 0.25)
    if isinstance(value, list) and value and all(isinstance(each, int | float) for each in value):
        return json.dumps([each / 2 if isinstance(each, float) else each + 1 for each in value])
    return None


CASES = list(cases())


def context(case: Case) -> list[str]:
    group, _, name = case.file.partition("/")
    found = CONTEXT.get(case.file) or CONTEXT.get(f"{group}/*") or CONTEXT["*"]
    root = {"gz_md5": ["data.root=packed"], "mirrors": ["data.root=empty"], "instead": ["data.root=empty"]}
    last = case.key.rpartition(".")[2]
    more = [f"data.class_names={last}"] if case.key.startswith("data.translations.") else root.get(last, [])
    return [*(each.format(name=name) if "{name}" in each else each for each in found), *more]


def observed(folder: Path) -> dict[str, Any]:
    """All that a run leaves, without what differs from run to run: times and places."""
    seen: dict[str, Any] = {}
    seen["files"] = sorted(
        re.sub(r"tfevents\.\d+.*", "tfevents", path.relative_to(folder).as_posix())
        for path in folder.rglob("*") if path.is_file()
    )  # fmt: skip
    for name in ("history.csv", "steps.csv"):
        if (folder / name).is_file():
            rows = [line.split(",") for line in (folder / name).read_text().splitlines()]
            seen[name] = [[cell for head, cell in zip(rows[0], row, strict=True) if head != "seconds"] for row in rows]
    record = json.loads((folder / "run.json").read_text())
    seen["record"] = {key: record.get(key) for key in ("device", "data", "params", "best")}
    for path in sorted(folder.rglob("*.ckpt")):
        state = torch.load(path, weights_only=True)["state_dict"]
        seen[path.name] = {name: (value.stride(), hashed(value.numpy())) for name, value in state.items()}
    for place in sorted({path.parent for path in folder.rglob("*tfevents*")}):
        events = EventAccumulator(str(place)).Reload()
        seen[f"scalars of {place.name}"] = {
            tag: [(each.step, each.value) for each in events.Scalars(tag)]
            for tag in events.Tags()["scalars"] if not re.search("second|_s$|per_s|time", tag)
        }  # fmt: skip
    return seen


def hashed(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def outcome(config: Any, folder: Path) -> dict[str, Any]:
    """What a run of a configuration does, up to its figures; or why it is refused."""
    folder.mkdir()
    config.run_dir = "${run_dir:}"
    try:
        check_parts(config, check_config(config))
        config.run_dir = str(folder)
        record = Record(folder, writes=True)
        record.contents["overrides"] = []
        set_up_process(config.trainer)
        experiment = build(config, record)
        drawn = seed_everything(config.seed, verbose=False), [hashed(batch.numpy()) for batch in pictures(experiment)]
        process = {
            "deterministic": (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            "callbacks": sorted(type(each).__name__ for each in experiment.trainer.callbacks),
            "sanity": experiment.trainer.num_sanity_val_steps,
        }
        checkpoint = fit(experiment)
        scores = score_once(experiment, checkpoint)
    except (FmxError, OmegaConfBaseException) as error:  # the latter from what finds values in files
        return {"refused": str(error)}
    logits = hashed(scores.predictions.logits.numpy())
    names = experiment.data.class_names
    workers = experiment.data.num_workers
    return observed(folder) | {
        "metrics": scores.metrics, "logits": logits, "names": names, "drawn": drawn, "workers": workers,
        "table": experiment.hparams, "process": process,
    }  # fmt: skip


def pictures(experiment: Any) -> Iterator[Any]:
    """Augmented training images and their labels, as the training gets them."""
    yield from experiment.data.augmented_samples(64)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with small data in each of the formats."""
    folder = tmp_path_factory.mktemp("silence")
    (folder / "named").mkdir()
    data_files.make_named(folder / "named")
    data_files.eurosat(folder / "named")
    draw = np.random.default_rng(0)
    for part, count in (("train", 200), ("t10k", 60)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = (draw.integers(0, 128, (count, 28, 28)) + 10 * labels[:, None, None]).astype(np.uint8)
        for name in ("FashionMNIST", "MNIST", "KMNIST"):
            for root, pack, suffix in (("data", bytes, ""), ("packed", gzip.compress, ".gz")):
                raw = folder / root / name / "raw"
                raw.mkdir(parents=True, exist_ok=True)
                (raw / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
                (raw / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))
        header = ",".join(["label", *(f"pixel{number}" for number in range(1, 785))])
        rows = [",".join(map(str, [label, *image.ravel()])) for label, image in zip(labels, images, strict=True)]
        file = folder / "data" / f"fashion-mnist_{'train' if part == 'train' else 'test'}.csv"
        file.write_text("\n".join([header, *rows]) + "\n")
        for number in range(0, count, 2):
            picture = (
                folder
                / "data/folder"
                / ("train" if part == "train" else "test")
                / f"c{labels[number]}"
                / f"{number}.png"
            )
            picture.parent.mkdir(parents=True, exist_ok=True)
            coloured = np.stack(
                [images[number, :16, :16], images[number, 4:20, :16], images[number, :16, 4:20]], axis=-1
            )
            Image.fromarray(coloured).save(picture)
    return folder


@pytest.fixture(scope="module")
def look(home) -> Iterator[Any]:
    """What a run of some overrides, and one more value, does; equal ones run once."""
    configs: dict[tuple[str, ...], Any] = {}
    known: dict[tuple[Any, ...], dict[str, Any]] = {}
    number = iter(range(10**6))
    patch = pytest.MonkeyPatch()
    patch.chdir(home)
    patch.delenv("FMX_DATA_ROOT", raising=False)

    def run(overrides: list[str], key: str = "", value: str = "") -> dict[str, Any]:
        asked = (*overrides, key, value)
        if asked not in known:
            if tuple(overrides) not in configs:
                configs[tuple(overrides)] = compose_config(overrides)
            config = OmegaConf.create(OmegaConf.to_container(configs[tuple(overrides)], resolve=False))
            if key:
                OmegaConf.update(config, key, yaml.safe_load(value), merge=False)
            known[asked] = outcome(config, home / f"run{next(number)}")
        return known[asked]

    yield run
    patch.undo()


@pytest.mark.parametrize("key", OF_MULTIRUNS)
def test_another_value_for_multiruns_is_read(key):
    """What is no such value is refused, so that somebody reads the key."""
    (case,) = [case for case in CASES if case.key == key and case.file.startswith(OF_MULTIRUNS[key][0])]
    settings: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / f"{case.file}.yaml"))
    settings = {name: value for name, value in settings.items() if name not in STRUCTURE}
    check = {"hydra/launcher/local": check_local, "hydra/launcher/slurm": check_slurm}.get(case.file)
    check = check or (lambda sweeper: read_options(sweeper, ["val/accuracy"]))
    check(settings)
    with pytest.raises(FmxError, match=key.rpartition(".")[2]):
        check(settings | {key.rpartition(".")[2]: OF_MULTIRUNS[key][1]})


def test_keys_are_found_and_every_reason_is_of_one():
    assert len(CASES) > 130
    keys = {case.key for case in CASES} | {f"{case.file} {case.key}" for case in CASES}
    assert {*UNSEEN, *OF_MULTIRUNS} <= keys, {*UNSEEN, *OF_MULTIRUNS} - keys
    assert all(len(reason) > 20 for reason in UNSEEN.values())
    assert len({case.file for case in CASES}) > 30


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}-{case.key}")
def test_another_value_is_seen_or_refused(look, case):
    if case.key.startswith("hydra."):
        assert case.key in {*OF_MULTIRUNS, *UNSEEN} or case.file in HYDRAS_OWN, f"say what {case.key} does"
        return
    if case.key in UNSEEN or f"{case.file} {case.key}" in UNSEEN:
        return
    value = another(case)
    assert value is not None, f"give VALUES another value for {case.key} than {case.default!r}"
    before = context(case)
    usual = look(before)
    without = case.file == "trainer/gpu" or "data.root=empty" in before
    assert without or "refused" not in usual, usual
    changed = look(before, case.key, value)
    assert changed != usual, f"{case.key}={value} has no effect, and nothing says so"
