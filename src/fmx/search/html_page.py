"""search.html: how a search went, which parameters mattered, and every trial, in one page that works offline."""

import json
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import optuna
from optuna import visualization
from optuna.study import Study

from fmx.reporting.offline_page import offline_page
from fmx.search.summary import Summary

__all__ = ["html_page"]

FRONTS = (2, 3)  # metrics that a front can be drawn of


def html_page(summary: Summary) -> str:
    """The page, with Optuna's own charts as far as the trials give them."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # that there is too little to draw, the page says itself
    charts = list(_charts(summary))
    optuna.logging.set_verbosity(verbosity)
    heads, rows = summary.table()
    return offline_page(
        "search",
        title=summary.headline(),
        goal=summary.options.goal,
        sampler=summary.options.sampler,
        pruning=summary.options.pruning,
        best=[
            {
                "trial": trial.number,
                "figures": ", ".join(f"{name} {value:.6g}" for name, value in summary.named(trial.values).items()),
                "command": summary.command.of(trial.params),
            }
            for trial in summary.best
        ],
        charts=charts,
        figures={place: chart["figure"] for place, chart in enumerate(charts) if chart["figure"]},
        heads=heads,
        rows=rows,
    )


def _charts(summary: Summary) -> Iterator[dict[str, Any]]:
    """Title, note and Plotly's figure of each chart; without a figure where there is too little to draw."""
    study, objectives = summary.study, summary.options.objectives
    if len(objectives) in FRONTS:
        front = partial(visualization.plot_pareto_front, target_names=[each.metric for each in objectives])
        yield _chart("Pareto front", "Of the trials in red no other is better in every metric.", front, study)
    for place, each in enumerate(objectives):
        name = each.metric
        of: dict[str, Any] = {"target_name": name, "target": _value(place) if len(objectives) > 1 else None}
        history = partial(visualization.plot_optimization_history, **of)
        yield _chart(f"History of {name}", "Each completed trial, and the best so far.", history, study)
        importance = "The share that each parameter has in what separates good trials from the others."
        yield _chart(f"Importance for {name}", importance, partial(visualization.plot_param_importances, **of), study)
        by_parameter = partial(visualization.plot_slice, **of)
        yield _chart(f"{name} by parameter", "Each completed trial; darker ones came later.", by_parameter, study)
    if any(trial.intermediate_values for trial in summary.trials):
        reports = "What each trial reported after its validations; the short lines were pruned."
        yield _chart("Reports", reports, _reports, study)
    if len(objectives) == 1:
        lines = "A line a completed trial. Dragging along an axis picks the lines that cross there."
        parallel = partial(visualization.plot_parallel_coordinate, target_name=objectives[0].metric)
        yield _chart("Parallel coordinates", lines, parallel, study)


def _reports(study: Study) -> Any:
    figure = visualization.plot_intermediate_values(study)
    return figure.update_layout(xaxis_title="validations", yaxis_title=None)


def _value(place: int) -> Callable[[Any], float]:
    return lambda trial: float(trial.values[place])


def _chart(title: str, note: str, draw: Callable[[Study], Any], study: Study) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(action="ignore"):
            figure = json.loads(draw(study).to_json())
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError):
        return {"title": title, "note": "Too few trials have been completed to draw this.", "figure": None}
    if not figure["data"]:
        return {"title": title, "note": "Too few trials have been completed to draw this.", "figure": None}
    return {"title": title, "note": note, "figure": figure}
