"""Reads an artifact of this family: manifest.json, model.safetensors, norm_stats.json and the text encoder's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from flashtrail.policies.lift_vla import clip, doubt, statistics
from flashtrail.policies.lift_vla.dims import LiftDims
from flashtrail.policies.lift_vla.errors import ArtifactError
from flashtrail.policies.lift_vla.model import LiftVLA
from flashtrail.policies.parts import files, words

FAMILY = "lift_vla"


def text_files(dims: LiftDims) -> tuple[str, ...]:
    """The files of the text encoder."""
    return (words.FILE,) if dims.text.kind == "words" else (clip.VOCABULARY, clip.MERGES)


def statistics_files(dims: LiftDims) -> tuple[str, ...]:
    """The files of the statistics: one, or one for each embodiment (grippers differ in their joints' ranges)."""
    stem = statistics.FILE.removesuffix(".json")
    return tuple(f"{stem}_{name}.json" for name in dims.robots) or (statistics.FILE,)


def read(directory: Path) -> tuple[LiftVLA, statistics.Stats, dict[str, Any]]:
    """Return model (on the CPU, float32, not training), statistics and manifest; ArtifactError in one line."""
    manifest = files.read_manifest(directory, FAMILY)
    dims = LiftDims.read(manifest.get("dims"), str(directory / files.MANIFEST))
    files.check_bytes(directory, manifest, (files.MODEL, *statistics_files(dims), *text_files(dims)))
    with torch.device("meta"):
        model = LiftVLA(dims)
    _fill(model, directory / files.MODEL)
    return model, read_statistics(directory, dims), manifest


def read_statistics(directory: Path, dims: LiftDims) -> statistics.Stats:
    """Return an artifact's statistics; of several robots row by row, in the embodiments' order."""
    own = [statistics.read(directory / name, dims.state_dim, dims.action_dim) for name in statistics_files(dims)]
    return statistics.stacked(own) if dims.embodiments else own[0]


def read_doubt(directory: Path, manifest: dict[str, Any], dims: LiftDims) -> doubt.Doubt:
    """Return what an artifact says its doubt by; ArtifactError where it has no such file, or another one."""
    if doubt.FILE not in manifest["files"]:
        raise ArtifactError(
            f"{directory} has no {doubt.FILE}: leave the setting doubt out, or make an artifact that has one "
            "(`python -m flashtrail.training.lift doubt`)"
        )
    files.check_bytes(directory, manifest, (doubt.FILE,))
    with torch.device("meta"):
        module = doubt.Doubt(dims)
    _fill(module, directory / doubt.FILE)
    return module


def tokenizer(directory: Path, dims: LiftDims) -> words.Vocabulary | clip.Tokenizer:
    """Return what makes ids of an instruction; ArtifactError where its files are damaged."""
    if dims.text.kind == "words":
        return words.Vocabulary.read(directory / words.FILE, dims.text.rows)
    return clip.Tokenizer.read(directory, dims.text)


def _fill(module: nn.Module, path: Path) -> None:
    """Read a module's tensors, each checked; it is not to be trained."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    module.load_state_dict(files.read_tensors(path, shapes), assign=True)
    module.requires_grad_(False).eval()
