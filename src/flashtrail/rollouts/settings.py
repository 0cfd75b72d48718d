"""What a shard is told: the spec's keys with their defaults, what is wrong with one, and its digest.

Pure; knows no config file, no simulator and no episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError, nearest
from flashtrail.rollouts import clock, faults
from flashtrail.rollouts.plan import check_init_state, check_task

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
    "horizon": None,
    "episode_timeout_s": 1800.0,
    "stall_timeout_s": 120.0,
    "metadata": {},
}
_CHOICES = {
    "scene_seed": ("episode", "official"),
    "video": ("none", "failures", "examples", "all"),
}
_SERVER_FIELDS = {"command": None, "url": None, "ready_timeout_s": 300.0, "log": None, "lock": None}
# What an episode does not depend on: how many run side by side, which others there are, what is filmed.
_BESIDE_THE_POINT = ("init_states", "repeats", "simulators", "video", "episode_timeout_s", "stall_timeout_s")


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
    for key in ("repeats", "simulators", "replan_steps", "horizon"):
        if full[key] is not None and int(full[key]) < 1:
            raise UserError(f"{key}: {full[key]} must be at least 1")
    for key in ("episode_timeout_s", "stall_timeout_s"):
        if not float(full[key]) > 0:
            raise UserError(f"{key}: {full[key]} must be above 0 s")
    faults.condition(full["condition"])
    faults.guard(full["guard"])
    full["clock"] = clock.spelled_out(clock.read(full["clock"]))
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
    if parts["horizon"] is None:  # the suite's own: a spec that says nothing of it keeps its digest
        del parts["horizon"]
    parts["server"] = {key: spec["server"].get(key) for key in ("command", "url")}
    return provenance.digest_json(parts)
