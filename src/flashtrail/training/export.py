"""Writes a trained policy in the source layouts that everything downstream reads: openpi's Orbax tree and a draft .pt.

The inverse of checkpoints/convert.py, written from the tree's side, so that the round trip tests both. The shipped
policy thus takes the same road as a downloaded one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashtrail.base.provenance import json_dump, write_atomic
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims

Tree = dict[str, Any]
ASSETS = Path("assets/physical-intelligence/libero")


def _put(tree: Tree, path: str, value: np.ndarray) -> None:
    *parents, last = path.split("/")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = np.ascontiguousarray(value, dtype=np.float32)


def orbax_tree(tensors: dict[str, torch.Tensor], dims: Pi0Dims) -> Tree:
    """Artifact tensors -> openpi's nested parameter tree, float32."""
    w = {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    tree: Tree = {}
    _vision(tree, w, dims)
    _put(tree, "PaliGemma/llm/embedder/input_embedding", w["embed.weight"])
    _gemma(tree, w, dims, "prefix", "")
    _gemma(tree, w, dims, "expert", "_1")
    for ours in ("state_proj", "action_in_proj", "time_mlp_in", "time_mlp_out", "action_out_proj"):
        theirs = ours.replace("time_mlp", "action_time_mlp")
        _put(tree, f"{theirs}/kernel", w[f"{ours}.weight"])
        _put(tree, f"{theirs}/bias", w[f"{ours}.bias"])
    return tree


def _vision(tree: Tree, w: dict[str, np.ndarray], dims: Pi0Dims) -> None:
    v, img = dims.vision, "PaliGemma/img"
    if v.stem is None:
        patch = int(v.patch or 1)
        _put(tree, f"{img}/embedding/kernel", w["vision.patch_embed.weight"].reshape(patch, patch, 3, v.width))
        _put(tree, f"{img}/embedding/bias", w["vision.patch_embed.bias"])
    else:
        for i in range(len(v.stem.layers)):
            _put(tree, f"{img}/stem/conv_{i}/kernel", w[f"vision.stem.{i}.weight"])
            _put(tree, f"{img}/stem/conv_{i}/bias", w[f"vision.stem.{i}.bias"])
    _put(tree, f"{img}/pos_embedding", w["vision.pos_embed"][None])
    block = f"{img}/Transformer/encoderblock"
    for ours, theirs in (("ln1", "LayerNorm_0"), ("ln2", "LayerNorm_1")):
        for part in ("scale", "bias"):
            _put(tree, f"{block}/{theirs}/{part}", w[f"vision.layers.{ours}.{part}"])
    attention, heads = f"{block}/MultiHeadDotProductAttention_0", (v.num_heads, v.head_dim)
    for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value")):
        kernel = w[f"vision.layers.{ours}.weight"].reshape(v.depth, v.width, *heads)
        _put(tree, f"{attention}/{theirs}/kernel", kernel)
        _put(tree, f"{attention}/{theirs}/bias", w[f"vision.layers.{ours}.bias"].reshape(v.depth, *heads))
    _put(tree, f"{attention}/out/kernel", w["vision.layers.o.weight"].reshape(v.depth, *heads, v.width))
    _put(tree, f"{attention}/out/bias", w["vision.layers.o.bias"])
    for ours, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
        _put(tree, f"{block}/MlpBlock_0/{theirs}/kernel", w[f"vision.layers.{ours}.weight"])
        _put(tree, f"{block}/MlpBlock_0/{theirs}/bias", w[f"vision.layers.{ours}.bias"])
    for part in ("scale", "bias"):
        _put(tree, f"{img}/Transformer/encoder_norm/{part}", w[f"vision.norm.{part}"])
    _put(tree, f"{img}/head/kernel", w["vision.head.weight"])
    _put(tree, f"{img}/head/bias", w["vision.head.bias"])


def _gemma(tree: Tree, w: dict[str, np.ndarray], dims: Pi0Dims, stack: str, suffix: str) -> None:
    g = dims.prefix if stack == "prefix" else dims.expert
    layers, ours = "PaliGemma/llm/layers", f"{stack}.layers."

    def by_head(name: str, heads: int) -> np.ndarray:  # (L, W, H*hd) -> (L, H, W, hd)
        return w[ours + name].reshape(g.depth, g.width, heads, g.head_dim).transpose(0, 2, 1, 3)

    _put(tree, f"{layers}/attn/q_einsum{suffix}/w", by_head("q.weight", g.num_heads))
    kv = np.stack([by_head("k.weight", g.num_kv_heads), by_head("v.weight", g.num_kv_heads)], axis=1)
    _put(tree, f"{layers}/attn/kv_einsum{suffix}/w", kv)
    out = w[ours + "o.weight"].reshape(g.depth, g.num_heads, g.head_dim, g.width)
    _put(tree, f"{layers}/attn/attn_vec_einsum{suffix}/w", out)
    gating = np.stack([w[ours + "gate.weight"], w[ours + "up.weight"]], axis=1)
    _put(tree, f"{layers}/mlp{suffix}/gating_einsum", gating)
    _put(tree, f"{layers}/mlp{suffix}/linear", w[ours + "down.weight"])
    _put(tree, f"{layers}/pre_attention_norm{suffix}/scale", w[ours + "input_norm.scale"])
    _put(tree, f"{layers}/pre_ffw_norm{suffix}/scale", w[ours + "post_norm.scale"])
    _put(tree, f"PaliGemma/llm/final_norm{suffix}/scale", w[f"{stack}.norm.scale"])


def draft_file(tensors: dict[str, torch.Tensor], dims: DraftDims, meta: dict[str, Any]) -> dict[str, Any]:
    """Draft tensors -> the upstream trainer's {draft_head, meta}: torch's out x in layout, layer norms in bf16."""
    t = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}
    names |= {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    head = {
        "_state_token.weight": t["state_token.weight"].T,
        "_state_token.bias": t["state_token.bias"],
        "_action_queries.weight": t["action_queries"],
        **{f"_gemma_block.{theirs}.weight": t[f"{ours}.weight"].T for ours, theirs in names.items()},
        "_gemma_block.input_layernorm.weight": t["input_norm.scale"].to(torch.bfloat16),
        "_gemma_block.post_attention_layernorm.weight": t["post_norm.scale"].to(torch.bfloat16),
        "_action_head.weight": t["action_head.weight"].T,
        "_action_head.bias": t["action_head.bias"],
    }
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
    return {"draft_head": {k: v.contiguous() for k, v in head.items()}, "meta": {**shape, **meta}}


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


def read_stats(directory: Path) -> dict[str, Any]:
    """The norm_stats of a source tree."""
    return json.loads((directory / ASSETS / "norm_stats.json").read_text(encoding="utf-8"))["norm_stats"]
