"""A training run in a directory, resumable after kill -9: what families share; what is learned is a subclass's.

AdamW, warm-up and cosine, clipped gradients, averaged weights. DIRECTORY/run.pt (resumable), best.safetensors,
checkpoints/, curve.csv, history.json, tensorboard/.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import write_atomic
from flashtrail.training import curves

RUN, BEST, KEPT = "run.pt", "best.safetensors", "checkpoints"
FROZEN = "policy.text."  # a text encoder that is never trained is in no checkpoint of averaged weights
FREE = {"steps", "threads", "log_every", "check_every", "keep_every", "save_every_s"}  # may change when a run goes on


@dataclass(frozen=True)
class Recipe:
    """The numbers that every run has; equal recipes and data give equal weights on one machine."""

    steps: int = 4000
    batch: int = 32
    rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.995
    seed: int = 0
    threads: int = 1
    log_every: int = 50
    check_every: int = 250
    keep_every: int = 1000
    save_every_s: float = 60.0


_FLAGS = ("steps", "batch", "rate", "seed", "threads")
AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def add_arguments(parser: argparse.ArgumentParser, recipe: type[Recipe]) -> None:
    """Add the flags that every family's training has."""
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the run's directory; a run that is there goes on")
    add("--seconds", type=above_zero, help="stop after this long; the same command goes on")
    add("--steps", type=_counted(1), default=recipe.steps, help=f"optimizer steps in all (default: {recipe.steps})")
    add("--batch", type=_counted(1), default=recipe.batch, help=f"frames a step (default: {recipe.batch})")
    add("--rate", type=above_zero, default=recipe.rate, help=f"peak learning rate (default: {recipe.rate})")
    add("--seed", type=_counted(0), default=recipe.seed)
    add("--threads", type=_counted(1), default=recipe.threads)


def recipe_of(kind: type[AnyRecipe], arguments: argparse.Namespace) -> AnyRecipe:
    """Return the recipe that these flags ask for."""
    return kind(**{name: getattr(arguments, name) for name in _FLAGS})


