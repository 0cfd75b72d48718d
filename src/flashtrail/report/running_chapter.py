"""Success against latency: the part of a report that shows the arms under a running clock, or says that none was run.

Its numbers are those of the summaries (`running.summary`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from flashtrail.claims.campaign import Campaign
from flashtrail.claims.running import KINDS_OF_STEP
from flashtrail.report import cells, figures, page
from flashtrail.report.cells import rate_of
from flashtrail.report.count_links import behind
from flashtrail.report.overview import arm_name
from flashtrail.report.page import Html
from flashtrail.statistics.wording import DASH, counted, three_digits
from flashtrail.tables.schemas import ROUTES

_LOOKS = {"fresh": (figures.BLUE, ""), "stale": (figures.PURPLE, "///"), "held": (figures.PALE, "")}
_COLOURS = (figures.BLUE, figures.ORANGE, figures.GREEN, figures.PURPLE, figures.GREY, figures.INK)
_LINES = list(zip(_COLOURS, "os^vDX", strict=True))


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
    return page.figure(success_figure(run.running), "Success by latency of a round", caption)


def success_figure(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Success over the mean latency that the clock applied, one line per way of running."""
    lines: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    names = labels(summaries)
    for arm, summary in summaries.items():
        lines.setdefault(names[arm], []).append((summary["clock"]["mean_ms"], summary["success"]))
    slowest = max((ms for points in lines.values() for ms, _ in points), default=0.0)
    drawing, axes = figures.success_lines(lines, _LINES, apart=0.012 * slowest)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.set_xlabel("latency of a round, ms (mean over rounds)")
    return drawing


def labels(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return each arm's label: its control frequency and the settings in which the arms differ."""
    settings = {arm: _ways(summary) for arm, summary in summaries.items()}
    shared = [
        len({ways[index] for ways in settings.values()}) == 1 for index in range(len(next(iter(settings.values()), ())))
    ]
    return {
        arm: ", ".join(word for index, word in enumerate(ways) if word and (index == 0 or not shared[index]))
        for arm, ways in settings.items()
    }


def _ways(summary: Mapping[str, Any]) -> tuple[str, ...]:
    clock, metadata = summary["clock"]["settings"], summary.get("metadata", {})
    named = [json.loads(metadata.get(what) or "{}") for what in ("condition", "guard")]
    return (
        f"{summary['clock']['hz']:g} Hz",
        str(summary["policy"]),
        "drafting" if summary["routes"]["draft"] else "every round full",
        f"while waiting: {clock.get('while_waiting', '')}",
        f"asking {clock.get('ask_ahead', 0)} ahead",
        *(str(spec.get("name") or spec.get("kind", "none")) for spec in named),
    )


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
    return page.table(rows, heads, numeric, "Success with the clock running", stacked=True)


def _steps(run: Campaign) -> Html:
    caption = (
        "Control steps by what they executed: an action of the newest answer (fresh), one of an older chunk while a "
        "round was under way (stale), or none (held)."
    )
    return page.figure(steps_figure(run.running), "Fresh, stale and held control steps by arm", caption)


def steps_figure(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Shares of fresh, stale and held control steps, one bar per arm."""
    drawing, axes = figures._axes(0.34 * len(summaries) + 0.95)
    for row, summary in enumerate(summaries.values()):
        left = 0.0
        for kind in KINDS_OF_STEP:
            share = summary["clock"]["shares"][kind]["share"] or 0.0
            colour, hatch = _LOOKS[kind]
            label = kind if row == 0 else None
            axes.barh(row, share, left=left, height=0.62, color=colour, hatch=hatch, edgecolor="white", label=label)
            left += share
        figures.interval_line(axes, summary["clock"]["shares"][KINDS_OF_STEP[0]]["interval"], row)
        axes.text(1.02, row, f"n = {summary['clock']['steps']:,}", va="center", fontsize=8)
    axes.set_yticks(range(len(summaries)), list(summaries))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    figures.percent_axis(axes.xaxis)
    axes.set_xlabel(f"share of control steps (line: 95 % of {KINDS_OF_STEP[0]})")
    drawing.legend(loc="outside upper left", ncols=3, handlelength=1.6)
    return drawing


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
    return page.table(rows, heads, tuple(heads)[1:], "Control rate, seconds by the clock", stacked=True)


def _number(value: float | None) -> str:
    return DASH if value is None else three_digits(value)
