"""Verdicts about what a source printed: quoted claims, arithmetic checks, one draft latency behind all means.

How each test decides is written above it; nothing else enters.
"""

from __future__ import annotations

from dataclasses import asdict

from flashtrail.claims import claims as types
from flashtrail.claims import published
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.judgement import Judgement, NotTested, tally
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import (
    difference_with_range,
    listed,
    p_value,
    percent,
    points,
    points_range,
    rate_with_interval,
    three_digits,
)

# --- published: quoted, not judged: a verdict would need the paper's policy, suites and hardware. Where the published
# --- figures are counts, the sentence compares them, with the interval that the source does not print. ---


def judge_published(claim: types.PublishedClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Quote a claim of a source; with its counts, their comparison."""
    policies = sorted(campaign.episodes["policy"].unique())
    suites = sorted(campaign.episodes["suite"].unique())
    sentence = f"Quoted, not tested: it is about {claim.policy} (here: {listed(policies)}) on {listed(claim.suites)} "
    figures = campaign.published
    sentence += f"(here: {listed(suites)}); {_hardware(claim, campaign)}."
    if claim.counts is None or figures is None:
        return Judgement("not_tested", sentence, {"reference": claim.reference})
    sides = [published.pooled(figures, claim.reference, method, claim.counts.of) for method in claim.counts.methods]
    (k_a, n_a), (k_b, n_b) = sides
    comparison = intervals.unpaired(k_a, n_a, k_b, n_b, 1 - alpha)
    first, second = claim.counts.methods
    sentence += (
        f" By its own counts, {first} {rate_with_interval(comparison.a)} against {second} "
        f"{rate_with_interval(comparison.b)}: {points(comparison.difference, 1)}, {percent(1 - alpha)} interval "
        f"{points_range(comparison.interval, 1)}, {p_value(comparison.p)} ({comparison.test})."
    )
    rows = {"published": {method: f"{k}/{n}" for method, (k, n) in zip(claim.counts.methods, sides, strict=True)}}
    short = f"{k_a}/{n_a} vs {k_b}/{n_b}; {difference_with_range(comparison.difference, comparison.interval, 1)}"
    return Judgement("not_tested", sentence, {"reference": claim.reference, **asdict(comparison)}, short, rows=rows)


def _hardware(claim: types.PublishedClaim, campaign: Campaign) -> str:
    """Whose hardware is known: only where both are could one say that it is another."""
    source = campaign.published.sources.get(claim.reference) if campaign.published else None
    known = source is not None and not source.hardware.startswith("not named")
    theirs = (
        f"measured on {source.hardware}" if source and known else f"the {claim.reference} does not name its hardware"
    )
    here = campaign.devices()
    return f"{theirs}; " + (f"here: {listed(here)}" if here else "the device of these rows is not recorded")


# --- published_checks: supported if every published figure passes the check, refuted if one does not ---


def judge_published_checks(claim: types.PublishedChecksClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge whether the published figures pass an arithmetic check."""
    figures = campaign.published
    if figures is None:
        raise NotTested("no published figures were given")
    rows = [row for row in published.checks(figures) if row["check"] == claim.check]
    if not rows:
        raise NotTested(f"no published figure can be checked for {claim.check!r}")
    failed = [
        f"{row['source']}, {row['what']}: {row['printed']}, found {row['found']}" for row in rows if not row["agrees"]
    ]
    passed = len(rows) - len(failed)
    return Judgement(
        "refuted" if failed else "supported",
        tally(passed, len(rows), "figure", "agree", failed),
        {"figures": len(rows), "passed": passed, "failed": failed},
        f"{passed}/{len(rows)}",
        rows={"published": [f"{row['source']}, {row['what']}: {row['printed']}" for row in rows]},
    )


# --- published_mixture: supported if one draft latency explains the printed means of all suites to their digits ---


def judge_published_mixture(claim: types.PublishedMixtureClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge whether a method's printed means follow from one draft latency."""
    figures = campaign.published
    if figures is None:
        raise NotTested("no published figures were given")
    implied = published.implied_drafts(figures, claim.method)
    if len(implied) < 2:
        raise NotTested(f"{claim.method} has fewer than two suites with mean and draft share")
    lowest, highest = max(low for _, low, _ in implied.values()), min(high for _, _, high in implied.values())
    values = [value for value, _, _ in implied.values()]
    by_suite = "; ".join(
        f"{suite} {three_digits(value)} [{three_digits(low)}, {three_digits(high)}]"
        for suite, (value, low, high) in implied.items()
    )
    return Judgement(
        "supported" if lowest <= highest else "refuted",
        f"Draft rounds implied by mean, share and a full round of {published.TRITON_FULL_MS} ms, with what rounding "
        f"leaves open (ms): {by_suite}.",
        {"implied_ms": implied, "spread_ms": max(values) - min(values)},
        f"{three_digits(min(values))} to {three_digits(max(values))} ms",
        rows={"published": list(implied)},
    )
