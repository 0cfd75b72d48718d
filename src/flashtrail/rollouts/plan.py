"""Which episodes a shard must have: suites, horizons, task specs, episode keys.

Pure; knows no simulator (LIBERO's counts are written down here, and `simulator` compares them with the package) and
no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashtrail.base.errors import UserError, nearest

WAIT_STEPS = 10
INIT_STATES = 50


@dataclass(frozen=True)
class Suite:
    """`tasks`: how many; `horizon`: control steps of an episode after the wait steps (openpi's limits)."""

    tasks: int
    horizon: int


SUITES = {
    "libero_spatial": Suite(tasks=10, horizon=220),
    "libero_object": Suite(tasks=10, horizon=280),
    "libero_goal": Suite(tasks=10, horizon=300),
    "libero_10": Suite(tasks=10, horizon=520),
    "libero_90": Suite(tasks=90, horizon=400),
}


@dataclass(frozen=True, order=True)
class EpisodeKey:
    """One episode across arms: pairing is by exactly these four."""

    suite: str
    task_id: int
    init_state: int
    repeat: int

    @property
    def name(self) -> str:
        """Name within a shard, fit for a directory: ``init_003_repeat_0``."""
        return f"init_{self.init_state:03d}_repeat_{self.repeat}"


def suite_of(name: str) -> Suite:
    """Return one of LIBERO's five suites; UserError with the nearest name otherwise."""
    if name not in SUITES:
        raise UserError(f"suite: unknown suite {name!r}{nearest(name, SUITES)}")
    return SUITES[name]


def parse_tasks(spec: str, suite: str) -> list[int]:
    """Return the ascending task ids of a spec such as ``0,2,5-7``; UserError if malformed or out of range."""
    ids: set[int] = set()
    for part in str(spec).split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not match:
            raise UserError(f"tasks: {part.strip()!r} in {spec!r} is neither a task id nor a range such as 5-7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"tasks: the range {part.strip()!r} runs backwards")
        check_task(suite, last)
        ids.update(range(first, last + 1))
    return sorted(ids)


def check_task(suite: str, task_id: int) -> None:
    """Raise UserError with the valid range unless the suite has this task."""
    count = suite_of(suite).tasks
    if not 0 <= task_id < count:
        raise UserError(f"tasks: task {task_id} is out of range 0-{count - 1} of {suite}")


def check_init_state(suite: str, task_id: int, init_state: int, count: int = INIT_STATES) -> None:
    """Raise UserError with the valid range unless the task has this init state."""
    if not 0 <= init_state < count:
        raise UserError(f"init_states: {init_state} is out of range 0-{count - 1} of {suite} task {task_id}")


def expected_episodes(spec: Mapping[str, Any]) -> list[EpisodeKey]:
    """Return the shard's episodes in the order in which they are run: repeat by repeat, init states as listed."""
    return [
        EpisodeKey(spec["suite"], int(spec["task_id"]), int(init_state), repeat)
        for repeat in range(int(spec.get("repeats", 1)))
        for init_state in spec["init_states"]
    ]
