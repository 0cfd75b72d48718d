"""Trains the draft head on the policy's own full-route chunks, as FLASH does.

Targets are the teacher's ten-step actions from zero noise (normalised, 7 dims). Loss: Huber, a random prefix of 1-16
steps with weight 0.9^i, the rest 0.1, normalised. Starts from layer 0 of the prefix transformer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.draft import draft as propose
from flashtrail.policies.pi0.expert import denoise
from flashtrail.policies.pi0.prefix import embed_prompt, prefill
from flashtrail.policies.pi0.vision import encode_images
from flashtrail.policies.pi0.weights import init_draft, unbind

PREFIX_CAP, GAMMA, TAIL_WEIGHT = 16, 0.9, 0.1


@dataclass(frozen=True)
class DraftRecipe:
    """Upstream's settings where they make sense at this size."""

    steps: int = 2000
    batch: int = 64
    rate: float = 2e-3
    seed: int = 0


def initial(dims: Pi0Dims, weights: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Random state token, queries and head; the block copied from layer 0 of the prefix transformer."""
    tensors = init_draft(DraftDims.like(dims), seed)
    for name in ("input_norm.scale", "post_norm.scale", *(f"{n}.weight" for n in ("q", "k", "v", "o"))):
        tensors[name] = weights[f"prefix.layers.{name}"][0].clone()
    for name in ("gate.weight", "up.weight", "down.weight"):
        tensors[name] = weights[f"prefix.layers.{name}"][0].clone()
    return tensors


@torch.no_grad()
def teach(
    weights: dict[str, Tensor], dims: Pi0Dims, batches: Any, rng: np.random.Generator | None = None
) -> dict[str, Tensor]:
    """Run the full route over batches of (images, tokens, present, state): prefix embeddings and target chunks.

    With `rng` a second chunk from random noise is kept too: how far the policy is from itself, the control beside
    which acceptance must be read.
    """
    w = unbind(weights)
    kept: dict[str, list[Tensor]] = {k: [] for k in ("emb", "valid", "state", "chunk", "other")}
    for batch in batches:
        emb = torch.cat((encode_images(w, dims, batch["images"]), embed_prompt(w, batch["tokens"])), dim=1)
        seen = batch["view_valid"].repeat_interleave(dims.vision.tokens, dim=1)
        valid = torch.cat((seen, batch["present"]), dim=1)
        cache = prefill(w, dims, emb, valid)
        shape = (len(emb), dims.action_horizon, dims.action_dim)
        kept["emb"].append(emb)
        kept["valid"].append(valid)
        kept["state"].append(batch["state"])
        kept["chunk"].append(denoise(w, dims, cache, batch["state"], torch.zeros(shape), dims.num_steps)[..., :7])
        if rng is not None:
            noise = torch.from_numpy(rng.standard_normal(shape, np.float32))
            kept["other"].append(denoise(w, dims, cache, batch["state"], noise, dims.num_steps)[..., :7])
    return {name: torch.cat(parts) for name, parts in kept.items() if parts}


def step_weights(count: int, horizon: int, rng: np.random.Generator) -> Tensor:
    """(count, horizon) loss weights summing to one per row: a random prefix decaying by 0.9, a light tail."""
    lengths = rng.integers(1, PREFIX_CAP + 1, count)
    steps = np.arange(horizon)
    rows = np.where(steps < lengths[:, None], GAMMA**steps, TAIL_WEIGHT)
    return torch.from_numpy((rows / rows.sum(1, keepdims=True)).astype(np.float32))


def train(
    tensors: dict[str, Tensor], dims: Pi0Dims, lesson: dict[str, Tensor], recipe: DraftRecipe
) -> tuple[dict[str, Tensor], list[float]]:
    """Fit the draft tensors to the lesson's chunks; return them and the loss at every 100th step."""
    ddims, curve, recent = DraftDims.like(dims), [], []
    tensors = {k: v.clone().requires_grad_(True) for k, v in tensors.items()}
    optimizer = torch.optim.AdamW(list(tensors.values()), lr=recipe.rate, weight_decay=1e-4)
    for step in range(recipe.steps):
        rng = np.random.default_rng([recipe.seed, step])
        rows = torch.from_numpy(rng.integers(0, len(lesson["emb"]), recipe.batch))
        warm, share = min(1.0, (step + 1) / 100), step / recipe.steps
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        guess = propose(tensors, ddims, lesson["emb"][rows], lesson["valid"][rows], lesson["state"][rows])
        error = F.smooth_l1_loss(guess, lesson["chunk"][rows], reduction="none").mean(-1)
        loss = (error * step_weights(len(rows), error.shape[1], rng)).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tensors.values(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        if len(recent) == 100:
            curve.append(float(np.mean(recent)))
            recent.clear()
    return {k: v.detach() for k, v in tensors.items()}, curve


@torch.no_grad()
def agreement(tensors: dict[str, Tensor], dims: Pi0Dims, lesson: dict[str, Tensor], tau: float = 0.3) -> dict[str, Any]:
    """Held-out distance of draft chunks, and of full chunks under other noise, to the full route's chunk.

    Distance is FLASH's: RMS over the first six dims (no gripper), per step, first 12 steps. Returns for both the
    median over (frame, step), and k of n frames whose largest step distance stays within `tau`.
    """
    parts = [
        propose(tensors, DraftDims.like(dims), *(lesson[k][i : i + 64] for k in ("emb", "valid", "state")))
        for i in range(0, len(lesson["emb"]), 64)
    ]
    result: dict[str, Any] = {"tau": tau, "n": len(lesson["emb"])}
    for name, chunk in (("draft", torch.cat(parts)), ("full_other_noise", lesson["other"])):
        distance = (chunk - lesson["chunk"])[:, :12, :6].square().mean(-1).sqrt()
        result[name] = {
            "median": float(distance.median()),
            "within": int((distance.amax(1) <= tau).sum()),
            "within_steps_mean": float((distance <= tau).int().cumprod(1).sum(1).float().mean()),
        }
    return result
