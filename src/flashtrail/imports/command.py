"""``flashtrail import-run``: other people's runs into our tables, by one command a run or a stage."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from flashtrail.base.errors import UserError, nearest
from flashtrail.claims import published
from flashtrail.imports import csv_run, official, writing
from flashtrail.imports.cells import INT64
from flashtrail.imports.columns import Columns, listed
from flashtrail.imports.record import Imported, Problem

_SHOWN = 40  # causes of problems printed, each with its first row; import.json has every row
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|-?\d[\d.]*")  # what differs between rows of one cause


class Import:
    """``flashtrail import-run DIR``."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the command's flags."""
        add = parser.add_argument
        add("source", type=Path, nargs="+", metavar="SOURCE", help="a run directory; with --csv, the CSV files")
        add("--csv", action="store_true", help="the sources are CSV files of rounds, of episodes or of both")
        add("--out", type=Path, required=True, metavar="DIR", help="where tables/ARM/ and profile/NAME/ go")
        add("--replace", action="store_true", help="replace an existing arm, and everything imported with it")
        add("--arm", type=_name, help="name of the arm (default: the run's id; of CSV rows, condition or run_name)")
        add("--policy", type=_name, default="unknown", help="name of the policy, which the record does not hold")
        add("--device", type=_name, help="the device it ran on, which the record does not hold")
        add("--whose", type=_name, metavar="NAME", help="a source of resources/published, to compare with")
        add("--seed", type=int, help="with --csv: the run's seed, where the files have no such column")
        add("--skip-bad-rows", action="store_true", help="write the good rows although others are bad, and exit 0")
        csv = parser.add_argument_group("columns of CSV files", f"OURS (read where its name is another): {listed()}")
        for flag, value, message in (
            ("--map", "OURS=THEIRS", "a column that has another name"),
            ("--constant", "OURS=VALUE", "a column that a file lacks"),
            ("--warmup", "OURS=VALUE,...", "rows that are warm-up: all of these values"),
        ):
            csv.add_argument(flag, action="append", default=[], metavar=value, help=f"{message}; may be repeated")

    @staticmethod
    def run(arguments: argparse.Namespace) -> int:
        """Read, say what is wrong by file and line, and write; with a bad row nothing is written unless asked."""
        _check_whose(arguments.whose)
        writing.check_out(arguments.out)
        imported = _read(arguments)
        for line in _by_cause(imported.problems):
            print(line, file=sys.stderr)
        for name, count in ((name, count) for name, count in imported.counts().items() if count["read"]):
            message = f"{name}: {count['read']} read, {count['kept']} kept, {count['left_out']} left out"
            print(message + (f", {count['warmup']} warm-up" if count["warmup"] else ""))
        for file, names in imported.unread.items():
            if names:
                print(f"{file}: columns not read: {', '.join(names)}")
        if imported.rows["profile"]:
            print(
                f"rounds without episodes: a profile, {imported.warm_rounds()} of them warm-up; it has no success rate"
            )
        if imported.problems and not arguments.skip_bad_rows:
            n = len(imported.problems)
            message = f"{n} problem{'s' * (n != 1)}, nothing written; fix the rows or give --skip-bad-rows"
            print(f"error: {message}", file=sys.stderr)
            return 1
        new, gone = writing.write(
            imported, arguments.out, arguments.device or "", arguments.whose or "", arguments.replace
        )
        if gone:
            print(f"removed with the replaced import: {', '.join(gone)}")
        command = f"flashtrail report-run {shlex.quote(str(arguments.out))}"
        print(f"{arguments.out}: {', '.join(new)}; {command} makes the report")
        return 0


def _by_cause(problems: Sequence[Problem]) -> list[str]:
    """Return a line for each cause: its first row, and how many more are like it."""
    causes: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        causes.setdefault((Path(problem.file).name, _VALUES.sub("", problem.text)), []).append(problem)
    lines = [
        f"{first}{f' (and {len(rest)} more like it)' if rest else ''}"
        for first, *rest in list(causes.values())[:_SHOWN]
    ]
    left = len(causes) - _SHOWN
    return lines + ([f"... and {left} more cause{'s' * (left != 1)}"] if left > 0 else [])


def _check_whose(name: str | None) -> None:
    known = published.load().sources if name else {}
    if name and name not in known:
        hint = nearest(name, known)
        raise UserError(f"--whose {name}: resources/published/published.yaml has no such source{hint}")


def _name(word: str) -> str:
    """Return a name from the command line; one that UTF-8 cannot hold could not be written to any table."""
    if not word.strip():
        raise argparse.ArgumentTypeError("the name is empty: give one, or leave the option out")
    try:
        word.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{word!r} is not UTF-8 text") from None
    return word


def _read(arguments: argparse.Namespace) -> Imported:
    columns = Columns.parse(arguments.map, arguments.constant, arguments.warmup)
    if arguments.csv:
        if arguments.seed is not None and not 0 <= arguments.seed <= INT64:
            raise UserError(f"--seed {arguments.seed}: a seed is a whole number from 0 to {INT64}")
        return csv_run.CsvRun(
            arguments.source, arguments.policy, arguments.seed, arguments.arm, columns, arguments.device or ""
        ).read()
    if arguments.map or arguments.constant or arguments.warmup:
        raise UserError("--map, --constant and --warmup are for CSV files: give --csv")
    if arguments.source[0].is_file():
        raise UserError(f"{arguments.source[0]} is a file, not a run directory: for CSV files give --csv")
    if len(arguments.source) != 1:
        raise UserError("give one run directory at a time, or --csv with CSV files")
    return official.read_run(arguments.source[0], arguments.policy, arguments.arm)
