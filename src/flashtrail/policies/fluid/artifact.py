"""Reads an artifact of this family: manifest.json, model.safetensors, norm_stats.json and the vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flashtrail.policies.fluid.dims import FluidDims
from flashtrail.policies.fluid.model import FluidVLA
from flashtrail.policies.parts import files, statistics, words

FAMILY = "fluid"


def read(directory: Path) -> tuple[FluidVLA, statistics.Stats, words.Vocabulary | None, dict[str, Any]]:
    """Return model (on the CPU, float32, not training), statistics, vocabulary and manifest; ArtifactError in one line.

    A model without language has no vocabulary.
    """
    manifest = files.read_manifest(directory, FAMILY)
    dims = FluidDims.read(manifest.get("dims"), str(directory / files.MANIFEST))
    text = () if dims.prompt is None else (words.FILE,)
    files.check_bytes(directory, manifest, (files.MODEL, statistics.FILE, *text))
    with torch.device("meta"):
        model = FluidVLA(dims)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(files.read_tensors(directory / files.MODEL, shapes), assign=True)
    stats = statistics.Stats.read(directory / statistics.FILE, dims.state_dim, dims.action_dim)
    known = None if dims.prompt is None else words.Vocabulary.read(directory / words.FILE, dims.prompt.rows)
    return model.requires_grad_(False).eval(), stats, known, manifest
