"""Reads an artifact of this family: manifest.json, model.safetensors, norm_stats.json and the text encoder's files.

Nothing is taken for granted: the family, every tensor's name and shape, the size and SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flashtrail.policies import identity
from flashtrail.policies.lift_vla import clip, statistics, words
from flashtrail.policies.lift_vla.dims import LiftDims
from flashtrail.policies.lift_vla.errors import ArtifactError
from flashtrail.policies.lift_vla.model import LiftVLA

FAMILY, MODEL, MANIFEST = "lift_vla", "model.safetensors", "manifest.json"
_FLOATS = ("F32", "F16", "BF16", "F64")
_AGAIN = "export the policy again, or replace a copied artifact"


def text_files(dims: LiftDims) -> tuple[str, ...]:
    """The files of the text encoder."""
    return (words.FILE,) if dims.text.kind == "words" else (clip.VOCABULARY, clip.MERGES)


def read_manifest(directory: Path) -> tuple[dict[str, Any], LiftDims]:
    """Return an artifact's manifest and dims; ArtifactError where it is not one of this family."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read ({type(error).__name__}): {_AGAIN}") from None
    if not isinstance(manifest, dict) or manifest.get("family") != FAMILY:
        family = manifest.get("family", "pi0") if isinstance(manifest, dict) else "none"
        raise ArtifactError(f"{path} is of the family {family!r}, not {FAMILY}: give an artifact of {FAMILY}")
    if wrong := identity.objection(manifest):
        raise ArtifactError(f"{path} {wrong}: {_AGAIN}")
    return manifest, LiftDims.read(manifest.get("dims"), str(path))


def read(directory: Path) -> tuple[LiftVLA, statistics.Stats, dict[str, Any]]:
    """Return model (on the CPU, float32, not training), statistics and manifest; ArtifactError in one line."""
    manifest, dims = read_manifest(directory)
    for name in (MODEL, statistics.FILE, *text_files(dims)):
        _check_bytes(directory / name, manifest["files"].get(name))
    with torch.device("meta"):
        model = LiftVLA(dims)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(read_tensors(directory / MODEL, shapes), assign=True)
    stats = statistics.read(directory / statistics.FILE, dims.state_dim, dims.action_dim)
    return model.requires_grad_(False).eval(), stats, manifest


def _check_bytes(path: Path, record: Any) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: {_AGAIN}")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not isinstance(record, dict) or digest != record.get("sha256"):
        raise ArtifactError(f"{path} is not the file of its manifest (another SHA-256): {_AGAIN}")


def read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read exactly these tensors as float32; names and shapes are checked before a value is read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            if missing := sorted(set(shapes) - names):
                raise ArtifactError(f"{path} lacks tensor {missing[0]} ({len(missing)} missing): {_AGAIN}")
            if strange := sorted(names - set(shapes)):
                raise ArtifactError(f"{path} has tensor {strange[0]}, which its manifest's dims do not: {_AGAIN}")
            for name, shape in shapes.items():
                header = file.get_slice(name)
                found = tuple(header.get_shape())
                if header.get_dtype() not in _FLOATS:
                    raise ArtifactError(f"{path}: {name} has dtype {header.get_dtype()}, not a floating one: {_AGAIN}")
                if found != shape:
                    raise ArtifactError(f"{path}: {name} has shape {found}, its manifest's dims say {shape}: {_AGAIN}")
            return {name: file.get_tensor(name).float() for name in shapes}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is truncated or corrupted ({error}): {_AGAIN}") from None
