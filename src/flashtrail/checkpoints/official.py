"""The official runtime's `base_weights.pkl` and `draft_triton.pkl` as our artifacts.

The base pickle folds what ours keeps apart: RMSNorm scales into the products behind them, the final norm and the Euler
step into the output projection; and its rotary halves are interleaved. The import therefore has norms of zero (that is,
of one) and the folded products.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, convert, layouts, pickles

BF16 = np.dtype(ml_dtypes.bfloat16)
PROMPT_KEY = "language_embeds"
_DIRECT = {  # key -> our tensor, as it is
    "vision_patch_embedding_b": "vision.patch_embed.bias",
    "vision_position_embedding": "vision.pos_embed",
    "vision_attn_o_w": "vision.layers.o.weight",
    "vision_attn_o_b": "vision.layers.o.bias",
    "vision_ffn_up_w": "vision.layers.fc1.weight",
    "vision_ffn_up_b": "vision.layers.fc1.bias",
    "vision_ffn_down_w": "vision.layers.fc2.weight",
    "vision_ffn_down_b": "vision.layers.fc2.bias",
    "vision_pre_attn_norm_w": "vision.layers.ln1.scale",
    "vision_pre_attn_norm_b": "vision.layers.ln1.bias",
    "vision_pre_ffn_norm_w": "vision.layers.ln2.scale",
    "vision_pre_ffn_norm_b": "vision.layers.ln2.bias",
    "vision_final_norm_w": "vision.norm.scale",
    "vision_final_norm_b": "vision.norm.bias",
    "encoder_multi_modal_projector_w": "vision.head.weight",
    "encoder_multi_modal_projector_b": "vision.head.bias",
    "encoder_attn_o_w": "prefix.layers.o.weight",
    "encoder_ffn_gate_w": "prefix.layers.gate.weight",
    "encoder_ffn_up_w": "prefix.layers.up.weight",
    "encoder_ffn_down_w": "prefix.layers.down.weight",
    "decoder_attn_o_w": "expert.layers.o.weight",
    "decoder_ffn_gate_w": "expert.layers.gate.weight",
    "decoder_ffn_up_w": "expert.layers.up.weight",
    "decoder_ffn_down_w": "expert.layers.down.weight",
    "decoder_state_in_proj_w": "state_proj.weight",
    "decoder_state_in_proj_b": "state_proj.bias",
    "decoder_action_in_proj_w": "action_in_proj.weight",
    "decoder_action_in_proj_b": "action_in_proj.bias",
    "decoder_action_time_mlp_in_w": "time_mlp_in.weight",
    "decoder_action_time_mlp_in_b": "time_mlp_in.bias",
    "decoder_action_mlp_w": "time_mlp_out.weight",
    "decoder_action_mlp_b": "time_mlp_out.bias",
    "language_embedding_weight": "embed.weight",
}
_QKV = {  # key -> our three tensors, side by side along the last axis
    "vision_attn_qkv_w": "vision.layers.{}.weight",
    "vision_attn_qkv_b": "vision.layers.{}.bias",
    "encoder_attn_qkv_w": "prefix.layers.{}.weight",
    "decoder_attn_qkv_w": "expert.layers.{}.weight",
}
_DERIVED_TOLERANCE = 0.03  # of the largest value: the official products are made in bfloat16


def base_keys(dims: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return key -> shape of `base_weights.pkl` for these dims. Raises UserError for a model with a stem."""
    vision = dims["vision"]
    if vision["stem"] is not None:
        raise UserError("the official layout has no stem before its patch embedding: give the dims that the file has")
    ours = layouts.base_shapes(dims)
    shapes = {key: ours[name] for key, name in _DIRECT.items()}
    for key, name in _QKV.items():
        parts = [ours[name.format(part)] for part in "qkv"]
        shapes[key] = (*parts[0][:-1], sum(part[-1] for part in parts))
    shapes["vision_patch_embedding_w"] = (vision["patch"], vision["patch"], 3, vision["width"])
    shapes["decoder_action_fused_in_proj_w"] = ours["action_in_proj.weight"]
    shapes["decoder_action_fused_time_biases"] = (dims["num_steps"], dims["expert"]["width"])
    shapes["decoder_action_fused_out_proj_w"] = ours["action_out_proj.weight"]
    shapes["decoder_action_fused_out_proj_b"] = ours["action_out_proj.bias"]
    return dict(sorted(shapes.items()))


