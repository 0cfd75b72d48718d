"""How near a finished report's run came to what its episodes need: the bound, the wall time, and where the rest went.

Necessary are the resets, physics steps, pictures and policy rounds in the run's tables, each at its unit cost measured
here and now: the run's own actions in the real simulator (CPU seconds), recorded observations through the real engine.
That over the cores is the bound. The wall time is read from Snakemake's own record of each job (.snakemake/metadata)
and its logs (when a session began, how many cores it had); results/logs tells a job's threads. A run of several
sessions counts their sum; episodes that none of them ran (taken from an earlier run) are counted apart. Each
core-second of the wall time is in exactly one row. Prints a table and writes results/benchmarks/dag.json.
``make bench-dag``; compare on the machine of the run, quiet.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flashtrail.base import commands, forkserver, provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.record import snakemake_record
from flashtrail.simulators import registry
from flashtrail.statistics.wording import plural
from flashtrail.tables import schemas

SHARD, FINAL = "roll_out_shard", "reports/final.html"
GROUPS = {
    "notebooks": r"render_.*",
    "tables, claims, episode pages": r"(merge|evaluate|index|write|derive|diagnose|judge)_.*",
    "parity and kernels (compilation is theirs)": "check_parity|check_kernels",
    "boot, smoke test, recorded observations": "boot_server|smoke.*|record_observations",
    "profile": "profile_.*",
    "other rules": ".*",
}
NEEDED, BEYOND = "rollouts: necessary work", "rollouts: beyond it"
START, AROUND = "shards: start of server and simulators", "shards: between and after episodes"
SCHEDULING, IDLE = "Snakemake: no job runs (all cores)", "idle cores beside running jobs"


class Span(NamedTuple):
    """From when to when, in s since 1970."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """Seconds."""
        return self.end - self.start


class Job(NamedTuple):
    """One job as Snakemake recorded it."""

    rule: str
    log: str
    span: Span
    threads: int
    script: str


class Episode(NamedTuple):
    """One row of the tables: when it ran, what it needed."""

    arm: str  # as a name of files
    key: EpisodeKey
    policy: str
    span: Span
    steps: int
    pictures: int
    routes: Counter[str]


# --- what the run left ---


def jobs(root: Path) -> list[Job]:
    """Return each job once, by its start; UserError where no report was finished."""
    records = snakemake_record.records(root)
    if FINAL not in records or not (root / FINAL).is_file():
        raise UserError(f"{root} has no finished {FINAL} that Snakemake knows of: run make report first")
    found = {}
    for record in records.values():
        if record.get("starttime") and record.get("endtime"):
            log = next(iter(record.get("log") or ()), "")
            left = root / Path(log).with_suffix(".json")
            job = provenance.json_load(left) if log and left.is_file() else {}
            script = (job.get("params", {}).get("code") or {}).get("of", [""])[0]
            span = Span(float(record["starttime"]), float(record["endtime"]))
            found[record["rule"], log] = Job(record["rule"], log, span, int(job.get("threads", 1)), script)
    return sorted(found.values(), key=lambda job: job.span)


def episodes(root: Path) -> list[Episode]:
    """Return the episodes of all merged tables."""
    found = []
    for directory in sorted(path.parent for path in (root / "results/tables").glob("*/episodes.parquet")):
        rounds: dict[tuple[Any, ...], list[tuple[int, str]]] = defaultdict(list)
        for row in schemas.read_table(directory / "rounds.parquet", schemas.ROUNDS).to_pylist():
            rounds[_key(row)].append((row["env_step"], row["route"]))
        for row in schemas.read_table(directory / "episodes.parquet", schemas.EPISODES).to_pylist():
            key, asked = _key(row), rounds[_key(row)]
            start = datetime.datetime.fromisoformat(row["started_at"]).timestamp()
            pictures = len({step for step, _ in asked if step > 0})  # the first is the reset's
            routes = Counter(route for _, route in asked)
            span = Span(start, start + row["wall_s"])
            found.append(Episode(directory.name, key, row["policy"], span, row["steps"], pictures, routes))
    if not found:
        raise UserError(f"{root}/results/tables holds no episodes: run make report first")
    return found


def _key(row: Mapping[str, Any]) -> EpisodeKey:
    return EpisodeKey(row["suite"], row["task_id"], row["init_state"], row["repeat"])


def sessions(root: Path, known: Sequence[Job], played: Sequence[Episode]) -> tuple[list[Span], set[int]]:
    """Return when snakemake ran for these jobs and episodes, and the numbers of cores that its logs name."""
    begins, cores = {}, set()
    for log in sorted((root / ".snakemake/log").glob("*.snakemake.log")):
        if stamp := re.match(r"\d{4}-\d\d-\d\dT\d{6}\.\d+", log.name):
            begins[datetime.datetime.strptime(stamp[0], "%Y-%m-%dT%H%M%S.%f").timestamp()] = log
    first = known[0].span.start
    starts = sorted(begin for begin in begins if begin < known[-1].span.start)
    if not starts or starts[0] > first:
        starts.insert(0, first)
    found = []
    for place, start in enumerate(starts):
        until = starts[place + 1] if place + 1 < len(starts) else float("inf")
        ends = [s.end for s in (*(j.span for j in known), *(e.span for e in played)) if start <= s.start < until]
        if ends:
            found.append(Span(start, max(ends)))
            if start in begins:
                said = re.search(r"Provided cores: (\d+)", begins[start].read_text(encoding="utf-8", errors="replace"))
                cores |= {int(said[1])} if said else set()
    return found, cores


# --- where the time went ---


def account(known: Sequence[Job], ran: Sequence[Episode], seen: Sequence[Span], cores: int) -> dict[str, float]:
    """Return core-seconds by row (all but NEEDED, which BEYOND still holds); they sum to cores x wall time.

    UserError if more threads ran at once than there are cores.
    """
    rows: dict[str, float] = defaultdict(float)
    for job in known:
        if job.rule == SHARD:
            inside = _union(e.span for e in ran if job.span.start <= e.span.start < job.span.end and _of(e, job))
            rolled = sum(min(span.end, job.span.end) - span.start for span in inside)
            begin = inside[0].start if inside else job.span.end
            rows[BEYOND] += job.threads * rolled
            rows[START] += job.threads * (begin - job.span.start)
            rows[AROUND] += job.threads * (job.span.end - begin - rolled)
        else:
            rows[group(job.rule)] += job.threads * job.span.length
    for session in seen:
        edges = sorted({*session, *(t for job in known for t in job.span if session.start <= t <= session.end)})
        for start, end in itertools.pairwise(edges):
            busy = sum(job.threads for job in known if job.span.start <= start and job.span.end >= end)
            if busy > cores and end - start > 1:
                raise UserError(f"{busy} threads ran at once on {cores} cores: say --cores as the run had them")
            rows[IDLE if busy else SCHEDULING] += (end - start) * (cores - busy)
    return dict(rows)


def _of(episode: Episode, job: Job) -> bool:
    """Whether the shard is the episode's: its log is results/logs/roll_out_shard/ARM/task_N.log."""
    return Path(job.log).parts[-2:] == (episode.arm, f"task_{episode.key.task_id}.log")


