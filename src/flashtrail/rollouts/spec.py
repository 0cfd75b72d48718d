"""From a job's parameters and handles to the spec of one shard: the only place where the two meet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment import clocks
from flashtrail.experiment import shard as specs
from flashtrail.experiment.shard import ShardSpec
from flashtrail.rollouts.latency import table_digest
from flashtrail.serving.handles import server_command
from flashtrail.tables.schemas import artifact_digest

_OF_ARM = ("arm", "policy", "suite", "seed", "scene_seed", "init_states", "repeats", "video", "condition", "guard")


def shard_spec(
    arm: Mapping[str, Any],
    task: int,
    handles: Mapping[str, Any],
    code: str,
    log: str | Path | None = None,
    locks: str | Path | None = None,
) -> ShardSpec:
    """Return the spec of one arm and task, for `shard.roll_out_shard`.

    `arm`: as `config.Experiment.arm` gives it. `handles`: paths ``model``, ``base`` and perhaps ``draft`` and
    ``action_stats``; none for an arm with a server of its own. `code`: digest of the code that runs. `log`: where the
    server writes. `locks`: directory in which shards settle whose turn it is with a server that has one state for all.
    """
    rollout, clock = arm["rollout"], clock_of(arm)
    execution = execution_of(arm, handles)
    if url := arm.get("server"):
        # Neither artifact nor device are ours to name: what the server says of itself is recorded, or nothing.
        server: dict[str, Any] = {"url": url}
        if locks is not None and url != specs.EXPERT:
            server["lock"] = str(Path(locks) / f".server_{provenance.digest_json(url)[:12]}.lock")
        about = {"artifact_digest": "", "device": ""}
    else:
        # The number of simulators stays a word: finished episodes are reused whatever it is.
        own = arm.get("settings", {})
        command = server_command(handles, arm["engine"], arm["flash"], clients="{simulators}", settings=own)
        places = {str(Path(handles[kind]).parent) for kind in ("base", "draft") if handles.get(kind)}
        places |= {command[0], str(handles.get("action_stats"))}
        server = {"command": command, "settings": [word for word in command if word not in places]}
        model = provenance.json_load(handles["model"])
        about = {
            "artifact_digest": artifact_digest(handles),
            "device": device_of(model, arm["engine"]["device"]),
            "max_exec_steps": str(arm["flash"]["max_exec_steps"]),
            "official_time_bias": str(bool(arm["flash"].get("official_time_bias"))).lower(),
            **({"settings": json.dumps(own, sort_keys=True)} if own else {}),
        }
    spec = {
        **{key: arm[key] for key in _OF_ARM},
        **{key: arm[key] for key in ("limits", "handoff") if key in arm},
        **rollout,
        **{key: execution[key] for key in ("replan_steps", "horizon", "window_lag", "answer") if key in execution},
        "task_id": task,
        "clock": clock,
        "server": {**server, "log": None if log is None else str(log)},
        "metadata": {
            "config_digest": specs.config_digest(arm),
            "code_digest": code,
            **about,
            "condition": json.dumps(arm["condition"], sort_keys=True),
            "guard": json.dumps(arm["guard"], sort_keys=True),
            **{key: json.dumps(arm[key], sort_keys=True) for key in ("limits", "handoff") if key in arm},
            **({} if clock == clocks.PAUSED else {"clock": json.dumps(clock, sort_keys=True)}),
            **({"execution": json.dumps(execution, sort_keys=True)} if execution else {}),
        },
    }
    return specs.read(spec)


def execution_of(arm: Mapping[str, Any], handles: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arm's settings of execution; a file of statistics is held to by its digest, as a replayed table is."""
    execution = dict(arm.get("execution", {}))
    if "action_stats" in execution:
        if "action_stats" not in handles:
            raise UserError(f"{arm['arm']}: the file {execution['action_stats']} of its execution is not at hand")
        execution["action_stats_digest"] = provenance.sha256_file(handles["action_stats"])
    return execution


def clock_of(arm: Mapping[str, Any]) -> Any:
    """Return the arm's clock; a table that it replays is held to by its digest, so that another one is another spec."""
    table = clocks.replayed(clocks.read(arm["clock"]))
    if table is None:
        return arm["clock"]
    return {**arm["clock"], "source": {**arm["clock"]["source"], "digest": table_digest(table)}}


def device_of(model: Mapping[str, Any], kind: str) -> str:
    """Return the name of the device that a server uses, from the model environment's record."""
    return str(model.get("device", {}).get(kind, kind))
