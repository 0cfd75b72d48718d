"""Figures: one function each, from frames and summaries to a matplotlib figure a phone can show.

Every figure names its units, its n and its interval; none has a title, the caption beside it says what it shows and
nothing more. Colours are mostly Okabe and Ito's, distinguishable for colour-blind readers (tested), and always doubled
by a label or a shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
import scipy
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from flashtrail.report.palette import BLUE, DEEP, GREEN, GREY, INK, NAVY, ORANGE, PALE, PURPLE
from flashtrail.statistics import intervals
from flashtrail.statistics.intervals import Interval
from flashtrail.statistics.wording import NBSP, quantile, three_digits

WIDTH = 4.7  # inches: about 450 px, so that 9 pt text stays readable on a phone
ROUTE_COLOURS = {"full": BLUE, "draft": ORANGE}
ROUTE_MARKS = {"full": "s", "draft": "o"}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a name with a dollar sign is a name
    "svg.hashsalt": "flashtrail",
}
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


def _axes(height: float, layout: Any = "constrained") -> tuple[Figure, Axes]:
    plt.rcParams.update(_STYLE)
    return plt.subplots(figsize=(WIDTH, height), layout=layout)


def percent_axis(axis: Axis) -> None:
    """Label an axis of shares in per cent."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def rows_axis(axes: Axes, bottom: float, top: float) -> None:
    """Make the vertical axis one of rows from the top down, which carry their names themselves."""
    axes.set_ylim(bottom, top)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def interval_line(axes: Axes, interval: Interval | Mapping[str, float] | None, y: float, left: float = 0.0) -> None:
    """Draw an interval, if there is one, over a row's bar, which begins at `left`."""
    if interval:
        ends = interval if isinstance(interval, Interval) else Interval(interval["low"], interval["high"])
        axes.plot([left + ends.low, left + ends.high], [y, y], color=INK, lw=1.3, solid_capstyle="butt")


def _row_names(axes: Axes, y: float, left: str, right: str, ink: str = GREY) -> None:
    """Write a row's name above its bar on the left, what it counts on the right."""
    at = axes.get_yaxis_transform()
    axes.text(0, y, left, fontsize=8.5, va="center", fontweight="bold", transform=at)
    axes.text(1, y, right, fontsize=8, va="center", ha="right", color=ink, transform=at)


def _segment(axes: Axes, y: float, left: float, width: float, height: float, colour: str, hatch: str) -> Any:
    """Draw one part of a stacked bar; return its artist, for the legend."""
    look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0.5}
    return axes.barh(y, width, height, left=left, **look)


def arm_colour(summary: Mapping[str, Any], usual_policy: str) -> str:
    """Blue without a fault, vermillion with one, green with a guard, purple for a policy of another training."""
    if summary.get("guard"):
        return GREEN
    if summary["condition"]["rounds_hit"]:
        return ORANGE if summary["policy"] == usual_policy else PURPLE
    return BLUE


# --- success ---


