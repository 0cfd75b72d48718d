"""Figures of the checkup: the difference from the published rate over the zones, and the first gripper closing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flashtrail.claims import checkup
from flashtrail.report.palette import BLUE, GREY, ORANGE, PALE, PURPLE
from flashtrail.report.plotting import axes_of, legend
from flashtrail.statistics.wording import MINUS

CONTROL_HZ = 20
# outcome: label, colour, hatching
LOOKS = {
    "verified": ("success, verified", BLUE, ""),
    "success": ("success", BLUE, ""),
    "unverified": ("success, not verified", PURPLE, "\\\\\\"),
    "horizon": ("time ran out", ORANGE, "///"),
}
_MOST_BINS = 30


def difference(record: Mapping[str, Any]) -> Figure:
    """Draw the interval of the difference, in points, over the zones."""
    low, high, middle = (
        100 * value for value in (record["interval"]["low"], record["interval"]["high"], record["difference"])
    )
    suspicious = (-100 * checkup.BROKEN, -100 * checkup.HEALTHY)
    drawing, axes = axes_of(1.15)
    axes.axvspan(*suspicious, color=PALE, lw=0)
    axes.plot([low, high], [0, 0], color=BLUE, lw=2.2, solid_capstyle="butt")
    axes.plot(middle, 0, "o", ms=6, color=BLUE)
    axes.set_xlim(min(low, -12) - 2, max(high, 8) + 2)
    axes.set_ylim(-1, 1)
    axes.text(suspicious[0] - 0.6, 0.75, "broken", ha="right", va="center", fontsize=8.5)
    axes.text(suspicious[1] + 0.6, 0.75, "healthy", ha="left", va="center", fontsize=8.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("-", MINUS)))
    n = record["success"]["n"]
    axes.set_xlabel(f"ours \u2212 published (points; bar: 95 % interval; n = {n})")
    return drawing


def outcomes(episodes: pd.DataFrame) -> pd.Series:
    """Return each episode's key of LOOKS."""
    won, verified = episodes["success"].astype(bool), episodes["verified_success"]
    kinds = pd.Series("horizon", index=episodes.index, dtype=object)
    kinds[won] = "success"
    kinds[won & verified.eq(True)] = "verified"
    kinds[won & verified.eq(False)] = "unverified"
    return kinds


def bin_width(last: float) -> int:
    """Return the smallest handy width, in steps, that gives at most 30 bins up to the step `last`."""
    return next(width for width in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if last / width < _MOST_BINS)


def closing(episodes: pd.DataFrame) -> Figure:
    """Draw the histogram: one block an episode, in bins of equal width, and a bar for those that never closed."""
    kind, step = outcomes(episodes), episodes["first_close_step"]
    width = bin_width(float(step.max()) if step.notna().any() else 0.0)
    bins = (step // width).astype("Float64")
    last = int(bins.max()) if step.notna().any() else 0
    never = last + 3  # two bins' room
    column_of = bins.fillna(never).to_numpy(int)
    shown = [name for name in LOOKS if (kind == name).any() or name in _always(kind)]
    drawing, axes = axes_of(2.9)
    height = np.zeros(never + 1, int)
    for name in shown:
        label, colour, hatch = LOOKS[name]
        look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0.6}
        for column in column_of[(kind == name).to_numpy()]:
            centre = (column + 0.5) * width
            axes.bar(centre, 1, width, bottom=height[column], **look)
            height[column] += 1
        axes.bar(0, 0, 0, label=f"{label}, n = {int((kind == name).sum())}", **look)
    axes.set_xlim(-0.5 * width, (never + 1.5) * width)
    axes.set_ylim(0, max(int(height.max()), 1) * 1.05)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ends = [
        tick for tick in MaxNLocator(5, integer=True).tick_values(0, (last + 1) * width) if tick <= (last + 1) * width
    ]
    centre = (never + 0.5) * width
    axes.set_xticks([*ends, centre], [*(f"{tick:g}" for tick in ends), "never"])
    if not height[never]:
        axes.text(centre, 0, "0", ha="center", va="bottom", fontsize=8.5, color=GREY)
    axes.set_ylabel("episodes")
    seconds = f"{CONTROL_HZ} steps = 1 s"
    axes.set_xlabel(f"step of the first gripper closing ({seconds}; bins of {width}; n = {len(episodes)})")
    legend(drawing, 2, handlelength=1.2)
    return drawing


def _always(kind: pd.Series) -> set[str]:
    """Return the outcomes that the legend shows even without an episode: their absence is information."""
    return {"horizon"} if (kind == "success").any() else {"horizon", "unverified", "verified"}
