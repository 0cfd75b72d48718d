"""The one page that every report is set in: style sheet, the script that sorts tables, head and footer.

Dark marks on white, readable at 390 px and on paper. A content security policy forbids every request and every script
but the one below, so that a browser enforces what the tests check. Knows HTML; knows no table of ours. All of it is
Python, so that a job's code digest sees a change of it.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

CSS = """
:root { --ink: #1a1a1a; --soft: #555; --line: #d0d0d0; --tint: #f6f6f4; --blue: #00528a; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: #fff; color: var(--ink); font: 17px/1.55 Charter, "Bitstream Charter", "Source Serif 4",
  "Iowan Old Style", Georgia, "Times New Roman", serif; }
main { max-width: 66rem; margin: 0 auto; padding: 1.4rem 1.25rem 4rem; }
main > * { max-width: 66rem; }
p, ul, ol, blockquote { max-width: 42rem; }
header p { margin: .2rem 0; }
h1, h2, h3, table, figcaption, .facts dt, .verdict, .note, .warning, summary, header .line, nav, footer {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.45rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.8rem 0 .7rem; padding-top: .8rem;
  border-top: 1.5px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.8rem 0 .5rem; }
h1, h2, h3 { overflow-wrap: anywhere; }
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
.first .facts { margin: .5rem 0 .3rem; grid-template-columns: 11rem minmax(0, 1fr); }
.first .note { max-width: none; margin: .3rem 0; }
.first .facts dt, .first .facts dd { padding: .28rem 0; } .first .facts dt { padding-top: .34rem; }
.first .facts dd { font-size: .86rem; line-height: 1.4; } .first .facts dd p { margin: 0 0 .1rem; }
.table { margin: 1rem 0 1.4rem; overflow-x: auto; }
.table:focus-visible { outline: 2px solid var(--blue); }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.4; font-variant-numeric: tabular-nums;
  min-width: 60%; }
caption { text-align: left; font-size: .84rem; color: var(--soft); padding-bottom: .45rem; }
th, td { text-align: left; vertical-align: top; padding: .38rem 1.1rem .38rem 0; border-bottom: 1px solid var(--line); }
th { border-bottom: 1.5px solid var(--ink); font-weight: 650; vertical-align: bottom; }
td:first-child:has(code) { min-width: 9.5rem; }
.number { text-align: right; white-space: nowrap; } td .kept { white-space: nowrap; } th.number { white-space: normal; }
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
td a, dd a { text-underline-offset: .15em; }
.apart { text-decoration: underline dotted var(--soft) 1px; text-underline-offset: .2em; cursor: help; }
.sortable th button { all: unset; cursor: pointer; text-decoration: underline dotted var(--soft) 1px;
  text-underline-offset: .2em; }
