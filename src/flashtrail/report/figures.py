"""The list of figures: a name, a line on what it shows, and the one function that draws it, for pages and for papers.

A name is that of its entry or, where there is one drawing for each arm (grid, feature), ``guard/ARM``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from flashtrail.claims import signal
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.summaries import setting
from flashtrail.report import (
    arm_words,
    checkup_figures,
    criteria,
    data_figures,
    drills_figures,
    limits_figures,
    page,
    plotting,
    precision_figures,
    run_figures,
    sweep_figures,
    tradeoff,
    tradeoff_figures,
)
from flashtrail.report.drills_stored import bounds, diagnosis
from flashtrail.report.overview import has_guard
from flashtrail.report.page import Html
from flashtrail.statistics.wording import integers
from flashtrail.tables import endings


@dataclass(frozen=True)
class Entry:
    """A figure. `line`: what it shows; `of`: what there is a drawing of, [""] of the run as a whole, [] of nothing;
    `lacks`: said where there is none.
    """

    line: str
    lacks: str
    of: Callable[[Campaign], Sequence[str]]
    draw: Callable[[Campaign, str], Figure]


def _once(there: bool) -> list[str]:
    return [""] if there else []


def guarded(run: Campaign) -> list[str]:
    """Return the arms with a guard whose clock is paused."""
    return [arm for arm, summary in run.plain_summaries.items() if has_guard(summary)]


def _guard(run: Campaign, arm: str) -> Figure:
    return run_figures.guard(run.of_arm("rounds", arm), (setting(run.summaries[arm], "guard") or {}).get("std_min"))


def drafting(run: Campaign) -> list[str]:
    """Return the first arm that drafts, alone; empty where none does."""
    return [arm for arm, summary in run.summaries.items() if summary["routes"]["draft"]][:1]


def control(run: Campaign) -> dict[str, Any] | None:
    """Return the control of the accepted prefix where it has a histogram."""
    return run.control if run.control and run.control.get("histogram") else None


def _prefix(run: Campaign, _: str) -> Figure:
    return run_figures.accepted_prefix(run.summaries[drafting(run)[0]], control(run))


def _success(run: Campaign, _: str) -> Figure:
    """Draw success; those who point at a mark are told which episodes failed."""
    failed: dict[tuple[str, int | None], str] = {}
    for arm in run.plain_summaries:
        lost = run.judged(arm).query("not success")
        failed |= {(arm, task): f"; failed: initial state {integers(part)}" for task, part in _states(lost)}
        failed[arm, None] = f"; failed: {_by_task(lost)}" if len(lost) else ""
    return run_figures.success(run.plain_summaries, run.usual_policies, failed)


def _criteria(run: Campaign, _: str) -> Figure:
    counts = {
        arm: {name: criteria.count(criteria.seen(run, arm)[name]) for name in criteria.CRITERIA}
        for arm in criteria.arms(run)
    }
    words = {arm: arm_words.short(run.summaries[arm], run.usual_policy(run.summaries[arm])) for arm in counts}
    return run_figures.criteria(counts, words, criteria.CRITERIA)


def _states(episodes: pd.DataFrame) -> Iterator[tuple[int, pd.Series]]:
    return ((int(task), part["init_state"]) for task, part in episodes.groupby("task_id", sort=True))


def _by_task(episodes: pd.DataFrame) -> str:
    """``task 0, initial state 3-5; task 2, initial state 1``."""
    return "; ".join(f"task {task}, initial state {integers(states)}" for task, states in _states(episodes))


def _endings(run: Campaign, _: str) -> Figure:
    kinds = run.episodes.assign(kind=endings.kinds(run.episodes, run.rounds))
    starts = {(str(arm), str(kind)): _by_task(part) for (arm, kind), part in kinds.groupby(["arm", "kind"])}
    names = {arm: arm_words.short(summary, run.usual_policy(summary)) for arm, summary in run.summaries.items()}
    return run_figures.failures(endings.taxonomy(run.episodes, run.rounds, run.arms), names, starts)


def _feature(run: Campaign, name: str) -> Figure:
    return drills_figures.feature(name, diagnosis(run)["episodes"], bounds(run)["bounds"].get(name))


def _diagnosed(run: Campaign) -> bool:
    return bool(run.files("diagnosis") and run.files("bounds"))


_NO_ARM, _NO_PROFILE, _NO_DRILLS = "No arm was run.", "No profile was measured.", "No drill was run."
_NO_DATA = "No set of demonstrations is named in the config."
_NO_CHECKUP = "No checkup was run against a published figure."
FIGURES = {
    "tradeoff": Entry(
        "Success against the time of a round: arms with their intervals, fault and remedy as arrows",
        "No arm has both, success and the time of a round.",
        lambda run: _once(bool(tradeoff.points(run))),
        lambda run, _: tradeoff_figures.tradeoff(tradeoff.points(run)),
    ),
    "success": Entry(
        "Success of each arm, over all tasks and per task, with Wilson intervals and counts",
        _NO_ARM,
        lambda run: _once(bool(run.summaries)),
        _success,
    ),
    "criteria": Entry(
        "What three criteria of success say of the same episodes, per arm, with Wilson intervals",
        "No suite of this run records other criteria.",
        lambda run: _once(bool(criteria.arms(run))),
        _criteria,
    ),
    "excursions": Entry(
        "How far each episode left the box, with limits and without",
        "No arm has limits with a box.",
        lambda run: _once(bool(limits_figures.boxed(run))),
        lambda run, _: limits_figures.excursions(run),
    ),
    "clipping": Entry(
        "How much two safety layers change of random actions and of an expert\u2019s",
        "Safety layers were not measured.",
        lambda run: _once(limits_figures.measured(run) is not None),
        lambda run, _: limits_figures.clipping(run.measured[limits_figures.NAME]),
    ),
    "precision": Entry(
        "Action error of number formats and runtimes by their speed",
        "No policy was measured in other number formats.",
        precision_figures.measured,
        lambda run, name: precision_figures.tradeoff(run.measured[name]),
    ),
    "routes": Entry(
        "Share of draft rounds and of full rounds by cause, per arm",
        _NO_ARM,
        lambda run: _once(bool(run.summaries)),
        lambda run, _: run_figures.route_mix(run.summaries, run.usual_policies),
    ),
    "prefix": Entry(
        "Histogram of accepted prefixes of draft rounds", "No arm drafted.", lambda r: _once(bool(drafting(r))), _prefix
    ),
    "latency": Entry(
        "Box plot of policy time per round, draft and full",
        _NO_PROFILE,
        lambda run: _once(len(run.profile) > 0),
        lambda run, _: run_figures.latency_box(run.profile),
    ),
    "latency-cdf": Entry(
        "Cumulative distribution of policy time per round, draft and full",
        _NO_PROFILE,
        lambda run: _once(len(run.profile) > 0),
        lambda run, _: run_figures.latency_cdf(run.profile),
    ),
    "stages": Entry(
        "Stacked median stage times per route",
        _NO_PROFILE,
        lambda run: _once(len(run.profile) > 0),
        lambda run, _: run_figures.stages(run.profile),
    ),
    "signal": Entry(
        "AUROC of each signal for failure, with intervals",
        "No round says how sure the policy is, no arm and task has both ends, or the steps of rounds are not recorded.",
        lambda run: _once(bool(signal.whole_window(signal.of_run(run)))),
        lambda run, _: run_figures.auroc(signal.whole_window(signal.of_run(run))),
    ),
    "guard": Entry("Wrist image health over rounds", "No arm had a guard.", guarded, _guard),
    "grid": Entry("Success by severity and guard", "No grid was run.", sweep_figures.grids, sweep_figures.grid),
    "clock": Entry(
        "Success by latency of a round",
        "In no arm the clock was running.",
        lambda run: _once(bool(run.running)),
        lambda run, _: sweep_figures.clock(run.running),
    ),
    "clock-steps": Entry(
        "Fresh, stale and held control steps by arm",
        "In no arm the clock was running.",
        lambda run: _once(bool(run.running)),
        lambda run, _: sweep_figures.steps(run.running, run.usual_policies),
    ),
    "dial": Entry(
        "Success by core steps a round, stopping when calm or after a fixed number",
        "Fewer than three arms differ by their steps alone.",
        lambda run: _once(bool(sweep_figures.dials(run))),
        lambda run, _: sweep_figures.dial(run),
    ),
    "endings": Entry("How episodes ended, per arm", _NO_ARM, lambda run: _once(bool(run.summaries)), _endings),
    "data-lengths": Entry(
        "Histogram of the lengths of a set's episodes, a row a task",
        _NO_DATA,
        lambda run: list(run.datasets),
        lambda run, name: data_figures.lengths(run.datasets[name]),
    ),
    "data-actions": Entry(
        "Histogram of each action dim of a set of demonstrations",
        _NO_DATA,
        lambda run: list(run.datasets),
        lambda run, name: data_figures.actions(run.datasets[name]),
    ),
    "drills": Entry(
        "Episodes of each arm in which each predicate holds",
        _NO_DRILLS,
        lambda run: _once(_diagnosed(run)),
        lambda run, _: drills_figures.confusion(diagnosis(run)["matrix"]),
    ),
    "drills-power": Entry(
        "Share of runs diagnosed correctly against the number of episodes, a panel for each arm",
        _NO_DRILLS,
        lambda run: _once(_diagnosed(run)),
        lambda run, _: drills_figures.power(diagnosis(run)["power"]),
    ),
    "drills-feature": Entry(
        "What a predicate sees, each episode of each arm a point",
        _NO_DRILLS,
        lambda run: drills_figures.DRAWN if _diagnosed(run) else [],
        _feature,
    ),
    "checkup": Entry(
        "Difference from the published rate over the three zones",
        _NO_CHECKUP,
        lambda run: _once(bool(run.checkup and run.checkup["published"])),
        lambda run, _: checkup_figures.difference(run.checkup or {}),
    ),
    "checkup-closing": Entry(
        "Histogram of the step of the first gripper closing, by outcome",
        "No checkup was run.",
        lambda run: _once(bool(run.checkup)),
        lambda run, _: checkup_figures.closing(run.judged((run.checkup or {})["arm"])),
    ),
}


def names(run: Campaign) -> list[str]:
    """Return the names of the figures that a run has."""
    return [f"{name}/{part}" if part else name for name, entry in FIGURES.items() for part in entry.of(run)]


def drawn(run: Campaign, name: str) -> Figure:
    """Return a figure that the run has, in the present style (`plotting.style`), in which it is to be saved, too."""
    family, _, part = name.partition("/")
    made = FIGURES[family].draw(run, part)
    plotting.fit(made)
    return made


def shown(run: Campaign, name: str, caption: Any) -> Html:
    """Return a figure for a page, or the sentence that says why the run has none."""
    family, _, part = name.partition("/")
    entry = FIGURES[family]
    if part not in entry.of(run):
        return page.paragraph(entry.lacks, "note")
    with plotting.style():
        return page.figure(drawn(run, name), entry.line + (f", {part}" if part else ""), caption)
