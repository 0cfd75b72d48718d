"""Observations kept from real episodes, that profiling replays.

Runs plain episodes against a server and writes one .npz.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.rollouts import conditions, guards
from flashtrail.rollouts.episode import PolicySession, Query, run_episode
from flashtrail.simulators import seeds
from flashtrail.simulators.observation import Observation
from flashtrail.simulators.protocol import Simulator

_VIEWS_AND_STATE = ("agent", "wrist", "state")


@dataclass(frozen=True)
class Recorded:
    """What the policy saw at one query; `episode` is (task, init state)."""

    episode: tuple[int, int]
    observation: Observation


def record_task(
    arm: Mapping[str, Any],
    task: int,
    simulator: Simulator,
    policy: PolicySession,
    report: Callable[[str], None] = print,
) -> list[Recorded]:
    """Run the arm's init states of one task and return every observation given to the policy."""
    kept: list[Recorded] = []
    for init_state in arm["init_states"]:

        def keep(query: Query, episode: tuple[int, int] = (task, init_state)) -> None:
            kept.append(Recorded(episode, query.given))

        key = EpisodeKey(arm["suite"], task, init_state, 0)
        record = run_episode(
            simulator,
            policy,
            key,
            condition=conditions.build(arm["condition"], seeds.derive(arm["seed"], key, "perturbation")),
            guard=guards.build(arm["guard"]),
            seed=arm["seed"],
            replan_steps=arm["rollout"]["replan_steps"],
            on_query=keep,
        )
        report(f"task {task}, init state {init_state}: {record.episode['outcome']}, {len(record.rounds)} queries")
    return kept


def save(recorded: Sequence[Recorded], path: str | Path) -> None:
    """Write recorded observations to one compressed .npz, whole or not at all."""
    if not recorded:
        raise UserError("no observation was recorded: profile.episodes must be at least 1")
    arrays = {
        "task": np.array([r.episode[0] for r in recorded], np.int32),
        "init_state": np.array([r.episode[1] for r in recorded], np.int32),
        "prompt": np.array([r.observation.prompt for r in recorded]),
    }
    arrays |= {name: np.stack([getattr(r.observation, name) for r in recorded]) for name in _VIEWS_AND_STATE}
    with provenance.write_atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def load(path: str | Path) -> list[Recorded]:
    """Read what `save` wrote; UserError if it cannot be."""
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        episodes = zip(arrays["task"].tolist(), arrays["init_state"].tolist(), strict=True)
        fields = zip(*(arrays[name] for name in _VIEWS_AND_STATE), arrays["prompt"].tolist(), strict=True)
        return [Recorded(episode, Observation(*rest)) for episode, rest in zip(episodes, fields, strict=True)]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} does not hold recorded observations: {error}") from None
