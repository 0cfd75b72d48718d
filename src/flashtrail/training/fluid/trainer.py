"""Behaviour cloning of a fluid policy or one of its controls: masked chunks of z-scores, landmarks beside.

Loss: squared error and a tenth of the absolute one, and landmarks minus hand by an auxiliary head that is dropped at
export. The steps of each layer are drawn for each batch, so that every depth at which a field may stop is trained; the
document's form takes all of them, as the document's training does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flashtrail.base.errors import UserError
from flashtrail.policies.fluid.dims import FluidDims
from flashtrail.policies.fluid.model import FluidVLA
from flashtrail.policies.fluid.positions import to_actions, to_positions
from flashtrail.policies.parts.statistics import Stats
from flashtrail.policies.parts.words import UNKNOWN
from flashtrail.statistics import resampling
from flashtrail.tables.measurements import Figure, figure
from flashtrail.training import dataset, loop

OFFLINE = "offline.json"  # a run's figures on held-out episodes, a measurement
COLUMNS = (
    *("held_out_loss", "held_out_own", "held_out_motion", "blank_motion", "held_out_auxiliary"),
    *("amplitude", "sensitivity"),
)


@dataclass(frozen=True)
class Recipe(loop.Recipe):
    """`least_steps`: of a layer, at the least that a batch may draw. `unknown_words`: share of words that are hidden.

    `wrist_missing`: share of samples whose wrist view is left out, as a client may say it is. `diffusion`: D at the
    start, None: the core's own. `state_noise`: in SDs of the states.
    """

    steps: int = 3500
    auxiliary: float = 0.5
    least_steps: int = 3
    unknown_words: float = 0.1
    wrist_missing: float = 0.05
    state_noise: float = 0.03
    diffusion: float | None = None


class Learner(nn.Module):
    """The policy, and the head that reads the landmarks, if they are known, off what its own head sees of pictures."""

    def __init__(self, policy: FluidVLA, landmarks: int) -> None:
        super().__init__()
        self.policy = policy
        self.landmarks = nn.Linear(policy.seen, landmarks) if landmarks else nn.Identity()


@dataclass
class Batch:
    """What a step learns from."""

    pictures: Tensor  # (B, V, T, 3, P, P)
    state: Tensor  # (B, S)
    ids: list[list[int]] | None
    missing: Tensor | None  # (B, V)
    targets: Tensor  # (B, horizon, D)
    valid: Tensor  # (B, horizon)
    landmarks: Tensor  # (B, 3 K)
    steps: list[int] | None  # of each layer


class Trainer(loop.Loop):
    """One run, see `training.loop`. `ids`: a task -> its instruction's words as ids."""

    parts, columns = ("chunk", "auxiliary"), COLUMNS

    def __init__(
        self,
        directory: Path,
        demos: dataset.Demonstrations,
        stats: Stats,
        policy: FluidVLA,
        ids: Mapping[int, list[int]],
        recipe: Recipe,
    ) -> None:
        self.demos, self.stats, self.recipe, self._ids = demos, stats, recipe, ids
        self.dims: FluidDims = policy.dims
        self.targets = stats.targets(to_positions(demos.chunks, demos.states, self.dims.absolute))
        self.train_frames, self.held_frames = dataset.split(demos)
        self._state_sd = stats.state(demos.states).std(0)  # 1 but where states are not normalised
        flat = demos.objects.reshape(len(demos), -1)
        self._middle, self._spread = flat.mean(0), np.maximum(flat.std(0), 1e-3)
        with torch.random.fork_rng([]):
            torch.manual_seed(recipe.seed)
            self.learner = Learner(policy, flat.shape[1])
            self.average = Learner(FluidVLA(self.dims), flat.shape[1])
        super().__init__(directory, recipe, self.dims, demos.digest, self.learner, self.average)

    def batch(
        self,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        augmented: bool,
        blank: bool = False,
        looked_at: NDArray[np.int64] | None = None,
    ) -> Batch:
        """Draw everything random about a batch.

        `blank`: each picture is its own mean colour; `looked_at`: the pictures are those of other rows (the controls).
        """
        demos, dims, recipe = self.demos, self.dims, self.recipe
        frames = dataset.windows(demos, rows if looked_at is None else looked_at, dims.frames, dims.frame_gap)
        views = demos.views[frames][:, :, : dims.views].swapaxes(1, 2)  # (B, V, T, P, P, 3)
        seen = dataset.augment(views, rng) if augmented else views.astype(np.float32) / 127.5 - 1.0
        if blank:
            seen = np.broadcast_to(seen.mean((-3, -2), keepdims=True), seen.shape)
        pictures = torch.from_numpy(np.zeros_like(seen) if dims.blind else np.array(seen)).movedim(-1, 3)
        state, missing, ids, steps = self.stats.state(demos.states[rows]), None, None, None
        if dims.prompt is not None:
            ids = [list(self._ids[int(task)]) for task in demos.task[rows]]
        if augmented:
            state = state + (self._state_sd * rng.normal(0.0, recipe.state_noise, state.shape)).astype(np.float32)
            missing = torch.zeros(len(rows), dims.views, dtype=torch.bool)
            missing[:, 1:] = torch.from_numpy(rng.random((len(rows), 1)) < recipe.wrist_missing)
            hidden = [rng.random(len(said)) < recipe.unknown_words for said in ids or ()]
            ids = ids and [np.where(h, UNKNOWN, said).tolist() for h, said in zip(hidden, ids, strict=True)]
            if dims.core in ("ours", "none"):
                steps = rng.integers(min(recipe.least_steps, dims.steps), dims.steps + 1, dims.layers).tolist()
        landmarks = (demos.objects[rows].reshape(len(rows), -1) - self._middle) / self._spread
        targets = torch.from_numpy(self.targets[rows])
        valid, near = torch.from_numpy(demos.valid[rows]), torch.from_numpy(landmarks.astype(np.float32))
        return Batch(pictures, torch.from_numpy(state), ids, missing, targets, valid, near, steps)

    def losses(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of chunk and landmarks, and the answer (B, horizon, D)."""
        policy = learner.policy
        said = None if batch.ids is None else torch.cat([policy.say(ids) for ids in batch.ids])
        start = policy.embed(batch.pictures, said, batch.missing)
        cells = policy.cells(start, policy.evolve(start, batch.steps).u)
        answer = policy.decode(cells, batch.state, said)
        error = answer - batch.targets
        each = (error.square() + 0.1 * error.abs()).mean(-1)
        chunk = (each * batch.valid).sum() / batch.valid.sum()
        near = chunk.new_zeros(())
        if batch.landmarks.numel():
            near = (learner.landmarks(cells) - batch.landmarks).square().mean()
        return {"chunk": chunk, "auxiliary": near, "loss": chunk + self.recipe.auxiliary * near, "answer": answer}

    def step_losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """See `Loop`."""
        rows = dataset.balanced(self.demos, self.train_frames, self.recipe.batch, rng)
        return self.losses(self.learner, self.batch(rows, rng, augmented=True))

    def check(self) -> dict[str, float]:
        """See `Loop`: `held_out` summed over all episodes."""
        return summary(self.held_out())

    @torch.no_grad()
    def held_out(self) -> dict[str, NDArray[np.float64]]:
        """Return sums over each held-out episode, by column: squared errors and what they compare with.

        Of the motion (robot actions but the gripper, over their SD, without dims that never move): error, with
        pictures, and blank, with blank ones; swapped, of the answers to another episode's pictures from one's own;
        variance, of the expert's about its mean; answered, of the answers' about theirs. own, own_variance: of the
        targets as they are answered, gripper included. loss, auxiliary, frames: of the losses.
        """
        rng, rows = np.random.default_rng([self.recipe.seed, 999_999]), self.held_frames
        others = dataset.others(self.demos, rows)
        columns: dict[str, list[NDArray[Any]]] = {}
        for places in np.array_split(np.arange(len(rows)), max(1, -(-len(rows) // 64))):
            part = rows[places]
            batch = self.batch(part, rng, augmented=False)
            seen = self.losses(self.average, batch)
            unseen = self.losses(self.average, self.batch(part, rng, augmented=False, blank=True))
            other = self.losses(self.average, self.batch(part, rng, augmented=False, looked_at=others[places]))
            own = {"own": seen["answer"], "blank": unseen["answer"], "other": other["answer"], "target": batch.targets}
            for name, values in own.items():
                columns.setdefault(name, []).append(values.numpy())
            for name in ("chunk", "auxiliary"):
                columns.setdefault(name, []).append(np.full(len(part), seen[name].item()))
        whole = {name: np.concatenate(values) for name, values in columns.items()}
        valid = self.demos.valid[rows][..., None]
        spread = self.demos.chunks[self.demos.valid].std(0)[:-1]
        moving = spread > 1e-6
        moved, blank, other, expert = (
            (self._motion(whole[name], rows) / np.maximum(spread, 1e-6))[..., moving]
            for name in ("own", "blank", "other", "target")
        )

        def about_mean(x: NDArray[Any]) -> NDArray[Any]:
            return x - x.mean((0, 1), where=valid)

        squares = {
            "error": moved - expert,
            "blank": blank - expert,
            "swapped": other - moved,
            "variance": about_mean(expert),
            "answered": about_mean(moved),
            "own": whole["own"] - whole["target"],
            "own_variance": about_mean(whole["target"]),
        }
        of_frames = {name: (x**2 * valid).sum((1, 2)) for name, x in squares.items()}
        of_frames |= {"loss": whole["chunk"], "auxiliary": whole["auxiliary"], "frames": np.ones(len(rows))}
        episodes = self.demos.episode[rows]
        return {
            name: np.array([x[episodes == e].sum() for e in np.unique(episodes)], np.float64)
            for name, x in of_frames.items()
        }

    def _motion(self, answers: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
        """Answers (F, H, D) -> the robot's actions without the gripper."""
        return to_actions(self.stats.actions(answers), self.demos.states[rows], self.dims.absolute)[..., :-1]


def summary(sums: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Return COLUMNS of `held_out`'s sums; `figures` says what they are."""
    total = {name: float(x.sum()) for name, x in sums.items()}
    return {
        "held_out_loss": total["loss"] / total["frames"],
        "held_out_own": total["own"] / total["own_variance"],
        "held_out_motion": total["error"] / total["variance"],
        "blank_motion": total["blank"] / total["variance"],
        "held_out_auxiliary": total["auxiliary"] / total["frames"],
        "amplitude": (total["answered"] / total["variance"]) ** 0.5,
        "sensitivity": (total["swapped"] / max(2 * total["answered"], 1e-9)) ** 0.5,
    }


# Name -> in words, part, whole, whether the root is taken. `sensitivity`: 0 where pictures are not looked at, about 1
# where the answer is theirs alone. An error of the mean is 1; one of a state alone may be below it.
_FIGURES = {
    "own": ("error of what is answered, over its variance", "own", "own_variance", False),
    "motion": ("error of the robot's motion, over its variance", "error", "variance", False),
    "blank_motion": ("that error with blank pictures", "blank", "variance", False),
    "error_over_blank": ("error of the motion, over that with blank pictures", "error", "blank", False),
    "amplitude": ("SD of the motion answered, over the expert's", "answered", "variance", True),
    "sensitivity": ("how far the motion follows the pictures of another episode", "swapped", "twice_answered", True),
}


def figures(sums: Mapping[str, NDArray[np.float64]]) -> list[Figure]:
    """Return the quotients of `held_out`'s sums that a claim may be about, with a bootstrap over episodes."""
    columns = {**sums, "twice_answered": 2 * sums["answered"]}
    made = []
    for name, (title, part, whole, root) in _FIGURES.items():
        of, over = columns[part], columns[whole]
        value, interval = float(of.sum() / max(over.sum(), 1e-12)), resampling.ratio_over_episodes(of, over)
        made.append(figure(name, title, value, interval, len(of), "held-out episodes", root))
    return made


def check_fit(demos: dataset.Demonstrations, dims: FluidDims) -> None:
    """UserError where demonstrations and dims differ."""
    for name, found, own in (
        ("pixels of a view", demos.views.shape[2], dims.pixels),
        ("dims of a state", demos.states.shape[1], dims.state_dim),
        ("dims of an action", demos.chunks.shape[2], dims.action_dim),
        ("actions of a chunk", demos.chunks.shape[1], dims.action_horizon),
    ):
        if found != own:
            raise UserError(f"{name}: the demonstrations have {found}, this policy {own}: load or train others")
    if demos.views.shape[1] < dims.views:
        raise UserError(f"the demonstrations have {demos.views.shape[1]} camera(s), this policy {dims.views}")
