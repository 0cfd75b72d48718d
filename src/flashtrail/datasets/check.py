"""``flashtrail check-dataset``: what each loader would refuse of a set of demonstrations, or what it holds.

An HDF5 file is held to robomimic's rules (training/lift), a LeRobot set to LeRobot 0.4.4's and to our training's, a
training set to our training's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flashtrail.datasets import summary, survey, take
from flashtrail.training.lift import check_dataset

_SHOWN = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "source", type=Path, metavar="PATH", help="an HDF5 file, a LeRobot set or a training set (a directory)"
    )
    take.add_features(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each refusal and return 1; or what the set holds, and 0."""
    source: Path = arguments.source
    if not source.is_dir():
        return check_dataset.report(source)
    found = survey.survey(source, take.features_of(arguments))
    for line in found.refused[:_SHOWN]:
        print(f"{source}: {line}", file=sys.stderr)
    if len(found.refused) > _SHOWN:
        print(f"{source}: {len(found.refused)} refusals", file=sys.stderr)
    for line in summary.text(found.summary) if found.summary else ():
        print(line)
    return int(bool(found.refused))
