"""The step `card`: a finished run as resources/NAME, artifact, curve and a model card written from its figures.

Success comes later, from the arms that the shipped policy has played: without --run the card gets that section alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import json_load
from flashtrail.policies.lift_vla import artifact
from flashtrail.policies.lift_vla.dims import LiftDims
from flashtrail.policies.lift_vla.errors import LiftError
from flashtrail.policies.lift_vla.model import LiftVLA, parts
from flashtrail.training import curves, shipped

_LIMITS = """\
## What it is not
- Not the network of the report that it rebuilds: that one's weights are not published. Its size is
  `flashtrail.policies.lift_vla.dims.document`; this one is smaller, has a wrist view and proprioception, and answers
  for the frame that it is given, where the report's answered for frames up to nine steps ago.
- Trained on one simulated robot and two goals, from a scripted expert that reads the true state. Its text encoder is a
  table of random rows for the words of those instructions: a word that it does not know has one row for all such words,
  and an instruction of which no word is known is refused.
- Offline figures are no success rate. Success is what rollouts count, beside the blind control.
"""
_BLIND = """\
**The blind control**: every picture is black, in training and when it is served. What it reaches is what the task gives
away without looking.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    shipped.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Copy the run's artifact and curve, and write the card; without a run, its section on success."""
    return shipped.write(arguments, digest, of_run)


def digest(directory: Path) -> str:
    """Return the digest of an artifact of this family."""
    return str(_read(directory)[2]["digest"])


def _read(directory: Path) -> tuple[LiftVLA, Any, dict[str, Any]]:
    try:
        return artifact.read(directory)
    except LiftError as error:
        raise UserError(str(error)) from None


def of_run(run: Path, name: str) -> str:
    """Return the card of a finished run."""
    try:
        model, _, manifest = _read(run / "artifact")
    except UserError as error:
        raise UserError(f"{error}; train the run to its end first") from None
    figures, history = json_load(run / "offline.json"), json_load(run / curves.HISTORY)
    if not isinstance(figures, dict) or figures.get("digest") != manifest["digest"]:
        raise UserError(f"{run}: offline.json is of another artifact: train the run to its end again")
    return card(name, model.dims, parts(model), figures, history, shipped.curve(run))


def card(
    name: str,
    dims: LiftDims,
    counted: dict[str, int],
    figures: dict[str, Any],
    history: dict[str, Any],
    rows: list[dict[str, str]],
) -> str:
    """Return the card's text, without a section on success."""
    recipe, frames, found = history["recipe"], figures["frames"], figures["figures"]
    trained = sum(counted[part] for part in ("vision", "fusion", "decoder"))
    table = "".join(f"| {part.replace('_', ', ')} | {count:,} |\n" for part, count in counted.items())
    lines = [
        f"# {name}\n",
        f"A {trained / 1e6:.2f} M-parameter vision-language-action policy of the family lift_vla for robosuite's Lift, "
        f"trained on a CPU from scripted demonstrations: {dims.vision.stages} stages of ResNet18, {dims.vision.width} "
        f"wide, for each of {dims.views} views ({dims.pixels} px, group norm), {dims.heads}-head attention from the "
        f"views to the instruction's words, a decoder of {dims.layers} layers over {dims.action_horizon} action "
        "queries.\n",
        *([_BLIND] if dims.blind else []),
        f"| part | parameters |\n|---|---|\n{table}",
        f"## Training\n{history['step']} steps of {recipe['batch']} frames and {recipe['scenes']} scenes, AdamW "
        f"{recipe['rate']:g} with a cosine, averaged weights ({recipe['ema']}), {history['seconds'] / 60:.0f} min on "
        f"{recipe['threads']} CPU core. Data: {frames['train']} frames and {frames['scenes']} scenes; "
        f"{frames['valid']} frames of other demonstrations held out. Shipped: step {figures['step']}. Last logged "
        f"loss: motion {float(rows[-1]['motion']):.4f}, gripper {float(rows[-1]['gripper']):.4f}. Curve: curve.csv.\n",
        "## Offline, on the held-out demonstrations\n"
        f"- the cube's place, read by the auxiliary head (not shipped): median error {_number(found['cube_mm'])} mm, "
        f"horizontally;\n- the gripper's word within two steps of the expert's closing: right on "
        f"{_number(found['closing_right'], 100)} %;\n- it first says close {_number(found['closing_late'])} steps "
        "after the expert (median).\n",
        _LIMITS,
        f"Seed {recipe['seed']}, one training run. Remake: `make lift-train` (docs/lift.md).\n",
    ]
    return "\n".join(lines)


def _number(value: float | None, scale: float = 1.0) -> str:
    return "not measured" if value is None else f"{value * scale:.3g}"
