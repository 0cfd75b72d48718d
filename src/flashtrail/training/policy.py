"""Trains the small policy through the engine's own stage functions: flow matching with pi0's conventions.

x_t = t * noise + (1 - t) * x0, target noise - x0, t ~ Beta(1.5, 1). Several noise draws share one prefix pass. An
auxiliary head reads object positions relative to the hand off the image tokens; it is dropped at export.
"""

from __future__ import annotations

import csv
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import write_atomic
from flashtrail.policies.pi0.dims import Pi0Dims
from flashtrail.policies.pi0.expert import velocity
from flashtrail.policies.pi0.prefix import embed_prompt, prefill
from flashtrail.policies.pi0.vision import encode_images
from flashtrail.policies.pi0.weights import init_base, unbind
from flashtrail.training import dataset

ACTION_DIMS, STATE_DIMS = 7, 8
# LIBERO's actions are increments already. Subtracting the state, as pi0_libero does, puts the arm's attitude (a
# radian apart between tasks) into the target: at this size its error then turns the hand a little further at every
# query (docs/training.md).
DELTA_ACTIONS = False


@dataclass(frozen=True)
class Recipe:
    """Every number of a training run; two runs with equal recipes and data give equal weights on one machine."""

    steps: int = 6000
    batch: int = 32
    draws: int = 2
    rate: float = 1e-3
    warmup: int = 150
    weight_decay: float = 1e-4
    ema: float = 0.998
    state_noise: float = 0.03
    auxiliary: float = 0.5
    wrist_zeroed: float = 0.0
    wrist_masked: float = 0.0
    seed: int = 0
    threads: int = 2
    save_every_s: float = 120.0


