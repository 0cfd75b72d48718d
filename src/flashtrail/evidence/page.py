"""HTML fragments and the one page template of the reports: tables, figures, badges, typography.

Dark marks on white, readable at 390 px and on paper, no script, no request to anywhere. Knows HTML and matplotlib's
SVG; knows no table of ours. The style sheet is here, in Python, so that a job's code digest sees a change of it.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
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
    return Html(f"<code>{re.sub('(?<=[_/])', '<wbr>', html(text))}</code>")


def bold(text: Any) -> Html:
    """Strong text."""
    return Html(f"<strong>{html(text)}</strong>")


def inline(*parts: Any) -> Html:
    """Text and fragments on one line."""
    return Html("".join(html(part) for part in parts))


def table(
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str] | None = None,
    numeric: Sequence[str] = (),
    caption: str = "",
    stacked: bool = False,
) -> Html:
    """A table. `columns` maps keys to heads, in order; `numeric` columns are set right-aligned.

    On a narrow screen it scrolls sideways inside its own box or, `stacked`, each row becomes a block of
    head-value pairs.
    """
    entries = list(rows)
    if not entries:
        return paragraph("No rows.", "note")
    heads = dict(columns) if columns is not None else {key: key for key in entries[0]}
    head = "".join(f'<th scope="col"{_align(key, numeric)}>{html(text)}</th>' for key, text in heads.items())
    body = []
    for entry in entries:
        cells = "".join(_cell(entry.get(key), text, key in numeric) for key, text in heads.items())
        body.append(f"<tr>{cells}</tr>")
    name = f"<caption>{html(caption)}</caption>" if caption else ""
    kind = "stacked" if stacked else "wide"
    return Html(
        f'<div class="table {kind}" role="region" tabindex="0" aria-label="{escape(caption or "table", quote=True)}">'
        f"<table>{name}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(value: Any, head: str, number: bool) -> str:
    kinds = ["number"] * number + ["empty"] * (value is None or str(value) in ("", "\u2013"))
    names = f' class="{" ".join(kinds)}"' if kinds else ""
    return f'<td data-head="{escape(head, quote=True)}"{names}><div>{html(value)}</div></td>'


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


CSS = """
:root { --ink: #1a1a1a; --soft: #555; --line: #d0d0d0; --tint: #f6f6f4; --blue: #00528a; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: #fff; color: var(--ink); font: 17px/1.55 Charter, "Bitstream Charter", "Source Serif 4",
  "Iowan Old Style", Georgia, "Times New Roman", serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.2rem 1.25rem 4rem; }
main > * { max-width: 62rem; }
p, ul, ol, blockquote { max-width: 42rem; }
h1, h2, h3, table, figcaption, .facts dt, .verdict, .note, .warning, summary, header .line, nav, footer {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; max-width: 34rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.8rem 0 .7rem; padding-top: .8rem;
  border-top: 1.5px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.8rem 0 .5rem; }
p { margin: .6rem 0; }
a { color: var(--blue); }
code { font: .86em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: break-word; }
.note { font-size: .82rem; color: var(--soft); line-height: 1.5; }
.warning { border: 2px solid #9a2f00; color: #7a2500; padding: .55rem .8rem; font-size: .92rem; font-weight: 600;
  max-width: none; }
.facts { display: grid; grid-template-columns: 10.5rem 1fr; margin: 1.2rem 0; border-top: 1px solid var(--line); }
.facts dt, .facts dd { margin: 0; padding: .42rem 0; border-bottom: 1px solid var(--line); }
.facts dt { font-size: .84rem; font-weight: 650; padding-top: .5rem; padding-right: 1rem; }
.facts dd { font-size: .94rem; line-height: 1.45; } .facts dd p { margin: 0 0 .2rem; max-width: none; }
.table { margin: 1rem 0 1.4rem; overflow-x: auto; }
.table:focus-visible { outline: 2px solid var(--blue); }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.4; font-variant-numeric: tabular-nums;
  min-width: 60%; }
