"""While a run goes on: a panel in the terminal or a line a minute, the run's record, and the early page.

A thread of the process that the user started (rules/common.smk, onstart). It reads what shards leave in their folders,
wherever their jobs run, and asks Snakemake's job graph alone what is under way; what it finds it leaves in
results/progress.json, for `flashtrail watch`. What goes wrong in it ends it with one line, and never the run; what goes
wrong in the panel ends the panel, and lines go on.
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
from flashtrail.experiment.outlook import Asked, Failed, Shard, Standing, State
from flashtrail.report import early, panel
from flashtrail.report.panel import Panel

RECORD = Path("results", progress.FILE)
EVERY_S, LOOK_S, TICK_S = 60.0, 3.0, 0.5
_ENOUGH = 2  # episodes that were timed before anything is said of the time left


@dataclass(frozen=True)
class Graph:
    """What is asked of the engine: the shards that its targets need, whether one has finished, which rules run.

    `page` is the report where it is among what is to be made; `expect` tells the engine that it is there, of which it
    would warn. `jobs`: how many of how many have finished. `record`: where the run says how it stands.
    """

    shards: Sequence[Shard]
    finished: Callable[[Shard], bool]
    running: Callable[[], Iterable[str]]
    page: Path | None = None
    expect: Callable[[], object] = bool
    simulators: int = 1
    jobs: Callable[[], tuple[int, int] | None] = lambda: None
    failed: Callable[[], Iterable[Failed]] = tuple
    record: Path | None = None

    @classmethod
    def of(cls, workflow: Any, experiment: Experiment) -> Graph:
        """Return that of a Snakemake workflow whose jobs are known."""
        dag = workflow.dag
        jobs = {Path(job.output[0]).parent: job for job in dag.jobs if job.rule.name == "roll_out_shard"}
        report = experiment.files.page
        page = next((job for job in dag.needrun_jobs() if report in job.output), None)
        return cls(
            [shard for shard in outlook.shards(experiment, "results") if shard.directory in jobs],
            lambda shard: dag.noneedrun_finished(jobs[shard.directory]),
            lambda: {job.rule.name for job in tuple(workflow.scheduler.running) if not job.is_group()},
            Path(report) if page else None,
            lambda: dag.reason(page).missing_output.discard(report),
            experiment.rollout.simulators,
            lambda: (workflow.scheduler.finished_jobs, len(dag)),
            lambda: [_failed(job) for job in tuple(workflow.scheduler.failed) if not job.is_group()],
            RECORD,
        )


def _failed(job: Any) -> Failed:
    return Failed(job=" ".join([job.rule.name, *map(str, job.wildcards)]), log=str(job.log[0]) if job.log else None)


class Watch:
    """Looks at a run from time to time, and says what is new."""

    def __init__(
        self,
        graph: Graph,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        panel: Panel | None = None,
    ) -> None:
        self._graph, self._say, self._clock, self.panel = graph, say, clock, panel
        self._started, self._started_at = clock(), time.time()
        self._said: float | None = None
        self._written: float | None = None
        self._last, self._most = "", 1
        self._standing: Standing | None = None
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
            self._last = f"{shard.arm} task {shard.task_id}: success {self._now[shard].k}/{self._now[shard].n}"
        before, self._complete = self._complete, self._arms()
        news = [f"{arm} complete: {count}" for arm, count in self._complete.items() if arm not in before]
        if new and not any(state.n for state in old.values()):
            news = news or [self._last]  # the first episode
        self._standing = standing = self._stands(ended)
        if self._graph.record is not None:
            standing.write(self._graph.record)
        shown = self.draw()
        elapsed, how_far = outlook.duration(now - self._started), outlook.how_far(self._now)
        if ended and self.panel:  # what it said last goes with it
            self.panel.close()
            self._say(f"{elapsed}: {how_far}; {standing.end}")
        elif self._said is None or (not ended and (news or (now - self._said >= EVERY_S and not shown))):
            self._said = now
            parts = [f"{elapsed}: {how_far}", standing.left or standing.running, *(news or filter(None, [self._last]))]
            self._say("; ".join(parts))
        if self._graph.page is not None and self._due(self._graph.page, now, ended):
            self._write(self._graph.page, standing, now, ended)

    def draw(self) -> bool:
        """Draw the panel as the terminal is now; return whether it is there. Trouble ends it, and lines go on."""
        if self.panel is None or self._standing is None:
            return False
        try:
            size = self.panel.size()
            if size is None:
                self.panel.close()
                return False
            self.panel.draw(panel.lines(self._standing, self._now, size[0]))
            return True
        except Exception:  # whatever it is, a terminal is no reason to say nothing more
            self.panel.close()
            self.panel = None
            return False

    def _stands(self, ended: bool) -> Standing:
        left, rules = self._left(), set(self._graph.running())
        return Standing(
            started_at=self._started_at,
            written_at=time.time(),
            ended=ended,
            running=self._running(),
            last=self._last,
            left=f"about {outlook.duration(left[0])} of episodes left ({left[1]})" if left else None,
            left_s=left[0] if left else None,
            jobs=self._graph.jobs(),
            failed=tuple(self._graph.failed()),
            shards=tuple(self._asked(shard, state, "roll_out_shard" in rules) for shard, state in self._now.items()),
        )

    def _asked(self, shard: Shard, state: State, rolling: bool) -> Asked:
        finished, begun = self._graph.finished(shard), _stamp(shard) != self._before.get(shard)
        return Asked(
            arm=shard.arm,
            task_id=shard.task_id,
            expected=shard.expected,
            counts=finished or begun,
            finished=finished,
            at_work=rolling and begun and not finished,
        )

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

    def _left(self) -> tuple[float, str] | None:
        """Return how many seconds the missing episodes take, and how; None where none is, or too few were timed."""
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
        return seconds / cores, f"{seconds / sum(missing.values()):.1f} s each, {cores} at a time"

    def _due(self, page: Path, now: float, ended: bool) -> bool:
        if not page.exists():
            return now - self._started >= EVERY_S or any(state.n for state in self._now.values())
        return early.is_early(page) and (ended or self._written is None or now - self._written >= EVERY_S)

    def _write(self, page: Path, standing: Standing, now: float, ended: bool) -> None:
        time_of_day = datetime.datetime.now(datetime.UTC).strftime("%H:%M:%S UTC")
        written = {"Written": f"{time_of_day}, {outlook.duration(now - self._started)} after the start"}
        facts = written | early.facts(standing, self._now)
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

    drawn = Panel(sys.stderr) if not workflow.output_settings.nocolor and panel.terminal(sys.stderr) else None
    if watch(graph, drawn) and drawn:
        panel.release_when_stopped(drawn)


def watch(graph: Callable[[], Graph | None], drawn: Panel | None = None) -> threading.Thread | None:
    """Return the thread that looks at a run until this process ends; None where there is nothing to look at."""
    ended = threading.Event()
    close = drawn.close if drawn else bool

    def guarded(step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:  # whatever it is, the run goes on
            close()
            detail = " ".join(str(error).split())[:200]
            _say(f"stopped ({type(error).__name__}: {detail}); the run goes on")
            return None

    def look(watching: Watch) -> None:
        looked = time.monotonic()
        while not ended.wait(min(TICK_S, LOOK_S)):
            if time.monotonic() - looked >= LOOK_S:
                watching.look()
                looked = time.monotonic()
            else:
                watching.draw()  # the terminal may have another size
        watching.look(ended=True)

    graph_read = guarded(graph)
    watching = guarded(lambda: Watch(graph_read, _say, panel=drawn)) if graph_read and graph_read.shards else None
    if watching is None:
        return None
    thread = threading.Thread(target=guarded, args=[lambda: look(watching)], name="progress", daemon=True)
    thread.start()
    atexit.register(close)
    atexit.register(thread.join, 5)
    atexit.register(ended.set)  # the last that is registered is the first that is called
    return thread


def _say(text: str) -> None:
    print(f"progress: {text}", file=sys.stderr, flush=True)
