"""Trains a policy of the family lift_vla by behaviour cloning: one run in a directory, resumable after kill -9.

Motion by smooth L1 on z-scores, the gripper by cross-entropy on its own, cube minus hand by an auxiliary head on the
views alone, which is dropped at export. AdamW, warm-up and cosine, clipped gradients, averaged weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flashtrail.base.errors import UserError
from flashtrail.policies.lift_vla.dims import LiftDims
from flashtrail.policies.lift_vla.model import LiftVLA, normalised
from flashtrail.policies.lift_vla.statistics import Stats
from flashtrail.policies.parts.words import UNKNOWN
from flashtrail.training.lift import offline
from flashtrail.training.lift.data import Frames, Material, draw
from flashtrail.training.lift.recipe import Recipe
from flashtrail.training.loop import Loop

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
    robots: Tensor | None  # (B,), of several robots
    valid: Tensor  # (B, horizon)
    cube: Tensor  # (B + S, 3)


class Trainer(Loop):
    """One run, see `training.loop`.

    `policy`: the network to start from, its text encoder (and its backbone) loaded; `ids`: an instruction -> ids.
    """

    parts: tuple[str, ...] = ("motion", "gripper", "cube")
    columns: tuple[str, ...] = offline.COLUMNS

    def __init__(
        self, directory: Path, data: Material, stats: Stats, policy: LiftVLA, ids: dict[str, list[int]], recipe: Recipe
    ) -> None:
        self.data, self.stats, self.recipe = data, stats, recipe
        self.dims: LiftDims = policy.dims
        if data.pixels != self.dims.pixels:
            raise UserError(f"the demonstrations' views are {data.pixels} px, this policy's {self.dims.pixels}")
        self._ids = {task: [ids[said] for said in texts] for task, texts in data.instructions.items()}
        self._robots = {robot.task: number for number, robot in enumerate(self.dims.embodiments)}
        # Which of the wire's motions each robot takes (R, 6): the others count nothing.
        moved = torch.tensor([robot.action_dim - 1 for robot in self.dims.embodiments])
        self._taken = (torch.arange(self.dims.action_dim - 1) < moved[:, None]).float()
        if self._robots and (strange := sorted(set(data.instructions) - set(self._robots))):
            raise UserError(f"task {strange[0]} is demonstrated, but this policy's robots are of {list(self._robots)}")
        with torch.random.fork_rng([]):
            torch.manual_seed(recipe.seed)
            self.learner = Learner(policy)
            self.average = Learner(LiftVLA(self.dims))
        super().__init__(directory, recipe, self.dims, data.digest, self.learner, self.average)

    # --- one batch -----------------------------------------------------------------------------------------------

    def batch(self, frames: Frames, rows: NDArray[np.int64], rng: np.random.Generator, augmented: bool) -> Batch:
        """Draw everything random about a batch: which instruction, pixels, state noise, scenes."""
        recipe, dims = self.recipe, self.dims
        pictures, cube = self._looked_at(frames, rows, rng, augmented)
        stats, robots = self.stats, None
        if self._robots:
            own = np.array([self._robots[int(task)] for task in frames.task[rows]])
            stats, robots = stats.rows(own), torch.from_numpy(own)
        hand = stats.proprioception(frames.states[rows])
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
            torch.from_numpy(stats.targets(frames.chunks[rows])),
            robots,
            torch.from_numpy(frames.valid[rows]),
            torch.from_numpy(cube / CUBE_M),
        )

    def _looked_at(
        self, frames: Frames, rows: NDArray[np.int64], rng: np.random.Generator, augmented: bool
    ) -> tuple[list[Tensor], NDArray[np.float32]]:
        """What `_see` takes for these rows and the scenes drawn beside them, and cube minus hand, m."""
        recipe, dims, scenes = self.recipe, self.dims, self.data.scenes
        views, cube = frames.views[rows], frames.cube[rows]
        if augmented and len(scenes) and recipe.scenes:
            drawn = rng.integers(0, len(scenes), recipe.scenes)
            views, cube = np.concatenate((views, scenes.views[drawn])), np.concatenate((cube, scenes.cube[drawn]))
        offsets = self._offsets(len(views), rng) if augmented else None
        pictures = normalised(torch.from_numpy(views[:, : dims.views]), dims, offsets)
        if augmented and not dims.blind:
            pictures = [self._lit(picture, rng) for picture in pictures]
        return pictures, cube

    def _see(self, policy: LiftVLA, pictures: list[Tensor]) -> Tensor:
        """Tokens (B, V, width) of `_looked_at`'s pictures."""
        return policy.see(pictures)

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
        seen = self._see(policy, batch.pictures)
        fused = policy.fuse(seen[:count], *self._text(policy, batch))
        answer = policy.decode(fused, batch.hand, batch.missing, batch.robots)
        weight = batch.valid * torch.where(torch.arange(answer.shape[1]) < self.recipe.first, 2.0, 1.0)
        motion = F.smooth_l1_loss(answer[..., :-1], batch.targets[..., :-1], reduction="none")
        if batch.robots is None:
            motion = motion.mean(-1)
        else:
            taken = self._taken[batch.robots][:, None]
            motion = (motion * taken).sum(-1) / taken.sum(-1)
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

    def step_losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """See `Loop`."""
        recipe = self.recipe
        losses = self.losses(self.learner, self.batch(self.data.train, self._rows(rng), rng, augmented=True))
        loss = losses["motion"] + recipe.gripper * losses["gripper"] + recipe.auxiliary * losses["cube"]
        return losses | {"loss": loss}

    def _rows(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A step's frames: every task equally likely."""
        return draw(self.data.train.pools(), self.recipe.batch, rng)

    def check(self) -> dict[str, float]:
        """Return the averaged weights' figures on every held-out frame (`columns`)."""
        return self.figures(self.average)

    def figures(self, learner: Learner) -> dict[str, float]:
        """Return what `check` returns, of any weights."""
        frames = self.data.valid
        mean, grip, cube = self.measure(learner, frames, np.arange(len(frames)))
        return {f"held_out_{name}": value for name, value in mean.items()} | offline.figures(frames, grip, cube)

    @torch.no_grad()
    def measure(
        self, learner: Learner, frames: Frames, chosen: NDArray[np.int64]
    ) -> tuple[dict[str, float], NDArray[np.float32], NDArray[np.float32]]:
        """Return loss, motion and gripper of these frames, the first action's gripper (F,), and the cube (F, 3), m."""
        rng, parts = np.random.default_rng([self.recipe.seed, 999_999]), []
        for rows in np.array_split(chosen, -(-len(chosen) // 64)):
            parts.append((len(rows), self.losses(learner, self.batch(frames, rows, rng, augmented=False))))
        mean = {k: sum(n * part[k].item() for n, part in parts) / len(chosen) for k in ("motion", "gripper")}
        grip = torch.cat([part["answer"][:, 0, -1] for _, part in parts]).numpy()
        cube = torch.cat([part["place"] for _, part in parts]).numpy() * CUBE_M
        return {"loss": mean["motion"] + self.recipe.gripper * mean["gripper"], **mean}, grip, cube
