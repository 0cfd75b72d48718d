"""A shard: all episodes of one arm and task, against one policy server, with K simulators; nothing lost on a kill.

Starts the server (or uses one that runs), hands out episodes, records each as it ends, retries what failed for reasons
of infrastructure, and puts the tables together.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TextIO

from flashtrail.base import machine
from flashtrail.base.errors import UserError
from flashtrail.experiment import guards, progress
from flashtrail.experiment.episodes import EpisodeKey, expected_episodes
from flashtrail.experiment.shard import EXPERT, ShardSpec
from flashtrail.rollouts import taken
from flashtrail.rollouts.episode import EpisodeRecord, error_record
from flashtrail.rollouts.lending import Lender
from flashtrail.rollouts.processes import COMMAND, SimulatorProcess, wait_any
from flashtrail.rollouts.recorder import Recorder, unfilmed
from flashtrail.rollouts.servers import NoServer, Server
from flashtrail.serving.protocol import IMAGE_MASK_KEY
from flashtrail.tables.schemas import FILMS

RETRIES = 2


@dataclass(frozen=True)
class ShardSummary:
    """What came of a shard: outcome by episode name, in order, and the reason of each ``error``."""

    outcomes: dict[str, str]
    errors: dict[str, str]

    def check(self) -> None:
        """Raise UserError naming the episodes that could not be run; run again, the shard tries only those."""
        if self.errors:
            name, reason = next(iter(self.errors.items()))
            raise UserError(
                f"{len(self.errors)} of {len(self.outcomes)} episodes could not be run ({', '.join(self.errors)}); "
                f"{name}: {reason}"
            )


def roll_out_shard(
    spec: ShardSpec,
    out_dir: str | Path,
    parts_dir: str | Path | None = None,
    *,
    log: TextIO | None = None,
    worker_command: Sequence[str] = COMMAND,
    gpu: bool = False,
    reuse: Sequence[str | Path] = (),
    observations: Path | None = None,
) -> ShardSummary:
    """Run the shard's missing episodes and write its tables to `out_dir`.

    Finished episodes are kept under `parts_dir` (default: ``out_dir/parts``), also when the shard is complete, and are
    found there, in the tables of `out_dir` and in those of the runs `reuse` by their key and the spec's digest; not
    those of a server that runs, whose weights may be others by now. An episode that failed for reasons of
    infrastructure is tried RETRIES more times; if it still fails, its row has outcome ``error``, the others are run all
    the same, and a later call tries it again. `gpu`: whether the server has one, whose clock is then recorded beside
    the machine's load. `observations`: a directory for what the policy saw, one .npz an episode (`recordings`). Raises
    UserError for a server that does not start or does not stay up, a full disk, no OpenGL library.
    """
    digest, expected = spec.digest, episodes_of(spec)
    common = {"arm": spec.arm, "policy": spec.policy, "seed": spec.seed}
    common["run_id"] = str(spec.metadata.get("run_id", digest))
    metadata = {**spec.metadata, FILMS: spec.video}
    recorder = Recorder(parts_dir or default_parts_dir(out_dir), digest, common, metadata)
    grows = not spec.server.external
    with recorder.exclusive():
        said = taken.take(spec, recorder, out_dir, reuse) if grows else []
        shard = _Shard(spec, recorder, log or sys.stderr, worker_command, gpu, observations)
        shard.run(Path(out_dir), said)
        outcomes = recorder.assemble(expected, out_dir, spec.video)
        if not shard.errors:
            recorder.tidy(keep=grows)
    return ShardSummary(outcomes, shard.errors)


def episodes_of(spec: ShardSpec) -> list[EpisodeKey]:
    """Return the episodes of a spec in the order in which they are run."""
    return expected_episodes(spec.suite, spec.task_id, spec.init_states, spec.repeats)


class _Shard:
    """Hands out episodes until each has an outcome."""

    def __init__(
        self,
        spec: ShardSpec,
        recorder: Recorder,
        log: TextIO,
        worker_command: Sequence[str],
        gpu: bool,
        observations: Path | None,
    ) -> None:
        self._spec, self._recorder, self._log, self._command = spec, recorder, log, worker_command
        self._watch, self._gpu, self._observations = machine.Watch(gpu), gpu, observations
        self._lender = Lender(self._say, self._watch.count)
        self.errors: dict[str, str] = {}
        self._expected = episodes_of(spec)
        self._attempts: Counter[EpisodeKey] = Counter()
        self._parts = {name: part for name, part in recorder.parts().items() if part.outcome != "error"}
        self._outcomes = {name: part.outcome for name, part in self._parts.items()}
        again = unfilmed(self._parts, self._expected, spec.video)
        self._todo = deque(key for key in self._expected if key.name not in self._outcomes or key.name in again)
        self._seconds: list[float] = []

    def run(self, out_dir: Path, said: Sequence[str] = ()) -> None:
        """Run what is missing; starts neither server nor simulator where nothing is. `said`: what was taken before."""
        for line in said:
            self._say(line)
        names = [key.name for key in self._expected]
        self._progress = progress.Record(out_dir, names, self._outcomes, self._recorder.directory.name)
        kept = len(self._expected) - len(self._todo)
        if kept:
            self._say(f"{kept} of {len(self._expected)} episodes are kept from before")
        if not self._todo:
            return
        server = self._spec.server
        with contextlib.ExitStack() as stack:
            log = Path(server.log or out_dir / "server.log")
            lender = None if self._gpu else self._lender  # an idle server would hold memory of the device
            self._server: Server | NoServer = NoServer()
            if server.url != EXPERT:
                self._server = Server(self._spec, log, self._simulators(), lender)
            stack.enter_context(self._server)
            reported = self._server.metadata()
            check_understood(self._spec, reported, self._server.url)
            self._recorder.metadata |= completed(self._recorder.metadata, reported)
            simulators = self._simulators()
            if not keeps_sessions_apart(reported) and server.url:
                stack.enter_context(self._turn())
                simulators = 1
            self._run_all(simulators)

    def _simulators(self) -> int:
        return min(self._spec.simulators, len(self._todo))

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Use the server alone: an official one has one state, which two clients would share."""
        url, lock = self._server.url, self._spec.server.lock
        self._say(f"{url} does not say that it keeps sessions apart, as official servers do not: one simulator for it")
        with contextlib.ExitStack() as stack:
            if lock is not None:
                held = stack.enter_context(Path(lock).open("wb"))
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    self._say(f"waiting: another shard is at work with {url}")
                    fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def _run_all(self, count: int) -> None:
        settings, timeout_s = self._spec.model_dump(mode="json"), self._spec.episode_timeout_s
        idle = [SimulatorProcess(settings, timeout_s, self._command, self._lender) for _ in range(count)]
        busy: dict[SimulatorProcess, tuple[EpisodeKey, float]] = {}
        try:
            while self._todo or busy:
                while self._todo and idle:
                    process, key = idle.pop(), self._todo.popleft()
                    self._ask(process, key)
                    busy[process] = (key, time.monotonic())
                wait_any(list(busy))
                for process in list(busy):
                    answer = process.answer()
                    if answer is not None:
                        key, since = busy.pop(process)
                        idle.append(process)
                        self._take(key, answer, time.monotonic() - since)
        finally:
            for process in busy:
                process.close()
            for process in idle:
                process.leave()

    def _ask(self, process: SimulatorProcess, key: EpisodeKey) -> None:
        self._attempts[key] += 1
        film = None if self._spec.video == "none" else str(self._recorder.films() / f"{key.name}.mp4")
        seen = None if self._observations is None else str(self._observations / f"{key.name}.npz")
        server = {"url": self._server.url, "elsewhere": self._server.elsewhere}
        process.ask({"key": astuple(key), **server, "film": film, "seen": seen})

    def _take(self, key: EpisodeKey, answer: Mapping[str, Any], wall_s: float) -> None:
        """Record an episode, or put it back to be tried again."""
        if "failed" not in answer:
            record = EpisodeRecord(answer["episode"], answer["rounds"], answer["steps"])
            self._finish(key, record, wall_s, answer["video"])
            return
        kind, reason = answer["failed"], answer["error"]
        if kind == "fatal":
            raise UserError(reason)
        self._say(f"{key.name}: attempt {self._attempts[key]} failed ({kind}): {reason}")
        if kind != "simulator":
            self._server.doubt()
        if kind == "server" and (incident := self._server.revive()):
            self._say(incident)
        if self._attempts[key] <= RETRIES:
            self._todo.appendleft(key)
            return
        self.errors[key.name] = f"{kind}: {reason}"
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self._finish(key, error_record(f"task {key.task_id}", f"{kind}: {reason}", now, wall_s), wall_s, None)

    def _finish(self, key: EpisodeKey, record: EpisodeRecord, wall_s: float, video: str | None) -> None:
        self._recorder.metadata["machine"] = json.dumps(self._watch.record())
        if record.episode["outcome"] != "error" or key.name not in self._parts:  # one that only lacks a film stays
            self._recorder.record(key, record, video)
        self._outcomes[key.name] = outcome = record.episode["outcome"]
        self._seconds.append(wall_s)
        self._progress.add(key.name, outcome, wall_s, record.episode["steps"], record.episode["rounds"])
        done = [self._outcomes[k.name] for k in self._expected if k.name in self._outcomes]
        valid = [o for o in done if o != "error"]
        pace = sum(self._seconds) / len(self._seconds)
        self._say(
            f"{len(done)}/{len(self._expected)} {key.name} {outcome}, {record.episode['steps']} steps, "
            f"{record.episode['rounds']} rounds; success {valid.count('success')}/{len(valid)}, {pace:.1f} s/episode"
        )

    def _say(self, text: str) -> None:
        print(f"{self._spec.arm} task {self._spec.task_id}: {text}", file=self._log, flush=True)


