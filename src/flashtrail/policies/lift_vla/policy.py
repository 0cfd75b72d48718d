"""The policy that a server serves: observation in, a chunk of robot actions out; one pass, no noise, no memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashtrail.policies.lift_vla import artifact, clip, statistics, words
from flashtrail.policies.lift_vla.errors import ObservationError
from flashtrail.policies.lift_vla.model import LiftVLA, normalised, parts
from flashtrail.policies.lift_vla.pictures import shrink
from flashtrail.policies.lift_vla.settings import Settings

IMAGE_KEYS = ("observation/image", "observation/wrist_image")
STATE_KEY, PROMPT_KEY, MASK_KEY = "observation/state", "prompt", "__image_mask__"
MAX_BATCH = 8  # rounds in one pass
_REMEMBERED = 256  # instructions whose encoding is kept
Asked = tuple[None, Mapping[str, Any], int | None, bool, Sequence[int] | int | None]


class LiftPolicy:
    """A network with its statistics and its text encoder's tokenizer."""

    max_batch = MAX_BATCH

    def __init__(
        self,
        model: LiftVLA,
        stats: statistics.Stats,
        tokenizer: words.Vocabulary | clip.Tokenizer,
        manifest: Mapping[str, Any],
        settings: Settings,
        device: str = "cpu",
        action_stats: str | None = None,
    ) -> None:
        self.model, self.stats, self.settings = model.to(device), stats, settings
        self._tokenizer, self._manifest, self._action_stats = tokenizer, manifest, action_stats
        self._device = torch.device(device)
        self._said: dict[str, tuple[Tensor, list[str]]] = {}

    @classmethod
    def load(cls, directory: Path, settings: Settings, device: str, action_stats: Path | None) -> LiftPolicy:
        """From an artifact; ArtifactError in one line. `action_stats`: a file whose statistics unnormalise instead."""
        model, stats, manifest = artifact.read(directory)
        dims = model.dims
        tokenizer: words.Vocabulary | clip.Tokenizer
        if dims.text.kind == "words":
            tokenizer = words.Vocabulary.read(directory / words.FILE, dims.text.rows)
        else:
            tokenizer = clip.Tokenizer.read(directory, dims.text)
        if action_stats is not None:
            other = statistics.read(action_stats, dims.state_dim, dims.action_dim)
            stats = statistics.Stats(stats.state_mean, stats.state_std, other.action_mean, other.action_std)
        name = None if action_stats is None else action_stats.name  # anybody may ask for it: no path
        return cls(model, stats, tokenizer, manifest, settings, device, name)

    @property
    def metadata(self) -> dict[str, Any]:
        """Digest, device, settings and sizes; ``action_stats`` only where foreign statistics are in force."""
        dims = self.model.dims
        cuda = self._device.type == "cuda"
        about = {
            "family": artifact.FAMILY,
            "base_digest": self._manifest["digest"],
            "device": str(self._device),
            "device_name": torch.cuda.get_device_name(self._device) if cuda else "cpu",
            "dtype": "float32",
            "settings": asdict(self.settings),
            # Its answers depend on no noise: whatever the seed, it is honoured.
            "request_keys": [MASK_KEY, "noise_seed"],
            "synchronized": True,
            "facts": {"action_horizon": dims.action_horizon, "num_views": dims.views, "blind": dims.blind},
            "parameters": parts(self.model),
        }
        return about if self._action_stats is None else about | {"action_stats": self._action_stats}

    @property
    def reentrant(self) -> bool:
        """Whether rounds of different sessions may run in several threads at once."""
        return self._device.type == "cpu"

    def new_session(self) -> None:
        """There is nothing to remember: each chunk follows from the current observation alone."""

    def infer(self, session: None, obs: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """One round -> actions float64 (horizon, action_dim), accepted_prefix_len, policy_timing.

        obs: observation/image and observation/wrist_image uint8 (224, 224, 3), observation/state (8,), prompt, and
        perhaps __image_mask__. Raises ObservationError for an unfit one, or a prompt of which no word is known. A
        word that is not known has a row of its own, which training used for words left out; the reply's
        policy_timing counts them.
        """
        return self._answer([self._taken(obs)])[0]

    def infer_many(
        self, asked: Sequence[Asked], max_batch: int = MAX_BATCH
    ) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
        """`infer` for rounds of different sessions in passes of at most `max_batch`; see `policies.protocol`."""
        taken: list[tuple[int, _Taken]] = []
        for index, (_, obs, *_rest) in enumerate(asked):
            try:
                taken.append((index, self._taken(obs)))
            except Exception as error:
                yield index, error
        for start in range(0, len(taken), max_batch):
            pack = taken[start : start + max_batch]
            replies = self._answer([one for _, one in pack])
            yield from zip((index for index, _ in pack), replies, strict=True)

    def _taken(self, obs: Mapping[str, Any]) -> _Taken:
        """Check an observation and bring it into the network's form."""
        dims = self.model.dims
        keys = IMAGE_KEYS[: dims.views]
        for key in (*keys, STATE_KEY, PROMPT_KEY):
            if key not in obs:
                raise ObservationError(f"{key}: missing from the observation")
        pictures = [np.asarray(obs[key]) for key in keys]
        for key, picture in zip(keys, pictures, strict=True):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[0] != picture.shape[1]:
                raise ObservationError(f"{key}: expected uint8 (224, 224, 3), got {picture.dtype} {picture.shape}")
        state = np.asarray(obs[STATE_KEY], np.float64)
        if state.shape != (dims.state_dim,) or not np.isfinite(state).all():
            raise ObservationError(f"{STATE_KEY}: expected {dims.state_dim} finite numbers, got shape {state.shape}")
        missing = [not seen for seen in obs.get(MASK_KEY, [True] * dims.views)][: dims.views]
        small = np.stack([shrink(picture, dims.pixels) for picture in pictures])
        text, unknown = self._encoded(str(obs[PROMPT_KEY]))
        return _Taken(small, self.stats.proprioception(state), text, unknown, missing)

    def _encoded(self, prompt: str) -> tuple[Tensor, list[str]]:
        """Tokens (L, text width) of an instruction, and its words that are not known; remembered."""
        if prompt not in self._said:
            if isinstance(self._tokenizer, words.Vocabulary):
                ids, unknown = self._tokenizer.ids(prompt)
            else:
                ids, unknown = self._tokenizer(prompt), []
            with torch.inference_mode():
                text = self.model.text(torch.tensor([ids], device=self._device))[0]
            if len(self._said) >= _REMEMBERED:  # a stranger must not fill the memory with prompts
                self._said.clear()
            self._said[prompt] = (text, unknown)
            return text, unknown
        return self._said[prompt]

    @torch.inference_mode()
    def _answer(self, rounds: Sequence[_Taken]) -> list[dict[str, Any]]:
        """Answer rounds in one pass."""
        marks = [time.perf_counter()]
        model, device = self.model, self._device

        def mark() -> None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            marks.append(time.perf_counter())

        longest = max(len(one.text) for one in rounds)
        absent = torch.tensor([[place >= len(one.text) for place in range(longest)] for one in rounds], device=device)
        text = torch.nn.utils.rnn.pad_sequence([one.text for one in rounds], batch_first=True)
        missing = torch.tensor([one.missing for one in rounds], device=device)
        hand = torch.from_numpy(np.stack([one.hand for one in rounds])).to(device)
        pictures = torch.from_numpy(np.stack([one.pictures for one in rounds])).to(device)
        seen = model.see(normalised(pictures, model.dims))
        mark()
        fused = model.fuse(seen, text, absent)
        mark()
        answers = model.decode(fused, hand, missing if bool(missing.any()) else None).cpu().numpy()
        mark()
        stages = [(end - start) * 1e3 for start, end in itertools.pairwise(marks)]
        return [self._reply(answer, one, stages, len(rounds)) for answer, one in zip(answers, rounds, strict=True)]

    def _reply(self, answer: NDArray[Any], one: _Taken, stages: list[float], batch: int) -> dict[str, Any]:
        """Timing under the wire's names: encoder (pictures), prefill (attention to the text), then the decoder."""
        total = sum(stages)
        timing: dict[str, Any] = dict(zip(("encoder_ms", "vlm_prefill_ms", "full_fallback_ms"), stages, strict=True))
        timing |= {"sample_actions_ms": total, "total_ms": total, "route_type": "full", "is_full_pipeline_round": 1.0}
        timing |= {"synchronized": True, "fallback_cause": "", "batch_size": batch}
        timing["unknown_words"] = float(len(one.unknown))
        accepted = min(self.settings.max_exec_steps, len(answer))
        return {"actions": self.stats.actions(answer), "accepted_prefix_len": accepted, "policy_timing": timing}


class _Taken:
    """A round in the network's form: pictures (V, P, P, 3), hand (10,), text (L, width), words not known, views."""

    def __init__(
        self,
        pictures: NDArray[np.uint8],
        hand: NDArray[np.float32],
        text: Tensor,
        unknown: list[str],
        missing: list[bool],
    ) -> None:
        self.pictures, self.hand, self.text, self.unknown, self.missing = pictures, hand, text, unknown, missing
