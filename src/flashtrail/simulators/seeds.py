"""Where every random number of a rollout comes from: a counter, not a sequence.

A seed is a list of words made of the episode's own key, so that shards run anywhere in any order, arms are paired and
an episode replayed is the same episode. The arm is not in the key on purpose.
"""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.suites import SUITES

Stream = Literal["sim", "noise", "perturbation", "latency"]
_STREAMS: dict[str, int] = {"sim": 1, "noise": 2, "perturbation": 3, "latency": 4}
_SUITES = {name: code for code, name in enumerate(SUITES)}


def derive(
    seed: int,
    suite: str,
    task_id: int,
    init_state: int,
    repeat: int,
    round: int | None = None,
    *,
    stream: Stream,
) -> list[int]:
    """Return SeedSequence entropy: [seed, suite, task, init state, repeat, stream(, round)], all >= 0.

    Lists of one length differ in some word whenever the keys differ, and streams never meet. A suite that is not one
    of LIBERO's five enters by a checksum of its name.
    """
    code = _SUITES.get(suite, zlib.crc32(suite.encode()))
    words = [seed, code, task_id, init_state, repeat, _STREAMS[stream]]
    if round is not None:
        words.append(round)
    if min(words) < 0:
        raise ValueError(f"seed words must not be negative: {words}")
    return words


def of_episode(seed: int, key: EpisodeKey, stream: Stream) -> list[int]:
    """Return the words of one stream of an episode."""
    return derive(seed, key.suite, key.task_id, key.init_state, key.repeat, stream=stream)


def legacy_seed(words: list[int]) -> int:
    """Return one 32-bit seed for generators that take no more (``np.random.seed``, ``env.seed``)."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint32)[0])


def spelled(words: list[int]) -> str:
    """Return the words as the text that the rounds table holds, such as ``7-2-0-3-0-2-5``."""
    return "-".join(str(word) for word in words)
