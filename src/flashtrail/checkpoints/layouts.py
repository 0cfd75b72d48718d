"""Names, shapes and layouts: of openpi's leaves and a draft's `.pt`, and of the artifact's tensors made of them.

The contract between converter, engine, export and the synthetic checkpoints of benchmarks and tests. The artifact is
x-in/y-out (`y = x @ w`), layers stacked on a leading axis. Tables: docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Shapes = dict[str, tuple[int, ...]]
Arrange = Callable[[np.ndarray], np.ndarray]

IMG, LLM = "PaliGemma/img/", "PaliGemma/llm/"
BLOCK = IMG + "Transformer/encoderblock/"
ATTN = BLOCK + "MultiHeadDotProductAttention_0/"


# --- openpi's tree ---


def tokens_per_view(vision: Mapping[str, Any]) -> int:
    """Return the number of image tokens of one view, from the patch size or the stem's pooling and strides."""
    side = vision["image_size"]
    if vision["stem"] is None:
        return (side // vision["patch"]) ** 2
    side //= vision["stem"]["pool"]
    for layer in vision["stem"]["layers"]:
        side = (side + 2 * (layer["kernel"] // 2) - layer["kernel"]) // layer["stride"] + 1
    return side**2


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


# --- arrangements; a leading axis of layers (or rows) passes through ---


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _in_heads(x: np.ndarray) -> np.ndarray:  # (L, W, H, hd) -> (L, W, H*hd), SigLIP q/k/v
    return x.reshape(x.shape[0], x.shape[1], -1)


def _merge_tail(x: np.ndarray) -> np.ndarray:  # (L, H, hd) -> (L, H*hd), biases
    return x.reshape(x.shape[0], -1)


def _heads_out(x: np.ndarray) -> np.ndarray:  # (L, H, hd, W) -> (L, H*hd, W)
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _heads_first(x: np.ndarray) -> np.ndarray:  # (L, H, W, hd) -> (L, W, H*hd), Gemma einsum weights
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def _kv(which: int) -> Arrange:  # (L, 2, Hkv, W, hd) -> (L, W, Hkv*hd)
    return lambda x: _heads_first(x[:, which])


def _gating(which: int) -> Arrange:  # (L, 2, W, M) -> (L, W, M); 0 gate, 1 up
    return lambda x: x[:, which]


def _patch(x: np.ndarray) -> np.ndarray:  # (P, P, 3, W) -> (P*P*3, W)
    return x.reshape(-1, x.shape[-1])


def _drop_first(x: np.ndarray) -> np.ndarray:  # (1, N, W) -> (N, W)
    return x[0]


# --- the base artifact ---

Rule = tuple[str, str, int, bool, Arrange]  # name, leaf, rank, by_rows, arrange


def base_rules(stem_layers: int) -> list[Rule]:
    """Return which leaf gives each base tensor, for a stem of so many layers; 0 for a patch embedding."""
    rules: list[Rule] = []
    for i in range(stem_layers):
        rules += [
            (f"vision.stem.{i}.weight", f"{IMG}stem/conv_{i}/kernel", 4, False, _same),
            (f"vision.stem.{i}.bias", f"{IMG}stem/conv_{i}/bias", 1, False, _same),
        ]
    if not stem_layers:
        rules += [
            ("vision.patch_embed.weight", IMG + "embedding/kernel", 4, False, _patch),
            ("vision.patch_embed.bias", IMG + "embedding/bias", 1, False, _same),
        ]
    rules.append(("vision.pos_embed", IMG + "pos_embedding", 3, False, _drop_first))
    for ours, theirs in (("ln1", "LayerNorm_0"), ("ln2", "LayerNorm_1")):
        for part in ("scale", "bias"):
            rules.append((f"vision.layers.{ours}.{part}", f"{BLOCK}{theirs}/{part}", 2, True, _same))
    for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value")):
        rules.append((f"vision.layers.{ours}.weight", f"{ATTN}{theirs}/kernel", 4, True, _in_heads))
        rules.append((f"vision.layers.{ours}.bias", f"{ATTN}{theirs}/bias", 3, True, _merge_tail))
    rules.append(("vision.layers.o.weight", ATTN + "out/kernel", 4, True, _heads_out))
    rules.append(("vision.layers.o.bias", ATTN + "out/bias", 2, True, _same))
    for ours, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
        rules.append((f"vision.layers.{ours}.weight", f"{BLOCK}MlpBlock_0/{theirs}/kernel", 3, True, _same))
        rules.append((f"vision.layers.{ours}.bias", f"{BLOCK}MlpBlock_0/{theirs}/bias", 2, True, _same))
    for part in ("scale", "bias"):
        rules.append((f"vision.norm.{part}", f"{IMG}Transformer/encoder_norm/{part}", 1, False, _same))
    rules.append(("vision.head.weight", IMG + "head/kernel", 2, False, _same))
    rules.append(("vision.head.bias", IMG + "head/bias", 1, False, _same))
    rules.append(("embed.weight", LLM + "embedder/input_embedding", 2, True, _same))
    rules += _gemma_rules("prefix", "") + _gemma_rules("expert", "_1")
    for ours in ("state_proj", "action_in_proj", "time_mlp_in", "time_mlp_out", "action_out_proj"):
        theirs = ours.replace("time_mlp", "action_time_mlp")
        rules.append((f"{ours}.weight", f"{theirs}/kernel", 2, False, _same))
        rules.append((f"{ours}.bias", f"{theirs}/bias", 1, False, _same))
    return rules


def _gemma_rules(stack: str, suffix: str) -> list[Rule]:
    """Rules of one Gemma stack; the expert's leaves carry the suffix ``_1`` on the module, not on the leaf."""
    ours, theirs = f"{stack}.layers.", LLM + "layers/"
    return [
        (ours + "input_norm.scale", f"{theirs}pre_attention_norm{suffix}/scale", 2, True, _same),
        (ours + "q.weight", f"{theirs}attn/q_einsum{suffix}/w", 4, True, _heads_first),
        (ours + "k.weight", f"{theirs}attn/kv_einsum{suffix}/w", 5, True, _kv(0)),
        (ours + "v.weight", f"{theirs}attn/kv_einsum{suffix}/w", 5, True, _kv(1)),
        (ours + "o.weight", f"{theirs}attn/attn_vec_einsum{suffix}/w", 4, True, _heads_out),
        (ours + "post_norm.scale", f"{theirs}pre_ffw_norm{suffix}/scale", 2, True, _same),
        (ours + "gate.weight", f"{theirs}mlp{suffix}/gating_einsum", 4, True, _gating(0)),
        (ours + "up.weight", f"{theirs}mlp{suffix}/gating_einsum", 4, True, _gating(1)),
        (ours + "down.weight", f"{theirs}mlp{suffix}/linear", 3, True, _same),
        (f"{stack}.norm.scale", f"{LLM}final_norm{suffix}/scale", 1, False, _same),
    ]


def arranged(shape: tuple[int, ...], arrange: Arrange) -> tuple[int, ...]:
    """Return the shape that a leaf of `shape` has once it is arranged; takes no memory."""
    return arrange(np.broadcast_to(np.zeros((), np.uint8), shape)).shape


def base_shapes(dims: Mapping[str, Any]) -> Shapes:
    """Return every base tensor's shape as `dims` implies it: the contract between converter and engine."""
    leaves, stem = source_shapes(dims), dims["vision"]["stem"]
    rules = base_rules(len(stem["layers"]) if stem else 0)
    return {name: arranged(leaves[leaf], arrange) for name, leaf, _, _, arrange in rules}


# --- the draft head ---

DRAFT_RULES: dict[str, tuple[str, bool]] = {  # name -> (key of the .pt, transpose (out, in) -> (in, out))
    "state_token.weight": ("_state_token.weight", True),
    "state_token.bias": ("_state_token.bias", False),
    "action_queries": ("_action_queries.weight", False),
    "input_norm.scale": ("_gemma_block.input_layernorm.weight", False),
    "q.weight": ("_gemma_block.self_attn.q_proj.weight", True),
    "k.weight": ("_gemma_block.self_attn.k_proj.weight", True),
    "v.weight": ("_gemma_block.self_attn.v_proj.weight", True),
    "o.weight": ("_gemma_block.self_attn.o_proj.weight", True),
    "post_norm.scale": ("_gemma_block.post_attention_layernorm.weight", False),
    "gate.weight": ("_gemma_block.mlp.gate_proj.weight", True),
    "up.weight": ("_gemma_block.mlp.up_proj.weight", True),
    "down.weight": ("_gemma_block.mlp.down_proj.weight", True),
    "action_head.weight": ("_action_head.weight", True),
    "action_head.bias": ("_action_head.bias", False),
}


def draft_shapes(dims: Mapping[str, int]) -> Shapes:
    """Return every draft tensor's shape as `dims` implies it."""
    width, mlp = dims["width"], dims["mlp_dim"]
    queries, keys = dims["num_heads"] * dims["head_dim"], dims["num_kv_heads"] * dims["head_dim"]
    return {
        "state_token.weight": (dims["state_dim"], width),
        "state_token.bias": (width,),
        "action_queries": (dims["chunk"], width),
        "input_norm.scale": (width,),
        "q.weight": (width, queries),
        "k.weight": (width, keys),
        "v.weight": (width, keys),
        "o.weight": (queries, width),
        "post_norm.scale": (width,),
        "gate.weight": (width, mlp),
        "up.weight": (width, mlp),
        "down.weight": (mlp, width),
        "action_head.weight": (width, dims["out_dim"]),
        "action_head.bias": (dims["out_dim"],),
    }
