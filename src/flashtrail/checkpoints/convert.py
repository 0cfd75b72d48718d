"""Plans a conversion: checks a source's names and shapes against `layouts`, and derives the model's dims.

Sources are openpi's JAX tree and the upstream draft `.pt`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import facts, identity, layouts, lora
from flashtrail.checkpoints.layouts import ATTN, BLOCK, IMG, LLM

IMAGE_SIZE = 224
_SPREAD = 6  # names listed in one error line


class HasShape(Protocol):
    """What the mapping needs of a source leaf: numpy arrays and `orbax.Leaf` both do."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Piece:
    """One artifact tensor: the rule that gives its values, and its shape.

    Where the rule goes by rows, any slice of the leaf's leading axis gives the same slice of the result, so a large
    stacked tensor never needs to be in memory whole.
    """

    rule: layouts.Rule
    shape: tuple[int, ...]
    lora: lora.Lora | None = None  # merged into the leaf's values before they are arranged


# --- the base model ---


def plan_base(leaves: Mapping[str, HasShape], described: Any) -> tuple[list[Piece], dict[str, Any]]:
    """Return the artifact's tensors, sorted by name, and the model's dims.

    `leaves` maps canonical leaf paths to anything with a shape; `described` says what shapes cannot (see `read_facts`).
    Raises UserError naming missing or unexpected leaves, or the leaf whose shape does not fit.
    """
    extra = read_facts(described)
    stem_layers = sum(path.startswith(IMG + "stem/") and path.endswith("/kernel") for path in leaves)
    rules = layouts.base_rules(stem_layers)
    deltas = lora.find(leaves, extra["lora_scaling"])
    own = set(leaves) - lora.names(deltas.values())
    check_names("checkpoint is not a pi0 tree of the known layout", {rule.leaf for rule in rules}, own)
    for rule in rules:
        if len(shape := _shape(leaves[rule.leaf])) != len(rule.axes):
            raise UserError(f"checkpoint leaf {_named(leaves, rule)} has shape {shape}: expected {len(rule.axes)} axes")
    dims = _base_dims(leaves, stem_layers, extra)
    expected = layouts.base_shapes(dims)
    pieces = []
    for rule in rules:
        shape = layouts.arranged(_shape(leaves[rule.leaf]), rule.arrange)
        if shape != expected[rule.name]:
            raise UserError(
                f"checkpoint leaf {_named(leaves, rule)} has shape {_shape(leaves[rule.leaf])}, which gives "
                f"{rule.name} {shape}: the other leaves imply {expected[rule.name]}"
            )
        pieces.append(Piece(rule, shape, deltas.get(rule.leaf)))
    return sorted(pieces, key=lambda piece: piece.rule.name), dims


def base_tensors(tree: Mapping[str, np.ndarray], described: Any) -> tuple[dict[str, np.ndarray], dict]:
    """Return all base tensors in memory (dtype as stored) and the dims; see `plan_base` for the errors."""
    pieces, dims = plan_base(tree, described)

    def whole(piece: Piece) -> np.ndarray:
        x, delta = np.asarray(tree[piece.rule.leaf]), piece.lora
        return piece.rule.arrange(x if delta is None else delta.merge(x, tree[delta.a], tree[delta.b]))

    return {piece.rule.name: np.ascontiguousarray(whole(piece)) for piece in pieces}, dims


def _base_dims(leaves: Mapping[str, HasShape], stem_layers: int, extra: Mapping[str, Any]) -> dict[str, Any]:
    def at(path: str) -> tuple[int, ...]:
        return tuple(int(n) for n in leaves[path].shape)

    depth, width, heads, head_dim = at(ATTN + "query/kernel")
    stem = _stem_dims([at(f"{IMG}stem/conv_{i}/kernel") for i in range(stem_layers)], extra["stem"])
    vision = {
        "width": width,
        "depth": depth,
        "mlp_dim": at(BLOCK + "MlpBlock_0/Dense_0/kernel")[2],
        "num_heads": heads,
        "head_dim": head_dim,
        "patch": None if stem_layers else at(IMG + "embedding/kernel")[0],
        "image_size": IMAGE_SIZE,
        "stem": stem,
    }
    action_dim = at("action_in_proj/kernel")[0]
    if extra.get("action_dim", action_dim) != action_dim:
        raise UserError(
            f"action_dim is declared as {extra['action_dim']}, the checkpoint's action_in_proj has {action_dim}: "
            "correct or remove the declaration"
        )
    return {
        "vision": vision,
        "prefix": _gemma_dims(at, ""),
        "expert": _gemma_dims(at, "_1"),
        "vocab_size": at(LLM + "embedder/input_embedding")[0],
        "action_dim": action_dim,
        "action_horizon": extra["action_horizon"],
        "max_token_len": extra["max_token_len"],
        "num_views": extra["num_views"],
        "num_steps": extra["num_steps"],
        "state_dim": 8,
        "env_action_dim": 7,
    }


