"""Which episodes a shard must have: suites, horizons, task specs, episode keys, the checked shard spec.

Pure; knows no simulator (LIBERO's counts are written down here, and `simulator` compares them with the package) and
no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashtrail import provenance
from flashtrail.errors import UserError, nearest
from flashtrail.rollouts import conditions, guards

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


# What a spec may hold, and its default; `...` marks what it must hold.
_FIELDS: dict[str, Any] = {
    "arm": ...,
    "policy": ...,
    "suite": ...,
    "task_id": ...,
    "init_states": ...,
    "repeats": 1,
    "seed": ...,
    "scene_seed": "episode",
    "condition": {"kind": "none"},
    "guard": {"kind": "none"},
    "clock": "paused",
    "server": ...,
    "simulators": 1,
    "video": "none",
    "replan_steps": 12,
    "hard_reset": True,
    "episode_timeout_s": 1800.0,
    "metadata": {},
}
_CHOICES = {"scene_seed": ("episode", "official"), "clock": ("paused",), "video": ("none", "failures", "all")}
_SERVER_FIELDS = {"command": None, "url": None, "ready_timeout_s": 300.0, "log": None}
# What an episode does not depend on: how many run side by side, which others there are, what is filmed.
_BESIDE_THE_POINT = ("init_states", "repeats", "simulators", "video", "episode_timeout_s")


def checked(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec with defaults filled in; UserError for the first thing wrong in it, with the remedy."""
    for key in spec:
        if key not in _FIELDS:
            raise UserError(f"shard: unknown key {key!r}{nearest(key, _FIELDS)}")
    for key, default in _FIELDS.items():
        if default is ... and key not in spec:
            raise UserError(f"shard: {key!r} is missing")
    full = {key: spec.get(key, default) for key, default in _FIELDS.items()}
    for key, choices in _CHOICES.items():
        if full[key] not in choices:
            raise UserError(f"{key}: unknown value {full[key]!r}{nearest(full[key], choices)}")
    check_task(full["suite"], int(full["task_id"]))
    for init_state in full["init_states"]:
        check_init_state(full["suite"], int(full["task_id"]), int(init_state))
    if len(set(full["init_states"])) != len(full["init_states"]) or not full["init_states"]:
        raise UserError("init_states: give each init state once, and at least one")
    for key in ("repeats", "simulators", "replan_steps"):
        if int(full[key]) < 1:
            raise UserError(f"{key}: {full[key]} must be at least 1")
    conditions.check(full["condition"])
    guards.check(full["guard"])
    full["server"] = _checked_server(full["server"])
    return full


def _checked_server(server: Mapping[str, Any]) -> dict[str, Any]:
    for key in server:
        if key not in _SERVER_FIELDS:
            raise UserError(f"server: unknown key {key!r}{nearest(key, _SERVER_FIELDS)}")
    full = {key: server.get(key, default) for key, default in _SERVER_FIELDS.items()}
    if bool(full["command"]) == bool(full["url"]):
        raise UserError("server: give either a command (with {port} in it) or the url of one that runs")
    if full["command"] and not any("{port}" in word for word in full["command"]):
        raise UserError("server: the command has no {port} in it, so it cannot be told where to listen")
    return full


def spec_digest(spec: Mapping[str, Any]) -> str:
    """Digest of all that an episode's rows depend on: finished episodes are reused only under the same one."""
    parts = {key: value for key, value in spec.items() if key not in _BESIDE_THE_POINT}
    parts["server"] = {key: spec["server"].get(key) for key in ("command", "url")}
    return provenance.digest_json(parts)
