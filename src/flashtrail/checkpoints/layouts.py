"""The shapes that a policy's dims imply: of the artifact's tensors, and of the leaves of openpi's tree.

The contract between converter, engine and the synthetic checkpoints of benchmarks and tests. Tables:
docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shapes = dict[str, tuple[int, ...]]

IMG, LLM = "PaliGemma/img/", "PaliGemma/llm/"
BLOCK = IMG + "Transformer/encoderblock/"
ATTN = BLOCK + "MultiHeadDotProductAttention_0/"


def base_shapes(dims: Mapping[str, Any]) -> Shapes:
    """Return every base tensor's shape as `dims` implies it: the contract between converter and engine."""
    vision, prefix, action = dims["vision"], dims["prefix"], dims["action_dim"]
    wv, depth, mlp = vision["width"], vision["depth"], vision["mlp_dim"]
    heads, wide, we = vision["num_heads"] * vision["head_dim"], prefix["width"], dims["expert"]["width"]
    shapes: Shapes = {}
    if vision["stem"] is None:
        shapes["vision.patch_embed.weight"] = (vision["patch"] ** 2 * 3, wv)
        shapes["vision.patch_embed.bias"] = (wv,)
    else:
        channels = 3
        for i, layer in enumerate(vision["stem"]["layers"]):
            shapes[f"vision.stem.{i}.weight"] = (layer["kernel"], layer["kernel"], channels, layer["channels"])
            channels = layer["channels"]
            shapes[f"vision.stem.{i}.bias"] = (channels,)
    shapes["vision.pos_embed"] = (tokens_per_view(vision), wv)
    for name, outer in (("ln1", wv), ("ln2", wv)):
        shapes[f"vision.layers.{name}.scale"] = shapes[f"vision.layers.{name}.bias"] = (depth, outer)
    for name, inner, outer in (
        ("q", wv, heads),
        ("k", wv, heads),
        ("v", wv, heads),
        ("o", heads, wv),
        ("fc1", wv, mlp),
        ("fc2", mlp, wv),
    ):
        shapes[f"vision.layers.{name}.weight"] = (depth, inner, outer)
        shapes[f"vision.layers.{name}.bias"] = (depth, outer)
    shapes["vision.norm.scale"] = shapes["vision.norm.bias"] = (wv,)
    shapes["vision.head.weight"], shapes["vision.head.bias"] = (wv, wide), (wide,)
    shapes["embed.weight"] = (dims["vocab_size"], wide)
    for stack in ("prefix", "expert"):
        gemma = dims[stack]
        for name, shape in _block_shapes(gemma).items():
            shapes[f"{stack}.layers.{name}"] = (gemma["depth"], *shape)
        shapes[f"{stack}.norm.scale"] = (gemma["width"],)
    for name, inner, outer in (
        ("state_proj", action, we),
        ("action_in_proj", action, we),
        ("time_mlp_in", 2 * we, we),
        ("time_mlp_out", we, we),
        ("action_out_proj", we, action),
    ):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (inner, outer), (outer,)
    return shapes


def _block_shapes(gemma: Mapping[str, int]) -> Shapes:
    width, mlp = gemma["width"], gemma["mlp_dim"]
    queries, keys = gemma["num_heads"] * gemma["head_dim"], gemma["num_kv_heads"] * gemma["head_dim"]
    return {
        "input_norm.scale": (width,),
        "q.weight": (width, queries),
        "k.weight": (width, keys),
        "v.weight": (width, keys),
        "o.weight": (queries, width),
        "post_norm.scale": (width,),
        "gate.weight": (width, mlp),
        "up.weight": (width, mlp),
        "down.weight": (mlp, width),
    }


