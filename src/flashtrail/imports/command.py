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
from flashtrail.imports import sources, writing
from flashtrail.imports.cells import INT64
from flashtrail.imports.columns import Columns, listed
from flashtrail.imports.csv_run import CsvRun
from flashtrail.imports.record import Imported, Problem

_SHOWN = 40  # causes of problems printed, each with its first row; import.json has every row
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|-?\d[\d.]*")  # what differs between rows of one cause


class Import:
    """``flashtrail import-run DIR``."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the command's flags."""
        add = parser.add_argument
        add(
            "source",
            type=Path,
            nargs="+",
            metavar="SOURCE",
            help=f"told by content: {sources.KNOWN}; a directory of such",
        )
        add("--csv", action="store_true", help="read every source as CSV, whatever its content looks like")
        add("--out", type=Path, required=True, metavar="DIR", help="where tables/ARM/ and profile/NAME/ go")
        add("--replace", action="store_true", help="replace an existing arm, and everything imported with it")
        arm = "name of the arm (default: the run's id; of CSV rows, condition or run_name; else the source's name)"
        add("--arm", type=_name, action="append", help=f"{arm}; once, or once for each source")
        policy = "name of the policy, which the record does not hold; once, or once for each source"
        add("--policy", type=_name, action="append", help=policy)
        add("--device", type=_name, help="the device it ran on, which the record does not hold")
        add("--whose", type=_name, metavar="NAME", help="a source of resources/published, to compare with")
        add("--seed", type=int, help="the run's seed, where the files do not say it")
        add("--skip-bad-rows", action="store_true", help="write the good rows although others are bad, and exit 0")
        csv = parser.add_argument_group(
            "columns of files of episodes", f"OURS (read where its name is another): {listed()}"
        )
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
        runs = _read(arguments)
        problems = [problem for imported in runs for problem in imported.problems]
        for line in _by_cause(problems):
            print(line, file=sys.stderr)
        for imported in runs:
            _say(imported)
        if problems and not arguments.skip_bad_rows:
            n = len(problems)
            message = f"{n} problem{'s' * (n != 1)}, nothing written; fix the rows or give --skip-bad-rows"
            print(f"error: {message}", file=sys.stderr)
            return 1
        writing.check_free(runs, arguments.out, arguments.replace)
        for imported in runs:
            new, gone = writing.write(
                imported, arguments.out, arguments.device or "", arguments.whose or "", arguments.replace
            )
            if gone:
                print(f"removed with the replaced import: {', '.join(gone)}")
            command = f"flashtrail report-run {shlex.quote(str(arguments.out))}"
            print(f"{arguments.out}: {', '.join(new)}; {command} makes the report")
        return 0


def _say(imported: Imported) -> None:
    """Print how many rows were read, which of them ended in an error, and which columns nothing reads."""
    for name, count in ((name, count) for name, count in imported.counts().items() if count["read"]):
        message = f"{name}: {count['read']} read, {count['kept']} kept, {count['left_out']} left out"
        print(message + (f", {count['warmup']} warm-up" if count["warmup"] else ""))
    if errors := sum(row["outcome"] == "error" for row in imported.rows["episodes"]):
        print(f"{errors} of them ended in an error and are in no success rate")
    for file, names in imported.unread.items():
        if names:
            print(f"{file}: columns not read: {', '.join(names)}")
    if imported.rows["profile"]:
        print(f"rounds without episodes: a profile, {imported.warm_rounds()} of them warm-up; it has no success rate")


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


def _read(arguments: argparse.Namespace) -> list[Imported]:
    """Return one import a run: all sources together or, with as many names as sources, those of one name together."""
    if arguments.seed is not None and not 0 <= arguments.seed <= INT64:
        raise UserError(f"--seed {arguments.seed}: a seed is a whole number from 0 to {INT64}")
    n, policies = len(arguments.source), arguments.policy or ["unknown"]
    arms = arguments.arm or (policies if len(policies) > 1 else [None])
    for flag, names in (("--arm", arms), ("--policy", policies)):
        if len(names) not in (1, n):
            raise UserError(
                f"{flag} is there {len(names)} times and there are {n} sources: give it once, or once a source"
            )
    named = Columns.parse(arguments.map, arguments.constant, arguments.warmup)
    runs: dict[tuple[str | None, str], list[Path]] = {}
    for at, source in enumerate(arguments.source):
        runs.setdefault((arms[at % len(arms)], policies[at % len(policies)]), []).append(source)
    more = (named, arguments.device or "")
    return [
        CsvRun(paths, policy, arguments.seed, arm, *more).read()
        if arguments.csv
        else sources.read(paths, policy, arguments.seed, arm, *more)
        for (arm, policy), paths in runs.items()
    ]
