"""`python -m flashtrail.training.lift`: the steps from nothing to a trained policy for Lift."""

from __future__ import annotations

import importlib
import sys

from flashtrail.base import commands

STEPS = {"demonstrations": "flashtrail.training.lift.demonstrations"}


def main() -> int:
    """Run one step."""
    parser = commands.Parser(prog="python -m flashtrail.training.lift", description=__doc__)
    steps = parser.add_subparsers(metavar="STEP", required=True)
    for name, target in STEPS.items():
        module = importlib.import_module(target)
        sub = steps.add_parser(name)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    arguments = parser.parse_args()
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(commands.run(main, "training"))
