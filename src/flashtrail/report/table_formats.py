"""A report's table for a paper (LaTeX with booktabs), a pull request (Markdown) or a program (CSV): the page's cells.

Cells are data of others, too: every character that a format reads as its own is escaped.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable
from typing import Any

import pandas as pd

from flashtrail.report import page
from flashtrail.report.page import Table

_MARKS = str.maketrans({"\u00a0": " ", "\u200b": "", **dict.fromkeys(page.MARKS.values(), "")})
_TAG = re.compile(r"<[^>]*>")
_ASIDE = re.compile(r"\s*<small>")
_BREAK = re.compile(r"<br>|</p>\s*<p[^>]*>")
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
_LATEX |= {"\u2013": "--", "\u2212": "$-$", "\u2019": "'", "\u201c": "``", "\u201d": "''", "\u00d7": r"$\times$"}
_LATEX |= {"\u2192": r"$\rightarrow$", "\u2265": r"$\geq$", "\u2264": r"$\leq$", "\u2026": r"\ldots{}", "\n": " "}
_LATEX |= {"\u25cf": "", "\u25cb": "", '"': "''"}
_IN_LATEX = str.maketrans(_LATEX)
_IN_MARKDOWN = re.compile(r"[\\`*_<>|~]|\](?=[(\[:])")
_LONGEST = 28  # characters of a column that is not set as paragraphs


def text(cell: Any) -> str:
    """Return a cell as plain text on one line: no tags, no marks that only repeat a word, no special spaces."""
    shown = _TAG.sub("", _BREAK.sub("; ", _ASIDE.sub(": ", page.html(cell))))
    return " ".join(html.unescape(shown).translate(_MARKS).split())


def _lines(table: Table) -> list[list[str]]:
    return [[text(row.get(key)) for key in table.columns] for row in table.rows]


def latex(table: Table) -> str:
    """Return a LaTeX ``table`` (needs booktabs); long columns are paragraphs that share the line."""
    frame = pd.DataFrame(_lines(table), columns=[text(head) for head in table.columns.values()])
    widths = [max((len(cell) for cell in frame.iloc[:, i]), default=0) for i in range(frame.shape[1])]
    long = sum(min(width, 4 * _LONGEST) for width in widths if width > _LONGEST)
    columns = [
        rf"p{{{0.7 * min(width, 4 * _LONGEST) / long:.2f}\linewidth}}"
        if width > _LONGEST
        else "lr"[key in table.numeric]
        for key, width in zip(table.columns, widths, strict=True)
    ]
    frame = frame.map(escaped).set_axis([escaped(head) for head in frame.columns], axis=1)
    label = re.sub(r"[^a-z0-9-]+", "-", table.name.lower())
    style = frame.style.hide(axis="index")
    return style.to_latex(
        column_format="".join(columns),
        hrules=True,
        position="t",
        position_float="centering",
        caption=escaped(text(table.caption or table.name)),
        label=f"tab:{label}",
    )


def escaped(words: str) -> str:
    """Return text as LaTeX prints it."""
    return words.translate(_IN_LATEX).replace(r" \%", r"~\%")


def markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown, its caption above it."""
    heads = [text(head) for head in table.columns.values()]
    rule = ["---:" if key in table.numeric else "---" for key in table.columns]
    rows = [[_IN_MARKDOWN.sub(r"\\\g<0>", cell) for cell in line] for line in [heads, *_lines(table)]]
    lines = [f"| {' | '.join(cells)} |" for cells in (rows[0], rule, *rows[1:])]
    caption = _IN_MARKDOWN.sub(r"\\\g<0>", text(table.caption or table.name))
    return "\n".join([f"**{caption}**", "", *lines, ""])


def comma_separated(table: Table) -> str:
    """Return a table as CSV with one line of heads."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([[text(head) for head in table.columns.values()], *_lines(table)])
    return out.getvalue()


FORMATS: dict[str, Callable[[Table], str]] = {"latex": latex, "markdown": markdown, "csv": comma_separated}
