"""Limits drawn: how far each episode left the box, and how much layers change of an action (safety_layer.py)."""

from __future__ import annotations

import re

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from flashtrail.claims.campaign import Campaign
from flashtrail.report import arm_words
from flashtrail.report.drawing import told
from flashtrail.report.palette import BLUE, ORANGE, PALE
from flashtrail.report.plotting import arm_names, axes_of, legend, percent_axis, rows_axis
from flashtrail.statistics.wording import MINUS
from flashtrail.tables.measurements import Measurement

NAME = "safety_layer"
_LINES = {
    "printed_random": ("as printed, random actions", ORANGE, "-"),
    "printed_expert": ("as printed, the expert\u2019s actions", ORANGE, "--"),
    "ours_random": ("ours, random actions", BLUE, "-"),
    "ours_expert": ("ours, the expert\u2019s actions", BLUE, "--"),
}


def arms(run: Campaign) -> list[str]:
    """Return the arms of which excursion or force was measured."""
    return [arm for arm in run.summaries if len(episodes(run, arm))]


def episodes(run: Campaign, arm: str) -> pd.DataFrame:
    """Return an arm's episodes of which excursion or force was measured."""
    judged = run.judged(arm)
    return judged[judged["worst_excursion_mm"].notna() | judged["peak_force_n"].notna()]


def boxed(run: Campaign) -> list[str]:
    """Return the arms of all of whose episodes the excursion was measured, where limits acted in one of them."""
    found = [arm for arm in arms(run) if episodes(run, arm)["worst_excursion_mm"].notna().all()]
    return found if any(episodes(run, arm)["limited_steps"].notna().any() for arm in found) else []


def excursions(run: Campaign) -> Figure:
    """Each episode's farthest corner out of the box, by arm; limited or measured alone."""
    found = boxed(run)
    figure, axes = axes_of(0.56 * len(found) + 0.7)
    named = set()
    for row, arm in enumerate(found):
        own, summary = episodes(run, arm), run.summaries[arm]
        acting = bool(own["limited_steps"].notna().all())
        label, colour = ("limits act", BLUE) if acting else ("measured, not limited", ORANGE)
        values = own["worst_excursion_mm"]
        words = None if label in named else label
        named.add(label)
        (dots,) = axes.plot(values, [row] * len(own), "|", ms=7, color=colour, alpha=0.6, label=words)
        told(dots, f"{arm}, mm outside: median {values.median():.1f}, worst {values.max():.1f}")
        name = arm_words.short(summary, run.usual_policy(summary))
        arm_names(axes, row - 0.2, name, arm, f"n = {len(own)}")
    axes.axvline(0, color=PALE, lw=1.0, zorder=0)
    rows_axis(axes, len(found) - 0.7, -0.75)
    axes.set_xscale("symlog", linthresh=10)
    axes.xaxis.set_major_locator(FixedLocator([-100, -10, 0, 10, 100, 1000]))
    axes.xaxis.set_major_formatter(lambda mm, _: f"{mm:,.0f}".replace("-", MINUS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("mm outside the box at an episode's worst moment")
    legend(figure, 2)
    return figure


def measured(run: Campaign) -> Measurement | None:
    """Return the measurement of both layers, or None."""
    return run.measured.get(NAME)


def clipping(measurement: Measurement) -> Figure:
    """Share of actions of which a number was changed by more than so much; 95 % intervals at the points."""
    figure, axes = axes_of(2.6)
    for line, (words, colour, dashes) in _LINES.items():
        found = {
            int(match[1]) / 10 if match[1] else 0.0: one
            for one in measurement.figures
            if (match := re.fullmatch(rf"{line}_changed(?:_(\d\d))?", one.name))
        }
        places = sorted(found)
        axes.plot(places, [found[x].value for x in places], dashes, color=colour, lw=1.4, label=words)
        for x in places:
            low, high = found[x].low, found[x].high
            if low is not None and high is not None:
                (bar,) = axes.plot([x, x], [low, high], color=colour, lw=3, alpha=0.4)
                told(bar, f"{words}, by more than {x:g}: {found[x].said()}")
    axes.set_ylim(0, 1)
    percent_axis(axes.yaxis)
    axes.set_xlabel("largest change of one of an action\u2019s seven numbers, each from \u22121 to 1")
    legend(figure, 2)
    return figure
