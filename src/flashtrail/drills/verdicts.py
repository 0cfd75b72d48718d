"""From predicates to a word: of one episode the first rule that holds, of a run the first that most episodes show.

An episode is judged by itself; a run is judged by majority, so that a rare clean outlier names nothing, and failures
count as unexplained only where they are more than the clean reference has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flashtrail.drills import bounds as clean
from flashtrail.drills.bounds import Reference
from flashtrail.drills.predicates import LEFT_OVER, NAMES, PREDICATES, Bounds, Episode, Predicate, features
from flashtrail.statistics import intervals
from flashtrail.statistics.intervals import Rate

Flags = Mapping[str, bool | None]  # by predicate; None: could not be judged


def judge(episode: Episode, bounds: Bounds) -> dict[str, bool | None]:
    """Return what each predicate says of one episode."""
    measured = features(episode)
    return {predicate.name: predicate.judge(measured, bounds) for predicate in PREDICATES}


def cause(flags: Flags) -> str | None:
    """Return the first predicate, in their order, that holds; None where none does."""
    return next((name for name in NAMES if flags[name]), None)


def counts(judged: Iterable[Flags]) -> dict[str, Rate]:
    """Return, for every predicate, in how many of a run's episodes it held, of those in which it could be judged."""
    rows = list(judged)
    flags = {name: [bool(row[name]) for row in rows if row[name] is not None] for name in NAMES}
    return {name: intervals.rate(sum(values), len(values)) for name, values in flags.items()}


def by_bound(flags: Flags) -> bool:
    """Return whether a predicate holds that is not left by elimination, which speaks of every failure."""
    return any(flags[name] for name in NAMES if name != LEFT_OVER)


def needed(name: str, n: int, reference: Reference) -> int:
    """Return in how many of `n` judged episodes a predicate must hold to speak of the run: more than half.

    What is left by elimination must be more than clean episodes fail by themselves, too.
    """
    most = n // 2 + 1
    if name != LEFT_OVER:
        return most
    return max(most, clean.failures_needed(n, reference.episodes - reference.rewarded, reference.episodes))


def firing(rates: Mapping[str, Rate], reference: Reference) -> list[str]:
    """Return the predicates that speak of a run, in their order: the first is the likely cause."""
    return [name for name in NAMES if rates[name].k >= needed(name, rates[name].n, reference)]


def unjudged(episodes: Sequence[Episode], bounds: Bounds) -> dict[str, list[str]]:
    """Return, by predicate that no episode could be judged by, what the log or the bounds lack."""
    measured = [features(episode) for episode in episodes]
    result = {}
    for predicate in PREDICATES:
        lacks = [predicate.missing(row, bounds) for row in measured]
        if lacks and all(lacks):
            result[predicate.name] = sorted({name for row in lacks for name in row})
    return result


def run_alarm(predicate: Predicate, m: int, bounds: Bounds) -> float | None:
    """Return the most that the probability is of this predicate holding in most of `m` clean episodes.

    None for a rule that is not a bound of one feature, such as what is left by elimination.
    """
    if not predicate.sides:
        return None
    return clean.run_alarm(m, min(bounds[name].n for name in predicate.bounded), predicate.sides)
