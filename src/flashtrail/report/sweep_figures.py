"""Figures of success over latency, core steps or severity, a line for each way of running."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashtrail.claims import summaries
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.running import KINDS_OF_STEP
from flashtrail.report import arm_words
from flashtrail.report.cells import share
from flashtrail.report.drawing import told
from flashtrail.report.palette import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE
from flashtrail.report.plotting import arm_names, axes_of, interval_line, legend, percent_axis, rows_axis, segment
from flashtrail.statistics import intervals

STEPS = {"fresh": (BLUE, ""), "stale": (PURPLE, "///"), "held": (PALE, "")}
CLOCKS = list(zip((BLUE, ORANGE, GREEN, PURPLE, GREY, INK), "os^vDX", strict=True))
GUARDS = list(zip((ORANGE, GREEN, BLUE, PURPLE, GREY), "so^vD", strict=True))

UPPER_BOUND = "oracle"  # the guard that no robot has
Points = Sequence[tuple[float, Mapping[str, Any]]]


def success_lines(
    lines: Mapping[str, Points], looks: Sequence[tuple[str, str]], apart: float = 0.0
) -> tuple[Figure, Axes]:
    """Draw success over x: for each label its points (x, k/n), with Wilson's intervals, in colours and marks `looks`.

    Lines stand `apart` from each other, in units of x, so that those that coincide stay visible. An upper bound is
    dashed.
    """
    drawing, axes = axes_of(3.0)
    for index, (label, points) in enumerate(lines.items()):
        shift = (index - (len(lines) - 1) / 2) * apart
        known = sorted(((x + shift, r) for x, r in points if r["rate"] is not None), key=lambda point: point[0])
        colour, mark = looks[index % len(looks)]
        for x, rate in known:
            ends = rate["wilson"]
            (line,) = axes.plot([x, x], [ends["low"], ends["high"]], color=colour, lw=1.4)
            told(line, f"{label}: {rate['k']}/{rate['n']} = {share(rate['rate'], ends)} (Wilson 95 %)")
        xs, ys = [x for x, _ in known], [rate["rate"] for _, rate in known]
        style = f"{mark}{'--' if 'upper bound' in label else '-'}"
        text = f"{label}, {counts([rate for _, rate in points])}"
        axes.plot(xs, ys, style, color=colour, ms=5, lw=0.8, label=text, clip_on=False)
    axes.set_ylim(0, 1)
    percent_axis(axes.yaxis)
    axes.grid(axis="y", color=PALE, lw=0.6)
    axes.set_ylabel("success (bars: Wilson 95 %)")
    legend(drawing, 2, handlelength=1.8)
    return drawing, axes


def counts(rates: Sequence[Mapping[str, Any]]) -> str:
    """Return how many episodes a line's points have: ``n = 15 each``, ``n = 9 to 15``."""
    sizes = sorted({rate["n"] for rate in rates})
    return f"n = {sizes[0]} each" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}"


