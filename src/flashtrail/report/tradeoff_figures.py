"""Success against latency on paper: the page's picture (tradeoff_places), drawn by matplotlib.

On a sheet as wide as a page's text names stand beside the picture; in a journal's column marks carry numbers, and a
list below says whose.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

from flashtrail.report import palette, tradeoff_places
from flashtrail.report.drawing import told
from flashtrail.report.palette import INK, PALE
from flashtrail.report.plotting import axes_of, width_in
from flashtrail.report.tradeoff_places import LINE, Point, Sheet

_UNIT = 96  # of tradeoff_places, in an inch
_TYPE, _LETTER = 8.0, 5.9  # size of names and ticks in points; a letter's width in units
_BESIDE = 5.2  # inches from which on names stand beside the picture
_LISTED = 22.0  # where a listed name begins


def sheet(inches: float) -> Sheet:
    """Return the room of the picture on a sheet of that width; without letters names stand in a list below it."""
    beside = inches >= _BESIDE
    high, right, letters = (312.0, 190.0, 26) if beside else (236.0, 12.0, 0)
    margins = {"left": 46.0, "right": right, "top": 18.0, "bottom": 50.0}
    return Sheet(inches * _UNIT, high, **margins, letters=letters, digit=(7.0, 11.0))


def tradeoff(points: Sequence[Point]) -> Figure:
    """Draw each arm at its mean time of a round and its success, with both intervals, its name and k/n."""
    room = sheet(width_in())
    placed = tradeoff_places.places(points, room)
    lines = [] if room.letters else _lines(placed["marks"], int((room.width - _LISTED) / _LETTER))
    high = room.height + LINE * sum(map(len, lines))
    drawing, axes = axes_of(high / _UNIT, layout=None)
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, room.width), ylim=(high, 0), xticks=[], yticks=[])
    _frame(axes, placed)
    for arrow in placed["arrows"]:
        _arrow(axes, arrow)
    for mark in placed["marks"]:
        _mark(axes, mark, numbered=not room.letters)
    if room.letters:
        _names(axes, placed)
    at = room.height + 4
    for mark, of_mark in zip(placed["marks"], lines, strict=False):
        _listed(axes, mark, of_mark, at)
        at += LINE * len(of_mark)
    return drawing


def _frame(axes: Axes, placed: Mapping[str, Any]) -> None:
    """Draw the axes: lines of shares, ticks of times, what both are."""
    frame = placed["frame"]
    for y, name in placed["up"]:
        axes.plot([frame["left"], frame["right"]], [y, y], color=PALE, lw=0.6, zorder=0)
        _text(axes, frame["left"] - 6, y, name, ha="right")
    for x, name in placed["across"]:
        axes.plot([x, x], [frame["bottom"], frame["bottom"] + 4], color=INK, lw=0.6)
        _text(axes, x, frame["bottom"] + 12, name, ha="center")
    axes.plot([frame["left"], frame["right"]], [frame["bottom"]] * 2, color=INK, lw=0.8, zorder=0)
    _text(axes, frame["right"], frame["bottom"] + 29, "mean time of a round (ms); bars: 95 %", ha="right")
    if placed["moved"]:
        said = "A mark that would cover another stands to its right."
        _text(axes, frame["right"], frame["bottom"] + 42, said, ha="right", fontsize=7)
    _text(axes, frame["left"], frame["top"] - 11, "success (bars: Wilson 95 %)")


def _arrow(axes: Axes, arrow: Mapping[str, Any]) -> None:
    path = Path(arrow["points"], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    look: dict[str, Any] = {"color": palette.of_role(arrow["role"]), "lw": 0.9, "mutation_scale": 7, "zorder": 1}
    axes.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", shrinkA=0, shrinkB=0, alpha=0.8, **look))


def _mark(axes: Axes, mark: Mapping[str, Any], numbered: bool) -> None:
    """Draw a mark with its intervals, and its number where names do not stand beside the picture."""
    colour = palette.of_role(mark["point"].role)
    axes.plot([mark["x"]] * 2, [mark["low"], mark["high"]], color=colour, lw=1.2, alpha=0.6, zorder=2)
    axes.plot([mark["left"], mark["right"]], [mark["y"]] * 2, color=colour, lw=1.2, alpha=0.6, zorder=2)
    shape = tradeoff_places.SHAPES[mark["point"].role][0]
    (dot,) = axes.plot(mark["x"], mark["y"], shape, ms=6, mfc=colour, mec="white", mew=0.7, zorder=3)
    told(dot, mark["point"].said)
    if numbered:
        halo = [patheffects.withStroke(linewidth=2, foreground="white")]
        x, y = mark["numeral"]
        _text(axes, x, y, str(mark["number"]), ha="center", fontweight="bold", path_effects=halo, zorder=4)


def _names(axes: Axes, placed: Mapping[str, Any]) -> None:
    """Write names and counts in the right margin, a thin line from each mark to its name."""
    for mark in placed["marks"]:
        at = placed["names_at"]
        ends = [mark["x"] + 8, at - 12, at - 4], [mark["y"], mark["lead"], mark["lead"]]
        axes.plot(*ends, color=PALE, lw=0.6, zorder=1)
        for number, line in enumerate(_counted(mark)):
            _text(axes, at, mark["label"] - 4 + LINE * number, line)


def _counted(mark: Mapping[str, Any]) -> list[str]:
    *lines, last = mark["lines"]
    return [*lines, f"{last}  {mark['point'].k}/{mark['point'].n}"]


def _lines(marks: Sequence[Mapping[str, Any]], letters: int) -> list[list[str]]:
    """Return each mark's name and count in lines of so many letters."""
    named = (f"{mark['point'].name}, {mark['point'].k}/{mark['point'].n}" for mark in marks)
    return [textwrap.wrap(name, letters) for name in named]


def _listed(axes: Axes, mark: Mapping[str, Any], lines: Sequence[str], at: float) -> None:
    """Write an arm's entry of the list: number, mark, name, count."""
    shape, colour = tradeoff_places.SHAPES[mark["point"].role][0], palette.of_role(mark["point"].role)
    _text(axes, 9, at, str(mark["number"]), ha="right", fontweight="bold")
    axes.plot(15, at, shape, ms=4.5, color=colour)
    for number, line in enumerate(lines):
        _text(axes, _LISTED, at + LINE * number, line)


def _text(axes: Axes, x: float, y: float, text: str, **more: Any) -> None:
    look: dict[str, Any] = {"fontsize": _TYPE, "va": "center_baseline", **more}
    axes.text(x, y, text, **look)
