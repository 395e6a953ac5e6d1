"""`fmx reproduce`: repeat a run and say whether the results are identical to the bit."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmx.commands.verb_parser import VerbParser
from fmx.config.bounded_files import read_bytes
from fmx.errors import ConfigError, DataError
from fmx.process.distributed import environment_without_ranks
from fmx.process.exits import plain_exits
from fmx.process.start import as_command

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

    from fmx.runs.run_dir import Run

__all__ = ["main", "make_parser"]

EXAMPLES = """\
examples:
  fmx reproduce outputs/latest
  fmx reproduce outputs/runs/RUN --dir outputs/runs/RUN_again
  fmx reproduce RUN --allow mypkg          (its configuration names targets from your package)

The second run is an ordinary one in its own folder. The comparison covers history.csv (without the seconds),
metrics.json, the test logits and the weights of both checkpoints. Exit code 0: identical; 1: different, with what and
by how much.
"""


MAX_HISTORY_BYTES = 16_000_000  # some hundred per validation
MAX_COLUMNS = 10_000  # one per metric; pandas needs some kilobytes for each


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser(
        "reproduce", description="Repeat a run's exact configuration and compare the results.", examples=EXAMPLES
    )
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("root", nargs="?", metavar="data.root=DIR", help="where its data lies now (or FMX_DATA_ROOT)")
    parser.add_argument("--set", metavar="data.root=DIR", help="the same, as evaluate takes it")
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where the second run goes (default: next to the first)"
    )
    parser.add_argument("--allow", action="append", default=[], metavar="PKG", help="trust a package that it names")
    return parser


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    arguments = make_parser().parse_intermixed_args()
    with plain_exits():
        sys.exit(reproduce(arguments.run, arguments.dir, arguments.allow, root=arguments.set or arguments.root))


def reproduce(path: str, folder: Path | None, allow: list[str], *, root: str | None = None) -> int:
    """Repeat a run and print the comparison; returns 0 where everything is identical, else 1.

    root: `data.root=DIR`, where its data is now.

    Raises DataError where the run is not finished, or the second run fails, and ConfigError where DIR exists.
    """
    from omegaconf import OmegaConf

    from fmx.config.from_environment import check_resolved
    from fmx.config.frozen import freeze
    from fmx.config.quoting import escape_interpolations, quoted
    from fmx.config.renamed_targets import with_later_keys
    from fmx.config.trust import check_paths, check_processes
    from fmx.process.table import printable
    from fmx.runs.composition import stamp
    from fmx.runs.launch_folder import launched_in
    from fmx.runs.run_dir import open_run
    from fmx.runs.trusted_config import trusted_config

    first = open_run(path)
    folder = folder or first.path.parent / f"{stamp()}_again"
    if folder.exists():
        raise ConfigError(f"{folder} exists; name another folder with --dir")
    for line in config_edits(first):
        print(f"edited    {printable(line)}")
    config = trusted_config(first, allow, root=root)
    check_resolved(OmegaConf.to_container(config, resolve=True), first.path)
    check_paths(config, first.path)
    check_processes(config, first.path)
    _check_results(first, config)
    start = _start_on_machines(first)
    config = with_later_keys(config)
    for key in ("extend", "init"):
        if config[key] is not None:
            config[key] = escape_interpolations(launched_in(first.path, config[key]))
    if isinstance(teacher := config.loss.get("teacher"), str):
        config.loss.teacher = escape_interpolations(launched_in(first.path, teacher))
    shared = first.path.parent if start else None  # other machines read it too
    with tempfile.TemporaryDirectory(dir=shared) as frozen:
        arguments = freeze(config, Path(frozen), **_recorded_origin(first))
        # The configuration of a resumed run has resume=RUN; the second run starts from scratch.
        arguments += ["resume=null", f"hydra.run.dir={quoted(str(folder.resolve()))}"]
        code = subprocess.run(
            [*start, sys.executable, *_safe_path_option(), "-m", "fmx.run", *arguments],
            env=_same_threads(first),
            check=False,
        ).returncode
    if code:
        version = first.other_version
        raise DataError(f"the second run failed with exit code {code}; it is in {folder}{version}")
    second = open_run(folder)
    for line in environment_differences(first.record, second.record):
        print(f"differs   {printable(line)}")
    differences = list(result_differences(first, second))
    for line in differences:
        print(f"DIFFERENT {printable(line)}")
    if not differences:
        print("identical: history, metrics, test logits and weights are the same to the bit")
    return int(bool(differences))


def _start_on_machines(run: "Run") -> list[str]:
    """The words that start a run's processes on as many machines as it had; DataError where there is no srun for it."""
    from fmx.process.distributed import with_srun
    from fmx.runs.command_again import command_again, trainer_of

    trainer = trainer_of(run)
    if trainer and not shutil.which("srun"):
        nodes = trainer["num_nodes"]
        raise DataError(
            f"{run.path} was trained on {nodes} machines, which only SLURM's srun starts together, and there is none "
            f"here; on each of {nodes} machines, this trains it again: {command_again(run)}"
        )
    return with_srun(trainer) if trainer else []