caption { text-align: left; font-size: .84rem; color: var(--soft); padding-bottom: .45rem; }
th, td { text-align: left; vertical-align: top; padding: .38rem 1.1rem .38rem 0; border-bottom: 1px solid var(--line); }
th { border-bottom: 1.5px solid var(--ink); font-weight: 650; vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; } th.number { white-space: normal; }
.row { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; align-items: flex-start; }
.row > .table { flex: 1 1 24rem; min-width: 0; } .row th, .row td { padding-right: .8rem; }
figure { margin: 1rem 0 1.4rem; flex: 0 1 452px; min-width: 0; max-width: 452px; }
figure.whole { flex-basis: 100%; max-width: none; }
figure img { display: block; width: 100%; height: auto; }
figcaption { font-size: .82rem; color: var(--soft); line-height: 1.5; margin-top: .5rem; }
.verdict { font-size: .84rem; font-weight: 650; white-space: nowrap; }
.supported { color: #00614a; } .refuted { color: #9a2f00; } .inconclusive { color: #6a5000; }
.not_tested { color: #555; }
details { margin: .8rem 0; } summary { cursor: pointer; font-size: .88rem; font-weight: 600; }
nav { font-size: .84rem; margin: 1rem 0 0; line-height: 1.9; } nav a { margin-right: 1.1rem; white-space: nowrap; }
footer { margin-top: 3rem; font-size: .78rem; color: var(--soft); }
pre { overflow-x: auto; font-size: .8rem; background: var(--tint); padding: .7rem; }
@media (max-width: 640px) {
  body { font-size: 16px; } main { padding: 1.2rem 1rem 3rem; }
  .facts { grid-template-columns: 1fr; } .facts dt { border-bottom: 0; padding-bottom: 0; }
  .facts dd { padding-top: .1rem; }
  .stacked table, .stacked caption, .stacked tbody, .stacked tr { display: block; min-width: 0; }
  .stacked thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stacked tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  .stacked td { display: grid; grid-template-columns: 7.2rem 1fr; gap: .6rem; border: 0; padding: .08rem 0;
    text-align: left; white-space: normal; }
  .stacked td::before { content: attr(data-head); color: var(--soft); }
  .stacked td.empty { display: none; }
  .stacked td:first-child { display: block; font-weight: 650; } .stacked td:first-child::before { content: none; }
  table { min-width: 100%; } th, td { padding-right: .8rem; }
}
@media print {
  @page { margin: 16mm 15mm; }
  html { font-size: 12px; } body { font-size: 10pt; } main, main > * { max-width: none; } main { padding: 0; }
  nav { display: none; }
  h2 { break-after: avoid; margin-top: 1.6rem; } figure, tr, .facts dd { break-inside: avoid; }
  .table { overflow: visible; } .row { display: block; }
  figure { display: inline-block; vertical-align: top; width: 47%; margin-right: 2%; }
  details::details-content { content-visibility: visible; block-size: auto; }
  a { color: inherit; text-decoration: none; }
}
"""

# Jinja, rendered by nbconvert: code is left out, fragments and text come as the cells gave them.
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="FLASHTrail">
<title>{{ resources.flashtrail.title }}</title>
<link rel="icon" href="data:,">
<style>{{ resources.flashtrail.css }}</style>
</head>
<body>
<main>
{%- for cell in nb.cells %}
{%- if cell.cell_type == 'markdown' %}
{{ cell.source | markdown2html }}
{%- elif cell.cell_type == 'code' %}
{%- for output in cell.outputs %}
{%- if output.output_type in ('display_data', 'execute_result') %}
{%- if 'text/html' in output.data %}
{{ output.data['text/html'] }}
{%- elif 'image/png' in output.data %}
<figure><img alt="figure" src="data:image/png;base64,{{ output.data['image/png'] | replace('\\n', '') }}"></figure>
{%- elif 'text/plain' in output.data %}
<pre>{{ output.data['text/plain'] | e }}</pre>
{%- endif %}
{%- elif output.output_type == 'stream' and output.name == 'stdout' %}
<pre>{{ output.text | e }}</pre>
{%- endif %}
{%- endfor %}
{%- endif %}
{%- endfor %}
<footer>{{ resources.flashtrail.footer }}</footer>
</main>
</body>
</html>
"""
