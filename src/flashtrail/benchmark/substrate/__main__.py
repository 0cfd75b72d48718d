"""`python -m flashtrail.benchmark.substrate`: the reaction-diffusion core on digits, volumes and a 2D pick and place.

    python -m flashtrail.benchmark.substrate digits --out results/measured/digits.json       # 5 minutes of one core
    python -m flashtrail.benchmark.substrate moving --out results/measured/moving.json       # 8
    python -m flashtrail.benchmark.substrate volumes --out results/measured/volumes.json     # 8
    python -m flashtrail.benchmark.substrate pick2d --out results/measured/pick2d.json       # 10

Everything is drawn from the seed; one machine gives the same figures again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.benchmark.substrate import digits, moving, pick2d, volumes
from flashtrail.tables import measurements

TASKS: dict[str, Any] = {"digits": digits, "moving": moving, "volumes": volumes, "pick2d": pick2d}


def main() -> None:
    """Read the command line and measure."""
    parser = commands.Parser(prog="python -m flashtrail.benchmark.substrate", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--out", type=Path, required=True, help="the measurement, a JSON file")
    parser.add_argument("--quick", action="store_true", help="seconds: that it runs, not what it measures")
    words = parser.parse_args()
    if words.out.is_dir():
        raise UserError(f"--out {words.out} is a directory: name a file in it")
    measure(words.task, words.out, words.quick)


def measure(task: str, out: Path, quick: bool = False, seed: int = 0) -> None:
    """Train, ask, write the measurement and print its figures."""
    torch.set_num_threads(1)  # what is trained is small, and one thread gives the same bits again
    module = TASKS[task]
    method, figures = module.measure(**(module.QUICK if quick else module.FULL), seed=seed)
    measurements.write(out, module.TITLE, method, figures)
    for figure in figures:
        interval = "" if figure.low is None else f" [{figure.low:.4g}, {figure.high:.4g}]"
        print(f"{figure.name} {figure.value:.4g}{interval}  ({figure.n} {figure.of})")


if __name__ == "__main__":
    sys.exit(commands.run(main, "substrate"))
