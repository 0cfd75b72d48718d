"""``flashtrail ledger``: of the episodes that the experiment asks for, which are there, and how they ended.

Counts by arm and task, from a shard's parts, or its ledger.json where none are kept: of the final report, and of the
drills and the checkup, which are optional. Below, about how long what is missing would run, by times measured here; and
for each claim that is open, the episodes that would settle it, as claims.json has them. Reads only; `rollouts.recorder`
writes, `tables.merge` refuses holes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment import config, outlook
from flashtrail.experiment.shard import config_digest
from flashtrail.tables import schemas

PARTS = "parts"
BENCHMARKS = Path("benchmarks")  # below the results: what Snakemake noted of its jobs
UNTIMED_S = 9.0  # an episode of pi0_nano, 75 steps and 9 rounds: 8-10 s on a core of a Xeon at 2.5 GHz, both cores busy
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
    return [
        entry(shard, _part(experiment, shard.arm), config_digest(experiment.arm(shard.arm)))
        for shard in outlook.shards(experiment, results)
    ]


def _part(experiment: config.Experiment, arm: str) -> str:
    return REPORT if arm in experiment.arms else "drills" if arm in experiment.drill_arms else "checkup"


def entry(shard: outlook.Shard, part: str = REPORT, digest: str = "") -> Entry:
    """Return what is there of a shard's expected episodes; others are not counted, nor those of another `digest`."""
    found, expected = outcomes(shard.directory, digest), shard.expected
    counts = Counter(found[name] for name in expected if name in found)
    missing = [name for name in expected if name not in found]
    success, horizon, error = (counts[outcome] for outcome in ("success", "horizon", "error"))
    return Entry(shard.arm, shard.task_id, len(expected), success, horizon, error, missing, part)


def outcomes(shard: Path, digest: str = "") -> dict[str, str]:
    """Return outcome by name from the parts of a shard's latest spec, where none are kept from its ledger.

    A shard that grows has the ledger of before until it is complete. `digest`: of what its episodes depend on in the
    config, as their tables hold it; those that hold another are those of another setting.
    """
    for spec in _specs(shard):
        tables = sorted(spec.glob("init_*/episodes.parquet"))
        if not tables or any(_of(table, digest) for table in tables):
            return {table.parent.name: outcome for table in tables if (outcome := _outcome(table)) is not None}
    ledger, table = shard / "ledger.json", shard / "episodes.parquet"
    if not ledger.is_file() or (table.is_file() and not _of(table, digest)):
        return {}
    return dict(provenance.json_load(ledger)["outcomes"])


def _outcome(table: Path) -> str | None:
    try:
        return str(schemas.read_table(table, schemas.EPISODES)["outcome"].to_pylist()[0])
    except (UserError, IndexError):
        return None  # being written, or damaged: the shard itself decides


def _of(table: Path, digest: str) -> bool:
    """Whether a table's episodes were run with the settings of this digest, as far as the table says."""
    try:
        return schemas.read_metadata(table).get("config_digest", digest) in (digest, "") or not digest
    except UserError:
        return False


