"""How figures look, on a page and in a paper: type sizes, widths, axes, legends, and the marks that many share.

Type is 7 to 9 pt at every width: what does not fit is set in more lines, and the figure grows higher.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import PercentFormatter

from flashtrail.report.palette import GREY, INK
from flashtrail.statistics.intervals import Interval
from flashtrail.statistics.wording import NBSP

PAGE = 4.7  # inches: about 450 px, so that 9 pt text stays readable on a phone
# What a file of each format says of its making, so that the same drawing is the same bytes: no date, no version.
UNDATED: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Producer": None, "Creator": "FLASHTrail"},
    "svg": {"Date": None, "Creator": "FLASHTrail"},
    "png": {"Software": "FLASHTrail"},
}
_EDGE = 0.08  # inches left free beside an axis's label or a legend
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
    "text.parse_math": False,  # a name with a dollar sign is a name
    "svg.fonttype": "path",  # a page's figures look alike everywhere
    "svg.hashsalt": "flashtrail",
    "pdf.fonttype": 42,  # TrueType: text that can be searched, as journals ask for
}


@contextmanager
def style(width: float = PAGE, **more: Any) -> Iterator[None]:
    """Let what is drawn and saved meanwhile look as ours does, `width` inches wide; `more` are other rcParams."""
    settings: dict[Any, Any] = {**_STYLE, "figure.figsize": (width, 1.0), **more}
    with plt.rc_context(settings):
        yield


def width_in() -> float:
    """Return how wide figures are drawn at present, in inches."""
    return float(plt.rcParams["figure.figsize"][0])


def axes_of(height: float, layout: Any = "constrained") -> tuple[Figure, Axes]:
    """Return a figure of the present width with one pair of axes; `height` in inches."""
    return plt.subplots(figsize=(width_in(), height), layout=layout)


def legend(figure: Figure, columns: int, used: Mapping[str, Any] | None = None, **more: Any) -> None:
    """Put a legend above the axes in as many of the `columns` as fit; the figure grows by the lines that this costs.

    `used`: label and artist of what is named; by default, whatever has a label.
    """
    handles, labels = (used.values(), used.keys()) if used else figure.axes[0].get_legend_handles_labels()
    heights: list[float] = []
    room = figure.get_figwidth() - _EDGE
    for ncols in range(columns, 0, -1):
        look = {"loc": "outside upper left", "ncols": ncols, "columnspacing": 1.2, **more}
        made = figure.legend(handles, labels, **look)
        heights.append(_size(made)[1])
        if _size(made)[0] <= room:
            break
        if ncols > 1:
            made.remove()
        else:
            inside = max(_size(text)[0] for text in made.get_texts())
            for text in made.get_texts():
                if _size(text)[0] > (most := inside + room - _size(made)[0]):
                    _wrap(text, _size(text)[0] / most)
            heights.append(_size(made)[1])
    _grow(figure, heights[-1] - heights[0])


def _grow(figure: Figure, inches: float) -> None:
    """Make a figure higher; where its margins are fixed, below the axes."""
    margins, before = figure.subplotpars, figure.get_figheight()
    figure.set_figheight(before + inches)
    if figure.get_layout_engine() is None:
        top, bottom = (1 - margins.top) * before, margins.bottom * before + inches
        figure.subplots_adjust(top=1 - top / (before + inches), bottom=bottom / (before + inches))


def _size(artist: Artist) -> tuple[float, float]:
    """Return the width and height of what is drawn, in inches."""
    figure = artist.get_figure(root=True)
    assert figure is not None
    box = artist.get_window_extent()
    return box.width / figure.dpi, box.height / figure.dpi


def fit(figure: Figure) -> None:
    """Set axes' labels that do not fit in several lines; the figure grows by them."""
    figure.draw_without_rendering()  # lays it out
    for axes in figure.axes:
        frame, (wide, high) = axes.get_window_extent(), figure.get_size_inches() * figure.dpi
        below = axes.xaxis.label
        if (box := below.get_window_extent()).x1 > wide or box.x0 < 0:
            below.set(x=1.0, horizontalalignment="right")  # from the axes' right end leftwards is the most room
            lines = _wrap(below, box.width / (frame.x1 - _EDGE * figure.dpi))
            _grow(figure, (lines - 1) * 1.1 * box.height / figure.dpi)
        if (box := axes.yaxis.label.get_window_extent()).y1 > high or box.y0 < 0:
            _wrap(axes.yaxis.label, box.height / min(frame.y0 + frame.y1, 2 * high - frame.y0 - frame.y1))


def _wrap(label: Text, times: float) -> int:
    """Wrap a label that is so many times longer than its room, in lines about as long; return their number."""
    text = label.get_text().replace(" %", f"{NBSP}%").replace(" = ", f"{NBSP}={NBSP}")
    most = int(len(text) / times)
    fewest = len(textwrap.wrap(text, most))
    ways = (textwrap.wrap(text, width) for width in range(len(text) // fewest, most + 1))
    lines = next(lines for lines in ways if len(lines) == fewest)
    label.set_text("\n".join(lines))
    return fewest


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


def arm_names(axes: Axes, top: float, name: str, key: str, n: str) -> None:
    """Write an arm's name above its bar, whose upper edge is `top`; between the two its key and what it counts."""
    at: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "va": "baseline"}
    shrink(axes.annotate(name, (0, top), (0, 13), fontsize=8.5, fontweight="bold", in_layout=False, **at))
    axes.annotate(f"{key}, {n}", (0, top), (0, 3), fontsize=7.5, color=GREY, in_layout=False, **at)


def shrink(name: Text, within: float | None = None) -> None:
    """Set a name that is wider than the figure (or `within`, inches) smaller, and cut it where that is not enough."""
    room = (within or width_in()) - 3 * _EDGE
    if _size(name)[0] > room:
        name.set(fontsize=7, fontweight="normal")
    while _size(name)[0] > room:
        name.set_text(name.get_text().rstrip("\u2026")[:-1].rstrip(" ,") + "\u2026")


def row_names(axes: Axes, y: float, left: str, right: str, ink: str = GREY) -> None:
    """Write a row's name above its bar on the left, what it counts on the right; a long name is set smaller."""
    at = axes.get_yaxis_transform()
    name = axes.text(0, y, left, fontsize=8.5, va="center", fontweight="bold", transform=at)
    count = axes.text(1, y, right, fontsize=8, va="center", ha="right", color=ink, transform=at)
    if _size(name)[0] + _size(count)[0] > width_in() - 4 * _EDGE:
        name.set(fontsize=7, fontweight="normal")


def segment(axes: Axes, y: float, left: float, width: float, height: float, colour: str, hatch: str) -> Any:
    """Draw one part of a stacked bar; return its artist, for the legend."""
    look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0.5}
    return axes.barh(y, width, height, left=left, **look)
