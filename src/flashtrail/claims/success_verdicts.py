"""Verdicts about success: a rate against a bar, two arms paired or not, one arm not worse than another.

How each test decides is written above it; nothing else enters.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from flashtrail.claims import claims as types
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.judgement import (
    Judgement,
    arm_episodes,
    common_tasks,
    names_of,
    not_tested,
    pair_rows,
    pairs_of,
    rows_of,
    scope_of,
)
from flashtrail.statistics import intervals, power, resampling, stratified
from flashtrail.statistics.intervals import Interval
from flashtrail.statistics.wording import (
    counted,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
    rate_with_interval,
)

# --- rate_at_least: supported if Clopper-Pearson's interval lies above the bar, refuted if it lies below ---


def judge_rate(claim: types.RateClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge one arm's rate against a bar."""
    episodes = arm_episodes(campaign, claim.arm)
    if episodes is None:
        return not_tested(f"arm {claim.arm} was not run")
    found = intervals.rate(int(episodes["success"].sum()), len(episodes), 1 - alpha)
    assert found.exact is not None
    verdict: types.Verdict = "inconclusive"
    if found.exact.low >= claim.bar:
        verdict = "supported"
    elif found.exact.high < claim.bar:
        verdict = "refuted"
    p = intervals.binomial_p(found.k, found.n, claim.bar)
    relation = {"supported": "all of it at or above", "refuted": "all of it below", "inconclusive": "around"}[verdict]
    sentence = (
        f"{claim.arm} succeeded in {rate_with_interval(found)}; the exact interval "
        f"{percent_range(found.exact)} is {relation} the bar of {percent(claim.bar)} ({p_value(p)}, exact binomial)."
    )
    return Judgement(
        verdict,
        sentence,
        {"rate": found.as_dict(), "bar": claim.bar},
        f"{counted(found)} [{percent_range(found.exact)}]",
        scope_of(campaign, {claim.arm: episodes}),
        {claim.arm: rows_of(episodes), "failed": names_of(episodes[~episodes["success"]])},
        p,
        lambda alpha: power.rate_plan(found.k, found.n, claim.bar, alpha),
    )


# --- paired_difference: supported if exact McNemar finds the stated direction, refuted if the interval excludes a
# --- difference of the margin in that direction, inconclusive otherwise ---


