"""How far a run is, and about how long the rest takes: read where Snakemake runs, without pyarrow.

Shards say it in their progress.json and, assembled, in their ledger.json; the run as a whole in results/progress.json,
for whoever looks on. Knows no table and no page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flashtrail.base import names, provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment import episodes, progress
from flashtrail.experiment.config import Experiment

RUN = ("success", "horizon")  # outcomes of episodes that were run; `error` is infrastructure's
RECENT_S = 120.0
_MOST_BYTES = 8 * 2**20  # a run's own record: some 100 bytes an episode, 80,000 of them


@dataclass(frozen=True)
class Shard:
    """One arm and task that an experiment asks for: where it lies, its episodes by name in their order."""

    arm: str
    task_id: int
    directory: Path
    expected: tuple[str, ...]


def shards(experiment: Experiment, results: str | Path) -> Iterator[Shard]:
    """Yield every shard of the experiment, by arm and task, below `results`/rollouts."""
    for arm in experiment.all_arms:
        spec = experiment.arm(arm)
        for task in experiment.tasks_of(arm):
            keys = episodes.expected_episodes(spec["suite"], task, spec["init_states"], spec["repeats"])
            yield Shard(arm, task, directory_of(results, arm, task), tuple(key.name for key in keys))


def directory_of(results: str | Path, arm: str, task: int) -> Path:
    """Return where the shard of an arm and task lies."""
    return Path(results) / "rollouts" / names.file_name(arm) / f"task_{task}"


class Ended(NamedTuple):
    """When an episode ended, in seconds since 1970, how long it took, and its rounds."""

    at: float
    wall_s: float
    rounds: int


@dataclass(frozen=True)
class State:
    """What is there of a shard's expected episodes: outcomes by name, seconds of those that were timed, and their ends.

    `spec_digest` names the folder in parts/ where they lie.
    """

    outcomes: Mapping[str, str] = field(default_factory=dict)
    seconds: Sequence[float] = ()
    ended: Mapping[str, Ended] = field(default_factory=dict)
    spec_digest: str = ""

    @property
    def n(self) -> int:
        """Episodes that were run."""
        return sum(outcome in RUN for outcome in self.outcomes.values())

    @property
    def k(self) -> int:
        """Successes."""
        return list(self.outcomes.values()).count("success")


def state(shard: Shard, finished: bool) -> State:
    """Return what a shard says of itself: when it has `finished`, its ledger; before, its record."""
    record = progress.read(shard.directory)
    ended = progress.read(shard.directory, progress.LEDGER) if finished else record
    outcomes = ended.get("outcomes", {})
    times, rounds, ends = (record.get(key, {}) for key in ("wall_s", "rounds", "ended_at"))
    own = {name: str(outcomes[name]) for name in shard.expected if name in outcomes}
    ended = {
        name: Ended(float(ends[name]), float(times[name]), int(rounds[name]))
        for name in own
        if name in ends and name in times and name in rounds
    }
    seconds = [float(times[name]) for name in own if name in times and own[name] in RUN]
    return State(own, seconds, ended, str(record.get("spec_digest", "")))


def rate(states: Iterable[State], now: float) -> float | None:
    """Return rounds a second of the episodes that ended within RECENT_S before `now`; None where none did.

    From the beginning of the first of them, or of that time if it is the later one.
    """
    recent = [end for state in states for end in state.ended.values() if end.at > now - RECENT_S]
    if not recent:
        return None
    since = max(now - RECENT_S, min(end.at - end.wall_s for end in recent))
    return sum(end.rounds for end in recent) / max(1.0, now - since)


def seconds_left(missing: Mapping[str, int], timed: Mapping[str, Sequence[float]]) -> float | None:
    """Return the seconds of one core that an arm's `missing` episodes take, over all arms.

    Each at the mean of its own arm's `timed` episodes or, where there is none, of all; None where none was timed.
    """
    every = [value for values in timed.values() for value in values]
    if not every:
        return None
    own = {arm: values or every for arm, values in ((arm, timed.get(arm, ())) for arm in missing)}
    return sum(count * sum(own[arm]) / len(own[arm]) for arm, count in missing.items())


def how_far(states: Mapping[Shard, State]) -> str:
    """Return ``12 of 96 episodes``."""
    return f"{sum(state.n for state in states.values())} of {sum(len(shard.expected) for shard in states)} episodes"


def duration(seconds: float) -> str:
    """Return a duration for a person: ``40 s``, ``14 min``, ``3.2 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class _Said(BaseModel):
    """A part of what a run says: data, and nothing that is not asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Asked(_Said):
    """A shard that the run needs. `counts`: what lies in its folder is this run's, not an earlier one's."""

    arm: str
    task_id: int = Field(ge=0)
    expected: tuple[str, ...]
    counts: bool
    finished: bool
    at_work: bool = False


class Failed(_Said):
    """A job that failed, and its log, seen from the run's directory."""

    job: str
    log: str | None = None


class Standing(_Said):
    """What a run says of itself as a whole, from time to time: results/progress.json. Times in seconds since 1970."""

    started_at: float
    written_at: float
    ended: bool
    running: str
    last: str = ""
    left: str | None = None
    left_s: float | None = None
    jobs: tuple[int, int] | None = None
    failed: tuple[Failed, ...] = ()
    shards: tuple[Asked, ...] = ()

    @property
    def busy(self) -> list[tuple[str, int]]:
        """Arm and task of each shard at work."""
        return [(one.arm, one.task_id) for one in self.shards if one.at_work]

    @property
    def end(self) -> str:
        """How a run that has ended did so, in words."""
        complete = self.jobs is not None and self.jobs[0] == self.jobs[1]
        return "the run has finished" if complete else "the run has stopped: the same command goes on"

    def write(self, path: Path) -> None:
        """Put it in its file, whole or not at all."""
        provenance.json_dump(self.model_dump(mode="json"), path)

    def states(self, results: Path) -> dict[Shard, State]:
        """Return what the shards say of themselves now."""
        known = {
            Shard(one.arm, one.task_id, directory_of(results, one.arm, one.task_id), one.expected): one
            for one in self.shards
        }
        return {shard: state(shard, one.finished) if one.counts else State() for shard, one in known.items()}


def standing(results: Path) -> Standing | None:
    """Return what the run says of itself; None where none has, UserError for a file that is none of ours."""
    path = results / progress.FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} is not a run's record: more than {_MOST_BYTES} bytes")
        return Standing.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise UserError(f"{path} is not a run's record: {error.errors()[0]['msg']}; start the run again") from None
