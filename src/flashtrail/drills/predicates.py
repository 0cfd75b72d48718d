"""What an episode's step log shows: features of one episode, and the rule by which each silent failure is named.

A predicate sees actions, the means of the pictures that were sent, and rewards. It does not see arm, tag,
condition, task or round, so that it says the same of a drill and of any other run. Clean bounds come from clean runs
(bounds.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

WINDOW = 40  # steps; two seconds at 20 Hz, about half of the shortest clean episode
SHARE = 0.1  # "on a share of steps" is on more than a tenth of them
SLACK = 0.5  # of the reference's range, on each side; chosen before any drill was run
START = 10  # steps; half a second, in which a hand on its way to an object stays open
SEAMS = 3  # queries that a median jump needs
REST = 10  # steps; half a second, in which a hand that grasps or lets go hardly moves
ANSWER = 10  # steps taken for an answer where no query is known
FROZEN = 0.25  # of the least clean spread; late commands were seen at 0.48 of it, a constant action is below 0.01
LEFT_OVER = "unexplained"  # by elimination; no drill is named after it
UNKNOWN = float("nan")


@dataclass(frozen=True)
class Episode:
    """One episode as predicates see it.

    `actions` is (n, 7), six of motion and the gripper (negative opens, positive closes). `img_mean` is (n,), the mean
    grey level (0-255) of the agent's picture that was sent at this step, NaN where none was (our tables: all steps
    without a query) or where it was not logged. `reward` is (n,).

    ValueError for other shapes, no step, or an action that is not finite.
    """

    actions: np.ndarray
    img_mean: np.ndarray
    reward: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.actions)
        if not n or self.actions.shape != (n, 7) or self.img_mean.shape != (n,) or self.reward.shape != (n,):
            shapes = self.actions.shape, self.img_mean.shape, self.reward.shape
            raise ValueError(f"an episode is (n, 7), (n,), (n,) with n > 0, not {shapes}")
        if not np.isfinite(self.actions).all():
            raise ValueError("an action is not finite")


@dataclass(frozen=True)
class Bound:
    """A feature in the clean reference of `n` episodes: its least and largest value, and the bounds drawn around them.

    `low` and `high` lie `slack` of that range further out, so that they guarantee at least what the extremes do.
    """

    least: float
    largest: float
    n: int
    slack: float = SLACK

    @property
    def low(self) -> float:
        """Below this a value is further out than any clean one, and by some margin."""
        return self.least - self.slack * (self.largest - self.least)

    @property
    def high(self) -> float:
        """The same above."""
        return self.largest + self.slack * (self.largest - self.least)


Features = Mapping[str, float]
Bounds = Mapping[str, Bound]

# What is measured of an episode, and how a reader is told.
FEATURES = {
    "effort": f"largest mean |action[:6]| over any {WINDOW} steps",
    "reach": f"what max |action[:3]| exceeds on {SHARE:.0%} of the steps",
    "travel": "length of the sum of action[:3] over the episode",
    "alternation": "distance of mean actions from one query to the next, over that to the next but one (medians)",
    "rest": f"least mean of max |action[:3]| over any {REST} steps",
    "spread": f"RMS over action[:6] of the SD, over queries (none known: over {ANSWER} steps each), of the mean action",
    "change": "median over steps of the largest |change| of action[:6] from one step to the next",
    "seam": "largest median jump of action[:6] at a step between two queries, over that at the query itself",
    "picture_step": "median change of the picture's mean grey level from one query to the next",
    "query_gap": "median steps from one query to the next",
    "longest_hold": "most steps in a row on one picture",
    "gripper_changes": "how often the gripper's command changes between open and close",
    "gripper_start": f"mean sign of the gripper's command over the first {START} steps (-1: open, 1: closed)",
    "steps": "steps",
    "steps_to_reward": "steps until a reward, of episodes that got one",
    "rewarded": "1 if there was a reward",
}


def features(episode: Episode) -> dict[str, float]:
    """Return every feature of FEATURES; NaN for what the log does not say, such as queries without pictures."""
    motion, steps = np.abs(episode.actions[:, :6]), len(episode.actions)
    rewarded = bool(np.nanmax(episode.reward, initial=0.0) > 0)
    return {
        "effort": _busiest(motion.mean(axis=1)),
        "reach": float(np.quantile(motion[:, :3].max(axis=1), 1 - SHARE)),
        "travel": float(np.linalg.norm(episode.actions[:, :3].sum(axis=0))),
        "rest": abs(_busiest(-motion[:, :3].max(axis=1), REST)),
        "change": _change(episode.actions[:, :6]),
        **_pictures(episode),
        "gripper_changes": float(_changes(episode.actions[:, 6])),
        "gripper_start": float(np.sign(episode.actions[:START, 6]).mean()),
        "steps": float(steps),
        "steps_to_reward": float(steps) if rewarded else UNKNOWN,
        "rewarded": float(rewarded),
    }


def _busiest(per_step: np.ndarray, window: int = WINDOW) -> float:
    """Return the largest mean over `window` consecutive steps, of a shorter episode the mean."""
    width = min(window, len(per_step))
    return float(np.convolve(per_step, np.full(width, 1 / width), mode="valid").max())


def _change(motion: np.ndarray) -> float:
    jumps = np.abs(np.diff(motion, axis=0)).max(axis=1)
    return float(np.median(jumps)) if len(jumps) else UNKNOWN


def _changes(gripper: np.ndarray) -> int:
    signs = np.sign(gripper)
    signs = signs[signs != 0]
    return int((signs[1:] != signs[:-1]).sum())


def _pictures(episode: Episode) -> dict[str, float]:
    """Return what the pictures' means say: how much they change, the pace of queries, and how answers to them differ.

    Two pictures of a moving robot do not have the same mean to the last digit: an equal mean is the same picture. A log
    with a mean at every step does not show a query that was sent the same picture again.
    """
    n, known, motion = len(episode.img_mean), np.isfinite(episode.img_mean), episode.actions[:, :6]
    if not known.any():
        unknown = dict.fromkeys(("picture_step", "query_gap", "longest_hold", "alternation", "seam"), UNKNOWN)
        return unknown | {"spread": _spread(motion, np.array([], int))}
    at = np.flatnonzero(known)
    means = episode.img_mean[at]
    new = np.r_[True, means[1:] != means[:-1]]
    holds = np.diff([*at[new], n])  # the last was cut off by the episode's end: it lasted at least so long
    queries = at[new] if known.all() else at
    gaps = np.diff(queries) if len(queries) > 1 or known.all() else np.array([n])
    return {
        "picture_step": float(np.median(np.abs(np.diff(means[new])))) if new.sum() > 1 else UNKNOWN,
        "query_gap": float(np.median(gaps)) if len(gaps) else UNKNOWN,
        "longest_hold": float(holds.max()),
        "alternation": _alternation(motion, queries),
        "seam": _seam(motion, queries),
        "spread": _spread(motion, queries),
    }


def _answers(motion: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the mean executed action of each query, (m, 6)."""
    return np.array([part.mean(axis=0) for part in np.split(motion, queries[queries > 0]) if len(part)])


