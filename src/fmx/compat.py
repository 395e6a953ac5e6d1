"""Private parts of other libraries: what each one gains, the versions it was tested with, and the way without it.

A name with a leading underscore may change in any release. So fmx uses it only with the versions in TESTED. With other
versions, or with FMX_COMPAT=off in the environment, fmx uses public names, and logs that once per process. Where no
public name does the same, the docstring and docs/compatibility.md say what is missing. Importing this file imports no
other library.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, entry_points
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override
    from hydra.types import RunMode
    from omegaconf import Container, DictConfig
    from pytorch_lightning import Trainer
    from torch import Tensor

__all__ = [
    "SWITCH",
    "TESTED",
    "assert_dtype",
    "compose_once",
    "count_steps",
    "ends_at_once",
    "full_key",
    "gradient_order",
    "has_entry_points",
    "has_step_hooks",
    "is_tested",
    "join_threads",
    "list_groups_uncopied",
    "look_up_callbacks_once",
    "next_batches",
    "own_files_first",
    "packed_image_writer",
    "parse_references_once",
    "parser_actions",
    "preserve_log_handlers",
    "projector_config",
    "resume_in_epoch",
    "root_of",
    "run_exit_functions",
    "script_launcher",
    "set_overrides",
    "sum_gradients_in",
    "torchmetrics_bincount",
    "torchmetrics_class_counts",
    "torchmetrics_counts_by",
    "value_test",
]

log = logging.getLogger(__name__)

SWITCH = "FMX_COMPAT"  # off: treat every version as untested
TESTED: Mapping[str, tuple[str, ...]] = {
    "python": ("3.11", "3.12", "3.13"),
    "hydra-core": ("1.3",),
    "omegaconf": ("2.3",),
    "pytorch-lightning": ("2.6",),
    "torch": ("2.11", "2.15"),
    "torchmetrics": ("1.9",),
}

_notes: dict[str, str] = {}  # log lines by library
_logged: set[str] = set()


def is_tested(library: str) -> bool:
    """Whether fmx was tested with the installed version of a library; if not, one line is logged, once per process."""
    if os.environ.get(SWITCH) == "off":
        _notes["off"] = f"{SWITCH}=off: fmx uses public names of its libraries alone, which is slower"
        known = False
    else:
        version = _version(library)
        known = ".".join(version.split(".")[:2]) in TESTED[library]
        if not known:
            versions = " and ".join(TESTED[library])
            _notes[library] = (
                f"{library} {version or 'of an unknown version'}: fmx was tested with {versions}, "
                "and uses public names of it alone, which is slower (docs/compatibility.md)"
            )
    if log.isEnabledFor(logging.INFO) and log.hasHandlers():  # else the line would be lost
        for name in _notes.keys() - _logged:
            _logged.add(name)
            log.info("%s", _notes[name])
    return known


@cache
def _version(library: str) -> str:
    if library == "python":
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        return installed_version(library)
    except PackageNotFoundError:
        return ""


# Hydra


@contextmanager
def compose_once() -> Iterator[None]:
    """In the block, a run reuses the configuration that Hydra composes first only to read hydra.mode.

    Gain: one composition of two, 0.12 s per run. Without: Hydra composes twice.
    """
    if not is_tested("hydra-core"):
        yield
        return
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    composed = ConfigLoaderImpl.load_configuration
    kept: dict[tuple[str | None, ...], DictConfig | Exception] = {}

    def load(
        loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str], run_mode: "RunMode", **how: bool
    ) -> "DictConfig":
        asked = (config_name, *overrides)
        if how.get("validate_sweep_overrides", True):
            known = kept.pop(asked, None) if run_mode == RunMode.RUN else None
            if isinstance(known, Exception):
                raise known
            return known or composed(loader, config_name, overrides, run_mode, **how)
        as_run = (*asked, "hydra.mode=RUN")  # Hydra's next request, unless a file or -m sets the mode
        try:
            cfg = composed(loader, config_name, overrides, RunMode.RUN)
        except Exception as error:  # noqa: BLE001 - for Hydra to tell, unless it is a multirun after all
            kept[as_run] = error
            return composed(loader, config_name, overrides, run_mode, **how)
        if cfg.hydra.mode is not None:
            return cfg
        cfg.hydra.mode = RunMode.RUN
        cfg.hydra.overrides.hydra.append("hydra.mode=RUN")
        kept[as_run] = cfg
        return OmegaConf.create({"hydra": {"mode": None}})  # Hydra reads nothing else here

    ConfigLoaderImpl.load_configuration = load  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = composed  # type: ignore[method-assign]


@contextmanager
def list_groups_uncopied() -> Iterator[None]:
    """In the block, Hydra lists the members of a group without a deep copy of all sources of files for each group.

    Gain: some 100 copies, 0.3 of 0.75 s of CPU time per --help. Without: Hydra copies.
    """
    if not is_tested("hydra-core"):
        yield
        return
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.object_type import ObjectType

    copying = ConfigLoaderImpl.get_group_options

    def options(
        loader: ConfigLoaderImpl,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        if config_name or overrides:  # these may add sources, for which Hydra makes the copy
            return copying(loader, group_name, results_filter, config_name, overrides)
        return loader.repository.get_group_options(group_name, results_filter)

    ConfigLoaderImpl.get_group_options = options  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.get_group_options = copying  # type: ignore[method-assign]


@contextmanager
def own_files_first() -> Iterator[None]:
    """In the block, Hydra searches --config-dir and hydra.searchpath before fmx's own conf/, not after it.

    Gain: a user's file may replace one of fmx's. Without: config/shadowing.py refuses such a file.
    """
    if not is_tested("hydra-core"):
        yield
        return
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl

    prepended, appended = ConfigSearchPathImpl.prepend, ConfigSearchPathImpl.append

    def prepend(search: ConfigSearchPathImpl, provider: str, path: str, anchor: Any = None) -> None:
        prepended(search, provider, path, "main" if provider == "command-line" else anchor)

    def append(search: ConfigSearchPathImpl, provider: str, path: str, anchor: Any = None) -> None:
        if provider.startswith("hydra.searchpath "):
            prepended(search, provider, path, "main")
        else:
            appended(search, provider, path, anchor)

    ConfigSearchPathImpl.prepend = prepend  # type: ignore[assignment, method-assign]
    ConfigSearchPathImpl.append = append  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ConfigSearchPathImpl.prepend, ConfigSearchPathImpl.append = prepended, appended  # type: ignore[method-assign]


def value_test(loader: "ConfigLoader", master: "DictConfig") -> "Callable[[Override], bool] | None":
    """A function that tells an override of a value from the choice of a group's member; None where nothing can.

    Gain: with set_overrides, Hydra composes a sweep's jobs once for each choice of groups. Without: None, and Hydra
    composes each job.
    master: the configuration of the sweep.
    """
    if not is_tested("hydra-core"):
        return None
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    if type(loader) is not ConfigLoaderImpl:  # one that checks what it composes
        return None
    hydras = list(master.hydra.overrides.hydra)  # they may add sources of files
    groups = loader._parse_overrides_and_create_caching_repo(master.hydra.job.config_name, hydras)[1]
    known: dict[str, bool] = {}

    def is_value(override: "Override") -> bool:
        key = override.key_or_group
        if key not in known:
            known[key] = groups.group_exists(key)
        return not known[key] or isinstance(override.value(), dict)

    return is_value


def set_overrides(config: "DictConfig", values: "list[Override]", *, written: "list[Override]") -> Callable[[], None]:
    """Set values in a composed configuration as Hydra does, and record all overrides as written; see value_test.

    Returns what takes the values back. Only the groups in which a value is set are copied.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
    from omegaconf import OmegaConf

    content, cache = config.__dict__["_content"], deepcopy(OmegaConf.get_cache(config))
    set_in = {each.key_or_group.partition(".")[0] for each in values}

    def undo() -> None:
        config.__dict__["_content"] = content
        OmegaConf.set_cache(config, cache)

    config.__dict__["_content"] = {key: deepcopy(node) if key in set_in else node for key, node in content.items()}
    try:
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except BaseException:
        undo()
        raise
    job = config.hydra.job
    config.hydra.overrides.task = [each.input_line for each in written]
    job.override_dirname = get_overrides_dirname(
        overrides=written,
        kv_sep=job.config.override_dirname.kv_sep,
        item_sep=job.config.override_dirname.item_sep,
        exclude_keys=job.config.override_dirname.exclude_keys,
    )
    return undo


