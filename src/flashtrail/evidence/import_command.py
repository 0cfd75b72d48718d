"""``flashtrail import-run`` and ``flashtrail report-run``: other people's runs into tables, and tables into the report.

Knows flags, files and exit codes; reading is in imports.py and imports_csv.py, judging and drawing where they always
are: an imported run passes through the same summaries, claims and notebook as one of ours.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from flashtrail import provenance
from flashtrail.errors import UserError
from flashtrail.evidence import imports, imports_csv, tables

_PROJECT = provenance.PACKAGE_ROOT.parents[1]
_SHOWN = 40  # problems printed; all of them are in import.json


class Import:
    """``flashtrail import-run DIR``."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the command's flags."""
        add = parser.add_argument
        add("source", type=Path, nargs="+", metavar="SOURCE", help="a run directory; with --csv, the CSV files")
        add("--csv", action="store_true", help="the sources are per-round and per-episode CSV files")
        add("--out", type=Path, required=True, metavar="DIR", help="where tables/ARM/*.parquet and import.json go")
        add("--arm", help="name of the arm (default: the run's id; of CSV rows, their condition or run_name)")
        add("--policy", default="unknown", help="name of the policy; the record does not say it")
        add("--device", default="", help="the device it ran on; the record does not say it")
        add("--seed", type=int, help="with --csv: the run's seed, which the files do not have")
        add("--skip-bad-rows", action="store_true", help="write what can be read although rows are bad, and exit 0")

    @staticmethod
    def run(arguments: argparse.Namespace) -> int:
        """Read, say what is wrong by file and line, and write; with a bad row nothing is written unless asked."""
        found = _read(arguments)
        for problem in found.problems[:_SHOWN]:
            print(problem, file=sys.stderr)
        if len(found.problems) > _SHOWN:
            print(f"... and {len(found.problems) - _SHOWN} more", file=sys.stderr)
        for name, count in found.counts().items():
            print(f"{name}: {count['read']} read, {count['kept']} kept, {count['left_out']} left out")
        if found.problems and not arguments.skip_bad_rows:
            print(
                f"error: {len(found.problems)} problems, nothing written; mend them or say --skip-bad-rows",
                file=sys.stderr,
            )
            return 1
        arms = imports.write(found, arguments.out, arguments.device)
        print(f"{arguments.out}: {', '.join(arms)}; flashtrail report-run {arguments.out} makes the report")
        return 0


def _read(arguments: argparse.Namespace) -> imports.Imported:
    if arguments.csv:
        if arguments.seed is None:
            raise UserError("CSV files do not name the run's seed: say it with --seed")
        return imports_csv.read_csv(arguments.source, arguments.policy, arguments.seed, arguments.arm)
    if len(arguments.source) != 1:
        raise UserError("give one run directory at a time, or --csv with CSV files")
    return imports.read_run(arguments.source[0], arguments.policy, arguments.arm)


class Report:
    """``flashtrail report-run DIR...``."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the command's flags."""
        add = parser.add_argument
        add("runs", type=Path, nargs="+", metavar="DIR", help="what import-run wrote; several are shown side by side")
        add("--out", type=Path, metavar="DIR", help="where the report goes (default: the first DIR)")
        add("--claims", type=Path, default=_PROJECT / "claims.yaml", metavar="FILE", help="the claims to judge")
        notebook = _PROJECT / "notebooks" / "final.ipynb"
        add("--notebook", type=Path, default=notebook, metavar="FILE", help="what is rendered (default: final.ipynb)")

    @staticmethod
    def run(arguments: argparse.Namespace) -> int:
        """Summarise each arm, judge the claims on them, and render the page."""
        from flashtrail.evidence import claims, report

        out = arguments.out or arguments.runs[0]
        inputs = prepare(arguments.runs, out)
        provenance.json_dump(claims.evaluate(arguments.claims, inputs), out / "claims.json")
        inputs["claims"] = str((out / "claims.json").resolve())
        inputs |= write_pages(inputs, out)
        provenance.json_dump(inputs, out / "inputs.json")
        report.render(arguments.notebook, out / "report.ipynb", out / "report.html", inputs)
        return 0


def write_pages(inputs: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write the pages of all episodes below `out`; return the inputs by which the report links to them."""
    from flashtrail.evidence import episode_pages, links

    directory = out.resolve() / links.DIRECTORY
    pages, arms = [], []
    for place in range(len(inputs["arms"])):
        files = {name: inputs[name][place] for name in tables.SCHEMAS}
        arm = tables.read_table(files["episodes"], tables.EPISODES, ["arm"])["arm"][0].as_py()
        arms.append(arm)
        episode_pages.write_arm(directory / links.directory(arm), files, report="../../report.html")
        pages.append(str(directory / links.directory(arm) / links.INDEX))
    index = directory / links.INDEX
    episode_pages.write_index(index, inputs, arms, report="../report.html")
    return {"pages": pages, "page_index": str(index)}


def prepare(runs: list[Path], out: Path) -> dict[str, Any]:
    """Write a summary of each arm below `out` and return the inputs of a report: kinds of files and their paths."""
    from flashtrail.evidence import summaries

    inputs: dict[str, Any] = {name: [] for name in (*tables.SCHEMAS, "summaries", "arms")}
    for root in runs:
        directories = sorted(path.parent for path in (root / "tables").glob("*/episodes.parquet"))
        if not directories:
            raise UserError(f"{root}/tables has no arm: is this what flashtrail import-run wrote?")
        for directory in directories:
            if directory.name in inputs["arms"]:
                raise UserError(f"arm {directory.name!r} is in two runs: import one of them with another --arm")
            files = {name: str((directory / f"{name}.parquet").resolve()) for name in tables.SCHEMAS}
            summary = (out / "summaries" / f"{directory.name}.json").resolve()
            provenance.json_dump(summaries.summarize_arm(**files), summary)
            for name, path in {**files, "summaries": str(summary), "arms": directory.name}.items():
                inputs[name].append(path)
    return inputs