.sortable th button:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
.sortable [aria-sort] button { text-decoration: none; }
.sortable [aria-sort=ascending] button::after { content: "\\00a0\\25b2"; }
.sortable [aria-sort=descending] button::after { content: "\\00a0\\25bc"; }
:target { background: #fff3c4; }
.lane { display: grid; grid-template-columns: 15rem minmax(0, 1fr); gap: 0 1rem; align-items: center; margin: .35rem 0;
  font: .8rem/1.35 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
.lane svg { display: block; width: 100%; height: 2rem; background: var(--tint); border-bottom: 1px solid var(--ink); }
.lane .ticks { position: relative; height: 1.5rem; } .ticks span { position: absolute; white-space: nowrap; }
.ticks span:not(:first-child) { transform: translateX(-50%); } .ticks span:last-child { transform: translateX(-100%); }
video { display: block; width: 100%; max-width: 448px; height: auto; background: #000; }
nav { font-size: .84rem; margin: .2rem 0 0; line-height: 1.9; } nav a { margin-right: 1.1rem; white-space: nowrap; }
footer { margin-top: 3rem; font-size: .78rem; color: var(--soft); }
pre { overflow-x: auto; font-size: .8rem; background: var(--tint); padding: .7rem; }
@media (max-width: 640px) {
  body { font-size: 16px; } main { padding: 1.2rem 1rem 3rem; }
  .facts { grid-template-columns: 1fr; } .facts dt { border-bottom: 0; padding-bottom: 0; }
  .first .facts { grid-template-columns: 1fr; } .facts dd, .first .facts dd { padding-top: .1rem; }
  .stacked table, .stacked caption, .stacked tbody, .stacked tr { display: block; min-width: 0; }
  .stacked thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stacked tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  .stacked td { display: grid; grid-template-columns: 7.2rem 1fr; gap: .6rem; border: 0; padding: .08rem 0;
    text-align: left; white-space: normal; }
  .stacked td::before { content: attr(data-head); color: var(--soft); }
  .stacked td.empty { display: none; }
  .stacked .sortable thead, .stacked .sortable thead tr { display: flex; flex-wrap: wrap; gap: .1rem .9rem; }
  .stacked .sortable thead { position: static; width: auto; height: auto; clip-path: none; font-size: .78rem; }
  .stacked .sortable thead::before { content: "Sort by"; color: var(--soft); }
  .stacked .sortable thead tr { border: 0; padding: 0; } .stacked .sortable th { border: 0; padding: .1rem 0; }
  .stacked td:first-child { display: block; font-weight: 650; } .stacked td:first-child::before { content: none; }
  figure img { width: calc(100% + 1.2rem); max-width: none; margin: 0 -.6rem; }
  .lane { grid-template-columns: 1fr; margin: .6rem 0; }
  table { min-width: 100%; } th, td { padding-right: .8rem; }
}
@media print {
  @page { margin: 16mm 15mm; @bottom-right { content: counter(page) " of " counter(pages); font: 8pt sans-serif; } }
  html { font-size: 12px; } body { font-size: 10pt; } main, main > * { max-width: none; } main { padding: 0; }
  nav, video, .film { display: none; } :target { background: none; } footer { margin-top: 1rem; }
  .sortable th button { display: contents; text-decoration: none; }
  .lane, .lane svg { break-inside: avoid; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2 { margin-top: 1.6rem; } h2, h3, h3 + p, caption, summary, .note:has(+ .table) { break-after: avoid; }
  figure, section, tr, thead, .facts dd, footer { break-inside: avoid; } footer { break-before: avoid; }
  thead { display: table-header-group; break-after: avoid; } tbody tr:last-child { break-before: avoid; }
  .table { overflow: visible; font-size: 8.5pt; } .row { display: block; }
  .table th, .table td { padding-left: .3rem; padding-right: .3rem; }
  .table td, .table td :not(.kept) { white-space: normal; }
  figure { display: inline-block; vertical-align: top; width: 47%; margin-right: 2%; }
  figure:only-of-type { width: 54%; } .ways { display: none; }
  .first .facts { grid-template-columns: 12rem minmax(0, 1fr); }
  details::details-content { content-visibility: visible; block-size: auto; } summary { list-style: none; }
  a, .apart { color: inherit; text-decoration: none; }
}
"""

# Heads become buttons: a click sorts upwards, the next downwards, the third puts the rows back as they were. Cells
# carry what they are sorted by where that is a number; empty ones stay last. Without scripts the heads are plain text.
SCRIPT = """
"use strict";
for (const table of document.querySelectorAll(".table table")) {
  const body = table.tBodies[0], rows = [...body.rows];
  if (rows.length < 2) continue;
  table.classList.add("sortable");
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === "ascending" ? "descending" : now ? null : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      body.append(...(next ? sorted(rows, column, next === "descending" ? -1 : 1) : rows));
    });
  });
}
function sorted(rows, column, direction) {
  const filled = rows.filter(row => !row.cells[column].classList.contains("empty"));
  const value = row => row.cells[column].dataset.sort, text = row => row.cells[column].textContent;
  const numbers = filled.every(row => value(row) !== undefined);
  const order = numbers ? (a, b) => value(a) - value(b)
    : (a, b) => text(a).localeCompare(text(b), "en", { numeric: true });
  return [...filled.sort((a, b) => direction * order(a, b)), ...rows.filter(row => !filled.includes(row))];
}
// Print what is folded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
"""

# Jinja, rendered by nbconvert: code is left out, fragments and text come as the cells gave them.
TEMPLATE = """
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
"""

_DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="FLASHTrail">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{css}</style>
</head>
<body>
<main>
{body}
<footer>{footer}</footer>
</main>
<script>{script}</script>
</body>
</html>
"""


def document(title: str, body: str, footer: str, media: bool = False) -> str:
    """Return a whole page; `title` and `footer` are text, `body` is HTML. `media`: it may play films beside it."""
    return _DOCUMENT.format(
        policy=content_policy(media),
        title=escape(title),
        css=CSS,
        body=body,
        footer=escape(footer),
        script=SCRIPT,
    )


def content_policy(media: bool = False) -> str:
    """Return what the browser may do for the page: its own style, embedded images, the one script, nothing else."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    parts = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'"]
    parts += ["media-src 'self'"] if media else []
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])