# OmegaConf


@contextmanager
def parse_references_once() -> Iterator[None]:
    """In the block, OmegaConf parses a text with references once, however often it is resolved.

    Gain: 25 ms per run, in which 94 texts are resolved, 17 of them different. Without: OmegaConf parses each time.
    """
    if not is_tested("omegaconf"):
        yield
        return
    from omegaconf import base

    nodes: Any = base
    parsed = nodes.parse
    nodes.parse = lru_cache(maxsize=1000)(parsed)  # a parse tree is only read
    try:
        yield
    finally:
        nodes.parse = parsed


def root_of(node: "Container | None") -> "Container | None":
    """The whole configuration that a node is part of.

    Gain: suggestions for a mistyped key include the user's own keys. Without: None, and only fmx's keys are suggested.
    """
    if node is None or not is_tested("omegaconf"):
        return None
    return node._get_root()


def full_key(node: Any) -> str:
    """The key of a node, such as `model.net`; "" for anything but a node.

    Gain: error messages begin with the key. Without: "", and they do not.
    """
    from omegaconf import OmegaConf

    return str(node._get_full_key(None)) if OmegaConf.is_config(node) and is_tested("omegaconf") else ""


# Lightning


def next_batches(trainer: "Trainer") -> Iterator[Any]:
    """The remaining batches of the training epoch; the caller must pass the number that it takes to count_steps.

    Gain: steps without hooks, which save 909 of the 1,870 ms of an MLP's epoch; as a CUDA graph, 0.82 instead of 4.5 ms
    per step. Without: callbacks/lean_steps.py asks is_tested first, and leaves every step to Lightning.
    """
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    batches: Iterator[Any] = fetcher.combined_loader._iterator.iterators[0]  # type: ignore[union-attr]
    return batches


