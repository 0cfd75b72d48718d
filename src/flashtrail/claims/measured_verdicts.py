"""Verdicts about figures that no episode has (tables/measurements.py), and about the steps that policies took.

How each test decides is written above it; nothing else enters.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from flashtrail.claims import claims as types
from flashtrail.claims import success_verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.judgement import Judgement, NotTested, decided, pairs_of, scope_of, tested_on
from flashtrail.statistics import resampling
from flashtrail.statistics.intervals import LEVEL, Interval
from flashtrail.statistics.wording import listed, plural
from flashtrail.tables.measurements import Figure
from flashtrail.tables.schemas import PAIR_KEY

# --- measured: supported if each figure's whole interval lies on the stated side, refuted if one lies on the other ---


def judge_measured(claim: types.MeasuredClaim, campaign: Campaign, _alpha: float) -> Judgement:
    """Judge figures against their bounds."""
    found = [_figure(bound, campaign) for bound in claim.bounds]
    sides = [_side(bound, figure) for bound, figure in zip(claim.bounds, found, strict=True)]
    compared = [
        figure.model_dump() | {"said": figure.said(bound.number), "bound": bound.words, "met": _MET[side]}
        for bound, figure, side in zip(claim.bounds, found, sides, strict=True)
    ]
    names = list(dict.fromkeys(bound.measurement for bound in claim.bounds))
    return Judgement(
        decided(all(side == "holds" for side in sides), any(side == "excluded" for side in sides)),
        "; ".join("{title}: {said} ({n} {of}), {bound}: {met}".format(**one) for one in compared) + ".",
        {
            f"{bound.measurement}.{bound.figure}, {bound.words}": one
            for bound, one in zip(claim.bounds, compared, strict=True)
        },
        "; ".join(str(one["said"]) for one in compared),
        tested_on(policies=[campaign.measured[name].title for name in names]),
    )


def _figure(bound: types.Bound, campaign: Campaign) -> Figure:
    measurement = campaign.measured.get(bound.measurement)
    if measurement is None:
        raise NotTested(f"{bound.measurement} was not measured")
    figure = measurement.figure(bound.figure)
    if figure is None:
        has = listed([figure.name for figure in measurement.figures])
        raise NotTested(f"{bound.measurement} has no figure {bound.figure}; it has {has}")
    if figure.low is None:
        raise NotTested(f"{figure.n} {figure.of} give no interval of {bound.figure}: too few, or all alike")
    return figure


_MET = {"holds": "met", "excluded": "not met", "open": "open"}


def _side(bound: types.Bound, figure: Figure) -> str:
    assert figure.low is not None and figure.high is not None
    if bound.below is not None:
        return "holds" if figure.high < bound.below else "excluded" if figure.low >= bound.below else "open"
    assert bound.above is not None
    return "holds" if figure.low > bound.above else "excluded" if figure.high <= bound.above else "open"


# --- steps_saved: supported if the ratio of steps lies below `below` and success is not worse by `margin`;
#     refuted if either is excluded ---


def judge_steps_saved(claim: types.StepsSavedClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge whether an arm takes fewer steps a round than its control, at no cost in success."""
    success = success_verdicts.judge_non_inferiority(claim, campaign, alpha)
    pairs = pairs_of(campaign, claim.arm, claim.control)
    arm, control = (_steps(campaign, name, pairs) for name in (claim.arm, claim.control))
    # Two quotients of sums, over the same episodes: steps a round of the arm over steps a round of its control.
    sums = resampling.resampled_sums(np.column_stack([arm.to_numpy(), control.to_numpy()]))
    ratio = float(arm["steps"].sum() / arm["rounds"].sum() / (control["steps"].sum() / control["rounds"].sum()))
    interval = resampling.percentile_interval(sums[:, 0] / sums[:, 1] / (sums[:, 2] / sums[:, 3]))
    low, high = (ratio, ratio) if interval is None else (interval.low, interval.high)  # the same in every episode
    means = [f"{name} {part['steps'].sum() / part['rounds'].sum():.2f}" for name, part in _named(claim, arm, control)]
    return Judgement(
        decided(
            high < claim.below and success.verdict == "supported", low >= claim.below or success.verdict == "refuted"
        ),
        f"Core steps a round: {listed(means)}; ratio {ratio:.3f} [{low:.3f}, {high:.3f}] over "
        f"{plural(len(pairs), 'pair')} of episodes, against {claim.below:g}. {success.sentence}",
        {"steps_ratio": ratio, "low": low, "high": high, "below": claim.below, "success": success.numbers},
        f"\u00d7{ratio:.2f} [{low:.2f}, {high:.2f}] steps; {success.short}",
        success.tested_on,
        success.rows,
        success.p,
    )


# --- steps_differ: supported if the mean, over episodes, of the spread of steps within one lies above `above`;
#     refuted if it lies at or below ---


def judge_steps_differ(claim: types.StepsDifferClaim, campaign: Campaign, _alpha: float) -> Judgement:
    """Judge whether an arm's rounds take different numbers of steps within an episode."""
    rounds = _stepped(campaign, claim.arm)
    by_episode = rounds.groupby(list(PAIR_KEY), observed=True)["steps_used"]
    spread, used = by_episode.std(ddof=0).to_numpy(float), rounds["steps_used"]
    if len(spread) < resampling.MIN_CLUSTERS:
        raise NotTested(f"{plural(len(spread), 'episode')} of {claim.arm} give no interval")
    interval = resampling.ratio_over_episodes(spread, np.ones(len(spread)))
    mean = float(spread.mean())
    interval = interval or Interval(mean, mean, LEVEL)  # alike in every episode
    return Judgement(
        decided(interval.low > claim.above, interval.high <= claim.above),
        f"Within an episode of {claim.arm} the number of core steps a round has a standard deviation of {mean:.2f} "
        f"[{interval.low:.2f}, {interval.high:.2f}] (mean over {plural(len(spread), 'episode')}; "
        f"{int(used.min())} to {int(used.max())} steps), against {claim.above:g}.",
        {"spread": mean, "low": interval.low, "high": interval.high, "above": claim.above},
        f"SD {mean:.2f} [{interval.low:.2f}, {interval.high:.2f}] steps",
        scope_of(campaign, {claim.arm: campaign.judged(claim.arm)}),
    )


def _named(claim: types.StepsSavedClaim, arm: pd.DataFrame, control: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(claim.arm, arm), (claim.control, control)]


def _stepped(campaign: Campaign, arm: str) -> pd.DataFrame:
    """Return an arm's rounds; NotTested where its policy takes no steps."""
    rounds = campaign.of_arm("rounds", arm)
    if not len(rounds) or rounds["steps_used"].isna().any():
        raise NotTested(f"arm {arm} has no rounds" if not len(rounds) else f"the policy of {arm} takes no steps")
    return rounds


def _steps(campaign: Campaign, arm: str, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return steps and rounds of each episode of the pairs."""
    by_episode = _stepped(campaign, arm).groupby(list(PAIR_KEY), observed=True)["steps_used"]
    sums = by_episode.agg(steps="sum", rounds="size").astype(float)
    return sums.loc[pd.MultiIndex.from_frame(pairs[list(PAIR_KEY)])]