def _specs(shard: Path) -> list[Path]:
    """Return the directories of a shard's parts, the latest spec's first."""
    specs = [path for path in shard.glob(f"{PARTS}/*") if path.is_dir() and not path.name.startswith(".")]
    return sorted(specs, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def timed(shard: Path) -> list[float]:
    """Return the seconds of a shard's episodes that were run: of its table and, where there is none, of its parts."""
    own, spec, seconds = shard / "episodes.parquet", next(iter(_specs(shard)), None), list[float]()
    for file in [own] if own.is_file() or spec is None else sorted(spec.glob(f"init_*/{own.name}")):
        try:
            table = schemas.read_table(file, schemas.EPISODES, ["outcome", "wall_s"])
        except UserError:
            continue  # as above
        seconds += [row["wall_s"] for row in table.to_pylist() if row["outcome"] in outlook.RUN]
    return seconds


@dataclass(frozen=True)
class ToRun:
    """What is missing of one part. `seconds`: of one core, all its episodes together; `measured`: by times of this
    run. `at_once`: episodes that its shards can run side by side. `start_s`: what each of its `shards` takes beside its
    episodes, None where none was measured.
    """

    part: str
    episodes: int
    shards: int
    at_once: int
    seconds: float
    measured: bool
    start_s: float | None

    def wall_s(self, cores: int) -> float:
        """Return about how long it takes on so many cores."""
        seconds = self.seconds / min(cores, self.at_once)
        return seconds + (self.start_s or 0) * self.shards / min(cores, self.shards)


def to_run(experiment: config.Experiment, results: str | Path, entries: Sequence[Entry]) -> list[ToRun]:
    """Return what is to be run of each part of which an episode is missing or ended by infrastructure."""
    times: dict[str, list[float]] = {}
    starts = []
    for shard in outlook.shards(experiment, results):
        own = timed(shard.directory)
        times.setdefault(shard.arm, []).extend(own)
        noted = "roll_out_shard" / shard.directory.relative_to(Path(results) / "rollouts").with_suffix(".tsv")
        if own and (whole := _noted_s(Path(results) / BENCHMARKS / noted)) is not None:
            starts.append(max(0.0, whole - sum(own) / experiment.rollout.simulators))
    found = []
    for part, rows in by_part(entries).items():
        due = [row for row in rows if row.missing or row.error]
        missing = Counter[str]()
        for row in due:
            missing[row.arm] += len(row.missing) + row.error
        seconds, start = outlook.seconds_left(missing, times), statistics.median(starts) if starts else None
        if due:
            total = missing.total()
            at_once = sum(min(len(row.missing) + row.error, experiment.rollout.simulators) for row in due)
            fallen_back = UNTIMED_S * total if seconds is None else seconds
            found.append(ToRun(part, total, len(due), at_once, fallen_back, seconds is not None, start))
    return found


def other_jobs(results: str | Path) -> list[float]:
    """Return the seconds of every job beside the shards that Snakemake has noted."""
    root = Path(results) / BENCHMARKS
    files = [file for file in sorted(root.rglob("*.tsv")) if file.relative_to(root).parts[0] != "roll_out_shard"]
    return [seconds for file in files if (seconds := _noted_s(file)) is not None]


def _noted_s(path: Path) -> float | None:
    """Return the seconds in a file that Snakemake's `benchmark:` wrote, whose first column they are."""
    try:
        return float(path.read_text(encoding="utf-8").splitlines()[1].split()[0])
    except (OSError, ValueError, IndexError):
        return None


def duration(found: Sequence[ToRun], others: Sequence[float], cores: int) -> str:
    """Return a line for each part that is to be run, with about how long it takes; empty where nothing is."""
    if not found:
        return ""
    how = "an episode at the mean of its arm here, else of all"
    if not found[0].measured:
        how = f"no episode has been timed here yet: about {UNTIMED_S:g} s each on a 2.5 GHz core, docs/rollouts.md"
    lines = [f"to run, on {cores} core{'s' * (cores > 1)} ({how})"]
    for one in found:
        starts = (
            ""
            if one.start_s is None
            else f", {one.shards} shard{'s' * (one.shards > 1)} to start, {one.start_s:.0f} s each"
        )
        lines.append(f"{one.part}: {one.episodes} episodes{starts}: about {outlook.duration(one.wall_s(cores))}")
    if others:
        how = f"{len(others)} took {sum(others):.0f} s here; those whose inputs stay the same do not run"
        lines.append(f"other jobs: at most {outlook.duration(sum(others) / cores)} ({how})")
    return "\n".join(lines)


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


def unsettled(path: Path) -> str:
    """Return a line for each open claim, how many episodes would settle it; empty where no claim was judged."""
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
    add("--results", type=Path, metavar="DIR", help="default: results")
    add("--cores", type=_cores, default=len(os.sched_getaffinity(0)), help="to run on (default: those of this machine)")
    add("--json", action="store_true", help="print it as JSON, missing episodes by name")


def _cores(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of cores, got {word!r}")
    return int(word)


def run(arguments: argparse.Namespace) -> int:
    """Print the ledger; exit code 1 while it is not `complete`."""
    results = arguments.results or Path("results")
    if arguments.results and not results.is_dir():  # the default is made by the first run
        raise UserError(f"{results} is not a directory: give the results of a run, --results DIR")
    experiment = config.load(*arguments.configs)
    entries = read(experiment, results)
    found, others, cores = to_run(experiment, results, entries), other_jobs(results), arguments.cores
    if arguments.json:
        due = [{**asdict(one), "wall_s": one.wall_s(cores)} for one in found]
        whole = {"entries": [_plain(one) for one in entries], "to_run": due, "cores": cores, "other_jobs_s": others}
        json.dump(whole, sys.stdout, indent=2)
        print()
    else:
        claims = results / Path(experiment.files.claims).relative_to("results")
        said = (text(entries), duration(found, others, cores), unsettled(claims))
        print("\n\n".join(part for part in said if part))
    return int(not complete(entries))


def _plain(one: Entry) -> Mapping[str, Any]:
    return {**asdict(one), "present": one.present}
