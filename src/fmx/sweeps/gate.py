"""Check a sweep directory before any of its jobs runs: it may come from an untrusted source."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fmx.config.bounded_files import get_nested, read_yaml, read_yaml_or_empty
from fmx.config.expansion import check_expansion
from fmx.config.from_environment import REPEATABLE, Place, check_variables_set, references, to_stored
from fmx.config.frozen import DEFAULTS, REFERENCES, check_same, origin, stored_of, write_frozen
from fmx.config.layout import GROUPS, ROOT_KEYS
from fmx.config.printed_command import printed_command
from fmx.config.quoting import escape_interpolations
from fmx.config.renamed_targets import with_present_names
from fmx.config.trust import TRUSTED, check_paths, check_processes, check_sizes, check_trusted, foreign_mirrors
from fmx.errors import DataError
from fmx.process import dry_run
from fmx.process.own_files import check_own_files
from fmx.runs.data_root import at_root, present_root
from fmx.runs.record import config_fingerprint
from fmx.sweeps.job import FROZEN_JOBS, Job

__all__ = ["check_job", "check_jobs_folder", "check_sweep_dir", "packages_of", "recorded_callbacks"]

JOB_FILE = re.compile(r"\d+\.(yaml(\.part)?|log)")
TARGET = re.compile(r"_target_: ['\"]?(\w+)")
CHECK = {"_target_": "fmx.commands.hydra_callback.Check", "bounded": True}
ORIGIN = "fmx.config.frozen.Origin"
RUN_DIR = "${run_dir:}"
ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\\$\{")


def check_sweep_dir(sweep_dir: Path) -> None:
    """DataError for links that lead out of a sweep directory, and for files that Hydra would compose from."""
    check_own_files(sweep_dir)
    check_jobs_folder(sweep_dir)


def check_jobs_folder(sweep_dir: Path) -> None:
    """DataError for foreign files among the frozen jobs: Hydra searches their folder first for every config group."""
    folder = sweep_dir / FROZEN_JOBS
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not (path.is_dir() if path.name == "slurm" else JOB_FILE.fullmatch(path.name) and path.is_file()):
            raise DataError(f"{path} is neither a job of this sweep nor its log: remove it")


def check_job(job: Job, allow: Collection[str], root: str | None = None) -> str:
    """Read a job's frozen configuration as data, check it, rewrite the file, and return the fingerprint.

    allow: packages that the user trusts besides fmx's own, `hydra` for settings of Hydra itself, and addresses that
    images may be downloaded from. root: the present folder of the data, if it has moved. DataError for the first thing
    that is not trusted.
    """
    path = job.sweep_dir / FROZEN_JOBS / f"{job.number}.yaml"
    plain = with_present_names(read_yaml(path))
    if plain.pop("defaults", None) != DEFAULTS:
        raise DataError(f"{path} is no frozen job: its defaults are not those of one")
    hydra = _check_hydra(plain.pop("hydra", None), path, job, allow)
    stored = stored_of(json.loads(hydra["callbacks"].get("origin", {}).get("facts", "{}")))
    config = _check_config(plain, path, job, allow, stored)
    master = read_yaml_or_empty(job.sweep_dir / "multirun.yaml")
    started_in = get_nested(master, "hydra", "runtime", "cwd")
    root = root or present_root(config["data"], get_nested(master, "data", "root"), started_in)
    if root is not None:
        plain["data"] = at_root(plain["data"], escape_interpolations(root))
    if not dry_run.is_asked():
        write_frozen(path, plain, hydra)
    return config_fingerprint(config)


def packages_of(jobs: Iterable[Job]) -> set[str]:
    """The packages besides fmx's own that frozen jobs name; the jobs are this process's own, or checked."""
    found = set[str]()
    for job in jobs:
        with suppress(OSError):
            found.update(TARGET.findall((job.sweep_dir / FROZEN_JOBS / f"{job.number}.yaml").read_text("utf-8")))
    return found - {*TRUSTED}


def recorded_callbacks(job: Job, allow: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The callbacks of Hydra's own that a frozen job has besides fmx's, and the job's configuration, unresolved.

    DataError for a callback that is not trusted.
    """
    path = job.sweep_dir / FROZEN_JOBS / f"{job.number}.yaml"
    plain = read_yaml(path)
    node = plain.pop("hydra", None)
    callbacks = node.get("callbacks") if isinstance(node, dict) else None
    passed = _check_callbacks(callbacks if isinstance(callbacks, dict) else {}, path, allow)
    return {name: node for name, node in passed.items() if name not in {"check", "origin"}}, plain


