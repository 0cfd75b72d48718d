"""Figures of a run: one function each, from frames and summaries to a matplotlib figure (`figures` has the list).

Every figure names its units, its n and its interval; none has a title, the caption beside it says what it shows and
nothing more. Colours are mostly Okabe and Ito's, distinguishable for colour-blind readers (tested), and always doubled
by a label or a shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory

from flashtrail.report import arm_words, palette
from flashtrail.report.drawing import told
from flashtrail.report.palette import BLUE, DEEP, GREEN, GREY, INK, NAVY, ORANGE, PALE, PURPLE
from flashtrail.report.plotting import (
    arm_names,
    axes_of,
    interval_line,
    legend,
    percent_axis,
    row_names,
    rows_axis,
    segment,
    shrink,
)
from flashtrail.statistics import intervals
from flashtrail.statistics.intervals import Interval
from flashtrail.statistics.wording import NBSP, percent, percent_range, quantile, three_digits
from flashtrail.tables import endings

ROUTE_COLOURS = {"full": BLUE, "draft": ORANGE}
ROUTE_MARKS = {"full": "s", "draft": "o"}
_CAUSES = {
    "first": ("first round", NAVY, ""),
    "forced": ("forced", BLUE, ""),
    "periodic": ("periodic", GREY, ""),
    "zero_accept": ("draft rejected", PURPLE, "///"),
    "gripper": ("gripper event", GREEN, "\\\\\\"),
}
STAGES = {
    "encoder_ms": ("vision", GREY, ""),
    "prefill_ms": ("prefill", BLUE, ""),
    "denoise_ms": ("denoise", NAVY, ""),
    "draft_ms": ("draft", ORANGE, "///"),
    "verify_ms": ("verify", PURPLE, "\\\\\\"),
}
ENDS = {
    "success": ("success", PALE, ""),
    "horizon": ("horizon, no fault", BLUE, ""),
    "perturbation": ("horizon under a fault", ORANGE, ""),
    "untold": ("horizon, fault not recorded", NAVY, "..."),
    "infrastructure": ("infrastructure", INK, ""),
}


# --- success ---


def success(
    summaries: Mapping[str, Mapping[str, Any]],
    usual_policies: Mapping[str, str],
    failed: Mapping[tuple[str, int | None], str],
) -> Figure:
    """Success of every arm, over all tasks and per task: rate, Wilson's 95 % interval, k/n.

    `failed`: which episodes of an arm and task failed, in words for those who point at a mark; usual policies by suite.
    """
    lines: list[tuple[int | None, Mapping[str, Any], Mapping[str, Any]]] = []
    for summary in summaries.values():
        lines.append((None, summary["success"], summary))
        if len(summary["tasks"]) > 1:
            lines += [(task["task_id"], task, summary) for task in summary["tasks"]]
    heights: list[float] = []
    y = 0.0
    for task, _, _ in lines:
        y += 0.8 if task is not None else 2.4 if heights else 1.0
        heights.append(y)
    figure, axes = axes_of(0.165 * (y + 3.05) + 0.45, layout=None)
    # Names stand left of the axes and counts right of it: fixed margins, which no layout engine would leave.
    wide, high = figure.get_size_inches()
    figure.subplots_adjust(left=0.75 / wide, right=1 - 0.72 / wide, top=1 - 0.02 / high, bottom=0.45 / high)
    edge, beside = blended_transform_factory(figure.transFigure, axes.transData), 1 + 0.12 / (wide - 0.75 - 0.72)
    for (task, rate, summary), y in zip(lines, heights, strict=True):
        if rate["rate"] is None:
            continue
        total, label = task is None, "all tasks" if task is None else f"task {task}"
        colour = palette.of_role(arm_words.role(summary, usual_policies[summary["suite"]]))
        low, high = rate["wilson"]["low"], rate["wilson"]["high"]
        (line,) = axes.plot([low, high], [y, y], color=colour, lw=2.0 if total else 0.9, zorder=2)
        size, face, ink = (6, colour, INK) if total else (4, "white", GREY)
        (dot,) = axes.plot(rate["rate"], y, "o", ms=size, mfc=face, mec=colour, zorder=3, clip_on=False)
        words = f"{summary['arm']}, {label}: {_counted(rate['k'], rate['n'])}{failed.get((summary['arm'], task), '')}"
        for artist in (line, dot):
            told(artist, words)
        axes.text(beside, y, f"{rate['k']}/{rate['n']}", va="center", fontsize=9 if total else 8, color=ink)
        axes.text(-0.03, y, label, va="center", ha="right", fontsize=8.5 if total else 8, color=ink)
        if total:
            name = arm_words.short(summary, usual_policies[summary["suite"]])
            text = axes.text(0.01, y - 1.62, name, va="center", fontsize=8.5, fontweight="bold", transform=edge)
            shrink(text)
            axes.text(0.01, y - 0.85, summary["arm"], va="center", fontsize=7.5, color=GREY, transform=edge)
    rows_axis(axes, y + 0.8, heights[0] - 2.45)
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 5))
    percent_axis(axes.xaxis)
    axes.grid(axis="x", color=PALE, lw=0.6, zorder=0)
    axes.set_xlabel("success (bars: Wilson 95 % interval; right: k/n)")
    return figure


_CRITERIA = {  # mark, colour; a filled one is the project's own
    "naive_success": ("s", GREY),
    "printed_success": ("^", ORANGE),
    "verified_success": ("o", BLUE),
}


def criteria(
    counts: Mapping[str, Mapping[str, tuple[int, int]]], words: Mapping[str, str], names: Mapping[str, str]
) -> Figure:
    """What three criteria say of the same episodes, by arm: rate, Wilson's 95 % interval.

    `counts`: k and n by arm and criterion; `words`: what an arm is; `names`: what a criterion is called.
    """
    figure, axes = axes_of(0.62 * len(counts) + 0.6)
    for row, (arm, of_arm) in enumerate(counts.items()):
        for place, (criterion, (mark, colour)) in enumerate(_CRITERIA.items()):
            k, n = of_arm[criterion]
            if (between := intervals.rate(k, n).wilson) is None:
                continue
            y, own = row + 0.13 * place - 0.12, criterion == "verified_success"
            (line,) = axes.plot([between.low, between.high], [y, y], color=colour, lw=1.2, zorder=2)
            face, label = colour if own else "white", names[criterion] if row == 0 else None
            (dot,) = axes.plot(k / n, y, mark, ms=4.5, mfc=face, mec=colour, zorder=3, clip_on=False, label=label)
            for artist in (line, dot):
                told(artist, f"{arm}, {names[criterion].lower()}: {_counted(k, n)}")
        arm_names(axes, row - 0.2, words[arm], arm, f"n = {of_arm['verified_success'][1]}")
    rows_axis(axes, len(counts) - 0.7, -0.75)
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis)
    axes.grid(axis="x", color=PALE, lw=0.6, zorder=0)
    axes.set_xlabel("episodes that each criterion calls a success (bars: Wilson 95 %)")
    legend(figure, 3)
    return figure


def _counted(k: int, n: int) -> str:
    """``7/9 = 78 % [Wilson 95 %: 45-94 %]``."""
    between = intervals.rate(k, n).wilson
    return f"{k}/{n}" + (f" = {percent(k / n)} [Wilson 95 %: {percent_range(between)}]" if between else "")


# --- routes ---


def route_mix(summaries: Mapping[str, Mapping[str, Any]], usual_policies: Mapping[str, str]) -> Figure:
    """Share of rounds by route, full rounds by their cause; whisker: 95 % interval of the draft share."""
    figure, axes = axes_of(0.56 * len(summaries) + 1.1)
    used: dict[str, Any] = {}
    for row, summary in enumerate(summaries.values()):
        routes = summary["routes"]
        n = max(routes["n"], 1)
        left = routes["draft"] / n
        bar = segment(axes, row, 0.0, left, 0.4, ORANGE, "")
        used.setdefault("draft", bar)
        told(bar[0], f"{summary['arm']}, draft: {_share(routes['draft'], routes)}")
        for cause, (label, colour, hatch) in _CAUSES.items():
            count = routes["fallback_causes"].get(cause, 0)
            if count:
                bar = segment(axes, row, left, count / n, 0.4, colour, hatch)
                used.setdefault(f"full: {label}", bar)
                told(bar[0], f"{summary['arm']}, full: {label}: {count}/{n} rounds = {percent(count / n)}")
                left += count / n
        interval_line(axes, routes.get("draft_share_interval"), row)
        name = arm_words.short(summary, usual_policies[summary["suite"]])
        arm_names(axes, row - 0.2, name, summary["arm"], f"n = {routes['n']} rounds")
    rows_axis(axes, len(summaries) - 0.55, -0.85)
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis)
    axes.set_xlabel("share of rounds (line: 95 % interval of the draft share)")
    legend(figure, 3, used, handlelength=1.2)
    return figure


def _share(draft: int, routes: Mapping[str, Any]) -> str:
    between = routes.get("draft_share_interval")
    resampled = f" [{percent_range(Interval(between['low'], between['high']))}, episodes resampled]" if between else ""
    return f"{draft}/{routes['n']} rounds = {percent(draft / max(routes['n'], 1))}{resampled}"


def accepted_prefix(summary: Mapping[str, Any], control: Mapping[str, Any] | None = None) -> Figure:
    """Accepted prefix of draft rounds; `control` (a histogram of full against full) stands beside it."""
    parts = [("draft against full", summary["accepted_prefix"]["histogram"], ORANGE, "")]
    if control:
        parts.append(("control: full against full", control["histogram"], GREY, "///"))
    figure, axes = axes_of(2.6)
    width = 0.82 / len(parts)
    for index, (label, histogram, colour, hatch) in enumerate(parts):
        n = max(sum(histogram), 1)
        shares = np.array(histogram) / n
        ends = np.array([[end.low, end.high] for k in histogram if (end := intervals.rate(k, n).wilson)]).T
        x = np.arange(len(histogram)) + (index - (len(parts) - 1) / 2) * width
        bars = axes.bar(x, shares, width, color=colour, hatch=hatch, edgecolor="white", lw=0.5)
        for accepted, (bar, k) in enumerate(zip(bars, histogram, strict=True)):
            told(bar, f"{label}, {accepted} accepted: {_counted(k, n)}")
        whiskers = np.clip([shares - ends[0], ends[1] - shares], 0, 1)
        axes.errorbar(x, shares, whiskers, fmt="none", ecolor=INK, elinewidth=0.9)
        mean = float(np.dot(histogram, np.arange(len(histogram))) / n)
        axes.plot(
            [], [], "s", color=colour, label=f"{label}: mean {mean:.1f} of {len(histogram) - 1}, n = {sum(histogram)}"
        )
    most = max(len(histogram) for _, histogram, *_ in parts) - 1
    axes.set_xticks(range(0, most + 1, max(1, round(most / 6))))
    axes.set_xlim(-0.7, most + 0.7)
    percent_axis(axes.yaxis)
    axes.set_ylabel("share of draft rounds")
    axes.set_xlabel("accepted prefix (actions; whiskers: Wilson 95 %)")
    legend(figure, 1, handlelength=1.0)
    return figure


# --- latency ---


def latency_box(rounds: pd.DataFrame) -> Figure:
    """Latency per route: box of quartiles, whiskers 5-95 %, every round a dot, median with its interval."""
    routes = [route for route in ("draft", "full") if (rounds["route"] == route).any()]
    figure, axes = axes_of(0.72 * len(routes) + 0.75)
    generator = np.random.default_rng(0)
    for row, route in enumerate(routes):
        values = rounds.loc[rounds["route"] == route, "policy_ms"].to_numpy(float)
        look = {"color": ROUTE_COLOURS[route]}
        shown = values if len(values) <= 400 else generator.choice(values, 400, replace=False)
        jitter = row + generator.uniform(-0.16, 0.16, len(shown))
        axes.plot(shown, jitter, ".", ms=2.5, color=ROUTE_COLOURS[route], alpha=0.35, rasterized=False)
        drawn = axes.boxplot(
            values,
            positions=[row],
            orientation="horizontal",
            whis=(5, 95),
            widths=0.42,
            showfliers=False,
            medianprops={"color": INK, "lw": 1.6},
            boxprops=look,
            whiskerprops=look,
            capprops=look,
        )
        quartiles = " to ".join(three_digits(q) for q in np.quantile(values, (0.25, 0.75)))
        told(drawn["boxes"][0], f"{route}: {_median_words(values)}; quartiles {quartiles} ms")
        row_names(axes, row - 0.40, f" {route}", _median_words(values), INK)
    rows_axis(axes, len(routes) - 0.6, -0.65)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"policy time per round (ms; box: quartiles, whiskers: 5{NBSP}to{NBSP}95 %)")
    return figure


def _median_words(values: np.ndarray) -> str:
    return f"median {quantile(intervals.quantile(values, 0.5))} ms, n = {len(values)}"


def latency_cdf(rounds: pd.DataFrame) -> Figure:
    """Cumulative latency per route with a 95 % band (scipy's ecdf)."""
    figure, axes = axes_of(2.6)
    for route, style in (("draft", "-"), ("full", "--")):
        values = rounds.loc[rounds["route"] == route, "policy_ms"].dropna().to_numpy(float)
        if len(values) < 2:
            continue
        curve = scipy.stats.ecdf(values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the band has no width at the last observation
            band = curve.cdf.confidence_interval(0.95)
        x = curve.cdf.quantiles
        axes.step(x, curve.cdf.probabilities, style, where="post", color=ROUTE_COLOURS[route], lw=1.6)
        low, high = np.nan_to_num(band.low.probabilities), np.nan_to_num(band.high.probabilities, nan=1.0)
        axes.fill_between(x, low, high, step="post", color=ROUTE_COLOURS[route], alpha=0.18, lw=0)
        axes.plot([], [], style, color=ROUTE_COLOURS[route], label=f"{route} (n = {len(values)})")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    percent_axis(axes.yaxis)
    axes.grid(color=PALE, lw=0.6)
    axes.set_ylabel("rounds at most this long")
    axes.set_xlabel("policy time per round (ms; band: 95 %)")
    legend(figure, 2)
    return figure


def stages(profile: pd.DataFrame) -> Figure:
    """Median time of each stage, stacked, per route."""
    routes = [route for route in ("draft", "full") if (profile["route"] == route).any()]
    figure, axes = axes_of(0.62 * len(routes) + 1.15)
    used: dict[str, Any] = {}
    for row, route in enumerate(routes):
        part, left = profile[profile["route"] == route], 0.0
        for column, (label, colour, hatch) in STAGES.items():
            width = part[column].median()
            if not np.isfinite(width):
                continue
            bar, of_stage = segment(axes, row, left, width, 0.42, colour, hatch), part[column].dropna().to_numpy(float)
            used.setdefault(label, bar)
            told(bar[0], f"{route}, {label}: {_median_words(of_stage)}")
            ends = intervals.quantile(of_stage, 0.5).interval
            interval_line(axes, ends, row + 0.14, left)
            left += width
        axes.text(0, row - 0.36, f"{route} (n = {len(part)}, sum {three_digits(left)} ms)", fontsize=8.5, va="center")
    rows_axis(axes, len(routes) - 0.55, -0.6)
    axes.set_xlabel("median per round (ms; lines: 95 % interval of each median)")
    legend(figure, 5, used, handlelength=1.0)
    return figure


# --- guard and failures ---


def guard(rounds: pd.DataFrame, std_min: float | None = None) -> Figure:
    """Standard deviation of the wrist image over an episode's rounds, and how the guard classified it."""
    watched = rounds[rounds["healthy"].notna()]
    healthy = watched["healthy"].astype(bool)
    replaced = watched["replaced"].eq(True)
    masked = watched["masked"].eq(True)
    groups: Sequence[tuple[str, pd.Series, str, str]] = (
        ("healthy: passed, cached", healthy, BLUE, "."),
        ("unhealthy: replaced (hit)", ~healthy & replaced, GREEN, "^"),
        ("unhealthy: declared missing", masked, PURPLE, "v"),
        ("unhealthy: nothing cached (miss)", ~healthy & ~replaced & ~masked, ORANGE, "x"),
    )
    figure, axes = axes_of(2.9)
    generator = np.random.default_rng(0)
    for label, chosen, colour, mark in groups:
        part = watched[chosen]
        if mark == "v" and not len(part):
            continue  # only one kind of guard does this
        x = part["round"] + generator.uniform(-0.25, 0.25, len(part))
        axes.plot(x, part["health_std"], mark, ms=4, alpha=0.6, color=colour, label=f"{label}, n = {len(part)}")
    if std_min is not None:
        axes.axhline(std_min, color=INK, lw=0.8, ls=":")
        at = axes.get_yaxis_transform()
        axes.text(1, std_min, f"threshold {std_min:g}", fontsize=8, ha="right", va="bottom", transform=at)
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    axes.set_ylim(-0.25, 150)
    axes.set_ylabel("standard deviation of\nwrist pixels (0\u2013255)")
    axes.set_xlabel("round of the episode")
    legend(figure, 1, handlelength=1.0)
    return figure


def failures(table: pd.DataFrame, names: Mapping[str, str], starts: Mapping[tuple[str, str], str]) -> Figure:
    """Episodes by how they ended; `table` has arm, n and one column per kind (see endings.taxonomy).

    `names`: arms in words; `starts`: which episodes of an arm ended in a kind, told to those who point at them.
    """
    figure, axes = axes_of(0.56 * len(table) + 0.95)
    for row, entry in enumerate(table.itertuples()):
        left = 0
        for kind, (_, colour, hatch) in ENDS.items():
            count = int(getattr(entry, kind))
            if count:
                bar = segment(axes, row, left / entry.n, count / entry.n, 0.4, colour, hatch)
                which = starts.get((str(entry.arm), kind), "")
                told(bar[0], f"{entry.arm}, {endings.KINDS[kind]}: {count}/{entry.n}. {which}")
                _inside(axes, (left + count / 2) / entry.n, row, str(count), kind)
                left += count
        won = intervals.rate(int(entry.success), int(entry.n)).wilson
        interval_line(axes, won, row + 0.15)
        arm_names(axes, row - 0.2, names.get(str(entry.arm), ""), str(entry.arm), f"n = {entry.n}")
    rows_axis(axes, len(table) - 0.55, -0.87)
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis)
    axes.set_xlabel("share of episodes (line: Wilson 95 % of success)")
    rare = {"horizon", "perturbation"} if table["untold"].any() else {"untold"}  # named where there is one
    shown = [look for kind, look in ENDS.items() if kind not in rare or table[kind].any()]
    legend(
        figure, 2, {name: Rectangle((0, 0), 1, 1, fc=c, hatch=h, ec="white") for name, c, h in shown}, handlelength=1.2
    )
    return figure


def _inside(axes: Axes, x: float, y: float, text: str, kind: str) -> None:
    colour = {"success": INK, "perturbation": DEEP}.get(kind, "white")
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color=colour)


