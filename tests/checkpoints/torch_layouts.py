"""Golden G1 written as openpi's and LeRobot's PyTorch modules save it, by einsum equations: nothing of the reader.

`test_torch_tree.py` holds names, shapes and bytes to what the real modules saved (golden G6).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints.conftest import FACTS, G1, GOLDEN
from safetensors.torch import save_file

from flashtrail.checkpoints import orbax

G6 = GOLDEN / "G6_torch_layouts"
HEADS = 2  # of G1's picture tower
OPENPI, LEROBOT, OLD = "openpi", "lerobot", "lerobot_0.3.3"
STATS = json.loads((G1 / "checkpoint/assets/physical-intelligence/libero/norm_stats.json").read_bytes())["norm_stats"]
DECLARED = {"horizon": 50, "delta_actions": True, "views": 2, "steps": 10, "max_token_len": 48}
_VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
_LAYER = {
    "LayerNorm_0/scale": ("layer_norm1.weight", "a->a"),
    "LayerNorm_0/bias": ("layer_norm1.bias", "a->a"),
    "LayerNorm_1/scale": ("layer_norm2.weight", "a->a"),
    "LayerNorm_1/bias": ("layer_norm2.bias", "a->a"),
    "MlpBlock_0/Dense_0/kernel": ("mlp.fc1.weight", "io->oi"),
    "MlpBlock_0/Dense_0/bias": ("mlp.fc1.bias", "a->a"),
    "MlpBlock_0/Dense_1/kernel": ("mlp.fc2.weight", "io->oi"),
    "MlpBlock_0/Dense_1/bias": ("mlp.fc2.bias", "a->a"),
    "MultiHeadDotProductAttention_0/query/kernel": ("self_attn.q_proj.weight", "whd->hdw"),
    "MultiHeadDotProductAttention_0/query/bias": ("self_attn.q_proj.bias", "hd->hd"),
    "MultiHeadDotProductAttention_0/key/kernel": ("self_attn.k_proj.weight", "whd->hdw"),
    "MultiHeadDotProductAttention_0/key/bias": ("self_attn.k_proj.bias", "hd->hd"),
    "MultiHeadDotProductAttention_0/value/kernel": ("self_attn.v_proj.weight", "whd->hdw"),
    "MultiHeadDotProductAttention_0/value/bias": ("self_attn.v_proj.bias", "hd->hd"),
    "MultiHeadDotProductAttention_0/out/kernel": ("self_attn.out_proj.weight", "hdw->whd"),
    "MultiHeadDotProductAttention_0/out/bias": ("self_attn.out_proj.bias", "a->a"),
}


def golden() -> dict[str, np.ndarray]:
    return orbax.read_tree(G1 / "checkpoint/params")


def state_dict(leaves: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """openpi's names and openpi's layout; the embeddings only as lm_head, as safetensors keeps tied weights."""
    out: dict[str, np.ndarray] = {}

    def put(name: str, x: np.ndarray, equation: str, rows: int) -> None:
        out[name] = np.einsum(equation, x).reshape(-1) if rows == 0 else np.einsum(equation, x).reshape(rows, -1)

    img, llm = "PaliGemma/img/", "PaliGemma/llm/"
    out[_VISION + "embeddings.patch_embedding.weight"] = np.einsum("hwio->oihw", leaves[img + "embedding/kernel"])
    out[_VISION + "embeddings.patch_embedding.bias"] = leaves[img + "embedding/bias"]
    out[_VISION + "embeddings.position_embedding.weight"] = leaves[img + "pos_embedding"][0]
    for leaf, (name, equation) in _LAYER.items():
        for i, x in enumerate(leaves[f"{img}Transformer/encoderblock/{leaf}"]):
            first = equation.partition("->")[2][0]
            rows = 0 if name.endswith("bias") or "norm" in name else x.shape[equation.index(first)]
            rows *= x.shape[equation.index("d")] if first == "h" else 1
            put(f"{_VISION}encoder.layers.{i}.{name}", x, equation, rows)
    for name, part in (("weight", "scale"), ("bias", "bias")):
        out[f"{_VISION}post_layernorm.{name}"] = leaves[f"{img}Transformer/encoder_norm/{part}"]
    projector = "paligemma_with_expert.paligemma.model.multi_modal_projector.linear."
    out[projector + "weight"], out[projector + "bias"] = leaves[img + "head/kernel"].T, leaves[img + "head/bias"]
    out["paligemma_with_expert.paligemma.lm_head.weight"] = leaves[llm + "embedder/input_embedding"]
    for suffix, stack in (("", "paligemma.model.language_model."), ("_1", "gemma_expert.model.")):
        root, layers = "paligemma_with_expert." + stack, llm + "layers/"
        out[root + "norm.weight"] = leaves[f"{llm}final_norm{suffix}/scale"]
        for i in range(3):
            at = f"{root}layers.{i}."
            q, kv, o = (leaves[f"{layers}attn/{n}{suffix}/w"][i] for n in ("q_einsum", "kv_einsum", "attn_vec_einsum"))
            put(at + "self_attn.q_proj.weight", q, "hwd->hdw", q.shape[0] * q.shape[2])
            for k, name in enumerate("kv"):
                put(f"{at}self_attn.{name}_proj.weight", kv[k], "hwd->hdw", kv.shape[-1])
            put(at + "self_attn.o_proj.weight", o, "hdw->whd", o.shape[-1])
            gating = leaves[f"{layers}mlp{suffix}/gating_einsum"][i]
            for k, name in enumerate(("gate", "up")):
                out[f"{at}mlp.{name}_proj.weight"] = gating[k].T
            out[at + "mlp.down_proj.weight"] = leaves[f"{layers}mlp{suffix}/linear"][i].T
            out[at + "input_layernorm.weight"] = leaves[f"{layers}pre_attention_norm{suffix}/scale"][i]
            out[at + "post_attention_layernorm.weight"] = leaves[f"{layers}pre_ffw_norm{suffix}/scale"][i]
    for name in ("state_proj", "action_in_proj", "action_time_mlp_in", "action_time_mlp_out", "action_out_proj"):
        out[name + ".weight"], out[name + ".bias"] = leaves[name + "/kernel"].T, leaves[name + "/bias"]
    out["paligemma_with_expert.gemma_expert.lm_head.weight"] = np.zeros((512, 32), np.float32)
    return {name: torch.from_numpy(np.array(x, order="C")) for name, x in out.items()}


def renamed(tensors: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """The same tensors under another layout's names."""
    out = {name if layout == OPENPI else "model." + name: x for name, x in tensors.items()}
    if layout == OLD:
        changes = {
            "paligemma.lm_head": "paligemma.language_model.lm_head",
            "paligemma.model.language_model": "paligemma.language_model.model",
            "paligemma.model.vision_tower": "paligemma.vision_tower",
            "paligemma.model.multi_modal_projector": "paligemma.multi_modal_projector",
        }
        for old, new in changes.items():
            out = {name.replace(old, new): x for name, x in out.items()}
        stack = "model.paligemma_with_expert."
        out[stack + "paligemma.language_model.model.embed_tokens.weight"] = out[
            stack + "paligemma.language_model.lm_head.weight"
        ].clone()
        out[stack + "gemma_expert.model.embed_tokens.weight"] = torch.zeros(512, 32)
    return out


