"""The command line that trains a run again, from what its directory says."""

import argparse
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fmx.config.bounded_files import read_yaml
from fmx.config.frozen import FROZEN
from fmx.config.printed_command import printed_command
from fmx.errors import DataError
from fmx.runs.run_dir import Run

__all__ = ["command_again"]

OF_ITS_START = ("resume=", "sweep.")  # not of the run by itself
PRUNING = "+callbacks.pruning={_target_:fmx.sweeps.search.pruning.Pruning,"  # a run by itself has no search to watch it
SEARCH = ".SearchSweeper"  # how the sweeper's name ends that an experiment file may choose


def command_again(run: Run) -> str:
    """What a person types to train a run anew, quoted for a shell, wherever it was started from.

    A job of a sweep was started from a frozen file, and a run that was resumed says `resume`: neither begins a new one.
    What it names, such as a folder of --config-dir, is as it was then. DataError where run.json has no overrides.
    """
    overrides = [str(each) for each in run.recorded(list, "overrides")]
    typed = [each for each in overrides if not each.startswith((*OF_ITS_START, PRUNING))]
    return printed_command("python", "-m", "fmx.run", *_sources(run), *typed)


def _sources(run: Run) -> Iterator[str]:
    """Where the configuration was composed from, beside fmx's own."""
    hydra = _hydra(run.path / ".hydra" / "hydra.yaml")
    name, folders = _named(hydra)
    if name == FROZEN:  # the run was resumed by its name alone, or reproduces another one: that file is gone
        hydra = {}
        name, folders = _typed_at_first(run)
    if name.isdecimal():  # a job of a sweep: its command named the file that it was frozen in
        hydra = _hydra(run.path.parent / "multirun.yaml")  # nothing where a search of fmx 0.1 kept none
        name, folders = _named(hydra)
    if name != "config":
        yield from ("--config-name", name)
    for folder in folders:
        yield from ("--config-dir", folder)
    of_hydra = [str(each) for each in hydra.get("overrides", {}).get("hydra", [])]
    yield from (each for each in of_hydra if each.startswith("hydra.searchpath="))
    searches = str(hydra.get("sweeper", {}).get("_target_")).endswith(SEARCH)
    if searches and not any(each.startswith("hydra/sweeper=") for each in of_hydra):
        yield "hydra.mode=RUN"  # an experiment file chose the search, and would again


def _named(hydra: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The file that a configuration was composed from, and the folders that the command line named."""
    sources = [each for each in hydra.get("runtime", {}).get("config_sources", []) if isinstance(each, dict)]
    folders = [str(each.get("path")) for each in sources if each.get("provider") == "command-line"]
    return str(hydra.get("job", {}).get("config_name", "config")), folders


def _typed_at_first(run: Run) -> tuple[str, list[str]]:
    """The same of the command that began a run which went on by other commands."""
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
    """Hydra's own settings as a run or sweep recorded them; nothing where they cannot be read."""
    try:
        node: Any = read_yaml(path)["hydra"]
    except (DataError, KeyError, TypeError):
        return {}
    return {key: value for key, value in node.items() if _is_expected(key, value)} if isinstance(node, dict) else {}


def _is_expected(key: str, value: Any) -> bool:
    """Whether a part of Hydra's settings has the form that Hydra writes."""
    if not isinstance(value, dict):
        return False
    lists = {"runtime": "config_sources", "overrides": "hydra"}
    return key not in lists or isinstance(value.get(lists[key], []), list)
