"""`python -m flashtrail.training.fluid`: from pi0_nano's demonstrations, or an imported set, to a run's artifact."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.base.provenance import json_dump, json_load
from flashtrail.policies.fluid.artifact import FAMILY
from flashtrail.policies.fluid.dims import CORES, FluidDims, Prompt
from flashtrail.policies.fluid.field import Layer
from flashtrail.policies.fluid.model import FluidVLA, parts
from flashtrail.policies.fluid.positions import to_positions
from flashtrail.policies.parts import words
from flashtrail.policies.parts.errors import FamilyError
from flashtrail.policies.parts.statistics import FILE, Stats
from flashtrail.tables import measurements
from flashtrail.training import artifact, dataset, loop
from flashtrail.training.fluid.trainer import OFFLINE, Recipe, Trainer, check_fit, figures

SUITE = "libero_goal"
_MOST_DIFFUSION = 100  # the document's 0.744 smooths a field in a few steps


def main() -> int:
    """Train, check against held-out episodes, export to OUT/artifact; print the figures."""
    parser = commands.Parser(prog="python -m flashtrail.training.fluid", description=__doc__)
    add = parser.add_argument
    add("--demos", type=Path, default=Path("results/training/demos"), help="pi0_nano's, or what import-dataset wrote")
    add("--core", choices=CORES, default="ours", help="ours, document, or a control: none, cnn, vit")
    add("--dims", type=_sizes, default={}, metavar="JSON", help='other sizes, such as {"width": 64, "steps": 4}')
    add("--blind", action="store_true", help="every picture one grey, in training and when served: the control")
    add("--raw", action="store_true", help="no normalisation, no noise on the state (the document's first version)")
    add("--diffusion", type=loop.above_zero, help="D at the start (ours 0.018, the document's 0.744)")
    loop.add_arguments(parser, Recipe)
    run(parser.parse_args())
    return 0


def _sizes(text: str) -> dict[str, object]:
    try:
        sizes = json.loads(text)
    except ValueError:
        sizes = None
    if not isinstance(sizes, dict):
        raise argparse.ArgumentTypeError('expected a mapping, e.g. {"width": 64}')
    return sizes


def run(arguments: argparse.Namespace) -> None:
    """Train as the command line says."""
    from flashtrail.training.tokenizer import task_languages

    recipe = replace(loop.recipe_of(Recipe, arguments), diffusion=arguments.diffusion)
    if arguments.raw:
        recipe = replace(recipe, state_noise=0.0)
    if named := sorted({"core", "blind"} & set(arguments.dims)):
        raise UserError(f"--dims: {named[0]} has a flag of its own: give --{named[0]}")
    about = dataset.described(arguments.demos)
    sizes = {"core": arguments.core, "blind": arguments.blind} | (about.sizes if about else {}) | arguments.dims
    prompts = about.tasks if about else dict(enumerate(task_languages(SUITE)))
    trainer, known = trainer_of(arguments.out, arguments.demos, prompts, sizes, recipe, arguments.raw)
    counted = ", ".join(f"{name} {count:,}" for name, count in parts(trainer.learner.policy).items())
    print(f"{len(trainer.train_frames)} frames, {len(trainer.held_frames)} held out; {counted}", flush=True)
    if trainer.complete(arguments.seconds):
        finish(trainer, known)


def trainer_of(
    directory: Path,
    demos: Path,
    prompts: Mapping[int, str],
    sizes: Mapping[str, object],
    recipe: Recipe,
    raw: bool = False,
) -> tuple[Trainer, list[str]]:
    """The (resumable) trainer of a run, and its vocabulary; the words are those of the demonstrations' tasks.

    Its statistics are kept, so that a resumed run agrees; `raw`: means 0, deviations 1.
    UserError where sizes or demonstrations do not fit.
    """
    try:
        dims = FluidDims.read({"prompt": {"rows": 1}, **sizes}, "--dims")
        material = dataset.load(demos, dims.action_horizon)
        if strange := sorted(set(material.task.tolist()) - set(prompts)):
            raise UserError(f"{demos}: nobody says what task {strange[0]} is: record or import the set again")
        check_fit(material, dims)
        said = {int(task): prompts[int(task)] for task in set(material.task.tolist())}
        known = words.vocabulary(said.values())
        if dims.prompt is not None:
            dims = dims.model_copy(update={"prompt": Prompt(rows=len(known) + 1, width=dims.prompt.width)})
        stats = _kept_stats(directory, norm_stats(material, dims, raw), dims, raw)
    except FamilyError as error:  # a family cannot import UserError
        raise UserError(str(error)) from None
    vocabulary = words.Vocabulary(known)
    with torch.random.fork_rng([]):
        torch.manual_seed(recipe.seed)
        policy = FluidVLA(dims)
    if recipe.diffusion is not None:
        _spread(policy, recipe.diffusion)
    ids = {task: vocabulary.ids(text)[0] for task, text in said.items()}
    return Trainer(directory, material, stats, policy, ids, recipe), known


def _kept_stats(directory: Path, own: Mapping[str, Mapping[str, list[float]]], dims: FluidDims, raw: bool) -> Stats:
    """Return a run's statistics, made anew until its first save; UserError where it began with the other kind."""
    path, run_file = directory / FILE, directory / loop.RUN
    if not (path.is_file() and run_file.is_file()):  # what an attempt that failed has left is nobody's
        json_dump({"norm_stats": own}, path)
    stats = Stats.read(path, dims.state_dim, dims.action_dim)
    if raw != bool((stats.action_std == 1).all() and not stats.action_mean.any()):
        began = "without" if raw else "with"
        raise UserError(f"{run_file} was trained {began} --raw: move it away, or train as before")
    return stats


