"""The `flashtrail` command: each subcommand is a call into a stage, imported only when it is asked for.

A stage joins by one line in `COMMANDS`: the target is ``module`` or ``module:object``, and has
``add_arguments(parser)`` and ``run(arguments) -> int | None``. Targets are text, so that the code digest of one command
does not reach the modules of another.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from flashtrail import __version__
from flashtrail.base import commands

COMMANDS: dict[str, tuple[str, str]] = {
    "audit": ("check a bundle: checksums, tables, verdicts, a rerun of some episodes", "flashtrail.record.audit"),
    "bundle": ("put a finished run into one directory that a stranger can check", "flashtrail.record.bundle"),
    "check-dataset": (
        "what loaders would refuse of demonstrations (HDF5, LeRobot, training set)",
        "flashtrail.datasets.check",
    ),
    "cite": ("how to cite the software, a run and what its report quotes", "flashtrail.record.citation:Cite"),
    "doctor": ("name the likely cause of a run that fails in silence", "flashtrail.drills.doctor"),
    "explain": ("what one episode depended on, and its replay against the record", "flashtrail.record.explain"),
    "export": ("a run's episodes as vla-eval's or lerobot's results, or CSV", "flashtrail.imports.export"),
    "export-dataset": ("demonstrations or a run's episodes as a LeRobot set", "flashtrail.datasets.export"),
    "figure": ("a figure of a report, at the width of a paper's column", "flashtrail.record.papers:Figure"),
    "import-dataset": ("a LeRobot set as a training set", "flashtrail.datasets.take"),
    "import-pickle": (
        "make artifacts of the official runtime's pickles",
        "flashtrail.checkpoints.pickle_command:Import",
    ),
    "import-run": (
        "read others' results (official client, vla-eval, lerobot, OpenVLA, CSV) into our tables",
        "flashtrail.imports.command:Import",
    ),
    "reports": (
        "one page over all reports of a directory and their sources' claims",
        "flashtrail.report.reports_index",
    ),
    "report-run": ("report on imported runs", "flashtrail.report.command:Report"),
    "ledger": ("which of the experiment's episodes are there, by arm and task", "flashtrail.experiment.ledger"),
    "settle": ("give the next episodes to the claims nearest to a decision", "flashtrail.claims.settling"),
    "summary": ("a run on one page: verdict, figure, claims, what is not claimed", "flashtrail.record.summary:Summary"),
    "table": ("a table of a report as LaTeX, Markdown or CSV", "flashtrail.record.papers:Table"),
    "watch": ("a run under way, or a policy server, in a browser on this machine", "flashtrail.report.watch"),
    "serve": ("serve a policy on the official websocket protocol", "flashtrail.serving.command"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; return its exit code: 2 for a user's mistake, which is printed as one line (`commands`)."""
    words = list(sys.argv[1:] if argv is None else argv)

    def command() -> int:
        arguments = _parser(words).parse_args(words)
        return int(arguments.run(arguments) or 0)

    return commands.run(command, _named(words) or "flashtrail")


def _named(words: Sequence[str]) -> str | None:
    """Return the subcommand that the words name, if any."""
    return next((word for word in words if word in COMMANDS), None)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser; only the subcommand that is named has its module imported and its flags added."""
    parser = commands.Parser(prog="flashtrail", description="Evidence for real-time robot policies.")
    parser.add_argument("--version", action="version", version=f"flashtrail {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    named = _named(words)
    for name, (summary, target) in sorted(COMMANDS.items()):
        sub = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == named:
            sub.set_defaults(argv=words)
            command = _load(target)
            command.add_arguments(sub)
            sub.set_defaults(run=command.run)
    return parser


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded
