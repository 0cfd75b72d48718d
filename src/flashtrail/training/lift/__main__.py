"""`python -m flashtrail.training.lift`: the steps from nothing to a trained policy for Lift."""

from __future__ import annotations

import importlib
import sys

from flashtrail.base import commands

STEPS = {
    "demonstrations": "flashtrail.training.lift.demonstrations",
    "train": "flashtrail.training.lift.train",
    "refit": "flashtrail.training.lift.refit",
    "robots": "flashtrail.training.lift.robots",
    "doubt": "flashtrail.training.lift.doubt",
    "doubt-figures": "flashtrail.training.lift.doubt_figures",
    "card": "flashtrail.training.lift.card",
}


def main() -> int:
    """Run one step; only its own module is imported: recording needs no torch, training no simulator."""
    parser = commands.Parser(prog="python -m flashtrail.training.lift", description=__doc__)
    steps = parser.add_subparsers(metavar="STEP", required=True)
    named = next((word for word in sys.argv[1:] if word in STEPS), None)
    for name, target in STEPS.items():
        sub = steps.add_parser(name)
        if name == named:
            module = importlib.import_module(target)
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    arguments = parser.parse_args()
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(commands.run(main, "training"))
