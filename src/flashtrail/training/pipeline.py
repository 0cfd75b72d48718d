"""Makes resources/pi0_nano: the steps of `make nano`, each skipped if its result exists.

The working directory (results/training by default) holds demos/, norm_stats.json, tokenizer.model, and a directory
per variant with its runs, draft, artifact and evaluation.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashtrail.base.errors import UserError, nearest
from flashtrail.base.provenance import json_dump, json_load, write_atomic
from flashtrail.checkpoints.artifact import convert_base, convert_draft
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims, nano_dims
from flashtrail.policies.pi0.transforms import Tokenizer
from flashtrail.training import dataset, demonstrations, draft, evaluate, export, tokenizer
from flashtrail.training.policy import DELTA_ACTIONS, Recipe, Trainer

BASE, DROPOUT = "pi0_nano", "pi0_nano_dropout"
RECIPES = {
    BASE: Recipe(steps=5500),
    # Continues from pi0_nano's averaged weights: the wrist view zeroed in a fifth, masked in a tenth of the samples.
    DROPOUT: Recipe(steps=1400, rate=5e-4, warmup=50, wrist_zeroed=0.2, wrist_masked=0.1, seed=1),
}
LESSON_FRAMES = 3000  # frames the draft learns from


@dataclass(frozen=True)
class Workplace:
    """The working directory and where finished policies go."""

    root: Path
    resources: Path

    @property
    def demos(self) -> Path:
        return self.root / "demos"

    def variant(self, name: str) -> Path:
        """The directory of one variant; UserError for an unknown one."""
        if name not in RECIPES:
            raise UserError(f"unknown variant {name!r}{nearest(name, RECIPES)}")
        return self.root / name


def record_demonstrations(work: Workplace, processes: int = 2) -> None:
    """Record every missing demonstration, `processes` at a time."""
    tasks = tuple(demonstrations.EPISODES)
    command = [sys.executable, "-m", "flashtrail.training", "demonstrations", "--work", str(work.root)]
    running = [subprocess.Popen([*command, "--worker", str(i), "--workers", str(processes)]) for i in range(processes)]
    if any(process.wait() for process in running):
        raise UserError("a demonstration process failed (see its message above): run again, finished episodes are kept")
    print({t: len(list((work.demos / f"task{t}").glob("ep*.npz"))) for t in tasks}, flush=True)


# --- inputs of every later step ---


@dataclass(frozen=True)
class Material:
    """Training data, statistics, token ids per task and the model's dims."""

    demos: dataset.Demonstrations
    stats: dict[str, Any]
    prompts: dict[int, list[int]]
    dims: Pi0Dims


def material(work: Workplace, stem: bool = True) -> Material:
    """Load the demonstrations; make tokenizer and statistics once and keep them, so that a resumed run agrees."""
    demos = dataset.load(work.demos)
    tokenizer_file = work.root / "tokenizer.model"
    if not tokenizer_file.is_file():
        tokenizer.train(tokenizer_file, tokenizer.instructions())
    stats_file = work.root / "norm_stats.json"
    if not stats_file.is_file():
        json_dump(dataset.norm_stats(demos, DELTA_ACTIONS), stats_file)
    dims, languages = nano_dims(tokenizer.size(tokenizer_file), stem), tokenizer.task_languages(evaluate.SUITE)
    encode = Tokenizer.load(tokenizer_file, dims.max_token_len, dims.vocab_size)
    prompts = {int(task): encode(languages[task]).tolist() for task in np.unique(demos.task)}
    return Material(demos, json_load(stats_file), prompts, dims)


def trainer(work: Workplace, name: str, data: Material, recipe: Recipe | None = None) -> Trainer:
    """The (resumable) trainer of a variant; pi0_nano_dropout needs pi0_nano."""
    start: dict[str, Any] | None = None
    if name == DROPOUT:
        saved = work.variant(BASE) / "run.pt"
        if not saved.is_file():
            raise UserError(f"{DROPOUT} continues from {BASE}, but {saved} is missing: train {BASE} first")
        start = torch.load(saved, weights_only=True)
    return Trainer(
        work.variant(name),
        data.demos,
        data.stats,
        data.prompts,
        data.dims,
        recipe or RECIPES[name],
        None if start is None else start["average"],
        None if start is None else start["head"],
    )