def _spread(policy: FluidVLA, diffusion: float) -> None:
    """Let every D begin at this value."""
    if not policy.dims.stencils[0]:
        raise UserError(f"--diffusion: the core {policy.dims.core} has none; leave it out")
    if diffusion > _MOST_DIFFUSION:
        raise UserError(f"--diffusion: {diffusion:g} is above {_MOST_DIFFUSION}")
    for layer in policy.layers:
        assert isinstance(layer, Layer)
        layer.spread.data.fill_(math.log(math.expm1(diffusion)))


def norm_stats(demos: dataset.Demonstrations, dims: FluidDims, raw: bool) -> dict[str, dict[str, list[float]]]:
    """Statistics of states and of what is answered; `raw`: those that change nothing."""
    targets = to_positions(demos.chunks, demos.states, dims.absolute)
    stats = dataset.norm_stats(replace(demos, chunks=targets), delta_actions=False)
    if raw:
        return {key: {"mean": [0.0] * len(own["mean"]), "std": [1.0] * len(own["std"])} for key, own in stats.items()}
    return stats


def finish(trainer: Trainer, known: list[str]) -> None:
    """Write OUT/artifact and OUT/offline.json (a measurement) of the best step's weights, and print the figures."""
    trainer.take_best()
    found, dims, state = figures(trainer.held_out()), trainer.dims, trainer.state
    files = {} if dims.prompt is None else {words.FILE: json.dumps(known).encode()}
    stats, tensors = json_load(trainer.directory / FILE), trainer.average.policy.state_dict()
    manifest = artifact.write(trainer.directory / "artifact", FAMILY, dims, tensors, stats, files)
    method = (
        f"Held-out demonstrations of the scripted expert, whole episodes; weights of step {state.best_step} of "
        f"{state.step} (averaged, the least held-out loss), artifact {manifest['digest'][:16]}. Intervals: bootstrap "
        "over episodes."
    )
    measurements.write(trainer.directory / OFFLINE, f"{trainer.directory.name} on held-out episodes", method, found)
    for figure in found:
        print(f"{figure.title}: {figure.said()}", flush=True)


if __name__ == "__main__":
    sys.exit(commands.run(main, "training"))
