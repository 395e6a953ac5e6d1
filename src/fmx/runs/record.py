"""run.json: what was run, on what, and how it went."""

import hashlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fmx.config.bounded_files import read_json, read_yaml
from fmx.config.from_environment import stored_and_variables
from fmx.config.frozen import relocated
from fmx.config.printed_command import printed_command
from fmx.config.quoting import as_typed, override
from fmx.config.renamed_targets import with_first_names
from fmx.errors import DataError, FmxError, Refusal, first_line
from fmx.process.distributed import is_first_process, num_processes
from fmx.process.exits import Interrupted, Pruned, expected_error, interruption, plain_message
from fmx.process.lock import exclusive
from fmx.runs.data_root import without_root
from fmx.runs.latest_link import link_latest
from fmx.runs.run_dir import Run, open_run

__all__ = [
    "Record",
    "config_fingerprint",
    "is_fingerprint",
    "present_fingerprint",
    "recording",
    "write_atomically",
    "write_json",
]

log = logging.getLogger(__name__)

LOCK = ".run.json.lock"
FORMAT = 2  # of run directories; those without it have the next step's learning rate in each row of history.csv
ROOTLESS = "3-"  # the prefix of fingerprints that ignore data.root
PACKAGES = [
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "numpy",
    "fmx",
]


