"""Suggest keys and groups for unknown names, by other programs' names for them and by similarity."""

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from omegaconf import Container, OmegaConf

from fmx.config.bounded_files import read_yaml
from fmx.config.conf_dir import CONF_DIR
from fmx.errors import DataError

__all__ = [
    "choices_named",
    "is_key",
    "is_known_elsewhere",
    "members",
    "nearest_member",
    "settings_of_members",
    "suggest_keys",
]

# Names for these keys in other programs and tutorials, in lower case with underscores.
KNOWN_AS = {
    "optim.lr": ["learning_rate", "learningrate", "base_lr", "init_lr", "initial_lr", "lr0"],
    "trainer.max_epochs": ["epochs", "epoch", "num_epochs", "n_epochs", "nepochs", "max_epoch", "train_epochs"],
    "+trainer.max_steps": ["max_steps", "steps", "num_steps", "max_iters", "iterations"],
    "data.batch_size": ["batch", "batchsize", "bs", "train_batch_size", "mini_batch_size", "minibatch_size"],
    "data.eval_batch_size": ["test_batch_size", "val_batch_size", "valid_batch_size", "eval_batch"],
    "data.root": ["data_dir", "data_root", "datadir", "dataroot", "data_path", "dataset_path", "dataset_dir"],
    "data.validation": ["val", "valid", "val_size", "val_split", "valid_split", "validation_split", "validation_size"],
    "data.folds": ["kfold", "kfolds", "k_fold", "k_folds", "n_folds", "num_folds", "nfolds", "n_splits", "cv"],
    "data.sampler": ["weighted_sampler", "weighted_random_sampler", "balanced_sampler", "oversample", "oversampling"],
    "loss.weight": ["class_weight", "class_weights", "loss_weights", "pos_weight"],
    "data.fold": ["fold_idx", "fold_index", "fold_id", "val_fold"],
    "data.num_workers": ["n_workers", "nworkers", "dataloader_workers", "num_worker"],
    "data.image_size": ["img_size", "imgsz", "size", "input_size", "resolution"],
    "data.in_channels": ["channels", "n_channels", "num_channels", "nchannels", "in_chans"],
    "data.num_classes": ["n_classes", "nclasses", "classes", "num_labels"],
    "data.normalize": ["normalise", "normalization", "normalisation"],
    "optim.weight_decay": ["wd", "l2", "weightdecay"],
    "optim.momentum": ["mom"],
    "model.net.dropout_prob": ["dropout", "dropout_rate", "drop_rate", "p_dropout", "drop_prob", "drop"],
    "model.net.hidden_sizes": ["hidden", "hidden_size", "hidden_dim", "hidden_units", "layers"],
    "trainer.devices": ["gpus", "num_gpus", "n_gpus", "ngpus", "gpu", "num_devices", "n_devices"],
    "trainer.accelerator": ["device", "cuda", "use_cuda", "use_gpu"],
    "trainer.num_nodes": ["nodes", "n_nodes", "nnodes"],
    "trainer.precision": ["amp", "fp16", "bf16", "half", "mixed_precision", "dtype"],
    "trainer.gradient_clip_val": ["clip", "grad_clip", "clip_grad", "clip_grad_norm", "max_grad_norm", "gradient_clip"],
    "trainer.limit_train_batches": ["limit", "limit_batches", "max_batches", "subset", "num_samples", "train_size"],
    "trainer.accumulate_grad_batches": ["grad_accum", "accumulate", "gradient_accumulation_steps", "accum_steps"],
    "seed": ["random_seed", "manual_seed", "rng_seed", "random_state"],
    "resume": ["resume_from", "resume_from_checkpoint", "ckpt", "ckpt_path", "checkpoint", "continue"],
    "extend": ["extend_from", "continue_from", "train_further", "continue_training"],
    "init": ["init_from", "load_from", "load_weights", "start_from", "warm_start", "initial_weights"],
    "hydra.run.dir": ["name", "run_name", "run_id", "exp_name", "experiment_name", "out", "output", "output_dir",
                      "outdir", "out_dir", "save_dir", "log_dir", "logdir", "work_dir", "dir"],
    "hydra.launcher.workers": ["jobs", "n_jobs", "num_jobs", "parallel"],
    "hydra.sweeper.n_trials": ["trials", "num_trials", "max_trials"],
    "hydra.sweeper.pruning": ["pruner", "prune"],
    "hydra.launcher.timeout_min": ["walltime", "time_limit"],
    "hydra/launcher": ["launcher"],
    "hydra/sweeper": ["sweeper"],
    "schedule.warmup_epochs": ["warmup"],
    "model": ["network", "net", "arch", "architecture", "backbone", "model_name"],
    "data": ["dataset", "datamodule", "dataset_name", "datasets"],
    "optim": ["optimizer", "optimiser", "opt", "solver"],
    "schedule": ["scheduler", "lr_scheduler", "lr_schedule", "sched"],
    "augment": ["augmentation", "augmentations", "aug", "transform", "transforms"],
    "loss": ["criterion", "loss_fn", "loss_function", "objective"],
    "metrics": ["metric"],
    "callbacks": ["callback"],
    "logger": ["log", "logging", "loggers", "tracker"],
    "trainer": ["training", "train"],
    "experiment": ["config", "recipe", "exp", "preset"],
    "trainer=smoke": ["debug", "dev", "fast_dev_run", "smoke_test", "quick", "test_run"],
    "'callbacks=[default,ema]'": ["ema_decay", "use_ema", "model_ema"],
    "'callbacks=[default,swa]'": ["swa", "use_swa", "swa_lr", "swa_lrs", "swa_start"],
    "'callbacks=[default,early_stopping]'": ["early_stop", "earlystopping", "earlystop"],
    "model=pretrained": ["finetune", "fine_tune", "use_pretrained", "transfer"],
}  # fmt: skip
# Names for group members in other programs, lower-case letters and digits alone.
MEMBERS_KNOWN_AS = {
    "augment": {
        "null": "none",
        "off": "none",
        "false": "none",
        "hflip": "flip",
        "cutout": "erasing",
        "rotation": "affine",
        "rotate": "affine",
        "randaug": "randaugment",
        "trivialaugment": "trivial",
        "trivialaugmentwide": "trivial",
        "colorjitter": "color",
        "jitter": "color",
    },
    "logger": {"null": "none", "off": "none", "false": "none", "tensorboard": "default", "tb": "default"},
    "loss": {"ce": "cross_entropy", "xent": "cross_entropy", "negativeloglikelihood": "nll"},
    "model": {"fc": "mlp", "linear": "mlp", "cnn": "two_conv", "convnet": "two_conv"},
    "schedule": {"none": "constant", "null": "constant", "off": "constant", "false": "constant"},
    "trainer": {"cuda": "gpu", "auto": "default", "mps": "default", "debug": "smoke", "multigpu": "ddp"},
}
SYNONYMS = {synonym: name for name, synonyms in KNOWN_AS.items() for synonym in synonyms}
MANY = 3  # suggestions in one message
LETTERS = 3  # minimum length of a meaningful part of a name
NO_SETTINGS = {"mode", "params", "seed"}  # of launchers and sweepers: names that mean something else alone
MISSING = object()
CLOSE = 0.8  # difflib's cutoff: below it, words have little in common


