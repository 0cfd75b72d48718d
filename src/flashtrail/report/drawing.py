"""A matplotlib figure as SVG within a page: its colours are the page's, light or dark, and its ids its own.

A figure with a colour that is not the palette's (a scale of shades) cannot follow the page; it stays on light paper.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import TYPE_CHECKING

from markupsafe import Markup

from flashtrail.report import palette

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

_DOCUMENT = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", re.S)
_HEX = re.compile(r"(?<=: )#[0-9a-f]{6}\b", re.I)  # fill: #0072b2
_TOLD = "told:"  # how the id of an artist begins that tells something
_TOLD_ID = re.compile(rf"""<g id=(["']){_TOLD}(.*?)\1>""")  # quoted as its text needs
_GROUP_IDS = re.compile(r'(<g) id="[^"]*"')
_IDS = re.compile(r'(\bid="|href="#|url\(#)')
_NOTHING = {"Creator": None, "Date": None, "Format": None, "Type": None}


def svg(figure: Figure, name: str) -> Markup:
    """Return the figure as an ``<svg>`` called `name`, as wide as drawn where there is room; the figure is closed."""
    from matplotlib import pyplot as plt  # not installed where the page of a run under way is written

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NOTHING)
    width = f"{figure.get_figwidth() * 96:.0f}"
    plt.close(figure)
    return within_page(buffer.getvalue(), name, width)


def told(artist: Artist, words: str) -> None:
    """Tell a reader who points at an artist `words`: its title where the figure is an SVG."""
    artist.set_gid(f"{_TOLD}{words}")


def titled(text: str) -> str:
    """Return an SVG in which marks that tell something (`told`) have it as their title."""
    return _TOLD_ID.sub(r"<g><title>\2</title>", text)


def within_page(text: str, name: str, width: str) -> Markup:
    """Return the text of an SVG file as a part of a page, ``width`` pixels wide where there is room."""
    body = _GROUP_IDS.sub(r"\1", titled(_DOCUMENT.sub("", text))).replace("xlink:href", "href")
    body = " ".join(body.split())
    colours = {colour: palette.named(colour) for colour in set(_HEX.findall(body))}
    paper = None in colours.values()
    if not paper:
        body = _HEX.sub(lambda match: str(colours[match[0]]), body)
    own = hashlib.sha256(f"{name}{body}".encode()).hexdigest()[:6]
    body = _IDS.sub(rf"\g<1>f{own}-", body)
    view = re.search(r'viewBox="[^"]*"', body)
    inside = body[body.index(">", body.index("<svg")) + 1 :]
    head = Markup('<svg class="plot{}" role="img" aria-label="{}" width="{}" {}>').format(
        " paper" if paper else "", name, width, Markup(view[0] if view else "")
    )
    return head + Markup(inside)
