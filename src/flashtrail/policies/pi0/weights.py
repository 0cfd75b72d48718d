"""Weights of a policy and of its draft head: their names and shapes, random initialisation, loading an artifact.

Every weight is in x out (y = x @ w), per-layer tensors are stacked on a leading axis L, norm scales are unfolded.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flashtrail.policies.pi0.dims import DraftDims, GemmaDims, Pi0Dims
from flashtrail.policies.pi0.errors import ArtifactError, DeviceError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
MODEL_FILE = "model.safetensors"
Shapes = dict[str, tuple[int, ...]]
D = TypeVar("D", Pi0Dims, DraftDims)


def _gemma_shapes(name: str, d: GemmaDims) -> Shapes:
    heads, kv = d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim
    layer: Shapes = {
        "input_norm.scale": (d.width,),
        "q.weight": (d.width, heads),
        "k.weight": (d.width, kv),
        "v.weight": (d.width, kv),
        "o.weight": (heads, d.width),
        "post_norm.scale": (d.width,),
        "gate.weight": (d.width, d.mlp_dim),
        "up.weight": (d.width, d.mlp_dim),
        "down.weight": (d.mlp_dim, d.width),
    }
    out: Shapes = {f"{name}.layers.{k}": (d.depth, *shape) for k, shape in layer.items()}
    return out | {f"{name}.norm.scale": (d.width,)}


def _vision_shapes(dims: Pi0Dims) -> Shapes:
    d = dims.vision
    heads = d.num_heads * d.head_dim
    out: Shapes = {}
    if d.stem is None:
        patch = int(d.patch or 1)
        out |= {"vision.patch_embed.weight": (patch * patch * 3, d.width), "vision.patch_embed.bias": (d.width,)}
    else:
        cin = 3
        for i, layer in enumerate(d.stem.layers):
            out[f"vision.stem.{i}.weight"] = (layer.kernel, layer.kernel, cin, layer.channels)
            out[f"vision.stem.{i}.bias"] = (layer.channels,)
            cin = layer.channels
    out["vision.pos_embed"] = (d.tokens, d.width)
    for norm in ("ln1", "ln2"):
        out |= {f"vision.layers.{norm}.{part}": (d.depth, d.width) for part in ("scale", "bias")}
    linear = {"q": (d.width, heads), "k": (d.width, heads), "v": (d.width, heads), "o": (heads, d.width)}
    linear |= {"fc1": (d.width, d.mlp_dim), "fc2": (d.mlp_dim, d.width)}
    for name, (rows, columns) in linear.items():
        out[f"vision.layers.{name}.weight"] = (d.depth, rows, columns)
        out[f"vision.layers.{name}.bias"] = (d.depth, columns)
    out |= {"vision.norm.scale": (d.width,), "vision.norm.bias": (d.width,)}
    return out | {"vision.head.weight": (d.width, dims.prefix.width), "vision.head.bias": (dims.prefix.width,)}


def base_shapes(dims: Pi0Dims) -> Shapes:
    """Name -> shape of every tensor of a base artifact with these dims."""
    out = _vision_shapes(dims) | {"embed.weight": (dims.vocab_size, dims.prefix.width)}
    out |= _gemma_shapes("prefix", dims.prefix) | _gemma_shapes("expert", dims.expert)
    we, a = dims.expert.width, dims.action_dim
    for name, rows, columns in (
        ("state_proj", a, we),
        ("action_in_proj", a, we),
        ("time_mlp_in", 2 * we, we),
        ("time_mlp_out", we, we),
        ("action_out_proj", we, a),
    ):
        out |= {f"{name}.weight": (rows, columns), f"{name}.bias": (columns,)}
    return out


def draft_shapes(d: DraftDims) -> Shapes:
    """Name -> shape of every tensor of a draft artifact with these dims."""
    block = _gemma_shapes("block", GemmaDims(d.width, 1, d.mlp_dim, d.num_heads, d.num_kv_heads, d.head_dim))
    out: Shapes = {k.removeprefix("block.layers."): v[1:] for k, v in block.items() if ".layers." in k}
    return out | {
        "state_token.weight": (d.state_dim, d.width),
        "state_token.bias": (d.width,),
        "action_queries": (d.chunk, d.width),
        "action_head.weight": (d.width, d.out_dim),
        "action_head.bias": (d.out_dim,),
    }


def _init(shapes: Shapes, seed: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors made on the device: LayerNorm one, RMSNorm (1 + scale) and biases zero, else normal / sqrt(fan in)."""
    generator = torch.Generator(device).manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        if name.endswith((".bias", ".scale")):
            one = name.endswith(".scale") and name.startswith("vision.")
            out[name] = torch.full(shape, float(one), device=device, dtype=dtype)
            continue
        if name in ("embed.weight", "vision.pos_embed", "action_queries"):
            fan_in = shape[-1]  # rows of a table: unit norm
        elif ".stem." in name:
            fan_in = shape[0] * shape[1] * shape[2] // 2  # a ReLU follows: keep the variance
        else:
            fan_in = shape[-2]
        out[name] = torch.randn(shape, generator=generator, device=device, dtype=dtype).div_(math.sqrt(fan_in))
    return out


