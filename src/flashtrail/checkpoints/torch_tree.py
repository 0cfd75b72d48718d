"""Reads a pi0 in PyTorch's safetensors as openpi's JAX tree: the same leaves, made of the layers' tensors on demand.

Names and transpositions: openpi 15a9616, `models_pytorch/{pi0,gemma}_pytorch.py` and
`examples/convert_jax_model_to_pytorch.py`; LeRobot 0.4.4 and 0.6.1, `policies/pi0/modeling_pi0.py`, which puts `model.`
before them; 0.1 to 0.3.3, whose transformers named PaliGemma's parts otherwise (`_transform_state_dict_keys` there).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import convert, facts, identity
from flashtrail.checkpoints.layouts import ATTN, BLOCK, IMG, LLM

DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}
STATISTICS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")  # buffers of LeRobot 0.1 to 0.3
SIGLIP_HEADS = {1152: 16}  # width -> heads, which no shape tells; openpi and LeRobot fix So400m
_EMBEDDING, _HEAD = "paligemma.model.language_model.embed_tokens.weight", "paligemma.lm_head.weight"
_UNUSED = {"gemma_expert.lm_head.weight", "gemma_expert.model.embed_tokens.weight"}
_OLD = (
    ("paligemma.language_model.lm_head.", "paligemma.lm_head."),
    ("paligemma.language_model.model.", "paligemma.model.language_model."),
    ("paligemma.vision_tower.", "paligemma.model.vision_tower."),
    ("paligemma.multi_modal_projector.", "paligemma.model.multi_modal_projector."),
)
_AGAIN = "the file is damaged, or not this model's: fetch it again"


@dataclass(frozen=True)
class Tensor:
    """One stored tensor: its name, and where its values lie in which file."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    file: str
    start: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def values(self, folder: Path, first: int = 0, count: int | None = None) -> np.ndarray:
        """Return `count` rows from `first` on (all of them by default) of the file in `folder`."""
        rows, row = self.shape[0] if count is None else count, math.prod(self.shape[1:]) * self.dtype.itemsize
        raw = np.fromfile(folder / self.file, np.uint8, rows * row, offset=self.start + first * row)
        if raw.size != rows * row:
            raise UserError(f"checkpoint tensor {self.name} ends too early: {_AGAIN}")
        return raw.view(self.dtype).reshape(rows, *self.shape[1:])


@dataclass(frozen=True)
class Leaf:
    """One leaf of the JAX tree, as `orbax.Leaf`: of each layer (or once, where nothing is stacked) its tensors."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stored_as: str
    stacked: bool
    _rows: tuple[tuple[Tensor, ...], ...]
    _arrange: Callable[..., np.ndarray]
    _folder: Path

    def read(self) -> np.ndarray:
        """Return the whole array."""
        rows = [self._arrange(*(tensor.values(self._folder) for tensor in row)) for row in self._rows]
        return np.stack(rows) if self.stacked else rows[0]

    def row_blocks(self, step: int) -> Iterator[np.ndarray]:
        """Yield successive blocks of `step` rows along the first axis: layers, or rows of the embedding."""
        for first in range(0, self.shape[0], step):
            count = min(step, self.shape[0] - first)
            if self.stacked:
                rows = self._rows[first : first + count]
                yield np.stack([self._arrange(*(t.values(self._folder) for t in row)) for row in rows])
            else:  # the embedding alone: it is stored as it is wanted
                yield self._rows[0][0].values(self._folder, first, count)


class _Rule(NamedTuple):
    """Which tensors give a leaf (``{}``: the layer), their number of axes, and how they are arranged."""

    leaf: str
    names: tuple[str, ...]
    axes: int
    arrange: Callable[..., np.ndarray]


def local(folder: Path) -> tuple[dict[str, int], identity.Read]:
    """Return a folder's files (name -> bytes) and the function that reads them."""

    def read(name: str, size: int, start: int = 0) -> bytes:
        with (folder / name).open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}, read


def stored_in(file: str, size: int, read: identity.Read) -> dict[str, Tensor]:
    """Return a safetensors file's tensors by name, from its header; UserError where it does not describe the file."""
    length, header = identity.header(file, size, read)
    tensors = {}
    for name, entry in header.items():
        try:
            shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
            dtype = DTYPES.get(entry["dtype"])
            whole = all(isinstance(n, int) and n >= 0 for n in (*shape, start, end)) and len(shape) <= 8
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{file}: {name[:80]} has no dtype, shape and place: {_AGAIN}") from None
        if dtype is None:
            raise UserError(f"{file}: {name} holds {str(entry['dtype'])[:20]}: save it as float32, bfloat16 or float16")
        if not whole or end - start != math.prod(shape) * dtype.itemsize or 8 + length + end > size:
            raise UserError(f"{file}: {name[:80]} does not lie in the file ({size} bytes): {_AGAIN}")
        tensors[name] = Tensor(name, shape, dtype, file, 8 + length + start)
    return tensors