# --- signal ---


def auroc(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """AUROC of each row of `words`, `value`, `interval` and counts, with its interval; chance is the dashed line."""
    shown = [row for row in rows if row["value"] is not None]
    figure, axes = axes_of(0.42 * len(shown) + 0.75)
    for y, row in enumerate(shown):
        colour = {"above": ORANGE, "below": BLUE}.get(row["says"], GREY)
        if row["interval"]:
            axes.plot([row["interval"]["low"], row["interval"]["high"]], [y, y], color=colour, lw=2, zorder=2)
        (dot,) = axes.plot(row["value"], y, "o", ms=6, mfc=colour, mec=colour, zorder=3, clip_on=False)
        counts = f"{row['positive']}/{row['rows']}"
        between = f" [{row['interval']['low']:.2f}, {row['interval']['high']:.2f}]" if row["interval"] else ""
        told(dot, f"{row['words']}: AUROC {row['value']:.2f}{between}, {counts} failed")
        axes.text(1.03, y, counts, va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.axvline(0.5, color=INK, lw=0.9, ls="--", zorder=1)
    axes.set_yticks(range(len(shown)), [row["words"] for row in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("AUROC (0.5: chance; bars: 95 % over episodes)")
    axes.grid(axis="x", color=PALE, lw=0.6, zorder=0)
    axes.tick_params(axis="y", length=0)
    return figure
