"""Verdicts about latency: rounds of the profile, one route against another, one route against a limit.

How each test decides is written above it; nothing else enters. Under load neither decides.
"""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from flashtrail.base import machine
from flashtrail.claims import claims as types
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.judgement import Judgement, NotTested, decided, tested_on
from flashtrail.statistics import intervals, power
from flashtrail.statistics.wording import milliseconds, percent

# --- latency_ratio: supported if the interval of the ratio of medians lies below, refuted if above ---


def judge_ratio(claim: types.LatencyClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge the ratio of draft rounds to full ones."""
    profile = _profile(campaign)
    times = {route: profile.loc[profile["route"] == route, "policy_ms"] for route in ("draft", "full")}
    ratio = intervals.median_ratio(times["draft"], times["full"], 1 - alpha)
    if ratio is None:
        raise NotTested(f"{len(times['draft'])} draft and {len(times['full'])} full rounds give no interval")
    verdict = decided(ratio.interval.high < claim.below, ratio.interval.low > claim.below)
    loaded = _under_load(claim, campaign)
    if loaded:
        verdict = "inconclusive"
    medians = {route: intervals.latency(times[route]) for route in times}
    p50 = {route: milliseconds(float(times[route].median())) for route in times}
    sentence = (
        f"Draft rounds took {p50['draft']} (median, n = {len(times['draft'])}), full rounds {p50['full']} "
        f"(n = {len(times['full'])}): ratio {ratio.ratio:.3f}, {percent(1 - alpha)} interval "
        f"[{ratio.interval.low:.3f}, {ratio.interval.high:.3f}], against {claim.below:g}; "
        f"{machine.words(campaign.machine)}."
    )
    return Judgement(
        verdict,
        loaded + sentence,
        {"ratio": asdict(ratio), **{route: value.as_dict() for route, value in medians.items()}, "below": claim.below}
        | {"machine": campaign.machine, "load_at_most": claim.load_at_most},
        f"{p50['draft']} vs {p50['full']}; \u00d7{ratio.ratio:.2f} "
        f"[{ratio.interval.low:.2f}, {ratio.interval.high:.2f}]",
        _scope(profile),
        {"profile": {route: len(values) for route, values in times.items()}},
        None if loaded else ratio.p,
        None
        if loaded
        else lambda alpha: power.ratio_plan(
            ratio.interval.low, ratio.interval.high, ratio.ratio, claim.below, min(map(len, times.values())), alpha
        ),
    )


# --- latency_at_most: supported if the interval of the median lies at or below the limit, refuted if it lies above ---


def judge_limit(claim: types.LatencyLimitClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge the median of one route's rounds against a limit."""
    profile = _profile(campaign)
    times = profile.loc[profile["route"] == claim.route, "policy_ms"]
    p50 = intervals.latency(times, 1 - alpha).p50
    if p50 is None or p50.interval is None:
        raise NotTested(f"{len(times)} {claim.route} rounds give no interval")
    verdict = decided(p50.interval.high <= claim.ms, p50.interval.low > claim.ms)
    loaded = _under_load(claim, campaign)
    limits = f"[{p50.interval.low:.3g}, {p50.interval.high:.3g}] ms"
    sentence = (
        f"{claim.route.capitalize()} rounds took {milliseconds(p50.value)} (median, n = {len(times)}), "
        f"{percent(1 - alpha)} interval {limits}, against {claim.ms:g} ms; {machine.words(campaign.machine)}."
    )
    return Judgement(
        "inconclusive" if loaded else verdict,
        loaded + sentence,
        {"p50": asdict(p50), "ms": claim.ms, "machine": campaign.machine, "load_at_most": claim.load_at_most},
        f"{milliseconds(p50.value)} {limits}",
        _scope(profile),
        {"profile": {claim.route: len(times)}},
    )


# --- what both share ---


def _profile(campaign: Campaign) -> pd.DataFrame:
    """Return the profile's rounds; NotTested where there are none, or the device was not synchronised."""
    profile = campaign.profile
    if not len(profile):
        raise NotTested("there is no profile")
    if not profile["synchronized"].eq(True).all():
        raise NotTested("the profile's device was not synchronised at the edges of a round")
    return profile


def _under_load(claim: types.LatencyClaim | types.LatencyLimitClaim, campaign: Campaign) -> str:
    """Return why nothing is decided where other programs took too much of the machine; else nothing."""
    load = campaign.machine
    if not load or load["others"] is None or load["others"] <= claim.load_at_most:
        return ""
    limit = percent(claim.load_at_most)
    return f"Measured under load (other programs may take {limit} of the cores), so not decided. "


def _scope(profile: pd.DataFrame) -> dict[str, object]:
    return tested_on(policies=sorted(set(profile["policy"])), devices=sorted(set(profile["device"]) - {""}))