def _spread(motion: np.ndarray, queries: np.ndarray) -> float:
    """Return how far the answers of an episode differ; NaN of one alone.

    A log without pictures shows no query, one in which nothing moves only the first: then of every ANSWER steps.
    """
    answers = _answers(motion, queries if len(queries) > 1 else np.arange(0, len(motion), ANSWER))
    return float(np.sqrt(answers.var(axis=0).mean())) if len(answers) > 1 else UNKNOWN


def _alternation(motion: np.ndarray, queries: np.ndarray) -> float:
    """Return the ratio of FEATURES: below 1 where motion is smooth, above where answers take turns; NaN below 3."""
    answers = _answers(motion, queries)
    if len(answers) < 3:
        return UNKNOWN
    last, before = (np.median(np.linalg.norm(answers[lag:] - answers[:-lag], axis=1)) for lag in (1, 2))
    return float(last / before) if before > 0 else UNKNOWN


def _seam(motion: np.ndarray, queries: np.ndarray) -> float:
    """Return the ratio of FEATURES: below 1 where motion jumps as a new answer begins, above where it does so later.

    NaN where queries are too few (below SEAMS) or come at every step: then each step is a new answer's first.
    """
    jumps = np.linalg.norm(np.diff(motion, axis=0), axis=1)  # jumps[i] is from step i to step i + 1
    begins = queries[(queries > 0) & (queries < len(motion))]
    if len(begins) < SEAMS:
        return UNKNOWN
    ends = np.r_[begins[1:], len(motion)]
    place = [np.arange(begin, end) - begin for begin, end in zip(begins, ends, strict=True)]
    offsets, values = np.concatenate(place), jumps[begins[0] - 1 :]
    later = [values[offsets == k] for k in range(1, int(offsets.max()) + 1)]
    medians = [float(np.median(own)) for own in later if len(own) >= SEAMS]
    first = float(np.median(values[offsets == 0]))
    return max(medians) / max(first, 1e-9) if medians and max(medians) > 0 else UNKNOWN


