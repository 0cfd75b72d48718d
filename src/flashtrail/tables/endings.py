"""How episodes ended, by kind: success, time ran out without, under or with an unrecorded fault, infrastructure.

The one place where an episode's kind is decided; counts and pages both come from here.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from flashtrail.tables.schemas import EPISODE_KEY

# kind: in words
KINDS = {
    "success": "success",
    "horizon": "time ran out, no fault",
    "perturbation": "time ran out under a fault",
    "untold": "time ran out, fault not recorded",
    "infrastructure": "infrastructure error",
}


def judged(episodes: pd.DataFrame) -> pd.DataFrame:
    """Return the episodes by which a policy is judged: all but those that infrastructure ended.

    The one rule, of own and of imported runs: an error is neither a success nor a failure of the policy, so it is in no
    k/n. It is not hidden either: every page counts and names such episodes (`infrastructure` below).
    """
    return episodes[episodes["outcome"] != "error"]


def kinds(episodes: pd.DataFrame, rounds: pd.DataFrame) -> pd.Series:
    """Return each episode's kind, in the order and with the index of `episodes`.

    success; horizon: time ran out though no round was touched by a condition; perturbation: time ran out in an episode
    with at least one touched round (which need not be why); untold: time ran out and no round says whether it was
    touched, or none is on record (imported runs); infrastructure: errors, which the merge stops at and no k/n counts
    (`judged`).
    """
    key = list(EPISODE_KEY)
    applied = rounds[key].assign(touched=rounds["condition_applied"].eq(True), told=rounds["condition_applied"].notna())
    of_episode = episodes[key].merge(applied.groupby(key).any().reset_index(), on=key, how="left")
    kinds = pd.Series("horizon", index=episodes.index, dtype=object)
    kinds[of_episode["told"].ne(True).to_numpy()] = "untold"  # also where no round is on record
    kinds[of_episode["touched"].eq(True).to_numpy()] = "perturbation"
    kinds[episodes["outcome"] == "success"] = "success"
    kinds[episodes["outcome"] == "error"] = "infrastructure"
    return kinds


def taxonomy(episodes: pd.DataFrame, rounds: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Return how many episodes of each arm ended in which way: arm, n, and a column per kind."""
    kind = kinds(episodes, rounds)
    rows = []
    for arm in arms:
        counts = kind[episodes["arm"] == arm].value_counts()
        rows.append({"arm": arm, "n": int(counts.sum()), **{name: int(counts.get(name, 0)) for name in KINDS}})
    return pd.DataFrame(rows)