# --- rotary halves ---


def half_split(x: np.ndarray, head_dim: int) -> np.ndarray:
    """Columns of each head from pairs to half-split (first half, second half); x[..., heads * head_dim]."""
    return x.reshape(*x.shape[:-1], -1, head_dim // 2, 2).swapaxes(-1, -2).reshape(x.shape)


# --- derived tensors ---


def fused_in_proj(in_w: np.ndarray, mlp_w: np.ndarray) -> np.ndarray:
    """The action projection and the action half of the time MLP's first layer as one product, float32."""
    return in_w @ mlp_w[: in_w.shape[1]]


def time_biases(in_b: np.ndarray, mlp_w: np.ndarray, mlp_b: np.ndarray, steps: int) -> np.ndarray:
    """The bias of that product at each Euler time 1 - i/steps, (steps, width), float32."""
    width = in_b.shape[0]
    periods = 4e-3 * 1000.0 ** np.linspace(0.0, 1.0, width // 2)
    angles = 2 * np.pi * (1 - np.arange(steps) / steps)[:, None] / periods
    emb = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(BF16).astype(np.float32)
    return in_b @ mlp_w[:width] + emb @ mlp_w[width:] + mlp_b


def euler_fold(steps: int) -> tuple[np.float32, np.float32]:
    """Norm scale and factor with which an output projection, folded with -1/steps, is unfolded without rounding.

    w = factor * folded and 1 + scale = steps / -factor, both exact in bfloat16: a power of two, and a short fraction.
    """
    power = 2.0 ** math.ceil(math.log2(steps))
    return np.float32(steps / power - 1), np.float32(-power)


def base_streams(content: Any, dims: Mapping[str, Any], path: Path) -> dict[str, artifact.Stream]:
    """Return the artifact's tensors, made of a loaded `base_weights.pkl`.

    Raises UserError naming missing, unexpected or misshapen tensors, or a derived one that is another model's.
    """
    shapes = base_keys(dims)
    if isinstance(content, dict) and PROMPT_KEY in content:
        raise UserError(f"{path} holds {PROMPT_KEY}: it was converted for one prompt; convert it without --prompt")
    check_tensors(content, shapes, path)
    _check_derived(content, dims, path)
    ours = layouts.base_shapes(dims)
    scale, factor = euler_fold(dims["num_steps"])
    out = {name: _stream(content[key], ours[name]) for key, name in _DIRECT.items()}
    out["vision.patch_embed.weight"] = artifact.Stream(
        ours["vision.patch_embed.weight"],
        lambda: iter([content["vision_patch_embedding_w"].read().reshape(ours["vision.patch_embed.weight"])]),
    )
    for key, names in _QKV.items():
        start, stack = 0, names.partition(".")[0]
        for part in "qkv":
            name = names.format(part)
            columns = slice(start, start + ours[name][-1])
            rotary = stack != "vision" and part != "v"
            change = functools.partial(half_split, head_dim=dims[stack]["head_dim"]) if rotary else _same
            out[name] = _stream(content[key], ours[name], columns, change)
            start = columns.stop
    folded = [name for name in ours if name.endswith("norm.scale") and name not in out]
    out |= {name: _constant(ours[name], np.float32(0)) for name in folded}
    out["expert.norm.scale"] = _constant(ours["expert.norm.scale"], scale)
    projection, bias = (content[f"decoder_action_fused_out_proj_{part}"] for part in "wb")
    out["action_out_proj.weight"] = _stream(projection, ours["action_out_proj.weight"], change=lambda x: x * factor)
    steps = np.float32(-dims["num_steps"])
    out["action_out_proj.bias"] = _stream(bias, ours["action_out_proj.bias"], change=lambda x: x * steps)
    return out


def check_tensors(content: Any, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise UserError, in one line, unless `content` is a dict of exactly these tensors."""
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    convert.check_names(f"{path} is not of the official layout", shapes, {str(key) for key in content})
    for key, shape in shapes.items():
        found = content[key]
        if not isinstance(found, pickles.Tensor) or found.dtype.kind not in "fV" or found.shape != shape:
            what = f"{found.dtype} {found.shape}" if isinstance(found, pickles.Tensor) else type(found).__name__
            raise UserError(f"{path}: {key} is {what}, these dims need {shape}: give the dims that it was made for")


def _check_derived(content: Mapping[str, pickles.Tensor], dims: Mapping[str, Any], path: Path) -> None:
    """What is a product of other tensors must be that product: else the file is of two models, or of other steps."""
    parts = [content[f"decoder_action_{n}"].read().astype(np.float32) for n in ("in_proj_w", "in_proj_b")]
    parts += [content[f"decoder_action_time_mlp_in_{n}"].read().astype(np.float32) for n in "wb"]
    in_w, in_b, mlp_w, mlp_b = parts
    for key, expected in (
        ("decoder_action_fused_in_proj_w", fused_in_proj(in_w, mlp_w)),
        ("decoder_action_fused_time_biases", time_biases(in_b, mlp_w, mlp_b, dims["num_steps"])),
    ):
        gap = np.abs(content[key].read().astype(np.float32) - expected).max()
        if not gap <= _DERIVED_TOLERANCE * np.abs(expected).max():
            raise UserError(f"{path}: {key} does not follow from its factors: the file mixes two models")


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _stream(
    tensor: pickles.Tensor,
    shape: tuple[int, ...],
    columns: slice = slice(None),
    change: layouts.Arrange = _same,
) -> artifact.Stream:
    """Columns of a stored tensor as float32, a layer (or 16,384 rows of a table) at a time."""
    step = 1 if len(shape) > 2 else 16_384

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, shape[0], step):
            rows = tensor.rows(start, min(start + step, shape[0])).astype(np.float32)
            yield change(rows[..., columns])

    return artifact.Stream(shape, blocks)


def _constant(shape: tuple[int, ...], value: np.float32) -> artifact.Stream:
    return artifact.Stream(shape, lambda: iter([np.full(shape, value, np.float32)]))


# --- the draft head: upstream's names, out x in, query, key and value in one ---

_DRAFT = {  # key -> the .pt's name
    "draft_state_in_proj_w": "_state_token.weight",
    "draft_state_in_proj_b": "_state_token.bias",
    "draft_action_queries": "_action_queries.weight",
    "draft_attn_o_w": "_gemma_block.self_attn.o_proj.weight",
    "draft_ffn_gate_w": "_gemma_block.mlp.gate_proj.weight",
    "draft_ffn_up_w": "_gemma_block.mlp.up_proj.weight",
    "draft_ffn_down_w": "_gemma_block.mlp.down_proj.weight",
    "draft_input_layernorm_w": "_gemma_block.input_layernorm.weight",
    "draft_post_attention_layernorm_w": "_gemma_block.post_attention_layernorm.weight",
    "draft_action_head_w": "_action_head.weight",
    "draft_action_head_b": "_action_head.bias",
}
_DRAFT_QKV = "draft_qkv_w"


def draft_source(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a `draft_triton.pkl`: the trainer's tensors under its own names (float32), and the meta.

    Raises UserError naming what is missing, unexpected or no tensor.
    """
    content, path = pickles.load(path), Path(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    tensors = {key: value for key, value in content.items() if key != "meta"}
    meta = {} if content.get("meta") is None else content["meta"]
    shapes: layouts.Shapes = {key: getattr(tensors.get(key), "shape", ()) for key in (*_DRAFT, _DRAFT_QKV)}
    check_tensors(tensors, shapes, path)
    if not isinstance(meta, dict) or len(shapes[_DRAFT_QKV]) != 2 or len(shapes["draft_attn_o_w"]) != 2:
        raise UserError(f"{path}: meta, {_DRAFT_QKV} and draft_attn_o_w are not those of a draft head")
    head = {name: tensors[key].read().astype(np.float32) for key, name in _DRAFT.items()}
    qkv, queries = tensors[_DRAFT_QKV].read().astype(np.float32), shapes["draft_attn_o_w"][1]
    keys, rest = divmod(len(qkv) - queries, 2)
    if keys <= 0 or rest:
        raise UserError(
            f"{path}: {_DRAFT_QKV} has {len(qkv)} rows, not {queries} of queries plus equal keys and values"
        )
    for name, rows in zip("qkv", np.split(qkv, [queries, queries + keys]), strict=True):
        head[f"_gemma_block.self_attn.{name}_proj.weight"] = rows
    return head, meta
