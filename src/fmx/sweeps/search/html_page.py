"""search.html: the history of a search, the importance of its parameters, and all trials, as one offline page."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from math import ceil, isfinite
from statistics import median
from typing import Any

import optuna
from optuna import visualization
from optuna.importance import BaseImportanceEvaluator, FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from fmx.reporting.offline_page import Live, offline_page
from fmx.sweeps.search.summary import Summary

__all__ = ["html_page"]

FRONTS = (2, 3)  # numbers of metrics for which a Pareto front can be drawn
TOO_FEW = "Too few trials have been completed to draw this."
LISTED = 5  # trials that a note names
# How far below the median a poor value may lie (B. Iglewicz and D. C. Hoaglin, How to Detect and Handle Outliers,
# 1993): 3.5 standard deviations, each 1.4826 median absolute deviations; at least a hundredth of the median.
FAR, PER_DEVIATION, LEAST_SPREAD = 3.5, 1.4826, 0.01
LEAST_TRIALS = 6  # for the importance of parameters
BEST, BEST_SHARE = 5, 0.1  # trials that PED-ANOVA compares with all; it advises five at least
ROOM = 0.06  # margin of an axis beyond its points, as a share


def html_page(summary: Summary, *, live: Live | None = None) -> str:
    """Render the page, with Optuna's charts where there are enough trials. live: as of offline_page."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the page itself says where trials are too few
    charts = list(_charts(summary))
    optuna.logging.set_verbosity(verbosity)
    heads, rows = summary.table()
    return offline_page(
        "search",
        live=live,
        title=summary.headline(),
        goal=summary.options.goal,
        sampler=summary.options.sampler,
        pruning=summary.options.pruning,
        best=[
            {
                "trial": trial.number,
                "metrics": ", ".join(f"{name} {value:.6g}" for name, value in summary.by_metric(trial.values).items())
                + summary.spread(trial),
                "command": summary.command.for_trial(trial.params),
            }
            for trial in summary.best
        ],
        charts=charts,
        figures={place: chart["figure"] for place, chart in enumerate(charts) if chart["figure"]},
        heads=heads,
        rows=rows,
    )


def _charts(summary: Summary) -> Iterator[dict[str, Any]]:
    """Title, note and Plotly figure of each chart; the figure is None where trials are too few."""
    study, objectives = summary.study, summary.options.objectives
    counted, pruned = _with_last_values(summary)
    also = f" {pruned} pruned ones count by the last value that they reported." if pruned else ""
    if len(objectives) in FRONTS:
        front = partial(visualization.plot_pareto_front, target_names=[each.metric for each in objectives])
        yield _chart("Pareto front", "No other trial is better in every metric than one of those in red.", front, study)
    for place, each in enumerate(objectives):
        name = each.metric
        of: dict[str, Any] = {"target_name": name, "target": _value(place) if len(objectives) > 1 else None}
        history = partial(visualization.plot_optimization_history, **of)
        values = {trial.number: trial.values[place] for trial in summary.completed}
        axis_range = _axis_range(values, maximize=each.direction == "maximize")
        yield _chart(f"History of {name}", "Each completed trial, and the best so far.", history, study, axis_range)
        yield _importance(name, counted, of, also, maximize=each.direction == "maximize")
        by_parameter = partial(visualization.plot_slice, **of)
        note = f"Each completed trial; darker ones came later.{also}"
        values = {trial.number: trial.values[place] for trial in _valued(counted)}
        axis_range = _axis_range(values, maximize=each.direction == "maximize")
        yield _chart(f"{name} by parameter", note, by_parameter, counted, axis_range)
    if any(trial.intermediate_values for trial in summary.trials):
        reports = "What each trial reported after its validations; the short lines were pruned."
        values = {
            trial.number: min(trial.intermediate_values.values())
            if objectives[0].direction == "maximize"
            else max(trial.intermediate_values.values())
            for trial in summary.trials
            if trial.intermediate_values
        }
        yield _chart(
            "Reports", reports, _reports, study, _axis_range(values, maximize=objectives[0].direction == "maximize")
        )
    if len(objectives) == 1:
        missing = " None: not sought in that trial." if _has_branches(_valued(counted)) else ""
        lines = f"One line per completed trial. Point at a line to see its values.{missing}{also}"
        parallel = partial(visualization.plot_parallel_coordinate, target_name=objectives[0].metric)
        yield _chart("Parallel coordinates", lines, parallel, counted)


