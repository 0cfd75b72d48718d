"""`python -m flashtrail.benchmark served`: how long a round of a policy takes, on the observations of a training set.

For policies that no simulator acts for, such as one trained on an imported set: the same rounds as a profile's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from flashtrail.base import commands, provenance
from flashtrail.base.errors import UserError
from flashtrail.benchmark import profiling
from flashtrail.rollouts.recordings import Recorded
from flashtrail.simulators.observation import POLICY_PIXELS, Observation
from flashtrail.statistics import intervals
from flashtrail.training import dataset


def main(words: Sequence[str]) -> int:
    """Time an artifact; print p50, p95 and p99 with their intervals over rounds, and write them as JSON."""
    found = commands.Parser(prog="python -m flashtrail.benchmark served", description=(__doc__ or "").split("\n")[0])
    add = found.add_argument
    add("--artifact", type=Path, required=True, metavar="DIR", help="such as a run's artifact/")
    add("--demos", type=Path, required=True, metavar="DIR", help="a training set of the policy's robot")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--rounds", type=int, default=500, help="timed rounds of each task (default: 500, the least for a p99)")
    add("--warmup", type=int, default=20, help="rounds of each task before them (default: 20)")
    add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = found.parse_args(words)
    if min(arguments.rounds, arguments.threads) < 1 or arguments.warmup < 0:
        raise UserError("--rounds and --threads are at least 1, --warmup at least 0")
    torch.set_num_threads(arguments.threads)
    engine = {"device": arguments.device, "dtype": "float32", "flash": {}}
    policy = profiling.load(arguments.artifact, None, engine, "auto")
    timing = {"samples": arguments.rounds, "warmup": arguments.warmup, "seed": 0, "device": arguments.device}
    rows = profiling.profile_routes(policy, observations(arguments.demos), name=arguments.artifact.name, **timing)
    taken = intervals.latency(row["policy_ms"] for row in rows if not row["warmup"])
    for name in ("p50", "p95", "p99"):
        if (one := getattr(taken, name)) is not None:
            ends = f" [{one.interval.low:.2f}, {one.interval.high:.2f}]" if one.interval else ""
            print(f"{name} {one.value:.2f} ms{ends}, {taken.n} rounds")
    if arguments.json is not None:
        about = {"digest": policy.metadata.get("base_digest"), "device": arguments.device, "threads": arguments.threads}
        provenance.json_dump({**about, "policy_ms": taken.as_dict()}, arguments.json)
    return 0


def observations(demos: Path, most: int = 64) -> list[Recorded]:
    """Return some frames of a training set as a policy is sent them; a camera that it does not have is black."""
    about, material = dataset.described(demos), dataset.load(demos, 1)
    tasks = about.tasks if about else {}
    rows = np.linspace(0, len(material) - 1, min(most, len(material))).astype(int)
    rows = np.union1d(rows, np.unique(material.task, return_index=True)[1])  # each task is asked
    scale, black = POLICY_PIXELS // material.views.shape[2], np.zeros((POLICY_PIXELS, POLICY_PIXELS, 3), np.uint8)
    seen = []
    for row in rows.tolist():
        views = [view.repeat(scale, 0).repeat(scale, 1) for view in material.views[row]]
        prompt = tasks.get(int(material.task[row]), "")
        one = Observation(views[0], views[1] if len(views) > 1 else black, material.states[row], prompt)
        seen.append(Recorded((int(material.task[row]), int(material.episode[row])), one))
    return seen
