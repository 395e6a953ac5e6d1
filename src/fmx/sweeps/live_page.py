"""The page of a sweep or a search that is at work: drawn again when a job has reported, within a share of the time."""

import threading
import time
from pathlib import Path
from typing import Any

from fmx.errors import DataError
from fmx.process.table import printable
from fmx.reporting.offline_page import Live
from fmx.reporting.outcomes import KnownOutcomes
from fmx.reporting.page_server import PLOTLY
from fmx.runs.run_dir import find_runs
from fmx.sweeps.job_status import Status, in_time
from fmx.sweeps.ledger import JOURNAL
from fmx.sweeps.status import read_status

__all__ = ["LivePage"]

PAUSE_S = 0.5  # between two checks of what is due
LOOK_EVERY_S = 2.0  # at the jobs' files, at least …
LOOK_SHARE = 20  # … and so many times the time that a look takes
DRAW_SHARE = 10  # likewise between two pages
SHOWN_S = 150.0  # without a request in this time, no browser shows the page; those of hidden tabs ask once a minute


class LivePage:
    """The page of a directory, and a line on its state. `look` keeps them up to date; the others only read them."""

    def __init__(self, folder: Path) -> None:
        """Draw the page for the first time; DataError where the directory holds no sweep, search or run."""
        self._folder = folder.resolve()  # outputs/latest may point elsewhere later
        self._reported: object = None  # what the jobs said when they were looked at last, …
        self._drawn: object = None  # … and when the page was drawn
        self._known = KnownOutcomes()
        self._html, self._line, self._version = "", "", 0
        self._look_at = self._draw_at = 0.0
        self._asked_at = time.monotonic()
        self._changing = threading.Lock()
        self._read()
        self._draw()

    def page(self) -> str:
        """The page as it was drawn last."""
        self._asked_at = time.monotonic()
        with self._changing:
            return self._html

    def state(self) -> dict[str, Any]:
        """The version of the page, and the present line."""
        self._asked_at = time.monotonic()
        with self._changing:
            return {"version": self._version, "line": self._line}

    def look(self) -> None:
        """Read the state of the jobs if that is due, and draw the page anew if one has reported."""
        if time.monotonic() - self._asked_at > SHOWN_S:
            return
        try:
            if time.monotonic() >= self._look_at:
                self._read()
            if self._reported != self._drawn and time.monotonic() >= self._draw_at:
                self._draw()
        except (DataError, OSError) as error:  # the directory was removed, or a file is half written
            self._look_at = time.monotonic() + LOOK_EVERY_S
            with self._changing:
                self._line = f"{printable(error)} · this page stays as it was"

    def _read(self) -> None:
        began = time.monotonic()
        status = read_status(self._folder)
        self._reported = [(job.name, job.state, job.error, job.values) for job in status.jobs]
        with self._changing:
            self._line = _line(status)
        ended = time.monotonic()
        self._look_at = ended + max(LOOK_EVERY_S, LOOK_SHARE * (ended - began))

    def _draw(self) -> None:
        began = time.monotonic()
        # The moment, in ms: a browser may still show a page of an earlier `fmx watch` on this port.
        version = max(time.time_ns() // 1_000_000, self._version + 1)
        html = self._rendered(Live(version, self._line, PLOTLY))
        with self._changing:
            self._html, self._version = html, version
        self._drawn = self._reported
        ended = time.monotonic()
        self._draw_at = ended + DRAW_SHARE * (ended - began)

    def _rendered(self, live: Live) -> str:
        if (self._folder / JOURNAL).is_file():
            from fmx.sweeps.search.html_page import html_page
            from fmx.sweeps.search.recorded import recorded_summary

            return html_page(recorded_summary(self._folder), live=live)
        from fmx.reporting.html_report import html_report
        from fmx.reporting.leaderboard import leaderboard

        try:
            runs = find_runs([str(self._folder)])
        except DataError:  # no job has started yet
            runs = []
        below = None if (self._folder / "run.json").is_file() else self._folder
        return html_report(leaderboard(runs, below=below, known=self._known), live=live)


def _line(status: Status) -> str:
    left = f"about {in_time(status.left_s)} left" if status.left_s is not None else ""
    best = f"best so far: {status.best}" if status.best else ""
    ended = "no command is at work on it" if status.is_alive is False and status.go_on else ""
    parts = [status.title, status.headline, best, left, ended, f"seen at {time.strftime('%H:%M:%S')}"]
    return " · ".join(filter(None, parts))