# --- the rules ---

Rule = Callable[[Features, Bounds], bool]


@dataclass(frozen=True)
class Predicate:
    """One silent failure: what must be logged and bounded to judge it, its rule, and the words of its diagnosis."""

    name: str
    logged: tuple[str, ...]
    bounded: tuple[str, ...]
    rule: Rule
    sign: str  # what the robot does
    cause: str
    check: str
    sides: int = 1  # of its bound that an alarm may lie beyond; 0: the rule is not a bound of one feature
    below: str = ""  # feature, never negative, whose lower bound the rule asks: at 0 it could not hold

    @property
    def sentence(self) -> str:
        """``If the robot does X, the likely cause is Y: check Z.``"""
        return f"If {self.sign}, the likely cause is {self.cause}: check {self.check}."

    def judge(self, measured: Features, bounds: Bounds) -> bool | None:
        """Return whether the episode shows this failure; None where a feature or a bound is missing or powerless."""
        return None if self.missing(measured, bounds) else self.rule(measured, bounds)

    def missing(self, measured: Features, bounds: Bounds) -> list[str]:
        """Return the features that the log does not give, and the bounds that clean episodes do not give.

        Few clean episodes that differ much have a lower bound that no episode could lie below.
        """
        unlogged = [name for name in self.logged if np.isnan(measured[name])]
        powerless = [f"a bound of {self.below} above 0"] if self.below in bounds and bounds[self.below].low <= 0 else []
        return unlogged + [name for name in self.bounded if name not in bounds and name not in unlogged] + powerless


def _frozen_policy(measured: Features, bounds: Bounds) -> bool:
    """Whatever is seen, the same answer: it hardly differs from query to query, and the gripper's not at all.

    The bound alone is not enough: commands that are late, or an episode that was cut, vary less than clean ones, too.
    """
    least = min(bounds["spread"].low, FROZEN * bounds["spread"].least)
    return measured["spread"] < least and not measured["gripper_changes"] and not measured["rewarded"]


def _swapped_cameras(measured: Features, bounds: Bounds) -> bool:
    # Whoever asks seldom sees larger changes from any camera.
    return measured["picture_step"] > bounds["picture_step"].high and not _long_chunk(measured, bounds)


def _long_chunk(measured: Features, bounds: Bounds) -> bool:
    gap = measured["query_gap"]  # unknown where every step has the same picture: that is a stale frame
    return not np.isnan(gap) and gap > bounds["query_gap"].high


def _stale_frame(measured: Features, bounds: Bounds) -> bool:
    return measured["longest_hold"] > bounds["longest_hold"].high and not _long_chunk(measured, bounds)


def _above(name: str) -> Rule:
    return lambda measured, bounds: measured[name] > bounds[name].high


def _short_horizon(measured: Features, bounds: Bounds) -> bool:
    return not measured["rewarded"] and measured["steps"] < bounds["steps_to_reward"].largest


def _gripper_sign(measured: Features, bounds: Bounds) -> bool:
    """The hand begins the other way round than in every clean episode, and by more than a moment."""
    start, clean = measured["gripper_start"], bounds["gripper_start"]
    return start > max(clean.high, 0.5) if clean.largest < 0 else start < min(clean.low, -0.5) and clean.least > 0


def _no_flip(measured: Features, bounds: Bounds) -> bool:
    """Feedback with its sign turned around: each correction leads further away."""
    return not measured["rewarded"] and measured["travel"] > bounds["travel"].high


def _late_window(measured: Features, bounds: Bounds) -> bool:
    """Commands lag the state: answers show some steps after they were asked for; of single steps, no rest at all."""
    if not np.isnan(measured["seam"]) and "seam" in bounds:
        return measured["seam"] > bounds["seam"].high and not _long_chunk(measured, bounds)
    restless = measured["rest"] > bounds["rest"].high and measured["reach"] <= bounds["reach"].high
    return restless and not measured["rewarded"]


def _unexplained(measured: Features, bounds: Bounds) -> bool:
    """What is left: the magnitudes are healthy, the gripper is used, no other rule speaks, and never a reward."""
    healthy = bounds["effort"].low <= measured["effort"] and measured["reach"] <= bounds["reach"].high
    uses_gripper = measured["gripper_changes"] >= max(bounds["gripper_changes"].low, 1)
    others = any(p.judge(measured, bounds) for p in PREDICATES if p.name != LEFT_OVER)
    return healthy and uses_gripper and not others and not measured["rewarded"]