def completed(metadata: Mapping[str, Any], reported: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a server says of artifact and device where `metadata` does not say it."""
    names = {"artifact_digest": "base_digest", "device": "device_name"}
    return {key: reported[name] for key, name in names.items() if not metadata.get(key) and reported.get(name)}


def keeps_sessions_apart(reported: Mapping[str, Any]) -> bool:
    """Whether a server says what ours do of themselves; the state of an official one is its own, not a session's."""
    return "request_keys" in reported


def check_understood(spec: ShardSpec, reported: Mapping[str, Any], url: str) -> None:
    """Raise UserError if the guard needs a request key that the server does not say it understands.

    An official server ignores keys that it does not know: the masked view would be looked at, and the arm's name
    would be wrong.
    """
    if isinstance(spec.guard, guards.WristMask) and IMAGE_MASK_KEY not in reported.get("request_keys", ()):
        raise UserError(
            f"guard {spec.guard.kind}: the policy server at {url} does not say that it understands "
            f"{IMAGE_MASK_KEY}, as official servers do not: use guard wrist_health, or serve with flashtrail serve"
        )


def default_parts_dir(shard_dir: str | Path) -> Path:
    """Return where finished episodes are kept: beside the outputs, but not an output, so Snakemake keeps it."""
    return Path(shard_dir) / "parts"
