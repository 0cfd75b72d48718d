"""How much safety layers change of an action: the distribution that `benchmark/safety_layer.py` measures, drawn."""

from __future__ import annotations

import re

from matplotlib.figure import Figure

from flashtrail.claims.campaign import Campaign
from flashtrail.report.drawing import told
from flashtrail.report.palette import BLUE, ORANGE
from flashtrail.report.plotting import axes_of, legend, percent_axis
from flashtrail.tables.measurements import Measurement

NAME = "safety_layer"
_LINES = {
    "printed_random": ("as printed, random actions", ORANGE, "-"),
    "printed_expert": ("as printed, the expert\u2019s actions", ORANGE, "--"),
    "ours_random": ("ours, random actions", BLUE, "-"),
    "ours_expert": ("ours, the expert\u2019s actions", BLUE, "--"),
}


def measured(run: Campaign) -> Measurement | None:
    """Return the measurement of both layers, or None."""
    return run.measured.get(NAME)


def clipping(measurement: Measurement) -> Figure:
    """Share of actions of which a number was changed by more than so much; Wilson's 95 % interval at each point."""
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
    axes.set_xlabel("largest change of one of an action\u2019s seven numbers, each from -1 to 1")
    legend(figure, 2)
    return figure
