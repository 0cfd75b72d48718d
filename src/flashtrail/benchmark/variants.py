"""One policy in several number formats and runtimes, as far as this machine has them.

Of lift_vla and fluid: `parts.formats.PRECISIONS`, torch.compile, and ONNX Runtime in float32 and int8. Of pi0, whose
engine is no nn.Module: its own two arrangements of the stages, half precision, and 8-bit weights in its own products.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flashtrail.base.errors import UserError, cause
from flashtrail.policies import registry
from flashtrail.policies.fluid.model import Core
from flashtrail.policies.parts.formats import PRECISIONS
from flashtrail.policies.parts.precision import lowered, rounded
from flashtrail.policies.pi0 import stages, weights
from flashtrail.policies.pi0.engine import Engine
from flashtrail.policies.pi0.lean_weights import Affine
from flashtrail.policies.pi0.policy import FlashPolicy
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.protocol import Policy

REFERENCE = "float32"
WORDS = {
    "float32": "float32",
    "float32_plain": "float32, the plain stages",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "int8_dynamic": "int8 products",
    "int8_weight": "int8 weights, float32 products",
    "compile": "float32, torch.compile",
    "onnx": "float32, ONNX Runtime",
    "onnx_int8": "int8, ONNX Runtime",
}
STAGES = {"lift_vla": ("see", "fuse", "decode"), "fluid": ("embed", "evolve", "decode")}


def variants(artifact: Path) -> dict[str, Callable[[], Policy]]:
    """Return what makes each variant of an artifact's policy, the reference first; UserError for another family."""
    family = registry.family_of(artifact)
    if family == registry.PI0:
        return _of_engine(artifact)
    if family not in STAGES:
        raise UserError(f"{artifact}: the family {family} has no number formats: take one of pi0, {', '.join(STAGES)}")
    load = partial(_loaded, artifact, family)
    made: dict[str, Callable[[], Policy]] = {name: partial(load, name) for name in PRECISIONS}
    more: dict[str, Callable[[Any, str], None]] = {
        "compile": _compiled,
        "onnx": _exported,
        "onnx_int8": partial(_exported, quantized=True),
    }
    return made | {name: partial(_changed, load, family, change) for name, change in more.items()}


def tried(make: Callable[[], Policy], request: Mapping[str, Any]) -> Policy | str:
    """Return a variant's policy that has answered once, or why it cannot be had here: what its runtime says."""
    try:
        policy = make()
        policy.infer(policy.new_session(), dict(request), executed_steps=None, reset=True, noise_seed=0)
        return policy
    except Exception as error:  # compilers and runtimes raise what they like, and each is a reason
        return " ".join(cause(str(error)).split())[:160] or type(error).__name__


def _loaded(artifact: Path, family: str, precision: str) -> Any:
    module = registry.load(family)
    where: dict[str, Any] = {"device": "cpu", "dtype": "float32", "backend": "auto", "action_stats": None}
    settings = module.Settings(precision=precision)
    return module.load(artifact, None, settings=settings, together=1, sessions=1, **where)


def _changed(load: Callable[[str], Any], family: str, change: Callable[[Any, str], None]) -> Policy:
    policy: Policy = load(REFERENCE)
    change(policy.model, family)  # type: ignore[attr-defined]
    return policy


def _compiled(model: nn.Module, family: str) -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(f"no C++ compiler {compiler}")
    for name in STAGES[family]:
        setattr(model, name, torch.compile(getattr(model, name)))


# --- ONNX Runtime ---


class _Whole(nn.Module):
    """The three stages of a network as one function of tensors: pictures of each view, then what `_exported` adds."""

    def __init__(self, model: Any, family: str) -> None:
        super().__init__()
        self.model, self.family = model, family
        self.first, self.second, self.third = (getattr(model, name) for name in STAGES[family])
        self.cells = getattr(model, "cells", None)  # as it is before `_exported` puts others in the place of all these

    def forward(self, *given: Tensor) -> Tensor:
        if self.family == "lift_vla":
            *views, text, hand = given
            out: Tensor = self.third(self.second(self.first(views), text), hand)
            return out
        pictures, state = given[:2]
        said = given[2] if len(given) > 2 else None
        start = self.first(pictures, said)
        assert self.cells is not None
        out = self.third(self.cells(start, self.second(start).u), state, said)
        return out


def _exported(model: Any, family: str, quantized: bool = False) -> None:
    """Let a network's last stage ask ONNX Runtime, and those before it hand on what they are given."""
    whole, sessions = _Whole(model, family), {}

    def run(*given: Tensor) -> Tensor:
        shapes = tuple(tensor.shape for tensor in given)
        if shapes not in sessions:
            sessions[shapes] = _session(whole, given, quantized)
        session = sessions[shapes]
        names = [one.name for one in session.get_inputs()]
        feed = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    if family == "lift_vla":
        model.see = lambda pictures: pictures
        model.fuse = lambda pictures, text, absent: (*pictures, text)
        model.decode = lambda fused, hand, missing: run(*fused, hand)
    else:
        model.embed = lambda pictures, said, missing: pictures
        model.evolve = lambda pictures, steps, stop: Core(pictures, None)
        model.cells = lambda pictures, evolved: pictures
        model.decode = lambda pictures, state, said: run(pictures, state, *([] if said is None else [said]))