def train(work: Workplace, name: str, until_s: float | None = None, **changes: Any) -> None:
    """Train a variant to its last step (or for `until_s` seconds); continue an existing run."""
    torch.manual_seed(0)
    recipe = dataclasses.replace(RECIPES[name], **changes)
    run = trainer(work, name, material(work), recipe)
    print(f"{name}: {len(run.demos)} frames, {sum(v.numel() for v in run.run.weights.values())} parameters", flush=True)
    run.train(until_s)
    run.plot()


def averaged(work: Workplace, name: str) -> dict[str, Tensor]:
    """The averaged weights of a variant's run."""
    saved = work.variant(name) / "run.pt"
    if not saved.is_file():
        raise UserError(f"{saved} is missing: run `python -m flashtrail.training train --variant {name}`")
    return torch.load(saved, weights_only=True)["average"]


# --- the draft head ---


def _lesson_batches(run: Trainer, frames: np.ndarray) -> Iterator[dict[str, Tensor]]:
    run.recipe = dataclasses.replace(run.recipe, draws=1)
    for start in range(0, len(frames), 64):
        yield run.batch(frames[start : start + 64], np.random.default_rng([7, start]), augmented=False)


def train_draft(work: Workplace, name: str) -> dict[str, Any]:
    """Teach the draft head on the variant's full-route chunks; write draft_tensors.pt and agreement.json."""
    data = material(work)
    run, weights = trainer(work, name, data), averaged(work, name)
    rng = np.random.default_rng(11)
    chosen = rng.choice(run.train_frames, min(LESSON_FRAMES, len(run.train_frames)), replace=False)
    held = rng.choice(run.held_frames, min(300, len(run.held_frames)), replace=False)
    lesson = draft.teach(weights, data.dims, _lesson_batches(run, chosen))
    check = draft.teach(weights, data.dims, _lesson_batches(run, held), rng)
    recipe = draft.DraftRecipe()
    tensors, curve = draft.train(draft.initial(data.dims, weights, recipe.seed), data.dims, lesson, recipe)
    figures = draft.agreement(tensors, data.dims, check)
    meta = {"teacher": "full route, zero noise", "train_frames": len(chosen), **dataclasses.asdict(recipe)}
    with write_atomic(work.variant(name) / "draft_tensors.pt") as path:
        torch.save({"tensors": tensors, "meta": meta}, path)
    json_dump({**figures, "loss_every_100_steps": curve}, work.variant(name) / "agreement.json")
    print(figures, flush=True)
    return figures


# --- export and evaluation ---


def write_policy(work: Workplace, name: str) -> Path:
    """Write the source tree to resources/NAME and its artifacts to the work directory; return the tree."""
    tokenizer_file = work.root / "tokenizer.model"
    dims = nano_dims(tokenizer.size(tokenizer_file))
    target, head = work.resources / name, work.variant(name) / "draft_tensors.pt"
    packed = None
    if head.is_file():
        saved = torch.load(head, weights_only=True)
        packed = export.draft_file(saved["tensors"], DraftDims.like(dims), saved["meta"])
    stats = json_load(work.root / "norm_stats.json")
    export.write_source(target, averaged(work, name), dims, stats, tokenizer_file, packed, delta_actions=DELTA_ACTIONS)
    artifact = work.variant(name) / "artifact"
    convert_base(target, artifact / "base")
    if packed is not None:
        convert_draft(target / "draft.pt", artifact / "draft", base=artifact / "base")
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    print(f"{target}: {size / 2**20:.1f} MiB", flush=True)
    return target


def evaluate_policy(work: Workplace, name: str, *, flash: bool = False, **choices: Any) -> dict[str, Any]:
    """Play the held-out episodes with a variant's artifact; `flash` lets the draft route act."""
    artifact = work.variant(name) / "artifact"
    if not (artifact / "base").is_dir():
        raise UserError(f"{artifact} is missing: run `python -m flashtrail.training export --variant {name}`")
    rows = evaluate.evaluate(artifact / "base", artifact / "draft" if flash else None, **choices)
    suffix = f"_wrist_zero_every{choices['view_every']}" if choices.get("view_every") else ""
    return evaluate.report(rows, work.variant(name) / f"evaluation_{'flash' if flash else 'full'}{suffix}.json")