def _gemma_dims(at: Callable[[str], tuple[int, ...]], suffix: str) -> dict[str, int]:
    depth, heads, width, head_dim = at(f"{LLM}layers/attn/q_einsum{suffix}/w")
    return {
        "width": width,
        "depth": depth,
        "mlp_dim": at(f"{LLM}layers/mlp{suffix}/linear")[1],
        "num_heads": heads,
        "num_kv_heads": at(f"{LLM}layers/attn/kv_einsum{suffix}/w")[2],
        "head_dim": head_dim,
    }


def _stem_dims(kernels: Sequence[tuple[int, ...]], declared: Any) -> dict[str, Any] | None:
    """Check the declared stem against the kernels' shapes; strides and pooling cannot be read from shapes."""
    if not kernels:
        if declared:
            raise UserError("assets/flashtrail/model.json declares a stem, but the checkpoint has no img/stem leaves")
        return None
    if not declared:
        raise UserError("the checkpoint has img/stem leaves, but assets/flashtrail/model.json declares no stem")
    try:
        layers = [{k: int(layer[k]) for k in ("kernel", "stride", "channels")} for layer in declared["layers"]]
        stem = {"pool": int(declared["pool"]), "layers": layers, "act": str(declared.get("act", "relu"))}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"assets/flashtrail/model.json: stem needs pool and layers of kernel, stride, channels "
            f"({type(error).__name__}: {error})"
        ) from None
    shapes = [(k[0], k[1], k[3]) for k in kernels]
    if shapes != [(layer["kernel"], layer["kernel"], layer["channels"]) for layer in layers]:
        raise UserError(f"assets/flashtrail/model.json declares stem layers {layers}, but the kernels are {kernels}")
    return stem


def read_facts(source: Any) -> dict[str, Any]:
    """Return what shapes cannot tell: `facts.NEEDED` under model.json's names, the stem and LoRA's scaling.

    `source`: a dict, or the path of a facts.json or model.json. Raises UserError for a fact that is not stated.
    """
    described = facts.require(facts.read_model_json(source), "the description of the checkpoint")
    scaling = described.get("lora_scaling", lora.SCALING)
    if not isinstance(scaling, Mapping) or set(scaling) != set(lora.SCALING):
        raise UserError(f"{facts.MODEL_JSON}: lora_scaling needs a number for each of prefix and expert")
    return {"stem": None, "lora_scaling": lora.SCALING, **described}


# --- the draft head ---


def read_draft_pt(pt_path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return an upstream draft file's tensors (float32, torch's out x in layout, upstream's names) and its meta.

    Read with ``weights_only=True``: a file that needs any other pickle opcode is refused with a UserError.
    """
    import pickle

    import torch

    path = Path(pt_path)
    try:
        with path.open("rb") as stream:
            if stream.read(len(identity.LFS_POINTER)) == identity.LFS_POINTER:
                raise UserError(f"draft {path} is a Git LFS pointer, not the file itself: run git lfs pull")
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"draft {path} does not exist") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"draft {path} is not plain tensors and is not loaded, since it may run code when unpickled: save it again "
            "from tensors, numbers and text alone"
        ) from None
    except Exception as error:  # a damaged pickle raises nearly anything; nothing in the file was run
        line = str(error)[:80]
        raise UserError(f"draft {path} is truncated or not a PyTorch file ({line}): fetch it again") from None
    head = saved.get("draft_head") if isinstance(saved, dict) else None
    if not isinstance(head, dict) or not all(isinstance(v, torch.Tensor) for v in head.values()):
        raise UserError(f"draft {path} holds no draft_head of tensors: give the trainer's {{draft_head, meta}} file")
    for prefix in ("module.", "_orig_mod.", "module."):  # DistributedDataParallel's, torch.compile's, either outside
        if head and all(str(name).startswith(prefix) for name in head):
            head = {str(name).removeprefix(prefix): value for name, value in head.items()}
    for prefix in ("module.", "_orig_mod."):
        marked = sorted(str(name) for name in head if str(name).startswith(prefix))
        if 0 < len(marked) < len(head):
            plain = next(str(name) for name in sorted(head, key=str) if not str(name).startswith(prefix))
            raise UserError(
                f"draft {path}: {len(marked)} of its {len(head)} tensors have the prefix {prefix} ({_some(marked)}), "
                f"the others do not ({plain}): save draft_head from one state_dict"
            )
    meta = {} if saved.get("meta") is None else saved["meta"]
    if not isinstance(meta, dict):
        raise UserError(f"draft {path}: its meta is a {type(meta).__name__}, not names with numbers: save a dict")
    return {str(name): _values(path, str(name), value) for name, value in head.items()}, dict(meta)


def _values(path: Path, name: str, tensor: Any) -> np.ndarray:
    """Return a torch tensor's values as float32; UserError unless it is a dense block of real numbers."""
    if not tensor.dtype.is_floating_point or tensor.is_quantized:
        raise UserError(f"draft {path}: {name} holds {str(tensor.dtype).removeprefix('torch.')}: save it as float32")
    if tensor.is_sparse or tensor.layout != tensor.new_empty(0).layout or tensor.is_meta:
        where = "no values" if tensor.is_meta else f"a {str(tensor.layout).removeprefix('torch.')} layout"
        raise UserError(f"draft {path}: {name} has {where}: save a dense tensor")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"draft {path}: {name} has more values than the file holds for it: save it contiguous")
    return np.asarray(tensor.detach().float().numpy())


