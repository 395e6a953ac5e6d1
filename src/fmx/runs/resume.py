"""Resuming a run that ended early: which one, and whether its configuration is the same."""

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fmx.config.bounded_files import read_yaml_or_empty
from fmx.config.from_environment import (
    Place,
    check_resolved,
    from_stored,
    is_reference,
    references,
    to_stored,
    why_unresolved,
)
from fmx.config.frozen import freeze, relocated
from fmx.config.printed_command import printed_command
from fmx.config.quoting import escape_interpolations, override, quoted, unquoted
from fmx.config.renamed_targets import with_first_names
from fmx.errors import ConfigError, DataError
from fmx.process.distributed import agree_on
from fmx.runs.data_root import KEY, at_root, parse_root, without_root
from fmx.runs.record import config_fingerprint, present_fingerprint
from fmx.runs.run_dir import Run, instant, open_run

__all__ = ["check_same_run", "choices_of", "config_to_train", "expand_resume", "find_run_dir", "given_keys"]

MANY = 8  # differing keys that an error lists
NOT_THE_RUN = {"run_dir", "resume", "sweep.keep_checkpoints"}  # keys that may differ


def find_run_dir(resume: str | None, fresh: str, config: DictConfig) -> str:
    """The folder of a run: that of the run to resume, or `fresh`.

    resume: null, a run directory, or `auto`: the newest interrupted run beside `fresh` with the same configuration.
    """
    if resume is None:
        return fresh
    if resume != "auto":
        return str(Path(resume).resolve())
    wanted = config_fingerprint(to_stored(config))
    if wanted not in _found_dirs:  # asked again after resuming, when the run is no longer interrupted
        found = [
            run
            for run in _interrupted(Path(fresh).parent)
            if present_fingerprint(run.record.get("config_fingerprint"), run.path) == wanted
        ]
        newest = max(found, key=lambda run: instant(run.record.get("started")), default=None)
        # Before a run that torchrun restarts is found, another of its processes may have written to it.
        _found_dirs[wanted] = agree_on("resume", str(newest.path) if newest else fresh)
    return _found_dirs[wanted]


_found_dirs: dict[str, str] = {}


def _interrupted(folder: Path) -> Iterator[Run]:
    for record in sorted(folder.glob("*/run.json")):
        try:
            run = open_run(record.parent, finished=False)
        except DataError:
            continue
        if run.status == "interrupted" and not run.pruned:
            yield run


def check_same_run(config: Mapping[str, Any], run_dir: Path, resume: str | None) -> None:
    """ConfigError where a folder holds a run that this configuration must not resume; imports and writes nothing.

    config: resolved, plain. A folder without a run is fine, but not where `resume` names it.
    """
    from fmx.config.bounded_files import read_yaml
    from fmx.runs.settings import flat

    if not (run_dir / "run.json").is_file():
        if resume not in {None, "auto"}:
            raise ConfigError(
                f"resume={resume} is not a run directory: it has no run.json. resume=auto finds the newest interrupted "
                "run of the same configuration; resume=null starts a new one"
            )
        return
    if resume is None:
        how = printed_command(override("resume", run_dir))
        raise ConfigError(f"{run_dir} holds a run already: continue it with {how}, or name another folder")
    try:
        run = open_run(run_dir, finished=False)
        then = read_yaml(run_dir / ".hydra" / "resolved.yaml")
    except DataError as error:
        raise ConfigError(f"resume={resume}: {error}") from None
    if run.status == "completed":
        how = _how(run, ["trainer.max_epochs=N"])
        raise ConfigError(f"resume={resume}: {run_dir} is complete; there is nothing to continue. {how}")
    stored = references(then)
    if not stored:  # written by a version that stored the values of environment variables
        config = from_stored(dict(config), run_dir)
    was, now = (flat(with_first_names(without_root(relocated(each)))) for each in (then, config))
    differing = [key for key in {**was, **now} if was.get(key) != now.get(key) and key not in NOT_THE_RUN]
    if differing:
        shown = ", ".join(_shown(key, was.get(key), now.get(key), stored) for key in differing[:MANY])
        more = f" and {len(differing) - MANY} more" if len(differing) > MANY else ""
        raise ConfigError(
            f"resume={resume}: the configuration is not that of {run_dir}: {shown}{more}. "
            f"Type the same command as then, or resume=RUN alone{run.other_version}. To change it: "
            f"{_how(run, ['KEY=VALUE'])}"
        )


def _shown(key: str, was: object, now: object, stored: Mapping[Place, str]) -> str:
    place = next((place for place in stored if ".".join(map(str, place)) == key), None)
    return why_unresolved(place, stored) if place and is_reference(now) else f"{key} was {was!r}, is {now!r}"


def expand_resume(arguments: list[str]) -> list[str]:
    """The command line; `resume=RUN` alone, or with data.root=DIR, is expanded to the run's own configuration.

    It is composed from the checked configuration, never from the run's overrides, which could name paths of Hydra's
    own. Raises DataError where RUN's files name something that may not be trusted, and ConfigError where other words
    would change the run.
    """
    _found_dirs.clear()  # of an earlier command of this process
    roots = [argument for argument in arguments if argument.startswith(f"{KEY}=")]
    rest = [argument for argument in arguments if argument not in roots]
    words = [word for word in rest if word.startswith("resume=") and word not in NOT_A_PATH]
    if len(words) != 1 or len(roots) > 1:
        return arguments
    path = Path(unquoted(words[0].removeprefix("resume=")))
    if not (path / "run.json").is_file():
        return arguments  # check_same_run says what is wrong
    if len(rest) > 1:
        _check_unchanged(path, [word for word in rest if word not in words])
        return arguments
    home = quoted(str(path.resolve()))
    return [*_frozen_arguments(path, roots), f"hydra.run.dir={home}", f"resume={quoted(str(path))}"]


