"""The step `refit`: from an artifact's weights on, on demonstrations and, half of each batch, corrections.

`head` trains the decoder and the output alone: what the vision makes of the frames is computed once and kept, so that a
refit takes seconds. `all` trains everything but the text encoder. The auxiliary head that read the cube's place is not
in an artifact, so neither trains it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import json_dump, json_load
from flashtrail.policies.lift_vla import artifact, statistics
from flashtrail.policies.lift_vla.errors import ArtifactError, LiftError
from flashtrail.policies.lift_vla.model import LiftVLA, normalised
from flashtrail.policies.parts import words
from flashtrail.training import loop
from flashtrail.training.lift import data as material
from flashtrail.training.lift import offline, train
from flashtrail.training.lift.data import Frames, Material, draw
from flashtrail.training.lift.recipe import Recipe
from flashtrail.training.lift.trainer import Learner, Trainer

PARTS = ("head", "all")
_HEAD = ("hand.", "queries", "decoder.", "out.")
_A_PASS = 64  # frames looked at in one


@dataclass(frozen=True)
class RefitRecipe(Recipe):
    """What of the parent artifact (`parent`: its digest) is trained, and on what beside the demonstrations.

    `corrections`: how many frames of them. `resample`: the seed of a bootstrap sample of demonstrations; 0: all.
    The last step's averaged weights are taken: held-out demonstrations would choose those that learned least.
    """

    steps: int = 300
    rate: float = 3e-4
    warmup: int = 10
    check_every: int = 1_000_000_000
    scenes: int = 0
    auxiliary: float = 0.0
    parts: str = "head"
    parent: str = ""
    corrections: int = 0
    resample: int = 0


@dataclass(frozen=True)
class Parent:
    """The artifact that a refit begins from."""

    start: train.Start
    stats: statistics.Stats
    content: dict[str, Any]  # of its norm_stats.json
    digest: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("--artifact", type=Path, required=True, metavar="DIR", help="the artifact whose weights training begins from")
    add("--data", type=Path, required=True, help="demonstrations: demos.hdf5, or its folder")
    add("--corrections", type=Path, metavar="FILE", help="in the same layout: half of each batch, demonstrations half")
    add("--parts", choices=PARTS, default="head", help="head: decoder and output, vision kept; all (default: head)")
    loop.add_arguments(parser, RefitRecipe)


def run(arguments: argparse.Namespace) -> int:
    """Refit, and export to OUT/artifact; print the figures of the parent and of what became of it."""
    data = material.load(arguments.data)
    count = len(data.train)
    recipe = loop.recipe_of(RefitRecipe, arguments)
    try:
        horizon = artifact.read(arguments.artifact)[0].dims.action_horizon
        if arguments.corrections is not None:
            data = material.with_corrections(data, arguments.corrections, horizon)
        parent = parent_of(arguments.artifact, data)
    except LiftError as error:  # a family cannot import UserError
        raise UserError(str(error)) from None
    about = {"parts": arguments.parts, "parent": parent.digest, "corrections": len(data.train) - count}
    trainer = Refit(arguments.out, data, parent, replace(recipe, **about))
    if trainer.complete(arguments.seconds):
        before = trainer.figures(trainer.before)
        train.finish(trainer, parent.start, parent.digest)
        print("before: " + "  ".join(f"{name} {value:.4g}" for name, value in before.items()), flush=True)
        path = trainer.directory / "offline.json"
        known = {name: None if math.isnan(value) else value for name, value in before.items()}
        json_dump({**json_load(path), "before": known, "parent": parent.digest}, path)
    return 0


def parent_of(directory: Path, data: Material) -> Parent:
    """Read an artifact as a start of training on these demonstrations; LiftError where it is none."""
    start, stats, digest = start_from(directory, data)
    if start.policy.dims.embodiments:
        raise ArtifactError(f"{directory} is of several robots: train it further by the step robots, with --of")
    return Parent(start, stats, json_load(directory / statistics.FILE), digest)


def start_from(directory: Path, data: Material) -> tuple[train.Start, statistics.Stats, str]:
    """Return an artifact's network and text files, the ids of the data's instructions; its statistics; its digest."""
    model, stats, manifest = artifact.read(directory)
    tokenizer = artifact.tokenizer(directory, model.dims)
    said = [text for texts in data.instructions.values() for text in texts]
    read = (lambda text: tokenizer.ids(text)[0]) if isinstance(tokenizer, words.Vocabulary) else tokenizer
    ids = {text: read(text) for text in said}
    files = {name: (directory / name).read_bytes() for name in artifact.text_files(model.dims)}
    return train.Start(model, ids, files), stats, str(manifest["digest"])


class Refit(Trainer):
    """A run from an artifact's weights on; its statistics and its instructions' ids are the artifact's.

    `trained`: how the names of the tensors begin that are trained, in place of those of the recipe's parts.
    `seen`: what `see_all` made of the frames, if another run has it already.
    """

    parts = ("motion", "gripper")
    columns = (*(name for name in offline.COLUMNS if name != "cube_mm"), "corrections_loss")

    def __init__(
        self,
        directory: Path,
        data: Material,
        parent: Parent,
        recipe: RefitRecipe,
        trained: Sequence[str] = _HEAD,
        seen: dict[str, Tensor] | None = None,
    ) -> None:
        policy = parent.start.policy
        for name, parameter in policy.named_parameters():
            whole = recipe.parts == "all" and not name.startswith("text.")
            parameter.requires_grad_(whole or name.startswith(tuple(trained)))
        self.refit, first = recipe, len(data.train) - recipe.corrections
        self.corrections = np.arange(first, len(data.train))
        pools = data.train.resampled(recipe.resample) if recipe.resample else data.train.pools(0, first)
        self._sources = [pools, data.train.pools(first)] if recipe.corrections else [pools]
        json_dump(parent.content, directory / statistics.FILE)
        self.before = Learner(LiftVLA(policy.dims)).requires_grad_(False)
        self.before.policy.load_state_dict(policy.state_dict())
        self._seen: dict[str, Tensor] = {}
        super().__init__(directory, data, parent.stats, policy, parent.start.ids, recipe)
        if recipe.parts == "head":
            self._seen = see_all(policy, data) if seen is None else seen

    def _rows(self, rng: np.random.Generator) -> NDArray[np.int64]:
        shares = np.array_split(np.arange(self.recipe.batch), len(self._sources))
        drawn = [draw(pools, len(share), rng) for pools, share in zip(self._sources, shares, strict=True)]
        return np.concatenate(drawn)

    def _looked_at(
        self, frames: Frames, rows: NDArray[np.int64], rng: np.random.Generator, augmented: bool
    ) -> tuple[list[Tensor], NDArray[np.float32]]:
        if not self._seen:
            return super()._looked_at(frames, rows, rng, augmented)
        return [self._seen["train" if frames is self.data.train else "valid"][rows]], frames.cube[rows]

    def _see(self, policy: LiftVLA, pictures: list[Tensor]) -> Tensor:
        return pictures[0] if self._seen else super()._see(policy, pictures)

    def figures(self, learner: Learner) -> dict[str, float]:
        """Figures on held-out demonstrations (what was forgotten), loss on the corrections (learned; NaN for none)."""
        held = {name: value for name, value in super().figures(learner).items() if name in self.columns}
        rows = self.corrections
        loss = self.measure(learner, self.data.train, rows)[0]["loss"] if len(rows) else math.nan
        return held | {"corrections_loss": loss}


@torch.no_grad()
def see_all(policy: LiftVLA, data: Material) -> dict[str, Tensor]:
    """What the vision makes of the frames of mask/train and mask/valid as they are served, each (F, V, width)."""

    def seen(frames: Frames) -> Tensor:
        views = (frames.views[at : at + _A_PASS, : policy.dims.views] for at in range(0, len(frames), _A_PASS))
        return torch.cat([policy.see(normalised(torch.from_numpy(part), policy.dims)) for part in views])

    return {"train": seen(data.train), "valid": seen(data.valid)}