def count_steps(trainer: "Trainer", taken: int, *, num_schedulers: int) -> None:
    """Add steps that were taken outside of Lightning's loop to all of its counters; see next_batches."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    assert fetcher is not None
    fetcher.combined_loader._iterator._idx += taken  # type: ignore[union-attr]
    fetcher.fetched += taken
    fetcher.done = fetcher.fetched == fetcher.length
    loop.batch_progress.increment_by(taken, is_last_batch=fetcher.done)
    loop._batches_that_stepped += taken  # where the loggers' curves go on
    loop.scheduler_progress.increment_by(taken * num_schedulers)
    loop.automatic_optimization.optim_progress.optimizer.step.increment_by(taken)
    loop.automatic_optimization.optim_progress.optimizer.zero_grad.increment_by(taken)


def resume_in_epoch(trainer: "Trainer", loader_states: list[dict[str, Any]]) -> bool:
    """Let a resumed epoch continue after its last batch; False where that is not possible.

    Lightning does so when it makes the loaders, but a schedule that asks for their length makes them too early.
    loader_states: from the checkpoint. Without: the loader's own load_state_dict takes them. A plateau schedule would
    miss the end of the epoch then: False.
    """
    if is_tested("pytorch-lightning"):
        trainer.fit_loop._load_combined_loader_states()
        trainer.fit_loop._restarting = False  # or a plateau schedule would miss the end of this epoch
        return True
    if not trainer.fit_loop.restarting:
        return True
    loader: Any = trainer.train_dataloader
    for state in loader_states:
        loader.load_state_dict(state)
    return bool(loader_states) and not any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs)


@contextmanager
def look_up_callbacks_once() -> Iterator[None]:
    """In the block, a Trainer asks for callbacks of installed packages only where the process's first look found some.

    Gain: 10 ms for each Trainer after the first one. Without: each reads the metadata of all installed packages.
    """
    if not is_tested("pytorch-lightning"):
        yield
        return
    from pytorch_lightning.trainer.connectors import callback_connector

    connector: Any = callback_connector
    load = connector._load_external_callbacks
    connector._load_external_callbacks = lambda group: load(group) if has_entry_points(group) else []
    try:
        yield
    finally:
        connector._load_external_callbacks = load


@cache
def has_entry_points(group: str) -> bool:
    """Whether an installed package has entry points of a group, as of this process's first look."""
    return bool(entry_points(group=group))