def suggest_keys(key: str, config: Container | None = None) -> list[str]:
    """The full keys that an unknown key may have meant, likeliest first.

    config: the composed configuration; its keys come first. Keys of group members that it did not choose are named
    together with the member.
    """
    key = key.strip().lstrip("+~").lower().replace("-", "_")
    plain: Any = OmegaConf.to_container(config, resolve=False) if config is not None else {}
    here = [name for name, _ in _leaves({each: plain[each] for each in plain if each != "hydra"})]
    elsewhere = {name: member for name, member in _keys_of_members().items() if name not in set(here)}
    settings = settings_of_members(config)
    group, dot, rest = key.partition(".")
    last = key.rpartition(".")[2]
    if found := _exact_names(key, f"{SYNONYMS.get(group, group)}.{rest}" if dot else "", {*here, *elsewhere}):
        return _with_members(found, elsewhere | settings)
    for keys in (here, [*elsewhere]):
        same = [name for name in keys if name.rpartition(".")[2].lower() == last and name != key]
        if same:
            same.sort(key=lambda name: (name.partition(".")[0] != group, name.count("."), name))
            also = [] if dot else [name for name in settings if name.rpartition(".")[2] == last]
            return _with_members([*same[:MANY], *also], elsewhere | settings)
    names = {name.rpartition(".")[2]: name for name in [*settings, *elsewhere, *reversed(here), *_groups()]}
    close = [last] if last in names else difflib.get_close_matches(last, [*SYNONYMS, *names], n=1, cutoff=CLOSE)
    return _with_members([SYNONYMS.get(close[0]) or names[close[0]]], elsewhere | settings) if close else []