def open_tree(source: Path, described: Mapping[str, Any]) -> dict[str, Leaf]:
    """List the leaves of the safetensors in `source`: JAX leaf path -> `Leaf`, sorted, no value read.

    `described`: the checkpoint's facts (``vision_heads``, where the tower is not So400m's). Raises UserError naming the
    tensors that are missing, unexpected or of the wrong shape.
    """
    files, read = local(source)
    stored: dict[str, Tensor] = {}
    for file in identity.weights_of(files):
        for name, tensor in stored_in(file, files[file], read).items():
            if (short := _short(name)) in stored:
                raise UserError(f"{source}: {name} is in {file} and, as {stored[short].name}, in {stored[short].file}")
            stored[short] = tensor
    embedding = _EMBEDDING if _EMBEDDING in stored else _HEAD  # one tensor: safetensors keeps one of the two names
    used = {name for name in stored if name not in _UNUSED and not name.startswith(STATISTICS)} - {_HEAD} | {embedding}
    rules = _rules(_siglip_heads(stored, described), _head_dims(stored), embedding)
    rows = {rule.leaf: [tuple(n.format(i) for n in rule.names) for i in range(_depth(rule, used))] for rule in rules}
    expected = {name for leaf in rows.values() for row in leaf for name in row}
    convert.check_names(f"{source} is not a pi0 of a known PyTorch layout", expected, used & set(stored))
    leaves = (_leaf(rule, [tuple(stored[n] for n in row) for row in rows[rule.leaf]], source) for rule in rules)
    return {leaf.path: leaf for leaf in sorted(leaves, key=lambda leaf: leaf.path)}


def _short(name: str) -> str:
    """The name without the wrappers' parts, as openpi and LeRobot 0.4 have it below them."""
    short = name.removeprefix("model.").removeprefix("paligemma_with_expert.")
    for old, new in _OLD:
        if short.startswith(old):
            return new + short.removeprefix(old)
    return short


def _depth(rule: _Rule, names: Collection[str]) -> int:
    """How many layers the stack of a rule has, by the numbers in any of its names; 1 where nothing is stacked."""
    if "{}" not in rule.names[0]:
        return 1
    start = re.escape(rule.names[0].partition("{}")[0])
    return len({match[1] for name in names if (match := re.match(start + r"(\d{1,4})\.", name))})


def _leaf(rule: _Rule, rows: list[tuple[Tensor, ...]], folder: Path) -> Leaf:
    """Return the leaf that the tensors give; UserError naming one of another shape than its neighbours allow."""
    if not rows:
        raise UserError(f"{folder} has no layers of {rule.names[0]}: {_AGAIN}")
    stacked, first = "{}" in rule.names[0], rows[0]
    for tensor, model in (pair for row in rows for pair in zip(row, first, strict=True)):
        if tensor.shape != model.shape or len(tensor.shape) != rule.axes:
            wanted = model.shape if tensor.shape != model.shape else f"{rule.axes} axes"
            raise UserError(f"checkpoint tensor {tensor.name} has shape {tensor.shape}: expected {wanted}")
    try:  # on a shape alone: no memory
        shape = rule.arrange(*(np.broadcast_to(np.zeros((), np.uint8), tensor.shape) for tensor in first)).shape
    except ValueError:
        shapes = ", ".join(f"{tensor.name} {tensor.shape}" for tensor in first)
        raise UserError(f"checkpoint tensors do not fit heads or one another: {shapes}") from None
    mixed = len({tensor.dtype for row in rows for tensor in row}) > 1
    number = np.dtype(np.float32) if mixed else first[0].dtype
    shape = (len(rows), *shape) if stacked else shape
    return Leaf(rule.leaf, shape, number, first[0].name, stacked, tuple(rows), rule.arrange, folder)


def _siglip_heads(stored: Mapping[str, Tensor], described: Mapping[str, Any]) -> int:
    bias = stored.get("paligemma.model.vision_tower.vision_model.embeddings.patch_embedding.bias")
    width = bias.shape[0] if bias and bias.shape else 1152  # without it the tree is refused for what it lacks
    heads = described.get("vision_heads", SIGLIP_HEADS.get(width))
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(
            f"{facts.MODEL_JSON} must say vision_heads, the heads of a picture tower {width} wide (SigLIP So400m: 16 "
            f"for 1152); it says {heads}"
        )
    return heads


def _head_dims(stored: Mapping[str, Tensor]) -> dict[str, int]:
    """Each stack's head size: PaliGemma has one key head, so its key projection is one head wide."""
    keys = {root: stored.get(f"{root}layers.0.self_attn.k_proj.weight") for root in _STACKS.values()}
    return {root: tensor.shape[0] if tensor and tensor.shape else 1 for root, tensor in keys.items()}


