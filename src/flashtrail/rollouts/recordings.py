"""Observations kept from real episodes in an .npz, that profiling replays."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.rollouts.episode import Query
from flashtrail.simulators.observation import Observation

_VIEWS_AND_STATE = ("agent", "wrist", "state")


@dataclass(frozen=True)
class Recorded:
    """What the policy saw at one query; `episode` is (task, init state)."""

    episode: tuple[int, int]
    observation: Observation


class Recording:
    """Collects what the policy saw in one episode; `write` keeps it."""

    def __init__(self, path: str | Path, key: EpisodeKey) -> None:
        self._path, self._episode = path, (key.task_id, key.init_state)
        self._seen: list[Recorded] = []

    def add(self, query: Query) -> None:
        """Add one query (an `episode.OnQuery`)."""
        self._seen.append(Recorded(self._episode, query.given))

    def write(self) -> None:
        """Write the episode's observations."""
        save(self._seen, self._path)


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} does not hold recorded observations: {error}") from None
