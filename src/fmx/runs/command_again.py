"""The command line that trains a run again, from the files of its directory."""

import argparse
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fmx.config.bounded_files import read_yaml
from fmx.config.frozen import FROZEN
from fmx.config.printed_command import printed_command
from fmx.config.quoting import override
from fmx.errors import DataError
from fmx.process.distributed import start_on_machines
from fmx.process.table import printable
from fmx.runs.ensemble import is_ensemble
from fmx.runs.run_dir import Run

__all__ = ["command_again", "command_to_resume", "through_slurm", "trainer_of"]

START_OPTIONS = ("resume=", "sweep.")  # how the run was started, not what it is
PRUNING = "+callbacks.pruning={_target_:fmx.sweeps.search.pruning.Pruning,"  # only a search adds it
SLURM = ".SlurmLauncher"  # the end of the launcher's _target_
SEARCH = ".SearchSweeper"  # the end of the sweeper's _target_ where an experiment file chose a search


def command_again(run: Run) -> str:
    """The command that trains a run anew, quoted for a shell.

    The recorded command may not do so: a job of a sweep names its frozen file, and a resumed run has `resume`. Folders,
    such as that of --config-dir, are as recorded. DataError where run.json has no overrides.
    """
    if is_ensemble(run.path):
        return run.recorded(str, "command")
    overrides = [str(each) for each in run.recorded(list, "overrides")]
    typed = [each for each in overrides if not each.startswith((*START_OPTIONS, PRUNING))]
    trainer = trainer_of(run)
    sweep = _hydra(run.path.parent / "multirun.yaml") if trainer else {}
    launcher = through_slurm(sweep) if str(sweep.get("launcher", {}).get("_target_")).endswith(SLURM) else None
    if launcher is not None:
        return printed_command("python", "-m", "fmx.run", "-m", *_source_options(run), *launcher, *typed)
    start, needs_folder = start_on_machines(trainer, _host(run))
    folder = [override("hydra.run.dir", run.path.with_name(f"{run.path.name}_again"))] if needs_folder else []
    return printed_command(*start, *_source_options(run), *typed, *folder)


def command_to_resume(run: Run) -> str:
    """The command that continues an interrupted run, on as many machines as it had; quoted for a shell."""
    trainer = trainer_of(run)
    start = start_on_machines(trainer, _host(run))[0] if trainer else ["fmx", "run"]
    return printed_command(*start, override("resume", run.path))


def trainer_of(run: Run) -> dict[str, Any]:
    """What the configuration of a run on several machines says of them and its processes; empty for any other run."""
    device = run.record.get("device")
    processes = device.get("processes") if isinstance(device, dict) else None
    if type(processes) is not int or processes <= 1:
        return {}
    trainer = read_yaml(run.path / ".hydra" / "resolved.yaml").get("trainer")
    nodes = trainer.get("num_nodes") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or type(nodes) is not int or not 1 < nodes <= processes:
        return {}
    return {"num_nodes": nodes, "devices": processes // nodes, "accelerator": str(trainer.get("accelerator"))}


def through_slurm(hydra: Mapping[str, Any]) -> list[str] | None:
    """The overrides by which SLURM runs a command's jobs as those of `hydra`: of a sweep or search that started there.

    None where an experiment file chose the search, whose settings no other sweeper takes.
    """
    typed = [str(each) for each in hydra.get("overrides", {}).get("hydra", [])]
    if _searches_by_file(hydra):
        return None
    return [each for each in typed if each.startswith(("hydra/launcher=", "hydra.launcher."))]


def _searches_by_file(hydra: Mapping[str, Any]) -> bool:
    typed = [str(each) for each in hydra.get("overrides", {}).get("hydra", [])]
    searches = str(hydra.get("sweeper", {}).get("_target_")).endswith(SEARCH)
    return searches and not any(each.startswith("hydra/sweeper=") for each in typed)


def _host(run: Run) -> str:
    return printable(run.record.get("host") or "FIRST_HOST")


def _source_options(run: Run) -> Iterator[str]:
    """The options that say where the configuration was composed from, besides fmx's own."""
    hydra = _hydra(run.path / ".hydra" / "hydra.yaml")
    name, folders = _name_and_folders(hydra)
    if name == FROZEN:  # started with `resume=RUN` alone, or by a reproduction: the frozen file is gone
        hydra = {}
        name, folders = _name_and_folders_at_first(run)
    if name.isdecimal():  # a job of a sweep, composed from its frozen file
        hydra = _hydra(run.path.parent / "multirun.yaml")  # searches of fmx 0.1 kept none
        name, folders = _name_and_folders(hydra)
    if name != "config":
        yield from ("--config-name", name)
    for folder in folders:
        yield from ("--config-dir", folder)
    hydra_overrides = [str(each) for each in hydra.get("overrides", {}).get("hydra", [])]
    yield from (each for each in hydra_overrides if each.startswith("hydra.searchpath="))
    if _searches_by_file(hydra):
        yield "hydra.mode=RUN"  # or the experiment file would start a search again


def _name_and_folders(hydra: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The name of the composed configuration file, and the folders that the command line named."""
    sources = [each for each in hydra.get("runtime", {}).get("config_sources", []) if isinstance(each, dict)]
    folders = [str(each.get("path")) for each in sources if each.get("provider") == "command-line"]
    return str(hydra.get("job", {}).get("config_name", "config")), folders


def _name_and_folders_at_first(run: Run) -> tuple[str, list[str]]:
    """The same, from the command that began a run which was resumed later."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-name", "-cn", default="config")
    parser.add_argument("--config-dir", "-cd")
    parts = run.record.get("parts")
    first = parts[0] if isinstance(parts, list) and parts and isinstance(parts[0], dict) else {}
    try:
        typed, _ = parser.parse_known_args(shlex.split(str(first.get("command"))))
    except (ValueError, argparse.ArgumentError):
        return "config", []
    cwd = str(_hydra(run.path / ".hydra" / "hydra.yaml").get("runtime", {}).get("cwd", "."))
    return typed.config_name, [str(Path(cwd, typed.config_dir))] if typed.config_dir else []


def _hydra(path: Path) -> dict[str, Any]:
    """Hydra's own settings as a run or sweep recorded them; empty where they cannot be read."""
    try:
        node: Any = read_yaml(path)["hydra"]
    except (DataError, KeyError, TypeError):
        return {}
    return {key: value for key, value in node.items() if _has_hydra_type(key, value)} if isinstance(node, dict) else {}


def _has_hydra_type(key: str, value: Any) -> bool:
    """Whether a part of Hydra's settings has the type that Hydra writes."""
    if not isinstance(value, dict):
        return False
    lists = {"runtime": "config_sources", "overrides": "hydra"}
    return key not in lists or isinstance(value.get(lists[key], []), list)
