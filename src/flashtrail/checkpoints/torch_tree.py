"""Reads a pi0 in PyTorch's safetensors as openpi's JAX tree: the same leaves, made of the layers' tensors on demand.

Names and transpositions: openpi 15a9616, `models_pytorch/{pi0,gemma}_pytorch.py` and
`examples/convert_jax_model_to_pytorch.py`; LeRobot 0.4.4 and 0.6.1, `policies/pi0/modeling_pi0.py`, which puts `model.`
before them; 0.1 to 0.3.3, whose transformers named PaliGemma's parts otherwise (`_transform_state_dict_keys` there).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import convert, facts, identity
from flashtrail.checkpoints.layouts import BLOCK, IMG, LLM

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


class _Rule(NamedTuple):
    """Which tensors give a leaf (``{}``: the layer), and how: their axes, the leaf's, and sizes that no shape tells.

    ``(hd)w->whd`` splits an axis; a dot is a new axis of one; two tensors are arranged alike and stacked.
    """

    leaf: str
    names: tuple[str, ...]
    axes: str
    sizes: Mapping[str, int]

    def arrange(self, *tensors: np.ndarray) -> np.ndarray:
        """Return the leaf (of one layer) that these values give; ValueError where their shapes do not allow it."""
        stored, wanted = self.axes.split("->")
        groups, letters = re.findall(r"\(\w+\)|\w", stored), re.sub(r"\W", "", stored)
        out = []
        for x in tensors:
            pairs = zip(groups, x.shape, strict=True)
            split = [self.sizes.get(c, -1) if "(" in group else n for group, n in pairs for c in group.strip("()")]
            x = x.reshape(split).transpose([letters.index(c) for c in wanted.lstrip(".")])
            out.append(x[None] if wanted.startswith(".") else x)
        return out[0] if len(out) == 1 else np.stack(out)

    @property
    def stacked(self) -> bool:
        return "{}" in self.names[0]


@dataclass(frozen=True)
class Leaf:
    """One leaf of the JAX tree, as `orbax.Leaf`: of each layer (or once, where nothing is stacked) its tensors."""

    rule: _Rule
    shape: tuple[int, ...]
    dtype: np.dtype
    rows: tuple[tuple[Tensor, ...], ...]
    folder: Path

    @property
    def stored_as(self) -> str:
        return self.rows[0][0].name

    def read(self) -> np.ndarray:
        """Return the whole array."""
        return np.concatenate(list(self.row_blocks(len(self.rows)))) if self.rule.stacked else self._arranged(0)

    def row_blocks(self, step: int) -> Iterator[np.ndarray]:
        """Yield successive blocks of `step` rows along the first axis: layers, or rows of the embedding."""
        for first in range(0, self.shape[0], step):
            last = min(first + step, self.shape[0])
            if self.rule.stacked:
                yield np.stack([self._arranged(i) for i in range(first, last)])
            else:  # the embedding alone: it is stored as it is wanted
                yield self.rows[0][0].values(self.folder, first, last - first)

    def _arranged(self, row: int) -> np.ndarray:
        return self.rule.arrange(*(tensor.values(self.folder) for tensor in self.rows[row]))


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
    tensors = {leaf: [tuple(stored[name] for name in row) for row in layers] for leaf, layers in rows.items()}
    return {rule.leaf: _leaf(rule, tensors[rule.leaf], source) for rule in sorted(rules)}


def _short(name: str) -> str:
    """The name without the wrappers' parts, as openpi and LeRobot 0.4 have it below them."""
    short = name.removeprefix("model.").removeprefix("paligemma_with_expert.")
    for old, new in _OLD:
        if short.startswith(old):
            return new + short.removeprefix(old)
    return short


def _depth(rule: _Rule, names: Collection[str]) -> int:
    """How many layers the stack of a rule has, by the numbers in any of its names; 1 where nothing is stacked."""
    if not rule.stacked:
        return 1
    start = re.escape(rule.names[0].partition("{}")[0])
    return len({match[1] for name in names if (match := re.match(start + r"(\d{1,4})\.", name))})


def _leaf(rule: _Rule, rows: list[tuple[Tensor, ...]], folder: Path) -> Leaf:
    """Return the leaf that the tensors give; UserError naming one of another shape than its neighbours allow."""
    if not rows:
        raise UserError(f"{folder} has no layers of {rule.names[0]}: {_AGAIN}")
    first = rows[0]
    for tensor, model in (pair for row in rows for pair in zip(row, first, strict=True)):
        if tensor.shape != model.shape:
            raise UserError(f"checkpoint tensor {tensor.name} has shape {tensor.shape}: expected {model.shape}")
    try:  # on a shape alone: no memory
        shape = rule.arrange(*(np.broadcast_to(np.zeros((), np.uint8), tensor.shape) for tensor in first)).shape
    except ValueError:
        shapes = ", ".join(f"{tensor.name} {tensor.shape}" for tensor in first)
        raise UserError(f"checkpoint tensors have not the axes, heads or pairs of a pi0: {shapes}") from None
    mixed = len({tensor.dtype for row in rows for tensor in row}) > 1
    number = np.dtype(np.float32) if mixed else first[0].dtype
    return Leaf(rule, (len(rows), *shape) if rule.stacked else shape, number, tuple(rows), folder)


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