def judge_paired(claim: types.PairedClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge a difference between two arms on the same episodes."""
    pairs = pairs_of(campaign, claim.arm, claim.control)
    if isinstance(pairs, str):
        return not_tested(pairs)
    found = intervals.paired(pairs["success_arm"].tolist(), pairs["success_control"].tolist(), 1 - alpha)
    sign = 1 if claim.direction == "greater" else -1
    largest = found.interval.high if sign > 0 else -found.interval.low
    verdict: types.Verdict = "inconclusive"
    if found.p <= alpha and sign * found.difference > 0:
        verdict = "supported"
    elif largest < claim.margin:
        verdict = "refuted"
    reason = _reason(verdict, sign, claim.margin, alpha)
    numbers, resampled = _paired_numbers(found, pairs, claim.margin, 1 - alpha)
    wins, losses = (found.only_a, found.only_b) if sign > 0 else (found.only_b, found.only_a)
    return Judgement(
        verdict,
        f"{_paired_words(claim.arm, claim.control, found)}{_resampled_words(resampled)}; "
        f"exact McNemar {p_value(found.p)} ({found.only_a} against {found.only_b} discordant pairs).{reason}",
        numbers,
        _paired_short(found),
        scope_of(campaign, {arm: arm_episodes(campaign, arm) for arm in (claim.arm, claim.control)}, pairs),
        pair_rows(pairs),
        found.p,
        lambda alpha: power.paired_plan(wins, losses, found.n, claim.margin, alpha),
    )


# --- non_inferiority: supported if the interval lies above -margin, refuted if it lies below, else inconclusive ---


def judge_non_inferiority(claim: types.NonInferiorityClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge that one arm is not worse than another by the claim's margin."""
    pairs = pairs_of(campaign, claim.arm, claim.control)
    if isinstance(pairs, str):
        return not_tested(pairs)
    found = intervals.paired(pairs["success_arm"].tolist(), pairs["success_control"].tolist(), 1 - alpha)
    p = intervals.paired_non_inferiority_p(found.only_a, found.only_b, found.n, claim.margin)
    verdict: types.Verdict = "inconclusive"
    if found.interval.low > -claim.margin:
        verdict = "supported"
    elif found.interval.high < -claim.margin:
        verdict = "refuted"
    reason = {
        "supported": f"A loss of {points(claim.margin).lstrip('+')} or more is excluded",
        "refuted": f"The loss is {points(claim.margin).lstrip('+')} or more",
        "inconclusive": f"A loss of {points(claim.margin).lstrip('+')} is not excluded: too few episodes",
    }[verdict]
    if verdict == "inconclusive" and found.interval.high < 0:
        reason = f"There is a loss; whether it reaches {points(claim.margin).lstrip('+')} is open"
    numbers, resampled = _paired_numbers(found, pairs, claim.margin, 1 - alpha)
    return Judgement(
        verdict,
        f"{_paired_words(claim.arm, claim.control, found)}{_resampled_words(resampled)}. {reason} "
        f"(one-sided {p_value(p)}, paired score test).",
        numbers | {"p_non_inferiority": p},
        _paired_short(found),
        scope_of(campaign, {arm: arm_episodes(campaign, arm) for arm in (claim.arm, claim.control)}, pairs),
        pair_rows(pairs),
        p,
        lambda alpha: power.non_inferiority_plan(found.only_a, found.only_b, found.n, claim.margin, alpha),
    )


# --- unpaired_difference: like with like, task by task; supported if the test finds the stated direction, refuted if
# --- the interval excludes a difference of the margin in that direction, inconclusive otherwise ---


def judge_unpaired(claim: types.UnpairedClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge a difference between two arms whose episodes are not the same, on the tasks that both have."""
    common = common_tasks(campaign, claim.arm, claim.control)
    if isinstance(common, str):
        return not_tested(common)
    strata = common.strata
    single = intervals.unpaired(*strata[0], 1 - alpha) if len(strata) == 1 else None
    found = single or stratified.compare(strata, 1 - alpha)
    sign = 1 if claim.direction == "greater" else -1
    largest = found.interval.high if sign > 0 else -found.interval.low
    verdict: types.Verdict = "inconclusive"
    if found.p <= alpha and sign * found.difference > 0:
        verdict = "supported"
    elif largest < claim.margin:
        verdict = "refuted"
    weighted = "" if single else f" (Mantel-Haenszel's, {len(strata)} tasks)"
    sentence = (
        f"{claim.arm} succeeded in {rate_with_interval(found.a)}, {claim.control} in {rate_with_interval(found.b)}, "
        f"not the same episodes: {points(found.difference)}{weighted}, {percent(1 - alpha)} interval "
        f"{points_range(found.interval)}; {p_value(found.p)} ({found.test})."
        f"{_reason(verdict, sign, claim.margin, alpha)}{common.left_out}"
    )
    sides = strata if sign > 0 else [stratified.Stratum(s.k_b, s.n_b, s.k_a, s.n_a) for s in strata]
    return Judgement(
        verdict,
        sentence,
        asdict(found) | {"margin": claim.margin, "tasks": common.tasks},
        f"{counted(found.a)} vs {counted(found.b)}; {points(found.difference)} {points_range(found.interval)}".replace(
            "\u00a0points [", " ["
        ),
        scope_of(campaign, common.frames),
        {arm: rows_of(frame) for arm, frame in common.frames.items()},
        found.p,
        lambda alpha: power.unpaired_plan(sides, claim.margin, alpha),
    )


def _reason(verdict: types.Verdict, sign: int, margin: float, alpha: float) -> str:
    return {
        "supported": "",
        "refuted": f" A difference of {points(sign * margin)} is excluded.",
        "inconclusive": f" Not established at {alpha:g}; {points(sign * margin)} not excluded: too few episodes.",
    }.get(verdict, "")


def _paired_numbers(
    found: intervals.Paired, pairs: pd.DataFrame, margin: float, level: float
) -> tuple[dict[str, Any], Interval | None]:
    """Return a paired comparison's numbers, and the interval with init states resampled within tasks."""
    difference = pairs["success_arm"].astype(int) - pairs["success_control"].astype(int)
    resampled = resampling.paired_difference(
        pairs.groupby(["suite", "task_id"], observed=True).ngroup().to_numpy(),
        pairs["init_state"].to_numpy(),
        difference.to_numpy(),
        level,
    )
    numbers = asdict(found) | {"k_arm": found.k_a, "k_control": found.k_b, "margin": margin}
    return numbers | {"bootstrap": asdict(resampled) if resampled else None}, resampled


def _resampled_words(interval: Interval | None) -> str:
    found = "no interval, too few of them differ" if interval is None else points_range(interval)
    return f" (init states resampled within tasks: {found})"


def _paired_words(arm: str, control: str, found: intervals.Paired) -> str:
    return (
        f"{arm} succeeded in {found.k_a}/{found.n}, {control} in {found.k_b}/{found.n} of the same episodes: "
        f"{points(found.difference)}, {percent(found.interval.level)} interval {points_range(found.interval)}"
    )


def _paired_short(found: intervals.Paired) -> str:
    return (
        f"{found.k_a}/{found.n} vs {found.k_b}/{found.n}; {points(found.difference)} {points_range(found.interval)}"
    ).replace("\u00a0points [", " [")
