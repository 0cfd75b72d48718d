"""From an observation to the model's inputs and from a chunk to robot actions: lists of small dataclasses.

Each transform takes a dict and returns a new one; a condition or a drill can be another element of the list. Turning
the images is the client's job. Source: openpi's transforms for pi0_libero.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from flashtrail.policies.pi0.batch import ModelInputs
from flashtrail.policies.pi0.errors import ArtifactError, ObservationError

_log = logging.getLogger(__name__)

IMAGE_KEYS = ("observation/image", "observation/wrist_image")
STATE_KEY, PROMPT_KEY, MASK_KEY = "observation/state", "prompt", "__image_mask__"
STD_EPS = 1e-6
DELTA_DIMS = 6  # the gripper is absolute already

Data = dict[str, Any]
Transform = Callable[[Data], Data]


@dataclass(frozen=True)
class Stats:
    """Mean and standard deviation of one quantity, float64 [D]; D may exceed the data's (zero-padded statistics)."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def normalize(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """(x - mean) / (std + 1e-6) over the last axis."""
        n = x.shape[-1]
        normal: NDArray[np.float64] = (x - self.mean[:n]) / (self.std[:n] + STD_EPS)
        return normal

    def unnormalize(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """x * (std + 1e-6) + mean over the last axis; dims without statistics are left out."""
        n = min(x.shape[-1], self.mean.shape[0])
        values: NDArray[np.float64] = x[..., :n].astype(np.float64) * (self.std[:n] + STD_EPS) + self.mean[:n]
        return values


def read_norm_stats(path: Path, state_dim: int, action_dim: int, padded_dim: int) -> tuple[Stats, Stats]:
    """norm_stats.json -> statistics of state and of actions; ArtifactError for a wrong length or content."""
    root = _norm_stats(path, "convert the checkpoint again")
    return _stats(path, root, "state", (state_dim, padded_dim)), _stats(path, root, "actions", (action_dim, padded_dim))


def read_action_stats(path: Path, action_dim: int, padded_dim: int) -> Stats:
    """A file in the form of norm_stats.json -> its statistics of actions alone; errors as `read_norm_stats`."""
    return _stats(path, _norm_stats(path, "give another file"), "actions", (action_dim, padded_dim))


def _norm_stats(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["norm_stats"]
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_stats(path, "state and .actions", error) from None


def _no_stats(path: Path, what: str, error: Exception) -> ArtifactError:
    problem = f"{type(error).__name__}: {error}"
    return ArtifactError(f"{path} must hold norm_stats.{what} with mean and std ({problem})")


def _stats(path: Path, root: Any, name: str, dims: tuple[int, int]) -> Stats:
    try:
        raw = {part: root[name][part] for part in ("mean", "std")}
    except (KeyError, TypeError) as error:
        raise _no_stats(path, name, error) from None
    try:
        values = {part: np.asarray(v, dtype=np.float64) for part, v in raw.items()}
    except (TypeError, ValueError):
        raise ArtifactError(f"{path}: {name} holds something other than numbers") from None
    for part, value in values.items():
        if value.shape not in ((dims[0],), (dims[1],)):
            raise ArtifactError(
                f"{path}: {name}.{part} has length {value.size}, the policy needs {dims[0]} (or {dims[1]}, padded); "
                "these statistics belong to another robot or dataset"
            )
        if not np.isfinite(value).all() or (part == "std" and (value < 0).any()):
            raise ArtifactError(f"{path}: {name}.{part} holds a value that is not finite, or a negative std")
    return Stats(values["mean"], values["std"])


@dataclass
class Tokenizer:
    """PaliGemma's prompt format over a SentencePiece model; prompts are remembered, since an episode repeats one."""

    processor: sentencepiece.SentencePieceProcessor
    max_len: int
    _seen: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    _cut: list[str] = field(default_factory=list)  # the first prompt that was too long

    @classmethod
    def load(cls, path: Path, max_len: int, vocab_size: int) -> Tokenizer:
        """From tokenizer.model; ArtifactError where it is missing, damaged or larger than the model's vocabulary."""
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; convert the checkpoint again with its tokenizer")
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(path.read_bytes())
        except (RuntimeError, OSError):
            raise ArtifactError(f"{path} is not a SentencePiece model; fetch the tokenizer again") from None
        if processor.vocab_size() > vocab_size:
            raise ArtifactError(
                f"{path} has {processor.vocab_size()} pieces, the policy's vocabulary {vocab_size}: another model's"
            )
        return cls(processor, max_len)

    def __call__(self, prompt: str) -> NDArray[np.int64]:
        """Prompt -> ids [P], BOS first, the newline as separator last; cut at max_len, with one warning in all."""
        ids = self._seen.get(prompt)
        if ids is None:
            ids = self._ids(prompt)
            if len(self._seen) >= 1024:  # a stranger must not fill the memory with prompts
                self._seen.clear()
            self._seen[prompt] = ids
        return ids

    def _ids(self, prompt: str) -> NDArray[np.int64]:
        text = prompt.strip().replace("_", " ").replace("\n", " ")
        ids = self.processor.encode(text, add_bos=True) + self.processor.encode("\n")
        if len(ids) > self.max_len and not self._cut:
            self._cut.append(text)
            _log.warning(
                "a prompt of %d tokens was cut to this policy's %d, as openpi does (said once): %s ...",
                *(len(ids), self.max_len, text[:60]),
            )
        return np.asarray(ids[: self.max_len], dtype=np.int64)


# --- inputs ---


@dataclass(frozen=True)
class PickViews:
    """Observation -> images (views in the model's order, masked ones left out), state, prompt."""

    num_views: int
    state_dim: int
    keys: Sequence[str] = IMAGE_KEYS

    def __call__(self, data: Data) -> Data:
        keys = self.keys[: self.num_views]
        for key in (*keys, STATE_KEY, PROMPT_KEY):
            if key not in data:
                raise ObservationError(f"{key}: missing from the observation")
        mask = data.get(MASK_KEY)
        keep = [True] * len(keys) if mask is None else [bool(m) for m in mask]
        if len(keep) != len(keys):
            raise ObservationError(f"{MASK_KEY}: {len(keep)} entries for {len(keys)} views")
        state = np.asarray(data[STATE_KEY], dtype=np.float64)
        if state.shape != (self.state_dim,):
            raise ObservationError(f"{STATE_KEY}: shape {state.shape}, the policy needs ({self.state_dim},)")
        images = [np.asarray(data[k]) for k, kept in zip(keys, keep, strict=True) if kept]
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise ObservationError(f"images must be uint8 [H, W, 3], not {image.dtype} {image.shape}")
        return {"images": images, "state": state, "raw_state": state, "prompt": data[PROMPT_KEY]}


@dataclass(frozen=True)
class NormalizeState:
    """z-score of the state."""

    stats: Stats

    def __call__(self, data: Data) -> Data:
        return data | {"state": self.stats.normalize(data["state"])}


@dataclass(frozen=True)
class ResizeWithPad:
    """Bilinear resize that keeps the aspect, black bars around; views of the right size pass untouched."""

    size: int

    def __call__(self, data: Data) -> Data:
        return data | {"images": [self._resize(image) for image in data["images"]]}

    def _resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        if (height, width) == (self.size, self.size):
            return image
        ratio = self.size / max(height, width)
        new = (max(1, int(height * ratio)), max(1, int(width * ratio)))
        x = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None]
        x = F.interpolate(x, size=new, mode="bilinear", antialias=True, align_corners=False)
        small = x[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
        out = np.zeros((self.size, self.size, 3), np.uint8)
        top, left = (self.size - new[0]) // 2, (self.size - new[1]) // 2
        out[top : top + new[0], left : left + new[1]] = small
        return out


@dataclass(frozen=True)
class ScaleImages:
    """uint8 -> float32 in [-1, 1], all views stacked [V, H, W, 3]."""

    size: int

    def __call__(self, data: Data) -> Data:
        pixels = np.zeros((len(data["images"]), self.size, self.size, 3), np.float32)
        for view, image in zip(pixels, data["images"], strict=True):
            np.divide(image, np.float32(255.0), out=view)
        return data | {"images": pixels * np.float32(2.0) - np.float32(1.0)}


@dataclass(frozen=True)
class Tokenize:
    """Prompt -> token_ids."""

    tokenizer: Callable[[str], NDArray[np.int64]]

    def __call__(self, data: Data) -> Data:
        return data | {"token_ids": self.tokenizer(str(data["prompt"]))}


@dataclass(frozen=True)
class PadState:
    """State -> float32 [dim], zero-padded after normalisation."""

    dim: int

    def __call__(self, data: Data) -> Data:
        state = np.zeros(self.dim, np.float32)
        state[: data["state"].shape[0]] = data["state"]
        return data | {"state": state}


# --- outputs ---


@dataclass(frozen=True)
class UnnormalizeActions:
    """Normalised chunk -> robot units, float64, the real dims only."""

    stats: Stats
    dims: int

    def __call__(self, data: Data) -> Data:
        return data | {"actions": self.stats.unnormalize(data["actions"][:, : self.dims])}


@dataclass(frozen=True)
class AbsoluteActions:
    """Adds the raw state's first six dims to actions that were trained as differences from it."""

    dims: int = DELTA_DIMS

    def __call__(self, data: Data) -> Data:
        actions = data["actions"].copy()
        actions[:, : self.dims] += data["raw_state"][: self.dims]
        return data | {"actions": actions}


def apply(transforms: Sequence[Transform], data: Mapping[str, Any]) -> Data:
    """Run a list of transforms."""
    out = dict(data)
    for transform in transforms:
        out = transform(out)
    return out


def model_inputs(data: Mapping[str, Any]) -> ModelInputs:
    """What the runtime takes, after all input transforms."""
    return ModelInputs(data["images"], data["token_ids"], data["state"])
