"""Figures of a set of demonstrations: lengths of its episodes by task, and what each action dim is told to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashtrail.report.drawing import told
from flashtrail.report.palette import BLUE, GREY, INK, ORANGE
from flashtrail.report.plotting import arm_names, axes_of, rows_axis, shrink, width_in
from flashtrail.statistics.wording import percent, plural
from flashtrail.tables.measurements import written

LENGTH_BINS = 24
MOST_TASKS = 8  # rows of lengths; of more tasks all are in one
MOST_DIMS = 30  # drawn
_TALL = 0.42  # of a row: its highest bar


def lengths(about: Mapping[str, Any]) -> Figure:
    """Draw a histogram of the episodes' lengths in steps, a row a task; a line marks the median."""
    by_task: dict[str, list[int]] = {task: [] for task in about["tasks"]}
    for episode in about["each"]:
        by_task[episode["task"]].append(episode["steps"])
    steps = [episode["steps"] for episode in about["each"]]
    if len(by_task) > MOST_TASKS:
        by_task = {plural(len(by_task), "task"): steps}
    ends = np.histogram_bin_edges(steps, min(LENGTH_BINS, max(steps) - min(steps) + 1))
    counts = {task: np.histogram(own, ends)[0] for task, own in by_task.items()}
    most = max(int(count.max()) for count in counts.values())
    figure, axes = axes_of(0.62 * len(counts) + 0.55)
    for row, (task, count) in enumerate(counts.items()):
        for left, right, number in zip(ends, ends[1:], count, strict=False):
            if number:
                (bar,) = axes.bar(left, -_TALL * number / most, right - left, bottom=row, align="edge", color=BLUE)
                told(bar, f"{task}: {plural(int(number), 'episode')} of {left:.0f} to {right:.0f} steps")
        axes.axhline(row, color=GREY, lw=0.6)
        middle = float(np.median(by_task[task]))
        axes.plot([middle, middle], [row, row - 1.1 * _TALL], color=INK, lw=1.2)
        arm_names(axes, row - 1.1 * _TALL, task, f"n = {len(by_task[task])}", f"median {middle:g} steps")
    rows_axis(axes, len(counts) - 1 + 0.05, -1.05)
    axes.set_xlabel(f"steps of an episode (line: median; highest bar: {plural(most, 'episode')})")
    return figure


def actions(about: Mapping[str, Any]) -> Figure:
    """Draw a histogram of each action dim (the first MOST_DIMS) over all steps, from its smallest to its largest value.

    One that is at a bound in many steps has that bar in orange, and says so.
    """
    dims = about["action"][:MOST_DIMS]
    columns = min(len(dims), 2 if width_in() < 4 else 3)
    rows = -(-len(dims) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(width_in(), 1.05 * rows), squeeze=False, layout="constrained")
    for axes, dim in zip(grid.flat, dims, strict=False):
        _panel(axes, dim, width_in() / columns)
    for axes in grid.flat[len(dims) :]:
        axes.set_visible(False)
    return figure


def _panel(axes: Axes, dim: Mapping[str, Any], room: float) -> None:
    counts = dim["histogram"]
    full = {0: "min", len(counts) - 1: "max"}
    for place, count in enumerate(counts):
        colour = ORANGE if full.get(place) in dim["saturates"] else BLUE
        (bar,) = axes.bar(place, count, 1.0, align="edge", color=colour)
        told(bar, f"{dim['name']}, bar {place + 1} of {len(counts)}: {plural(count, 'step')}")
    axes.set_xlim(0, len(counts))
    axes.set_ylim(0, 1.05 * max(counts))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xticks([0, len(counts)], [written(dim["min"]), written(dim["max"])], fontsize=7.5)
    left, right = axes.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")
    axes.tick_params(axis="x", length=2, pad=2)
    name = axes.set_title(dim["name"], fontsize=8.5, fontweight="bold", loc="left", pad=13)
    shrink(name, room)
    at: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "baseline"}
    axes.annotate(noted(dim), (0, 1), (0, 3), fontsize=7, color=GREY, **at)


def noted(dim: Mapping[str, Any]) -> str:
    """Return what is odd about a dim: ``saturates: 11 % at max``, ``hardly moves``; empty where nothing is."""
    ends = ", ".join(f"{percent(dim[f'at_{end}'])} at {end}" for end in dim["saturates"])
    return f"saturates: {ends}" if ends else str(dim["note"])
