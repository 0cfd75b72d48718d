"""Reads an artifact of this family: manifest.json, model.safetensors, norm_stats.json and the text encoder's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flashtrail.policies.lift_vla import clip, statistics
from flashtrail.policies.lift_vla.dims import LiftDims
from flashtrail.policies.lift_vla.model import LiftVLA
from flashtrail.policies.parts import files, words

FAMILY = "lift_vla"


def text_files(dims: LiftDims) -> tuple[str, ...]:
    """The files of the text encoder."""
    return (words.FILE,) if dims.text.kind == "words" else (clip.VOCABULARY, clip.MERGES)


def read(directory: Path) -> tuple[LiftVLA, statistics.Stats, dict[str, Any]]:
    """Return model (on the CPU, float32, not training), statistics and manifest; ArtifactError in one line."""
    manifest = files.read_manifest(directory, FAMILY)
    dims = LiftDims.read(manifest.get("dims"), str(directory / files.MANIFEST))
    files.check_bytes(directory, manifest, (files.MODEL, statistics.FILE, *text_files(dims)))
    with torch.device("meta"):
        model = LiftVLA(dims)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(files.read_tensors(directory / files.MODEL, shapes), assign=True)
    stats = statistics.read(directory / statistics.FILE, dims.state_dim, dims.action_dim)
    return model.requires_grad_(False).eval(), stats, manifest
