"""Where every random number of a rollout comes from: a counter, not a sequence.

A seed is a list of integers made of the episode's own key, so that shards run anywhere in any order, arms are paired
and an episode replayed is the same episode. The arm is not in the key on purpose.
"""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.suites import SUITES

Stream = Literal["sim", "noise", "perturbation", "latency", "handoff"]
_STREAMS: dict[str, int] = {"sim": 1, "noise": 2, "perturbation": 3, "latency": 4, "handoff": 5}
_SUITES = {name: code for code, name in enumerate(SUITES)}


def derive(seed: int, key: EpisodeKey, stream: Stream, round: int | None = None) -> list[int]:
    """Return SeedSequence entropy: [seed, suite, task, init state, repeat, stream(, round)], all >= 0.

    Lists of one length differ in some integer whenever the keys differ, and streams never meet. A suite that is not
    listed in `suites` enters by a checksum of its name.
    """
    suite = _SUITES.get(key.suite, zlib.crc32(key.suite.encode()))
    entropy = [seed, suite, key.task_id, key.init_state, key.repeat, _STREAMS[stream]]
    if round is not None:
        entropy.append(round)
    if min(entropy) < 0:
        raise ValueError(f"seed integers must not be negative: {entropy}")
    return entropy


def legacy_seed(seed: list[int]) -> int:
    """Return one 32-bit seed for generators that take no more (``np.random.seed``, ``env.seed``)."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint32)[0])


def spelled(seed: list[int]) -> str:
    """Return a seed as the text in the rounds table, such as ``7-2-0-3-0-2-5``."""
    return "-".join(str(number) for number in seed)
