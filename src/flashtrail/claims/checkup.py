"""The checkup: one task at all its init states against the policy's published success, judged by the interval.

`healthy`: at most 3 points below what was published; `suspicious`: 3 to 5; `broken`: more than 5. A verdict is one of
these words only where the whole 95 % interval of the difference lies within it; otherwise it is `open`, and the words
that the interval leaves are named, with the episodes that would settle it. A published count has its own sampling
error; a published percentage without its number of episodes is taken as exact.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray
from statsmodels.stats.proportion import confint_proportions_2indep

from flashtrail.base import commands, provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import published
from flashtrail.claims.published import Starts, Success
from flashtrail.statistics import intervals, power
from flashtrail.statistics.intervals import LEVEL, Interval, Rate
from flashtrail.statistics.wording import listed, percent, percent_range, plural, points, points_range
from flashtrail.tables import schemas

HEALTHY, BROKEN = 0.03, 0.05  # shortfall up to which a policy is healthy, and beyond which it is broken
ZONES = ("healthy", "suspicious", "broken")
OPEN = "open"
WORSE = (0.05, 0.10, 0.20, 0.30)  # shortfalls for which the chances of each verdict are given
_EPSILON = 1e-9  # 47/50 - 0.97 is exactly 3 points to a reader


@dataclass(frozen=True)
class Reference:
    """A published rate: k of n episodes, or (n None) a percentage taken as exact."""

    rate: float
    k: int | None = None
    n: int | None = None

    @classmethod
    def of(cls, figure: Success) -> Reference:
        """Return a figure's rate; a percentage that is not a whole count of its n gives the nearest count."""
        if figure.n is None:
            assert figure.percent is not None
            return cls(figure.percent / 100)
        k = figure.count
        if k is None:
            k = round((figure.percent or 0.0) * figure.n / 100)
        return cls(k / figure.n, k, figure.n)


# --- the rule ---


