"""`python -m flashtrail.training.fluid`: from pi0_nano's demonstrations, or an imported set, to a run's artifact."""

from __future__ import annotations

import argparse
import json
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
from flashtrail.policies.fluid.model import FluidVLA, parts
from flashtrail.policies.fluid.positions import to_positions
from flashtrail.policies.parts import words
from flashtrail.policies.parts.errors import FamilyError
from flashtrail.policies.parts.statistics import FILE, Stats
from flashtrail.training import artifact, dataset, loop
from flashtrail.training.fluid.trainer import Recipe, Trainer, bar, summary

SUITE = "libero_goal"


def main() -> int:
    """Train, check against held-out episodes, export to OUT/artifact; print the figures."""
    parser = commands.Parser(prog="python -m flashtrail.training.fluid", description=__doc__)
    add = parser.add_argument
    add("--demos", type=Path, default=Path("results/training/demos"), help="pi0_nano's, or what import-dataset wrote")
    add("--core", choices=CORES, default="ours", help="ours, document, or a control: none, cnn, vit")
    add("--dims", type=_sizes, default={}, metavar="JSON", help='other sizes, such as {"width": 64, "steps": 4}')
    add("--blind", action="store_true", help="every picture one grey, in training and when served: the control")
    add("--raw", action="store_true", help="no normalisation of state and targets (the document's first version)")
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

    recipe = loop.recipe_of(Recipe, arguments)
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

    Its statistics are made once and kept, so that a resumed run agrees; `raw`: means 0, deviations 1.
    UserError where sizes or demonstrations do not fit.
    """
    try:
        dims = FluidDims.read({"prompt": {"rows": 1}, **sizes}, "--dims")
        material = dataset.load(demos, dims.action_horizon)
        if strange := sorted(set(material.task.tolist()) - set(prompts)):
            raise UserError(f"{demos}: nobody says what task {strange[0]} is: record or import the set again")
        said = {int(task): prompts[int(task)] for task in set(material.task.tolist())}
        known = words.vocabulary(said.values())
        if dims.prompt is not None:
            dims = dims.model_copy(update={"prompt": Prompt(rows=len(known) + 1, width=dims.prompt.width)})
        path = directory / FILE
        if not path.is_file():
            json_dump({"norm_stats": norm_stats(material, dims, raw)}, path)
        stats = Stats.read(path, dims.state_dim, dims.action_dim)
    except FamilyError as error:  # a family cannot import UserError
        raise UserError(str(error)) from None
    vocabulary = words.Vocabulary(known)
    with torch.random.fork_rng([]):
        torch.manual_seed(recipe.seed)
        policy = FluidVLA(dims)
    ids = {task: vocabulary.ids(text)[0] for task, text in said.items()}
    return Trainer(directory, material, stats, policy, ids, recipe), known


def norm_stats(demos: dataset.Demonstrations, dims: FluidDims, raw: bool) -> dict[str, dict[str, list[float]]]:
    """Statistics of states and of what is answered; `raw`: those that change nothing."""
    targets = to_positions(demos.chunks, demos.states, dims.absolute)
    stats = dataset.norm_stats(replace(demos, chunks=targets), delta_actions=False)
    if raw:
        return {key: {"mean": [0.0] * len(own["mean"]), "std": [1.0] * len(own["std"])} for key, own in stats.items()}
    return stats


def finish(trainer: Trainer, known: list[str]) -> None:
    """Write OUT/artifact and OUT/offline.json of the best step's averaged weights, and print the figures."""
    trainer.take_best()
    sums = trainer.held_out()
    figures, met, dims = summary(sums), bar(sums), trainer.dims
    files = {} if dims.prompt is None else {words.FILE: json.dumps(known).encode()}
    stats, tensors = json_load(trainer.directory / FILE), trainer.average.policy.state_dict()
    manifest = artifact.write(trainer.directory / "artifact", FAMILY, dims, tensors, stats, files)
    about = {"step": trainer.state.best_step, "seconds": trainer.state.seconds, "digest": manifest["digest"]}
    json_dump({**about, "figures": figures, "pictures": met}, trainer.directory / "offline.json")
    print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
    ends = (
        "too few episodes for an interval" if met["interval"] is None else "[{:.3f}, {:.3f}]".format(*met["interval"])
    )
    print(f"motion error over that with blank pictures {met['error_over_blank']:.3f} {ends}", flush=True)


if __name__ == "__main__":
    sys.exit(commands.run(main, "training"))