def _counted(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return read


def above_zero(text: str) -> float:
    """Read a flag's number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


@dataclass
class State:
    """How far a run is."""

    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)


class Loop(ABC):
    """One run. `learner`: what is trained, with the policy as `policy`; `average`: its like, for the averaged weights.

    `data`: the digest of what is learned from: a run goes on with no other.
    `parts`: the losses whose means the curve shows. `columns`: what `check` returns, ``held_out_loss`` among it.
    """

    parts: tuple[str, ...]
    columns: tuple[str, ...]

    def __init__(
        self, directory: Path, recipe: Recipe, dims: BaseModel, data: str, learner: nn.Module, average: nn.Module
    ) -> None:
        torch.set_num_threads(recipe.threads)
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self._recipe, self._dims, self._data = directory, recipe, dims.model_dump(), data
        self._learner, self._average = learner, average
        average.load_state_dict(learner.state_dict())
        self._trained: list[Tensor] = [p for p in learner.parameters() if p.requires_grad]
        names = {name for name, p in learner.named_parameters() if p.requires_grad}
        self._averaged: list[Tensor] = [p for name, p in average.named_parameters() if name in names]
        average.requires_grad_(False).eval()
        groups = [
            {"params": [p for p in self._trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self._trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
        self.state = State()
        self._resume()

    @abstractmethod
    def step_losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw a batch; return the losses of `parts`, and as ``loss`` what is descended."""

    @abstractmethod
    def check(self) -> dict[str, float]:
        """Return the averaged weights' figures on every held-out frame."""

    # --- saving and going on ---

    def _resume(self) -> None:
        path = self.directory / RUN
        if not path.is_file():
            return
        try:
            saved = torch.load(path, weights_only=True)
            changed = [k for k, v in asdict(self._recipe).items() if saved["recipe"].get(k) != v and k not in FREE]
            changed += ["dims"] if saved["dims"] != self._dims else []
            # Runs begun before the digest was kept go on as they did.
            changed += ["set of demonstrations"] if saved.get("data", self._data) != self._data else []
            if not changed:
                self._learner.load_state_dict(saved["learner"])
                self._average.load_state_dict(saved["average"])
                self.optimizer.load_state_dict(saved["optimizer"])
                self.state = State(**saved["state"])
        except Exception as error:  # a damaged file raises what zip, the restricted unpickler or torch find in it
            raise UserError(
                f"{path} is damaged, or no run of this program ({type(error).__name__}): move it away to begin again"
            ) from error
        if changed:
            raise UserError(f"{path} was trained with another {', '.join(changed)}: move it away, or train as before")

    def save(self) -> None:
        """Write run.pt and the curves, each whole."""
        content = {
            "learner": self._learner.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": asdict(self.state),
            "recipe": asdict(self._recipe),
            "dims": self._dims,
            "data": self._data,
        }
        with write_atomic(self.directory / RUN) as path:
            torch.save(content, path)
        about = {name: getattr(self.state, name) for name in ("step", "seconds", "best_step")}
        curves.write(self.directory, self.state.rows, about | {"recipe": asdict(self._recipe)})

    def _keep(self, name: str) -> None:
        """Write the averaged weights, auxiliary head included, without the frozen text encoder."""
        kept = {k: v for k, v in self._average.state_dict().items() if not k.startswith(FROZEN)}
        with write_atomic(self.directory / name) as path:
            save_file(kept, path)

    def take_best(self) -> None:
        """Give the averaged policy the weights of the best step; UserError where they are gone or damaged."""
        path = self.directory / BEST
        try:
            self._average.load_state_dict(load_file(path), strict=False)  # without the frozen text, which never changed
        except Exception as error:  # safetensors and torch raise what they find
            raise UserError(
                f"{path} is gone or damaged ({type(error).__name__}): move {RUN} away and train again"
            ) from error

    # --- the loop ---

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to 2 % of the peak."""
        recipe = self._recipe
        if step < recipe.warmup:
            return recipe.rate * (step + 1) / recipe.warmup
        share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
        return recipe.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))

    def complete(self, until_s: float | None) -> bool:
        """Train; return whether the last step is done, and print how to go on where it is not."""
        self.train(until_s)
        done = self.state.step >= self._recipe.steps
        if not done:
            print(f"step {self.state.step} of {self._recipe.steps}: the same command goes on", flush=True)
        return done

    def train(self, until_s: float | None = None) -> None:
        """Run to the last step, or for `until_s` seconds of this call."""
        state, recipe = self.state, self._recipe
        started = saved = time.monotonic()
        before, sums, summed = state.seconds, dict.fromkeys(self.parts, 0.0), 0
        events = curves.Events(self.directory, state.step)
        while state.step < recipe.steps:
            rng = np.random.default_rng([recipe.seed, state.step])  # a resumed run draws what it would have drawn
            losses = self.step_losses(rng)
            self._update(losses["loss"])
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
        torch.nn.utils.clip_grad_norm_(self._trained, self._recipe.clip)
        self.optimizer.step()
        decay = min(self._recipe.ema, (self.state.step + 1) / (self.state.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._trained, 1.0 - decay)

    def _log(self, means: Mapping[str, float], events: curves.Events) -> None:
        """Note a row of the curve; at every `check_every` steps with the held-out figures, and keep the best."""
        state, checked = self.state, dict.fromkeys(self.columns, math.nan)
        if state.step % self._recipe.check_every == 0 or state.step == self._recipe.steps:
            checked = self.check()
            if checked["held_out_loss"] < state.best:
                state.best, state.best_step = checked["held_out_loss"], state.step
                self._keep(BEST)
        row: dict[str, Any] = {"step": state.step, "seconds": state.seconds, "rate": self.rate(state.step - 1)}
        row |= {name: round(value, 5) for name, value in {**means, **checked}.items()}
        state.rows.append(row)
        events.add(row)
        print("  ".join(f"{name} {value:g}" for name, value in row.items() if not math.isnan(value)), flush=True)
