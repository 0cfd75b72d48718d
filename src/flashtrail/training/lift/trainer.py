"""Trains a policy of the family lift_vla by behaviour cloning: one run in a directory, resumable after kill -9.

Motion by smooth L1 on z-scores, the gripper by cross-entropy on its own, cube minus hand by an auxiliary head on the
views alone, which is dropped at export. AdamW, warm-up and cosine, clipped gradients, averaged weights.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import write_atomic
from flashtrail.policies.lift_vla.dims import LiftDims
from flashtrail.policies.lift_vla.model import LiftVLA, normalised
from flashtrail.policies.lift_vla.statistics import Stats
from flashtrail.policies.parts.words import UNKNOWN
from flashtrail.training.lift import curves, offline
from flashtrail.training.lift.data import Frames, Material
from flashtrail.training.lift.recipe import FREE, Recipe

RUN, BEST, KEPT = "run.pt", "best.safetensors", "checkpoints"
CUBE_M = 0.1  # the auxiliary target's unit


class Learner(nn.Module):
    """The policy, and the head that reads cube minus hand (in CUBE_M) off its views."""

    def __init__(self, policy: LiftVLA) -> None:
        super().__init__()
        self.policy = policy
        self.cube = nn.Linear(policy.dims.views * policy.dims.width, 3)


@dataclass
class Batch:
    """What a step learns from: B frames, then S scenes in `pictures` and `cube`."""

    pictures: list[Tensor]
    ids: Tensor  # (B, L)
    absent: Tensor  # (B, L)
    hand: Tensor  # (B, 10)
    missing: Tensor | None  # (B, V)
    targets: Tensor  # (B, horizon, 7)
    valid: Tensor  # (B, horizon)
    cube: Tensor  # (B + S, 3)


@dataclass
class State:
    """How far a run is."""

    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One run: DIRECTORY/run.pt (resumable), best.safetensors, checkpoints/, curve.csv, history.json, tensorboard/.

    `policy`: the network to start from, its text encoder (and its backbone) loaded; `ids`: an instruction -> ids.
    """

    def __init__(
        self, directory: Path, data: Material, stats: Stats, policy: LiftVLA, ids: dict[str, list[int]], recipe: Recipe
    ) -> None:
        torch.set_num_threads(recipe.threads)
        self.directory, self.data, self.stats, self.recipe = directory, data, stats, recipe
        self.dims: LiftDims = policy.dims
        if data.pixels != self.dims.pixels:
            raise UserError(f"the demonstrations' views are {data.pixels} px, this policy's {self.dims.pixels}")
        directory.mkdir(parents=True, exist_ok=True)
        self._ids = {task: [ids[said] for said in texts] for task, texts in data.instructions.items()}
        with torch.random.fork_rng([]):
            torch.manual_seed(recipe.seed)
            self.learner = Learner(policy)
            self.average = Learner(LiftVLA(self.dims))
        self.average.load_state_dict(self.learner.state_dict())
        self._trained: list[Tensor] = [p for p in self.learner.parameters() if p.requires_grad]
        names = {name for name, p in self.learner.named_parameters() if p.requires_grad}
        self._averaged: list[Tensor] = [p for name, p in self.average.named_parameters() if name in names]
        self.average.requires_grad_(False).eval()
        groups = [
            {"params": [p for p in self._trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self._trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
        self.state = State()
        self._resume()

    # --- saving and going on -------------------------------------------------------------------------------------

    def _resume(self) -> None:
        path = self.directory / RUN
        if not path.is_file():
            return
        saved = torch.load(path, weights_only=True)
        mine = {"recipe": asdict(self.recipe), "dims": self.dims.model_dump()}
        changed = [k for k, v in mine["recipe"].items() if saved["recipe"].get(k) != v and k not in FREE]
        changed += ["dims"] if saved["dims"] != mine["dims"] else []
        if changed:
            raise UserError(f"{path} was trained with another {', '.join(changed)}: move it away, or train as before")
        self.learner.load_state_dict(saved["learner"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state = State(**saved["state"])

    def save(self) -> None:
        """Write run.pt and the curves, each whole."""
        content = {
            "learner": self.learner.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": asdict(self.state),
            "recipe": asdict(self.recipe),
            "dims": self.dims.model_dump(),
        }
        with write_atomic(self.directory / RUN) as path:
            torch.save(content, path)
        about = {name: getattr(self.state, name) for name in ("step", "seconds", "best_step")}
        curves.write(self.directory, self.state.rows, about | {"recipe": asdict(self.recipe)})

    def _keep(self, name: str) -> None:
        """Write the averaged weights, auxiliary head included, without the frozen text encoder."""
        kept = {k: v for k, v in self.average.state_dict().items() if not k.startswith("policy.text.")}
        with write_atomic(self.directory / name) as path:
            save_file(kept, path)

    # --- one batch -----------------------------------------------------------------------------------------------

    def batch(self, frames: Frames, rows: NDArray[np.int64], rng: np.random.Generator, augmented: bool) -> Batch:
        """Draw everything random about a batch: which instruction, pixels, state noise, scenes."""
        recipe, dims, scenes = self.recipe, self.dims, self.data.scenes
        views, cube = frames.views[rows], frames.cube[rows]
        if augmented and len(scenes) and recipe.scenes:
            drawn = rng.integers(0, len(scenes), recipe.scenes)
            views, cube = np.concatenate((views, scenes.views[drawn])), np.concatenate((cube, scenes.cube[drawn]))
        offsets = self._offsets(len(views), rng) if augmented else None
        pictures = normalised(torch.from_numpy(views[:, : dims.views]), dims, offsets)
        if augmented and not dims.blind:
            pictures = [self._lit(picture, rng) for picture in pictures]
        hand = self.stats.proprioception(frames.states[rows])
        missing = None
        if augmented:
            hand = hand + rng.normal(0.0, recipe.state_noise, hand.shape).astype(np.float32)
            missing = torch.zeros(len(rows), dims.views, dtype=torch.bool)
            missing[:, 1:] = torch.from_numpy(rng.random((len(rows), 1)) < recipe.wrist_missing)
        ids, absent = self._said(frames.task[rows], rng, augmented)
        return Batch(
            pictures,
            ids,
            absent,
            torch.from_numpy(hand),
            missing,
            torch.from_numpy(self.stats.targets(frames.chunks[rows])),
            torch.from_numpy(frames.valid[rows]),
            torch.from_numpy(cube / CUBE_M),
        )

    def _offsets(self, count: int, rng: np.random.Generator) -> Tensor | None:
        """Shifts of the crop by at most `shift` px, within the view: a pixel is about a centimetre on the table."""
        if (crop := self.dims.crop) is None:
            return None
        most, pixels = self.recipe.shift, self.dims.pixels
        low = -np.minimum(most, [crop.top, crop.left])
        high = np.minimum(most, [pixels - crop.top - crop.height, pixels - crop.left - crop.width])
        return torch.from_numpy(rng.integers(low, high + 1, (count, 2)))

    @staticmethod
    def _lit(pictures: Tensor, rng: np.random.Generator) -> Tensor:
        """Another brightness and tint for each picture."""
        gain = rng.normal(1.0, 0.05, (len(pictures), 1, 1, 1)).astype(np.float32)
        tint = rng.normal(0.0, 0.05, (len(pictures), 3, 1, 1)).astype(np.float32)
        return pictures * torch.from_numpy(gain) + torch.from_numpy(tint)

    def _said(self, tasks: NDArray[np.int64], rng: np.random.Generator, augmented: bool) -> tuple[Tensor, Tensor]:
        """One of its task's instructions for each frame -> ids (B, L) and where there is none (B, L)."""
        chosen = [self._ids[int(task)][rng.integers(0, len(self._ids[int(task)]))] for task in tasks]
        longest = max(len(ids) for ids in chosen)
        # Padded with the last id: CLIP's sentence is read at a row's end.
        ids = np.array([[*one, *[one[-1]] * (longest - len(one))] for one in chosen])
        absent = np.arange(longest) >= np.array([len(one) for one in chosen])[:, None]
        if augmented and self.dims.text.kind == "words":
            ids = np.where(rng.random(ids.shape) < self.recipe.unknown_words, UNKNOWN, ids)
        return torch.from_numpy(ids), torch.from_numpy(absent)

    def losses(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of motion, gripper and cube, the answer (B, horizon, 7) and the cube's place."""
        policy, count = learner.policy, len(batch.hand)
        seen = policy.see(batch.pictures)
        fused = policy.fuse(seen[:count], *self._text(policy, batch))
        answer = policy.decode(fused, batch.hand, batch.missing)
        weight = batch.valid * torch.where(torch.arange(answer.shape[1]) < self.recipe.first, 2.0, 1.0)
        motion = F.smooth_l1_loss(answer[..., :-1], batch.targets[..., :-1], reduction="none").mean(-1)
        grip = F.binary_cross_entropy_with_logits(answer[..., -1], batch.targets[..., -1], reduction="none")
        cube = learner.cube(seen.flatten(1))
        parts = {"motion": (motion * weight).sum() / weight.sum(), "gripper": (grip * weight).sum() / weight.sum()}
        return {**parts, "cube": F.smooth_l1_loss(cube, batch.cube), "answer": answer, "place": cube}

    @staticmethod
    def _text(policy: LiftVLA, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, L, width) of the instructions, and where there is none; CLIP gives one token a sentence."""
        if policy.dims.text.kind == "words":
            return policy.text(batch.ids), batch.absent
        ends = (~batch.absent).sum(1).tolist()
        return torch.cat([policy.text(ids[None, :end]) for ids, end in zip(batch.ids, ends, strict=True)]), None

    # --- the loop ------------------------------------------------------------------------------------------------

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to 2 % of the peak."""
        recipe = self.recipe
        if step < recipe.warmup:
            return recipe.rate * (step + 1) / recipe.warmup
        share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
        return recipe.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))

    def train(self, until_s: float | None = None) -> None:
        """Run to the last step, or for `until_s` seconds of this call."""
        state, recipe = self.state, self.recipe
        started = saved = time.monotonic()
        before, sums, summed = state.seconds, dict.fromkeys(("motion", "gripper", "cube"), 0.0), 0
        events = curves.Events(self.directory, state.step)
        while state.step < recipe.steps:
            rng = np.random.default_rng([recipe.seed, state.step])  # a resumed run draws what it would have drawn
            rows = self.data.train.balanced(recipe.batch, rng)
            losses = self.losses(self.learner, self.batch(self.data.train, rows, rng, augmented=True))
            self._update(losses["motion"] + recipe.gripper * losses["gripper"] + recipe.auxiliary * losses["cube"])
            sums, summed = {name: sums[name] + losses[name].item() for name in sums}, summed + 1
            state.step += 1
            state.seconds = round(before + time.monotonic() - started, 1)
            last = state.step == recipe.steps
            if state.step % recipe.log_every == 0 or last:
                self._log({name: total / summed for name, total in sums.items()}, events)
                sums, summed = dict.fromkeys(sums, 0.0), 0
            if state.step % recipe.keep_every == 0:
                self._keep(f"{KEPT}/step_{state.step:06d}.safetensors")
            if time.monotonic() - saved > recipe.save_every_s:
                self.save()
                saved = time.monotonic()
            if until_s is not None and time.monotonic() - started > until_s:
                break
        events.close()
        self.save()

    def _update(self, loss: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.state.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, self.recipe.clip)
        self.optimizer.step()
        decay = min(self.recipe.ema, (self.state.step + 1) / (self.state.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._trained, 1.0 - decay)

    def _log(self, means: dict[str, float], events: curves.Events) -> None:
        """Note a row of the curve; at every `check_every` steps with the held-out figures, and keep the best."""
        state, checked = self.state, dict.fromkeys(offline.COLUMNS, math.nan)
        if state.step % self.recipe.check_every == 0 or state.step == self.recipe.steps:
            checked = self.check()
            if checked["held_out_loss"] < state.best:
                state.best, state.best_step = checked["held_out_loss"], state.step
                self._keep(BEST)
        row: dict[str, Any] = {"step": state.step, "seconds": state.seconds, "rate": self.rate(state.step - 1)}
        row |= {name: round(value, 5) for name, value in {**means, **checked}.items()}
        state.rows.append(row)
        events.add(row)
        print("  ".join(f"{name} {value:g}" for name, value in row.items() if not math.isnan(value)), flush=True)

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Return the averaged weights' figures on every held-out frame (`offline.COLUMNS`)."""
        frames, rng = self.data.valid, np.random.default_rng([self.recipe.seed, 999_999])
        parts = []
        for rows in np.array_split(np.arange(len(frames)), -(-len(frames) // 64)):
            parts.append((len(rows), self.losses(self.average, self.batch(frames, rows, rng, augmented=False))))
        mean = {k: sum(n * part[k].item() for n, part in parts) / len(frames) for k in ("motion", "gripper")}
        grip = torch.cat([part["answer"][:, 0, -1] for _, part in parts]).numpy()
        cube = torch.cat([part["place"] for _, part in parts]).numpy() * CUBE_M
        loss = mean["motion"] + self.recipe.gripper * mean["gripper"]
        held = {"held_out_loss": loss, "held_out_motion": mean["motion"], "held_out_gripper": mean["gripper"]}
        return held | offline.figures(frames, grip, cube)
