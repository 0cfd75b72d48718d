"""Verdicts about success: a rate against a bar, two arms paired or not, one arm not worse than another.

How each test decides is written above it; nothing else enters. Each has an anytime-valid counterpart that decides by
the same rule, its e-value in the place of p and its confidence sequence in that of the interval; the verdict is the
counterpart's where n was not fixed before the first look (looks.py).
"""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from flashtrail.claims import claims as types
from flashtrail.claims import looks
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.judgement import (
    Judgement,
    NotTested,
    arm_episodes,
    common_tasks,
    decided,
    names_of,
    pair_rows,
    pairs_of,
    rows_of,
    scope_of,
)
from flashtrail.statistics import anytime, intervals, power, resampling, stratified
from flashtrail.statistics.wording import (
    counted,
    difference_with_range,
    p_value,
    percent,
    percent_range,
    plural,
    points,
    points_range,
    rate_with_interval,
)

# --- rate_at_least: supported if Clopper-Pearson's interval lies above the bar, refuted if it lies below ---


def judge_rate(claim: types.RateClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge one arm's rate against a bar."""
    episodes = arm_episodes(campaign, claim.arm)
    judgement = _of_rate(claim, campaign, alpha, episodes, f"{claim.arm} succeeded in", above=True)
    judgement.rows["failed"] = names_of(episodes[~episodes["success"]])
    return judgement


# --- metric_rate: the same of a column that is a metric, or counts; at_most: supported if the interval lies at or below
# --- the bar, refuted if it lies above ---

_SAID = {
    "naive_success": "The naive metric called {arm} a success in",
    "own_success": "The simulator's own test called {arm} a success in",
    "printed_success": "The printed criterion called {arm} a success in",
    "verified_success": "{arm} was a verified success in",
    "gripper_closures": "{arm} closed its hand in",
    "grasps": "{arm} grasped in",
    "lifts": "{arm} lifted in",
    "limited_steps": "A limit changed an action of {arm} in",
    "stops": "The force limit took over in {arm} in",
    "interventions": "Another took over from {arm} in",
    "expert_steps": "The expert acted for {arm} in",
    "worst_excursion_mm": "In {arm} no corner of the gripper was more than {limit:g} mm outside the box in",
    "peak_force_n": "In {arm} the peak force at the wrist was at most {limit:g} N in",
}


def judge_metric(claim: types.MetricClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge in how many of one arm's episodes a metric says yes, against a bar."""
    episodes = arm_episodes(campaign, claim.arm)
    if blind := int(episodes[claim.metric].isna().sum()):
        raise NotTested(f"{plural(blind, 'episode')} of {claim.arm} have no {claim.metric}")
    measured = episodes[claim.metric].astype(float)
    told = episodes.assign(success=measured > 0 if claim.limit is None else measured <= claim.limit)
    said = _SAID[claim.metric].format(arm=claim.arm, limit=claim.limit)
    return _of_rate(claim, campaign, alpha, told, said, above=claim.side == "at_least")


def _of_rate(
    claim: types.RateClaim | types.MetricClaim,
    campaign: Campaign,
    alpha: float,
    episodes: pd.DataFrame,
    said: str,
    above: bool,
) -> Judgement:
    """Return the judgement of the rate of `success` in `episodes` against the claim's bar."""

    def by(interval: intervals.Interval) -> types.Verdict:
        at_or_above, below = interval.low >= claim.bar, interval.high < claim.bar
        return decided(at_or_above, below) if above else decided(interval.high <= claim.bar, interval.low > claim.bar)

    rate = intervals.rate(int(episodes["success"].sum()), len(episodes), 1 - alpha)
    assert rate.exact is not None
    fixed = by(rate.exact)
    e = anytime.hedged(*(anytime.rate_e(rate.k, rate.n, claim.bar, over) for over in (True, False)))
    sequence = anytime.rate_sequence(rate.k, rate.n, alpha)
    side = _anytime(claim, campaign, alpha, e, sequence, by(sequence), n=rate.n, k_arm=rate.k)
    k, bar = (rate.k, claim.bar) if above else (rate.n - rate.k, 1 - claim.bar)
    p = intervals.binomial_p(k, rate.n, bar)
    sides = ("lies at or above", "lies below") if above else ("lies at or below", "lies above")
    relation = {"supported": sides[0], "refuted": sides[1], "inconclusive": "contains"}[fixed]
    whole = "its" if fixed == "inconclusive" else "its whole"
    sentence = (
        f"{said} {rate_with_interval(rate)}; {whole} exact {percent(rate.exact.level)} interval, "
        f"{percent_range(rate.exact)}, {relation} the bar of {percent(claim.bar)} ({p_value(p)}, exact binomial)."
    )
    return Judgement(
        fixed if side.fixed else side.verdict,
        sentence,
        {"rate": rate.as_dict(), "bar": claim.bar},
        f"{counted(rate)} [{percent_range(rate.exact)}]",
        scope_of(campaign, {claim.arm: episodes}),
        {claim.arm: rows_of(episodes)},
        p,
        lambda alpha: power.rate_plan(k, rate.n, bar, alpha),
        anytime=side,
    )


# --- paired_difference: supported if exact McNemar finds the stated direction, refuted if the interval excludes a
# --- difference of the margin in that direction, inconclusive otherwise ---


def judge_paired(claim: types.PairedClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge a difference between two arms on the same episodes."""
    pairs, result = _paired(claim, campaign, alpha)
    fixed, sign = _of_difference(claim, result.p <= alpha, result.difference, result.interval)
    side = _anytime_on_pairs(claim, campaign, result, alpha, anytime.paired_e(result.only_a, result.only_b))
    verdict = fixed if side.fixed else side.verdict
    wins, losses = (result.only_a, result.only_b) if sign > 0 else (result.only_b, result.only_a)
    reason = (
        f"; exact McNemar {p_value(result.p)} ({result.only_a} against {result.only_b} discordant pairs)."
        f"{_reason(verdict, sign, claim.margin, alpha)}"
    )
    judgement = _on_pairs(claim, campaign, pairs, result, verdict, reason)
    judgement.p, judgement.anytime = result.p, side
    judgement.open = _idle(campaign, claim.arm) if verdict == "inconclusive" else ""
    if not judgement.open:
        judgement.plan = lambda alpha: power.paired_plan(wins, losses, result.n, claim.margin, alpha)
    return judgement


def _idle(campaign: Campaign, arm: str) -> str:
    """Return why more episodes cannot show an effect of an arm whose guard acted in no round; empty where it acted."""
    count = campaign.summaries.get(arm, {}).get("guard")
    if not count or count["hits"] or count["masked"]:
        return ""
    frames = plural(count["unhealthy"], "broken frame")
    return f"the guard replaced none of {frames}, so more such episodes cannot show an effect of it"


# --- non_inferiority: supported if the interval lies above -margin, refuted if it lies below, else inconclusive ---


def judge_non_inferiority(claim: types.NotWorse, campaign: Campaign, alpha: float) -> Judgement:
    """Judge that one arm is not worse than another by the claim's margin."""
    pairs, result = _paired(claim, campaign, alpha)
    p = intervals.paired_non_inferiority_p(result.only_a, result.only_b, result.n, claim.margin)
    fixed = decided(result.interval.low > -claim.margin, result.interval.high < -claim.margin)
    counts = result.only_a, result.only_b, result.n
    e = anytime.hedged(*(anytime.difference_e(*counts, -claim.margin, above) for above in (True, False)))
    side = _anytime_on_pairs(claim, campaign, result, alpha, e)
    verdict = fixed if side.fixed else side.verdict
    loss = points(claim.margin).lstrip("+")
    reason = {
        "supported": f"A loss of {loss} or more is excluded",
        "refuted": f"The loss is {loss} or more",
        "inconclusive": f"A loss of {loss} is not excluded: too few episodes",
    }[verdict]
    if verdict == "inconclusive" and side.fixed and result.interval.high < 0:
        reason = f"There is a loss; whether it reaches {loss} is open"
    reason = f". {reason} (one-sided {p_value(p)}, paired score test)."
    judgement = _on_pairs(claim, campaign, pairs, result, verdict, reason)
    judgement.numbers["p_non_inferiority"] = judgement.p = p
    judgement.anytime = side
    if result.interval.high < 0:  # a loss is established: no number of episodes without one
        return judgement
    judgement.plan = lambda alpha: power.non_inferiority_plan(
        result.only_a, result.only_b, result.n, claim.margin, alpha
    )
    return judgement


# --- unpaired_difference: like with like, task by task; supported if the test finds the stated direction, refuted if
# --- the interval excludes a difference of the margin in that direction, inconclusive otherwise ---


def judge_unpaired(claim: types.UnpairedClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge a difference between two arms whose episodes are not the same, on the tasks that both have."""
    common = common_tasks(campaign, claim.arm, claim.control)
    strata = common.strata
    single = intervals.unpaired(*strata[0], 1 - alpha) if len(strata) == 1 else None
    result = single or stratified.compare(strata, 1 - alpha)
    fixed, sign = _of_difference(claim, result.p <= alpha, result.difference, result.interval)
    e = anytime.unpaired_e(strata)
    by_e_value = decided(e >= 1 / alpha and sign * result.difference > 0, False)  # no sequence, so none refutes
    counts = {"n": result.a.n + result.b.n, "k_arm": result.a.k, "k_control": result.b.k}
    side = _anytime(claim, campaign, alpha, e, None, by_e_value, **counts)
    verdict = fixed if side.fixed else side.verdict
    weighted = "" if single else f" (Mantel-Haenszel's, {len(strata)} tasks)"
    sentence = (
        f"{claim.arm} succeeded in {rate_with_interval(result.a)}, {claim.control} in {rate_with_interval(result.b)}, "
        f"not the same episodes: {points(result.difference)}{weighted}, {percent(1 - alpha)} interval "
        f"{points_range(result.interval)}; {p_value(result.p)} ({result.test})."
        f"{_reason(verdict, sign, claim.margin, alpha)}{common.left_out}"
    )
    sides = strata if sign > 0 else [stratified.Stratum(s.k_b, s.n_b, s.k_a, s.n_a) for s in strata]
    return Judgement(
        verdict,
        sentence,
        asdict(result) | {"margin": claim.margin, "tasks": common.tasks},
        f"{counted(result.a)} vs {counted(result.b)}; {difference_with_range(result.difference, result.interval)}",
        scope_of(campaign, common.frames),
        {arm: rows_of(frame) for arm, frame in common.frames.items()},
        result.p,
        lambda alpha: power.unpaired_plan(sides, claim.margin, alpha),
        side,
    )


# --- what these judgements share ---


def _anytime_on_pairs(
    claim: types.PairedClaim | types.NotWorse,
    campaign: Campaign,
    result: intervals.Paired,
    alpha: float,
    e: float,
) -> looks.Anytime:
    """Return the anytime-valid side of a comparison of pairs: decided by `e` and direction, or by the sequence."""
    sequence = anytime.difference_sequence(result.only_a, result.only_b, result.n, alpha)
    if isinstance(claim, types.NotWorse):
        verdict = decided(sequence.low > -claim.margin, sequence.high < -claim.margin)
    else:
        verdict, _ = _of_difference(claim, e >= 1 / alpha, result.difference, sequence)
    counts = {"k_arm": result.k_a, "k_control": result.k_b, "wins": result.only_a, "losses": result.only_b}
    return _anytime(claim, campaign, alpha, e, sequence, verdict, n=result.n, **counts)


def _anytime(
    claim: types.AnyClaim,
    campaign: Campaign,
    alpha: float,
    e: float,
    interval: intervals.Interval | None,
    verdict: types.Verdict,
    **counts: int,
) -> looks.Anytime:
    """Return the anytime-valid side of a comparison, with the looks at it so far."""
    digest, past_looks = looks.digest(claim, campaign.metadata), campaign.looked
    settled = looks.SETTLE in [campaign.asked, *(look["asked"] for look in past_looks if look["digest"] == digest)]
    sizes = looks.sizes(past_looks, digest, counts)
    return looks.Anytime(e, 1 / alpha, interval, verdict, digest, sizes, counts, settled)


def _of_difference(
    claim: types.PairedClaim | types.UnpairedClaim, rejected: bool, difference: float, interval: intervals.Interval
) -> tuple[types.Verdict, int]:
    """Return the verdict on a difference, and the sign of the direction claimed."""
    sign = 1 if claim.direction == "greater" else -1
    largest = interval.high if sign > 0 else -interval.low
    return decided(rejected and sign * difference > 0, largest < claim.margin), sign


def _reason(verdict: types.Verdict, sign: int, margin: float, alpha: float) -> str:
    return {
        "refuted": f" A difference of {points(sign * margin)} is excluded.",
        "inconclusive": f" Not established at {alpha:g}; {points(sign * margin)} not excluded: too few episodes.",
    }.get(verdict, "")


def _paired(
    claim: types.PairedClaim | types.NotWorse, campaign: Campaign, alpha: float
) -> tuple[pd.DataFrame, intervals.Paired]:
    """Return the episodes that both arms have and their comparison."""
    pairs = pairs_of(campaign, claim.arm, claim.control)
    return pairs, intervals.paired(pairs["success_arm"].tolist(), pairs["success_control"].tolist(), 1 - alpha)


def _on_pairs(
    claim: types.PairedClaim | types.NotWorse,
    campaign: Campaign,
    pairs: pd.DataFrame,
    result: intervals.Paired,
    verdict: types.Verdict,
    reason: str,
) -> Judgement:
    """Return a judgement of paired arms without its p and plan; `reason` ends the sentence."""
    interval = result.interval
    difference = pairs["success_arm"].astype(int) - pairs["success_control"].astype(int)
    resampled = resampling.paired_difference(
        pairs.groupby(["suite", "task_id"], observed=True).ngroup().to_numpy(),
        pairs["init_state"].to_numpy(),
        difference.to_numpy(),
        interval.level,
    )
    bootstrap = "no interval, too few of them differ" if resampled is None else points_range(resampled)
    return Judgement(
        verdict,
        f"{claim.arm} succeeded in {result.k_a}/{result.n}, {claim.control} in {result.k_b}/{result.n} of the same "
        f"episodes: {points(result.difference)}, {percent(interval.level)} interval {points_range(interval)} "
        f"(init states resampled within tasks: {bootstrap}){reason}",
        asdict(result)
        | {"k_arm": result.k_a, "k_control": result.k_b, "margin": claim.margin}
        | {"bootstrap": asdict(resampled) if resampled else None},
        f"{result.k_a}/{result.n} vs {result.k_b}/{result.n}; {difference_with_range(result.difference, interval)}",
        scope_of(campaign, {arm: arm_episodes(campaign, arm) for arm in (claim.arm, claim.control)}, pairs),
        pair_rows(pairs),
    )