def _check_config(
    plain: Mapping[str, Any], path: Path, job: Job, allow: Collection[str], stored: Mapping[Place, str]
) -> dict[str, Any]:
    """Check all keys and values; returns them as a run stores them.

    stored: the values that the job has from environment variables, by their place.
    """
    if plain.get("run_dir") != RUN_DIR:
        raise DataError(f"{path} is no frozen job: its run_dir is not {RUN_DIR}")
    for key in plain:
        if key not in ROOT_KEYS:
            raise DataError(f"{path} is no frozen job: it has the key {key!r:.80}")
    if missing := [key for key in GROUPS if not isinstance(plain.get(key), dict)]:
        raise DataError(f"{path} is no frozen job: it lacks {missing[0]}")
    ours = {**plain, "run_dir": str(job.run_dir)}
    for key in plain:
        if key != "run_dir":
            _check_texts(plain[key], (str(key),), path, stored)
            check_expansion(ours, str(key), path)
    try:
        config = OmegaConf.create(ours)
        check_variables_set(stored, path)
        resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        stores = to_stored(config)
    except (OmegaConfBaseException, ValueError) as error:
        raise DataError(f"{path} cannot be resolved: {str(error).partition(chr(10))[0]}") from error
    check_same(stored, references(stores), str(path))
    check_trusted(resolved, path, allow)
    check_sizes(resolved["data"], path)
    for mirror in foreign_mirrors(resolved["data"]):
        if mirror not in allow:
            raise DataError(
                f"{path} would fetch images from {mirror!r}, which is no source of fmx's. If you trust it, add "
                f"{printed_command('--allow', mirror)}"
            )
    check_paths(config, path)
    check_processes(resolved, path)
    return stores


def _check_texts(node: Any, place: Place, path: Path, stored: Mapping[Place, str]) -> None:
    """DataError for an interpolation other than a reference to a key, or to a recorded environment variable.

    Freezing a job leaves no others.
    """
    if isinstance(node, Mapping | list):
        for name, child in node.items() if isinstance(node, Mapping) else enumerate(node):
            _check_texts(child, (*place, name), path, stored)
        return
    allowed = REPEATABLE if place in stored else REFERENCES
    if isinstance(node, str) and "${" in (text := ESCAPED.sub("", node)) and not allowed.fullmatch(text):
        raise DataError(
            f"{path}: {'.'.join(map(str, place))} is an interpolation that no frozen job has: {node[:200]!r}"
        )


def _check_hydra(node: Any, path: Path, job: Job, allow: Collection[str]) -> dict[str, Any]:
    """The checked settings of Hydra itself: the job's name and number, and callbacks, which run before other checks."""
    if not isinstance(node, dict) or node.keys() - {"job", "callbacks"}:
        raise DataError(f"{path} is no frozen job: it sets more of Hydra than its job and its callbacks")
    settings, callbacks = node.get("job") or {}, node.get("callbacks") or {}
    if not isinstance(settings, dict) or not isinstance(callbacks, dict):
        raise DataError(f"{path} is no frozen job: hydra.job and hydra.callbacks must be mappings")
    passed: dict[str, Any] = {"name": "run", "num": job.number}
    for key, value in settings.items():
        if key in passed or not value:
            continue
        if key not in {"chdir", "env_set", "env_copy"} or "hydra" not in allow:
            raise DataError(
                f"{path} sets hydra.job.{key}, which affects all of its processes. If you trust it, add --allow hydra"
            )
        passed[key] = value
    return {"job": passed, "callbacks": _check_callbacks(callbacks, path, allow)}


def _check_callbacks(callbacks: Mapping[Any, Any], path: Path, allow: Collection[str]) -> dict[str, Any]:
    passed: dict[str, Any] = {"check": CHECK}
    for name, node in callbacks.items():
        if name == "check" and node in (CHECK, CHECK | {"bounded": False}, {"_target_": CHECK["_target_"]}):
            continue
        if name == "origin" and isinstance(node, dict) and node.get("_target_") == ORIGIN:
            passed["origin"] = _check_origin(node, path)
            continue
        packages = {str(target).partition(".")[0] for target in _targets(node)}
        if not isinstance(name, str) or not packages or packages - {*allow}:
            package = min(packages - {*allow}, default="hydra")
            raise DataError(
                f"{path} has a callback of Hydra's own, {name!r:.80}, which runs before anything is checked. If you "
                f"trust it, add {printed_command('--allow', package)}"
            )
        passed[name] = node
    return passed


def _targets(node: Any) -> Iterable[Any]:
    if isinstance(node, Mapping):
        yield from [node["_target_"]] if "_target_" in node else []
        for child in node.values():
            yield from _targets(child)
    elif isinstance(node, list):
        for child in node:
            yield from _targets(child)


def _check_origin(node: Mapping[str, Any], path: Path) -> dict[str, str]:
    """The callback that records overrides and choices, from its JSON text, or from the nodes of earlier versions."""
    try:
        facts = json.loads(node["facts"]) if "facts" in node else node
        overrides, choices = facts["overrides"], facts["choices"]
        chosen = [text for each in choices.values() for text in (each if isinstance(each, list) else [each])]
        stored = stored_of(facts)
        valid = (
            all(isinstance(each, str) for each in stored.values())
            and isinstance(overrides, list)
            and all(isinstance(each, str | None) for each in [*overrides, *chosen])
        )
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise DataError(f"{path} is no frozen job: its record of overrides and choices is invalid")
    return origin(overrides, choices, stored)
