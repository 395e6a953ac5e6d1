"""`fmx tensorboard`: serve the curves, figures and embeddings of runs with TensorBoard."""

import json
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from fmx.commands.verb_parser import VerbParser
from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError, DataError, FmxError
from fmx.process.exits import Interrupted, plain_exits
from fmx.process.start import as_command

__all__ = ["main", "make_parser"]

DESCRIPTION = """\
Serve what runs have logged for TensorBoard: curves, figures, graphs, precision and recall, hyperparameters
and an embedding of test images (the Projector). The runs of a sweep are named by the settings in which they
differ; runs that start later appear by themselves. Ctrl-C ends it.

Options after `--` are passed to TensorBoard; `tensorboard --helpfull` lists them.
"""
EXAMPLES = """\
examples:
  fmx tensorboard
  fmx tensorboard outputs/sweeps/SWEEP
  fmx tensorboard outputs /mnt/colleague/outputs --port 7007
  fmx tensorboard --host 0.0.0.0 -- --samples_per_plugin scalars=10000
"""
LOOPBACK = "127.0.0.1"
PORT = 6006
LOOK_EVERY_S = 3.0  # between searches for new and removed runs
HIGHEST_PORT = 65_535


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser("tensorboard", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("folders", nargs="*", default=["outputs"], metavar="DIR",
                        help="runs, sweeps, folders that hold them, or globs (outputs)")  # fmt: skip
    parser.add_argument("--host", default=LOOPBACK, help=f"the address to listen on ({LOOPBACK}: this machine alone)")
    parser.add_argument("--port", type=int, default=PORT, help=f"({PORT}; 0 takes any that is free)")
    return parser


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    arguments = make_parser().parse_intermixed_args(words[:split])
    with plain_exits():
        if not 0 <= arguments.port <= HIGHEST_PORT:
            raise ConfigError(f"--port must be from 0 to {HIGHEST_PORT}, got {arguments.port}")
        serve(arguments.folders, host=arguments.host, port=arguments.port, more=words[split + 1 :])


def serve(folders: Sequence[str], *, host: str, port: int, more: Sequence[str] = ()) -> None:
    """Serve the runs in and below folders until Ctrl-C.

    more: further options for TensorBoard. Raises DataError where there are no event files, ConfigError where the
    address is not available.
    """
    from fmx.reporting.event_folders import event_folders, run_names

    def runs() -> dict[str, Path]:
        return run_names(event_folders(folders))

    found = runs()
    if not found:
        raise DataError(
            f"{', '.join(folders)} holds no TensorBoard event files; train something first, as in "
            f"`{printed_command('fmx', 'data=digits')}`, or name another folder"
        )
    with tempfile.TemporaryDirectory(prefix="fmx-tensorboard-") as folder:
        links = _RunLinks(Path(folder), runs)
        links.update(found)
        print(f"{len(found)} run{'s' if len(found) > 1 else ''}; starting TensorBoard …", flush=True)
        url = _launch(["--logdir", folder, "--host", host, "--port", str(port), *more])
        print(f"TensorBoard is at {url} (Ctrl-C ends it)", flush=True)
        try:
            links.follow(url)
        except (Interrupted, KeyboardInterrupt) as interrupted:
            print("\nTensorBoard has ended.", flush=True)
            if isinstance(interrupted, Interrupted) and interrupted.signum != signal.SIGINT:
                raise


class _RunLinks:
    """A folder with one link per run to its event files: TensorBoard's projector needs a single folder."""

    def __init__(self, folder: Path, runs: Callable[[], dict[str, Path]]) -> None:
        self.folder = folder
        self.runs = runs
        self.links = dict[str, Path]()

    def update(self, runs: dict[str, Path]) -> None:
        """Add links to new runs, and remove those of removed or renamed runs."""
        for name in [name for name, target in self.links.items() if runs.get(name) != target]:
            (self.folder / name).unlink(missing_ok=True)
            del self.links[name]
            for above in (self.folder / name).relative_to(self.folder).parents[:-1]:
                with suppress(OSError):  # not empty
                    (self.folder / above).rmdir()
        for name, target in runs.items():
            if name not in self.links:
                link = self.folder / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target, target_is_directory=True)
                self.links[name] = target

    def follow(self, url: str) -> None:
        """Update the links until a signal arrives. url: TensorBoard's address."""
        never, awake = threading.Event(), False
        while not never.wait(LOOK_EVERY_S):
            with suppress(OSError, FmxError):  # a folder may be removed meanwhile
                self.update(self.runs())
            awake = awake or _projector_is_awake(url)


def _launch(options: list[str]) -> str:
    """Start TensorBoard in threads of this process; returns its address."""
    from tensorboard.program import TensorBoard, TensorBoardServerException
    from tensorboard.util import tb_logging

    tb_logging.get_logger().setLevel(logging.ERROR)  # hide the warning about missing TensorFlow
    server: Any = TensorBoard()
    try:
        server.configure(argv=["fmx tensorboard", *options])
        url: str = server.launch()
    except TensorBoardServerException as error:
        raise ConfigError(f"{error}; name another one with --port (0: any that is free) or --host") from error
    return url


def _projector_is_awake(url: str) -> bool:
    """Whether the projector is active: it searches for embeddings only on request, and is hidden until then."""
    try:
        with urlopen(f"{url}data/plugins_listing", timeout=LOOK_EVERY_S) as listing:  # noqa: S310 - this process itself
            return bool(json.load(listing)["projector"]["enabled"])
    except (OSError, ValueError, KeyError):
        return False


if __name__ == "__main__":
    as_command(main)