def init_base(dims: Pi0Dims, seed: int, device: str = "cpu", dtype: str = "float32") -> dict[str, Tensor]:
    """Random weights of a policy, reproducible from `seed` on a device."""
    return _init(base_shapes(dims), seed, resolve_device(device), resolve_dtype(dtype))


def init_draft(ddims: DraftDims, seed: int, device: str = "cpu", dtype: str = "float32") -> dict[str, Tensor]:
    """Random weights of a draft head, reproducible from `seed` on a device."""
    return _init(draft_shapes(ddims), seed, resolve_device(device), resolve_dtype(dtype))


def unbind(w: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same weights with each stacked tensor as a tuple of its layers.

    The stage functions only index layers (`w[name][i]`), so both forms work. Unbind once at load, or once per
    training step: the backward pass then stacks gradients once instead of filling a whole stack per layer.
    """
    return {name: tensor.unbind(0) if ".layers." in name else tensor for name, tensor in w.items()}


def prepare(w: Mapping[str, Tensor]) -> dict[str, Any]:
    """Weights for inference: unbound, with q|k|v and gate|up of each Gemma stack side by side in one matrix.

    A wider product is faster than three narrow ones on every device. The plain q, gate and up are dropped; the
    prefix keeps k and v, which its last layer uses alone.
    """
    out = dict(w)
    for stack in ("prefix", "expert"):
        names = {n: f"{stack}.layers.{n}.weight" for n in ("q", "k", "v", "gate", "up")}
        out[f"{stack}.layers.qkv.weight"] = torch.cat([out[names[n]] for n in ("q", "k", "v")], dim=-1)
        out[f"{stack}.layers.gate_up.weight"] = torch.cat([out[names[n]] for n in ("gate", "up")], dim=-1)
        for n in ("q", "gate", "up") if stack == "prefix" else names:
            del out[names[n]]
    return unbind(out)


def resolve_device(name: str) -> torch.device:
    """'cpu', 'cuda' or 'cuda:N' -> torch.device; DeviceError where there is none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"device {name!r} is not known; use cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError(f"device {name!r} was asked for, but this machine has no CUDA device; use --device cpu")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise DeviceError(f"device {name!r} does not exist; there are {torch.cuda.device_count()} CUDA devices")
    return device


def resolve_dtype(name: str) -> torch.dtype:
    """'float32', 'bfloat16' (or 'float64', for checks) -> torch.dtype; DeviceError for another name."""
    if name not in DTYPES:
        raise DeviceError(f"dtype {name!r} is not supported; use one of {', '.join(DTYPES)}")
    return DTYPES[name]


def read_manifest(directory: Path, kind: str) -> dict[str, Any]:
    """Read and check `directory`/manifest.json of an artifact of this kind ('base' or 'draft')."""
    path = directory / "manifest.json"
    if not directory.is_dir():
        raise ArtifactError(f"no artifact directory {directory}; convert a checkpoint first")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{directory} is not an artifact (no manifest.json); convert a checkpoint first") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); convert the checkpoint again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != "flashtrail-artifact":
        raise ArtifactError(f"{path} is not a flashtrail-artifact manifest; convert a checkpoint first")
    if manifest.get("version") != 1:
        raise ArtifactError(f"{path} has version {manifest.get('version')!r}, this package reads 1; convert it again")
    if manifest.get("kind") != kind:
        raise ArtifactError(f"{directory} is a {manifest.get('kind')!r} artifact where a {kind!r} one is needed")
    return manifest


def _check_bytes(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare a file's size and sha256 with the manifest's record of it."""
    record = manifest.get("files", {}).get(path.name)
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; convert the checkpoint again")
    if not record:
        return
    if path.stat().st_size != record["bytes"]:
        raise ArtifactError(
            f"{path} is truncated or changed: {path.stat().st_size} bytes, manifest says {record['bytes']}; "
            "convert the checkpoint again"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != record["sha256"]:
        raise ArtifactError(f"{path} is corrupted: its sha256 is not the manifest's; convert the checkpoint again")


def load_tensors(path: Path, shapes: Shapes, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Read exactly the tensors of `shapes` from a safetensors file, as `dtype` on `device`.

    Names and shapes are checked from the header before a byte of data is read.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            if missing := sorted(set(shapes) - names):
                raise ArtifactError(f"{path} lacks {_some(missing)}; convert the checkpoint again")
            if unexpected := sorted(names - set(shapes)):
                raise ArtifactError(f"{path} has unexpected {_some(unexpected)}; its manifest's dims are not its own")
            for name, shape in shapes.items():
                header = file.get_slice(name)
                if tuple(header.get_shape()) != shape:
                    raise ArtifactError(f"{path}: {name} has shape {tuple(header.get_shape())}, its dims say {shape}")
                if header.get_dtype() not in ("F32", "BF16", "F16", "F64"):
                    raise ArtifactError(f"{path}: {name} has dtype {header.get_dtype()}, not a floating one")
            return {name: file.get_tensor(name).to(device=device, dtype=dtype) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is truncated or corrupted ({error}); convert the checkpoint again") from None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{more}"


def read_dims(directory: str | Path) -> Pi0Dims:
    """The dims of a base artifact, from its manifest alone."""
    return _dims(Pi0Dims, Path(directory), read_manifest(Path(directory), "base"))


def read_draft_dims(directory: str | Path) -> DraftDims:
    """The dims of a draft artifact, from its manifest alone."""
    return _dims(DraftDims, Path(directory), read_manifest(Path(directory), "draft"))


def _dims(cls: type[D], directory: Path, manifest: Mapping[str, Any]) -> D:
    """The dims that a manifest states; an ArtifactError names the artifact and what this engine computes."""
    try:
        return cls.from_dict(manifest.get("dims", {}))
    except ArtifactError as error:
        raise ArtifactError(
            f"{directory} is not a policy that this engine computes (pi0, with or without a FLASH draft): {error}"
        ) from None


def load_base(
    directory: str | Path, device: str = "cpu", dtype: str = "float32"
) -> tuple[dict[str, Tensor], Pi0Dims, dict[str, Any]]:
    """Base artifact -> (stacked weights, dims, manifest). Raises ArtifactError or DeviceError."""
    return _load("base", Pi0Dims, base_shapes, Path(directory), device, dtype)


def load_draft(
    directory: str | Path, device: str = "cpu", dtype: str = "float32"
) -> tuple[dict[str, Tensor], DraftDims, dict[str, Any]]:
    """Draft artifact -> (weights, dims, manifest). Raises ArtifactError or DeviceError."""
    return _load("draft", DraftDims, draft_shapes, Path(directory), device, dtype)


def _load(
    kind: str, cls: type[D], shapes: Callable[[D], Shapes], directory: Path, device: str, dtype: str
) -> tuple[dict[str, Tensor], D, dict[str, Any]]:
    where, number = resolve_device(device), resolve_dtype(dtype)
    manifest = read_manifest(directory, kind)
    dims = _dims(cls, directory, manifest)
    _check_bytes(directory / MODEL_FILE, manifest)
    return load_tensors(directory / MODEL_FILE, shapes(dims), where, number), dims, manifest
