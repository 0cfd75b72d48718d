"""Which episodes a shard must have, by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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


def expected_episodes(suite: str, task_id: int, init_states: Sequence[int], repeats: int) -> list[EpisodeKey]:
    """Return the shard's episodes in the order in which they are run: repeat by repeat, init states as listed."""
    return [EpisodeKey(suite, task_id, init_state, repeat) for repeat in range(repeats) for init_state in init_states]
