"""Checkpoint trees as listings of small files: metadata as Orbax and safetensors write it, weights of no meaning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

STATS = "assets/physical-intelligence/libero/norm_stats.json"
_LLM = "PaliGemma/llm/layers/"
LEAVES = [
    "PaliGemma/img/embedding/kernel",
    "PaliGemma/llm/embedder/input_embedding",
    *(f"{_LLM}attn/q_einsum{stack}/w" for stack in ("", "_1")),
    *(f"{_LLM}pre_attention_norm{stack}/scale" for stack in ("", "_1")),
    *(f"{n}/{p}" for n in ("state_proj", "action_in_proj", "action_time_mlp_in") for p in ("kernel", "bias")),
]
PI05 = [leaf.replace("action_time_mlp", "time_mlp") for leaf in LEAVES if not leaf.startswith("state_proj")]


def fast() -> list[str]:
    """pi0-FAST: the language model alone."""
    return [leaf for leaf in LEAVES if leaf.startswith("PaliGemma") and "_1/" not in leaf]


def statistics(state: int, actions: int) -> bytes:
    sizes = {"state": state, "actions": actions}
    return json.dumps({"norm_stats": {k: {"mean": [0.1] * n, "std": [1.0] * n} for k, n in sizes.items()}}).encode()


LIBERO, ALOHA = statistics(8, 7), statistics(14, 14)


def metadata(leaves: Iterable[str], ocdbt: bool = True) -> bytes:
    """params/_METADATA: the keys are the text of tuples."""
    tree = {str(("params", *leaf.split("/"))): {"value_metadata": {"value_type": "jax.Array"}} for leaf in leaves}
    return json.dumps({"tree_metadata": tree, "use_ocdbt": ocdbt, "use_zarr3": False}).encode()


def orbax_tree(
    leaves: Iterable[str] = LEAVES, stats: Mapping[str, bytes] | None = None, ocdbt: bool = True
) -> dict[str, bytes]:
    """A tree's files: name -> content; statistics are LIBERO's unless given."""
    marker = {"params/manifest.ocdbt": b"m" * 117, "params/d/aa": b"w" * 64} if ocdbt else {}
    return {"params/_METADATA": metadata(leaves, ocdbt), **marker, **({STATS: LIBERO} if stats is None else stats)}


def safetensors(*keys: str) -> bytes:
    """A safetensors file of one number a key."""
    header = json.dumps(
        {key: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, key in enumerate(keys)}
    ).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4 * len(keys))
