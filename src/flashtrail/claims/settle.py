"""Which claim gets the next episodes: a rule of counts, of what an episode costs, and of what is left.

The claim nearest to a decision goes first: the one that the fewest further episodes are expected to decide, at its
observed effect shrunk towards its margin. Its arms get the next init states, the same for all of them; one that is
ahead, for another claim's sake, waits.

Whatever is chosen here, and whatever is known when it is chosen, a false decision keeps its probability of at most
alpha: a claim's pairs are always its first n init states in their order, in every task, so that its e-values, whenever
looked at, lie on one path that was fixed beforehand, and Ville's inequality bounds the whole path.

Pure: it knows no file, no clock and no workflow (`settling`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashtrail.claims import claims as types
from flashtrail.experiment.suites import suite_of
from flashtrail.statistics import anytime

START_S = 60.0  # of a batch, before and after its episodes: planning, server, simulators, tables
BATCH_S = 600.0  # a batch is at most this long, so that claims are looked at often
_PRIOR = 10  # pairs at the claim's margin that the observed ones are joined with
_DISCORDANT = 0.3  # share of these that differ
_FAR = 10_000  # pairs; what takes more counts as never
_AHEAD = np.unique(np.geomspace(1, _FAR, 60).round())
Tested = types.RateClaim | types.PairedClaim | types.NonInferiorityClaim


@dataclass(frozen=True)
class Line:
    """A line of the config that grows as a whole: an arm, or a grid or sweep with all its arms.

    `seconds`: wall time that one more episode adds to a batch.
    """

    episodes: int
    first: int = 0
    arms: int = 1
    tasks: int = 1
    repeats: int = 1
    seconds: float = 10.0
    suite: str = "libero_goal"

    @property
    def end(self) -> int:
        """The first init state that is not run."""
        return self.first + self.episodes

    @property
    def starts(self) -> int:
        """How many init states a task of its suite has."""
        return suite_of(self.suite).init_states

    def more(self, end: int) -> int:
        """Return how many episodes are new if the line ends at init state `end`."""
        return max(0, end - self.end) * self.arms * self.tasks * self.repeats


@dataclass(frozen=True)
class Standing:
    """Where a claim stands after a look.

    `lines`: names of its arms' lines. `n`: pairs, or episodes of its one arm. `support`, `refute`: e-values, of which
    one of at least `needed` decides. `further`: pairs that are expected to decide it (`further`). `verdict`:
    ``supported``, ``refuted`` or ``""``.
    """

    claim: str
    lines: tuple[str, ...]
    n: int
    support: float
    refute: float
    needed: float
    further: float
    verdict: str = ""


@dataclass(frozen=True)
class Left:
    """What is left of the budget."""

    episodes: float = math.inf
    seconds: float = math.inf


@dataclass(frozen=True)
class Batch:
    """The next episodes: `sizes` is the new `episodes` of each line that grows."""

    claim: str
    sizes: dict[str, int]
    episodes: int
    seconds: float


# --- how far a claim is from its decision ---


def arms_of(claim: Tested) -> list[str]:
    """Return the arms that a claim compares, or its one arm."""
    return [claim.arm] if isinstance(claim, types.RateClaim) else [claim.arm, claim.control]


def evidence(claim: Tested, wins: Any, losses: Any, n: Any) -> tuple[Any, Any]:
    """Return the e-values of a claim's support and refutation, as its verdict takes them; counts may be arrays.

    `wins`, `losses`: pairs that only the side claimed to be better won, or lost; of a rate, successes and failures.
    The e-value of the side on which the estimate does not lie is 0.
    """
    if isinstance(claim, types.RateClaim):
        null, estimate, sides = claim.bar, wins / n, [anytime.rate_e(wins, n, claim.bar, up) for up in (True, False)]
    else:
        null = -claim.margin if isinstance(claim, types.NonInferiorityClaim) else claim.margin
        estimate = (wins - losses) / n
        sides = [anytime.difference_e(wins, losses, n, null, up) for up in (True, False)]
    e = anytime.hedged(*sides)
    if isinstance(claim, types.PairedClaim):
        return anytime.paired_e(wins, losses) * (wins > losses), e * (estimate < null)
    return e * (estimate >= null), e * (estimate < null)


def further(claim: Tested, wins: int, losses: int, n: int, needed: float, size: int = 1) -> float:
    """Return after how many more pairs (episodes, of a rate) an e-value is expected to reach `needed`; that of
    support, `size` times as much, in a family of that size.

    The counts grow by their own shares, shrunk towards the margin (the bar) by _PRIOR pairs; infinite beyond _FAR; 0
    without data: nothing is known of such a claim, so it is looked at first.
    """
    if not n:
        return 0.0
    if isinstance(claim, types.RateClaim):
        prior = (claim.bar, 1 - claim.bar)
    else:
        effect = -claim.margin if isinstance(claim, types.NonInferiorityClaim) else claim.margin
        discordant = max(_DISCORDANT, abs(effect))
        prior = ((discordant + effect) / 2, (discordant - effect) / 2)
    won, lost = ((k + _PRIOR * p) / (n + _PRIOR) for k, p in zip((wins, losses), prior, strict=True))
    support, refute = evidence(claim, wins + _AHEAD * won, losses + _AHEAD * lost, n + _AHEAD)
    enough = np.maximum(support / size, refute) >= needed
    return float(_AHEAD[enough.argmax()]) if enough.any() else math.inf


# --- whose turn it is ---


def ended(standing: Standing, lines: Mapping[str, Line]) -> str:
    """Return how a claim ended: ``supported``, ``refuted``, ``out of starts``; ``""`` while it is open."""
    return standing.verdict or ("" if _end(standing, lines) < _there(standing, lines) else "out of starts")


def next_batch(standings: Sequence[Standing], lines: Mapping[str, Line], left: Left, pace: float = 1.0) -> Batch | None:
    """Return the next episodes; None where every claim has ended or no batch fits what is left.

    Claims that no start that is left is expected to decide come last, the one with the fewest pairs first. `pace`:
    how many times as long as expected earlier batches took.
    """
    order = sorted((s for s in standings if not ended(s, lines)), key=lambda s: _distance(s, lines))
    batches = (_batch(standing, lines, left, pace) for standing in order)
    return next((batch for batch in batches if batch), None)


def common_starts(lines: Sequence[Line]) -> int:
    """Return how many init states all of these lines have."""
    return max(0, min(line.end for line in lines) - max(line.first for line in lines))


def _end(standing: Standing, lines: Mapping[str, Line]) -> int:
    """Return the first init state that not all arms of a claim have; none before the last one's first."""
    own_lines = [lines[name] for name in standing.lines]
    return max(line.first for line in own_lines) + common_starts(own_lines)


