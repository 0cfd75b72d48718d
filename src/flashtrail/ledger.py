"""``flashtrail ledger``: of the episodes that the experiment asks for, which are there, and how they ended.

Counts by arm and task, while a shard runs too (its parts) and after (its ledger.json). Reads only; what is written and
what is refused as a hole is the business of `recorder` and of evidence's merge. Knows no simulator and no policy.
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

from flashtrail import config, provenance
from flashtrail.errors import UserError
from flashtrail.evidence import tables
from flashtrail.rollouts import plan

PARTS = "parts"


@dataclass(frozen=True)
class Entry:
    """One arm and task: how many episodes are expected, and how many ended in each way; `missing` by name."""

    arm: str
    task_id: int
    expected: int
    success: int
    horizon: int
    error: int
    missing: list[str] = field(default_factory=list)

    @property
    def present(self) -> int:
        """Episodes that were run, failed infrastructure not counted."""
        return self.success + self.horizon


def read(experiment: config.Experiment, results: str | Path) -> list[Entry]:
    """Return an entry for each arm and task of the experiment, from the shards under `results`/rollouts."""
    entries = []
    for arm in experiment.arms:
        spec = experiment.arm(arm)
        for task in experiment.task_ids:
            names = [key.name for key in plan.expected_episodes(spec | {"task_id": task})]
            entries.append(entry(arm, task, names, Path(results) / "rollouts" / arm / f"task_{task}"))
    return entries


def entry(arm: str, task_id: int, expected: Sequence[str], shard: Path) -> Entry:
    """Return what is there of a shard's expected episodes; those that nobody asked for are not counted."""
    found = outcomes(shard)
    counts = Counter(found[name] for name in expected if name in found)
    missing = [name for name in expected if name not in found]
    return Entry(arm, task_id, len(expected), counts["success"], counts["horizon"], counts["error"], missing)


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
            found[part.name] = tables.read_table(part / "episodes.parquet", tables.EPISODES)["outcome"].to_pylist()[0]
        except (UserError, IndexError):
            continue  # being written, or damaged: the shard itself decides
    return found


def text(entries: Iterable[Entry]) -> str:
    """Return the ledger as a table with a line of totals."""
    rows = list(entries)
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
    """Print the ledger; exit code 1 while an episode is missing or ended by infrastructure."""
    entries = read(config.load(*arguments.configs), arguments.results)
    if arguments.json:
        json.dump([_plain(one) for one in entries], sys.stdout, indent=2)
        print()
    else:
        print(text(entries))
    return int(any(one.missing or one.error for one in entries))


def _plain(one: Entry) -> Mapping[str, Any]:
    return {**asdict(one), "present": one.present}