def _exact_names(key: str, renamed: str, keys: set[str]) -> list[str]:
    """The keys that a key, or its form with the group renamed, matches exactly or by another program's name."""
    last = key.rpartition(".")[2]
    if key in keys or renamed in keys:
        return [key if key in keys else renamed]
    if key in {"workers", "num_workers"}:
        return ["data.num_workers", "hydra.launcher.workers"]
    if key in _groups():
        return [key]
    if last in SYNONYMS:
        return [SYNONYMS[last]]
    return choices_named(key)[:MANY]


def is_known_elsewhere(name: str) -> bool:
    """Whether other programs have this name for a key or a group."""
    return name in SYNONYMS


def choices_named(name: str) -> list[str]:
    """`GROUP=NAME`, quoted for a shell, for every group that has such a member."""
    return [_choice(group, member) for group, member in _members() if member == name]


def nearest_member(group: str, name: str, members: Iterable[str]) -> str | None:
    """The member that an unknown name may have meant, by spelling or by a library's name for it."""
    plain = {_normalized(member): member for member in members}
    typed = _normalized(name)
    if (known := MEMBERS_KNOWN_AS.get(group, {}).get(typed)) in plain.values():
        return known
    within = [each for each in plain if len(each) >= LETTERS and each in typed]  # CosineAnnealingLR, CrossEntropyLoss
    longer = [each for each in plain if len(typed) >= LETTERS and each.startswith(typed)]  # fashion: fashion_mnist
    close = [typed] if typed in plain else sorted(within, key=len)[-1:] or sorted(longer, key=len)[:1]
    close = close or difflib.get_close_matches(typed, [*plain], n=1, cutoff=0.5)
    return plain[close[0]] if close else None


def members(group: str) -> list[str]:
    """The names of a group's members."""
    return [member for each, member in _members() if each == group]


def _normalized(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _groups() -> set[str]:
    return {group for group, _ in _members()} - {"hydra"}


def _choice(group: str, member: str) -> str:
    """The override that chooses a member; callbacks are added to the default ones."""
    adds = group == "callbacks" and member != "default"
    return f"'callbacks=[default,{member}]'" if adds else f"{group}={member}"


def _with_members(keys: list[str], elsewhere: Mapping[str, str]) -> list[str]:
    return [f"{key!r} with {elsewhere[key]}" if elsewhere.get(key) else key for key in keys]


@cache
def _members() -> list[tuple[str, str]]:
    return [(file.parent.name, file.stem) for file in sorted(CONF_DIR.glob("*/*.yaml"))]


@cache
def _keys_of_members() -> dict[str, str]:
    """Each full key of conf/GROUP/NAME.yaml, with the overrides that choose the members that have it."""
    choices = defaultdict[str, list[str]](list)
    for group, name in _members():
        if group in {"experiment", "hydra"}:
            continue
        try:
            values = read_yaml(CONF_DIR / group / f"{name}.yaml")
        except DataError:  # composition reports it
            continue
        for key, _ in _leaves(values):
            choices[f"{group}.{key}"].append(_choice(group, name))
    return {key: " or ".join(members[:MANY]) for key, members in choices.items()}


def settings_of_members(config: Container | None = None) -> dict[str, str]:
    """Each key of a launcher or a sweeper, with the overrides that choose those that have it.

    config: the composed configuration; what its own launcher and sweeper have has the empty text.
    """
    choices = defaultdict[str, list[str]](list)
    for file in sorted(CONF_DIR.glob("hydra/*/*.yaml")):
        group = file.parent.name
        if group in {"launcher", "sweeper"}:
            for name in read_yaml(file):
                if not str(name).startswith("_") and name not in NO_SETTINGS:
                    choices[f"hydra.{group}.{name}"].append(f"hydra/{group}={file.stem}")
    chosen = {
        name
        for name in choices
        if isinstance(config, Container) and OmegaConf.select(config, name, default=MISSING) is not MISSING
    }
    return {name: "" if name in chosen else " or ".join(members) for name, members in choices.items()}


def _leaves(node: dict[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every full key that users set, with its value."""
    for name, child in node.items():
        if str(name).startswith("_") or name == "defaults":
            continue
        full = f"{above}{name}"
        if isinstance(child, dict):
            yield from _leaves(child, f"{full}.")
        else:
            yield full, child


def is_key(name: str) -> bool:
    """Whether conf/config.yaml or a group member has a full key."""
    group = name.partition(".")[0]
    of_member = group in _groups() and name in _keys_of_members()  # which reads all files
    return of_member or name in dict(_leaves(read_yaml(CONF_DIR / "config.yaml")))
