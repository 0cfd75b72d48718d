"""Pick and place from above: the document's first version beside our core and two controls, and whether each looks.

All learn from the same demonstrations with as many updates; each is asked about held-out demonstrations and acts in
the simulator. The document says of its first version that it looked learned and stood still.

    python -m flashtrail.benchmark.substrate.pick2d --artifact DIR       # k/n of any policy in it
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.benchmark import profiling
from flashtrail.benchmark.substrate.figures import difference, ratio
from flashtrail.drills.predicates import Episode, features
from flashtrail.drills.sensitivity import BLIND
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.policies import registry as families
from flashtrail.policies.fluid.policy import FluidPolicy
from flashtrail.policies.fluid.settings import Settings
from flashtrail.policies.parts.words import Vocabulary
from flashtrail.policies.protocol import Policy
from flashtrail.rollouts import conditions, guards
from flashtrail.rollouts.episode import EpisodeRecord, PolicySession, run_episode
from flashtrail.rollouts.expert import ExpertSession
from flashtrail.serving.client import Reply
from flashtrail.simulators import registry
from flashtrail.simulators.pick2d.simulator import PROMPTS, STEP_M
from flashtrail.statistics import intervals, resampling
from flashtrail.tables.measurements import Figure, figure
from flashtrail.training.fluid.__main__ import trainer_of
from flashtrail.training.fluid.trainer import Recipe, Trainer, figures
from flashtrail.training.pick2d import FIRST, SUITE, TASKS, write

TITLE = "2D pick and place: the document's first version, and whether it looks"
REPLAN, SEED = 4, 7  # actions of a chunk that are executed; of the starts, no demonstration's
SHOWN = ("own", "motion", "error_over_blank", "amplitude", "sensitivity")

# What all have: FLUID's trial on such a task (C 32, one layer of six steps, dilations 1 and 2, one picture), at 56 px.
SIZES: dict[str, Any] = {"pixels": 56, "patch": 8, "width": 32, "layers": 1, "steps": 6, "dilations": (1, 2)}
_FIRST: dict[str, Any] = {
    **{"core": "document", "views": 1, "pool": 1, "skip": False, "head_width": 256, "action_horizon": 1},
    **{"prompt": None, "absolute": (STEP_M,) * 3},
}


@dataclass(frozen=True)
class Variant:
    """What is trained: the sizes that differ, in `raw` units or not; `early`: with the few updates, not with all."""

    title: str
    sizes: Mapping[str, Any]
    raw: bool = False
    early: bool = False


VARIANTS = {
    "first": Variant("the document's first version", _FIRST, raw=True),
    "early": Variant("the document's first version, stopped early", _FIRST, raw=True, early=True),
    "ours": Variant("our core", {"core": "ours"}),
    "none": Variant("our core without diffusion", {"core": "none"}),
    "vit": Variant("a ViT", {"core": "vit"}),
}

FULL: dict[str, Any] = {"demonstrations": 240, "updates": 1500, "few": 150, "seeds": 3, "starts": 15, "horizon": None}
QUICK = {"demonstrations": 6, "updates": 2, "few": 1, "seeds": 2, "starts": 1, "horizon": 9}


def measure(
    demonstrations: int, updates: int, few: int, seeds: int, starts: int, horizon: int | None, seed: int
) -> tuple[str, list[Figure]]:
    """Return the method in words and the figures. The first version is trained `seeds` times, the others once.

    `few`: updates of the early one; `starts`: of each task, in the simulator; `horizon`: None: the suite's.
    """
    found, successes = [], {}
    with tempfile.TemporaryDirectory() as directory:
        demos = Path(directory) / "demos"
        made = write(demos, demonstrations, SIZES["pixels"])
        for name, one in VARIANTS.items():
            runs = [
                trained(Path(directory) / f"{name}_{number}", demos, one, few if one.early else updates, seed + number)
                for number in range(seeds if one.raw else 1)
            ]
            found += offline(name, one.title, runs)
            episodes = [play(session(trainer, known), starts, horizon) for trainer, known in runs]
            successes[name], shown = in_simulator(name, one.title, episodes)
            found += shown
            print(f"{name}: trained and played", flush=True)
    found += in_simulator("expert", "the scripted expert", [play(None, starts, horizon)])[1]
    title = "success, our core less the document's first version (its first training)"
    found.append(
        difference("ours_less_first", title, successes["ours"][0], successes["first"][0], "starts of both tasks")
    )
    words = ", ".join(f"{key} {value}" for key, value in SIZES.items())
    method = (
        f"{made} demonstrations of the scripted expert in pick2d, {updates} updates of {Recipe.batch} frames each "
        f"(stopped early: {few}); {words}. The first version: the document's core, one view, one pooled cell, "
        f"positions, no normalisation, one action, no prompt, no skip, no noise on its state; {seeds} trainings, whose "
        "offline figures are of all of them together. Intervals: bootstrap over held-out episodes, Wilson's or "
        f"Tango's over starts; all given the trained networks. {REPLAN} actions of a chunk are executed."
    )
    return method, found


def trained(place: Path, demos: Path, one: Variant, updates: int, seed: int) -> tuple[Trainer, list[str]]:
    """Return a finished training with its best weights, and the words that it knows."""
    recipe = Recipe(steps=updates, warmup=min(Recipe.warmup, updates // 10), seed=seed, log_every=10 * updates)
    if one.raw:  # the document has none
        recipe = replace(recipe, state_noise=0.0)
    trainer, known = trainer_of(place, demos, PROMPTS, {**SIZES, **one.sizes}, recipe, one.raw)
    trainer.train()
    trainer.take_best()
    return trainer, known


class _Session:
    """A policy in this process as `run_episode` asks it."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._memory = policy, policy.new_session()

    def infer(self, obs: Mapping[str, Any], executed_steps: int | None, reset: bool, noise_seed: list[int]) -> Reply:
        out = self._policy.infer(
            self._memory, dict(obs), executed_steps=executed_steps, reset=reset, noise_seed=noise_seed
        )
        return Reply(out["actions"], out["accepted_prefix_len"], out["policy_timing"], {}, 0.0)


