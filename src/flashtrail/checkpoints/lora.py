"""LoRA deltas in openpi's trees: which leaves hold them, and what they add to the weight that they belong to.

Follows openpi's forward pass, not its names alone. The attention's output projection contracts the heads once for
each of the two factors (its rule for the two einsums of ``BTNH,NHD->BTD``), so that its delta is A[n] @ (sum over m of
B[m]), not A[n] @ B[n], as the official converter has it; and the MLP's deltas are never scaled, whatever the config
says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashtrail.base.errors import UserError

_EINSUM, _MLP = ("q_einsum", "kv_einsum", "attn_vec_einsum"), ("gating_einsum", "linear")
SCALING: dict[str, float] = {"prefix": 1.0, "expert": 1.0}  # alpha == rank in openpi's gemma_2b_lora, gemma_300m_lora


@dataclass(frozen=True)
class Lora:
    """The two factors' leaves of one weight, the scale of their product, and whether B is summed over heads first."""

    a: str
    b: str
    scale: float
    over_heads: bool

    def merge(self, w: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return w + scale * delta in float32 for the same rows (layers) of the three leaves."""
        factor = np.asarray(b, np.float32)
        if self.over_heads:
            factor = factor.sum(axis=1, keepdims=True)
        return np.asarray(w, np.float32) + np.float32(self.scale) * np.matmul(np.asarray(a, np.float32), factor)


def find(leaves: Mapping[str, Any], scaling: Mapping[str, float]) -> dict[str, Lora]:
    """Return weight leaf -> its deltas, for every weight of `leaves` that has them.

    Raises UserError naming a factor without its partner, or one whose shape does not fit its weight.
    """
    deltas = {}
    for leaf in leaves:
        a, b = _factors(leaf)
        if not a or (a not in leaves and b not in leaves):
            continue
        for one, other in ((a, b), (b, a)):
            if one not in leaves:
                raise UserError(f"checkpoint leaf {other} has no partner {one}: the LoRA delta cannot be merged")
        w, fa, fb = (tuple(leaves[name].shape) for name in (leaf, a, b))
        rank = fa[-1] if fa else 0
        if fa != (*w[:-1], rank) or fb != (*w[:-2], rank, w[-1]):
            raise UserError(f"checkpoint leaves {a} {fa} and {b} {fb} are not a LoRA delta of {leaf} {w}")
        module = leaf.split("/")[-2]
        stack = "expert" if module.endswith("_1") else "prefix"
        scale = float(scaling[stack]) if leaf.endswith("/w") else 1.0
        deltas[leaf] = Lora(a, b, scale, module.startswith("attn_vec_einsum"))
    return deltas


def names(deltas: Iterable[Lora]) -> set[str]:
    """Return every leaf that the deltas are read from."""
    return {name for delta in deltas for name in (delta.a, delta.b)}


def _factors(leaf: str) -> tuple[str, str]:
    """The names that a weight's factors would have; empty for a leaf that openpi gives none."""
    *_, module, last = ["", "", *leaf.split("/")]
    if last == "w" and module.removesuffix("_1") in _EINSUM:
        return leaf[:-1] + "lora_a", leaf[:-1] + "lora_b"
    if last in _MLP and module.removesuffix("_1") == "mlp":
        return leaf + "_lora_a", leaf + "_lora_b"
    return "", ""
