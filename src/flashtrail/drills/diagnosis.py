"""What predicates make of drills whose cause is known: confusion, false alarms, what cannot be distinguished, power.

Every word about a drill follows from counts; none is written in advance. A drill counts as named if a run of it is
given its own name and no other arm is, and as told from another arm if some predicate holds in the two at different
rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.drills import power, verdicts
from flashtrail.drills.bounds import Reference
from flashtrail.drills.logs import Logged, Run
from flashtrail.drills.predicates import FEATURES, NAMES, PREDICATES, features
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import listed

PREFIX, CLEAN = "drill_", "clean"  # as the workflow calls the arms (experiment/arms.py)
ALPHA = 0.05
SLACKS = (0.0, 0.25, 0.5, 1.0)  # beside the one that bounds have, to show what hangs on it


def of_runs(reference: Reference, runs: Iterable[Run]) -> dict[str, Any]:
    """Diagnose whole runs: arms are known by name, ``drill_clean`` and ``drill_NAME``; UserError without the first."""
    arms = {arm.removeprefix(PREFIX): episodes for run in runs for arm, episodes in run.arms.items()}
    if CLEAN not in arms:
        raise UserError(f"no clean run among {listed(sorted(arms))}: its arm is called {PREFIX}{CLEAN}")
    return diagnose(reference, {name: e for name, e in arms.items() if name != CLEAN}, arms[CLEAN])


def diagnose(reference: Reference, drills: Mapping[str, Sequence[Logged]], clean: Sequence[Logged]) -> dict[str, Any]:
    """Return, as JSON-able data, what the predicates say of each drill's episodes and of the clean ones.

    `drills` maps a predicate's name to its episodes; a drill that no predicate is named after is judged all the same.
    """
    kinds = {CLEAN: list(clean), **{name: list(episodes) for name, episodes in drills.items()}}
    judged = {name: [_episode(logged, reference) for logged in episodes] for name, episodes in kinds.items()}
    matrix = {name: verdicts.counts(row["flags"] for row in rows) for name, rows in judged.items()}
    apart = separations(matrix)
    runs = {name: _run(rates, reference) for name, rates in matrix.items()}
    powers = {
        name: power.curve(
            [row["flags"] for row in rows], [row["task"] for row in rows], name if name in NAMES else None, reference
        )
        for name, rows in judged.items()
        if rows
    }
    return {
        "episodes": judged,
        "matrix": {name: {p: rate.as_dict() for p, rate in row.items()} for name, row in matrix.items()},
        "diagnoses": {name: _diagnoses(rows) for name, rows in judged.items()},
        "runs": runs,
        "false_alarms": _false_alarms(judged[CLEAN], matrix[CLEAN], reference),
        "success": {name: _success(rows, judged[CLEAN]) for name, rows in judged.items()},
        "apart": apart,
        "verdicts": {name: verdict(name, runs, apart) for name in drills},
        "power": {name: [asdict(entry) for entry in curve] for name, curve in powers.items()},
        "enough": {name: power.enough(curve) for name, curve in powers.items()},
        "slack": [slack_of(slack, reference, kinds) for slack in SLACKS],
        "sentences": {predicate.name: predicate.sentence for predicate in PREDICATES},
        "alpha": ALPHA,
    }


def _episode(logged: Logged, reference: Reference) -> dict[str, Any]:
    flags, measured = verdicts.judge(logged.episode, reference.bounds), features(logged.episode)
    return {
        "arm": logged.arm,
        "task": logged.task,
        "start": logged.start,
        "key": logged.key,
        "flags": flags,
        "cause": verdicts.cause(flags),
        "rewarded": bool(measured["rewarded"]),
        "features": {name: None if np.isnan(measured[name]) else measured[name] for name in FEATURES},
    }


def _diagnoses(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many episodes by themselves are given which name; `none` where nothing speaks."""
    names = [row["cause"] or "none" for row in rows]
    return {name: names.count(name) for name in (*NAMES, "none")}


def _run(rates: Mapping[str, intervals.Rate], reference: Reference) -> dict[str, Any]:
    """Return what the whole run is diagnosed as, all its episodes together."""
    names = verdicts.firing(rates, reference)
    return {"cause": names[0] if names else None, "firing": names, "unjudged": [n for n in NAMES if not rates[n].n]}


