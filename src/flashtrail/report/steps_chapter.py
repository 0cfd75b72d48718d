"""The compute dial: how many steps the core of each arm's policy took a round, beside the arm's success."""

from __future__ import annotations

import numpy as np

from flashtrail.claims.campaign import Campaign
from flashtrail.report import figures, page, sweep_figures
from flashtrail.report.count_links import behind
from flashtrail.report.overview import arm_name
from flashtrail.report.page import Html
from flashtrail.statistics import intervals, resampling
from flashtrail.statistics.wording import counted, percent_range
from flashtrail.tables.schemas import PAIR_KEY


def arms(run: Campaign) -> list[str]:
    """Return the arms whose rounds count steps."""
    if not len(run.rounds):
        return []
    stepped = set(run.rounds.loc[run.rounds["steps_used"].notna(), "arm"])
    return [arm for arm in run.arms if arm in stepped]


def section(run: Campaign) -> Html:
    """Return core steps a round and success by arm; empty where no policy takes any."""
    rows = [_row(run, arm) for arm in arms(run)]
    if not rows:
        return page.join()
    heads = {
        "arm": "Arm",
        "steps": "Core steps a round [95 %]",
        "least": "Fewest to most",
        "within": "SD in an episode",
    }
    heads |= {"success": "Success, verified"}
    caption = "Of the policy\u2019s core, over all layers. Interval: over episodes. SD: mean over episodes"
    table = page.table(rows, heads, ("steps", "within"), caption=caption, stacked=True, name="steps")
    if not sweep_figures.dials(run):
        return page.join(table)
    words = (
        "Verified success by the steps that a round took, no fault: the field stops when calm, or always runs as many"
    )
    return page.join(table, figures.shown(run, "dial", words))


def _row(run: Campaign, arm: str) -> dict[str, object]:
    used = run.of_arm("rounds", arm).dropna(subset=["steps_used"])
    by_episode = used.groupby(list(PAIR_KEY), observed=True)["steps_used"]
    sums, rounds = by_episode.sum().to_numpy(float), by_episode.size().to_numpy(float)
    mean, interval = sums.sum() / rounds.sum(), resampling.ratio_over_episodes(sums, rounds)
    ends = "" if interval is None else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return {
        "arm": arm_name(arm, run.summaries[arm], run),
        "steps": f"{mean:.2f}{ends}",
        "least": f"{int(used['steps_used'].min())} to {int(used['steps_used'].max())}",
        "within": f"{np.mean(by_episode.std(ddof=0)):.2f}",
        "success": _success(run, arm),
    }


def _success(run: Campaign, arm: str) -> object:
    seen = run.judged(arm)["verified_success"].dropna()
    rate = intervals.rate(int(seen.sum()), len(seen))
    return behind(run, arm, f"{counted(rate)} [{percent_range(rate.wilson)}]" if rate.wilson else counted(rate))
