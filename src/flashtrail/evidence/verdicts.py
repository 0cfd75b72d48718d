"""From tables to a verdict: one function per kind of test, each with its numbers, its rows and its sentence.

How each test decides is written above it; nothing else enters. Knows claims, campaign and statistics; draws nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from flashtrail import provenance
from flashtrail.evidence import claims as types
from flashtrail.evidence import statistics
from flashtrail.evidence.campaign import Campaign
from flashtrail.evidence.tables import PAIR_KEY
from flashtrail.evidence.wording import (
    counted,
    integers,
    listed,
    milliseconds,
    p_value,
    percent,
    percent_range,
    plural,
    points,
    points_range,
    rate_with_interval,
)

_NAMED_EPISODES = 60  # discordant episodes listed by name; the digest covers all rows in any case


@dataclass
class Judgement:
    """A verdict, why, and what it stands on."""

    verdict: types.Verdict
    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)
    short: str = ""  # for the claim matrix: counts and interval, no words
    tested_on: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)
    p: float | None = None


def judge(claim: types._Claim, campaign: Campaign, alpha: float) -> dict[str, Any]:
    """Return one claim with its verdict as plain data."""
    result = _JUDGES[claim.test](claim, campaign, alpha)  # type: ignore[attr-defined]
    where = result.tested_on.get("words", "")
    return {
        "id": claim.id,
        "title": claim.title,
        "statement": claim.statement,
        "scope": claim.scope,
        "estimand": claim.estimand,
        "test": claim.test,  # type: ignore[attr-defined]
        "margin": getattr(claim, "margin", getattr(claim, "bar", getattr(claim, "below", None))),
        "refuted_if": claim.refuted_if,
        "verdict": result.verdict,
        "seed_word": types.seed_word(result.verdict, claim.limited),
        "sentence": f"{result.sentence} {where}".strip(),
        "short": result.short,
        "p": result.p,
        "numbers": result.numbers,
        "tested_on": result.tested_on,
        "rows": result.rows,
        "seed": claim.seed.model_dump(),
    }


def _not_tested(reason: str) -> Judgement:
    return Judgement("not_tested", f"Not tested: {reason}.")


# --- records: supported if every record meets every check, refuted otherwise ---


def _judge_records(claim: types.RecordsClaim, campaign: Campaign, alpha: float) -> Judgement:
    records = campaign.records(claim.of)
    if not records:
        return _not_tested("this run has no such record")
    failed = [
        f"{policy}: {reason}"
        for policy, record in records.items()
        for check in claim.checks
        if (reason := _unmet(check, record))
    ]
    verdict: types.Verdict = "refuted" if failed else "supported"
    passed = len(records) - len({f.split(":")[0] for f in failed})
    sentence = f"{passed} of {plural(len(records), 'record')} {'meets' if passed == 1 else 'meet'} every check"
    sentence += f" ({'; '.join(failed)})." if failed else "."
    return Judgement(
        verdict,
        sentence,
        {"records": len(records), "passed": passed, "failed": failed, "values": _values(claim, records)},
        f"{passed}/{len(records)}",
        _tested_on(policies=list(records)),
        {"records": sorted(records)},
    )


def _values(claim: types.RecordsClaim, records: Mapping[str, Any]) -> dict[str, Any]:
    return {policy: {c.path: _at(record, c.path) for c in claim.checks} for policy, record in records.items()}


def _unmet(check: types.Check, record: Any) -> str | None:
    value = _at(record, check.path)
    if check.presence == "absent":
        return None if value is None else f"{check.path} is {value!r}"
    if value is None:
        return f"{check.path} is missing"
    if check.equals is not None and value != check.equals:
        return f"{check.path} is {value!r}, not {check.equals!r}"
    if check.at_most is not None:
        limit = _at(record, check.at_most) if isinstance(check.at_most, str) else check.at_most
        if limit is None or value > limit:
            return f"{check.path} is {value}, more than {limit}"
    return None


def _at(record: Any, path: str) -> Any:
    for part in path.split("."):
        match = re.fullmatch(r"(\w+)(?:\[(.+)\])?", part)
        if match is None or not isinstance(record, Mapping):
            return None
        record = record.get(match[1])
        if match[2]:
            record = next((r for r in record or [] if isinstance(r, Mapping) and r.get("stage") == match[2]), None)
    return record


# --- episodes_complete: supported if every policy has that many and none ended in an error, refuted otherwise ---


def _judge_episodes_complete(claim: types.EpisodesCompleteClaim, campaign: Campaign, alpha: float) -> Judgement:
    smokes = campaign.smoke_episodes()
    if not smokes:
        return _not_tested("this run has no smoke test")
    complete = {policy: int((frame["outcome"] != "error").sum()) for policy, frame in smokes.items()}
    broken = {policy: int((frame["outcome"] == "error").sum()) for policy, frame in smokes.items()}
    good = all(complete[p] >= claim.at_least and not broken[p] for p in smokes)
    counts = "; ".join(f"{p}: {complete[p]} complete, {plural(broken[p], 'error')}" for p in smokes)
    return Judgement(
        "supported" if good else "refuted",
        f"{counts} (at least {claim.at_least} asked for).",
        {"complete": complete, "errors": broken},
        ", ".join(f"{complete[p]}/{complete[p] + broken[p]}" for p in smokes),
        _tested_on(policies=list(smokes)),
        {p: _rows(frame) for p, frame in smokes.items()},
    )


# --- rate_at_least: supported if Clopper-Pearson's interval lies above the bar, refuted if it lies below ---


def _judge_rate(claim: types.RateClaim, campaign: Campaign, alpha: float) -> Judgement:
    episodes = _arm(campaign, claim.arm)
    if episodes is None:
        return _not_tested(f"arm {claim.arm} was not run")
    found = statistics.rate(int(episodes["success"].sum()), len(episodes), 1 - alpha)
    assert found.exact is not None
    verdict: types.Verdict = "inconclusive"
    if found.exact.low >= claim.bar:
        verdict = "supported"
    elif found.exact.high < claim.bar:
        verdict = "refuted"
    p = statistics.binomial_p(found.k, found.n, claim.bar)
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
        _scope_of(campaign, {claim.arm: episodes}),
        {claim.arm: _rows(episodes), "failed": _names(episodes[~episodes["success"]])},
        p,
    )


# --- paired_difference: supported if exact McNemar finds the stated direction, refuted if the interval excludes a
# --- difference of the margin in that direction, inconclusive otherwise ---


def _judge_paired(claim: types.PairedClaim, campaign: Campaign, alpha: float) -> Judgement:
    pairs = _pairs(campaign, claim.arm, claim.control)
    if isinstance(pairs, str):
        return _not_tested(pairs)
    found = statistics.paired(pairs["success_arm"].tolist(), pairs["success_control"].tolist(), 1 - alpha)
    sign = 1 if claim.direction == "greater" else -1
    largest = found.interval.high if sign > 0 else -found.interval.low
    verdict: types.Verdict = "inconclusive"
    if found.p <= alpha and sign * found.difference > 0:
        verdict = "supported"
    elif largest < claim.margin:
        verdict = "refuted"
    reason = {
        "supported": "",
        "refuted": f" A difference of {points(sign * claim.margin)} is excluded.",
        "inconclusive": f" Not established at {alpha:g}; {points(sign * claim.margin)} not excluded: too few episodes.",
    }[verdict]
    numbers = asdict(found) | {"k_arm": found.k_a, "k_control": found.k_b, "margin": claim.margin}
    return Judgement(
        verdict,
        f"{_paired_words(claim.arm, claim.control, found)}; exact McNemar {p_value(found.p)} "
        f"({found.only_a} against {found.only_b} discordant pairs).{reason}",
        numbers,
        _paired_short(found),
        _scope_of(campaign, {arm: _arm(campaign, arm) for arm in (claim.arm, claim.control)}, pairs),
        _pair_rows(pairs),
        found.p,
    )


# --- non_inferiority: supported if the interval lies above -margin, refuted if it lies below, else inconclusive ---


def _judge_non_inferiority(claim: types.NonInferiorityClaim, campaign: Campaign, alpha: float) -> Judgement:
    pairs = _pairs(campaign, claim.arm, claim.control)
    if isinstance(pairs, str):
        return _not_tested(pairs)
    found = statistics.paired(pairs["success_arm"].tolist(), pairs["success_control"].tolist(), 1 - alpha)
    p = statistics.paired_non_inferiority_p(found.only_a, found.only_b, found.n, claim.margin)
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
    return Judgement(
        verdict,
        f"{_paired_words(claim.arm, claim.control, found)}. {reason} (one-sided {p_value(p)}, paired score test).",
        asdict(found) | {"k_arm": found.k_a, "k_control": found.k_b, "margin": claim.margin, "p_non_inferiority": p},
        _paired_short(found),
        _scope_of(campaign, {arm: _arm(campaign, arm) for arm in (claim.arm, claim.control)}, pairs),
        _pair_rows(pairs),
        p,
    )


def _paired_words(arm: str, control: str, found: statistics.Paired) -> str:
    return (
        f"{arm} succeeded in {found.k_a}/{found.n}, {control} in {found.k_b}/{found.n} of the same episodes: "
        f"{points(found.difference)}, {percent(found.interval.level)} interval {points_range(found.interval)}"
    )


def _paired_short(found: statistics.Paired) -> str:
    return (
        f"{found.k_a}/{found.n} vs {found.k_b}/{found.n}; {points(found.difference)} {points_range(found.interval)}"
    ).replace("\u00a0points [", " [")


# --- latency_ratio: supported if the interval of the ratio of medians lies below, refuted if above ---


def _judge_latency(claim: types.LatencyClaim, campaign: Campaign, alpha: float) -> Judgement:
    profile = campaign.profile
    if not len(profile):
        return _not_tested("this run has no profile")
    if not profile["synchronized"].all():
        return _not_tested("the profile's device was not synchronised at the edges of a round")
    times = {route: profile.loc[profile["route"] == route, "policy_ms"] for route in ("draft", "full")}
    found = statistics.median_ratio(times["draft"], times["full"], 1 - alpha)
    if found is None:
        return _not_tested(f"{len(times['draft'])} draft and {len(times['full'])} full rounds give no interval")
    verdict: types.Verdict = "inconclusive"
    if found.interval.high < claim.below:
        verdict = "supported"
    elif found.interval.low > claim.below:
        verdict = "refuted"
    medians = {route: statistics.latency(times[route]) for route in times}
    p50 = {route: milliseconds(float(times[route].median())) for route in times}
    sentence = (
        f"Draft rounds took {p50['draft']} (median, n = {len(times['draft'])}), full rounds {p50['full']} "
        f"(n = {len(times['full'])}): ratio {found.ratio:.3f}, {percent(1 - alpha)} interval "
        f"[{found.interval.low:.3f}, {found.interval.high:.3f}], against {claim.below:g}."
    )
    return Judgement(
        verdict,
        sentence,
        {"ratio": asdict(found), **{route: value.as_dict() for route, value in medians.items()}, "below": claim.below},
        f"{p50['draft']} vs {p50['full']}; \u00d7{found.ratio:.2f} "
        f"[{found.interval.low:.2f}, {found.interval.high:.2f}]",
        _tested_on(policies=sorted(set(profile["policy"])), devices=sorted(set(profile["device"]))),
        {"profile": {route: len(values) for route, values in times.items()}},
        found.p,
    )


# --- published: quoted, not judged: a verdict would need the paper's policy, suites and hardware ---


def _judge_published(claim: types.PublishedClaim, campaign: Campaign, alpha: float) -> Judgement:
    policies = sorted(set(campaign.episodes["policy"]))
    suites = sorted(set(campaign.episodes["suite"]))
    words = f"Quoted, not tested: it is about {claim.policy} (here: {listed(policies)}) on {listed(claim.suites)} "
    words += f"(here: {listed(suites)}), on hardware that is not this run's."
    return Judgement("not_tested", words, {"reference": claim.reference})


def _judge_none(claim: types.NotTestedClaim, campaign: Campaign, alpha: float) -> Judgement:
    return _not_tested(claim.reason)


# --- rows and scope ---


def _arm(campaign: Campaign, arm: str) -> pd.DataFrame | None:
    """Return an arm's judged episodes, or None; infrastructure errors never get this far, the merge stops at them."""
    episodes = campaign.of_arm("episodes", arm)
    episodes = episodes[episodes["outcome"] != "error"]
    return episodes if len(episodes) else None