def _false_alarms(
    rows: Sequence[Mapping[str, Any]], rates: Mapping[str, intervals.Rate], reference: Reference
) -> dict[str, Any]:
    """Return how often clean episodes are flagged, by predicate and by any of them, beside what is promised."""
    flagged = sum(row["cause"] is not None for row in rows)
    bounded = [verdicts.by_bound(row["flags"]) for row in rows]
    promised = {
        p.name: verdicts.run_alarm(p, 1, reference.bounds)
        for p in PREDICATES
        if all(name in reference.bounds for name in p.bounded)
    }
    return {
        "by_predicate": {
            name: rate.as_dict() | {"promised_at_most": promised.get(name)} for name, rate in rates.items()
        },
        "any": intervals.rate(flagged, len(rows)).as_dict(),
        "any_bound": intervals.rate(sum(bounded), len(rows)).as_dict(),
        "run": _run(rates, reference),
    }


def _success(rows: Sequence[Mapping[str, Any]], clean: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many episodes were rewarded, and the same starts of the clean run: what the failure costs."""
    own = {(row["task"], row["start"]): row["rewarded"] for row in rows}
    other = {(row["task"], row["start"]): row["rewarded"] for row in clean}
    both = sorted(set(own) & set(other))
    success = intervals.rate(sum(own.values()), len(own)).as_dict()
    if not both or rows is clean:
        return success | {"paired": None}
    paired = intervals.paired([own[key] for key in both], [other[key] for key in both])
    return success | {"paired": asdict(paired) | {"k": paired.k_a, "k_clean": paired.k_b}}


def slack_of(slack: float, reference: Reference, kinds: Mapping[str, Sequence[Logged]]) -> dict[str, Any]:
    """Return what another slack of the bounds would make of the same episodes: nothing is decided by it."""
    other = replace(reference, bounds={name: replace(b, slack=slack) for name, b in reference.bounds.items()})
    result: dict[str, Any] = {"slack": slack, "drills": {}}
    for name, episodes in kinds.items():
        flags = [verdicts.judge(logged.episode, other.bounds) for logged in episodes]
        rates = verdicts.counts(flags)
        cause = next(iter(verdicts.firing(rates, other)), None)
        if name == CLEAN:
            result["clean"] = {"k": sum(map(verdicts.by_bound, flags)), "n": len(flags), "cause": cause}
        elif name in NAMES:
            result["drills"][name] = {"k": rates[name].k, "n": rates[name].n, "cause": cause}
    return result


# --- what cannot be distinguished ---


def separations(matrix: Mapping[str, Mapping[str, intervals.Rate]]) -> list[dict[str, Any]]:
    """Return, for each two arms, the predicate whose rates differ most surely, with Boschloo's exact p.

    p values are Holm's, over all pairs and predicates: two arms differ if the least of theirs is below ALPHA.
    """
    tests = []
    for a, b in combinations(matrix, 2):
        for name in NAMES:
            x, y = matrix[a][name], matrix[b][name]
            if x.n and y.n:
                tests.append((a, b, name, _p(x.k, x.n, y.k, y.n)))
    adjusted = intervals.holm([p for *_, p in tests])
    pairs: list[dict[str, Any]] = []
    for a, b in combinations(matrix, 2):
        own = [(p, name) for (x, y, name, _), p in zip(tests, adjusted, strict=True) if (x, y) == (a, b)]
        p, best = min(own, default=(1.0, ""))
        pairs.append({"a": a, "b": b, "predicate": best if p < ALPHA else None, "p": p, "apart": p < ALPHA})
    return pairs


@lru_cache(maxsize=4096)
def _p(k_a: int, n_a: int, k_b: int, n_b: int) -> float:
    if k_a * n_b == k_b * n_a:
        return 1.0
    return intervals.unpaired(k_a, n_a, k_b, n_b).p


def verdict(name: str, runs: Mapping[str, Mapping[str, Any]], apart: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what can be said of a drill: `named`, `noticed` or `unseen`, and from which arms it is not told.

    named: its run is given its own name, and every other arm's run another one. noticed: it is told from the clean run,
    but not by that. unseen: no predicate tells it from the clean run at ALPHA.
    """
    blurred = [e["b"] if e["a"] == name else e["a"] for e in apart if name in (e["a"], e["b"]) and not e["apart"]]
    cause = runs[name]["cause"]
    shared = [other for other, run in runs.items() if other != name and cause and run["cause"] == cause]
    if CLEAN in blurred:
        word = "unseen"
    else:
        word = "named" if cause == name and not shared else "noticed"
    return {"verdict": word, "run_cause": cause, "same_name": shared, "not_told_from": blurred}