def success(summaries: Mapping[str, Mapping[str, Any]], usual_policy: str) -> Figure:
    """Success of every arm, over all tasks and per task: rate, Wilson's 95 % interval, k/n."""
    lines: list[tuple[str, Mapping[str, Any], Mapping[str, Any], bool]] = []
    for summary in summaries.values():
        lines.append(("all tasks", summary["success"], summary, True))
        if len(summary["tasks"]) > 1:
            lines += [(f"task {task['task_id']}", task, summary, False) for task in summary["tasks"]]
    heights: list[float] = []
    y = 0.0
    for _, _, _, total in lines:
        y += 1.75 if total and heights else 1.0 if total else 0.8
        heights.append(y)
    figure, axes = _axes(0.165 * (y + 2.2) + 0.45, layout=None)
    # Names stand left of the axes and counts right of it: fixed margins, which no layout engine would leave.
    inches = figure.get_figheight()
    figure.subplots_adjust(left=0.235, right=0.89, top=1 - 0.02 / inches, bottom=0.45 / inches)
    for (label, rate, summary, total), y in zip(lines, heights, strict=True):
        if rate["rate"] is None:
            continue
        colour = arm_colour(summary, usual_policy)
        low, high = rate["wilson"]["low"], rate["wilson"]["high"]
        axes.plot([low, high], [y, y], color=colour, lw=2.0 if total else 0.9, solid_capstyle="butt", zorder=2)
        size, face, ink = (6, colour, INK) if total else (4, "white", GREY)
        axes.plot(rate["rate"], y, "o", ms=size, mfc=face, mec=colour, zorder=3, clip_on=False)
        axes.text(1.04, y, f"{rate['k']}/{rate['n']}", va="center", fontsize=9 if total else 8, color=ink)
        axes.text(-0.03, y, label, va="center", ha="right", fontsize=8.5 if total else 8, color=ink)
        if total:
            axes.text(-0.345, y - 0.92, summary["arm"], va="center", ha="left", fontsize=8.5, fontweight="bold")
    rows_axis(axes, y + 0.8, heights[0] - 1.7)
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 5))
    percent_axis(axes.xaxis)
    axes.grid(axis="x", color=PALE, lw=0.6, zorder=0)
    axes.set_xlabel("success (bars: Wilson 95 % interval; right: k/n)")
    return figure


# --- routes ---


