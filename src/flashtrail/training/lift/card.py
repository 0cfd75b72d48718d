"""The step `card`: a finished run as resources/NAME, artifact, curve and a model card written from its figures."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashtrail.base import parquet
from flashtrail.base.errors import UserError
from flashtrail.base.provenance import json_load
from flashtrail.policies.lift_vla import artifact
from flashtrail.policies.lift_vla.dims import LiftDims
from flashtrail.policies.lift_vla.errors import LiftError
from flashtrail.policies.lift_vla.model import parts
from flashtrail.statistics.wilson import wilson
from flashtrail.tables import schemas
from flashtrail.training import curves
from flashtrail.training.lift import export

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
    parser.add_argument(
        "--run", type=Path, required=True, dest="of", metavar="DIR", help="a finished run (train --out)"
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where the policy goes: resources/NAME")
    parser.add_argument(
        "--tables", type=Path, nargs="*", default=[], metavar="DIR", help="results/tables/ARM of its arms: its success"
    )


def run(arguments: argparse.Namespace) -> int:
    """Copy the run's artifact and curve, and write the card."""
    of, target = arguments.of, arguments.to
    try:
        model, _, manifest = artifact.read(of / "artifact")
    except LiftError as error:
        raise UserError(f"{error}; train the run to its end first") from None
    figures, history = json_load(of / "offline.json"), json_load(of / curves.HISTORY)
    if figures["digest"] != manifest["digest"]:
        raise UserError(f"{of}: offline.json is of another artifact: train the run to its end again")
    played = success([path / "episodes.parquet" for path in arguments.tables], manifest["digest"])
    text = card(target.name, model.dims, parts(model), figures, history, _rows(of / curves.CSV), played)
    export.ship(of, target, text)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 2**20:.1f} MiB, digest {manifest['digest'][:16]}")
    return 0


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def success(tables: Sequence[Path], digest: str) -> str:
    """Return the section on success from merged tables of episodes; UserError for those of another artifact."""
    lines = []
    for path in tables:
        if (played := schemas.read_metadata(path).get("artifact_digest")) != digest:
            raise UserError(f"{path} is of another artifact ({str(played)[:16]}): run its arm again with this one")
        rows = parquet.read(path).to_pylist()
        for task in sorted({row["task_id"] for row in rows}):
            own = [row for row in rows if row["task_id"] == task]
            k, n = sum(bool(row["verified_success"]) for row in own), len(own)
            between = wilson(k, n)
            lines.append(
                f"| {own[0]['arm']} | {task} | {k}/{n} [{between.low:.3f}, {between.high:.3f}] "
                f"| {sum(bool(row['naive_success']) for row in own)}/{n} |\n"
            )
    if not lines:
        return ""
    return (
        "## Success\nVerified success (docs/rollouts.md) through the ordinary server and shards, k/n with the 95 % "
        "Wilson interval; starts that no demonstration used. Naive: the report's own criterion.\n\n"
        f"| arm | task | verified | naive |\n|---|---|---|---|\n{''.join(lines)}"
    )


def card(
    name: str,
    dims: LiftDims,
    counted: dict[str, int],
    figures: dict[str, Any],
    history: dict[str, Any],
    rows: list[dict[str, str]],
    played: str = "",
) -> str:
    """Return the card's text; `played`: its section on success, empty where nothing was rolled out."""
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
        *([played] if played else []),
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