def _pairs(campaign: Campaign, arm: str, control: str) -> pd.DataFrame | str:
    """Return the episodes that both arms have, with `success_arm` and `success_control`; or why there are none."""
    frames = {name: _arm(campaign, name) for name in (arm, control)}
    absent = [name for name, frame in frames.items() if frame is None]
    if absent:
        return f"arm {absent[0]} was not run"
    sides = [frames[name][[*PAIR_KEY, "seed", "success"]] for name in (arm, control)]  # type: ignore[index]
    pairs = sides[0].merge(sides[1], on=[*PAIR_KEY, "seed"], suffixes=("_arm", "_control"), validate="one_to_one")
    return pairs if len(pairs) else f"{arm} and {control} have no episode in common"


def _rows(frame: pd.DataFrame, column: str = "success") -> dict[str, Any]:
    """Return how many rows a number stands on and a digest of their keys and outcomes."""
    keys = frame[[*PAIR_KEY, column]].sort_values(list(PAIR_KEY)).values.tolist()
    return {"n": len(keys), "digest": provenance.digest_json(keys)}


def _pair_rows(pairs: pd.DataFrame) -> dict[str, Any]:
    won = pairs[pairs["success_arm"] & ~pairs["success_control"]]
    lost = pairs[~pairs["success_arm"] & pairs["success_control"]]
    sides = {side: _rows(pairs, f"success_{side}") for side in ("arm", "control")}
    return {**sides, "only_arm": _names(won), "only_control": _names(lost)}