def route_mix(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Share of rounds by route, full rounds by their cause; whisker: 95 % interval of the draft share."""
    figure, axes = _axes(0.50 * len(summaries) + 1.15)
    used: dict[str, Any] = {}
    for row, summary in enumerate(summaries.values()):
        routes = summary["routes"]
        n = max(routes["n"], 1)
        left = routes["draft"] / n
        used.setdefault("draft", axes.barh(row, left, 0.52, color=ORANGE))
        for cause, (label, colour, hatch) in _CAUSES.items():
            width = routes["fallback_causes"].get(cause, 0) / n
            if width:
                bar = _segment(axes, row, left, width, 0.52, colour, hatch)
                used.setdefault(f"full: {label}", bar)
                left += width
        interval_line(axes, routes.get("draft_share_interval"), row)
        _row_names(axes, row - 0.40, summary["arm"], f"n = {routes['n']} rounds")
    rows_axis(axes, len(summaries) - 0.5, -0.7)
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis)
    axes.set_xlabel("share of rounds (line: 95 % interval of the draft share)")
    figure.legend(used.values(), used.keys(), loc="outside upper left", ncols=3, columnspacing=1.2, handlelength=1.2)
    return figure


def accepted_prefix(summary: Mapping[str, Any], control: Mapping[str, Any] | None = None) -> Figure:
    """Accepted prefix of draft rounds; `control` (a histogram of full against full) stands beside it."""
    parts = [("draft against full", summary["accepted_prefix"]["histogram"], ORANGE, "")]
    if control:
        parts.append(("control: full against full", control["histogram"], GREY, "///"))
    figure, axes = _axes(2.6)
    width = 0.82 / len(parts)
    for index, (label, histogram, colour, hatch) in enumerate(parts):
        n = max(sum(histogram), 1)
        shares = np.array(histogram) / n
        ends = np.array([[end.low, end.high] for k in histogram if (end := intervals.rate(k, n).wilson)]).T
        x = np.arange(len(histogram)) + (index - (len(parts) - 1) / 2) * width
        axes.bar(x, shares, width, color=colour, hatch=hatch, edgecolor="white", lw=0.5)
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
    figure.legend(loc="outside upper left", handlelength=1.0)
    return figure


# --- latency ---


def latency_box(rounds: pd.DataFrame) -> Figure:
    """Latency per route: box of quartiles, whiskers 5-95 %, every round a dot, median with its interval."""
    routes = [route for route in ("draft", "full") if (rounds["route"] == route).any()]
    figure, axes = _axes(0.72 * len(routes) + 0.75)
    generator = np.random.default_rng(0)
    for row, route in enumerate(routes):
        values = rounds.loc[rounds["route"] == route, "policy_ms"].to_numpy(float)
        look = {"color": ROUTE_COLOURS[route]}
        shown = values if len(values) <= 400 else generator.choice(values, 400, replace=False)
        jitter = row + generator.uniform(-0.16, 0.16, len(shown))
        axes.plot(shown, jitter, ".", ms=2.5, color=ROUTE_COLOURS[route], alpha=0.35, rasterized=False)
        axes.boxplot(
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
        _row_names(axes, row - 0.40, f" {route}", _median_words(values), INK)
    rows_axis(axes, len(routes) - 0.6, -0.65)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"policy time per round (ms; box: quartiles, whiskers: 5{NBSP}to{NBSP}95 %)")
    return figure


def _median_words(values: np.ndarray) -> str:
    return f"median {quantile(intervals.quantile(values, 0.5))} ms, n = {len(values)}"


def latency_cdf(rounds: pd.DataFrame) -> Figure:
    """Cumulative latency per route with a 95 % band (scipy's ecdf)."""
    figure, axes = _axes(2.6)
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
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def stages(profile: pd.DataFrame) -> Figure:
    """Median time of each stage, stacked, per route."""
    routes = [route for route in ("draft", "full") if (profile["route"] == route).any()]
    figure, axes = _axes(0.62 * len(routes) + 1.15)
    used: dict[str, Any] = {}
    for row, route in enumerate(routes):
        part, left = profile[profile["route"] == route], 0.0
        for column, (label, colour, hatch) in STAGES.items():
            width = part[column].median()
            if not np.isfinite(width):
                continue
            used.setdefault(label, _segment(axes, row, left, width, 0.42, colour, hatch))
            ends = intervals.quantile(part[column].dropna().to_numpy(float), 0.5).interval
            interval_line(axes, ends, row + 0.14, left)
            left += width
        axes.text(0, row - 0.36, f"{route} (n = {len(part)}, sum {three_digits(left)} ms)", fontsize=8.5, va="center")
    rows_axis(axes, len(routes) - 0.55, -0.6)
    axes.set_xlabel("median per round (ms; lines: 95 % interval of each median)")
    figure.legend(used.values(), used.keys(), loc="outside upper left", ncols=5, columnspacing=1.0, handlelength=1.0)
    return figure


# --- guard and failures ---


def guard(rounds: pd.DataFrame, std_min: float | None = None) -> Figure:
    """Standard deviation of the wrist image over an episode's rounds, and how the guard classified it."""
    watched = rounds[rounds["healthy"].notna()]
    healthy = watched["healthy"].astype(bool)
    replaced = watched["replaced"].fillna(False).astype(bool)
    masked = watched["masked"].fillna(False).astype(bool)
    groups: Sequence[tuple[str, pd.Series, str, str]] = (
        ("healthy: passed, cached", healthy, BLUE, "."),
        ("unhealthy: replaced (hit)", ~healthy & replaced, GREEN, "^"),
        ("unhealthy: declared missing", masked, PURPLE, "v"),
        ("unhealthy: nothing cached (miss)", ~healthy & ~replaced & ~masked, ORANGE, "x"),
    )
    figure, axes = _axes(2.9)
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
    figure.legend(loc="outside upper left", handlelength=1.0)
    return figure


def failures(table: pd.DataFrame) -> Figure:
    """Episodes by how they ended; `table` has arm, n and one column per kind (see endings.taxonomy)."""
    figure, axes = _axes(0.46 * len(table) + 1.0)
    for row, entry in enumerate(table.itertuples()):
        left = 0
        for kind, (_, colour, hatch) in ENDS.items():
            count = int(getattr(entry, kind))
            if count:
                _segment(axes, row, left / entry.n, count / entry.n, 0.5, colour, hatch)
                _inside(axes, (left + count / 2) / entry.n, row, str(count), kind)
                left += count
        won = intervals.rate(int(entry.success), int(entry.n)).wilson
        interval_line(axes, won, row + 0.19)
        _row_names(axes, row - 0.40, str(entry.arm), f"n = {entry.n}")
    rows_axis(axes, len(table) - 0.5, -0.7)
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis)
    axes.set_xlabel("share of episodes (line: Wilson 95 % of success)")
    shown = [look for kind, look in ENDS.items() if kind != "untold" or table[kind].any()]
    handles = [plt.Rectangle((0, 0), 1, 1, fc=c, hatch=h, ec="white", label=name) for name, c, h in shown]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, handlelength=1.2)
    return figure


