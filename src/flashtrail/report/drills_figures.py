"""Figures of the drills: which predicate detects which failure, how many episodes that takes, and the features.

Numbers stand in or beside every mark, so that no colour is needed to read one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flashtrail.drills.predicates import FEATURES, NAMES
from flashtrail.report.palette import BLUE, GREY, INK, NAVY, PALE
from flashtrail.report.plotting import axes_of, percent_axis, width_in

SHADES = LinearSegmentedColormap.from_list("shares", ["#ffffff", BLUE, NAVY])
# What a reader learns most from seeing, first; the rest of FEATURES is in the table of bounds.
DRAWN = ("picture_step", "longest_hold", "reach", "effort", "alternation", "travel")
_FULL_COUNTS = 4.2  # inches: what a figure needs for k/n in each cell
_DARK = 0.47  # from this share on, white stands out more from its shade than black; either by 4.5:1 at least


def confusion(matrix: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Share of each arm's episodes (rows) in which each predicate (columns) holds; k/n in every cell.

    Where that has no room, k; the n of a row then stands below its name.
    """
    sizes = [{rate["n"] for rate in rates.values() if rate["rate"] is not None} for rates in matrix.values()]
    narrow = width_in() < _FULL_COUNTS and all(len(found) <= 1 for found in sizes)
    drawing, axes = axes_of(0.3 * len(matrix) + 1.35)
    for row, (arm, rates) in enumerate(matrix.items()):
        for column, name in enumerate(NAMES):
            rate = rates[name]
            share = rate["rate"]
            face = "white" if share is None else SHADES(share)
            own = name == arm
            axes.add_patch(_cell(column, row, face, INK if own else PALE, 1.8 if own else 0.6, 3 if own else 2))
            count = f"{rate['k']}" if narrow else f"{rate['k']}/{rate['n']}"
            text = "\u2013" if share is None else count
            ink = "white" if share is not None and share >= _DARK else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=ink, zorder=4)
    axes.set_xlim(-0.55, len(NAMES) - 0.45)
    axes.set_ylim(len(matrix) - 0.45, -0.55)
    axes.set_xticks(range(len(NAMES)), NAMES, rotation=40, ha="left", fontsize=8)
    names = [f"{arm}\nn = {max(n, default=0)}" if narrow else arm for arm, n in zip(matrix, sizes, strict=True)]
    axes.set_yticks(range(len(matrix)), names, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawing


def _cell(column: int, row: int, face: Any, edge: str, width: float, order: int) -> Any:
    return Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, facecolor=face, edgecolor=edge, lw=width, zorder=order)


def power(powers: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """A small panel per arm: the share of runs that is diagnosed as it should be, over the number of episodes."""
    columns = max(1, int(width_in() / 1.5))
    rows = -(-len(powers) // columns)
    drawing, grid = plt.subplots(
        rows, columns, figsize=(width_in(), 1.25 * rows + 0.3), layout="constrained", sharex=True, sharey=True
    )
    panels = list(np.atleast_1d(grid).flat)
    for axes, (name, entries) in zip(panels, powers.items(), strict=False):
        xs = [entry["m"] for entry in entries]
        for entry in entries:
            ends = entry["named_interval"]
            if ends:
                axes.plot([entry["m"]] * 2, [ends["low"], ends["high"]], color=BLUE, lw=1.4)
        ys = [entry["named"] for entry in entries]
        axes.plot(xs, ys, "o-", color=BLUE, ms=3.5, lw=0.9, clip_on=False)
        axes.axhline(0.8, color=GREY, lw=0.7, ls="--")
        axes.set_title(name, fontsize=8, fontweight="bold", loc="left", pad=3)
        axes.set_ylim(0, 1.02)
        axes.set_xticks([1, 5, 9, 15])
        percent_axis(axes.yaxis)
        axes.tick_params(labelsize=7.5)
    for axes in panels[len(powers) :]:
        axes.set_visible(False)
    drawing.supxlabel("episodes in the run", fontsize=8.5)
    return drawing


def feature(name: str, episodes: Mapping[str, Sequence[Mapping[str, Any]]], bound: Mapping[str, Any] | None) -> Figure:
    """Every episode's value of one feature, a row an arm; shaded: between the clean bounds."""
    drawing, axes = axes_of(0.24 * len(episodes) + 0.75)
    generator = np.random.default_rng(0)
    if bound:
        axes.axvspan(bound["low"], bound["high"], color=PALE, lw=0, zorder=0)
        for value in (bound["low"], bound["high"]):
            axes.axvline(value, color=GREY, lw=0.8, zorder=1)
    for row, rows in enumerate(episodes.values()):
        values = [e["features"][name] for e in rows if e["features"][name] is not None]
        won = [bool(e["rewarded"]) for e in rows if e["features"][name] is not None]
        height = row + generator.uniform(-0.22, 0.22, len(values))
        for x, y, rewarded in zip(values, height, won, strict=True):
            face = BLUE if rewarded else "white"
            axes.plot(x, y, "o", ms=4, mfc=face, mec=BLUE, mew=0.9, zorder=3, clip_on=False)
        if not values:
            axes.text(0.5, row, "not logged", transform=axes.get_yaxis_transform(), fontsize=8, va="center")
    axes.set_yticks(range(len(episodes)), list(episodes), fontsize=8)
    axes.set_ylim(len(episodes) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(FEATURES[name], fontsize=8.5)
    return drawing
