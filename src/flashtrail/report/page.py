"""HTML fragments of the reports: tables that can be sorted, figures, badges, links.

A fragment requests nothing from the network. The page around it is layout.py's.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from flashtrail.report.drawing import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Html(Markup):
    """Text that is already HTML: a notebook shows it as it is. Its `format` and `join` escape everything else.

    `tables`: what the tables in it were made of, for other formats (`table_formats`).
    """

    tables: tuple[Table, ...] = ()

    def _repr_html_(self) -> str:
        return str(self)

    def join(self, parts: Iterable[Any], /) -> Html:
        """Return the parts in one, with the tables of all."""
        found = list(parts)
        return Html(super().join(found))._with(found)

    def format(self, *parts: Any, **named: Any) -> Html:
        """Return the parts filled in, with the tables of all."""
        return Html(super().format(*parts, **named))._with([*parts, *named.values()])

    def _with(self, parts: Iterable[Any]) -> Html:
        self.tables = tuple(table for part in parts if isinstance(part, Html) for table in part.tables)
        return self


@dataclass(frozen=True)
class Table:
    """The rows of a table as they are shown: cells are text or Html. `name`: what `flashtrail table` calls it."""

    name: str
    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, str]
    numeric: Sequence[str]
    caption: str


_units = re.compile(r" (%|ms\b)")  # a number and its unit stay on one line


def html(value: Any) -> Html:
    """Return a value as HTML: fragments as they are, everything else escaped, None as an en dash."""
    if isinstance(value, Html):
        return value
    return Html("\u2013" if value is None else _units.sub("\u00a0\\1", escape(str(value))))


def join(*parts: Html | None) -> Html:
    """Put fragments one after another; None is left out."""
    return Html("\n").join(part for part in parts if part is not None)


def inline(*parts: Any) -> Html:
    """Text and fragments on one line."""
    return Html("").join(map(html, parts))


def heading(text: Any, level: int = 2, anchor: str = "") -> Html:
    """A heading; `anchor` is its id."""
    return Html("<h{0}{1}>{2}</h{0}>").format(level, _attribute("id", anchor), html(text))


def paragraph(text: Any, kind: str = "") -> Html:
    """A paragraph; kind "note" is set smaller, "warning" in a frame."""
    return Html("<p{}>{}</p>").format(_attribute("class", kind), html(text))


def paragraphs(texts: Iterable[Any]) -> Html | None:
    """One paragraph for each text; None where there are none."""
    parts = [paragraph(text) for text in texts]
    return join(*parts) if parts else None


def code(text: Any) -> Html:
    """A name as it is written in files and configs; a long one may break after an underscore or a slash."""
    return Html(f"<code>{_breakable(text)}</code>")


def _breakable(text: Any) -> str:
    return re.sub(r"(?<=\w\w[_/])", "<wbr>", html(text))


def bold(text: Any) -> Html:
    """Strong text."""
    return Html("<strong>{}</strong>").format(html(text))


def link(text: Any, target: str) -> Html:
    """A link that a reader may follow; nothing is loaded from it."""
    return Html('<a href="{}">{}</a>').format(target, html(text))


def _attribute(name: str, value: str) -> Html:
    return Html(' {}="{}"').format(name, value) if value else Html("")


def header(title: str, line: Any, pages: Html, simulated: bool = False, imported: str = "") -> Html:
    """The top of a page: title, one line on its subject, warnings, links to other pages (`pages`).

    `simulated`: warn that the numbers are made up; `imported`: the origin of rows that were not run here.
    """
    parts = [Html("<h1>{}</h1>").format(html(title)), paragraph(line, "line note")]
    if simulated:
        parts.append(paragraph("Simulated data: not evidence about any policy.", "warning"))
    if imported:
        text = f"Imported, not run here: {imported}. What the record does not say is left empty."
        parts.append(paragraph(text, "note"))
    if pages:
        parts.append(Html('<nav aria-label="pages">{}</nav>').format(pages))
    return Html("<header>{}</header>").format(inline(*parts))


_LONG = 24  # rows from which on a table scrolls in a box of its own, below its head
_FOLDED = 5  # rows from which on a stacked table of a report is folded on a phone (report.css)


def table(
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str] | None = None,
    numeric: Sequence[str] = (),
    caption: str = "",
    stacked: bool = False,
    anchor: str = "",
    name: str = "",
) -> Html:
    """A table. `columns` maps keys to heads, in order; `numeric` columns are set right-aligned. `name`: see Table.

    On a narrow screen it scrolls sideways inside its own box or, `stacked`, each row becomes a block of
    head-value pairs, which a report folds. The head of a long one stays in view. `anchor` is its id, to which other
    places may link.
    """
    entries = list(rows)
    if not entries:
        return paragraph("No rows.", "note")
    heads = dict(columns) if columns is not None else {key: key for key in entries[0]}
    aligned = {key: _attribute("class", "number" * (key in numeric)) for key in heads}
    head = "".join(f'<th scope="col"{aligned[key]}>{_breakable(text)}</th>' for key, text in heads.items())
    body = []
    for entry in entries:
        cells = "".join(_cell(entry.get(key), text, key in numeric) for key, text in heads.items())
        body.append(f"<tr>{cells}</tr>")
    title = f"<caption>{html(caption)}</caption>" if caption else ""
    kind = ("stacked" if stacked else "wide") + " long" * (len(entries) > _LONG)
    whole = (
        f'<div{_attribute("id", anchor)} class="table {kind}" role="region" tabindex="0" '
        f'aria-label="{escape(caption or "table")}">'
        f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
    if stacked and len(entries) >= _FOLDED:
        summary = f"{html(caption or 'table')}: {len(entries)} rows"
        whole = f'<details class="rows"><summary>{summary}</summary>{whole}</details>'
    made = Html(whole)
    made.tables = (Table(name, entries, heads, numeric, caption),)
    return made


def _cell(value: Any, head: str, number: bool) -> str:
    kinds = ["number"] * number + ["empty"] * (value is None or str(value) in ("", "\u2013"))
    place = sort_value(value)
    order = "" if place is None else f' data-sort="{place:.6g}"'
    text = _kept(html(value))
    return f'<td data-head="{escape(head)}"{order}{_attribute("class", " ".join(kinds))}><div>{text}</div></td>'


_interval = re.compile(r"\[[-\u2212+\d][^\[\]<>]{2,24}\]")


def _kept(text: str) -> str:
    """Return HTML in which the two ends of an interval stay on one line."""
    pieces = _tags.split(text)
    kept = (_interval.sub(r'<span class="kept">\g<0></span>', piece) for piece in pieces)
    tags = [*_tags.findall(text), ""]
    return "".join(piece + tag for piece, tag in zip(kept, tags, strict=True))


_tags = re.compile(r"<[^>]+>")
_number = re.compile(r"(?:[pe] )?(?:[=<>\u00d7] ?)*([+-]?[\d,]*\.?\d+)(?:/([\d,]+))?(?![\w.])")


def sort_value(value: Any) -> float | None:
    """Return the number by which a cell is sorted: its first one, of a count k/n their quotient; None for words."""
    text = html(value).striptags().replace("\u00a0", " ").replace("\u2212", "-").strip()
    found = _number.match(text)
    if not found:
        return None
    number = float(found[1].replace(",", ""))
    if not found[2]:
        return number
    n = float(found[2].replace(",", ""))
    return number / n if n else None


def facts(rows: Mapping[str, Any]) -> Html:
    """A list of terms, each with its text; a term whose text is None is left out."""
    item = Html("<dt>{}</dt><dd>{}</dd>")
    items = (item.format(term, html(value)) for term, value in rows.items() if value is not None)
    return Html('<dl class="facts">{}</dl>').format(inline(*items))


def strip(rows: Mapping[str, Any]) -> Html:
    """Terms with their short texts beside each other; a term whose text is None is left out."""
    item = Html("<div><dt>{}</dt><dd>{}</dd></div>")
    items = (item.format(term, html(value)) for term, value in rows.items() if value is not None)
    return Html('<dl class="strip">{}</dl>').format(inline(*items))


def gallery(parts: Iterable[Html]) -> Html:
    """Small pictures in rows, as many beside each other as there is room for."""
    return Html('<div class="gallery">{}</div>').format(inline(*parts))


MARKS = {"supported": "\u25cf", "refuted": "\u2715", "inconclusive": "\u25d0", "not_tested": "\u25cb"}


def badge(verdict: str, word: str = "") -> Html:
    """A verdict as a word (its own, if none is given) with its mark; the colour only repeats it."""
    shown = (word or verdict).replace("_", "\u00a0")
    return Html('<span class="verdict {}">{}\u00a0{}</span>').format(verdict, MARKS.get(verdict, ""), shown)


def figure(drawing: Figure, alt: str, caption: Any) -> Html:
    """A matplotlib figure inside the page, named `alt` to those who do not see it, with its caption; it is closed."""
    return _captioned(Html(svg(drawing, alt)), caption)


def picture(jpeg: bytes, alt: str, caption: Any) -> Html:
    """A JPEG inside the page, as wide as the page, with its caption."""
    source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return _captioned(Html('<img src="{}" alt="{}">').format(source, alt), caption, "whole")


def _captioned(body: Html, caption: Any, kind: str = "") -> Html:
    return Html("<figure{}>{}<figcaption>{}</figcaption></figure>").format(
        _attribute("class", kind), body, html(caption)
    )


def side_by_side(*parts: Html) -> Html:
    """Figures beside each other where there is room, below each other where there is not."""
    return Html('<div class="row">{}</div>').format(inline(*parts))


def beside(*parts: Html | None) -> Html:
    """Parts of a first screen beside each other on a desk; one alone takes the width."""
    return Html('<div class="beside">{}</div>').format(inline(*(part for part in parts if part)))


def first_screen(rows: Mapping[str, Any], note: Html) -> Html:
    """The terms that a report opens with, and the note below them."""
    return Html('<div class="first">{}{}</div>').format(facts(rows), note)


def details(summary: Any, body: Html, printed: bool = True) -> Html:
    """A part that is folded on screen and open on paper or, not `printed`, named there as what the file has more."""
    kind = _attribute("class", "onscreen" * (not printed))
    return Html("<details{}><summary>{}</summary>{}</details>").format(kind, html(summary), body)
