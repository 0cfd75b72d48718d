"""Criteria of success that a suite records beside the verified one, in the order of how much they ask."""

from __future__ import annotations

import pandas as pd

from flashtrail.claims.campaign import Campaign
from flashtrail.tables import schemas

CRITERIA = {
    "naive_success": "Naive",
    "own_success": "Simulator, any step",
    "printed_success": "Corrected, as printed",
    "success": "Held",
    "verified_success": "Verified",
}


def arms(run: Campaign) -> list[str]:
    """Return the arms of which every criterion is recorded, in some episodes at least."""
    return [arm for arm in run.summaries if len(seen(run, arm))]


def seen(run: Campaign, arm: str) -> pd.DataFrame:
    """Return the judged episodes of an arm that have every criterion."""
    episodes = run.judged(arm)
    episodes = episodes.assign(success=episodes["outcome"].eq("success"))  # held, whichever success the run counts
    return episodes[episodes[list(schemas.METRICS)].notna().all(axis=1)]


def count(values: pd.Series) -> tuple[int, int]:
    """Return in how many episodes a criterion says yes, or counts one or more, and of how many judged."""
    judged = values.dropna()
    return int(judged.astype(int).gt(0).sum()), len(judged)
