"""The tiny policy with fewer tokens and steps still, and norms and biases that cannot hide."""

from __future__ import annotations

from dataclasses import replace

import torch
from policies.pi0.tiny import DIMS, DRAFT_DIMS

from flashtrail.policies.pi0 import weights
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims, Stem, StemLayer, VisionDims

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Few tokens and steps: the interpreter takes a millisecond for what a device does in one microsecond.
SMALL = replace(
    DIMS,
    vision=VisionDims(width=16, depth=1, mlp_dim=24, num_heads=2, head_dim=8, patch=112),
    action_horizon=6,
    num_steps=2,
)
STEM = replace(
    SMALL, vision=replace(SMALL.vision, patch=None, stem=Stem((StemLayer(5, 4, 8), StemLayer(3, 2, 16)), pool=8))
)
SMALL_DRAFT = replace(DRAFT_DIMS, chunk=6)


def base_weights(dims: Pi0Dims = SMALL) -> dict[str, torch.Tensor]:
    return {k: _loud(k, v).to(DEVICE) for k, v in weights.init_base(dims, 0).items()}


def draft_weights(dims: DraftDims = SMALL_DRAFT, seed: int = 0) -> dict[str, torch.Tensor]:
    return {k: _loud(k, v).to(DEVICE) for k, v in weights.init_draft(dims, seed).items()}


def _loud(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Random norms and biases: their initial zeros and ones would hide a scale that is not applied."""
    if name.endswith((".bias", ".scale")):
        return tensor + 0.2 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name)))
    return tensor
