"""`python -m flashtrail.training`: the command line of `make nano`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flashtrail.base import commands

if TYPE_CHECKING:
    from flashtrail.training.pipeline import Workplace

STEPS = ("demonstrations", "train", "draft", "export", "evaluate", "compare-vision", "try-patches", "card", "all")


def main() -> None:
    """Run one step, or all."""
    parser = commands.Parser(prog="python -m flashtrail.training", description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--work", type=Path, default=Path("results/training"), help="working directory")
    parser.add_argument("--resources", type=Path, default=Path("resources"), help="where finished policies go")
    parser.add_argument("--variant", default="pi0_nano", help="pi0_nano or pi0_nano_dropout")
    parser.add_argument("--steps", type=int, help="train: optimizer steps in all, instead of the recipe's")
    parser.add_argument("--seconds", type=float, help="train, compare-vision: stop after this long")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="demonstrations, evaluate: simulators at a time")
    parser.add_argument("--worker", type=int, help="demonstrations: be one of --workers processes")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--flash", action="store_true", help="evaluate: with the draft route")
    parser.add_argument("--scenes", type=int, nargs="+", default=[0, 1], help="evaluate: scene seeds")
    parser.add_argument("--tasks", type=int, nargs="+", default=[0, 1, 2], help="evaluate: task ids")
    parser.add_argument(
        "--wrist-zero-every", type=int, default=0, help="evaluate: black wrist view at every n-th query"
    )
    parser.add_argument("--soft-reset", action="store_true", help="evaluate: only the first reset rebuilds the model")
    _run(parser.parse_args())


def _run(options: argparse.Namespace) -> None:
    from flashtrail.training import card, comparison, demonstrations, pipeline

    work, variant = pipeline.Workplace(options.work, options.resources), options.variant
    if options.step == "demonstrations" and options.worker is not None:
        demonstrations.share(work.demos, options.worker, options.workers)
    elif options.step == "demonstrations":
        pipeline.record_demonstrations(work, options.processes)
    elif options.step == "train":
        changes = {"threads": options.threads} | ({"steps": options.steps} if options.steps else {})
        pipeline.train(work, variant, options.seconds, **changes)
    elif options.step == "draft":
        pipeline.train_draft(work, variant)
    elif options.step == "export":
        pipeline.write_policy(work, variant)
    elif options.step == "evaluate":
        pipeline.evaluate_policy(
            work,
            variant,
            flash=options.flash,
            tasks=options.tasks,
            scenes=options.scenes,
            processes=options.processes,
            hard_reset=not options.soft_reset,
            view_every=options.wrist_zero_every,
        )
    elif options.step == "compare-vision":
        comparison.compare(work, options.seconds or 270.0, options.threads)
    elif options.step == "try-patches":
        comparison.trial(work, processes=options.processes)
    elif options.step == "card":
        card.write(work, variant)
    else:
        _run_all(work)


COMPARISON_SECONDS = 240.0  # conv stem against patch encoder, each


def _run_all(work: Workplace) -> None:
    """Everything, in order; finished parts are not done again."""
    from flashtrail.training import card, comparison, pipeline

    pipeline.record_demonstrations(work)
    for name in pipeline.RECIPES:
        pipeline.train(work, name)
        if not (work.variant(name) / "draft_tensors.pt").is_file():
            pipeline.train_draft(work, name)
        pipeline.write_policy(work, name)
        for flash in (False, True):
            if not (work.variant(name) / f"evaluation_{'flash' if flash else 'full'}.json").is_file():
                pipeline.evaluate_policy(work, name, flash=flash)
        card.write(work, name)
    if not (work.root / "comparison" / "comparison.json").is_file():
        comparison.compare(work, COMPARISON_SECONDS, 2)
    for name in pipeline.RECIPES:
        card.write(work, name)


if __name__ == "__main__":
    sys.exit(commands.run(main, "training"))
