"""search.html: how a search went, which parameters mattered, and every trial, in one page that works offline."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from math import isfinite
from statistics import median
from typing import Any

import optuna
from optuna import visualization
from optuna.importance import FanovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from fmx.reporting.offline_page import offline_page
from fmx.sweeps.search.summary import Summary

__all__ = ["html_page"]

FRONTS = (2, 3)  # metrics that a front can be drawn of
TOO_FEW = "Too few trials have been completed to draw this."
LISTED = 5  # trials that a note names
# How far below the median a poor figure may lie (B. Iglewicz and D. C. Hoaglin, How to Detect and Handle Outliers,
# 1993): 3.5 standard deviations, each 1.4826 median absolute deviations; at least a hundredth of the median.
FAR, PER_DEVIATION, LEAST_SPREAD = 3.5, 1.4826, 0.01
LEAST_TRIALS = 6  # of which importance says something
ROOM = 0.06  # of an axis, beyond the points at its ends


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
    counted, pruned = _with_last_figures(summary)
    also = f" {pruned} pruned ones count by the last figure that they reported." if pruned else ""
    if len(objectives) in FRONTS:
        front = partial(visualization.plot_pareto_front, target_names=[each.metric for each in objectives])
        yield _chart("Pareto front", "Of the trials in red no other is better in every metric.", front, study)
    for place, each in enumerate(objectives):
        name = each.metric
        of: dict[str, Any] = {"target_name": name, "target": _value(place) if len(objectives) > 1 else None}
        history = partial(visualization.plot_optimization_history, **of)
        figures = {trial.number: trial.values[place] for trial in summary.completed}
        view = _view(figures, maximize=each.direction == "maximize")
        yield _chart(f"History of {name}", "Each completed trial, and the best so far.", history, study, view)
        yield _importance(name, counted, of, also)
        by_parameter = partial(visualization.plot_slice, **of)
        note = f"Each completed trial; darker ones came later.{also}"
        figures = {trial.number: trial.values[place] for trial in counted.trials}
        view = _view(figures, maximize=each.direction == "maximize")
        yield _chart(f"{name} by parameter", note, by_parameter, counted, view)
    if any(trial.intermediate_values for trial in summary.trials):
        reports = "What each trial reported after its validations; the short lines were pruned."
        figures = {
            trial.number: min(trial.intermediate_values.values())
            if objectives[0].direction == "maximize"
            else max(trial.intermediate_values.values())
            for trial in summary.trials
            if trial.intermediate_values
        }
        yield _chart(
            "Reports", reports, _reports, study, _view(figures, maximize=objectives[0].direction == "maximize")
        )
    if len(objectives) == 1:
        lines = f"A line a completed trial. Dragging along an axis picks the lines that cross there.{also}"
        parallel = partial(visualization.plot_parallel_coordinate, target_name=objectives[0].metric)
        yield _chart("Parallel coordinates", lines, parallel, counted)


def _with_last_figures(summary: Summary) -> tuple[Study, int]:
    """The completed trials, and those that were pruned as if they had ended with their last figure; how many these are.

    What pruning kills early is what mattered most: without it the parameter that decides would seem to matter least.
    """
    study = optuna.create_study(directions=[each.direction for each in summary.options.objectives])
    pruned = 0
    for trial in summary.trials:
        values = trial.values
        if trial.state == TrialState.PRUNED and trial.intermediate_values and len(study.directions) == 1:
            last = trial.intermediate_values[max(trial.intermediate_values)]
            values = [last] if isfinite(last) else None
            pruned += values is not None
        elif trial.state != TrialState.COMPLETE:
            values = None
        if values is not None:
            study.add_trial(create_trial(values=values, params=trial.params, distributions=trial.distributions))
    return study, pruned


def _importance(metric: str, counted: Study, of: Mapping[str, Any], also: str) -> dict[str, Any]:
    """The chart of the parameters' importance; where too few trials say something of it, the reason in its place."""
    title = f"Importance for {metric}"
    trials = counted.trials
    varied = {key for trial in trials for key in trial.params if len({repr(t.params.get(key)) for t in trials}) > 1}
    needed = max(LEAST_TRIALS, 2 * len(varied))
    if len(trials) < needed:
        reason = f"{len(trials)} trials have a figure: fewer than the {needed} that would say something of importance."
        return {"title": title, "note": reason, "figure": None}
    if len({tuple(trial.values) for trial in trials}) == 1:
        return {"title": title, "note": "All trials have the same figure, so nothing mattered.", "figure": None}
    note = f"The share that each parameter has in what separates good trials from the others (fANOVA).{also}"
    draw = partial(visualization.plot_param_importances, evaluator=FanovaImportanceEvaluator(seed=0), **of)
    return _chart(title, note, draw, counted)


def _view(figures: Mapping[int, float], *, maximize: bool) -> tuple[tuple[float, float], str] | None:
    """The part of the axis that shows all trials but those that are far worse than most, and a note that names these.

    figures: by the trial's number. None where no trial is far off.
    """
    sign = 1 if maximize else -1
    values = {number: sign * value for number, value in figures.items()}
    finite = [value for value in values.values() if isfinite(value)]
    if not finite:
        return None
    middle, best = median(finite), max(finite)
    deviation = PER_DEVIATION * median(abs(value - middle) for value in finite)
    bound = middle - FAR * max(deviation, best - middle, LEAST_SPREAD * abs(middle))
    poor = {number: value for number, value in values.items() if value < bound}
    if not poor:
        return None
    worst = min(value for value in finite if value >= bound)
    room = ROOM * (best - worst or abs(best) or 1)
    ends = sorted((sign * (worst - room), sign * (best + room)))
    named = [f"{number} ({figures[number]:.4g})" for number in islice(poor, LISTED)]
    more = f" and {len(poor) - LISTED} more" if len(poor) > LISTED else ""
    one = len(poor) == 1
    note = f" Beyond the axis, for {'it is' if one else 'they are'} far from all others: trial{'' if one else 's'} "
    return (ends[0], ends[1]), f"{note}{', '.join(named)}{more}."


def _reports(study: Study) -> Any:
    figure = visualization.plot_intermediate_values(study)
    return figure.update_layout(xaxis_title="validations", yaxis_title=None)


def _value(place: int) -> Callable[[Any], float]:
    return lambda trial: float(trial.values[place])


def _chart(
    title: str,
    note: str,
    draw: Callable[[Study], Any],
    study: Study,
    view: tuple[tuple[float, float], str] | None = None,
) -> dict[str, Any]:
    """view: the range of the axes of figures, and what to say of it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            figure = json.loads(draw(study).to_json())
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError):
        return {"title": title, "note": TOO_FEW, "figure": None}
    if not figure["data"]:
        return {"title": title, "note": TOO_FEW, "figure": None}
    if view is not None:
        (low, high), said = view
        note += said
        for key, axis in figure["layout"].items():
            if key.startswith("yaxis"):
                axis |= {"range": [low, high], "autorange": False}
    return {"title": title, "note": note, "figure": figure}