NOT_A_PATH = {"resume=auto", "resume=null", "resume="}
_frozen: list[tempfile.TemporaryDirectory[str]] = []  # kept until this process ends: its ranks read them too


def given_keys(words: Iterable[object]) -> set[str]:
    """The keys that overrides set, without those of Hydra itself and of data.root."""
    keys = {
        str(word).lstrip("+~").partition("=")[0].partition("@")[0] for word in words if not str(word).startswith("-")
    }
    return {key for key in keys if key not in {KEY, "resume"} and not key.startswith("hydra")}


def _check_unchanged(path: Path, typed: list[str]) -> None:
    """ConfigError where words beside resume=RUN would change the run, and are not the command that began it."""
    run = open_run(path, finished=False)
    changed = given_keys(typed)
    if not changed or given_keys(run.recorded(list, "overrides")) <= changed or any(w.startswith("-") for w in typed):
        return  # the whole command: check_same_run compares the configurations
    told = [word for word in typed if given_keys([word])]
    word = printed_command(override("resume", path))
    raise ConfigError(
        f"{word} goes on with the run as it was begun, and takes no {', '.join(told)}{run.other_version}. "
        f"{_how(run, told)}"
    )


def _how(run: Run, changes: Sequence[str]) -> str:
    """What to type to train a run further with changes."""
    extend = printed_command(override("extend", run.path), *changes)
    init = printed_command(override("init", run.path))
    if run.status == "completed":
        return f"A new run that goes on with it: {extend}; one that starts from its weights alone: {init}"
    resume = printed_command(override("resume", run.path))
    return f"{resume} alone ends it; then {extend} is a new run that goes on with it; {init} starts from its weights"


def config_to_train(run: Run, key: str, path: Path, roots: list[str]) -> DictConfig:
    """The configuration of a run from anywhere, once it is trusted to be trained.

    key, path: of `resume=RUN` or `extend=RUN` as typed, for errors. roots: `data.root=DIR` where it was typed.
    DataError for what is not trusted.
    """
    from fmx.config.trust import check_paths, check_processes
    from fmx.runs.trusted_config import checked_config

    try:
        as_recorded = run.config
        config = checked_config(as_recorded, run)
        _check_mirrors(run, as_recorded, config)
    except DataError as error:  # there is no --allow; typing the whole command shows trust
        said, untrusted, _ = str(error).partition(" If you trust")
        if not untrusted:
            raise
        word = printed_command(override(key, path))
        how = f"type the whole command that began the run (run.json has it) with {word}"
        raise DataError(f"{said} If you trust it, {how}") from None
    if roots:
        config.data = escape_interpolations(
            at_root(OmegaConf.to_container(config.data, resolve=True), parse_root(roots[0]))
        )
    check_resolved(OmegaConf.to_container(as_recorded, resolve=True), run.path)
    check_paths(config, run.path)
    check_processes(config, run.path)
    return config


def _frozen_arguments(path: Path, roots: list[str]) -> list[str]:
    """Arguments that compose exactly the configuration of a run, once it is trusted.

    roots: `data.root=DIR` where it was typed.
    """
    from fmx.process.own_files import check_own_files
    from fmx.process.table import printable

    run = open_run(path, finished=False)
    written = run.path / ".hydra" / "config.yaml"
    config = config_to_train(run, "resume", path, roots)
    check_own_files(run.path)
    # From run.json: Hydra rewrites .hydra/overrides.yaml at each start, and leaves half of it where it is killed.
    recorded = [str(each) for each in run.recorded(list, "overrides") if not str(each).startswith("resume=")]
    if roots:
        recorded = [*(each for each in recorded if not each.startswith(f"{KEY}=")), *roots]
    _frozen.append(folder := tempfile.TemporaryDirectory(prefix="fmx-"))
    arguments = freeze(
        config,
        Path(folder.name),
        written=read_yaml_or_empty(written),
        overrides=recorded,
        choices=choices_of(run.path),
        stored=run.from_environment,
    )
    print(f"resume: {printable(' '.join(recorded)) or 'the default configuration'}", file=sys.stderr)
    return arguments


def _check_mirrors(run: Run, recorded: DictConfig, config: DictConfig) -> None:
    if recorded.data != config.data:
        raise DataError(f"{run.path} would fetch its images from elsewhere than fmx does. If you trust that place")


def choices_of(run_dir: Path) -> dict[str, str]:
    """The chosen option of each config group."""
    node: Any = read_yaml_or_empty(run_dir / ".hydra" / "hydra.yaml")
    for key in ("hydra", "runtime", "choices"):
        node = node.get(key) if isinstance(node, dict) else None
    return {str(group): str(name) for group, name in node.items()} if isinstance(node, dict) else {}
