"""`python -m flashtrail.training.fluid.card`: a finished run as resources/NAME, with its card and offline figures."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.base.provenance import json_load
from flashtrail.policies.fluid import artifact
from flashtrail.policies.fluid.dims import FluidDims
from flashtrail.policies.fluid.model import parts
from flashtrail.policies.parts.errors import FamilyError
from flashtrail.tables import measurements
from flashtrail.training import curves, shipped
from flashtrail.training.fluid.trainer import OFFLINE

_CORES = {
    "ours": "a reaction-diffusion field, {layers} layers of up to {steps} steps",
    "document": "the source document's reaction-diffusion field, {layers} layers of {steps} steps",
    "none": "the same field without diffusion, {layers} layers of up to {steps} steps (a control)",
    "cnn": "{layers} convolutional blocks in the field's place (a control)",
    "vit": "{layers} blocks of attention in the field's place (a control)",
}
_LIMITS = """\
## What it is not
- Not the network of the document that it rebuilds: that one's weights are not published.
- Trained on three tasks of one simulator with one robot, from a scripted expert that reads the true state; its prompt
  is a mean of frozen random rows for the words of three instructions.
- Offline figures are no success rate. Success is what rollouts count, beside the controls. One training run.
"""


def main() -> int:
    """Ship a run, or renew the success of a policy that is there."""
    parser = commands.Parser(prog="python -m flashtrail.training.fluid.card", description=__doc__)
    shipped.add_arguments(parser)
    parser.add_argument("--measured", type=Path, metavar="DIR", help="where its offline figures go: resources/measured")
    arguments = parser.parse_args()
    if arguments.measured is not None and arguments.of is None:
        raise UserError("--measured: offline figures are a run's: give --run")
    done = shipped.write(arguments, digest, card)
    if arguments.of is not None and arguments.measured is not None:
        arguments.measured.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.of / OFFLINE, arguments.measured / f"offline_{arguments.to.name}.json")
    return done


def digest(directory: Path) -> str:
    """Return the digest of an artifact of this family; UserError where there is none."""
    try:
        return str(artifact.read(directory)[3]["digest"])
    except FamilyError as error:
        raise UserError(str(error)) from None


def card(run: Path, name: str) -> str:
    """Return the card of a finished run, without a section on success."""
    try:
        model, _, _, manifest = artifact.read(run / "artifact")
    except FamilyError as error:
        raise UserError(f"{error}; train the run to its end first") from None
    offline, history = measurements.read(run / OFFLINE), json_load(run / curves.HISTORY)
    if manifest["digest"][:16] not in offline.method:
        raise UserError(f"{run}: {OFFLINE} is of another artifact: train the run to its end again")
    counted, recipe = parts(model), history["recipe"]
    trained = sum(count for part, count in counted.items() if part != "text_frozen")
    table = "".join(f"| {part.replace('_', ', ')} | {count:,} |\n" for part, count in counted.items())
    measured = "".join(
        f"| {f.title} | {measurements.written(f.value)} | {f.interval()} | {f.n} {f.of} |\n" for f in offline.figures
    )
    last = shipped.curve(run)[-1]
    lines = [
        f"# {name}\n",
        f"A {trained / 1e6:.2f} M-parameter policy of the family fluid for LIBERO's libero_goal tasks 0-2, trained on "
        f"a CPU from pi0_nano's scripted demonstrations: {_words(model.dims)}.\n",
        f"| part | parameters |\n|---|---|\n{table}",
        f"## Training\n{history['step']} steps of {recipe['batch']} frames, AdamW {recipe['rate']:g} with a cosine, "
        f"averaged weights ({recipe['ema']}), {history['seconds'] / 60:.0f} min on {recipe['threads']} CPU core beside "
        f"other work. Shipped: step {history['best_step']}. Last logged loss: chunk {float(last['chunk']):.4f}, "
        f"landmarks {float(last['auxiliary']):.4f}. Curve: curve.csv.\n",
        f"## Offline\n{offline.method}\n\n| figure | value | 95 % interval | over |\n|---|---|---|---|\n{measured}",
        _LIMITS,
        f"Seed {recipe['seed']}. Remake: `make fluid-train` (docs/fluid.md).\n",
    ]
    return "\n".join(lines)


def _words(dims: FluidDims) -> str:
    core = _CORES[dims.core].format(layers=dims.layers, steps=dims.steps)
    views = "both views" if dims.views == 2 else "the agent view"
    pool = "one mean over all places" if dims.pool == 1 else f"{dims.pool} x {dims.pool} means"
    answer = f"a chunk of {dims.action_horizon}" if dims.action_horizon > 1 else "one action"
    kind = ", as positions" if dims.absolute else ""
    return f"{views} in patches of {dims.patch} px, {dims.width} wide; {core}; {pool} to {answer}{kind}"


if __name__ == "__main__":
    sys.exit(commands.run(main, "training"))
