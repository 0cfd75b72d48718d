"""The step `card`: a finished run as resources/NAME, artifact, curve and a model card written from its figures.

Success comes later, from the arms that the shipped policy has played: without --run the card gets that section alone.
"""

from __future__ import annotations

import argparse
import csv
import re
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
        "--run", type=Path, dest="of", metavar="DIR", help="a finished run (train --out); without it the policy stays"
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where the policy goes: resources/NAME")
    parser.add_argument(
        "--tables", type=Path, nargs="*", default=[], metavar="DIR", help="results/tables/ARM of its arms: its success"
    )


def run(arguments: argparse.Namespace) -> int:
    """Copy the run's artifact and curve, and write the card; without a run, its section on success."""
    of, target = arguments.of, arguments.to
    if of is None:
        return _renew(target, arguments.tables)
    try:
        model, _, manifest = artifact.read(of / "artifact")
    except LiftError as error:
        raise UserError(f"{error}; train the run to its end first") from None
    figures, history = json_load(of / "offline.json"), json_load(of / curves.HISTORY)
    if not isinstance(figures, dict) or figures.get("digest") != manifest["digest"]:
        raise UserError(f"{of}: offline.json is of another artifact: train the run to its end again")
    text = card(target.name, model.dims, parts(model), figures, history, _rows(of / curves.CSV))
    export.ship(of, target, with_success(text, success(arguments.tables, manifest["digest"])))
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 2**20:.1f} MiB, digest {manifest['digest'][:16]}")
    return 0


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _renew(target: Path, tables: Sequence[Path]) -> int:
    """Count success anew in the card of a policy that is there."""
    place = target / export.CARD
    if not tables or not place.is_file():
        raise UserError(f"{target}: give --run, or --tables for a policy that has a card ({export.CARD})")
    try:
        _, _, manifest = artifact.read(target)
    except LiftError as error:
        raise UserError(str(error)) from None
    text = with_success(place.read_text(encoding="utf-8"), success(tables, manifest["digest"]))
    place.write_text(text, encoding="utf-8")
    print(f"{place}: success of {len(tables)} arms")
    return 0


def with_success(text: str, section: str) -> str:
    """Return a card's text with this section on success (may be empty) in place of the one that it has."""
    without = re.sub(r"^## Success\n.*?(?=^## )", "", text, flags=re.MULTILINE | re.DOTALL)
    head, training, rest = without.partition("## Training\n")
    return f"{head}{section}\n{training}{rest}" if section else without


def success(arms: Sequence[Path], digest: str) -> str:
    """Return the section on success from merged tables of arms; UserError for those of another artifact."""
    lines = []
    for path in (arm / "episodes.parquet" for arm in arms):
        if (played := schemas.read_metadata(path).get("artifact_digest")) != digest:
            raise UserError(f"{path} is of another artifact ({str(played)[:16]}): run its arm again with this one")
        rows = parquet.read(path).to_pylist()
        for task in sorted({row["task_id"] for row in rows}):
            own = [row for row in rows if row["task_id"] == task]
            if unjudged := sum(row.get("verified_success") is None for row in own):
                raise UserError(f"{path}: {unjudged} of {len(own)} episodes have no verdict: run the arm again")
            k, n = sum(row["verified_success"] for row in own), len(own)
            between = wilson(k, n)
            lines.append(
                f"| {own[0]['arm']} | {task} | {k}/{n} [{between.low:.3f}, {between.high:.3f}] | {_naive(own)} |\n"
            )
    if not lines:
        return ""
    return (
        "## Success\nVerified success (docs/rollouts.md) through the ordinary server and shards, k/n with the 95 % "
        "Wilson interval; starts that no demonstration used. Naive: the report's own criterion.\n\n"
        f"| arm | task | verified | naive |\n|---|---|---|---|\n{''.join(lines)}"
    )


def _naive(rows: Sequence[dict[str, Any]]) -> str:
    """k/n by the naive metric; nothing where the suite has none."""
    told = [row["naive_success"] for row in rows if row.get("naive_success") is not None]
    return f"{sum(told)}/{len(told)}" if len(told) == len(rows) else ""


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
