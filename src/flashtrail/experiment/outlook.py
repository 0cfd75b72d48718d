"""How far a run is, and about how long the rest takes: read where Snakemake runs, without pyarrow.

Shards say it in their progress.json and, assembled, in their ledger.json. Knows no table and no page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flashtrail.base import names
from flashtrail.experiment import episodes, progress
from flashtrail.experiment.config import Experiment

RUN = ("success", "horizon")  # outcomes of episodes that were run; `error` is infrastructure's


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
            directory = Path(results) / "rollouts" / names.file_name(arm) / f"task_{task}"
            yield Shard(arm, task, directory, tuple(key.name for key in keys))


@dataclass(frozen=True)
class State:
    """What is there of a shard's expected episodes: outcomes by name, seconds of those that were timed."""

    outcomes: Mapping[str, str] = field(default_factory=dict)
    seconds: Sequence[float] = ()

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
    times = record.get("wall_s", {})
    own = {name: str(outcomes[name]) for name in shard.expected if name in outcomes}
    return State(own, [float(times[name]) for name in own if name in times and own[name] in RUN])


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