def clock(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Success over the mean latency that the clock applied, one line per way of running."""
    lines: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    names = labels(summaries)
    for arm, summary in summaries.items():
        lines.setdefault(names[arm], []).append((summary["clock"]["mean_ms"], summary["success"]))
    slowest = max((ms for points in lines.values() for ms, _ in points), default=0.0)
    drawing, axes = success_lines(lines, CLOCKS, apart=0.012 * slowest)
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


def steps(summaries: Mapping[str, Mapping[str, Any]], usual_policies: Mapping[str, str]) -> Figure:
    """Shares of fresh, stale and held control steps, one bar per arm."""
    drawing, axes = axes_of(0.56 * len(summaries) + 0.95)
    for row, summary in enumerate(summaries.values()):
        left = 0.0
        for kind in KINDS_OF_STEP:
            found = summary["clock"]["shares"][kind]
            colour, hatch = STEPS[kind]
            bar = segment(axes, row, left, found["share"] or 0.0, 0.4, colour, hatch)
            told(bar[0], f"{summary['arm']}, {kind}: {share(found['share'], found['interval'])} (95 %)")
            bar.set_label(kind if row == 0 else None)
            left += found["share"] or 0.0
        interval_line(axes, summary["clock"]["shares"][KINDS_OF_STEP[0]]["interval"], row)
        name, count = (
            arm_words.short(summary, usual_policies[summary["suite"]]),
            f"n = {summary['clock']['steps']:,} steps",
        )
        arm_names(axes, row - 0.2, name, summary["arm"], count)
    rows_axis(axes, len(summaries) - 0.55, -0.87)
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis)
    axes.set_xlabel(f"share of control steps (line: 95 % of {KINDS_OF_STEP[0]})")
    legend(drawing, 3, handlelength=1.6)
    return drawing


# --- the compute dial ---

DIAL = {"epsilon": "stops when calm", "max_steps": "fixed number of steps"}


def dials(run: Campaign) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
    """Return success over core steps a round, of arms that differ by their dial alone; empty below three of them.

    Clean arms that otherwise ran alike (`summaries.setup`), of those that are most. An arm with all steps belongs to
    both lines.
    """
    taken = {arm: run.of_arm("rounds", arm)["steps_used"] for arm in run.summaries} if len(run.rounds) else {}
    turned = {arm: arm_words.recorded(run.summaries[arm], "settings") for arm in taken}
    alike: dict[str, list[str]] = {}
    for arm, steps in taken.items():
        summary, others = run.summaries[arm], {k: v for k, v in turned[arm].items() if k not in DIAL}
        one_dial = len(turned[arm]) - len(others) < 2
        if len(steps) and steps.notna().all() and one_dial and not arm_words.fault(summary):
            setup = json.dumps([summaries.setup(summary, "settings"), others], sort_keys=True)
            alike.setdefault(setup, []).append(arm)
    arms = max(alike.values(), key=len, default=[])
    lines: dict[str, list[tuple[float, Mapping[str, Any]]]] = {label: [] for label in DIAL.values()}
    for arm in arms if len(arms) >= 3 else []:
        seen = run.judged(arm)["verified_success"].dropna()
        point = float(taken[arm].mean()), intervals.rate(int(seen.sum()), len(seen)).as_dict()
        for name in set(DIAL) & set(turned[arm]) or DIAL:
            lines[DIAL[name]].append(point)
    return {label: points for label, points in lines.items() if len(points) > 1}


def dial(run: Campaign) -> Figure:
    """Draw success over the mean number of core steps that a round took."""
    lines = dials(run)
    drawing, axes = success_lines(lines, CLOCKS, apart=0.08)
    axes.set_xlim(left=0)
    axes.set_xlabel("core steps of a round (mean over rounds)")
    return drawing


# --- grids ---


def grids(run: Campaign) -> list[str]:
    """Return the grids of which an arm was run."""
    return list(dict.fromkeys(cell["grid"] for arm, cell in run.grids.items() if arm in run.summaries))


def cells_of(run: Campaign, name: str) -> dict[str, dict[str, Any]]:
    """Return a grid's cells by arm, those that were run."""
    return {arm: cell for arm, cell in run.grids.items() if cell["grid"] == name and arm in run.summaries}


def guard_label(guard: str, kind: str | None = None) -> str:
    """Return how a guard is called in a grid; an oracle is always marked as what it is."""
    return f"{guard} (upper bound)" if UPPER_BOUND in (guard, kind) else "no guard" if guard == "none" else guard


def fault_label(cell: Mapping[str, Any]) -> str:
    """``zero, wrist view``."""
    return cell["fault"] if cell["view"] is None else f"{cell['fault']}, {cell['view']} view"


def grid(run: Campaign, name: str) -> Figure:
    """One line per guard over the severities, as k/n with Wilson's interval."""
    by_arm = cells_of(run, name)
    severities = list(dict.fromkeys(cell["severity"] for cell in by_arm.values()))
    lines: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for arm, cell in by_arm.items():
        label = guard_label(cell["guard"], cell.get("guard_kind"))
        lines.setdefault(label, []).append((severities.index(cell["severity"]), run.summaries[arm]["success"]))
    drawing, axes = success_lines(lines, GUARDS, apart=0.13)
    axes.set_xticks(range(len(severities)), [f"{value:g}" for value in severities])
    axes.set_xlim(-0.5, len(severities) - 0.5)
    axes.set_xlabel(f"severity: {next(iter(by_arm.values()))['parameter']}")
    return drawing