@dataclass
class Run:
    """What a checkpoint holds, so that a killed run continues as if nothing had happened."""

    weights: dict[str, Tensor]
    head: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One training run in a directory: run.pt (resumable), curve.csv."""

    def __init__(
        self,
        directory: Path,
        demos: dataset.Demonstrations,
        stats: dict[str, Any],
        prompts: dict[int, list[int]],
        dims: Pi0Dims,
        recipe: Recipe,
        start_from: dict[str, Tensor] | None = None,
        start_head: dict[str, Tensor] | None = None,
    ) -> None:
        torch.set_num_threads(recipe.threads)
        self.directory, self.demos, self.dims, self.recipe = directory, demos, dims, recipe
        directory.mkdir(parents=True, exist_ok=True)
        self.normaliser = dataset.Normaliser(stats)
        self.train_frames, self.held_frames = dataset.split(demos)
        self.prompts = prompts
        self.landmark_scale = np.maximum(demos.objects.reshape(len(demos), -1).std(0), 1e-3).astype(np.float32)
        self.landmark_mean = demos.objects.reshape(len(demos), -1).mean(0).astype(np.float32)
        self.keep = self._structural_zeros()
        self.run = self._start(start_from, start_head)

    # --- set-up and resuming -------------------------------------------------------------------------------------

    def _structural_zeros(self) -> dict[str, Tensor]:
        """Masks for the padding dims: noise on them is not read and nothing is written to them."""
        rows = (torch.arange(self.dims.action_dim) < ACTION_DIMS).float()
        return {
            "action_in_proj.weight": rows[:, None],
            "action_out_proj.weight": rows[None],
            "action_out_proj.bias": rows,
        }

    def _init_head(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.recipe.seed + 1)
        width, tokens = self.dims.prefix.width, self.dims.num_views * self.dims.vision.tokens
        outputs = self.landmark_mean.size
        return {
            "squeeze": torch.randn(width, 16, generator=generator) / math.sqrt(width),
            "out": torch.randn(tokens * 16, outputs, generator=generator) / math.sqrt(tokens * 16),
            "bias": torch.zeros(outputs),
        }

    def _start(self, start_from: dict[str, Tensor] | None, start_head: dict[str, Tensor] | None) -> Run:
        weights = {k: v.clone() for k, v in (start_from or init_base(self.dims, self.recipe.seed)).items()}
        for name, mask in self.keep.items():
            weights[name] *= mask
        head = {k: v.clone() for k, v in (start_head or self._init_head()).items()}
        for tensor in (*weights.values(), *head.values()):
            tensor.requires_grad_(True)
        run = Run(weights, head, {k: v.detach().clone() for k, v in weights.items()}, self._optimizer(weights, head))
        saved = self.directory / "run.pt"
        if saved.is_file():
            state = torch.load(saved, weights_only=True)
            if state["recipe"] != asdict(self.recipe):
                changed = [k for k, v in asdict(self.recipe).items() if state["recipe"].get(k) != v]
                if set(changed) - {"steps", "threads", "save_every_s"}:
                    raise UserError(f"{saved} was trained with another {', '.join(changed)}: move it away")
            with torch.no_grad():
                for mine, theirs in ((run.weights, "weights"), (run.head, "head"), (run.average, "average")):
                    for name, tensor in mine.items():
                        tensor.copy_(state[theirs][name])
            run.optimizer.load_state_dict(state["optimizer"])
            run.step, run.seconds, run.curve = state["step"], state["seconds"], state["curve"]
        return run

    def _optimizer(self, weights: dict[str, Tensor], head: dict[str, Tensor]) -> torch.optim.Optimizer:
        matrices = [v for v in (*weights.values(), *head.values()) if v.ndim > 1]
        vectors = [v for v in (*weights.values(), *head.values()) if v.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.recipe.rate, betas=(0.9, 0.98))

    def save(self) -> None:
        """Write run.pt and curve.csv, each whole."""
        run = self.run
        state = {
            "weights": {k: v.detach() for k, v in run.weights.items()},
            "head": {k: v.detach() for k, v in run.head.items()},
            "average": run.average,
            "optimizer": run.optimizer.state_dict(),
            "step": run.step,
            "seconds": run.seconds,
            "curve": run.curve,
            "recipe": asdict(self.recipe),
        }
        with write_atomic(self.directory / "run.pt") as path:
            torch.save(state, path)
        if run.curve:
            with write_atomic(self.directory / "curve.csv") as path, path.open("w", -1, "utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, fieldnames=list(run.curve[0]))
                writer.writeheader()
                writer.writerows(run.curve)

    def plot(self) -> None:
        """Draw curve.png: flow and auxiliary loss over the steps."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        for axis, name in zip(axes, ("flow", "auxiliary"), strict=True):
            for label, column in (("train", name), ("held out", f"held_out_{name}")):
                rows = [row for row in self.run.curve if not math.isnan(row[column])]
                axis.plot([row["step"] for row in rows], [row[column] for row in rows], label=label)
            axis.set(title=f"{name} loss", xlabel="step", yscale="log")
            axis.legend()
        with write_atomic(self.directory / "curve.png") as path:
            figure.savefig(path, format="png", dpi=110)
        pyplot.close(figure)

    # --- one batch -----------------------------------------------------------------------------------------------

    def batch(self, frames: np.ndarray, rng: np.random.Generator, augmented: bool) -> dict[str, Tensor]:
        """Draw everything random about a batch: pixels, state noise, targets, flow times and noise."""
        demos, recipe = self.demos, self.recipe
        views = demos.views[frames]
        images = dataset.augment(views, rng) if augmented else views.astype(np.float32) / 127.5 - 1.0
        count, horizon = len(frames), demos.chunks.shape[1]
        valid = np.ones((count, self.dims.num_views), bool)
        if augmented:
            fate = rng.random(count)
            images[fate < recipe.wrist_zeroed, 1] = -1.0  # a black frame
            valid[(fate >= recipe.wrist_zeroed) & (fate < recipe.wrist_zeroed + recipe.wrist_masked), 1] = False
        states = demos.states[frames]
        normal = self.normaliser.forward("state", states)
        if augmented:
            normal = normal + rng.normal(0.0, recipe.state_noise, normal.shape).astype(np.float32)
            states = self.normaliser.inverse("state", normal)
        target = self.normaliser.forward("actions", dataset.targets(demos.chunks[frames], states, DELTA_ACTIONS))
        x0 = np.zeros((count, horizon, self.dims.action_dim), np.float32)
        x0[..., :ACTION_DIMS] = target
        padded = np.zeros((count, self.dims.action_dim), np.float32)
        padded[:, :STATE_DIMS] = normal
        draws = recipe.draws
        width = max(len(p) for p in self.prompts.values())
        tokens, present = np.zeros((count, width), np.int64), np.zeros((count, width), bool)
        for row, task in enumerate(demos.task[frames]):
            ids = self.prompts[int(task)]
            tokens[row, : len(ids)], present[row, : len(ids)] = ids, True
        landmarks = (demos.objects[frames].reshape(count, -1) - self.landmark_mean) / self.landmark_scale
        arrays = {
            "images": images,
            "view_valid": valid,
            "tokens": tokens,
            "present": present,
            "state": padded,
            "x0": np.repeat(x0, draws, 0),
            "mask": np.repeat(demos.valid[frames], draws, 0),
            "noise": rng.standard_normal((count * draws, horizon, self.dims.action_dim), np.float32),
            "t": (rng.beta(1.5, 1.0, count * draws) * 0.999 + 0.001).astype(np.float32),
            "landmarks": landmarks.astype(np.float32),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}

    def losses(self, weights: dict[str, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (flow loss, auxiliary loss)."""
        w = unbind(weights)
        image_tokens = encode_images(w, self.dims, batch["images"])
        seen = batch["view_valid"].repeat_interleave(self.dims.vision.tokens, dim=1)
        emb = torch.cat((image_tokens, embed_prompt(w, batch["tokens"])), dim=1)
        cache = prefill(w, self.dims, emb, torch.cat((seen, batch["present"]), dim=1))
        t, noise, x0 = batch["t"][:, None, None], batch["noise"], batch["x0"]
        v = velocity(w, self.dims, cache, batch["state"], t * noise + (1 - t) * x0, batch["t"])
        error = (v - (noise - x0))[..., :ACTION_DIMS].square().mean(-1)
        weight = batch["mask"] * chunk_weights(error.shape[1])
        flow = (error * weight).sum() / weight.sum()
        head = self.run.head
        guess = (image_tokens @ head["squeeze"]).flatten(1) @ head["out"] + head["bias"]
        return flow, (guess - batch["landmarks"]).square().mean()

    # --- the loop ------------------------------------------------------------------------------------------------

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to 2 % of the peak."""
        recipe = self.recipe
        if step < recipe.warmup:
            return recipe.rate * (step + 1) / recipe.warmup
        share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
        return recipe.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))

    def train(self, until_s: float | None = None, log_every: int = 50) -> dict[str, Tensor]:
        """Run to the last step (or for `until_s` seconds of this call); return the averaged weights."""
        run, recipe = self.run, self.recipe
        started = last_save = time.monotonic()
        before, sums, summed = run.seconds, np.zeros(2), 0
        while run.step < recipe.steps:
            rng = np.random.default_rng([recipe.seed, run.step])  # a resumed run draws what it would have drawn
            frames = dataset.balanced(self.demos, self.train_frames, recipe.batch, rng)
            flow, auxiliary = self.losses(run.weights, self.batch(frames, rng, augmented=True))
            self._update(flow + recipe.auxiliary * auxiliary)
            sums += [flow.item(), auxiliary.item()]
            summed += 1
            run.step += 1
            run.seconds = before + time.monotonic() - started
            if run.step % log_every == 0 or run.step == recipe.steps:
                self._log(sums / summed)
                sums[:], summed = 0, 0
            if time.monotonic() - last_save > recipe.save_every_s:
                self.save()
                last_save = time.monotonic()
            if until_s is not None and time.monotonic() - started > until_s:
                break
        self.save()
        return run.average

    def _update(self, loss: Tensor) -> None:
        run = self.run
        for group in run.optimizer.param_groups:
            group["lr"] = self.rate(run.step)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*run.weights.values(), *run.head.values()], 1.0)
        run.optimizer.step()
        decay = min(self.recipe.ema, (run.step + 1) / (run.step + 10))
        with torch.no_grad():
            for name, mask in self.keep.items():
                run.weights[name] *= mask
            averaged, current = list(run.average.values()), list(run.weights.values())
            torch._foreach_lerp_(averaged, current, 1.0 - decay)

    def _log(self, means: np.ndarray) -> None:
        run = self.run
        held = self.evaluate() if run.step % 250 == 0 else (math.nan, math.nan)
        row = {
            "step": run.step,
            "seconds": round(run.seconds, 1),
            "flow": round(float(means[0]), 5),
            "auxiliary": round(float(means[1]), 5),
            "held_out_flow": round(held[0], 5),
            "held_out_auxiliary": round(held[1], 5),
        }
        run.curve.append(row)
        print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)

    @torch.no_grad()
    def evaluate(self, count: int = 192) -> tuple[float, float]:
        """Flow and auxiliary loss of the averaged weights on fixed held-out frames and fixed noise."""
        rng = np.random.default_rng([self.recipe.seed, 999_999])
        frames = rng.choice(self.held_frames, min(count, len(self.held_frames)), replace=False)
        parts = [self.losses(self.run.average, self.batch(f, rng, augmented=False)) for f in np.array_split(frames, 4)]
        return tuple(float(np.mean([p[i].item() for p in parts])) for i in (0, 1))  # type: ignore[return-value]


def chunk_weights(horizon: int) -> Tensor:
    """Loss weight per chunk step: the first 16, most of which are executed, double; the last 18 half."""
    weights = torch.ones(horizon)
    weights[:16] = 2.0
    weights[-18:] = 0.5
    return weights
