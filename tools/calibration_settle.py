"""Campaigns that are looked at as they grow: `flashtrail settle`'s rule on arms whose truth is known.

`calibration` runs it. Each campaign draws its arms' outcomes at all 50 init states of some tasks; the rule
(`claims.settle`) then decides which arms grow, by how much, and when a claim has ended, as the command does. What it
stops at is judged by the functions that judge real tables. Counted are false decisions at whatever time the rule stops,
what was found of the planted effects, and how many pairs that took against the fixed number that has the same power.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest import mock

import numpy as np

from flashtrail.claims import claims as types
from flashtrail.claims import settle, verdicts
from flashtrail.claims.judgement import Judgement, decided
from flashtrail.claims.looks import Anytime
from flashtrail.claims.settle import Left, Line, Standing
from flashtrail.experiment.suites import INIT_STATES
from flashtrail.statistics import anytime, power

FIRST = 2  # init states of each arm when the first look is taken
_UNLIMITED = Left()
ALIKE = 0.3  # share of starts at which one draw decides for all arms: pairs are more alike than strangers
RATES = {"b": 0.5, "same": 0.5, "plus10": 0.6, "plus20": 0.7, "plus40": 0.9, "minus10": 0.4}
_PAIRED = {"test": "paired_difference", "control": "b", "margin": 0.10, "direction": "greater"}
ENTRIES: dict[str, dict[str, Any]] = {
    "C1": {**_PAIRED, "arm": "same"},
    "C2": {**_PAIRED, "arm": "plus10"},
    "C3": {**_PAIRED, "arm": "plus20"},
    "C4": {**_PAIRED, "arm": "plus40"},
    "C5": {"test": "non_inferiority", "arm": "minus10", "control": "b", "margin": 0.10},
    "C6": {"test": "rate_at_least", "arm": "b", "bar": 0.5},
}
FALSE = {"C1": ["supported"], "C2": ["refuted"], "C3": ["refuted"], "C4": ["refuted"], "C5": ["supported"]}
WORDS = {"C1": "no effect", "C2": "+10 points, the margin", "C3": "+20 points", "C4": "+40 points"}
WORDS |= {"C5": "\u221210 points, the margin", "C6": "a rate that is its bar"}
FOUND = {10: {"plus20": 0.95, "plus40": 0.99}, 3: {"plus20": 0.85, "plus40": 0.99}}  # at least, by tasks
FALSE |= {"C6": ["supported", "refuted"]}  # the rate is the bar: either is a decision without a reason
FAMILY_RATES = {"b": 0.5, "same1": 0.5, "same2": 0.5, "same3": 0.5, "plus40": 0.9}
FAMILIES: dict[str, dict[str, dict[str, Any]]] = {  # one family each: of no effect at all; with one that is there
    "three false claims": {f"C{i}": {**_PAIRED, "arm": f"same{i}", "family": "f"} for i in (1, 2, 3)},
    "two false claims, one of +40 points": {
        f"C{i}": {**_PAIRED, "arm": arm, "family": "f"} for i, arm in enumerate(("same1", "same2", "plus40"), 1)
    },
}


@dataclass(frozen=True)
class End:
    """How a claim ended in one campaign: its verdict ("" where it is open or out of starts), counts and looks."""

    verdict: str
    wins: int
    losses: int
    n: int


def drawn(
    generator: np.random.Generator, tasks: int, rates: Mapping[str, float] | None = None
) -> dict[str, np.ndarray]:
    """Return each arm's successes, (init states, tasks)."""
    rates = rates or RATES
    own = generator.random((len(rates), INIT_STATES, tasks))
    own = np.where(generator.random((INIT_STATES, tasks)) < ALIKE, own[0], own)
    return {arm: own[place] < rate for place, (arm, rate) in enumerate(rates.items())}


def campaign(
    claims: Sequence[settle.Tested], won: Mapping[str, np.ndarray], needed: float, left: Left = _UNLIMITED
) -> dict[str, End]:
    """Return how each claim ended when the rule was followed until nothing was open or left."""
    totals = {claim.id: _totals(claim, won) for claim in claims}
    tasks = next(iter(won.values())).shape[1]
    lines = {arm: Line(FIRST, tasks=tasks, seconds=5.0) for arm in won}
    ended: dict[str, Standing] = {}
    family = any(claim.family for claim in claims if isinstance(claim, types.PairedClaim))  # all of them one
    while True:
        found = dict(ended)
        for claim in claims:
            if claim.id not in ended:
                found[claim.id] = _look(claim, totals[claim.id], lines, needed, len(claims) if family else 1)
        if family:
            found = _held(claims, found, totals, tasks, 1 / needed)
        ended |= {name: standing for name, standing in found.items() if standing.verdict}
        batch = settle.next_batch(list(found.values()), lines, left)
        if batch is None:
            return {s.claim: End(s.verdict, *_at(totals[s.claim], s.n, tasks)) for s in found.values()}
        left = Left(left.episodes - batch.episodes, left.seconds - batch.seconds)
        lines |= {name: replace(lines[name], episodes=size) for name, size in batch.sizes.items()}


