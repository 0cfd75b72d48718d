"""A safety layer as it is printed, and ours, on the same actions: what share of them each changes, and by how much.

    python -m flashtrail.benchmark.safety_layer --out resources/measured/safety_layer.json

The source document `deployment` gives a layer and an exercise: 1,000 random actions, what percentage is modified. Here
the expert's own actions in Lift are asked about as well, since a layer has to let those pass. Ours needs a robot, so
both stand in the loop of one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.base import commands, documents
from flashtrail.experiment import limits as kinds
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.rollouts.limits import Limiter
from flashtrail.simulators import registry, seeds
from flashtrail.simulators.protocol import Simulator
from flashtrail.statistics import resampling
from flashtrail.tables import measurements
from flashtrail.tables.measurements import Figure

SUITE, TASK, SEED = "robosuite_lift", 0, 7
STARTS, STEPS = {"random": 10, "expert": 80}, 100  # 80: none of as many has an interval below 5 %
OVERLAY = Path(__file__).resolve().parents[3] / "profiles" / "deployment" / "overlay.yaml"
Vector = NDArray[np.float64]


class PrintedLayer:
    """`SafetyLayer` of section 104.5 of the document, line by line, with the numbers of its demonstration.

    Its box is one of positions and clips increments, the gripper's command among them; its speed is the difference of
    two of these by 0.02 s; `max_force` is never read; nothing is reset.
    """

    def __init__(self) -> None:
        self.workspace_bounds = [(-0.5, 0.5)] * 7
        self.max_velocity = 1.0
        self.prev_action: Vector | None = None

    def __call__(self, action: Vector, dt: float = 0.02) -> Vector:
        """Return the "safe" action (7,)."""
        safe: Vector = action.copy()
        for i, (low, high) in enumerate(self.workspace_bounds):
            safe[i] = np.clip(safe[i], low, high)
        if self.prev_action is not None:
            velocity = (safe - self.prev_action) / dt
            speed = np.linalg.norm(velocity)
            if speed > self.max_velocity:
                safe = self.prev_action + velocity / speed * self.max_velocity * dt
        self.prev_action = safe.copy()
        return safe


def acted(simulator: Simulator, expert: bool, given: kinds.Limits) -> Iterator[tuple[int, Vector, Vector, Vector]]:
    """Yield an episode's number, an action (7,), what the printed layer and ours make of it; ours is executed."""
    printed = PrintedLayer()
    for start in range(STARTS["expert" if expert else "random"]):
        key = EpisodeKey(SUITE, TASK, start, 0)
        simulator.reset(key)
        sense = simulator.sense()
        assert sense is not None
        limiter, rng = Limiter(given, sense), np.random.default_rng(seeds.derive(SEED, key, "perturbation"))
        act: Callable[[], Any]
        act = registry.expert(SUITE, simulator) if expert else functools.partial(rng.uniform, -1.0, 1.0, 7)
        for _ in range(STEPS):
            action = np.array(act(), np.float64)
            ours = limiter.apply(action.tolist())
            yield start, action, printed(action), np.array(ours.action) if ours.by else action
            done = simulator.step(ours.action, render=False).done
            limiter.felt(simulator.sense() or sense)
            if done:
                break


def figures(who: str, rows: list[tuple[int, Vector, Vector, Vector]]) -> list[Figure]:
    """Return the shares of actions that each layer changed, and the largest change of one number."""
    episode, asked = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    counts = np.bincount(episode)
    found = []
    for place, layer in enumerate(("printed", "ours"), start=2):
        sent = np.array([row[place] for row in rows])
        size = np.abs(sent - asked).max(axis=1)
        shares = {
            "changed": ("changed", size > 1e-9),
            "gripper_changed": ("whose gripper command was changed", np.abs(sent - asked)[:, 6] > 1e-9),
            "gripper_turned": ("whose gripper command changed its sign", (sent[:, 6] > 0) != (asked[:, 6] > 0)),
            **{
                f"changed_{ten:02d}": (f"of which a number was changed by more than {ten / 10:g}", size > ten / 10)
                for ten in (2, 5, 10, 15)
            },
        }
        for name, (words, yes) in shares.items():
            title = f"Share of {who} actions {words}, layer {'as printed' if layer == 'printed' else 'of this project'}"
            interval = resampling.share_over_episodes(np.bincount(episode, yes), counts)
            of = f"{who} actions of {len(counts)} episodes"
            found.append(measurements.figure(f"{layer}_{who}_{name}", title, yes.mean(), interval, len(yes), of))
    return found


def main() -> None:
    """Measure, print and write."""
    parser = commands.Parser(prog="python -m flashtrail.benchmark.safety_layer", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the measurement, a JSON file")
    shipped: dict[str, Any] = documents.mapping(OVERLAY)["limits"]
    parser.add_argument("--limits", default="table", choices=shipped, help="those in profiles/deployment/overlay.yaml")
    arguments = parser.parse_args()
    given = kinds.read(shipped[arguments.limits])
    simulator = registry.make(SUITE, TASK, seed=SEED, scene_seed="episode", hard_reset=True, horizon=STEPS)
    found = [*figures("random", list(acted(simulator, False, given)))]
    found += figures("expert", list(acted(simulator, True, given)))
    simulator.close()
    method = (
        f"Lift, {STARTS['random']} starts of seed {SEED} (expert: {STARTS['expert']}), up to {STEPS} control steps; "
        "random: uniform in -1 to 1; expert: the suite\u2019s own. Both layers get each action; ours is executed. "
        "Intervals: bootstrap over episodes; where all or none of the actions are meant, Wilson\u2019s over episodes."
    )
    measurements.write(arguments.out, "Safety layers on the same actions", method, found)
    for figure in found:
        print(f"{figure.name}: {figure.said()} of {figure.n} {figure.of}")


if __name__ == "__main__":
    sys.exit(commands.run(main, "safety_layer"))