# --- arrangements: PyTorch's (out, in) -> the leaf of one layer ---

_STACKS = {"": "paligemma.model.language_model.", "_1": "gemma_expert.model."}


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _turned(x: np.ndarray) -> np.ndarray:  # (out, in) -> (in, out)
    return x.T


def _pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:  # gate and up: twice (M, W) -> (2, W, M)
    return np.stack([first.T, second.T])


def _key_value(k: np.ndarray, v: np.ndarray) -> np.ndarray:  # twice (hd, W) -> (2, 1, W, hd)
    return _pair(k, v)[:, None]


def _rules(heads: int, head_dims: Mapping[str, int], embedding: str) -> list[_Rule]:
    rules: list[_Rule] = []

    def add(leaf: str, name: str | tuple[str, ...], axes: int, arrange: Callable[..., np.ndarray] = _same) -> None:
        rules.append(_Rule(leaf, (name,) if isinstance(name, str) else name, axes, arrange))

    tower = "paligemma.model.vision_tower.vision_model."
    layer, projector = tower + "encoder.layers.{}.", "paligemma.model.multi_modal_projector.linear."
    add(IMG + "embedding/kernel", tower + "embeddings.patch_embedding.weight", 4, lambda x: x.transpose(2, 3, 1, 0))
    add(IMG + "embedding/bias", tower + "embeddings.patch_embedding.bias", 1)
    add(IMG + "pos_embedding", tower + "embeddings.position_embedding.weight", 2, lambda x: x[None])
    for part, theirs in (("scale", "weight"), ("bias", "bias")):
        add(f"{BLOCK}LayerNorm_0/{part}", f"{layer}layer_norm1.{theirs}", 1)
        add(f"{BLOCK}LayerNorm_1/{part}", f"{layer}layer_norm2.{theirs}", 1)
        add(f"{IMG}Transformer/encoder_norm/{part}", f"{tower}post_layernorm.{theirs}", 1)
    for name, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
        at = f"{layer}self_attn.{theirs}_proj."
        add(f"{ATTN}{name}/kernel", at + "weight", 2, lambda x: x.T.reshape(x.shape[1], heads, -1))
        add(f"{ATTN}{name}/bias", at + "bias", 1, lambda x: x.reshape(heads, -1))
    add(ATTN + "out/kernel", layer + "self_attn.out_proj.weight", 2, lambda x: x.T.reshape(heads, -1, x.shape[0]))
    add(ATTN + "out/bias", layer + "self_attn.out_proj.bias", 1)
    for name, theirs in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
        add(f"{BLOCK}MlpBlock_0/{name}/kernel", f"{layer}mlp.{theirs}.weight", 2, _turned)
        add(f"{BLOCK}MlpBlock_0/{name}/bias", f"{layer}mlp.{theirs}.bias", 1)
    add(IMG + "head/kernel", projector + "weight", 2, _turned)
    add(IMG + "head/bias", projector + "bias", 1)
    add(LLM + "embedder/input_embedding", embedding, 2)
    for suffix, root in _STACKS.items():
        at, size = root + "layers.{}.", head_dims[root]

        def heads_first(x: np.ndarray, n: int = size) -> np.ndarray:  # (H*hd, W) -> (H, W, hd)
            return x.reshape(-1, n, x.shape[1]).transpose(0, 2, 1)

        def heads_out(x: np.ndarray, n: int = size) -> np.ndarray:  # (W, H*hd) -> (H, hd, W)
            return x.T.reshape(-1, n, x.shape[0])

        keys = (at + "self_attn.k_proj.weight", at + "self_attn.v_proj.weight")
        add(f"{LLM}layers/attn/q_einsum{suffix}/w", at + "self_attn.q_proj.weight", 2, heads_first)
        add(f"{LLM}layers/attn/kv_einsum{suffix}/w", keys, 2, _key_value)
        add(f"{LLM}layers/attn/attn_vec_einsum{suffix}/w", at + "self_attn.o_proj.weight", 2, heads_out)
        gates = (at + "mlp.gate_proj.weight", at + "mlp.up_proj.weight")
        add(f"{LLM}layers/mlp{suffix}/gating_einsum", gates, 2, _pair)
        add(f"{LLM}layers/mlp{suffix}/linear", at + "mlp.down_proj.weight", 2, _turned)
        add(f"{LLM}layers/pre_attention_norm{suffix}/scale", at + "input_layernorm.weight", 1)
        add(f"{LLM}layers/pre_ffw_norm{suffix}/scale", at + "post_attention_layernorm.weight", 1)
        add(f"{LLM}final_norm{suffix}/scale", root + "norm.weight", 1)
    for name in ("state_proj", "action_in_proj", "action_time_mlp_in", "action_time_mlp_out", "action_out_proj"):
        add(f"{name}/kernel", f"{name}.weight", 2, _turned)
        add(f"{name}/bias", f"{name}.bias", 1)
    return rules