def tokens_per_view(vision: Mapping[str, Any]) -> int:
    """Return the number of image tokens of one view, from the patch size or the stem's pooling and strides."""
    side = vision["image_size"]
    if vision["stem"] is None:
        return (side // vision["patch"]) ** 2
    side //= vision["stem"]["pool"]
    for layer in vision["stem"]["layers"]:
        side = (side + 2 * (layer["kernel"] // 2) - layer["kernel"]) // layer["stride"] + 1
    return side**2


def draft_shapes(dims: Mapping[str, int]) -> Shapes:
    """Return every draft tensor's shape as `dims` implies it."""
    return {
        **_block_shapes(dims),
        "state_token.weight": (dims["state_dim"], dims["width"]),
        "state_token.bias": (dims["width"],),
        "action_queries": (dims["chunk"], dims["width"]),
        "action_head.weight": (dims["width"], dims["out_dim"]),
        "action_head.bias": (dims["out_dim"],),
    }


def source_shapes(dims: Mapping[str, Any]) -> Shapes:
    """Return the leaves of openpi's tree for these dims (canonical paths, no LoRA), patch embedding or stem."""
    vision, prefix = dims["vision"], dims["prefix"]
    width, depth, mlp, heads = vision["width"], vision["depth"], vision["mlp_dim"], vision["num_heads"]
    size, tokens = vision["head_dim"], tokens_per_view(vision)
    shapes: Shapes = {}
    if vision["stem"] is None:
        shapes |= _dense(IMG + "embedding", (vision["patch"], vision["patch"], 3, width), (width,))
    else:
        channels = 3
        for i, layer in enumerate(vision["stem"]["layers"]):
            kernel = (layer["kernel"], layer["kernel"], channels, layer["channels"])
            shapes |= _dense(f"{IMG}stem/conv_{i}", kernel, kernel[-1:])
            channels = layer["channels"]
    shapes[IMG + "pos_embedding"] = (1, tokens, width)
    for name in ("query", "key", "value"):
        shapes |= _dense(ATTN + name, (depth, width, heads, size), (depth, heads, size))
    shapes |= _dense(ATTN + "out", (depth, heads, size, width), (depth, width))
    shapes |= _dense(BLOCK + "MlpBlock_0/Dense_0", (depth, width, mlp), (depth, mlp))
    shapes |= _dense(BLOCK + "MlpBlock_0/Dense_1", (depth, mlp, width), (depth, width))
    for part in ("scale", "bias"):
        shapes |= {f"{BLOCK}LayerNorm_{i}/{part}": (depth, width) for i in (0, 1)}
        shapes[f"{IMG}Transformer/encoder_norm/{part}"] = (width,)
    shapes |= _dense(IMG + "head", (width, prefix["width"]), (prefix["width"],))
    shapes[LLM + "embedder/input_embedding"] = (dims["vocab_size"], prefix["width"])
    shapes |= _gemma_leaves(prefix, "") | _gemma_leaves(dims["expert"], "_1")
    action, we = dims["action_dim"], dims["expert"]["width"]
    for name, rows, columns in (
        ("state_proj", action, we),
        ("action_in_proj", action, we),
        ("action_time_mlp_in", 2 * we, we),
        ("action_time_mlp_out", we, we),
        ("action_out_proj", we, action),
    ):
        shapes |= _dense(name, (rows, columns), (columns,))
    return dict(sorted(shapes.items()))


def _dense(name: str, kernel: tuple[int, ...], bias: tuple[int, ...]) -> Shapes:
    return {f"{name}/kernel": kernel, f"{name}/bias": bias}


def _gemma_leaves(g: Mapping[str, int], suffix: str) -> Shapes:
    """The leaves of one Gemma stack; the expert's carry the suffix ``_1`` on the module, not on the leaf."""
    depth, width, mlp, heads, size = g["depth"], g["width"], g["mlp_dim"], g["num_heads"], g["head_dim"]
    layers = LLM + "layers/"
    return {
        f"{layers}pre_attention_norm{suffix}/scale": (depth, width),
        f"{layers}attn/q_einsum{suffix}/w": (depth, heads, width, size),
        f"{layers}attn/kv_einsum{suffix}/w": (depth, 2, g["num_kv_heads"], width, size),
        f"{layers}attn/attn_vec_einsum{suffix}/w": (depth, heads, size, width),
        f"{layers}pre_ffw_norm{suffix}/scale": (depth, width),
        f"{layers}mlp{suffix}/gating_einsum": (depth, 2, width, mlp),
        f"{layers}mlp{suffix}/linear": (depth, mlp, width),
        f"{LLM}final_norm{suffix}/scale": (width,),
    }
