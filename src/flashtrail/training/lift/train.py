"""The step `train`: from demonstrations to a run's artifact; and the sizes that it knows."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import json_dump, json_load
from flashtrail.policies.lift_vla import clip, resnet, statistics
from flashtrail.policies.lift_vla.artifact import FAMILY, statistics_files
from flashtrail.policies.lift_vla.dims import LiftDims, document, nano
from flashtrail.policies.lift_vla.errors import LiftError
from flashtrail.policies.lift_vla.model import LiftVLA, parts
from flashtrail.policies.parts import words
from flashtrail.training import artifact, loop
from flashtrail.training.lift import data as material
from flashtrail.training.lift.recipe import Recipe
from flashtrail.training.lift.trainer import Trainer

SIZES = ("nano", "document")


@dataclass(frozen=True)
class Start:
    """A network before training, an id list for each instruction, and the text encoder's files."""

    policy: LiftVLA
    ids: dict[str, list[int]]
    files: dict[str, bytes]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("--data", type=Path, required=True, help="demonstrations: demos.hdf5, or its folder (scenes.hdf5 beside it)")
    add("--size", choices=SIZES, default="nano", help="nano (one core), or document (29 M parameters, 224 px)")
    add("--blind", action="store_true", help="every picture black, in training and when served: the control")
    add("--imagenet", type=Path, metavar="FILE", help="start from torchvision's resnet18, as safetensors (document)")
    add("--clip", type=Path, metavar="DIR", help="openai/clip-vit-base-patch32: its three files (document)")
    loop.add_arguments(parser, Recipe)


def run(arguments: argparse.Namespace) -> int:
    """Train, check against held-out demonstrations, export to OUT/artifact; print the figures."""
    recipe = loop.recipe_of(Recipe, arguments)
    data = material.load(arguments.data)
    try:
        start = begin(data, arguments.size, recipe.seed, arguments.blind, arguments.imagenet, arguments.clip)
        trainer = trainer_of(arguments.out, data, start, recipe)
    except LiftError as error:  # a family cannot import UserError
        raise UserError(str(error)) from None
    counted = ", ".join(f"{name} {count:,}" for name, count in parts(start.policy).items())
    print(f"{len(data.train)} frames, {len(data.valid)} held out, {len(data.scenes)} scenes; {counted}", flush=True)
    if trainer.complete(arguments.seconds):
        finish(trainer, start)
    return 0


def begin(
    data: material.Material, size: str, seed: int, blind: bool, imagenet: Path | None, clip_files: Path | None
) -> Start:
    """Return the network that training starts from; LiftError or UserError where files do not fit."""
    said = [text for texts in data.instructions.values() for text in texts]
    if size == "nano":
        if imagenet or clip_files:
            raise UserError("--imagenet and --clip belong to --size document")
        known = words.vocabulary(said)
        return start_of(nano(len(known) + 1, blind=blind), said, seed, known)
    dims = document().model_copy(update={"blind": blind})
    if imagenet is not None:
        dims = dims.model_copy(update={"vision": dims.vision.model_copy(update={"norm": "frozen_batch"})})
    if clip_files is None:
        raise UserError("--size document needs --clip: a folder with CLIP's model.safetensors, vocab.json, merges.txt")
    return start_of(dims, said, seed, None, imagenet, clip_files)


def start_of(
    dims: LiftDims,
    said: list[str],
    seed: int,
    known: list[str] | None,
    imagenet: Path | None = None,
    clip_files: Path | None = None,
) -> Start:
    """Return a network of any dims: random, but for the weights that are given."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        policy = LiftVLA(dims)
    if imagenet is not None:
        for view in policy.views.values():
            assert isinstance(view.backbone, resnet.ResNet18)
            resnet.load_torchvision(view.backbone, _tensors(imagenet), str(imagenet))
    if known is not None:
        vocabulary = words.Vocabulary(known)
        ids = {text: vocabulary.ids(text)[0] for text in said}
        return Start(policy, ids, {words.FILE: json.dumps(known).encode()})
    assert clip_files is not None and dims.text.kind == "clip" and isinstance(policy.text, clip.TextTower)
    tokenizer = clip.Tokenizer.read(clip_files, dims.text)
    clip.load_openai(policy.text, _tensors(clip_files / "model.safetensors"), str(clip_files))
    files = {name: (clip_files / name).read_bytes() for name in (clip.VOCABULARY, clip.MERGES)}
    return Start(policy, {text: tokenizer(text) for text in said}, files)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises what its Rust half finds
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a safetensors file that can be read ({line}): fetch it again") from None


def trainer_of(directory: Path, data: material.Material, start: Start, recipe: Recipe) -> Trainer:
    """The (resumable) trainer of a run; its statistics are made once and kept, so that a resumed run agrees."""
    path, dims = directory / statistics.FILE, start.policy.dims
    if not path.is_file():
        json_dump(material.norm_stats(data.train), path)
    stats = statistics.read(path, dims.state_dim, dims.action_dim)
    return Trainer(directory, data, stats, start.policy, start.ids, recipe)


def finish(trainer: Trainer, start: Start, parent: str | None = None) -> None:
    """Write OUT/artifact and OUT/offline.json of the best step's averaged weights, and print the figures.

    `parent`: the digest of the artifact that training began from, if any.
    """
    trainer.take_best()
    figures = trainer.check()
    tensors = trainer.average.policy.state_dict()
    files, stats = dict(start.files), None
    if trainer.dims.embodiments:
        files |= {name: (trainer.directory / name).read_bytes() for name in statistics_files(trainer.dims)}
    else:
        stats = json_load(trainer.directory / statistics.FILE)
    manifest = artifact.write(trainer.directory / "artifact", FAMILY, trainer.dims, tensors, stats, files, parent)
    frames = {part: len(getattr(trainer.data, part)) for part in ("train", "valid", "scenes")}
    about = {"step": trainer.state.best_step, "seconds": trainer.state.seconds, "frames": frames}
    known = {name: None if math.isnan(value) else value for name, value in figures.items()}
    json_dump({**about, "figures": known, "digest": manifest["digest"]}, trainer.directory / "offline.json")
    print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