def _held(
    claims: Sequence[settle.Tested],
    found: Mapping[str, Standing],
    totals: Mapping[str, np.ndarray],
    tasks: int,
    alpha: float,
) -> dict[str, Standing]:
    """Return the standings of a family of paired claims, each held to it as `verdicts` holds them."""
    judged, held = [], {}
    for claim in claims:
        wins, losses, n = _at(totals[claim.id], found[claim.id].n, tasks)
        e = anytime.paired_e(wins, losses)
        verdict = decided(e >= 1 / alpha and wins > losses, found[claim.id].refute >= 1 / alpha)
        judged.append(Judgement(verdict, "", p=1.0, anytime=Anytime(e, 1 / alpha, None, verdict, "", (n,), {}, True)))
    families = verdicts.families(claims, judged)
    for claim, judgement in zip(claims, judged, strict=True):
        verdicts.adjust(judgement, families[claim.id], alpha)
        assert judgement.anytime is not None
        held[claim.id] = replace(found[claim.id], verdict=str(judgement.anytime.verdict).replace("inconclusive", ""))
    return held


def _totals(claim: settle.Tested, won: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return wins and losses after each init state, (init states, 2)."""
    arms = [won[arm] for arm in settle.arms_of(claim)]
    other = ~arms[0] if len(arms) == 1 else arms[1]
    sides = [arms[0], other] if len(arms) == 1 else [arms[0] & ~other, other & ~arms[0]]
    return np.column_stack([side.sum(1).cumsum() for side in sides])


def _at(totals: np.ndarray, n: int, tasks: int) -> tuple[int, int, int]:
    wins, losses = totals[n // tasks - 1].tolist()
    return wins, losses, n


def _look(claim: settle.Tested, totals: np.ndarray, lines: Mapping[str, Line], needed: float, size: int) -> Standing:
    starts = min(lines[arm].episodes for arm in settle.arms_of(claim))
    n = starts * next(iter(lines.values())).tasks
    return standing(claim, *totals[starts - 1].tolist(), n, needed, size)


@cache
def standing(claim: settle.Tested, wins: int, losses: int, n: int, needed: float, size: int) -> Standing:
    """Return where a claim stands with these counts."""
    support, refute = settle.evidence(claim, wins, losses, n)
    verdict = "supported" if support >= needed else "refuted" if refute >= needed else ""
    further = settle.further(claim, wins, losses, n, needed, size)
    return Standing(claim.id, tuple(settle.arms_of(claim)), n, support, refute, needed, further, verdict)


def tested(file: types.ClaimsFile) -> list[settle.Tested]:
    """Return the claims that settle can grow."""
    return [claim for claim in file.claims if isinstance(claim, settle.Tested)]


Judged = Callable[[str, int, int, int], str]


def settled(
    file: types.ClaimsFile, tasks: int, campaigns: int, generator: np.random.Generator, judged: Judged, every: bool
) -> tuple[Counter[tuple[str, str]], dict[str, list[int]], int, int]:
    """Return how often each claim got each verdict, its numbers of pairs at the end, and how many ends were judged and
    how many of these as the rule did: by `judged`, which judges a claim's counts as real ones are (what the rule left
    open, in a tenth of the campaigns).
    """
    standing.cache_clear()  # another call may be of other e-values
    claims = tested(file)
    found: Counter[tuple[str, str]] = Counter()
    ends: Counter[tuple[str, End]] = Counter()
    sizes: dict[str, list[int]] = {claim.id: [] for claim in claims}
    with mock.patch.object(settle, "BATCH_S", 0.0 if every else settle.BATCH_S):
        for index in range(campaigns):
            for name, end in campaign(claims, drawn(generator, tasks), 1 / file.alpha).items():
                sizes[name].append(end.n)
                if end.verdict or index % 10 == 0:
                    ends[name, end] += 1
                else:
                    found[name, "inconclusive"] += 1
    same = 0
    for (name, end), times in sorted(ends.items(), key=lambda item: item[0][1].n):  # alike n share their resamples
        verdict = judged(name, end.wins, end.losses, end.n)
        found[name, verdict] += times
        same += times * (verdict == (end.verdict or "inconclusive"))
    return found, sizes, ends.total(), same


def saved(words: str, arm: str, found: float, sizes: Sequence[int], alpha: float) -> str:
    """Return a line: pairs on average against those of the fixed design that finds an arm's gain over b as often (in
    99 % at most, which every design can).
    """
    p, q, needed = RATES[arm], RATES["b"], min(found, 0.99)
    only_a, only_b = (ALIKE * max(0, d) + (1 - ALIKE) * w for d, w in ((p - q, p * (1 - q)), (q - p, q * (1 - p))))
    fixed = power.smallest(lambda n: power.mcnemar_power(n, only_a, only_b, alpha), needed)
    mean = float(np.mean(sizes))
    planned = power.smallest(lambda n: power.mcnemar_power(n, (0.5 + 0.1) / 2, (0.5 - 0.1) / 2, alpha), needed)
    return (
        f"settle, {words}: found in {found:.1%}, {mean:.1f} pairs on average; n fixed with {needed:.0%} power for "
        f"this effect {fixed} ({mean / fixed - 1 if fixed else np.nan:+.0%}), for 10 points {planned} "
        f"({mean / planned - 1 if planned else np.nan:+.0%})"
    )