def _there(standing: Standing, lines: Mapping[str, Line]) -> int:
    """Return how many init states a claim's arms may have."""
    return min(lines[name].starts for name in standing.lines)


def _starts(standing: Standing, lines: Mapping[str, Line]) -> float:
    """Return how many init states the claim is expected to need, which give it a pair in each task and repeat."""
    return standing.further / min(lines[name].tasks * lines[name].repeats for name in standing.lines)


def _distance(standing: Standing, lines: Mapping[str, Line]) -> tuple[bool, float, int]:
    end, starts = _end(standing, lines), _starts(standing, lines)
    in_reach = end + starts <= _there(standing, lines)
    cost = sum(lines[name].more(end + math.ceil(starts)) for name in set(standing.lines)) if in_reach else 0
    return (not in_reach, cost, standing.n)


def _batch(standing: Standing, lines: Mapping[str, Line], left: Left, pace: float) -> Batch | None:
    """Return an eighth of what the claim is expected to need, at most as much as it has, at least what takes half as
    long as a start-up; no longer than BATCH_S and what is left. None where not even one init state fits what is left.
    """
    begin, best = _end(standing, lines), None
    wanted = min(_starts(standing, lines) / 8, common_starts([lines[name] for name in standing.lines]))
    for end in range(begin + 1, _there(standing, lines) + 1):
        new = {name: lines[name].more(end) for name in standing.lines}
        running = sum(lines[name].seconds * count for name, count in new.items())
        batch = Batch(
            standing.claim,
            {name: end - lines[name].first for name, count in new.items() if count},
            sum(new.values()),
            pace * (START_S + running),
        )
        if batch.episodes > left.episodes or batch.seconds > left.seconds:
            break
        if best and batch.seconds > BATCH_S:
            break
        best = batch
        if end - begin >= wanted and running >= START_S / 2:
            break
    return best
