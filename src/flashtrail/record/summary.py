"""``flashtrail summary``: a run on one page of paper (A4, PDF): verdict, figure, claims, what is not claimed.

matplotlib's PDF backend writes it, without a browser: the page is larger than the figure, and words stand around it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.transforms import Bbox

from flashtrail.base.errors import UserError
from flashtrail.claims.campaign import Campaign
from flashtrail.record import citation, reports
from flashtrail.record.papers import add_run, check_out, write
from flashtrail.report import cards, claims_chapter, figures, headline, overview, page, plotting
from flashtrail.report.palette import GREY, INK

_WIDE, _HIGH, _MARGIN = 8.27, 11.69, 0.6  # A4, inches
_TEXT = _WIDE - 2 * _MARGIN
_MAIN = ("tradeoff", "success", "latency")  # the first that the run has and that leaves room for words
_TALLEST = 4.4
_COLUMNS = (0.0, 0.42, 3.55, 4.5)  # of the claims: id, title, verdict, numbers


class Summary:
    """``flashtrail summary RUN -o FILE.pdf``."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the command's flags."""
        add_run(parser)
        parser.add_argument("--report", metavar="NAME", help="which, such as lift (default: the first: final)")

    @staticmethod
    def run(arguments: argparse.Namespace) -> int:
        """Write the page."""
        out = arguments.out or Path("summary.pdf")
        if out.suffix != ".pdf":
            raise UserError(f"-o {out}: the summary is a PDF; give a name that ends in .pdf")
        check_out(out, arguments.force)
        roots = arguments.runs or [Path()]
        with reports.opened(roots) as found, plotting.style(_TEXT):
            main = {name: run for name, run in found.items() if reports.is_main(name)}
            if not main:
                raise UserError(f"{roots[0]} has no final report: make report, then try again")
            if arguments.report not in (None, *main):
                raise UserError(f"--report {arguments.report}: this run has {', '.join(main)}")
            run = main[arguments.report or next(iter(main))]
            sheet = _sheet(run, citation.facts([run], roots[0]))
            write(out, arguments.force, sheet.save)
        return 0


@dataclass
class _Sheet:
    """A page that is filled from above. `at`: the next free place below its upper edge, in inches."""

    figure: Figure
    at: float = _MARGIN
    placed: float = 0.0  # of the figure's upper edge
    words: list[tuple[float, float, str, dict[str, Any]]] = field(default_factory=list)

    def line(self, cells: Sequence[tuple[float, str]], size: float, bold: bool = False, ink: str = INK) -> None:
        """Write cells beside each other, each from its place on."""
        look = {"fontsize": size, "fontweight": "bold" if bold else "normal", "color": ink}
        self.at += 1.35 * size / 72
        self.words += [(x, self.at, text, look) for x, text in cells]

    def row(self, texts: Sequence[str], size: float) -> None:
        """Write a claim's line, each text cut to its column."""
        rooms = [end - start - 0.1 for start, end in zip(_COLUMNS, (*_COLUMNS[1:], _TEXT + 0.1), strict=True)]
        cut = [self.cut(text, size, room) for text, room in zip(texts, rooms, strict=True)]
        self.line(list(zip(_COLUMNS, cut, strict=True)), size)

    def paragraph(self, text: str, size: float, bold: bool = False, ink: str = INK, left: float = 0.0) -> None:
        """Write a text in as many lines as it takes."""
        for part in self.wrapped(text, size, bold, _TEXT - left):
            self.line([(left, part)], size, bold, ink)

    def wrapped(self, text: str, size: float, bold: bool, room: float) -> list[str]:
        """Return the lines of a text that are at most `room` inches wide."""
        lines = [""]
        for word in text.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self.width(longer, size, bold) > room:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines

    def cut(self, text: str, size: float, room: float) -> str:
        """Return a text that is at most `room` inches wide, cut if need be."""
        while self.width(text, size) > room:
            text = text.rstrip("\u2026")[:-1].rstrip() + "\u2026"
        return text

    def width(self, text: str, size: float, bold: bool = False) -> float:
        """Return a text's width in inches."""
        font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
        renderer = self.figure.canvas.get_renderer()  # type: ignore[attr-defined]
        return float(renderer.get_text_width_height_descent(text, font, False)[0] / self.figure.dpi)

    def draw(self) -> None:
        """Leave room for the figure."""
        self.placed = self.at + 0.1
        self.at = self.placed + self.figure.get_figheight()

    def save(self, path: Path) -> None:
        """Write the page; its words are placed from the figure's lower left corner."""
        below = _HIGH - self.placed - self.figure.get_figheight()
        wide, high = self.figure.get_size_inches()
        self.figure.set_layout_engine("none")  # it is laid out, and the page that is saved is another
        for legend in self.figure.legends:
            legend.set_bbox_to_anchor((0, 0, 1, 1), transform=self.figure.transFigure)
        for x, down, text, look in self.words:
            self.figure.text(x / wide, (_HIGH - down - below) / high, text, in_layout=False, **look)
        told: dict[str, Any] = {"Title": "FLASHTrail: summary of a run", **plotting.UNDATED["pdf"]}
        page_box = Bbox.from_bounds(-_MARGIN, -below, _WIDE, _HIGH)
        self.figure.savefig(path, format="pdf", bbox_inches=page_box, metadata=told)


