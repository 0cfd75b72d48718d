"""HTML fragments of the reports: tables that can be sorted, figures, badges, links.

No fragment asks for anything from anywhere. How they are set is in layout.py.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape, unescape
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Html:
    """A fragment that is already HTML. Notebooks show it as it is; everything else is escaped."""

    text: str

    def _repr_html_(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text


_units = re.compile(r" (%|ms\b)")  # a number and its unit stay on one line


def html(value: Any) -> str:
    """Return a value as HTML text: fragments as they are, everything else escaped, None as an en dash."""
    if isinstance(value, Html):
        return value.text
    return "\u2013" if value is None else _units.sub("\u00a0\\1", escape(str(value)))


def join(*parts: Html | None) -> Html:
    """Put fragments one after another; None is left out."""
    return Html("\n".join(part.text for part in parts if part is not None))


def paragraph(text: Any, kind: str = "") -> Html:
    """A paragraph; kind "note" is set smaller, "warning" in a frame."""
    return Html(f'<p class="{kind}">{html(text)}</p>' if kind else f"<p>{html(text)}</p>")


def code(text: Any) -> Html:
    """A name as it stands in files and configs; a long one may break after an underscore or a slash."""
    return Html(f"<code>{_breakable(text)}</code>")


def _breakable(text: Any) -> str:
    return re.sub(r"(?<=\w\w[_/])", "<wbr>", html(text))


def bold(text: Any) -> Html:
    """Strong text."""
    return Html(f"<strong>{html(text)}</strong>")


def link(text: Any, target: str) -> Html:
    """A link that a reader may follow; nothing is loaded from it."""
    return Html(f'<a href="{escape(target, quote=True)}">{html(text)}</a>')


def inline(*parts: Any) -> Html:
    """Text and fragments on one line."""
    return Html("".join(html(part) for part in parts))


def table(
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str] | None = None,
    numeric: Sequence[str] = (),
    caption: str = "",
    stacked: bool = False,
    anchor: str = "",
) -> Html:
    """A table. `columns` maps keys to heads, in order; `numeric` columns are set right-aligned.

    On a narrow screen it scrolls sideways inside its own box or, `stacked`, each row becomes a block of
    head-value pairs. `anchor` is its id, to which other places may link.
    """
    entries = list(rows)
    if not entries:
        return paragraph("No rows.", "note")
    heads = dict(columns) if columns is not None else {key: key for key in entries[0]}
    head = "".join(f'<th scope="col"{_align(key, numeric)}>{_breakable(text)}</th>' for key, text in heads.items())
    body = []
    for entry in entries:
        cells = "".join(_cell(entry.get(key), text, key in numeric) for key, text in heads.items())
        body.append(f"<tr>{cells}</tr>")
    name = f"<caption>{html(caption)}</caption>" if caption else ""
    kind = "stacked" if stacked else "wide"
    place = f' id="{escape(anchor, quote=True)}"' if anchor else ""
    label = escape(caption or "table", quote=True)
    return Html(
        f'<div{place} class="table {kind}" role="region" tabindex="0" aria-label="{label}">'
        f"<table>{name}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(value: Any, head: str, number: bool) -> str:
    kinds = ["number"] * number + ["empty"] * (value is None or str(value) in ("", "\u2013"))
    names = f' class="{" ".join(kinds)}"' if kinds else ""
    place = sort_value(value)
    order = "" if place is None else f' data-sort="{place:.6g}"'
    return f'<td data-head="{escape(head, quote=True)}"{order}{names}><div>{_kept(html(value))}</div></td>'


_interval = re.compile(r"\[[-\u2212+\d][^\[\]<>]{2,24}\]")


def _kept(text: str) -> str:
    """Return HTML in which the two ends of an interval stay on one line."""
    pieces = _tags.split(text)
    kept = (_interval.sub(r'<span class="kept">\g<0></span>', piece) for piece in pieces)
    tags = [*_tags.findall(text), ""]
    return "".join(piece + tag for piece, tag in zip(kept, tags, strict=True))


_tags = re.compile(r"<[^>]+>")
_number = re.compile(r"(?:p )?[=<>\u00d7]? ?([+-]?[\d,]*\.?\d+)(?:/([\d,]+))?(?![\w.])")


def sort_value(value: Any) -> float | None:
    """Return the number by which a cell is sorted: its first one, of a count k/n their quotient; None for words."""
    text = unescape(_tags.sub("", html(value))).replace("\u00a0", " ").replace("\u2212", "-").strip()
    found = _number.match(text)
    if not found:
        return None
    number = float(found[1].replace(",", ""))
    if not found[2]:
        return number
    n = float(found[2].replace(",", ""))
    return number / n if n else None


def _align(key: str, numeric: Sequence[str]) -> str:
    return ' class="number"' if key in numeric else ""


def facts(rows: Mapping[str, Any]) -> Html:
    """A list of terms and what is to be said of each."""
    items = "".join(f"<dt>{escape(term)}</dt><dd>{html(value)}</dd>" for term, value in rows.items())
    return Html(f'<dl class="facts">{items}</dl>')


_MARKS = {"supported": "\u25cf", "refuted": "\u2715", "inconclusive": "\u25d0", "not_tested": "\u25cb"}


def badge(verdict: str) -> Html:
    """A verdict as a word with its mark; the colour only repeats it."""
    word = verdict.replace("_", "\u00a0")
    return Html(f'<span class="verdict {escape(verdict)}">{_MARKS.get(verdict, "")}\u00a0{escape(word)}</span>')


def figure(drawing: Figure, alt: str, caption: Any) -> Html:
    """A matplotlib figure as an SVG image inside the page, with its caption; the drawing is closed."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    width = drawing.get_figwidth() * 96
    plt.close(drawing)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Html(
        f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{escape(alt, quote=True)}" '
        f'width="{width:.0f}"><figcaption>{html(caption)}</figcaption></figure>'
    )


def picture(jpeg: bytes, alt: str, caption: Any) -> Html:
    """A JPEG inside the page, as wide as the page, with its caption."""
    data = base64.b64encode(jpeg).decode()
    return Html(
        f'<figure class="whole"><img src="data:image/jpeg;base64,{data}" alt="{escape(alt, quote=True)}">'
        f"<figcaption>{html(caption)}</figcaption></figure>"
    )


def side_by_side(*parts: Html) -> Html:
    """Figures beside each other where there is room, below each other where there is not."""
    return Html(f'<div class="row">{"".join(part.text for part in parts)}</div>')


def details(summary: str, body: Html) -> Html:
    """A part that is folded on screen and open on paper."""
    return Html(f"<details><summary>{escape(summary)}</summary>{body.text}</details>")
