"""Latency of rounds that had a pass of the device to themselves, beside that of rounds that shared one.

The profile runs alone; rollouts with several simulators share passes (`batch_size` above 1), and then a round's time is
the whole pass's. The two are never pooled here.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from flashtrail.claims.campaign import Campaign
from flashtrail.report import page
from flashtrail.report.count_links import behind
from flashtrail.report.page import Html
from flashtrail.statistics import intervals, resampling
from flashtrail.statistics.intervals import Quantile
from flashtrail.statistics.wording import DASH, percent, plural, quantile
from flashtrail.tables.schemas import EPISODE_KEY, ROUTES

_QUANTILES = {"p50": 0.50, "p95": 0.95}


def section(run: Campaign) -> Html:
    """Say that the profile runs alone, and show batched rounds beside those alone where the rollouts have any."""
    rounds = run.rounds[run.rounds["arm"].isin(run.arms)]
    batched = rounds[rounds["batch_size"].notna()]
    text = "The profile runs alone: one session, one round in each pass of the device. "
    if not len(batched):
        text += "The rollouts do not say how many rounds shared a pass." if len(rounds) else ""
        return page.paragraph(text)
    shared = int((batched["batch_size"] > 1).sum())
    if not shared:
        text += f"So did all {plural(len(batched), 'round')} of the rollouts: no two simulators shared a pass."
        return page.paragraph(text)
    text += (
        f"In the rollouts {shared:,} of {plural(len(batched), 'round')} ({percent(shared / len(batched))}) shared a "
        "pass with those of other simulators. A shared pass is timed as a whole, which "
        "does not measure a route: such rounds are listed separately, and route times come from the profile."
    )
    rows = [row for arm in run.arms for row in _rows(run, arm, batched[batched["arm"] == arm])]
    heads = {"arm": "Arm", "route": "Route", "profile": "Profile, alone: p50 [95 %] (n)"}
    for kind, label in (("alone", "Rollouts, alone"), ("batched", "Batched")):
        heads |= {f"{kind}_n": f"{label}: rounds (episodes)"}
        heads |= {f"{kind}_{name}": f"{label}: {name} [95 %]" for name in _QUANTILES}
    heads |= {"size": "Rounds a pass, mean"}
    note = "Intervals of the rollouts resample whole episodes; those of the profile are of order statistics."
    caption = "Policy time of a pass (ms), alone and batched"
    table = page.table(rows, heads, tuple(heads)[2:], caption, stacked=True, name="batching")
    return page.join(page.paragraph(text), page.paragraph(note, "note"), table)


def _rows(run: Campaign, arm: str, rounds: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per route of an arm that had batched rounds."""
    if not (rounds["batch_size"] > 1).any():
        return []
    policy = run.summaries[arm]["policy"] if arm in run.summaries else None
    rows = []
    for route in ROUTES:
        part = rounds[rounds["route"] == route]
        if not len(part):
            continue
        batched = part[part["batch_size"] > 1]
        row: dict[str, Any] = {"arm": page.code(arm), "route": route, "profile": _profiled(run, policy, route)}
        for kind, chosen in (("alone", part[part["batch_size"] == 1]), ("batched", batched)):
            row |= {f"{kind}_{name}": cell for name, cell in _cells(chosen).items()}
            row[f"{kind}_n"] = behind(run, arm, row[f"{kind}_n"])
        rows.append(row | {"size": f"{batched['batch_size'].mean():.1f}" if len(batched) else DASH})
    return rows


def _cells(rounds: pd.DataFrame) -> dict[str, Any]:
    """n and quantiles of policy time, their intervals over episodes."""
    timed = rounds[rounds["policy_ms"].notna()]
    episode = timed.groupby(list(EPISODE_KEY), sort=False).ngroup().to_numpy()
    times = timed["policy_ms"].to_numpy(float)
    quantiles = resampling.latency_quantiles(times, episode, tuple(_QUANTILES.values())) if len(timed) else {}
    episodes = int(episode.max()) + 1 if len(timed) else 0
    cells = {name: quantile(quantiles.get(share)) for name, share in _QUANTILES.items()}
    return cells | {"n": f"{len(timed):,} ({episodes:,})"}


def _profiled(run: Campaign, policy: str | None, route: str) -> str:
    """The profile's median of a policy's route; a dash where it was not profiled."""
    profile = run.profile
    times = profile.loc[(profile["policy"] == policy) & (profile["route"] == route), "policy_ms"]
    median: Quantile | None = intervals.latency(times).p50 if len(times) else None
    return DASH if median is None else f"{quantile(median)} ({len(times)})"