def draft_tensors(pt_path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the draft artifact's tensors (float32) and dims; UserError names what is missing or does not fit."""
    return draft_arranged(*read_draft_pt(pt_path), pt_path)


def draft_arranged(
    source: Mapping[str, np.ndarray], meta: Mapping[str, Any], path: str | Path
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The same from tensors under upstream's names and the meta; `path` is named in errors."""
    keys = {key for key, _ in layouts.DRAFT_RULES.values()}
    check_names(f"draft {path} is not a draft of the known layout", keys, source)
    tensors = {}
    for name, (key, transpose) in layouts.DRAFT_RULES.items():
        rank = 2 if transpose or name == "action_queries" else 1
        if source[key].ndim != rank:
            raise UserError(f"draft {path}: {key} has shape {source[key].shape}: expected {rank} axes")
        tensors[name] = np.ascontiguousarray(source[key].T if transpose else source[key])
    dims = _draft_dims(tensors, meta, path)
    for name, shape in layouts.draft_shapes(dims).items():
        if tensors[name].shape != shape:
            raise UserError(
                f"draft {path}: {layouts.DRAFT_RULES[name][0]} gives {name} {tensors[name].shape}: the other "
                f"tensors and the meta imply {shape}"
            )
    return tensors, dims


def _draft_dims(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], path: str | Path) -> dict[str, int]:
    def stated(name: str, otherwise: int) -> int:
        value = meta.get(name, otherwise)
        text = f"{value:.20g}" if isinstance(value, float) else str(value)
        if not re.fullmatch("[1-9][0-9]{0,5}", text):
            raise UserError(f"draft {path}: {name} is {value!r}, not a number of at least 1: correct its meta")
        return int(text)

    state_dim, width = tensors["state_token.weight"].shape
    kv_heads = stated("draft_num_kv_heads", 1)
    head_dim = stated("draft_head_dim", tensors["k.weight"].shape[1] // kv_heads)
    return {
        "width": width,
        "mlp_dim": tensors["gate.weight"].shape[1],
        "num_heads": stated("draft_num_heads", tensors["q.weight"].shape[1] // head_dim),
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "chunk": tensors["action_queries"].shape[0],
        "state_dim": state_dim,
        "out_dim": tensors["action_head.weight"].shape[1],
    }


# --- shared checks ---


def check_names(problem: str, expected: Collection[str], actual: Collection[str]) -> None:
    """Raise UserError, `problem` with the missing and the unexpected names, unless both have the same names."""
    differences = {"missing": sorted(set(expected) - set(actual)), "unexpected": sorted(set(actual) - set(expected))}
    parts = [f"{label} {_some(names)}" for label, names in differences.items() if names]
    if parts:
        raise UserError(f"{problem}: {'; '.join(parts)}")


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SPREAD
    return ", ".join(names[:_SPREAD]) + (f" and {rest} more" if rest > 0 else "")


def _named(leaves: Mapping[str, HasShape], rule: layouts.Rule) -> str:
    """A leaf's path, and where it is made of other tensors, the first of these."""
    stored = getattr(leaves[rule.leaf], "stored_as", None)
    return rule.leaf if stored is None else f"{rule.leaf} (of {stored})"


def _shape(leaf: HasShape) -> tuple[int, ...]:
    return tuple(leaf.shape)