# --- names and arrangements: axes of PyTorch's tensor -> axes of the leaf, as einsum writes them ---

_LINEAR = (("kernel", "weight", "oi->io"), ("bias", "bias", "o->o"))
_NORM = (("scale", "weight"), ("bias", "bias"))
_ATTENTION, _PROJECTIONS = "MultiHeadDotProductAttention_0/", ("query", "key", "value")
_TOWER, _LAYER = "paligemma.model.vision_tower.vision_model.", "encoder.layers.{}."
_STACKS = {"": "paligemma.model.language_model.", "_1": "gemma_expert.model."}
_OF_TOWER = (  # leaf below img/, tensor below the tower, axes: (hd) are heads side by side
    ("embedding/kernel", "embeddings.patch_embedding.weight", "oihw->hwio"),
    ("embedding/bias", "embeddings.patch_embedding.bias", "o->o"),
    ("pos_embedding", "embeddings.position_embedding.weight", "nw->.nw"),
    ("Transformer/encoder_norm/scale", "post_layernorm.weight", "w->w"),
    ("Transformer/encoder_norm/bias", "post_layernorm.bias", "w->w"),
)
_OF_BLOCK = (  # leaf below the encoder's block, tensor below its layer
    *((f"LayerNorm_{i}/{part}", f"layer_norm{i + 1}.{end}", "w->w") for i in (0, 1) for part, end in _NORM),
    *((f"{_ATTENTION}{name}/kernel", f"self_attn.{name[0]}_proj.weight", "(hd)w->whd") for name in _PROJECTIONS),
    *((f"{_ATTENTION}{name}/bias", f"self_attn.{name[0]}_proj.bias", "(hd)->hd") for name in _PROJECTIONS),
    (_ATTENTION + "out/kernel", "self_attn.out_proj.weight", "w(hd)->hdw"),
    (_ATTENTION + "out/bias", "self_attn.out_proj.bias", "w->w"),
    *((f"MlpBlock_0/Dense_{i}/kernel", f"mlp.fc{i + 1}.weight", "oi->io") for i in (0, 1)),
    *((f"MlpBlock_0/Dense_{i}/bias", f"mlp.fc{i + 1}.bias", "o->o") for i in (0, 1)),
)
_OF_GEMMA = (  # leaf below llm/layers/, {}: the stack's suffix; tensors below its layer, stacked where there are two
    ("attn/q_einsum{}/w", ("self_attn.q_proj",), "(hd)w->hwd"),
    ("attn/kv_einsum{}/w", ("self_attn.k_proj", "self_attn.v_proj"), "dw->.wd"),
    ("attn/attn_vec_einsum{}/w", ("self_attn.o_proj",), "w(hd)->hdw"),
    ("mlp{}/gating_einsum", ("mlp.gate_proj", "mlp.up_proj"), "mw->wm"),
    ("mlp{}/linear", ("mlp.down_proj",), "wm->mw"),
    ("pre_attention_norm{}/scale", ("input_layernorm",), "w->w"),
    ("pre_ffw_norm{}/scale", ("post_attention_layernorm",), "w->w"),
)
_OWN = ("state_proj", "action_in_proj", "action_time_mlp_in", "action_time_mlp_out", "action_out_proj")


def _rules(heads: int, head_dims: Mapping[str, int], embedding: str) -> list[_Rule]:
    tower, projector = {"h": heads}, "paligemma.model.multi_modal_projector.linear."
    rules = [_Rule(IMG + leaf, (_TOWER + name,), axes, tower) for leaf, name, axes in _OF_TOWER]
    rules += [_Rule(BLOCK + leaf, (_TOWER + _LAYER + name,), axes, tower) for leaf, name, axes in _OF_BLOCK]
    rules += [_Rule(f"{IMG}head/{leaf}", (projector + name,), axes, {}) for leaf, name, axes in _LINEAR]
    rules.append(_Rule(LLM + "embedder/input_embedding", (embedding,), "vw->vw", {}))
    for suffix, root in _STACKS.items():
        for leaf, names, axes in _OF_GEMMA:
            tensors = tuple(f"{root}layers.{{}}.{name}.weight" for name in names)
            rules.append(_Rule(f"{LLM}layers/{leaf.format(suffix)}", tensors, axes, {"d": head_dims[root]}))
        rules.append(_Rule(f"{LLM}final_norm{suffix}/scale", (root + "norm.weight",), "w->w", {}))
    return rules + [
        _Rule(f"{own}/{leaf}", (f"{own}.{name}",), axes, {}) for own in _OWN for leaf, name, axes in _LINEAR
    ]