def write(root: Path, layout: str, tensors: dict[str, torch.Tensor] | None = None, **dtype: Any) -> Path:
    """A checkpoint folder as people have it: weights, statistics where the layout keeps them, the tower's heads."""
    weights = {n: x.to(**dtype) if dtype else x for n, x in (tensors or state_dict(golden())).items()}
    weights = renamed(weights, layout)
    (root / "assets/flashtrail").mkdir(parents=True)
    (root / "assets/flashtrail/model.json").write_text(json.dumps({"vision_heads": HEADS}))
    if layout == OPENPI:
        shutil.copytree(G1 / "checkpoint/assets", root / "assets", dirs_exist_ok=True)
    if layout == LEROBOT:
        for path in (G6 / "config.json", *G6.glob("policy_*")):
            shutil.copy(path, root / path.name)
    if layout == OLD:
        buffers = {
            "normalize_inputs.buffer_observation_state": "state",
            "normalize_targets.buffer_action": "actions",
            "unnormalize_outputs.buffer_action": "actions",
        }
        for name, key in buffers.items():
            weights |= {f"{name}.{field}": torch.tensor(STATS[key][field]) for field in ("mean", "std")}
        (root / "config.json").write_text(json.dumps({"type": "pi0", "chunk_size": 50, "num_steps": 10}))
    save_file(weights, root / "model.safetensors")
    return root


def facts(root: Path, **more: Any) -> None:
    """facts.json of a folder that is converted without probe and fetch."""
    said = {**FACTS, "vision_heads": HEADS, **more}
    (root / "facts.json").write_text(json.dumps({key: value for key, value in said.items() if value is not None}))
