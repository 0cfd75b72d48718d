"""A served policy that answers each round with a chunk in one pass: what of it does not depend on the family."""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from flashtrail.policies.parts.errors import ObservationError
from flashtrail.policies.parts.pictures import shrink
from flashtrail.policies.parts.precision import dtype_of

IMAGE_KEYS = ("observation/image", "observation/wrist_image")
STATE_KEY, PROMPT_KEY, MASK_KEY = "observation/state", "prompt", "__image_mask__"
MAX_BATCH = 8  # rounds in one pass
REMEMBERED = 256  # instructions whose encoding is kept: a stranger must not fill the memory with prompts
STAGES = ("encoder_ms", "vlm_prefill_ms", "full_fallback_ms")  # the wire's names, of three stages in their order
Asked = tuple[Any, Mapping[str, Any], int | None, bool, Sequence[int] | int | None]
Taken = TypeVar("Taken")


class ChunkPolicy(ABC, Generic[Taken]):
    """Rounds of different sessions share a pass. No noise: whatever the seed, it is honoured."""

    max_batch = MAX_BATCH

    def __init__(self, device: str, precision: str = "float32") -> None:
        self.device, self.precision, self.dtype = torch.device(device), precision, dtype_of(precision)

    @abstractmethod
    def take(self, session: Any, obs: Mapping[str, Any], reset: bool) -> Taken:
        """Check an observation and bring it into the network's form; ObservationError for an unfit one."""

    @abstractmethod
    def answer(self, rounds: Sequence[Taken]) -> list[dict[str, Any]]:
        """Answer rounds in one pass."""

    @property
    def reentrant(self) -> bool:
        """Whether rounds of different sessions may run in several threads at once."""
        return self.device.type == "cpu"

    def about(self) -> dict[str, Any]:
        """What the metadata of each such policy says."""
        cuda = self.device.type == "cuda"
        return {
            "device": str(self.device),
            "device_name": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "dtype": self.precision,
            "request_keys": [MASK_KEY, "noise_seed"],
            "synchronized": True,
        }

    def infer(self, session: Any, obs: Mapping[str, Any], *, reset: bool = False, **_: Any) -> dict[str, Any]:
        """One round -> actions float64 (horizon, action_dim), accepted_prefix_len, policy_timing.

        obs: observation/image and observation/wrist_image uint8 (224, 224, 3), observation/state, prompt, and perhaps
        __image_mask__. Raises ObservationError for an unfit one, or a prompt of which no word is known. A word that is
        not known has a row of its own, which training used for words left out; the reply's policy_timing counts them.
        """
        with torch.inference_mode():
            return self.answer([self.take(session, obs, reset)])[0]

    def infer_many(
        self, asked: Sequence[Asked], max_batch: int = MAX_BATCH
    ) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
        """`infer` for rounds of different sessions in passes of at most `max_batch`; see `policies.protocol`."""
        taken: list[tuple[int, Taken]] = []
        for index, (session, obs, _, reset, _seed) in enumerate(asked):
            try:
                taken.append((index, self.take(session, obs, reset)))
            except Exception as error:
                yield index, error
        size = min(max_batch, self.max_batch)
        for start in range(0, len(taken), size):
            pack = taken[start : start + size]
            with torch.inference_mode():
                replies = self.answer([one for _, one in pack])
            yield from zip((index for index, _ in pack), replies, strict=True)


class Marks:
    """When the stages of a pass ended, on a device that has done what it was given."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._at = device, [time.perf_counter()]

    def mark(self) -> None:
        """A stage ends."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._at.append(time.perf_counter())

    def timing(self, batch: int) -> dict[str, Any]:
        """Return policy_timing of three stages under the wire's names; `batch` rounds shared the pass."""
        stages = [(end - start) * 1e3 for start, end in itertools.pairwise(self._at)]
        total = sum(stages)
        timing: dict[str, Any] = dict(zip(STAGES, stages, strict=True))
        timing |= {"sample_actions_ms": total, "total_ms": total, "route_type": "full", "is_full_pipeline_round": 1.0}
        return timing | {"synchronized": True, "fallback_cause": "", "batch_size": batch}


def seen(
    obs: Mapping[str, Any], views: int, pixels: int, state_dim: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64], list[bool]]:
    """Check an observation -> pictures (V, P, P, 3), state (state_dim,), and which views were declared missing."""
    keys = IMAGE_KEYS[:views]
    for key in (*keys, STATE_KEY, PROMPT_KEY):
        if key not in obs:
            raise ObservationError(f"{key}: missing from the observation")
    pictures = [np.asarray(obs[key]) for key in keys]
    for key, picture in zip(keys, pictures, strict=True):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[0] != picture.shape[1]:
            raise ObservationError(f"{key}: expected uint8 (224, 224, 3), got {picture.dtype} {picture.shape}")
    state = np.asarray(obs[STATE_KEY], np.float64)
    if state.shape != (state_dim,) or not np.isfinite(state).all():
        raise ObservationError(f"{STATE_KEY}: expected {state_dim} finite numbers, got shape {state.shape}")
    missing = [not seen for seen in obs.get(MASK_KEY, [True] * views)][:views]
    return np.stack([shrink(picture, pixels) for picture in pictures]), state, missing