def _with_last_values(summary: Summary) -> tuple[Study, int]:
    """The trials, of which the pruned ones are completed with their last value; returns the number of these as well.

    Without the pruned trials, the parameter that decides most would seem to matter least. Trials without a value have
    failed: they are left out of charts, and the others keep their numbers.
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
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        study.add_trial(
            create_trial(state=state, values=values, params=trial.params, distributions=trial.distributions)
        )
    return study, pruned


def _valued(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])


def _importance(metric: str, counted: Study, of: Mapping[str, Any], also: str, *, maximize: bool) -> dict[str, Any]:
    """The chart of the parameters' importance, or the reason why there is none."""
    title = f"Importance for {metric}"
    trials = _valued(counted)
    varied = {key for trial in trials for key in trial.params if len({repr(t.params.get(key)) for t in trials}) > 1}
    needed = max(LEAST_TRIALS, 2 * len(varied))
    if len(trials) < needed:
        reason = f"{len(trials)} trials have a value: fewer than the {needed} that importance needs."
        return {"title": title, "note": reason, "figure": None}
    if len({tuple(trial.values) for trial in trials}) == 1:
        return {"title": title, "note": "All trials have the same value, so nothing mattered.", "figure": None}
    evaluator: BaseImportanceEvaluator = FanovaImportanceEvaluator(seed=0)
    note = f"The share of each parameter in the variance between trials (fANOVA).{also}"
    if _has_branches(trials):  # fANOVA would leave out what some trials lack
        best = max(BEST, ceil(BEST_SHARE * len(trials)))
        evaluator = PedAnovaImportanceEvaluator(target_quantile=best / len(trials))
        note = f"What decides whether a trial is among the {best} best, each where it is sought (PED-ANOVA).{also}"
        if (target := of["target"]) is not None and maximize:  # PED-ANOVA takes the least values of a target as best
            of = {**of, "target": lambda trial: -target(trial)}
    return _chart(title, note, partial(_importances, evaluator=evaluator, **of), counted)


def _importances(study: Study, **options: Any) -> Any:
    figure = visualization.plot_param_importances(study, **options)
    return figure.update_layout(xaxis_title=None, yaxis_title=None)  # which would lie over long names of parameters


def _has_branches(trials: Sequence[FrozenTrial]) -> bool:
    """Whether some trials lack parameters that others have."""
    return any(trial.params.keys() != trials[0].params.keys() for trial in trials)


def _axis_range(by_trial: Mapping[int, float], *, maximize: bool) -> tuple[tuple[float, float], str] | None:
    """The range of an axis without the trials that are far worse than most, and a note that names these.

    by_trial: values by the trial's number. None if no trial is far off.
    """
    sign = 1 if maximize else -1
    values = {number: sign * value for number, value in by_trial.items()}
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
    named = [f"{number} ({by_trial[number]:.4g})" for number in islice(poor, LISTED)]
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
    axis_range: tuple[tuple[float, float], str] | None = None,
) -> dict[str, Any]:
    """One chart. axis_range: the range of its y axes, and a note on it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            figure = json.loads(draw(study).to_json())
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError):
        return {"title": title, "note": TOO_FEW, "figure": None}
    if not figure["data"]:
        return {"title": title, "note": TOO_FEW, "figure": None}
    if axis_range is not None:
        (low, high), range_note = axis_range
        note += range_note
        for key, axis in figure["layout"].items():
            if key.startswith("yaxis"):
                axis |= {"range": [low, high], "autorange": False}
    return {"title": title, "note": note, "figure": figure}