def _session(whole: nn.Module, given: tuple[Tensor, ...], quantized: bool) -> Any:
    """Export a network at the shapes of what it is given, and open it on one thread."""
    try:
        import onnxruntime
        from onnxruntime import quantization
    except ImportError:
        raise UserError("ONNX Runtime is not installed: make setup") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.inference_mode(False):
        warnings.simplefilter("ignore")
        plain, small = (str(Path(folder) / name) for name in ("plain.onnx", "small.onnx"))
        torch.onnx.export(
            whole, tuple(t.clone() for t in given), plain, dynamo=True, external_data=False, verbose=False
        )
        if quantized:
            quantization.quantize_dynamic(plain, small, per_channel=True, weight_type=quantization.QuantType.QUInt8)
        providers = ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(small if quantized else plain, options, providers=providers)


# --- pi0 ---


def _of_engine(artifact: Path) -> dict[str, Callable[[], Policy]]:
    base, dims, manifest = weights.load_base(artifact)

    def engine(runtime: type[TorchRuntime] = TorchRuntime, change: Callable[[Tensor], Tensor] | None = None) -> Policy:
        tensors = base if change is None else {name: change(tensor) for name, tensor in base.items()}
        return FlashPolicy(Engine(runtime(tensors, dims, manifests={"base": manifest}, directory=artifact)))

    return {
        "float32": engine,
        "float32_plain": partial(engine, _Plain),
        "bfloat16": partial(engine, change=Tensor.bfloat16),
        "float16": partial(engine, change=Tensor.half),
        "int8_dynamic": partial(engine, _Int8),
        "int8_weight": partial(engine, change=lambda t: rounded(t, [-2]) if t.dim() > 1 else t),
    }


class _Plain(TorchRuntime):
    """The reference's arrangement, which is that of half precision: what of a ratio is not the number format's."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._stages = stages.Plain(self._w, self.dims, self._wd, None)


class _Int8(TorchRuntime):
    """The arrangement that serves, with its products over many rows in 8 bits."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        with torch.inference_mode():
            self._stages = _Int8Lean(given[0], self.dims, {}, None)


class _Int8Lean(stages.Lean):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        parts = ("vision", "projector", "prefix", "expert")
        self._w = dataclasses.replace(self._w, **{name: _in_8_bits(getattr(self._w, name)) for name in parts})


class Int8Weight(Tensor):
    """Weights (K, N), or several such (S, K, N), whose products are PyTorch's quantised ones, as int8_dynamic's."""

    packed: list[Any]  # one, or one for each of S

    @classmethod
    def of(cls, weight: Tensor) -> Int8Weight:
        """Round weights once, by column."""
        packed = [_packed(part) for part in (weight if weight.dim() == 3 else weight[None])]
        made = weight.as_subclass(cls)
        made.packed = packed
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take the engine's products, with these weights on the right; no other function."""
        if func.__name__.strip("_") not in ("mm", "matmul", "bmm", "addmm") or not isinstance(args[-1], cls):
            raise NotImplementedError(f"{func.__name__} of weights in 8 bits")
        *added, rows, weight = args
        out, several = (kwargs or {}).get("out"), len(weight.packed) > 1
        each = zip(rows if several else [rows], weight.packed, strict=True)
        found = [torch.ops.quantized.linear_dynamic(x, packed, True) for x, packed in each]
        if out is not None:
            for place, one in zip(out if several else [out], found, strict=True):
                place.copy_(one)
            return out
        if func is Tensor.addmm_:
            return added[0].add_(found[0])
        return added[0] + found[0] if added else found[0]


def _packed(weight: Tensor) -> Any:
    """Weights (K, N) as PyTorch's 8-bit products take them."""
    plain = nn.Linear(weight.shape[0], weight.shape[1], bias=False)
    plain.weight.data = weight.T.contiguous()
    return lowered(nn.Sequential(plain), "int8_dynamic")[0]._packed_params._packed_params  # type: ignore[union-attr]


def _in_8_bits(part: Any) -> Any:
    """Weights of a stage, or several: each tensor but a bias in 8 bits."""
    if isinstance(part, Tensor):
        return Int8Weight.of(part)
    if isinstance(part, tuple):
        return tuple(map(_in_8_bits, part))
    if isinstance(part, Affine):
        return dataclasses.replace(part, weight=Int8Weight.of(part.weight))
    return dataclasses.replace(part, **{f.name: _in_8_bits(getattr(part, f.name)) for f in dataclasses.fields(part)})
