"""While a run goes on: a line a minute that says how far it is, and the early page where its report will be.

A thread of the process that the user started (rules/common.smk, onstart). It reads what shards leave in their folders,
wherever their jobs run, and asks Snakemake's job graph alone what is under way. What goes wrong in it ends it with one
line, and never the run.
"""

from __future__ import annotations

import atexit
import datetime
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashtrail.experiment import outlook, progress
from flashtrail.experiment.config import Experiment
from flashtrail.experiment.outlook import Shard, State
from flashtrail.report import early

REPORT = "reports/final.html"
EVERY_S, LOOK_S = 60.0, 3.0
_ENOUGH = 2  # episodes that were timed before anything is said of the time left


@dataclass(frozen=True)
class Graph:
    """What is asked of the engine: the shards that its targets need, whether one has finished, which rules run.

    `page` is the report where it is among what is to be made; `expect` tells the engine that it is there, of which it
    would warn.
    """

    shards: Sequence[Shard]
    finished: Callable[[Shard], bool]
    running: Callable[[], Iterable[str]]
    page: Path | None = None
    expect: Callable[[], object] = bool
    simulators: int = 1

    @classmethod
    def of(cls, workflow: Any, experiment: Experiment) -> Graph:
        """Return that of a Snakemake workflow whose jobs are known."""
        dag = workflow.dag
        jobs = {Path(job.output[0]).parent: job for job in dag.jobs if job.rule.name == "roll_out_shard"}
        page = next((job for job in dag.needrun_jobs() if REPORT in job.output), None)
        return cls(
            [shard for shard in outlook.shards(experiment, "results") if shard.directory in jobs],
            lambda shard: dag.noneedrun_finished(jobs[shard.directory]),
            lambda: {job.rule.name for job in tuple(workflow.scheduler.running) if not job.is_group()},
            Path(REPORT) if page else None,
            lambda: dag.reason(page).missing_output.discard(REPORT),
            experiment.rollout.simulators,
        )