def _main_figure(run: Campaign) -> tuple[Figure, str]:
    for name in _MAIN:
        if name in figures.FIGURES and figures.FIGURES[name].of(run):
            drawing = figures.drawn(run, name)
            if drawing.get_figheight() <= _TALLEST:
                return drawing, figures.FIGURES[name].line
    return plt.figure(figsize=(_TEXT, 0.01)), ""


def _sheet(run: Campaign, facts: dict[str, str]) -> _Sheet:
    drawing, caption = _main_figure(run)
    sheet = _Sheet(drawing)
    claims = (run.claims or {"claims": []})["claims"]
    sheet.line([(0, overview.subject(run))], 13, bold=True)
    about = [facts[key] for key in ("episodes", "date", "device") if key in facts]
    sheet.paragraph(f"FLASHTrail. {'; '.join(about)}; seed {facts.get('seed', 'not recorded')}.", 8, ink=GREY)
    if run.simulated:
        sheet.paragraph("Simulated data: not evidence about any policy.", 9, bold=True)
    sheet.at += 0.08
    sheet.paragraph(headline.said(run).text, 11, bold=True)
    sheet.draw()
    sheet.paragraph(f"{caption}. 95 % intervals." if caption else "", 7.5, ink=GREY)
    sheet.at += 0.1
    heads = ("", "Claim", "Verdict", "k/n; difference [95 %]")
    sheet.line(list(zip(_COLUMNS, heads, strict=True)), 8, bold=True)
    for group, members in cards.grouped(claims).items():
        if tested := cards.split(members)[0]:
            sheet.line([(0, cards.GROUPS[group])], 7.5, ink=GREY)
        for claim in tested:
            verdict = f"{page.MARKS[claim['verdict']]} {claim['verdict']}"
            sheet.row((claim["id"], claim["title"], verdict, cards.short(claim)), 7.5)
    _last(sheet, [claim for claim in claims if claim["verdict"] == "not_tested"], facts, run)
    return sheet


def _last(sheet: _Sheet, untested: Sequence[Any], facts: dict[str, str], run: Campaign) -> None:
    """Write what is not claimed, then how to repeat the run."""
    sheet.at += 0.1
    sheet.line([(0, "Not claimed")], 8, bold=True)
    names = "; ".join(f"{claim['id']} {claim['title']}" for claim in untested)
    for text in (*claims_chapter.limits(run), *([f"Not tested: {names}."] if names else [])):
        sheet.paragraph(f"\u2013 {text}", 7.5)
    sheet.at += 0.1
    sheet.line([(0, "How to repeat")], 8, bold=True)
    digests = ", ".join(f"{key} {facts[key]}" for key in ("config", "artifact", "code", "manifest") if key in facts)
    sheet.paragraph(f"{run.repeat or 'make report'}. Digests: {digests or 'not recorded'}.", 7.5)
    sheet.paragraph("Its tables and verdicts: flashtrail bundle, then flashtrail audit BUNDLE --rerun 5%.", 7.5)
    if "versions" in facts:
        sheet.paragraph(f"Versions: {facts['versions']}.", 7.5)
    if sheet.at > _HIGH - _MARGIN / 2:
        raise UserError(f"the summary of this run needs {sheet.at:.1f} in: more than a page; see its report")