def script_launcher(trainer: "Trainer") -> Any:
    """Lightning's launcher of further processes on this machine, which are its `procs`; None without such a launcher.

    Gain: all processes end within 0.1 s of the first failure, and run.json has the reason. Without: None; Lightning
    itself checks every 5 s, and ends the others without a reason.
    """
    if not is_tested("pytorch-lightning"):
        return None
    from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

    launcher = trainer.strategy.launcher
    return launcher if isinstance(launcher, _SubprocessScriptLauncher) else None


# torch


def packed_image_writer(writer: Any) -> Any:
    """The event file of a SummaryWriter, which takes PNG images as they are.

    Gain: 0.05 s per figure. Without: None, and the caller uses `add_image`, which compresses the image again.
    """
    return writer._get_file_writer() if is_tested("torch") else None


def projector_config(writer: Any) -> Any:
    """The list of a SummaryWriter's embeddings, for projector_config.pbtxt; what is added to it stays listed.

    Gain: embeddings that a user's callback added are listed too. Without: an empty list.
    """
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    if not is_tested("torch"):
        return ProjectorConfig()
    if not hasattr(writer, "_projector_config"):
        writer._projector_config = ProjectorConfig()
    return writer._projector_config


def assert_dtype(images: "Tensor", dtype: Any) -> None:
    """In an exported program, raise for another dtype, as torch.export does at casts.

    Without: no check; a program that gets another dtype than its signature names may return wrong logits.
    """
    import torch

    if is_tested("torch"):
        torch.ops.aten._assert_tensor_metadata(images, dtype=dtype)


def has_step_hooks(part: object) -> bool:
    """Whether a module or tensor has hooks, which a CUDA graph would not call.

    Gain: CUDA graphs for parts without hooks (see next_batches). Without: True, and kernels are launched one by one.
    """
    names = ["forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks", "post_accumulate_grad_hooks"]
    return not is_tested("torch") or any(getattr(part, f"_{name}", None) for name in names)


def gradient_order(model: object) -> list[int]:
    """The order in which a DistributedDataParallel model sums gradients between processes: its parameters' numbers.

    It finds the order in its first backward pass, and until then it uses another. The order decides how the sum of
    three or more gradients is rounded. All processes must call it. Gain: with `sum_gradients_in`, a run of that many
    processes resumes to the bit. Without, before the first pass, and for other models: an empty list.
    """
    from torch.nn.parallel import DistributedDataParallel

    if not isinstance(model, DistributedDataParallel) or not is_tested("torch"):
        return []
    model.reducer._rebuild_buckets()  # as the next step would
    if model.logger is not None:
        model.logger.set_runtime_stats_and_log()
    facts = model._get_ddp_logging_data()  # type: ignore[no-untyped-call]
    return [int(number) for number in str(facts.get("rebuilt_per_bucket_param_indices", "")).replace(",", " ").split()]