def _safe_path_option() -> list[str]:
    """Python's -P, which keeps the working directory off sys.path, unless it is on this process's sys.path."""
    working_dir = {"", str(Path.cwd()), os.path.realpath(".")}
    return [] if working_dir & set(sys.path) else ["-P"]


def _recorded_origin(run: "Run") -> dict[str, Any]:
    """Overrides, choices and references of the first run, for the second run's records."""
    from fmx.config.bounded_files import read_yaml
    from fmx.runs.settings import read_settings

    written = run.path / ".hydra" / "config.yaml"
    overrides = run.record.get("overrides")
    known = isinstance(overrides, list) and all(isinstance(each, str) for each in overrides)
    return {
        "written": read_yaml(written) if written.is_file() else {},
        "overrides": [each for each in overrides if not each.startswith("resume=")] if known and overrides else [],
        "choices": read_settings(run.path).choices,
        "stored": run.from_environment,
    }


def _same_threads(run: "Run") -> dict[str, str]:
    """The environment with the run's number of threads: other partial sums differ in their last digits."""
    threads = _mapping(run.record, "device").get("threads")
    known = isinstance(threads, int) and 0 < threads <= (os.cpu_count() or 1)
    return environment_without_ranks() | ({"OMP_NUM_THREADS": str(threads)} if known else {})


def _check_results(run: "Run", config: "DictConfig") -> None:
    """DataError where a result cannot be read or the weights do not fit the network, before hours of training."""
    from fmx.inference.scoring import Predictions
    from fmx.training.restore import check_fits

    assert isinstance(run.metrics, dict)
    _read_history(run)
    Predictions.load(run.path / "predictions.npz")
    for name in ("best", "last"):
        check_fits(config, run.checkpoint(name))


def config_edits(run: "Run") -> Iterator[str]:
    """Edits of the run's configuration after it ran, as far as its files show them."""
    from fmx.config.bounded_files import read_yaml
    from fmx.runs.record import is_fingerprint
    from fmx.runs.settings import flat

    resolved = read_yaml(run.path / ".hydra" / "resolved.yaml")
    recorded = run.record.get("config_fingerprint")
    if recorded is None or is_fingerprint(recorded, resolved):
        return
    written = flat(read_yaml(run.path / ".hydra" / "config.yaml"))
    named = False
    for key, value in flat(resolved).items():
        before = written.get(key)
        if before != value and not (isinstance(before, str) and "${" in before):
            named = True
            yield f".hydra/resolved.yaml was changed after the run: {key} was {before!r}, is {value!r}"
    if not named:
        yield ".hydra/ was changed after the run: its configuration is not the one that run.json has the fingerprint of"


def environment_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """Differences between two records: commit, versions, data, device, initial weights file."""
    for part in ("git", "versions", "data", "device", "weights", "init"):
        before, after = _mapping(first, part), _mapping(second, part)
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                yield f"{part} {key}: was {before.get(key)}, is {after.get(key)}"
    if _mapping(first, "git").get("dirty"):
        yield "git: the first run's working tree held changes that no commit has"


