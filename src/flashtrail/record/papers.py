"""``flashtrail figure`` and ``flashtrail table``: a report's figures and tables for a paper or a pull request.

Drawn and counted anew from the run's files, by the functions that made the page.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError, nearest
from flashtrail.base.names import file_name
from flashtrail.claims.campaign import Campaign
from flashtrail.record import reports

_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72}
_NARROWEST, _WIDEST = 3.0, 10.0  # inches: tests/report/test_papers.py holds every figure to the first
_SUFFIXES = {".pdf": "pdf", ".svg": "svg", ".png": "png", ".tex": "latex", ".md": "markdown", ".csv": "csv"}
_DPI = 600


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the flags that commands on a finished run share."""
    add = parser.add_argument
    add("runs", type=Path, nargs="*", metavar="RUN", help="a run, a bundle, or imported runs (default: here)")
    add("-o", "--out", type=Path, metavar="FILE", help="file to write (else: text to standard output)")
    add("--force", action="store_true", help="replace the file if it is there")


def check_out(path: Path | None, force: bool) -> None:
    """Raise UserError for a place where no file can be written, or for one that is there already, unless `force`."""
    if path is None:
        return
    if path.name in ("", "-") or path.is_dir():
        raise UserError(f"-o {path}: give the name of a file")
    if path.exists() and not path.is_file():
        raise UserError(f"-o {path} is not a regular file: give another one")
    if not path.parent.is_dir():
        raise UserError(f"-o {path}: there is no directory {path.parent}")
    if path.exists() and not force:
        raise UserError(f"{path} exists: give --force to replace it, or another -o")


def write(path: Path, force: bool, save: Callable[[Path], Any]) -> None:
    """Write a whole file, where `check_out` finds nothing wrong."""
    check_out(path, force)
    try:
        with provenance.write_atomic(path) as temporary:
            save(temporary)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    print(path)


class _OfReport:
    """What figures and tables have in common: NAME [RUN], a list where no name is given, a format, a file."""

    what = ""
    formats: tuple[str, ...] = ()

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the command's flags."""
        parser.add_argument("name", nargs="?", metavar="NAME", help=f"which {cls.what} (default: list them)")
        add_run(parser)
        parser.add_argument("--format", choices=cls.formats, help=f"default: by FILE's suffix, else {cls.formats[0]}")
        chapters = "final, lift, drills, checkup, or a chapter such as robustness or lift-claims"
        parser.add_argument("--report", metavar="NAME", help=f"whose arms: {chapters} (default: the first that has it)")

    @classmethod
    def names(cls, run: Campaign) -> list[str]:
        """Return what a report's run has, by name."""
        raise NotImplementedError

    @classmethod
    def lines(cls) -> dict[str, str]:
        """Return every name with the line that says what it shows."""
        raise NotImplementedError

    @classmethod
    def run(cls, arguments: argparse.Namespace) -> int:
        """Write one, or list all with what this run has."""
        check_out(arguments.out, arguments.force)
        cls.format_of(arguments)
        name: str | None = arguments.name
        roots: list[Path] = arguments.runs
        if name is not None and name.partition("/")[0] not in cls.lines():
            if not Path(name).is_dir():
                raise UserError(f"no {cls.what} is called {name!r}{nearest(name, cls.lines())}")
            roots, name = [Path(name), *roots], None  # RUN alone: its list
        with reports.opened(roots or [Path()]) as found:
            chosen = _chosen(found, arguments.report)
            if name is None:
                cls._list(chosen)
            else:
                report, full = cls._find(chosen, name)
                cls.give(found[report], full, arguments)
                if found[report].simulated:
                    print("note: simulated data, not evidence about any policy", file=sys.stderr)
        return 0

    @classmethod
    def _find(cls, chosen: Mapping[str, Campaign], name: str) -> tuple[str, str]:
        """Return the first report that has a name, and the name in full; UserError where none has it."""
        several: list[str] = []
        for report, run in chosen.items():
            names = cls.names(run)
            several = [name] if name in names else [full for full in names if full.partition("/")[0] == name]
            if len(several) == 1:
                return report, several[0]
            if several:
                raise UserError(f"{name}: this run has several; give one of {', '.join(several)}")
        line = cls.lines()[name.partition("/")[0]]
        raise UserError(
            f"this run has no {cls.what} {name} ({line}): flashtrail {cls.what} RUN lists those that it has"
        )

    @classmethod
    def _list(cls, chosen: Mapping[str, Campaign]) -> None:
        where: dict[str, str] = {}
        for report, run in chosen.items():
            for full in cls.names(run):
                where.setdefault(full, report)
        for name, line in cls.lines().items():
            there = {full: report for full, report in where.items() if full.partition("/")[0] == name}
            for full, report in (there or {name: "not in this run"}).items():
                print(f"{full:28} {line} ({report})")

    @classmethod
    def give(cls, run: Campaign, name: str, arguments: argparse.Namespace) -> None:
        """Write one that the run has."""
        raise NotImplementedError

    @classmethod
    def format_of(cls, arguments: argparse.Namespace) -> str:
        """Return the format asked for, by name or by the file's suffix."""
        suffix = arguments.out.suffix if arguments.out else ""
        chosen = arguments.format or _SUFFIXES.get(suffix, cls.formats[0])
        if chosen not in cls.formats or (suffix and suffix not in _SUFFIXES):
            suffixes = listed_suffixes(cls.formats)
            raise UserError(f"-o {arguments.out}: a {cls.what} is written as {suffixes}: give a name that ends so")
        if suffix and _SUFFIXES[suffix] != chosen:
            raise UserError(f"-o {arguments.out} is not a name for {chosen}: leave --format out, or give another name")
        return chosen


