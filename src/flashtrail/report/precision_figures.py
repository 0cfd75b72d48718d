"""Number formats and runtimes drawn (benchmark/precision.py): how far a policy's actions move by how fast it is."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from flashtrail.claims.campaign import Campaign
from flashtrail.report.drawing import told
from flashtrail.report.palette import BLUE, GREEN, GREY, ORANGE, PURPLE
from flashtrail.report.plotting import axes_of, legend
from flashtrail.tables.measurements import Figure as Number
from flashtrail.tables.measurements import Measurement

_MARKS = [(mark, colour) for mark in "osD^v" for colour in (BLUE, ORANGE, GREEN, PURPLE)][::3]
_SPEED, _ERROR, _CONTROL = "_speedup", "_relative", "control_relative"
CAPTION = (
    "Error: RMS of the executed actions\u2019 difference to float32, over the RMS of the actions. Bars: 95 %. Dashed: "
    "the same policy under other noise or, where it takes none, with one grey level of noise on its views."
)


def measured(run: Campaign) -> list[str]:
    """Return the measurements of a policy's variants."""
    return [name for name, measurement in run.measured.items() if measurement.figure(_CONTROL)]


def variants(measurement: Measurement) -> list[str]:
    """Return the names of the variants of which both, speed and error, were measured."""
    names = [figure.name.removesuffix(_SPEED) for figure in measurement.figures if figure.name.endswith(_SPEED)]
    return [name for name in names if measurement.figure(name + _ERROR)]


def tradeoff(measurement: Measurement) -> Figure:
    """Error by speed-up, a mark a variant, both axes logarithmic; dashed: float32's speed, and the control's error."""
    figure, axes = axes_of(2.9)
    axes.set(xscale="log", yscale="log")
    control = measurement.figure(_CONTROL)
    assert control is not None
    axes.axhline(control.value, color=GREY, lw=0.9, ls="--")
    axes.axvline(1, color=GREY, lw=0.9, ls="--")
    for (mark, colour), name in zip(_MARKS, variants(measurement), strict=False):
        speed, error = measurement.figure(name + _SPEED), measurement.figure(name + _ERROR)
        assert speed is not None and error is not None
        words = speed.title.partition(":")[0]
        (dot,) = axes.plot([speed.value], [error.value], mark, ms=6, color=colour, label=words)
        told(dot, f"{words}: \u00d7{speed.said()} as fast, error {error.said()}")
        axes.plot(_ends(speed), [error.value] * 2, color=colour, lw=1.2)
        axes.plot([speed.value] * 2, _ends(error), color=colour, lw=1.2)
    axes.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda times, _: f"\u00d7{times:g}")
    axes.yaxis.set_major_locator(FixedLocator([10.0**power for power in range(-8, 2, 2)]))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("times as fast as float32 in PyTorch")
    axes.set_ylabel("action error")
    legend(figure, 2)
    return figure


def _ends(number: Number) -> list[float]:
    """The ends of a figure's interval; where there is none, its value."""
    return [number.value if end is None else end for end in (number.low, number.high)]
