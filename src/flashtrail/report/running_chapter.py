"""Success against latency: the part of a report that shows the arms under a running clock, or says that none was run.

Its numbers are those of the summaries (`running.summary`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashtrail.claims.campaign import Campaign
from flashtrail.report import cells, figures, page
from flashtrail.report.cells import rate_of
from flashtrail.report.count_links import behind
from flashtrail.report.overview import arm_name
from flashtrail.report.page import Html
from flashtrail.statistics.wording import DASH, counted, three_digits
from flashtrail.tables.schemas import ROUTES


def section(run: Campaign) -> Html:
    """What latency does to success: figure and table of the arms under a running clock, or a note that none was run."""
    if run.summaries and all(run.whose(arm) != "ours" for arm in run.summaries):
        return page.paragraph("The imported records do not say whether the simulator waited for the policy.", "note")
    if not run.running:
        text = (
            "Not run: in every arm the simulator waits for the policy (clock: paused), as LIBERO does, so that a slow "
            "policy loses nothing but time. docs/rollouts.md says how to let the clock run."
        )
        return page.paragraph(text, "note")
    note = (
        "The simulator goes on while a round is under way: a round of L ms costs ceil(L x f / 1000) control steps at f "
        "steps a second, and the first as many actions of its answer are dropped. A control step is always 50 ms of "
        "simulated time, as in training; above 20 Hz the world runs faster than it was demonstrated. An action of a "
        "draft beyond its accepted prefix is never executed: the robot holds instead."
    )
    parts = page.side_by_side(_success(run), _table(run))
    return page.join(page.paragraph(note, "note"), parts, page.side_by_side(_steps(run), _rates(run)))


def _success(run: Campaign) -> Html:
    caption = (
        "Success by mean latency of a round; bars: Wilson 95 %. Each point is an arm of its own, on the same episodes."
    )
    return figures.shown(run, "clock", caption)


def source_words(settings: Mapping[str, Any]) -> str:
    """Return where an arm's latencies come from, in words."""
    source = settings.get("source", "?")
    if not isinstance(source, Mapping):
        return f"{source} here"
    if source.get("published"):
        return f"published, {source['published']}"
    if source.get("replay"):
        return f"replayed from {source['replay']} ({source['time']})"
    return "given"


def _table(run: Campaign) -> Html:
    rows = []
    for arm, summary in run.running.items():
        rate, clock = rate_of(summary["success"]), summary["clock"]
        medians = [clock["latency_ms"][route]["p50"] for route in ROUTES]
        rows.append(
            {
                "arm": arm_name(arm, summary),
                "hz": f"{clock['hz']:g}",
                "latency": " / ".join(three_digits(entry["value"]) if entry else DASH for entry in medians),
                "source": source_words(clock["settings"]),
                "waited": f"{clock['waited_steps_mean']:.1f}",
                "count": behind(run, arm, counted(rate)),
                **cells.rate(rate),
            }
        )
    heads = {"arm": "Arm", "hz": "Hz", "latency": "Median, full / draft (ms)", "source": "Latency"}
    heads |= {"waited": "Steps a round", "count": "k/n", **cells.RATE}
    numeric = ("hz", "latency", "waited", "count", "rate", "wilson")
    return page.table(rows, heads, numeric, "Success with the clock running", stacked=True, name="clock")


def _steps(run: Campaign) -> Html:
    caption = (
        "Control steps by what they executed: an action of the newest answer (fresh), one of an older chunk while a "
        "round was under way (stale), or of none: the arm holds still or repeats its last action (held)."
    )
    return figures.shown(run, "clock-steps", caption)


def _rates(run: Campaign) -> Html:
    rows = []
    for arm, summary in run.running.items():
        clock, shares = summary["clock"], summary["clock"]["shares"]
        late = behind(run, arm, f"{clock['rounds_too_late']}/{clock['rounds']}")
        rows.append(
            {
                "arm": arm_name(arm, summary),
                "fresh": _number(clock["fresh_hz"]),
                "rounds": _number(clock["rounds_per_s"]),
                **{kind: cells.share(shares[kind]["share"], shares[kind]["interval"]) for kind in ("stale", "held")},
                "dropped": f"{clock['stale_dropped_mean']:.1f}",
                "late": late,
            }
        )
    heads = {"arm": "Arm", "fresh": "Fresh actions /s", "rounds": "Rounds /s", "stale": "Stale [95 %]"}
    heads |= {"held": "Held [95 %]", "dropped": "Dropped a round", "late": "Rounds all too late"}
    return page.table(
        rows, heads, tuple(heads)[1:], "Control rate, seconds by the clock", stacked=True, name="clock-rates"
    )


def _number(value: float | None) -> str:
    return DASH if value is None else three_digits(value)
