"""Dims of known policies, for timing with random weights and for cost tables; no checkpoint is needed."""

from __future__ import annotations

from flashtrail.base.errors import UserError, nearest
from flashtrail.policies.pi0.dims import DraftDims, GemmaDims, Pi0Dims, VisionDims
from flashtrail.training.policy import nano_dims

PI0_LIBERO = Pi0Dims(
    vision=VisionDims(width=1152, depth=27, mlp_dim=4304, num_heads=16, head_dim=72, patch=14),
    prefix=GemmaDims(width=2048, depth=18, mlp_dim=16384, num_heads=8, num_kv_heads=1, head_dim=256),
    expert=GemmaDims(width=1024, depth=18, mlp_dim=4096, num_heads=8, num_kv_heads=1, head_dim=256),
    vocab_size=257152,
)
NANO_VOCABULARY = 64


def preset(name: str) -> tuple[Pi0Dims, DraftDims]:
    """Dims of policy and draft head of a known name; UserError for another."""
    known = {"pi0_libero": PI0_LIBERO, "pi0_nano": nano_dims(NANO_VOCABULARY)}
    if name not in known:
        raise UserError(f"--random {name}: no such policy{nearest(name, known)}")
    dims = known[name]
    g = dims.prefix
    mlp = g.mlp_dim
    return dims, DraftDims(g.width, mlp, g.num_heads, g.num_kv_heads, g.head_dim, state_dim=dims.action_dim)
