"""Whether a policy looks: how far its answer moves when a part of what it is shown is that of another query.

S of a part = RMS over pairs of queries and numbers of the answer of (answer with the other's part - answer) / SD, over
the root of 2; SD is that of the answers over all queries. 0: not looked at; 1: the answer follows from this part alone.
Both answers of a pair have the same noise and a session of their own. Needs recorded observations, no simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.policies import registry
from flashtrail.policies.protocol import Refusal
from flashtrail.rollouts.recordings import Recorded
from flashtrail.simulators.observation import Observation
from flashtrail.statistics import resampling
from flashtrail.statistics.intervals import Interval
from flashtrail.tables import measurements
from flashtrail.tables.measurements import Figure

LOOKS, BLIND = 0.1, 0.05  # the whole interval above the one, or below the other
QUERIES = 8  # of an episode, evenly spaced
MOTION = 6  # leading numbers of an action: the gripper is the seventh
_SAME = 1e-6  # SD of an action's number that does not change
METHOD = (
    "Recorded queries answered again with a part of another query in it, noise unchanged; 0: the answer does not move, "
    "1: it follows from that part alone. Intervals (95 %) resample episodes; the answers' SD is taken as it is."
)
_PARTS = {
    "pictures": ("both pictures", ("agent", "wrist")),
    "agent": ("the agent's picture", ("agent",)),
    "wrist": ("the wrist's picture", ("wrist",)),
    "state": ("the state", ("state",)),
    "everything": ("pictures and state", ("agent", "wrist", "state")),
}
_OTHERS = {"": "of the same query from another init state", "_phase": "of another query of the same episode"}
_UNWORDED = ("everything", "everything_phase", "noise", "amplitude")

Ask = Callable[[Observation, list[int]], np.ndarray]  # observation and noise seed -> the actions to execute, (h, D)


def word(low: float | None, high: float | None) -> str:
    """Return looks, blind or, where the interval allows either or there is none, open."""
    if low is not None and low > LOOKS:
        return "looks"
    return "blind" if high is not None and high < BLIND else "open"


def words(figures: Sequence[Figure]) -> dict[str, str]:
    """Return the word of every figure that has one."""
    return {figure.name: word(figure.low, figure.high) for figure in figures if figure.name not in _UNWORDED}


def asker(artifact: Path, *, device: str = "cpu", dtype: str = "float32", backend: str = "auto") -> Ask:
    """Load an artifact of any family; UserError in one line for what it is not, or refuses."""
    family = registry.load(registry.family_of(artifact))
    try:
        own = {"settings": family.Settings(), "action_stats": None, "together": 1, "sessions": 1}
        policy = family.load(artifact, None, device=device, dtype=dtype, backend=backend, **own)
    except family.Error as error:
        raise UserError(str(error)) from None

    def ask(observation: Observation, seed: list[int]) -> np.ndarray:
        try:
            reply = policy.infer(
                policy.new_session(), observation.request(), executed_steps=None, reset=True, noise_seed=seed
            )
        except (Refusal, family.Error) as error:
            raise UserError(f"{artifact} refuses what was recorded: {error}") from None
        return np.asarray(reply["actions"], float)[: int(reply["accepted_prefix_len"]) or None]

    return ask


def action_sd(artifact: Path) -> np.ndarray | None:
    """Return the SD (6,) of the motion that the policy was trained on, from its norm_stats.json.

    None where there is none, or it is not of actions as they are answered (positions, differences to the state).
    """
    manifest, path = provenance.json_load(artifact / "manifest.json"), artifact / "norm_stats.json"
    if manifest.get("dims", {}).get("absolute") or manifest.get("transforms", {}).get("delta_actions"):
        return None
    if not path.is_file():
        return None
    return np.asarray(provenance.json_load(path)["norm_stats"]["actions"]["std"], float)[:MOTION]


@dataclass(frozen=True)
class _Queries:
    """The queries that are asked: what was seen, which episode each is of, its place in it, and its partners'."""

    recorded: Sequence[Recorded]

    @cached_property
    def episodes(self) -> dict[tuple[int, int], list[int]]:
        """Places of each episode's queries, in their order."""
        found: dict[tuple[int, int], list[int]] = {}
        for place, one in enumerate(self.recorded):
            found.setdefault(one.episode, []).append(place)
        return dict(sorted(found.items()))

    @cached_property
    def chosen(self) -> list[tuple[tuple[int, int], int]]:
        """Episode and index of each query."""
        return [(episode, index) for episode, own in self.episodes.items() for index in _even(len(own))]

    def seen(self, episode: tuple[int, int], index: int) -> Observation:
        return self.recorded[self.episodes[episode][index]].observation

    def elsewhere(self, episode: tuple[int, int], index: int) -> Observation | None:
        """The same query of the next episode of the task that has it."""
        own = [other for other in self.episodes if other[0] == episode[0]]
        start = own.index(episode)
        for other in own[start + 1 :] + own[:start]:
            if index < len(self.episodes[other]):
                return self.seen(other, index)
        return None

    def later(self, episode: tuple[int, int], index: int) -> Observation | None:
        """The query half an episode away, of those chosen."""
        own = _even(len(self.episodes[episode]))
        other = own[(own.index(index) + len(own) // 2) % len(own)]
        return None if other == index else self.seen(episode, other)

    def told(self, seen: Observation) -> Observation | None:
        """The same observation with the next prompt."""
        prompts = sorted({one.observation.prompt for one in self.recorded})
        other = prompts[(prompts.index(seen.prompt) + 1) % len(prompts)]
        return None if other == seen.prompt else replace(seen, prompt=other)


def _even(n: int) -> list[int]:
    return sorted({int(place) for place in np.linspace(0, n - 1, min(n, QUERIES)).round()})


def _blank(seen: Observation) -> Observation:
    """Return an observation with each picture's mean colour in its place."""
    views = {name: getattr(seen, name) for name in ("agent", "wrist")}
    return replace(seen, **{k: np.full_like(v, v.mean(axis=(0, 1)).round().astype(v.dtype)) for k, v in views.items()})


def _changed(queries: _Queries) -> dict[str, tuple[str, list[Observation | None]]]:
    """Return, by figure, its title and each query's observation as changed; None where it has no partner."""
    seen = [queries.seen(*at) for at in queries.chosen]
    partners = {"": [queries.elsewhere(*at) for at in queries.chosen]}
    partners["_phase"] = [queries.later(*at) for at in queries.chosen]
    if not any(partners[""]):
        raise UserError("no two init states of one task in the observations: give profile.episodes at least 5")
    made: dict[str, tuple[str, list[Observation | None]]] = {}
    for suffix, whose in _OTHERS.items():
        for name, (what, fields) in _PARTS.items():
            pairs = zip(seen, partners[suffix], strict=True)
            swapped = [o and replace(one, **{field: getattr(o, field) for field in fields}) for one, o in pairs]
            made[name + suffix] = f"{what} {whose}", swapped
    made["prompt"] = "another task's prompt", [queries.told(one) for one in seen]
    made["blank"] = "each picture's mean colour in its place", [_blank(one) for one in seen]
    return made


def measure(ask: Ask, recorded: Sequence[Recorded], *, seed: int, action_sd: np.ndarray | None = None) -> list[Figure]:
    """Return the figures: S by part, `noise` (nothing changed but the noise) where there is any, and `amplitude`.

    UserError where no two episodes are of one task. A figure without a pair, and an amplitude without the training's
    SD, are left out. n counts episodes; with fewer than 5 there is no interval.
    """
    queries = _Queries(recorded)
    changed = _changed(queries)
    seen = [queries.seen(*at) for at in queries.chosen]
    seeds = [[seed, *episode, index] for episode, index in queries.chosen]
    answers = np.stack([ask(one, own) for one, own in zip(seen, seeds, strict=True)])
    number = {episode: n for n, episode in enumerate(queries.episodes)}
    of = np.array([number[episode] for episode, _ in queries.chosen])
    sd = answers.std(axis=0)
    moving = sd > _SAME

    def shift(one: int, other: np.ndarray) -> float:
        apart = (other - answers[one])[moving] / sd[moving]
        return float((apart**2).mean() / 2) if moving.any() else 0.0

    found = []
    for name, (title, observations) in changed.items():
        pairs = [(place, other) for place, other in enumerate(observations) if other is not None]
        shifts = [shift(place, ask(other, seeds[place])) for place, other in pairs]
        found += _figure(name, f"S of {title}", of[[place for place, _ in pairs]], shifts)
    if not np.array_equal(ask(seen[0], [*seeds[0], 1]), answers[0]):
        shifts = [shift(n, ask(one, [*seeds[n], 1])) for n, one in enumerate(seen)]
        found += _figure("noise", "S of the noise alone", of, shifts)
    if action_sd is not None:
        motion = answers[..., : len(action_sd)]
        scores = ((motion - motion.mean(axis=(0, 1))) / np.maximum(action_sd, _SAME)) ** 2
        title = "amplitude: SD of the motion over that of the training's actions"
        found += _figure("amplitude", title, of, scores.mean(axis=(1, 2)))
    return found


def _figure(name: str, title: str, episodes: np.ndarray, squares: Sequence[float] | np.ndarray) -> list[Figure]:
    """Return the root of the mean square with its interval over episodes; nothing without a pair."""
    if not len(squares):
        return []
    numbers, place = np.unique(episodes, return_inverse=True)
    sums, counts = np.bincount(place, squares), np.bincount(place)
    interval = resampling.ratio_over_episodes(sums, counts)
    if not sums.any() and len(numbers) >= resampling.MIN_CLUSTERS:  # no answer moved, in any of them
        interval = Interval(0.0, 0.0)
    return [measurements.figure(name, title, sums.sum() / counts.sum(), interval, len(numbers), "episodes", root=True)]


def lines(figures: Sequence[Figure]) -> list[str]:
    """Return the figures in words, one a line."""
    said: Mapping[str, Any] = words(figures)
    rows = []
    for figure in figures:
        ends = "" if figure.low is None else f"[{figure.low:.3f}, {figure.high:.3f}]"
        rows.append(f"{figure.name:16} {figure.value:.3f} {ends:16} {said.get(figure.name, ''):5}  {figure.title}")
    return rows