def stopped(known: Sequence[Job], ran: Sequence[Episode], seen: Sequence[Span]) -> list[Job]:
    """Return the shards that were ended before Snakemake recorded them, from their first to their last episode."""
    strays: dict[tuple[str, Span], list[Span]] = defaultdict(list)
    for e in ran:
        if not any(j.rule == SHARD and _of(e, j) and j.span.start <= e.span.start < j.span.end for j in known):
            session = next(span for span in seen if span.start <= e.span.start <= span.end)
            strays[f"{e.arm}/task_{e.key.task_id}.log", session].append(e.span)
    return [
        Job(SHARD, log, Span(min(s.start for s in spans), max(s.end for s in spans)), 1, "")
        for (log, _), spans in strays.items()
    ]


def _union(spans: Iterable[Span]) -> list[Span]:
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.start <= found[-1].end:
            found[-1] = Span(found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


def group(rule: str) -> str:
    """Return the row of a rule that is not a shard."""
    return next(name for name, pattern in GROUPS.items() if re.fullmatch(pattern, rule))


# --- unit costs, measured now ---


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return a median with its range and n."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values), "n": len(values)}


def simulator_costs(root: Path, task: tuple[str, int], most: int = 100) -> dict[str, dict[str, Any]]:
    """Replay one of the run's episodes, at most `most` steps: CPU s of a reset, a step, a step with pictures."""
    suite, number = task
    for table in sorted((root / "results/tables").glob("*/steps.parquet")):
        rows = [r for r in schemas.read_table(table, schemas.STEPS).to_pylist() if (r["suite"], r["task_id"]) == task]
        if rows:
            break
    else:
        raise UserError(f"no table holds steps of {suite} task {number}: run make report again")
    seed = schemas.read_table(table.with_name("episodes.parquet"), schemas.EPISODES)["seed"][0].as_py()
    key = _key(rows[0])
    actions = [row["action"] for row in rows if _key(row) == key][:most]
    simulator = registry.make(suite, number, seed=seed, scene_seed="episode", hard_reset=True)
    times: dict[str, list[float]] = {"reset": [], "step": [], "step with pictures": []}

    def timed(what: str, call: Any, *words: Any, **named: Any) -> None:
        began = time.process_time()
        call(*words, **named)
        times[what].append(time.process_time() - began)

    for _ in range(3):
        timed("reset", simulator.reset, key)
    for place, action in enumerate(actions, 1):
        shown = place % 4 == 0
        timed("step with pictures" if shown else "step", simulator.step, action, render=shown)
    simulator.close()
    return {what: spread(values) for what, values in times.items() if values}


def round_costs(root: Path, policy: str, samples: int) -> dict[str, dict[str, Any]]:
    """Run the profile's own script on its recorded observations once more: s for a round of each route."""
    left = root / f"results/logs/profile_routes/{policy}.json"
    if not left.is_file():
        return {}
    job = provenance.json_load(left)
    with tempfile.TemporaryDirectory(prefix="bench-dag-") as place:
        job["output"] = {name: f"{place}/{Path(file).name}" for name, file in job["output"].items()}
        job["params"] |= {"samples": samples, "warmup": 3}
        job["log"] = None
        Path(place, "job.json").write_text(json.dumps(job), encoding="utf-8")
        _python(root, "scripts/profile_routes.py", f"{place}/job.json")
        rows = schemas.read_table(job["output"]["rounds"], schemas.PROFILE).to_pylist()
    routes = sorted({row["route"] for row in rows})
    return {r: spread([x["policy_ms"] / 1000 for x in rows if x["route"] == r and not x["warmup"]]) for r in routes}


def import_costs(root: Path, scripts: Iterable[str]) -> dict[str, float]:
    """CPU seconds in which each script's process starts and imports what it names at its top, or a notebook does."""
    found = {}
    for script in sorted(set(scripts) - {""}):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        imports = ", ".join(["runpy", *forkserver.SCRIPTS.get(Path(script).name, ())])
        _python(root, "-c", f"import {imports}; runpy.run_path({script!r})")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found[script] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found


def _python(root: Path, *words: str) -> None:
    done = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{words[0]} {words[-1]} failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")


def necessary(ran: Sequence[Episode], simulators: Mapping[Any, Any], rounds: Mapping[str, Any]) -> dict[str, float]:
    """Return s of necessary work by kind; a task that was not measured costs the median of those that were.

    Rounds of a policy without a profile count nothing, so the bound is one from below.
    """
    found: dict[str, float] = defaultdict(float)
    counts = Counter[tuple[str, Any]]()
    for e in ran:
        task = (e.key.suite, e.key.task_id)
        counts += Counter({("reset", task): 1, ("step", task): e.steps - e.pictures})
        counts["step with pictures", task] += e.pictures
        for route, number in e.routes.items():
            found["rounds"] += number * rounds.get(e.policy, {}).get(route, {"median": 0.0})["median"]
    for (kind, task), number in counts.items():
        costs = [c[kind]["median"] for c in simulators.values() if kind in c]
        one = simulators.get(task, {}).get(kind, {}).get("median", statistics.median(costs) if costs else 0.0)
        found[kind] += number * one
    return dict(found)


def table(found: Mapping[str, Any]) -> str:
    """Return what was found as text."""
    cores, wall, counts = found["cores"], found["wall_s"], found["counts"]
    lines = [
        f"{counts['episodes']} episodes, {counts['steps']} steps, {counts['pictures']} pictures, "
        f"{counts['rounds']} rounds; {counts['taken']} more taken from earlier runs",
        f"unit costs, measured now on {plural(len(found['units']['simulators']), 'task')} (median, range, n):",
    ]
    for place, costs in {**found["units"]["simulators"], **found["units"]["rounds"]}.items():
        for kind, c in costs.items():
            words = f"{1000 * c['median']:.1f} ms ({1000 * c['lowest']:.1f} to {1000 * c['highest']:.1f}, n={c['n']})"
            lines.append(f"  {place} {kind}: {words}")
    lines += [f"necessary: {', '.join(f'{kind} {s:.1f} s' for kind, s in found['necessary_s'].items())}", ""]
    lines.append(f"{'where the time went':<46}{'core-s':>9}{'of all':>8}{'imports, core-s':>17}")
    for name, seconds in found["rows"].items():
        imports = f"{found['imports_s'][name]:.1f}" if name in found["imports_s"] else ""
        lines.append(f"{name:<46}{seconds:>9.1f}{seconds / (cores * wall):>8.1%}{imports:>17}")
    told = plural(len(found["sessions"]), "session")
    if found["rows"][BEYOND] < 0:
        lines.append(
            "The episodes took less than their necessary work does now: this machine is slower than in the run."
        )
    lines += [
        f"{'all':<46}{cores * wall:>9.1f}{1:>8.1%}",
        "",
        f"bound {found['bound_s']:.1f} s on {cores} cores, wall time {wall:.1f} s in {told}: "
        f"ratio {found['ratio']:.2f} (goal 0.80)",
        f"outside the shards {found['outside_s']:.1f} s of wall time (core-seconds over cores; goal 90)",
    ]
    return "\n".join(lines)


def measure(root: Path, cores: int | None, tasks: int, samples: int) -> dict[str, Any]:
    """Read the run in `root`, measure its unit costs, and return everything the table shows."""
    known, every = jobs(root), episodes(root)
    seen, said = sessions(root, known, every)
    if cores is None and len(said) != 1:
        raise UserError(f"the run's logs name {sorted(said) or 'no'} numbers of cores: say --cores")
    cores = cores or said.pop()
    ran = [e for e in every if any(s.start <= e.span.start <= s.end for s in seen)]
    known += stopped(known, ran, seen)
    rows, wall = account(known, ran, seen, cores), sum(span.length for span in seen)
    all_tasks = sorted({(e.key.suite, e.key.task_id) for e in ran})
    chosen = all_tasks[:: max(1, -(-len(all_tasks) // tasks))]
    simulators = {task: simulator_costs(root, task) for task in chosen}
    rounds = {policy: round_costs(root, policy, samples) for policy in sorted({e.policy for e in ran})}
    needed = necessary(ran, simulators, rounds)
    starts = import_costs(root, (job.script for job in known))
    imports, counted = defaultdict[str, float](float), set[str]()
    for job in known:
        forked = Path(job.script).name in forkserver.SCRIPTS  # all jobs of the script are, of one import
        if job.rule != SHARD and not (forked and job.script in counted):
            counted.add(job.script)
            imports[group(job.rule)] += starts.get(job.script, 0.0)
    total = sum(needed.values())
    order = [BEYOND, START, AROUND, *GROUPS, SCHEDULING, IDLE]
    shown = {NEEDED: total} | {name: rows.get(name, 0.0) - (total if name == BEYOND else 0) for name in order}
    return {
        "root": root.name,
        "machine": {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 2)},
        "cores": cores,
        "wall_s": wall,
        "sessions": [[span.start, span.end] for span in seen],
        "counts": {
            "episodes": len(ran),
            "taken": len(every) - len(ran),
            "steps": sum(e.steps for e in ran),
            "pictures": sum(e.pictures for e in ran),
            "rounds": sum(e.routes.total() for e in ran),
        },
        "units": {"simulators": {f"{s} task {n}": c for (s, n), c in simulators.items()}, "rounds": rounds},
        "necessary_s": needed,
        "bound_s": total / cores,
        "ratio": total / cores / wall,
        "outside_s": sum(shown[name] for name in (*GROUPS, SCHEDULING, IDLE)) / cores,
        "rows": shown,
        "imports_s": dict(imports),
        "imports_by_script_s": starts,
    }


def main() -> int:
    """Measure, print and write."""
    parser = commands.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, nargs="?", default=Path(), help="where the report was made (default: here)")
    parser.add_argument("--cores", type=int, help="cores of the run (default: what its Snakemake log names)")
    parser.add_argument("--tasks", type=int, default=3, help="tasks whose simulator is measured")
    parser.add_argument("--samples", type=int, default=20, help="rounds measured a route")
    parser.add_argument("--out", type=Path, help="default: results/benchmarks/dag.json there")
    given = parser.parse_args()
    found = measure(given.root.resolve(), given.cores, given.tasks, given.samples)
    print(table(found))
    provenance.json_dump(found, given.out or given.root / "results/benchmarks/dag.json")
    return 0


if __name__ == "__main__":
    sys.exit(commands.run(main, "dag"))
