"""`fmx watch`: the page of a sweep or a search in a browser, which renews itself while jobs report."""

import signal
import socket
import threading
from pathlib import Path

from fmx.commands.verb_parser import VerbParser
from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError
from fmx.process.exits import Interrupted, plain_exits
from fmx.process.start import as_command

__all__ = ["main", "make_parser"]

DESCRIPTION = """\
Serve the report of a sweep, of runs, or the page of a search to a browser. The page renews itself when a job has
reported, and keeps its place and its sorting. It is served to this machine alone, and asks no other. Nothing is
written. Ctrl-C ends it.
"""
EXAMPLES = """\
examples:
  fmx watch
  fmx watch outputs/sweeps/2026-03-01_10-00-00_ab12cd
  fmx watch outputs/latest --port 7007

The files are looked at every two seconds or, where that takes long, so that it takes a twentieth of the time; a new
page is drawn after a change, in at most a tenth of the time. While no browser shows the page, nothing is read.
"""
HIGHEST_PORT = 65_535


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser("watch", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR",
                        help="a sweep, a search, a run, or a folder that holds runs (the sweep of outputs/ that was at "
                        "work last)")  # fmt: skip
    parser.add_argument("--port", type=int, default=0, help="(any that is free)")
    return parser


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    arguments = make_parser().parse_args()
    with plain_exits():
        if not 0 <= arguments.port <= HIGHEST_PORT:
            raise ConfigError(f"--port must be from 0 to {HIGHEST_PORT}, got {arguments.port}")
        watch(arguments.folder, port=arguments.port)


def watch(folder: Path | None, *, port: int) -> None:
    """Serve the page of a folder until Ctrl-C; DataError where it holds no run, ConfigError where the port is taken.

    folder: None for the sweep of outputs/ that was at work last.
    """
    from fmx.reporting.page_server import LOOPBACK, PageServer
    from fmx.sweeps.live_page import PAUSE_S, LivePage
    from fmx.sweeps.status import latest_sweep

    folder = folder or latest_sweep()
    print(f"drawing the page of {folder.resolve()} …", flush=True)
    live = LivePage(folder)
    with PageServer(port, page=live.page, state=live.state) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        print(f"the page is at http://{LOOPBACK}:{port}/ (Ctrl-C ends it)", flush=True)
        tunnel = printed_command("ssh", "-N", "-L", f"{port}:{LOOPBACK}:{port}", socket.gethostname())
        print(f"from another machine: {tunnel}, and open the same address there", flush=True)
        never = threading.Event()
        try:
            while not never.wait(PAUSE_S):
                live.look()
        except (Interrupted, KeyboardInterrupt) as interrupted:
            print("\nfmx watch has ended.", flush=True)
            if isinstance(interrupted, Interrupted) and interrupted.signum != signal.SIGINT:
                raise
        finally:
            server.shutdown()


if __name__ == "__main__":
    as_command(main)
