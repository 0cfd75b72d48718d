"""Names, shapes and layouts: of openpi's leaves and a draft's `.pt`, and of the artifact's tensors made of them.

The contract between converter, engine, export and the synthetic checkpoints of benchmarks and tests. The artifact is
x-in/y-out (`y = x @ w`), layers stacked on a leading axis. The leaves of pi0_libero: docs/reference/FLASH.md, E.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Shapes = dict[str, tuple[int, ...]]
Arrange = Callable[[np.ndarray], np.ndarray]

IMG, LLM = "PaliGemma/img/", "PaliGemma/llm/"
BLOCK = IMG + "Transformer/encoderblock/"
ATTN = BLOCK + "MultiHeadDotProductAttention_0/"


def tokens_per_view(vision: Mapping[str, Any]) -> int:
    """Return the number of image tokens of one view, from the patch size or the stem's pooling and strides."""
    side = vision["image_size"]
    if vision["stem"] is None:
        return (side // vision["patch"]) ** 2
    side //= vision["stem"]["pool"]
    for layer in vision["stem"]["layers"]:
        side = (side + 2 * (layer["kernel"] // 2) - layer["kernel"]) // layer["stride"] + 1
    return side**2


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


class Rule(NamedTuple):
    """Which leaf gives a base tensor: the leaf's axes, by their names in the dims, and how it is arranged."""

    name: str
    leaf: str
    axes: tuple[str, ...]
    arrange: Arrange

    @property
    def by_rows(self) -> bool:
        """Whether slices of the leading axis (layers, rows of the embedding) can be arranged one by one."""
        return self.axes[0] in ("depth", "vocab_size")


def base_rules(stem_layers: int) -> list[Rule]:
    """Return the rules of a base artifact, for a stem of so many layers; 0 for a patch embedding."""
    rules: list[Rule] = []

    def add(name: str, leaf: str, axes: str, arrange: Arrange = _same) -> None:
        rules.append(Rule(name, leaf, tuple(axes.split()), arrange))

    for i in range(stem_layers):
        add(f"vision.stem.{i}.weight", f"{IMG}stem/conv_{i}/kernel", f"kernel{i} kernel{i} channels{i} channels{i + 1}")
        add(f"vision.stem.{i}.bias", f"{IMG}stem/conv_{i}/bias", f"channels{i + 1}")
    if not stem_layers:
        add("vision.patch_embed.weight", IMG + "embedding/kernel", "patch patch 3 width", _patch)
        add("vision.patch_embed.bias", IMG + "embedding/bias", "width")
    add("vision.pos_embed", IMG + "pos_embedding", "1 tokens width", _drop_first)
    for part in ("scale", "bias"):
        add(f"vision.layers.ln1.{part}", f"{BLOCK}LayerNorm_0/{part}", "depth width")
        add(f"vision.layers.ln2.{part}", f"{BLOCK}LayerNorm_1/{part}", "depth width")
        add(f"vision.norm.{part}", f"{IMG}Transformer/encoder_norm/{part}", "width")
    for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value")):
        add(f"vision.layers.{ours}.weight", f"{ATTN}{theirs}/kernel", "depth width num_heads head_dim", _in_heads)
        add(f"vision.layers.{ours}.bias", f"{ATTN}{theirs}/bias", "depth num_heads head_dim", _merge_tail)
    add("vision.layers.o.weight", ATTN + "out/kernel", "depth num_heads head_dim width", _heads_out)
    add("vision.layers.o.bias", ATTN + "out/bias", "depth width")
    for ours, theirs, inner, outer in (("fc1", "Dense_0", "width", "mlp_dim"), ("fc2", "Dense_1", "mlp_dim", "width")):
        add(f"vision.layers.{ours}.weight", f"{BLOCK}MlpBlock_0/{theirs}/kernel", f"depth {inner} {outer}")
        add(f"vision.layers.{ours}.bias", f"{BLOCK}MlpBlock_0/{theirs}/bias", f"depth {outer}")
    add("vision.head.weight", IMG + "head/kernel", "width prefix_width")
    add("vision.head.bias", IMG + "head/bias", "prefix_width")
    add("embed.weight", LLM + "embedder/input_embedding", "vocab_size prefix_width")
    for stack, suffix in (("prefix", ""), ("expert", "_1")):  # the suffix is on the module, not on the leaf
        ours, theirs = f"{stack}.layers.", LLM + "layers/"
        queries, keys = "depth num_heads width head_dim", "depth 2 num_kv_heads width head_dim"
        add(ours + "input_norm.scale", f"{theirs}pre_attention_norm{suffix}/scale", "depth width")
        add(ours + "q.weight", f"{theirs}attn/q_einsum{suffix}/w", queries, _heads_first)
        add(ours + "k.weight", f"{theirs}attn/kv_einsum{suffix}/w", keys, _kv(0))
        add(ours + "v.weight", f"{theirs}attn/kv_einsum{suffix}/w", keys, _kv(1))
        add(ours + "o.weight", f"{theirs}attn/attn_vec_einsum{suffix}/w", "depth num_heads head_dim width", _heads_out)
        add(ours + "post_norm.scale", f"{theirs}pre_ffw_norm{suffix}/scale", "depth width")
        add(ours + "gate.weight", f"{theirs}mlp{suffix}/gating_einsum", "depth 2 width mlp_dim", _gating(0))
        add(ours + "up.weight", f"{theirs}mlp{suffix}/gating_einsum", "depth 2 width mlp_dim", _gating(1))
        add(ours + "down.weight", f"{theirs}mlp{suffix}/linear", "depth mlp_dim width")
        add(f"{stack}.norm.scale", f"{LLM}final_norm{suffix}/scale", "width")
    for ours, inner, outer in (
        ("state_proj", "action_dim", "expert_width"),
        ("action_in_proj", "action_dim", "expert_width"),
        ("time_mlp_in", "twice_expert_width", "expert_width"),
        ("time_mlp_out", "expert_width", "expert_width"),
        ("action_out_proj", "expert_width", "action_dim"),
    ):
        theirs = ours.replace("time_mlp", "action_time_mlp")
        add(f"{ours}.weight", f"{theirs}/kernel", f"{inner} {outer}")
        add(f"{ours}.bias", f"{theirs}/bias", outer)
    return rules


def rules_of(dims: Mapping[str, Any]) -> list[Rule]:
    """Return the rules of a base artifact with these dims."""
    stem = dims["vision"]["stem"]
    return base_rules(len(stem["layers"]) if stem else 0)


def source_shapes(dims: Mapping[str, Any]) -> Shapes:
    """Return the leaves of openpi's tree for these dims (canonical paths, no LoRA), patch embedding or stem."""
    vision, expert_width = dims["vision"], dims["expert"]["width"]
    sizes = {"tokens": tokens_per_view(vision), "prefix_width": dims["prefix"]["width"], "expert_width": expert_width}
    sizes |= {"twice_expert_width": 2 * expert_width, "channels0": 3, "1": 1, "2": 2, "3": 3}
    for i, layer in enumerate(vision["stem"]["layers"] if vision["stem"] else ()):
        sizes |= {f"kernel{i}": layer["kernel"], f"channels{i + 1}": layer["channels"]}
    shapes = {}
    for rule in rules_of(dims):
        own = {**dims, **sizes, **dims.get(rule.name.partition(".")[0], {})}  # widths and depths are of one stack
        shapes[rule.leaf] = tuple(own[axis] for axis in rule.axes)
    return dict(sorted(shapes.items()))


def arranged(shape: tuple[int, ...], arrange: Arrange) -> tuple[int, ...]:
    """Return the shape that a leaf of `shape` has once it is arranged; takes no memory."""
    return arrange(np.broadcast_to(np.zeros((), np.uint8), shape)).shape


def base_shapes(dims: Mapping[str, Any]) -> Shapes:
    """Return every base tensor's shape as `dims` implies it: the contract between converter and engine."""
    leaves = source_shapes(dims)
    return {rule.name: arranged(leaves[rule.leaf], rule.arrange) for rule in rules_of(dims)}


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
