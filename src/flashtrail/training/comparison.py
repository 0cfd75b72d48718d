"""Conv stem against patch encoder: the same data, seeds and recipe, equal wall time, one after the other.

The patch encoder is trained on the stored 112-pixel views with patch 16, which is the same function as patch 32 on
224-pixel views (see `at_full_size`). `compare` gives both the same seconds; `trial` gives patches the shipped recipe
to its end and plays the held-out episodes. Writes comparison.json and patch_trial.json.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from flashtrail.base.provenance import json_dump
from flashtrail.checkpoints.artifact import convert_base
from flashtrail.policies.pi0.dims import Pi0Dims
from flashtrail.training import evaluate, export, pipeline
from flashtrail.training.policy import Recipe, Trainer


def half_size(dims: Pi0Dims) -> Pi0Dims:
    """The same patch grid over images of half the side."""
    vision = dims.vision
    assert vision.patch is not None and vision.patch % 2 == 0
    halved = dataclasses.replace(vision, patch=vision.patch // 2, image_size=vision.image_size // 2)
    return dataclasses.replace(dims, vision=halved)


def at_full_size(weights: dict[str, Tensor], patch: int) -> dict[str, Tensor]:
    """Patch weights for 2 x 2 averaged images of patch `patch` // 2 -> the same function of the full images."""
    half = patch // 2
    kernel = weights["vision.patch_embed.weight"].reshape(half, half, 3, -1)
    wide = kernel.repeat_interleave(2, 0).repeat_interleave(2, 1) / 4.0
    return weights | {"vision.patch_embed.weight": wide.reshape(patch * patch * 3, -1)}


def compare(work: pipeline.Workplace, seconds: float, threads: int) -> dict[str, Any]:
    """Train both for `seconds` each; print and write losses on the same held-out frames."""
    figures: dict[str, Any] = {"seconds": seconds}
    for name, stem in (("conv_stem", True), ("patch_32", False)):
        torch.manual_seed(0)
        data = pipeline.material(work, stem)
        dims = data.dims if stem else half_size(data.dims)
        recipe = Recipe(steps=2000, threads=threads)
        run = Trainer(work.root / "comparison" / name, data.demos, data.stats, data.prompts, dims, recipe)
        run.train(max(1.0, seconds - run.run.seconds))
        flow, auxiliary = run.evaluate()
        last = run.run.curve[-1] if run.run.curve else {}
        figures[name] = {
            "steps": run.run.step,
            "seconds": round(run.run.seconds, 1),
            "parameters": sum(v.numel() for v in run.run.weights.values()),
            "train_flow": last.get("flow"),
            "train_auxiliary": last.get("auxiliary"),
            "held_out_flow": round(flow, 5),
            "held_out_auxiliary": round(auxiliary, 5),
        }
        print(name, figures[name], flush=True)
    json_dump(figures, work.root / "comparison" / "comparison.json")
    return figures


def trial(work: pipeline.Workplace, **choices: Any) -> dict[str, Any]:
    """Train a patch encoder as pi0_nano was trained, and play the held-out episodes on the full route; resumable."""
    directory = work.root / "comparison" / "patch_32_trial"
    torch.manual_seed(0)
    data = pipeline.material(work, stem=False)
    recipe = pipeline.RECIPES[pipeline.BASE]
    run = Trainer(directory, data.demos, data.stats, data.prompts, half_size(data.dims), recipe)
    run.train(None)
    run.plot()
    assert data.dims.vision.patch is not None
    weights = at_full_size(run.run.average, data.dims.vision.patch)
    tokenizer_file = work.root / "tokenizer.model"
    export.write_source(
        directory / "source", weights, data.dims, data.stats, tokenizer_file, None, delta_actions=pipeline.DELTA_ACTIONS
    )
    convert_base(directory / "source", directory / "base")
    rows = evaluate.evaluate(directory / "base", None, **choices)
    return evaluate.report(rows, work.root / "comparison" / "patch_trial.json")
