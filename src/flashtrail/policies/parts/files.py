"""The files of a trained family's artifact: manifest.json, model.safetensors and what else its manifest lists.

Nothing is taken for granted: the family, every tensor's name and shape, the SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from flashtrail.policies import identity
from flashtrail.policies.parts.errors import ArtifactError

MODEL, MANIFEST = "model.safetensors", "manifest.json"
_FLOATS = ("F32", "F16", "BF16", "F64")
_AGAIN = "export the policy again, or replace a copied artifact"


def read_manifest(directory: Path, family: str) -> dict[str, Any]:
    """Return an artifact's manifest; ArtifactError where it is not one of this family."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read ({type(error).__name__}): {_AGAIN}") from None
    if not isinstance(manifest, dict) or manifest.get("family") != family:
        found = manifest.get("family", "pi0") if isinstance(manifest, dict) else "none"
        raise ArtifactError(f"{path} is of the family {found!r}, not {family}: give an artifact of {family}")
    if wrong := identity.objection(manifest):
        raise ArtifactError(f"{path} {wrong}: {_AGAIN}")
    return manifest


def check_bytes(directory: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> None:
    """Hold files to their manifest; ArtifactError for the first one that is missing or another."""
    for name in names:
        path, record = directory / name, manifest["files"].get(name)
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