# In the order in which they are asked: first whether the policy answers at all, since a constant action drives off, or
# stands still, or never rests, as other failures do; then the form of the log (seams, pictures, pace, length), the
# actions, at last what is left over. An episode that was cut short has had no time to move as a clean one does; a hand
# that swings changes the picture, too.
PREDICATES: tuple[Predicate, ...] = (
    Predicate(
        "frozen_policy",
        ("spread", "gripper_changes", "rewarded"),
        ("spread",),
        _frozen_policy,
        f"answers vary between queries by less than {FROZEN:g} of any clean episode's, the gripper never, unrewarded",
        "a policy that does not look, or a client that executes an old answer again",
        "flashtrail doctor --policy ARTIFACT --observations FILE (does it look?), then that each answer is executed",
        below="spread",
    ),
    Predicate(
        "late_window",
        ("rest", "reach", "rewarded"),
        ("rest", "reach"),
        _late_window,
        "the actions jump some steps after a query, not at it, or (a query at each step) the hand never comes to rest",
        "commands that lag the state: the oldest output of a window of frames is executed, or answers come late",
        "that the action executed at a step is the one for the frame just seen, then the latency",
    ),
    Predicate(
        "swapped_cameras",
        ("picture_step",),
        ("picture_step", "query_gap"),
        _swapped_cameras,
        "the agent's picture changes more from query to query than in any clean episode",
        "a camera that moves with the hand in the place of the one that stands still",
        "which camera fills which key of the observation",
    ),
    Predicate(
        "long_chunk",
        ("longest_hold",),
        ("query_gap",),
        _long_chunk,
        "a new picture comes more rarely than in any clean episode, at a steady pace",
        "too many actions of a chunk executed before the policy is asked again",
        "how many actions the client executes per query (replan_steps)",
    ),
    Predicate(
        "stale_frame",
        ("longest_hold",),
        ("longest_hold", "query_gap"),
        _stale_frame,
        "the same picture is acted on for longer than in any clean episode although queries go on",
        "an old picture sent with the query",
        "the camera's buffer and the age of the frame at the query",
    ),
    Predicate(
        "short_horizon",
        ("rewarded", "steps"),
        ("steps_to_reward",),
        _short_horizon,
        "episodes end without a reward in fewer steps than clean ones have needed for one",
        "a time limit that is too short",
        "the client's limit of steps against the suite's own",
        sides=0,
    ),
    Predicate(
        "bad_unnorm",
        ("reach",),
        ("reach",),
        _above("reach"),
        "max |action[:3]| exceeds the clean bound on a tenth of the steps",
        "actions scaled back by the statistics of another embodiment",
        "which norm_stats the policy was served with, and their q01 and q99 of the first three actions",
    ),
    Predicate(
        "state_antipode",
        ("alternation",),
        ("alternation",),
        _above("alternation"),
        "the answers to one query and the next differ more than every second ones do, beyond any clean episode",
        "a state that jumps between queries, as an axis-angle does when the quaternion's sign flips",
        "the sign convention of the quaternion before it becomes an axis-angle",
    ),
    Predicate(
        "bad_prompt",
        ("effort",),
        ("effort",),
        lambda measured, bounds: measured["effort"] < bounds["effort"].low,
        f"mean |action[:6]| stays below the clean bound in every window of {WINDOW} steps",
        "an instruction that the policy does not understand",
        "the prompt's template against the one of training, to the character",
        below="effort",
    ),
    Predicate(
        "gripper_sign",
        ("gripper_start",),
        ("gripper_start",),
        _gripper_sign,
        "the gripper begins closed where it begins open in every clean episode (or the other way round)",
        "the gripper's command with its sign turned around",
        "the convention of action[6] (LIBERO: negative opens, positive closes) between dataset, policy and robot",
    ),
    Predicate(
        "no_flip",
        ("travel", "rewarded"),
        ("travel",),
        _no_flip,
        "the arm drives off and stays away (its action[:3] add up to more than in any clean episode), unrewarded",
        "pictures that were not rotated, so that each correction leads further away",
        "a picture as it was sent: LIBERO's cameras are mounted upside down",
    ),
    Predicate(
        LEFT_OVER,
        ("effort", "reach", "gripper_changes", "rewarded"),
        ("effort", "reach", "gripper_changes"),
        _unexplained,
        "the arm moves with healthy magnitudes and uses its gripper, nothing else is odd, and a reward never comes",
        "something that no log of actions shows: pictures unlike those of training, the instruction, late answers",
        "a picture as it was sent (rotated by 180 degrees?), then the prompt, then the latency",
        sides=0,
    ),
)

NAMES = tuple(p.name for p in PREDICATES)