class Record:
    """The contents of run.json, which each update rewrites atomically.

    writes: True in one process of a distributed run alone. shared: whether the run has several processes.
    """

    def __init__(self, run_dir: Path, *, writes: bool, shared: bool = False) -> None:
        self.run_dir = run_dir
        self.writes = writes
        self.shared = shared
        self.contents: dict[str, Any] = {}
        self._is_written = False
        self.at_end: list[tuple[str, Callable[[str], None]]] = []  # called with the status, by name
        self.stored: dict[str, Any] = {}  # the configuration as to_stored has it
        self.yaml = ""  # the same as text
        self.variables: dict[str, str] = {}  # that the configuration reads; their values must not be written

    @property
    def path(self) -> Path:
        """The path of run.json."""
        return self.run_dir / "run.json"

    def update(self, **fields: Any) -> None:
        """Set top-level fields; a mapping is merged into the existing one.

        A failure that another process of the run has recorded stays.
        """
        for name, value in fields.items():
            old = self.contents.get(name)
            self.contents[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, Mapping) else value
        if not self.writes:
            return
        with self._lock():
            if self._is_written and (failure := self._failure()):
                self.contents |= failure
            write_json(self.path, self.contents)
        self._is_written = True

    def _lock(self) -> AbstractContextManager[None]:
        return exclusive(self.run_dir / LOCK, needed=False) if self.shared else nullcontext()

    def _failure(self) -> dict[str, Any] | None:
        """The status and error that another process of this run has recorded, if one failed."""
        stored = self._on_disk() if self.shared else {}
        return {"status": "failed", "error": stored.get("error")} if stored.get("status") == "failed" else None

    def _on_disk(self) -> dict[str, Any]:
        try:
            return read_json(self.path)
        except DataError:  # missing or damaged: the next update replaces it
            return {}

    def complete(self) -> None:
        """Record that the run is complete; Refusal where another process of it failed meanwhile."""
        self.update(status="completed")
        if self.writes and self.contents["status"] == "failed":
            raise Refusal(FmxError(f"another process of this run failed: {self.contents['error']}"))

    def end(self, status: str, error: str | None) -> str | None:
        """Record how a run ended early, and return the recorded error; a full disk must not hide it.

        If several processes fail, the first failure stays: it is the cause.
        """
        for name, value in self.variables.items():
            error = error and error.replace(value, f"${{oc.env:{name}}}")
        with suppress(OSError):
            if not self.shared:
                self.update(status=status, error=error)
            elif self.writes or status == "failed":
                error = self._end_shared(status, error)
        return error

    def _end_shared(self, status: str, error: str | None) -> str | None:
        with self._lock():
            stored = self._on_disk()
            if stored.get("status") == "failed":
                return str(stored.get("error"))
            if not self.writes and stored.get("status") != "running":  # the run was resumed meanwhile
                return error
            write_json(self.path, {**(self.contents if self.writes else stored), "status": status, "error": error})
        return error

    def close(self) -> None:
        """Tell those in `at_end` how the run ended; one that fails does not cost the run, and a line says so."""
        while self.at_end:
            name, close = self.at_end.pop()
            try:
                close(str(self.contents["status"]))
            except Exception as error:  # noqa: BLE001 - of a user's class, or a server's client
                what = f"{type(error).__name__}: {first_line(error)}"
                status = self.contents["status"]
                log.warning("%s failed at the end of the run, which is %s without it (%s)", name, status, what)
                with suppress(OSError):
                    self.update(end_error=what)

    def continue_from(self, earlier: Mapping[str, Any]) -> None:
        """Take over the record of an interrupted run, and append its start and end to `parts`."""
        parts = earlier.get("parts")
        part = {key: earlier.get(key) for key in ("started", "host", "command", "status", "error")}
        self.contents = dict(earlier) | {"parts": [*(parts if isinstance(parts, list) else []), part]}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to `timing`."""
        began = time.perf_counter()
        yield
        self.update(timing={name: round(time.perf_counter() - began, 3)})

    def check_data(
        self,
        data: Mapping[str, object],
        *,
        is_same: Callable[[str], bool],
        chosen_on_test: bool = False,
        earlier: Run | None = None,
    ) -> None:
        """DataError where a resumed run, or the `earlier` one that this run goes on with, had other data than `data`.

        is_same: whether a recorded fingerprint is that of the present data. Where only the test set changed, a warning
        is logged instead, unless the test set chose the checkpoint (`chosen_on_test`).
        """
        run_dir = self.run_dir if earlier is None else earlier.path
        then = (self.contents if earlier is None else earlier.record).get("data")
        if not isinstance(then, dict):
            return
        changed = ", ".join(
            key
            for key in data
            if key in then and then.get(key) != data[key] and not (key == "fingerprint" and is_same(str(then.get(key))))
        )
        if changed and not chosen_on_test and _training_data(then) == _training_data(data):
            log.warning("only the test images have changed since %s began: it is tested on the present ones", run_dir)
        elif changed:
            hint = (
                ""
                if "train_fingerprint" in then
                else (
                    " (this older run recorded no separate hash of its training images, so a change of the test "
                    "images alone is not recognised: restore all images)"
                )
            )
            raise DataError(f"the data is not what {run_dir} was trained on: {changed} changed; start a new run{hint}")

    def link_latest(self) -> None:
        """Point outputs/latest to this run, or to its sweep."""
        if self.writes and HydraConfig.initialized():
            newest = self.run_dir.parent if (self.run_dir.parent / "jobs").is_dir() else self.run_dir
            link_latest(newest, Path(HydraConfig.get().runtime.cwd))


@contextmanager
def recording(cfg: DictConfig, *, started: float) -> Iterator[Record]:
    """Keep the status in run.json: running, then completed, failed or interrupted.

    started: time.time() when the process began.
    """
    with closing(_start_record(cfg, started=started)) as record:
        run_dir = record.run_dir
        try:
            yield record
        except (Interrupted, KeyboardInterrupt):
            record.end("interrupted", None)
            log.warning("interrupted; %s continues it", printed_command(override("resume", run_dir)))
            raise
        except Pruned as pruned:
            record.contents["pruned"] = pruned.facts
            record.end("interrupted", str(pruned))
            log.info("%s", pruned)
            raise
        except Exception as error:
            if interruption(error) is not None:
                record.end("interrupted", None)
                raise
            plain = expected_error(error)
            if isinstance(error, FileNotFoundError) and _is_below(error.filename, run_dir):
                plain = FmxError(f"{error.filename} was removed during the run")
            record.end("failed", plain_message(plain) if plain else f"{type(error).__name__}: {error}")
            if plain is None:
                raise
            if not record.writes:
                raise SystemExit(plain.exit_code) from error  # the first process prints it
            raise Refusal(plain) from error
        except BaseException as error:
            if not isinstance(error, SystemExit) or error.code:
                record.end("failed", f"{type(error).__name__}: {error}")
            raise
        record.complete()


def _start_record(cfg: DictConfig, *, started: float) -> Record:
    """The record of a new or resumed run."""
    run_dir = Path(cfg.run_dir)
    stored, read = stored_and_variables(cfg)
    trainer: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    record = Record(run_dir, writes=is_first_process(trainer), shared=num_processes(trainer) > 1)
    record.stored, record.variables = stored, read
    record.yaml = OmegaConf.to_yaml(OmegaConf.create(stored))
    if cfg.resume is not None and (run_dir / "run.json").is_file():
        record.continue_from(open_run(run_dir, finished=False).record)
    if record.writes:
        (run_dir / ".hydra").mkdir(exist_ok=True)
        # Before run.json: a folder that has one can be resumed.
        write_atomically(run_dir / ".hydra" / "resolved.yaml", record.yaml)
    else:
        logging.getLogger("fmx").setLevel(logging.ERROR)  # the first process logs it
    record.contents.pop("pruned", None)  # from before the run was resumed
    if not record.contents:  # a resumed run keeps its own
        record.contents["format"] = FORMAT
    record.update(
        status="running",
        command=printed_command(Path(sys.executable).name, "-m", "fmx.run", *sys.argv[1:]),
        overrides=as_typed(HydraConfig.get().overrides.task),
        seed=cfg.seed,
        pid=os.getpid(),
        host=socket.gethostname(),
        started=time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime(started)),
        config_fingerprint=config_fingerprint(stored),
        git=_git(),
        versions=_versions(),
        timing={"startup_s": round(time.time() - started, 3)},
        error=None,
    )
    return record


def _is_below(name: object, folder: Path) -> bool:
    return isinstance(name, str | bytes) and os.fsdecode(name).startswith(str(folder))


def config_fingerprint(resolved: Mapping[str, Any]) -> str:
    """A hash of a resolved configuration, in plain containers as read from resolved.yaml.

    The folders of the run and its data, and `resume`, do not count.
    """
    return f"{ROOTLESS}{_hash(without_root(resolved))}"


def is_fingerprint(recorded: object, resolved: Mapping[str, Any]) -> bool:
    """Whether a recorded fingerprint is that of a resolved configuration; older ones include data.root."""
    return recorded in {config_fingerprint(resolved), _hash(resolved)}


def present_fingerprint(recorded: object, run_dir: Path) -> str:
    """The fingerprint of a run in its present form; an older form is recomputed from the run's files."""
    if str(recorded).startswith(ROOTLESS):
        return str(recorded)
    try:
        resolved = read_yaml(run_dir / ".hydra" / "resolved.yaml")
    except DataError:
        return str(recorded)
    return config_fingerprint(resolved) if recorded == _hash(resolved) else str(recorded)


def _hash(resolved: Mapping[str, Any]) -> str:
    renamed = with_first_names(relocated(resolved))
    settings = {key: value for key, value in renamed.items() if key not in {"run_dir", "resume", "sweep"}}
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_json(path: Path, contents: object) -> None:
    """Write a JSON file atomically: readers see the old file or the new one."""
    write_atomically(path, json.dumps(contents, indent=2, ensure_ascii=False, allow_nan=True) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file: readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")  # unique to each writer
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _git() -> dict[str, object] | None:
    """The commit of the working directory, and whether it holds changes; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run(
            # core.fsmonitor may name a program, and the repository may not be trusted.
            ["git", "-c", "core.fsmonitor=false", "status", "--porcelain"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


def _versions() -> dict[str, str]:
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _training_data(data: Mapping[str, Any]) -> object:
    """The recorded facts about the training data; where some are missing, an object that equals no other."""
    if "train_fingerprint" not in data or not isinstance(data.get("sizes"), dict):
        return object()
    sizes = {part: number for part, number in data["sizes"].items() if part != "test"}
    return data["train_fingerprint"], data.get("split_fingerprint"), data.get("name"), sizes