def listed_suffixes(formats: Iterable[str]) -> str:
    """``.pdf, .svg, .png``."""
    return ", ".join(suffix for suffix, name in _SUFFIXES.items() if name in formats)


def _chosen(found: Mapping[str, Campaign], report: str | None) -> dict[str, Campaign]:
    if report is None:
        whole = {name: run for name, run in found.items() if not reports.is_chapter(name)}
        return whole or dict(found)
    if report not in found:
        raise UserError(f"--report {report}: this run has no such report{nearest(report, found)}")
    return {report: found[report]}


class Figure(_OfReport):
    """``flashtrail figure [NAME] [RUN]``."""

    what = "figure"
    formats = ("pdf", "svg", "png")

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the command's flags."""
        super().add_arguments(parser)
        parser.add_argument("--width", type=_width, default="3.25in", help="in, cm, mm or pt (default: 3.25in)")

    @classmethod
    def names(cls, run: Campaign) -> list[str]:
        """Return the figures that a report's run has."""
        from flashtrail.report import figures

        return figures.names(run)

    @classmethod
    def lines(cls) -> dict[str, str]:
        """Return every figure with what it shows."""
        from flashtrail.report import figures

        return {name: entry.line for name, entry in figures.FIGURES.items()}

    @classmethod
    def give(cls, run: Campaign, name: str, arguments: argparse.Namespace) -> None:
        """Draw one at the width asked for."""
        from flashtrail.report import figures, plotting
        from flashtrail.report.drawing import titled

        kind = cls.format_of(arguments)
        with plotting.style(arguments.width, **{"svg.fonttype": "none"}):
            drawing = figures.drawn(run, name)
            told = {"Title": cls.lines()[name.partition("/")[0]], **plotting.UNDATED[kind]}
            out = arguments.out or Path(f"{file_name(name.replace('/', '-'))}.{kind}")
            made = io.BytesIO()
            drawing.savefig(made, format=kind, dpi=_DPI, metadata=told)
            data = titled(made.getvalue().decode()).encode() if kind == "svg" else made.getvalue()
            write(out, arguments.force, lambda path: path.write_bytes(data))


def _width(text: str) -> float:
    """Return a width in inches; a type of argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(in|cm|mm|pt)", text)
    if not match:
        raise UserError(f"--width {text}: give a number and a unit, such as 3.25in, 8.5cm, 85mm or 240pt")
    inches = float(match[1]) * _INCHES[match[2]]
    if not _NARROWEST <= inches <= _WIDEST:
        raise UserError(f"--width {text}: a figure is {_NARROWEST:g} to {_WIDEST:g} in wide; type is 7 to 9 pt at any")
    return inches


class Table(_OfReport):
    """``flashtrail table [NAME] [RUN]``."""

    what = "table"
    formats = ("latex", "markdown", "csv")

    @classmethod
    def names(cls, run: Campaign) -> list[str]:
        """Return the tables that a report's run has."""
        from flashtrail.report import tables

        return list(tables.found(run))

    @classmethod
    def lines(cls) -> dict[str, str]:
        """Return every table with what it shows."""
        from flashtrail.report import tables

        return {name: entry.line for name, entry in tables.TABLES.items()}

    @classmethod
    def give(cls, run: Campaign, name: str, arguments: argparse.Namespace) -> None:
        """Write one, to standard output where no file is named."""
        from flashtrail.report import table_formats, tables

        text = table_formats.FORMATS[cls.format_of(arguments)](tables.found(run, (name.partition("/")[0],))[name])
        if arguments.out is None:
            print(text, end="")
        else:
            write(arguments.out, arguments.force, lambda path: path.write_text(text, encoding="utf-8"))