def session(trainer: Trainer, known: Sequence[str]) -> _Session:
    """Return a session of the policy that a training has made."""
    words = None if trainer.dims.prompt is None else Vocabulary(list(known))
    return _Session(FluidPolicy(trainer.average.policy, trainer.stats, words, {}, Settings()))


def play(asked: PolicySession | None, starts: int, horizon: int | None = None) -> list[EpisodeRecord]:
    """Play so many starts of each task, which no demonstration has; None: the expert acts."""
    episodes = []
    for task in TASKS:
        simulator = registry.make(SUITE, task, seed=SEED, scene_seed="episode", hard_reset=False, horizon=horizon)
        for start in range(starts):
            episodes.append(
                run_episode(
                    simulator,
                    asked or ExpertSession(simulator, SUITE),
                    EpisodeKey(SUITE, task, start, 0),
                    condition=conditions.build({"kind": "none"}),
                    guard=guards.build({"kind": "none"}),
                    seed=SEED,
                    replan_steps=REPLAN,
                )
            )
    return episodes


def offline(name: str, title: str, runs: Sequence[tuple[Trainer, Any]]) -> list[Figure]:
    """Return the figures of held-out episodes over all trainings, and of several how many of them are blind."""
    held = [trainer.held_out() for trainer, _ in runs]
    together = {column: np.sum([sums[column] for sums in held], 0) for column in held[0]}
    made = [
        one.model_copy(update={"name": f"{name}_{one.name}", "title": f"{title}: {one.title}"})
        for one in figures(together)
        if one.name in SHOWN
    ]
    if len(runs) == 1:
        return made
    blind = sum(blinded(figures(sums)) for sums in held)
    words = f"{title}: share of trainings whose sensitivity lies below {BLIND}, with its interval"
    rate = intervals.rate(blind, len(runs))
    return [*made, figure(f"{name}_blind", words, blind / len(runs), rate.wilson, len(runs), "trainings")]


def blinded(found: Sequence[Figure]) -> bool:
    """Whether a training's sensitivity lies below BLIND with its whole interval."""
    high = next(one.high for one in found if one.name == "sensitivity")
    return high is not None and high < BLIND


def in_simulator(
    name: str, title: str, played: Sequence[Sequence[EpisodeRecord]]
) -> tuple[list[NDArray[np.bool_]], list[Figure]]:
    """Return each training's successes by start; the figures of them all: k/n, and how far answers differ."""
    right = [np.array([bool(one.episode["success"]) for one in episodes]) for episodes in played]
    k, n = int(np.sum(right)), int(np.size(right))
    one = intervals.rate(k, n).wilson if len(right) == 1 else resampling.share_over_episodes(*_by_start(right))
    of = "episodes" if len(played) == 1 else f"episodes, {len(played)} trainings at the same starts"
    words = f"{title}: share of episodes in which the block ends on the mark ({k}/{n})"
    spreads = np.array([spread(one) for episodes in played for one in episodes])
    return right, [
        figure(f"{name}_success", words, k / n, one, n, of),
        ratio(f"{name}_spread", f"{title}: SD of its answers within an episode", spreads, 1.0, of),
    ]


def _by_start(right: Sequence[NDArray[np.bool_]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return successes and trainings by start: trainings at one start are not apart from each other."""
    return np.sum(right, 0, dtype=float), np.full(len(right[0]), float(len(right)))


def spread(record: EpisodeRecord) -> float:
    """SD of an episode's answers over its queries, as the drills' feature of that name; 0 of a single query."""
    steps = record.steps
    actions = np.clip([step["action"] for step in steps], -1, 1)  # as they are executed
    pictures = np.array([np.nan if step["img_mean"] is None else step["img_mean"] for step in steps], float)
    found = features(Episode(actions, pictures, np.array([step["reward"] for step in steps], float)))["spread"]
    return 0.0 if np.isnan(found) else found


def main() -> int:
    """Play an artifact of any family at the starts that no demonstration has; print k/n with its interval."""
    parser = commands.Parser(prog="python -m flashtrail.benchmark.substrate.pick2d", description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True, metavar="DIR", help="such as a run's artifact/")
    parser.add_argument("--starts", type=int, default=FULL["starts"], metavar="N", help="of each task")
    arguments = parser.parse_args()
    if not 1 <= arguments.starts <= FIRST:
        raise UserError(f"--starts {arguments.starts}: give 1 to {FIRST}: demonstrations begin at later ones")
    engine = {"device": "cpu", "dtype": "float32", "flash": {}}
    family = families.load(families.family_of(arguments.artifact))
    try:
        policy = profiling.load(arguments.artifact, None, engine, "auto")
    except family.Error as error:  # a family cannot import UserError
        raise UserError(str(error)) from None
    played = [play(_Session(policy), arguments.starts)]
    for one in in_simulator("policy", arguments.artifact.name, played)[1]:
        print(f"{one.title}: {one.said()}")
    return 0


if __name__ == "__main__":
    sys.exit(commands.run(main, "substrate"))
