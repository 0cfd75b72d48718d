"""Reads golden data: the sets, the JAX checkpoint and the draft as engine weights, observations as model inputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashtrail.checkpoints import convert, orbax
from flashtrail.policies.pi0.batch import ModelInputs
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.errors import ArtifactError
from flashtrail.policies.pi0.prefix import PrefixCache
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.transforms import Stats, read_norm_stats
from flashtrail.policies.pi0.weights import Shapes, base_shapes, draft_shapes

DIRECTORY = Path(__file__).parents[1] / "golden"
SETS = ("G1_pi0_jax", "G2_verify_semantics", "G3_wire", "G4_draft_head", "G5_verify")
VIEWS = ("base_0_rgb", "left_wrist_0_rgb")
FACTS = {"action_horizon": 50, "delta_actions": True, "num_views": 2, "num_steps": 10, "max_token_len": 48}  # of G1
NORM_STATS = Path("assets/physical-intelligence/libero/norm_stats.json")
Arrays = dict[str, NDArray[Any]]


def read_npz(path: Path) -> Arrays:
    """All arrays of an .npz; object arrays (pickles) are refused."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def arrays_of(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names begin with `prefix`, under the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def as_weights(arrays: Arrays, shapes: Shapes) -> dict[str, Tensor]:
    """Converted arrays as float32 tensors; names and shapes must be those of the artifact."""
    if set(arrays) != set(shapes):
        raise ArtifactError(f"converted tensors differ from the artifact's: {sorted(set(arrays) ^ set(shapes))[:3]}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ArtifactError(f"converted {name} has shape {arrays[name].shape}, its dims say {shape}")
    return {name: torch.from_numpy(np.array(a, dtype=np.float32)) for name, a in arrays.items()}


def load_base(checkpoint: Path) -> tuple[dict[str, Tensor], Pi0Dims]:
    """An Orbax checkpoint directory as engine weights."""
    arrays, raw = convert.base_tensors(orbax.read_tree(checkpoint / "params"), FACTS)
    dims = Pi0Dims.from_dict(raw)
    return as_weights(arrays, base_shapes(dims)), dims


def load_draft(path: Path) -> tuple[dict[str, Tensor], DraftDims]:
    """An upstream draft .pt as engine weights."""
    arrays, raw = convert.draft_tensors(path)
    dims = DraftDims.from_dict(raw)
    return as_weights(arrays, draft_shapes(dims)), dims


@dataclass(frozen=True)
class Golden:
    """A golden directory; what several sets share is read once."""

    root: Path

    @cached_property
    def base(self) -> tuple[dict[str, Tensor], Pi0Dims]:
        return load_base(self.root / "G1_pi0_jax/checkpoint")

    @cached_property
    def draft(self) -> tuple[dict[str, Tensor], DraftDims]:
        return load_draft(self.root / "G4_draft_head/draft.pt")

    @cached_property
    def base_runtime(self) -> TorchRuntime:
        return TorchRuntime(*self.base)

    @cached_property
    def runtime(self) -> TorchRuntime:
        return TorchRuntime(*self.base, *self.draft)

    @cached_property
    def observations(self) -> list[Arrays]:
        return [read_npz(self.root / f"G1_pi0_jax/obs{i}.npz") for i in range(3)]

    def stats(self, folder: str) -> tuple[Stats, Stats]:
        """Norm statistics of state and actions of one of G1's folders."""
        dims = self.base[1]
        path = self.root / "G1_pi0_jax" / folder / NORM_STATS
        return read_norm_stats(path, dims.state_dim, dims.env_action_dim, dims.action_dim)


def prefix_rows(obs: Arrays) -> NDArray[np.bool_]:
    """Which of the padded prefix's slots are valid."""
    return obs["out_prefix_pad_mask"].astype(bool)


def scaled_images(obs: Arrays) -> NDArray[np.float32]:
    """The two valid views [2, H, W, 3] in [-1, 1]."""
    views = np.stack([obs[f"image_{view}"] for view in VIEWS]).astype(np.float32)
    return views / np.float32(255.0) * np.float32(2.0) - np.float32(1.0)


def model_inputs(obs: Arrays) -> ModelInputs:
    """A G1 observation as the runtime takes it."""
    tokens = obs["token_ids"][obs["token_mask"].astype(bool)].astype(np.int64)
    return ModelInputs(scaled_images(obs), tokens, obs["state_normalized"])


def golden_cache(obs: Arrays) -> PrefixCache:
    """The reference's own prefix K/V, valid rows only: isolates what comes after prefill."""
    rows = prefix_rows(obs)
    k, v = (torch.from_numpy(obs[f"out_prefix_{name}"][:, rows])[:, None, :, None] for name in ("k", "v"))
    return PrefixCache(k, v, None)