def _names(frame: pd.DataFrame) -> list[str]:
    ordered = frame.sort_values(list(PAIR_KEY))
    return [
        f"{row.suite}/{row.task_id}/{row.init_state}/{row.repeat}" for row in ordered.head(_NAMED_EPISODES).itertuples()
    ]


def _scope_of(
    campaign: Campaign, frames: Mapping[str, pd.DataFrame | None], pairs: pd.DataFrame | None = None
) -> dict[str, Any]:
    present = [frame for frame in frames.values() if frame is not None]
    rows = pairs if pairs is not None else pd.concat(present)
    devices = {campaign.metadata.get(arm, {}).get("device", "") for arm in frames}
    return _tested_on(
        policies=list(dict.fromkeys(p for frame in present for p in frame["policy"])),
        suites=sorted(set(rows["suite"])),
        tasks=sorted({int(t) for t in rows["task_id"]}),
        init_states=sorted({int(i) for i in rows["init_state"]}),
        devices=sorted(d for d in devices if d),
        episodes=len(rows),
    )


def _tested_on(**scope: Any) -> dict[str, Any]:
    """Return the scope with the words that end every sentence."""
    words = [f"Holds for {listed(scope['policies'])}"]
    if scope.get("suites"):
        words.append(f"on {listed(scope['suites'])} task{'s' * (len(scope['tasks']) != 1)} {integers(scope['tasks'])}")
        words.append(f"(init states {integers(scope['init_states'])})")
    if scope.get("devices"):
        words.append(f"on {listed(scope['devices'])}")
    return {**scope, "words": " ".join(words) + "."}


_JUDGES: dict[str, Callable[[Any, Campaign, float], Judgement]] = {
    "records": _judge_records,
    "episodes_complete": _judge_episodes_complete,
    "rate_at_least": _judge_rate,
    "paired_difference": _judge_paired,
    "non_inferiority": _judge_non_inferiority,
    "latency_ratio": _judge_latency,
    "published": _judge_published,
    "none": _judge_none,
}