class Watch:
    """Looks at a run from time to time, and says what is new."""

    def __init__(self, graph: Graph, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._graph, self._say, self._clock = graph, say, clock
        self._started = clock()
        self._said: float | None = None
        self._written: float | None = None
        self._last, self._most = "", 1
        # What an earlier run left does not count until its shard says so: it may be asked for otherwise now.
        self._before = {shard: _stamp(shard) for shard in graph.shards if not graph.finished(shard)}
        self._now = self._states()
        self._complete = self._arms()

    def look(self, ended: bool = False) -> None:
        """Read what has changed; print a line if a minute has passed or something is complete; write the page."""
        now, old, self._now = self._clock(), self._now, self._states()
        new = [shard for shard, state in self._now.items() if state.n > old[shard].n]
        if new:
            shard = max(new, key=lambda shard: _stamp(shard) or 0)
            self._last = f"{shard.arm} task {shard.task_id}: {self._now[shard].k}/{self._now[shard].n}"
        before, self._complete = self._complete, self._arms()
        news = [f"{arm} complete: {count}" for arm, count in self._complete.items() if arm not in before]
        if new and not any(state.n for state in old.values()):
            news = news or [self._last]  # the first episode
        if self._said is None or (not ended and (news or now - self._said >= EVERY_S)):
            self._said = now
            elapsed, how_far = outlook.duration(now - self._started), outlook.how_far(self._now)
            parts = [f"{elapsed}: {how_far}", self._left() or self._running(), *(news or filter(None, [self._last]))]
            self._say("; ".join(parts))
        if self._graph.page is not None and self._due(self._graph.page, now, ended):
            self._write(self._graph.page, now, ended)

    def _states(self) -> dict[Shard, State]:
        states = {}
        for shard in self._graph.shards:
            finished = self._graph.finished(shard)
            same = not finished and _stamp(shard) == self._before[shard]
            states[shard] = State() if same else outlook.state(shard, finished)
        return states

    def _arms(self) -> dict[str, str]:
        """Return k/n of each arm that is complete."""
        arms: dict[str, str] = {}
        for arm in dict.fromkeys(shard.arm for shard in self._now):
            own = {shard: state for shard, state in self._now.items() if shard.arm == arm}
            if all(state.n == len(shard.expected) for shard, state in own.items()):
                arms[arm] = f"{sum(state.k for state in own.values())}/{sum(state.n for state in own.values())}"
        return arms

    def _running(self) -> str:
        rules = ", ".join(sorted(rule.replace("_", " ") for rule in self._graph.running())) or "between two jobs"
        begun = any(state.outcomes for state in self._now.values()) or "roll out shard" in rules
        return rules if begun else f"setting up ({rules})"

    def _left(self) -> str | None:
        """Return in words how long the missing episodes take; None where none is, or too few were timed."""
        missing: dict[str, int] = {}
        timed: dict[str, list[float]] = {}
        at_work = waiting = 0
        for shard, state in self._now.items():
            timed.setdefault(shard.arm, []).extend(state.seconds)
            if count := len(shard.expected) - state.n:
                missing[shard.arm] = missing.get(shard.arm, 0) + count
                begun = _stamp(shard) != self._before.get(shard)
                at_work += min(count, self._graph.simulators) * begun
                waiting += not begun
        self._most = max(self._most, at_work)
        cores = self._most if waiting else max(1, at_work)  # between two shards fewer are at work for a moment
        seconds = outlook.seconds_left(missing, timed)
        if not missing or seconds is None or sum(map(len, timed.values())) < _ENOUGH:
            return None
        each = f"{seconds / sum(missing.values()):.1f} s each"
        return f"about {outlook.duration(seconds / cores)} of episodes left ({each}, {cores} at a time)"

    def _due(self, page: Path, now: float, ended: bool) -> bool:
        if not page.exists():
            return now - self._started >= EVERY_S or any(state.n for state in self._now.values())
        return early.is_early(page) and (ended or self._written is None or now - self._written >= EVERY_S)

    def _write(self, page: Path, now: float, ended: bool) -> None:
        time_of_day = datetime.datetime.now(datetime.UTC).strftime("%H:%M:%S UTC")
        facts = {
            "Written": f"{time_of_day}, {outlook.duration(now - self._started)} after the start",
            "Now": "the run has stopped: the same command goes on" if ended else self._running(),
            "Left": None if ended else self._left(),
            "Last": self._last or None,
        }
        early.write(page, early.text(self._now, facts, reload=not ended))
        self._graph.expect()
        self._written = now


def _stamp(shard: Shard) -> int | None:
    try:
        return (shard.directory / progress.FILE).stat().st_mtime_ns
    except OSError:
        return None


def start(workflow: Any, experiment: Experiment) -> None:
    """Watch a run in a thread, where it has shards and its terminal is to be told of progress."""

    def graph() -> Graph | None:
        quiet = {word.name.lower() for word in workflow.output_settings.quiet or ()}
        return None if workflow.touch or quiet & {"all", "progress"} else Graph.of(workflow, experiment)

    watch(graph)


def watch(graph: Callable[[], Graph | None]) -> threading.Thread | None:
    """Return the thread that looks at a run until this process ends; None where there is nothing to look at."""
    ended = threading.Event()

    def guarded(step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:  # whatever it is, the run goes on
            detail = " ".join(str(error).split())[:200]
            _say(f"no more of it ({type(error).__name__}: {detail}); the run goes on")
            return None

    def look(watching: Watch) -> None:
        while not ended.wait(LOOK_S):
            watching.look()
        watching.look(ended=True)

    graph_read = guarded(graph)
    watching = guarded(lambda: Watch(graph_read, _say)) if graph_read and graph_read.shards else None
    if watching is None:
        return None
    thread = threading.Thread(target=guarded, args=[lambda: look(watching)], name="progress", daemon=True)
    thread.start()
    atexit.register(thread.join, 5)
    atexit.register(ended.set)  # the last that is registered is the first that is called
    return thread


def _say(text: str) -> None:
    print(f"progress: {text}", file=sys.stderr, flush=True)