Points = Sequence[tuple[float, Mapping[str, Any]]]


def success_lines(
    lines: Mapping[str, Points], looks: Sequence[tuple[str, str]], apart: float = 0.0
) -> tuple[Figure, Axes]:
    """Draw success over x: for each label its points (x, k/n), with Wilson's intervals, in colours and marks `looks`.

    Lines stand `apart` from each other, in units of x, so that those that coincide stay visible. An upper bound is
    dashed.
    """
    drawing, axes = _axes(3.0)
    for index, (label, points) in enumerate(lines.items()):
        shift = (index - (len(lines) - 1) / 2) * apart
        known = sorted(((x + shift, r) for x, r in points if r["rate"] is not None), key=lambda point: point[0])
        colour, mark = looks[index % len(looks)]
        for x, rate in known:
            axes.plot([x, x], [rate["wilson"]["low"], rate["wilson"]["high"]], color=colour, lw=1.4)
        xs, ys = [x for x, _ in known], [rate["rate"] for _, rate in known]
        style = f"{mark}{'--' if 'upper bound' in label else '-'}"
        text = f"{label}, {counts([rate for _, rate in points])}"
        axes.plot(xs, ys, style, color=colour, ms=5, lw=0.8, label=text, clip_on=False)
    axes.set_ylim(0, 1)
    percent_axis(axes.yaxis)
    axes.grid(axis="y", color=PALE, lw=0.6)
    axes.set_ylabel("success (bars: Wilson 95 %)")
    drawing.legend(loc="outside upper left", ncols=2, handlelength=1.8)
    return drawing, axes


def counts(rates: Sequence[Mapping[str, Any]]) -> str:
    """Return how many episodes a line's points have: ``n = 15 each``, ``n = 9 to 15``."""
    sizes = sorted({rate["n"] for rate in rates})
    return f"n = {sizes[0]} each" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}"


def _inside(axes: Axes, x: float, y: float, text: str, kind: str) -> None:
    colour = {"success": INK, "perturbation": DEEP}.get(kind, "white")
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color=colour)


# --- signal ---


def auroc(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """AUROC of each row of `words`, `value`, `interval` and counts, with its interval; chance is the dashed line."""
    shown = [row for row in rows if row["value"] is not None]
    figure, axes = _axes(0.42 * len(shown) + 0.75)
    for y, row in enumerate(shown):
        colour = {"above": ORANGE, "below": BLUE}.get(row["says"], GREY)
        if row["interval"]:
            axes.plot([row["interval"]["low"], row["interval"]["high"]], [y, y], color=colour, lw=2, zorder=2)
        axes.plot(row["value"], y, "o", ms=6, mfc=colour, mec=colour, zorder=3, clip_on=False)
        counts = f"{row['positive']}/{row['rows']}"
        axes.text(1.03, y, counts, va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.axvline(0.5, color=INK, lw=0.9, ls="--", zorder=1)
    axes.set_yticks(range(len(shown)), [row["words"] for row in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("AUROC (0.5: chance; bars: 95 % over episodes)")
    axes.grid(axis="x", color=PALE, lw=0.6, zorder=0)
    axes.tick_params(axis="y", length=0)
    return figure
