"""How many episodes a run needs until its failure is named: runs of m episodes drawn from those that were played.

A drawn run of m episodes draws m times a task, each as likely, and then one of that task's episodes, with replacement;
it is judged as any run. The interval says how far the answer rests on these episodes: each task's episodes are drawn
again first (tasks stay as they are: the answer is for these tasks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flashtrail.drills.bounds import Reference
from flashtrail.drills.predicates import NAMES
from flashtrail.drills.verdicts import Flags, needed
from flashtrail.statistics import resampling
from flashtrail.statistics.intervals import Interval

LENGTHS = (1, 3, 5, 7, 9, 15)  # odd: half of an even number is not a majority
ENOUGH = 0.8
_RUNS, _OUTER, _INNER = 4000, 200, 200


@dataclass(frozen=True)
class Power:
    """Of runs of `m` episodes, the share that is diagnosed as `name`, or in which any predicate speaks.

    An interval is None where all episodes are alike: drawing them again shows no spread, which is not to say that there
    is none.
    """

    m: int
    named: float
    named_interval: Interval | None
    any: float
    any_interval: Interval | None


def curve(
    flags: Sequence[Flags],
    tasks: Sequence[str],
    name: str | None,
    reference: Reference,
    lengths: Sequence[int] = LENGTHS,
) -> list[Power]:
    """Return the power for each length of run; `name` None asks for runs in which nothing speaks."""
    held, judged = (_matrix(flags, what) for what in (True, None))
    wanted = len(NAMES) if name is None else NAMES.index(name)
    generator = np.random.default_rng(0)
    powers = []
    for m in lengths:
        least = np.array([[needed(predicate, n, reference) for n in range(m + 1)] for predicate in NAMES])
        first = _first(held, judged, least, generator.multinomial(m, _shares(tasks), _RUNS))
        outer = []
        for _ in range(_OUTER):
            again = _first(held, judged, least, generator.multinomial(m, _shares(tasks, generator), _INNER))
            outer.append([(again == wanted).mean(), (again < len(NAMES)).mean()])
        named, spoke = (resampling.percentile_interval(values) for values in np.array(outer).T)
        powers.append(Power(m, float((first == wanted).mean()), named, float((first < len(NAMES)).mean()), spoke))
    return powers


def enough(powers: Sequence[Power]) -> int | None:
    """Return the shortest run from which on every longer one, too, is named at least so often; None for none."""
    shortest = None
    for entry in sorted(powers, key=lambda p: p.m, reverse=True):
        if entry.named < ENOUGH:
            break
        shortest = entry.m
    return shortest


def _matrix(flags: Sequence[Flags], what: bool | None) -> np.ndarray:
    """Return (episodes, predicates): 1 where it holds, or for None where it could be judged at all."""
    cells = [[row[n] is not None if what is None else bool(row[n]) for n in NAMES] for row in flags]
    return np.array(cells, int).reshape(len(cells), len(NAMES))


def _shares(tasks: Sequence[str], generator: np.random.Generator | None = None) -> np.ndarray:
    """Return each episode's probability: tasks alike, episodes of one alike, or those drawn again with replacement."""
    names = np.array(tasks)
    kinds = np.unique(names)
    shares = np.zeros(len(names))
    for kind in kinds:
        own = np.flatnonzero(names == kind)
        often = (
            np.ones(len(own)) if generator is None else generator.multinomial(len(own), np.ones(len(own)) / len(own))
        )
        shares[own] = often / len(own) / len(kinds)
    return shares / shares.sum()


def _first(held: np.ndarray, judged: np.ndarray, least: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return, of each drawn run, the place of the first predicate that speaks of it; len(NAMES) for none.

    `drawn` is (runs, episodes); `least` is (predicates, m + 1), the count that each needs of so many judged episodes.
    """
    speaks = drawn @ held >= least[np.arange(len(NAMES)), drawn @ judged]
    return np.where(speaks.any(axis=1), speaks.argmax(axis=1), len(NAMES))