def _mapping(record: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    value = record.get(part)
    return value if isinstance(value, Mapping) else {}


def result_differences(first: "Run", second: "Run") -> Iterator[str]:
    """Differences between the results of two runs, with their sizes."""
    yield from _history_differences(first, second)
    yield from _metric_differences(first, second)
    yield from _prediction_differences(first, second)
    for name in ("best", "last"):
        yield from _weight_differences(first, second, name)


def _read_history(run: "Run") -> "pd.DataFrame":
    """history.csv without the seconds; DataError where it is missing, damaged, or larger than 16 MB."""
    import pandas as pd

    path = run.path / "history.csv"
    contents = read_bytes(path, at_most=MAX_HISTORY_BYTES)
    if any(line.count(b",") >= MAX_COLUMNS for line in contents.splitlines()):
        raise DataError(f"{path} cannot be read: it has more than {MAX_COLUMNS:,} columns")
    try:
        return pd.read_csv(BytesIO(contents)).drop(columns="seconds")
    except (ValueError, KeyError, OverflowError) as error:
        raise DataError(f"{path} cannot be read: {str(error).strip()}") from error


def _history_differences(first: "Run", second: "Run") -> Iterator[str]:
    was, now = _read_history(first), _read_history(second)
    if first.record.get("format") != second.record.get("format"):
        was, now = (
            each.drop(columns="lr", errors="ignore") for each in (was, now)
        )  # earlier formats recorded the next step's lr
    if differing := sorted({*was.columns} ^ {*now.columns}):
        yield f"history.csv: only one of the two has {', '.join(differing)}"
    elif was.shape != now.shape:
        yield f"history.csv: {len(was)} rows were {len(now)} now"
    elif not was.equals(now):
        changed = [column for column in was if not was[column].equals(now[column])]
        unequal = (was[changed] != now[changed]) & ~(was[changed].isna() & now[changed].isna())
        row = int(unequal.any(axis=1).to_numpy().argmax())
        amounts = ", ".join(f"{column} by up to {(was[column] - now[column]).abs().max():.3g}" for column in changed)
        yield f"history.csv: from row {row + 1} (epoch {was['epoch'][row]}) on: {amounts}"


def _metric_differences(first: "Run", second: "Run") -> Iterator[str]:
    for part in ("val", "test"):
        was, now = first.metrics.get(part) or {}, second.metrics.get(part) or {}
        for name, value in was.items():
            if isinstance(value, float) and repr(value) != repr(now.get(name)):  # repr: NaN equals NaN
                yield f"metrics.json: {part} {name} {value:.6g} is {now.get(name, float('nan')):.6g} now"


def _prediction_differences(first: "Run", second: "Run") -> Iterator[str]:
    from fmx.inference.scoring import Predictions

    was, now = (Predictions.load(run.path / "predictions.npz") for run in (first, second))
    if was.logits.shape != now.logits.shape:
        yield f"predictions.npz: {tuple(was.logits.shape)} logits are {tuple(now.logits.shape)} now"
    elif not was.logits.equal(now.logits) or not was.labels.equal(now.labels):
        sides = int((was.logits.argmax(1) != now.logits.argmax(1)).sum())
        largest = float((was.logits - now.logits).abs().max())
        yield f"predictions.npz: logits by up to {largest:.3g}, {sides} of {len(was.labels)} predictions differ"


def _weight_differences(first: "Run", second: "Run", name: str) -> Iterator[str]:
    from fmx.runs.checkpoint_files import load_checkpoint

    was, now = (load_checkpoint(run.checkpoint(name))["state_dict"] for run in (first, second))
    if was.keys() != now.keys():
        yield f"{name}.ckpt: other weights: {', '.join(sorted(was.keys() ^ now.keys()))}"
    elif differing := [key for key in was if not was[key].equal(now[key])]:
        furthest = max(float((was[key] - now[key]).abs().max()) for key in differing)
        yield f"{name}.ckpt: {len(differing)} of {len(was)} weights, by up to {furthest:.3g}"


if __name__ == "__main__":
    as_command(main)
