"""`python -m flashtrail.training.fluid.ablations`: each cause of the frozen policy put back alone, and what it does.

The document names six, ranked by impact; a seventh is ours: its core is a low-pass filter. Every arm is the policy that
is shipped with one thing changed, trained on the same demonstrations with as many updates (fewer than that policy's).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flashtrail.base import commands
from flashtrail.tables import measurements
from flashtrail.tables.measurements import Figure
from flashtrail.training import loop
from flashtrail.training.fluid.__main__ import SUITE, trainer_of
from flashtrail.training.fluid.trainer import Recipe, figures

_METHOD = (
    "The shipped policy with one thing changed, {steps} updates each on the same demonstrations; whole episodes held "
    "out. Motion: the error of the robot's motion over its variance; 1 is the mean's. Sensitivity: how far the motion "
    "follows the pictures of another episode, 0 not at all. Error: of the motion, over that with blank pictures; 1 and "
    "more: pictures do not help. Intervals: bootstrap over episodes."
)
_SHOWN = {"motion": "motion", "sensitivity": "sensitivity", "error_over_blank": "error"}


@dataclass(frozen=True)
class Ablation:
    """What is changed, in words and as sizes or settings of a training."""

    title: str
    sizes: dict[str, Any] = field(default_factory=dict)
    raw: bool = False
    diffusion: float | None = None


ABLATIONS = {
    "none": Ablation("nothing changed"),
    "pool": Ablation("1, one pooled cell", {"pool": 1}),
    "absolute": Ablation("2, absolute targets", {"absolute": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5]}),
    "raw": Ablation("3, no normalisation", raw=True),
    "single": Ablation("4, one action, no chunk", {"action_horizon": 1}),
    "one_view": Ablation("5, no wrist view", {"views": 1}),
    "small_head": Ablation("6, a head of a quarter of the width", {"head_width": 32}),
    "evolved_only": Ablation("control of 7: the head sees the evolved field alone", {"skip": False}),
    "low_pass": Ablation("7, that with the document's D at the start", {"skip": False}, diffusion=0.744),
}


def main() -> int:
    """Train every ablation that is not trained yet; write OUT/ablations.json."""
    parser = commands.Parser(prog="python -m flashtrail.training.fluid.ablations", description=__doc__)
    parser.add_argument("--demos", type=Path, default=Path("results/training/demos"), help="pi0_nano's")
    loop.add_arguments(parser, Ablated)
    run(parser.parse_args())
    return 0


@dataclass(frozen=True)
class Ablated(Recipe):
    """The shipped policy's recipe with fewer updates."""

    steps: int = 300


def run(arguments: argparse.Namespace) -> None:
    """Train as the command line says."""
    from flashtrail.training.tokenizer import task_languages

    recipe = loop.recipe_of(Ablated, arguments)
    prompts = dict(enumerate(task_languages(SUITE)))
    made = []
    for name, one in ABLATIONS.items():
        print(f"{name}: {one.title}", flush=True)
        place = arguments.out / name
        own = replace(recipe, diffusion=one.diffusion)
        trainer, _ = trainer_of(place, arguments.demos, prompts, one.sizes, own, one.raw)
        if not trainer.complete(arguments.seconds):
            return
        trainer.take_best()
        made += named(name, one.title, figures(trainer.held_out()))
    method = _METHOD.format(steps=recipe.steps)
    measurements.write(
        arguments.out / "ablations.json", "Each cause of the frozen policy, put back alone", method, made
    )


def named(name: str, title: str, found: list[Figure]) -> list[Figure]:
    """Return an ablation's figures that are shown, under its name."""
    return [
        figure.model_copy(update={"name": f"{name}_{_SHOWN[figure.name]}", "title": f"{title}: {_SHOWN[figure.name]}"})
        for figure in found
        if figure.name in _SHOWN
    ]


if __name__ == "__main__":
    sys.exit(commands.run(main, "training"))