def interval(k: Any, n: int, reference: Reference) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both ends of the interval of k/n - published, for one k or many.

    Newcombe's of two independent rates; Clopper-Pearson's of k/n where the published rate is taken as exact.
    """
    counts = np.asarray(k)
    if reference.n is None:
        low, high = intervals.clopper_pearson_limits(counts, n)
        return low - reference.rate, high - reference.rate
    low, high = confint_proportions_2indep(
        counts, n, reference.k, reference.n, method="newcomb", compare="diff", alpha=1 - LEVEL
    )
    return np.asarray(low), np.asarray(high)


def zone(difference: float) -> str:
    """Return the word for a true difference ours - published."""
    if difference >= -HEALTHY - _EPSILON:
        return "healthy"
    return "suspicious" if difference >= -BROKEN - _EPSILON else "broken"


def words(low: float, high: float) -> list[str]:
    """Return the words that an interval of the difference leaves possible, from healthy to broken."""
    return list(ZONES[ZONES.index(zone(high)) : ZONES.index(zone(low)) + 1])


def verdict(low: float, high: float) -> str:
    """Return the one word that an interval leaves, or `open`."""
    left = words(low, high)
    return left[0] if len(left) == 1 else OPEN


def chances(n: int, reference: Reference, truth: float) -> dict[str, float]:
    """Return how probable each verdict of n episodes is under a true rate, the published count as it is.

    `by_eye_broken`: that the point estimate alone would be called broken.
    """
    k = np.arange(n + 1)
    weight = scipy.stats.binom.pmf(k, n, truth)
    low, high = interval(k, n, reference)
    verdicts = {
        "healthy": low >= -HEALTHY - _EPSILON,
        "suspicious": (low >= -BROKEN - _EPSILON) & (high < -HEALTHY - _EPSILON),
        "broken": high < -BROKEN - _EPSILON,
    }
    probability = {word: float(weight[mask].sum()) for word, mask in verdicts.items()}
    by_eye = float(weight[k / n - reference.rate < -BROKEN - _EPSILON].sum())
    return probability | {OPEN: max(1.0 - sum(probability.values()), 0.0), "by_eye_broken": by_eye}


def settle(k: int, n: int, reference: Reference) -> list[power.Plan]:
    """Return how many episodes would give the verdict that a truth leads to, with 80 % power, the published as it is.

    Truths: the rate is as published; as observed; ten points below what was published.
    """
    truths = {"the rate is as published": reference.rate}
    if abs(k / n - reference.rate) > _EPSILON:
        truths["the rate is as observed"] = k / n
    if reference.rate > 0.10:
        truths["the rate is 10 points below what was published"] = reference.rate - 0.10
    plans = []
    for assumption, truth in truths.items():
        word = zone(truth - reference.rate)
        needed = power.smallest(lambda m, p=truth, w=word: chances(m, reference, p)[w])  # type: ignore[misc]
        unit = "episode"
        if needed is None and reference.n is not None:  # the published episodes are too few, whatever ours are
            needed, unit = _on_each_side(truth, reference.rate), "episode a side"
        plans.append(power.Plan(f"{assumption} ({percent(truth)})", word, needed, unit=unit))
    return plans


def _on_each_side(truth: float, rate: float) -> int | None:
    """Return how many episodes of ours and as many published ones would do, by the normal approximation."""
    difference = truth - rate
    gap = {"healthy": difference + HEALTHY, "suspicious": 0.0, "broken": -BROKEN - difference}[zone(difference)]
    if gap <= _EPSILON:
        return None
    errors = float(scipy.stats.norm.ppf(0.5 + LEVEL / 2) + scipy.stats.norm.ppf(power.POWER))
    needed = (truth * (1 - truth) + rate * (1 - rate)) * (errors / gap) ** 2
    return math.ceil(needed) if needed <= power.MOST else None


# --- one run ---


def judge(
    episodes: str | Path, figures: Sequence[str | Path], key: str | None, scene_seed: str = "episode"
) -> dict[str, Any]:
    """Return the checkup of an arm's episodes as plain data (docs/evidence.md); `key` None: nothing is published.

    UserError for episodes of several tasks, or a key without a figure for this suite and task.
    """
    rows = schemas.read_table(episodes, schemas.EPISODES).to_pandas()
    about = _about(rows)
    record = about | {"success": _rate(rows["success"]), **_verified(rows), "closing": _closing(rows)}
    if key is None:
        return record | {"published": None, "verdict": None, "sentence": _without(record)}
    everything = published.load_all(figures)
    figure = published.success_of(everything, key, about["suite"], about["task_id"])
    reference = Reference.of(figure)
    ours = record["success"]
    low, high = (float(end) for end in interval(ours["k"], ours["n"], reference))
    difference = ours["rate"] - reference.rate
    record |= {
        "published": _published(key, figure, everything.sources[figure.source], reference),
        "difference": difference,
        "interval": asdict(Interval(low, high)),
        "bounds": {"healthy": HEALTHY, "broken": BROKEN},
        "verdict": verdict(low, high),
        "words": words(low, high),
        "by_eye": zone(difference),
        "above": low > BROKEN,
        "starts": _starts(rows, figure.starts, scene_seed),
        "chances": _table_of_chances(ours["n"], reference),
        "settle": [plan.as_dict() for plan in settle(ours["k"], ours["n"], reference)],
    }
    return record | {"sentence": sentence(record)}


def _about(rows: pd.DataFrame) -> dict[str, Any]:
    tasks = sorted(rows["task_id"].unique())
    if len(tasks) != 1:
        raise UserError(f"a checkup is of one task; the table has tasks {listed(tasks)}")
    if (rows["outcome"] == "error").any():
        raise UserError("the table has episodes that ended in an error: run the workflow again, it tries them again")
    first = rows.iloc[0]
    names = {name: str(first[name]) for name in ("arm", "policy", "suite", "task")}
    states = sorted(int(state) for state in rows["init_state"].unique())
    return {"version": 1, **names, "task_id": int(tasks[0]), "seed": int(first["seed"]), "init_states": states}


def _rate(won: pd.Series) -> dict[str, Any]:
    rate = intervals.rate(int(won.astype(bool).sum()), len(won))
    assert rate.rate is not None
    return rate.as_dict() | {"standard_error": float(np.sqrt(rate.rate * (1 - rate.rate) / rate.n))}


def _verified(rows: pd.DataFrame) -> dict[str, Any]:
    """Return verified success over all episodes; None where one of them was not verified."""
    if rows["verified_success"].isna().any():
        return {"verified": None, "disagreements": None}
    disagrees = rows["verified_success"].astype(bool) != rows["success"].astype(bool)
    disagreements = [schemas.episode_id(row) for row in rows[disagrees].to_dict("records")]
    return {"verified": _rate(rows["verified_success"]), "disagreements": disagreements}


def _closing(rows: pd.DataFrame) -> dict[str, Any]:
    steps = rows["first_close_step"].dropna()
    won = rows["success"].astype(bool)
    return {
        "median_step": float(steps.median()) if len(steps) else None,
        "never": int(rows["first_close_step"].isna().sum()),
        "never_and_success": int((rows["first_close_step"].isna() & won).sum()),
    }


def _published(key: str, figure: Success, source: published.Source, reference: Reference) -> dict[str, Any]:
    counted = intervals.rate(reference.k, reference.n).as_dict() if reference.n and reference.k is not None else None
    return {
        "key": key,
        "rate": reference.rate,
        "count": counted,
        "scope": "task" if figure.task is not None else "suite",
        "starts": figure.starts.model_dump() if figure.starts else None,
        **{name: getattr(source, name) for name in ("title", "where", "policy", "hardware", "setting")},
        "success_scope": source.success_scope,
    }


def _starts(rows: pd.DataFrame, starts: Starts | None, scene_seed: str) -> dict[str, Any] | None:
    """Return how our initial states and the published ones overlap; None where theirs are not known.

    `same`: episodes with init state, repeat and seed of a published one, so its scene and noise, too; `shared` and
    `others`: our success at the published init states, and at the others.
    """
    if starts is None:
        return None
    shared = rows["init_state"].isin(starts.init_states)
    same = shared & (rows["repeat"] < starts.repeats) & (rows["seed"] == starts.seed) & (scene_seed == "episode")
    return {"same": int(same.sum()), "shared": _part(rows[shared]), "others": _part(rows[~shared])}


def _part(rows: pd.DataFrame) -> dict[str, Any] | None:
    states = sorted(int(state) for state in rows["init_state"].unique())
    return {"init_states": states, **_rate(rows["success"])} if len(rows) else None


def _table_of_chances(n: int, reference: Reference) -> list[dict[str, Any]]:
    below = [(0.0, reference.rate)] + [(gap, reference.rate - gap) for gap in WORSE if gap < reference.rate]
    return [{"below": gap, "rate": rate, **chances(n, reference, rate)} for gap, rate in below]


# --- in words ---


def possible(left: Sequence[str]) -> str:
    """``healthy or suspicious``, ``healthy, suspicious or broken``."""
    return f"{', '.join(left[:-1])} or {left[-1]}" if len(left) > 1 else left[0]


def said(record: Mapping[str, Any]) -> str:
    """Return what the interval leaves possible and what it excludes."""
    if record["verdict"] == OPEN:
        count = plural(record["success"]["n"], "episode")
        text = f"by the interval the policy is {possible(record['words'])}: {count} cannot tell"
    else:
        text = "the whole interval lies there"
    ends = record["interval"]
    if record["verdict"] == "broken":
        return f"{text}; a shortfall of less than {_unsigned(-ends['high'])} is excluded"
    if ends["low"] < 0:
        text += f"; a shortfall of more than {_unsigned(-ends['low'])} is excluded"
    if record["above"]:
        text += "; ours is more than 5 points above, so look for a setting that differs from the published one"
    return text


def sentence(record: Mapping[str, Any]) -> str:
    """Return the verdict with its counts and intervals."""
    ends = Interval(**record["interval"])
    between = f"difference {points(record['difference'], 1)}, 95 % interval {points_range(ends, 1)}"
    counts = f"Ours {counted(record['success'])}; published {theirs(record['published'])}; {between}."
    return f"{record['verdict'].capitalize()}: {said(record)}. {counts}"


def _without(record: Mapping[str, Any]) -> str:
    return f"No verdict: no published figure is named. Ours {counted(record['success'])}."


def counted(count: Mapping[str, Any]) -> str:
    """``47/50 (94 %, standard error 3.4 points, 95 % interval 84-98 %)``."""
    rate = intervals.rate(count["k"], count["n"])
    error = _unsigned(count["standard_error"])
    if rate.k in (0, rate.n):
        error = "0, which at k = 0 or n says nothing"
    return f"{rate.k}/{rate.n} ({percent(rate.rate)}, standard error {error}, {_ends(rate)})"


def theirs(figure: Mapping[str, Any]) -> str:
    """The published rate with its own interval, or that it is taken as exact."""
    if figure["count"] is None:
        return f"{percent(figure['rate'], 1)}, without its number of episodes and so taken as exact"
    rate = intervals.rate(figure["count"]["k"], figure["count"]["n"])
    return f"{rate.k}/{rate.n} ({percent(rate.rate, 1)}, {_ends(rate)})"


def _ends(rate: Rate) -> str:
    assert rate.wilson is not None
    return f"95 % interval {percent_range(rate.wilson)}"


def _unsigned(share: float) -> str:
    return points(share, 1).lstrip("+")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the stored verdict."""
    parser = commands.Parser(prog="python -m flashtrail.claims.checkup", description="Print a checkup's verdict.")
    parser.add_argument("file", help="checkup.json")
    print(provenance.json_load(parser.parse_args(arguments).file)["sentence"])


if __name__ == "__main__":
    sys.exit(commands.run(main, "checkup"))
