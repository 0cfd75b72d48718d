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
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashtrail.experiment import outlook, progress
from flashtrail.experiment.config import Experiment
from flashtrail.experiment.outlook import Shard, State

REPORT = "reports/final.html"
EVERY_S, LOOK_S = 60.0, 3.0
_ENOUGH = 2  # episodes that were timed before anything is said of the time left


@dataclass(frozen=True)
class Graph:
    """What is asked of the engine: the shards that its targets need, whether one has finished, which rules run.

    `page` is the report where it is among the jobs to run, `others` what its job makes beside it; `expect` tells the
    engine that the page is there, which it would warn of.
    """

    shards: Sequence[Shard]
    finished: Callable[[Shard], bool]
    running: Callable[[], Sequence[str]]
    page: Path | None = None
    others: Collection[Path] = ()
    expect: Callable[[], object] = bool
    simulators: int = 1

    @classmethod
    def of(cls, workflow: Any, experiment: Experiment) -> Graph:
        """Return that of a Snakemake workflow whose jobs are known."""
        dag = workflow.dag
        shards = {(shard.arm, shard.task_id): shard for shard in outlook.shards(experiment, "results")}
        folders = {str(shard.directory): shard for shard in shards.values()}
        jobs = {
            folders[folder]: job
            for job in list(dag.jobs)
            if job.rule.name == "roll_out_shard" and (folder := str(Path(job.output[0]).parent)) in folders
        }
        page = next((job for job in dag.needrun_jobs() if REPORT in job.output), None)
        return cls(
            sorted(jobs, key=list(folders.values()).index),
            lambda shard: dag.noneedrun_finished(jobs[shard]),
            lambda: sorted({job.rule.name for job in tuple(workflow.scheduler.running) if not job.is_group()}),
            Path(REPORT) if page else None,
            [Path(file) for file in page.output if file != REPORT] if page else [],
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
        # What an earlier run left does not count until its shard says so: it may be asked for otherwise now.
        self._before = {shard: _stamp(shard) for shard in graph.shards if not graph.finished(shard)}
        self._now = {shard: self._state(shard) for shard in graph.shards}
        self._told = {arm for arm in self._arms() if self._complete(arm)}
        self._last = ""
        self._most = 1

    def look(self, ended: bool = False) -> None:
        """Read what has changed; print a line if a minute has passed or something is complete; write the page."""
        old, self._now = self._now, {shard: self._state(shard) for shard in self._graph.shards}
        new = [shard for shard, state in self._now.items() if state.n > old[shard].n]
        if new:
            shard = max(new, key=lambda shard: _stamp(shard) or 0)
            self._last = f"{shard.arm} task {shard.task_id}: {_counted([self._now[shard]])}"
        complete = [arm for arm in self._arms() if arm not in self._told and self._complete(arm)]
        self._told.update(complete)
        arms = [f"{arm} complete: {_counted([s for d, s in self._now.items() if d.arm == arm])}" for arm in complete]
        first = bool(new) and not any(state.n for state in old.values())
        now = self._clock()
        if not ended and (first or arms or self._said is None or now - self._said >= EVERY_S):
            self._said = now
            self._say("; ".join([self._line(), *(arms or ([self._last] if self._last else []))]))
        if self._due(now, ended):
            self._write(now, ended)

    def _state(self, shard: Shard) -> State:
        finished = self._graph.finished(shard)
        same = not finished and _stamp(shard) == self._before[shard]
        return State() if same else outlook.state(shard, finished)

    def _arms(self) -> list[str]:
        return list(dict.fromkeys(shard.arm for shard in self._graph.shards))

    def _complete(self, arm: str) -> bool:
        return all(state.n == len(shard.expected) for shard, state in self._now.items() if shard.arm == arm)

    def _line(self) -> str:
        done, asked = self._totals()
        words = f"{outlook.minutes(self._clock() - self._started)}: {done} of {asked} episodes"
        return f"{words}; {self._left() or self._running()}"

    def _totals(self) -> tuple[int, int]:
        return sum(state.n for state in self._now.values()), sum(len(shard.expected) for shard in self._graph.shards)

    def _running(self) -> str:
        rules = ", ".join(rule.replace("_", " ") for rule in self._graph.running()) or "between two jobs"
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
        # Between two shards fewer are at work for a moment.
        self._most = max(self._most, at_work)
        cores = self._most if waiting else max(1, at_work)
        seconds = outlook.seconds_left(missing, timed)
        if not missing or seconds is None or sum(map(len, timed.values())) < _ENOUGH:
            return None
        each = seconds / sum(missing.values())
        return f"about {outlook.minutes(seconds / cores)} of episodes left ({each:.1f} s each, {cores} at a time)"

    # --- the page ---

    def _due(self, now: float, ended: bool) -> bool:
        page = self._graph.page
        if page is None or all(file.exists() for file in self._graph.others):
            return False  # where all that its job makes were there, Snakemake would take the page for the report
        if not page.exists():
            return now - self._started >= EVERY_S or any(state.n for state in self._now.values())
        return _early().is_early(page) and (ended or self._written is None or now - self._written >= EVERY_S)

    def _write(self, now: float, ended: bool) -> None:
        assert self._graph.page is not None
        time_of_day = datetime.datetime.now(datetime.UTC).strftime("%H:%M:%S UTC")
        facts: Mapping[str, str | None] = {
            "Written": f"{time_of_day}, {outlook.minutes(now - self._started)} after the start",
            "Now": "the run has stopped: the same command goes on" if ended else self._running(),
            "Left": None if ended else self._left(),
            "Last": self._last or None,
        }
        _early().write(self._graph.page, _early().text(self._now, facts, reload=not ended))
        self._graph.expect()
        self._written = now


def _early() -> Any:
    from flashtrail.report import early  # within the thread: its packages' faults are the thread's

    return early


def _stamp(shard: Shard) -> int | None:
    try:
        return (shard.directory / progress.FILE).stat().st_mtime_ns
    except OSError:
        return None


def _counted(states: Sequence[State]) -> str:
    return f"{sum(state.k for state in states)}/{sum(state.n for state in states)}"


# --- the thread ---


def start(workflow: Any, experiment: Experiment) -> None:
    """Start the thread where there are shards to watch and the terminal is to be told of progress."""
    quiet = {str(getattr(word, "name", word)).lower() for word in workflow.output_settings.quiet or ()}
    if workflow.touch or quiet & {"all", "progress"}:
        return
    try:
        graph = Graph.of(workflow, experiment)
    except Exception as error:  # whatever it is, the run goes on, as below
        return _give_up(error)
    if graph.shards:
        thread = Thread(graph)
        thread.start()
        atexit.register(thread.stop)


def _say(text: str) -> None:
    print(f"progress: {text}", file=sys.stderr, flush=True)


def _give_up(error: Exception) -> None:
    _say(f"no more of it ({type(error).__name__}: {' '.join(str(error).split())[:200]}); the run goes on")


class Thread(threading.Thread):
    """Looks at a run until it is stopped."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(name="progress", daemon=True)
        self._graph, self._ended = graph, threading.Event()

    def run(self) -> None:
        """Look until the run ends."""
        try:
            watch = Watch(self._graph, _say)
            while not self._ended.wait(LOOK_S):
                watch.look()
            watch.look(ended=True)
        except Exception as error:
            _give_up(error)

    def stop(self) -> None:
        """End the thread: what it says last is on the page."""
        self._ended.set()
        self.join(5)