def sum_gradients_in(order: "list[int]", model: object) -> None:
    """Have a DistributedDataParallel model use an earlier process's `gradient_order` from its first step on.

    All processes must call it. Without, and where the order does not fit the model's parameters: no effect; the first
    step after resuming is rounded differently.
    """
    import torch
    from torch.nn.parallel import DistributedDataParallel

    if not isinstance(model, DistributedDataParallel) or not is_tested("torch"):
        return
    parameters = [each for each in model.parameters() if each.requires_grad]
    if sorted(order) != list(range(len(parameters))):
        return
    model.reducer.prepare_for_backward([])
    for number in order:  # a backward pass in which the gradients become ready in this order
        parameters[number].backward(torch.zeros_like(parameters[number]))  # type: ignore[no-untyped-call]
    for each in parameters:
        each.grad = None
    model.reducer._rebuild_buckets()


# torchmetrics


@contextmanager
def torchmetrics_counts_by(**instead: Callable[..., Any]) -> Iterator[None]:
    """In the block, torchmetrics counts by the functions `bincount` and `class_counts`; see training/counts.py.

    Gain: memory that is linear in images and classes, 61 MiB more for 1,000 classes than for 10. Without: torchmetrics'
    own functions, which return the same numbers but make K x K of them, or with trainer.deterministic K x K per image.
    """
    if not is_tested("torchmetrics"):
        yield
        return
    functional = "torchmetrics.functional.classification"
    modules = ("confusion_matrix", "precision_recall_curve", "stat_scores")
    places = [
        *((f"{functional}.{name}", "bincount") for name in modules),
        ("torchmetrics.classification.stat_scores", "class_counts"),
    ]
    names = {"bincount": "_bincount", "class_counts": "_multiclass_stat_scores_update"}
    found = [(sys.modules.get(module), names[name], instead[name]) for module, name in places]
    replaced = [
        (module, name, own, vars(module)[name]) for module, name, own in found if module and name in vars(module)
    ]
    for module, name, own, _ in replaced:
        setattr(module, name, own)
    try:
        yield
    finally:
        for module, name, _, before in replaced:
            setattr(module, name, before)


def torchmetrics_bincount() -> Any:
    """The function that `bincount` replaces; for use inside torchmetrics_counts_by only."""
    from torchmetrics.utilities.data import _bincount

    return _bincount


def torchmetrics_class_counts() -> Any:
    """The function that `class_counts` replaces; for use inside torchmetrics_counts_by only."""
    from torchmetrics.functional.classification.stat_scores import _multiclass_stat_scores_update

    return _multiclass_stat_scores_update


# Python's standard library


def ends_at_once() -> bool:
    """Whether a command may end without freeing its modules.

    Gain: 1.4 s per command on the machine of docs/benchmarks.md. Without: Python's usual end.
    """
    return is_tested("python")


def run_exit_functions() -> None:
    """Run the functions that are registered with atexit; see ends_at_once."""
    import atexit

    atexit._run_exitfuncs()


def join_threads() -> None:
    """Join threads and executors, as Python does at its end; see ends_at_once."""
    import threading

    threading._shutdown()  # type: ignore[attr-defined]


@contextmanager
def preserve_log_handlers() -> Iterator[None]:
    """Restore logging's registry of handlers, which Hydra's logging configuration clears.

    Gain: Python still flushes a notebook's own handlers at its end. Without: they work, but are not flushed then.
    """
    if not is_tested("python"):
        yield
        return
    known = [*logging._handlerList]  # type: ignore[attr-defined]
    by_name = dict(logging._handlers)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        logging._handlerList[:] = known  # type: ignore[attr-defined]
        logging._handlers.update(by_name)  # type: ignore[attr-defined]


def parser_actions(parser: "argparse.ArgumentParser") -> list["argparse.Action"]:
    """A parser's options and arguments, of which argparse has no public list.

    Gain: Tab completes a verb's options, and an error suggests the nearest. Without: an empty list.
    """
    return parser._actions if is_tested("python") else []
