"""The calibration of a run: written into its directory, and as a table."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg

from fmx.errors import DataError
from fmx.process.own_files import check_own_files
from fmx.reporting.figures.reliability import reliability_diagram
from fmx.runs.calibration import CALIBRATION, Calibration
from fmx.runs.new_file import new_file
from fmx.runs.record import write_json

__all__ = ["calibration_rows", "keep_calibration"]


def keep_calibration(calibration: Calibration, run_dir: Path) -> None:
    """Write figures/reliability.png and calibration.json, each whole or not at all; DataError where that fails."""
    check_own_files(run_dir, all_names=False)
    figure = reliability_diagram(calibration)
    FigureCanvasAgg(figure)
    try:
        (run_dir / "figures").mkdir(exist_ok=True)
        with new_file(run_dir / "figures" / "reliability.png", force=True) as temporary:
            figure.savefig(temporary, format="png")
        write_json(run_dir / CALIBRATION, calibration.contents())
    except OSError as error:
        raise DataError(f"{run_dir} cannot keep its calibration: {error.strerror or error}") from error


def calibration_rows(calibration: Calibration) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table: each part as trained and calibrated."""
    rows = []
    for part, states in calibration.parts.items():
        for state, measured in states.items():
            low, high = measured.ece_interval
            interval = f"{100 * low:.2f} – {100 * high:.2f}"
            scores = [f"{measured.nll:.4f}", f"{measured.brier:.4f}"]
            rows.append([f"{part}, {state}", f"{100 * measured.ece:.2f}", interval, *scores])
    return ["calibration", "ECE %", "95 % interval", "NLL", "Brier"], rows
