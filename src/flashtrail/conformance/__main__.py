"""`python -m flashtrail.conformance DIR`: prints one row a check; exit status 0 if all hold, 1 if any fails."""

from __future__ import annotations

import sys
from pathlib import Path

from flashtrail.base import commands
from flashtrail.conformance import draft_head, pi0, rules, sessions, verification, wire
from flashtrail.conformance.golden import SETS, Golden
from flashtrail.conformance.rows import Report, Row

CHECKS = {
    "G1_pi0_jax": (pi0.check,),
    "G2_verify_semantics": (rules.check, sessions.check),
    "G3_wire": (wire.check,),
    "G4_draft_head": (draft_head.check,),
    "G5_verify": (verification.check,),
}


def run(directory: Path, report: Report, sets: tuple[str, ...] = SETS) -> Report:
    """Check `directory`; every set of `sets` that it lacks is a failed row."""
    golden = Golden(directory)
    for name in sets:
        if name in golden.missing:
            report.add(Row(f"{name[:2]} set", float("inf"), None, f"{directory / name} not found"))
            continue
        for check in CHECKS[name]:
            with report.section(f"{name[:2]} {check.__module__.rsplit('.', 1)[-1]}"):
                check(golden, report)
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = commands.Parser(prog="python -m flashtrail.conformance", description=__doc__)
    parser.add_argument("directory", type=Path, help="golden data, laid out as tests/golden")
    parser.add_argument("--failed-only", action="store_true", help="print only the rows that fail")
    options = parser.parse_args(arguments)
    if not options.directory.is_dir():
        print(f"error: no directory {options.directory}; give one laid out as tests/golden", file=sys.stderr)
        return 2
    print(f"{'check':<58} {'worst':>9} {'tolerance':>9}")
    report = Report(lambda row: None if options.failed_only and row.ok else print(row, flush=True))
    run(options.directory, report)
    failed = report.failed
    print(f"{len(report.rows)} checks, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(commands.run(main, "conformance"))
