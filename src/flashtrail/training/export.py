"""Writes a trained policy in the source layouts that everything downstream reads: openpi's Orbax tree and a draft .pt.

The inverse of checkpoints/convert.py, by the same table of names and layouts. The shipped policy thus takes the same
road as a downloaded one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashtrail.base.provenance import json_dump, write_atomic
from flashtrail.checkpoints import layouts
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims

Tree = dict[str, Any]
ASSETS = Path("assets/physical-intelligence/libero")


def orbax_tree(tensors: dict[str, torch.Tensor], dims: Pi0Dims) -> Tree:
    """Artifact tensors -> openpi's nested parameter tree, float32: each arrangement of the converter backwards."""
    shapes = layouts.source_shapes(dims.to_dict())
    leaves = {leaf: np.empty(shape, np.float32) for leaf, shape in shapes.items()}
    for name, leaf, _, arrange in layouts.rules_of(dims.to_dict()):
        origin = arrange(np.arange(leaves[leaf].size).reshape(shapes[leaf]))  # which value of the leaf lands where
        np.put(leaves[leaf], origin, tensors[name].detach().float().numpy())
    tree: Tree = {}
    for leaf, values in leaves.items():
        *parents, last = leaf.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = values
    return tree


def draft_file(tensors: dict[str, torch.Tensor], dims: DraftDims, meta: dict[str, Any]) -> dict[str, Any]:
    """Draft tensors -> the upstream trainer's {draft_head, meta}: torch's out x in layout, layer norms in bf16."""
    head = {}
    for name, (key, transposed) in layouts.DRAFT_RULES.items():
        tensor = tensors[name].detach().to(torch.bfloat16 if name.endswith("norm.scale") else torch.float32)
        head[key] = (tensor.T if transposed else tensor).contiguous()
    shape = {
        "chunk_m": dims.chunk,
        "out_dim": dims.out_dim,
        "img_dim": dims.width,
        "draft_arch": "vlm_block",
        "draft_input_mode": "prefix_embs",
        "draft_num_heads": dims.num_heads,
        "draft_num_kv_heads": dims.num_kv_heads,
        "draft_head_dim": dims.head_dim,
        "use_last_actions": False,
        "use_seed_actions": False,
    }
    return {"draft_head": head, "meta": {**shape, **meta}}


def write_source(
    directory: Path,
    tensors: dict[str, torch.Tensor],
    dims: Pi0Dims,
    stats: dict[str, Any],
    tokenizer: Path,
    draft: dict[str, Any] | None,
    *,
    delta_actions: bool,
) -> None:
    """Write params/, assets/, tokenizer.model and draft.pt under `directory`; a README.md there is left alone."""
    import jax
    import orbax.checkpoint as ocp

    directory.mkdir(parents=True, exist_ok=True)
    with write_atomic(directory / "params") as temporary, ocp.PyTreeCheckpointer() as checkpointer:
        # As jax arrays, which is what openpi saves: the tree then has its _sharding file too.
        checkpointer.save(temporary.resolve(), {"params": jax.tree.map(jax.numpy.asarray, orbax_tree(tensors, dims))})
        (temporary / "commit_success.txt").unlink(missing_ok=True)  # only says where the tree was written
    json_dump({"norm_stats": stats}, directory / ASSETS / "norm_stats.json")
    stem = dims.to_dict()["vision"]["stem"]
    names = ("action_horizon", "max_token_len", "num_views", "num_steps")
    extra = {"stem": stem, "delta_actions": delta_actions} | {name: getattr(dims, name) for name in names}
    json_dump(extra, directory / "assets/flashtrail/model.json")
    if tokenizer != directory / "tokenizer.model":
        shutil.copyfile(tokenizer, directory / "tokenizer.model")
    if draft is not None:
        with write_atomic(directory / "draft.pt") as temporary:
            torch.save(draft, temporary)
