"""``flashtrail ledger``: of the episodes that the experiment asks for, which are there, and how they ended.

Counts by arm and task, while a shard runs too (its parts) and after (its ledger.json): of the final report, and of the
drills and the checkup, which are optional. Below, for each claim that is open, the episodes that would settle it,
as claims.json has them. Reads only; `rollouts.recorder` writes, `tables.merge` refuses holes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flashtrail.base import names, provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment import config, episodes
from flashtrail.tables import schemas

PARTS = "parts"
CLAIMS = Path("claims/claims.json")  # below the results
REPORT = "report"  # the part of the experiment that `make report` runs; the others are called as their target, too


@dataclass(frozen=True)
class Entry:
    """One arm and task of a `part` (report, drills, checkup): how many episodes are expected, and how many ended in
    each way; `missing` by name.
    """

    arm: str
    task_id: int
    expected: int
    success: int
    horizon: int
    error: int
    missing: list[str] = field(default_factory=list)
    part: str = REPORT

    @property
    def present(self) -> int:
        """Episodes that were run, failed infrastructure not counted."""
        return self.success + self.horizon


def read(experiment: config.Experiment, results: str | Path) -> list[Entry]:
    """Return an entry for each arm and task of the experiment, from the shards under `results`/rollouts, by part."""
    entries = []
    for arm in experiment.all_arms:
        spec = experiment.arm(arm)
        part = REPORT if arm in experiment.arms else "drills" if arm in experiment.drill_arms else "checkup"
        for task in experiment.tasks_of(arm):
            keys = episodes.expected_episodes(spec["suite"], task, spec["init_states"], spec["repeats"])
            expected = [key.name for key in keys]
            entries.append(
                entry(arm, task, expected, Path(results) / "rollouts" / names.file_name(arm) / f"task_{task}", part)
            )
    return entries


def entry(arm: str, task_id: int, expected: Sequence[str], shard: Path, part: str = REPORT) -> Entry:
    """Return what is there of a shard's expected episodes; others are not counted."""
    found = outcomes(shard)
    counts = Counter(found[name] for name in expected if name in found)
    missing = [name for name in expected if name not in found]
    return Entry(arm, task_id, len(expected), counts["success"], counts["horizon"], counts["error"], missing, part)


def outcomes(shard: Path) -> dict[str, str]:
    """Return outcome by name from a shard's ledger, and where there is none from the parts of its latest spec."""
    if (shard / "ledger.json").is_file():
        return dict(provenance.json_load(shard / "ledger.json")["outcomes"])
    specs = [path for path in shard.glob(f"{PARTS}/*") if path.is_dir() and not path.name.startswith(".")]
    if not specs:
        return {}
    latest = max(specs, key=lambda path: path.stat().st_mtime_ns)
    found = {}
    for part in sorted(latest.glob("init_*")):
        try:
            found[part.name] = schemas.read_table(part / "episodes.parquet", schemas.EPISODES)["outcome"].to_pylist()[0]
        except (UserError, IndexError):
            continue  # being written, or damaged: the shard itself decides
    return found


def text(entries: Iterable[Entry]) -> str:
    """Return the ledger: a table for each part with a line of totals, or one line where none of a part was run."""
    said = []
    for part, rows in by_part(entries).items():
        if part == REPORT:
            said.append(_table(rows))
        elif begun(rows):
            said.append(f"{part}\n{_table(rows)}")
        else:
            said.append(f"{part}: 0 of {sum(row.expected for row in rows)} episodes (make {part})")
    return "\n\n".join(said)


def unsettled(results: str | Path) -> str:
    """Return a line for each open claim, how many episodes would settle it; empty where no claim was judged."""
    path = Path(results) / CLAIMS
    if not path.is_file():
        return ""
    claims = provenance.json_load(path)["claims"]
    lines = [f"{claim['id']}: {claim['settle']['words']}" for claim in claims if claim["settle"]]
    return (
        "\n".join(["open claims, and the episodes (all, those at hand included) that would settle each", *lines])
        if lines
        else ""
    )


def by_part(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Return the entries of each part."""
    parts: dict[str, list[Entry]] = {}
    for one in entries:
        parts.setdefault(one.part, []).append(one)
    return parts


def begun(entries: Iterable[Entry]) -> bool:
    """Return True if any episode of these was run or tried."""
    return any(one.present or one.error for one in entries)


def complete(entries: Iterable[Entry]) -> bool:
    """Return True if no episode is missing or ended by infrastructure: of the report, and of other parts once begun."""
    due = [one for part, rows in by_part(entries).items() for one in rows if part == REPORT or begun(rows)]
    return not any(one.missing or one.error for one in due)


def _table(rows: Sequence[Entry]) -> str:
    width = max([len("arm"), *(len(row.arm) for row in rows)])
    numbers = [(r.expected, r.present, r.success, r.horizon, r.error, len(r.missing)) for r in rows]
    lines = [f"{'arm':<{width}}  task  expected  present  success  horizon  error  missing"]
    lines += [_line(f"{r.arm:<{width}}", str(r.task_id), n) for r, n in zip(rows, numbers, strict=True)]
    return "\n".join([*lines, _line(f"{'all':<{width}}", "", [sum(column) for column in zip(*numbers, strict=True)])])


def _line(arm: str, task: str, numbers: Sequence[int]) -> str:
    widths = (8, 7, 7, 7, 5, 7)
    return "  ".join([arm, f"{task:>4}", *(f"{n:>{w}}" for n, w in zip(numbers, widths, strict=True))])


# --- the command ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("configs", nargs="*", type=Path, default=[Path("config.yaml")], help="config.yaml, then overlays")
    add("--results", type=Path, default=Path("results"), metavar="DIR")
    add("--json", action="store_true", help="print it as JSON, missing episodes by name")


def run(arguments: argparse.Namespace) -> int:
    """Print the ledger; exit code 1 while it is not `complete`."""
    entries = read(config.load(*arguments.configs), arguments.results)
    if arguments.json:
        json.dump([_plain(one) for one in entries], sys.stdout, indent=2)
        print()
    else:
        print("\n\n".join(part for part in (text(entries), unsettled(arguments.results)) if part))
    return int(not complete(entries))


def _plain(one: Entry) -> Mapping[str, Any]:
    return {**asdict(one), "present": one.present}
