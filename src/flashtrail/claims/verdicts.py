"""From tables to a verdict: every claim judged, families of claims adjusted, open claims with a plan to settle them.

One function per kind of test, each with its numbers, its rows and its sentence; those about success are in
success_verdicts.py, about latency in latency_verdicts.py, about what others published in published_verdicts.py. How
each test decides is written above it; nothing else enters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from flashtrail.base import provenance
from flashtrail.claims import claims as types
from flashtrail.claims import (
    latency_verdicts,
    measured_verdicts,
    published_verdicts,
    signal_verdicts,
    success_verdicts,
    summaries,
)
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.judgement import Judgement, NotTested, rows_of, scope_of, tally, tested_on
from flashtrail.statistics import intervals, power
from flashtrail.statistics.power import Plan
from flashtrail.statistics.wording import (
    e_value,
    listed,
    p_value,
    percent,
    percent_range,
    plural,
    points_range,
)
from flashtrail.tables import endings
from flashtrail.tables.schemas import PAIR_KEY

_PREFIX_TOLERANCE = 1e-6  # actions of 12


def judge_all(file: types.ClaimsFile, campaign: Campaign, plan: bool = True) -> list[dict[str, Any]]:
    """Return every claim with its verdict as plain data.

    `supported` in a family of claims needs Holm's adjusted p at or under alpha, the family being its claims that were
    tested; 1/e is the p of a claim that rests on its anytime-valid test. An inconclusive claim that rests on its
    fixed-n test gets its plan, the number of episodes that would settle it, unless `plan` is False.
    """
    judged = [_judge(claim, campaign, file.alpha) for claim in file.claims]
    adjusted = families(file.claims, judged)
    result = []
    for claim, judgement in zip(file.claims, judged, strict=True):
        family = adjusted.get(claim.id)
        if family:
            adjust(judgement, family, file.alpha)
        size = family["size"] if family else 1
        # A member of a family is planned at its first Holm step, which is the strictest.
        fixed = judgement.anytime is None or judgement.anytime.fixed  # else more may be added until it is decided
        planned = judgement.plan if plan and fixed and judgement.verdict == "inconclusive" else None
        result.append(_plain(claim, judgement, family, planned(file.alpha / size) if planned else None))
    return result


_SUCCESS_SENTENCES = {
    "simulator": "Success is the simulator's own.",
    "verified": "Success is the verified one: the behaviour was seen, too.",
}


def _judge(claim: types.AnyClaim, campaign: Campaign, alpha: float) -> Judgement:
    """Judge one claim; one about success by the success that it names."""
    try:
        if getattr(claim, "success", None) == "verified":
            campaign = _verified(claim, campaign)
        return _JUDGES[claim.test](claim, campaign, alpha)
    except NotTested as reason:
        return Judgement("not_tested", f"Not tested: {reason}.")


def _verified(claim: types.AnyClaim, campaign: Campaign) -> Campaign:
    """Return the campaign by verified success; NotTested where an episode of the claim was not verified."""
    for arm in _arms(claim):
        if blind := int(campaign.judged(arm)["verified_success"].isna().sum()):
            raise NotTested(f"{plural(blind, 'episode')} of {arm} were not verified (no verified_success)")
    return campaign.by_verification()


def _arms(claim: types.AnyClaim) -> list[str]:
    return [arm for arm in (getattr(claim, "arm", None), getattr(claim, "control", None)) if arm]


def families(claims: Sequence[types.AnyClaim], judged: Sequence[Judgement]) -> dict[str, dict[str, Any]]:
    """Return, for each tested claim of a family, the family's name and size and the claim's adjusted p and e.

    1/e is a p value at any stopping time (Ville), so Holm's method holds for it and for any mixture of both kinds.
    """
    members: dict[str, dict[str, tuple[float, float]]] = {}
    for claim, judgement in zip(claims, judged, strict=True):
        name = getattr(claim, "family", None)
        if name and judgement.p is not None and judgement.anytime is not None:
            anytime_p = min(1.0, 1 / max(judgement.anytime.e, 1e-9))
            p_values = (judgement.p if judgement.anytime.fixed else anytime_p, anytime_p)
            members.setdefault(name, {})[claim.id] = p_values
    adjusted = {}
    for name, by_claim in members.items():
        of_verdict, of_anytime = (intervals.holm([p_values[i] for p_values in by_claim.values()]) for i in (0, 1))
        for claim_id, p, anytime_p in zip(by_claim, of_verdict, of_anytime, strict=True):
            adjusted[claim_id] = {"name": name, "size": len(by_claim), "p_adjusted": p, "e_adjusted": 1 / anytime_p}
    return adjusted


def adjust(judgement: Judgement, family: Mapping[str, Any], alpha: float) -> None:
    """Hold a supported claim, and the verdict of its anytime-valid side, to the family's adjusted p."""
    side = judgement.anytime
    if family["size"] > 1 and side and side.verdict == "supported" and family["e_adjusted"] < side.needs:
        judgement.anytime = replace(side, verdict="inconclusive")
    if judgement.verdict != "supported" or family["size"] < 2:
        return
    note = f" After Holm's adjustment for {family['size']} tests ({family['name']}): "
    note += p_value(family["p_adjusted"]) if side is None or side.fixed else f"e = {1 / family['p_adjusted']:.3g}"
    if family["p_adjusted"] > alpha:
        judgement.verdict = "inconclusive"
        note += f", not established at {alpha:g}"
    judgement.sentence += note + "."


def _plain(
    claim: types.AnyClaim, judgement: Judgement, family: Mapping[str, Any] | None, plan: Plan | None
) -> dict[str, Any]:
    scope_note = judgement.tested_on.get("words", "")
    settle = {**plan.as_dict(), "words": plan_words(plan)} if plan else None
    tested = judgement.verdict != "not_tested"
    success_note = _SUCCESS_SENTENCES.get(getattr(claim, "success", ""), "") if tested else ""
    side = judgement.anytime
    looks_note = "" if side is None or side.fixed else f"{looks_words(side.as_dict())} {anytime_words(side.as_dict())}."
    return {
        "id": claim.id,
        "title": claim.title,
        "statement": claim.statement,
        "scope": claim.scope,
        "arms": _arms(claim),
        "success": getattr(claim, "success", None),
        "estimand": claim.estimand,
        "test": claim.test,
        "metric": getattr(claim, "metric", None),
        "margin": getattr(claim, "margin", getattr(claim, "bar", getattr(claim, "below", None))),
        "refuted_if": claim.refuted_if,
        "verdict": judgement.verdict,
        "seed_word": types.seed_word(judgement.verdict, claim.limited),
        "sentence": " ".join(
            part
            for part in (
                judgement.sentence,
                looks_note,
                success_note,
                settle and f"To settle it: {settle['words']}.",
                judgement.open and f"It stays open: {judgement.open}.",
                scope_note,
            )
            if part
        ),
        "short": judgement.short,
        "p": judgement.p,
        "family": dict(family) if family else None,
        "anytime": side.as_dict() if side else None,
        "settle": settle,
        "open": judgement.open,
        "numbers": judgement.numbers,
        "tested_on": judgement.tested_on,
        "rows": judgement.rows,
        "seed": claim.seed.model_dump(),
    }


def anytime_words(side: Mapping[str, Any]) -> str:
    """``Anytime-valid: e = 3.1 (needs 20), 95 % sequence [-5, +40] points: inconclusive``, of a claim's `anytime`."""
    ends = ""
    if side["interval"]:
        interval = intervals.Interval(**side["interval"])
        of_rate = side["counts"].get("k_control") is None
        ends = f", {percent(interval.level)} sequence {(percent_range if of_rate else points_range)(interval)}"
    return f"Anytime-valid: {e_value(side['e'], side['needs'])}{ends}: {side['verdict']}"


def looks_words(side: Mapping[str, Any]) -> str:
    """Return which test a claim's verdict rests on, and why, of its `anytime`."""
    if side["rests_on"] == "fixed-n":
        return f"The verdict rests on the fixed-n test: n was {side['looks'][0]:,} at every look."
    sizes = dict.fromkeys(f"{n:,}" for n in side["looks"])
    text = f"The verdict rests on the anytime-valid test: there were looks at n = {listed(list(sizes))}"
    if side["settled"]:
        text += ", by a loop that adds episodes (settle)"
    if len(sizes) < len(side["looks"]):
        text += "; at one n episodes were run again with other outcomes, a second chance that no test here allows for"
    return f"{text}."


_TO = {"supported": "support", "refuted": "refute"}


def plan_words(plan: Plan) -> str:
    """Return a plan with all that its number rests on; page, headline and ledger print these words."""
    size = plural(plan.n, plan.unit) if plan.n else f"more than {plural(power.MOST, plan.unit)}"
    return (
        f"{size} {_TO[plan.verdict]} it with {percent(plan.power)} power at alpha {plan.alpha:.3g} if {plan.assumption}"
    )


# --- records: supported if every record meets every check, refuted otherwise ---


def _judge_records(claim: types.RecordsClaim, campaign: Campaign, alpha: float) -> Judgement:
    records = campaign.records(claim.of)
    if not records:
        raise NotTested("there is no such record")
    checked = [(p, r, c) for p, r in records.items() for c in claim.checks if c.where is None or _value_at(r, c.where)]
    failed = [f"{policy}: {reason}" for policy, record, check in checked if (reason := _unmet(check, record))]
    # A check that no record has the means for leaves the claim open, however well the others went.
    open_ = [c.where for c in claim.checks if c.where and not any(check is c for _, _, check in checked)]
    verdict: types.Verdict = "refuted" if failed else "not_tested" if open_ else "supported"
    passed = len(records) - len({f.split(":")[0] for f in failed})
    sentence = tally(passed, len(records), "record", "meet every check", failed)
    for name in dict.fromkeys(c.where for c in claim.checks if c.where):
        if without := [policy for policy, record in records.items() if not _value_at(record, name)]:
            sentence += f" Without a {name}, which is therefore not tested: {listed(without)}."
    return Judgement(
        verdict,
        sentence,
        {"records": len(records), "passed": passed, "failed": failed, "values": _values(claim, records)},
        f"{passed}/{len(records)}",
        tested_on(policies=list(records)) if claim.of != "environments" else {},
        {"records": sorted(records)},
    )


def _values(claim: types.RecordsClaim, records: Mapping[str, Any]) -> dict[str, Any]:
    return {policy: {c.path: _value_at(record, c.path) for c in claim.checks} for policy, record in records.items()}


def _unmet(check: types.Check, record: Any) -> str | None:
    value = _value_at(record, check.path)
    if check.presence == "absent":
        return None if value is None else f"{check.path} is {value!r}"
    if value is None:
        return f"{check.path} is missing"
    if check.equals is not None and value != check.equals:
        return f"{check.path} is {value!r}, not {check.equals!r}"
    if check.at_most is not None:
        limit = _value_at(record, check.at_most) if isinstance(check.at_most, str) else check.at_most
        if limit is None or value > limit:
            return f"{check.path} is {value}, more than {limit}"
    return None


def _value_at(record: Any, path: str) -> Any:
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
        raise NotTested("there is no smoke test")
    complete = {policy: int((frame["outcome"] != "error").sum()) for policy, frame in smokes.items()}
    broken = {policy: int((frame["outcome"] == "error").sum()) for policy, frame in smokes.items()}
    good = all(complete[p] >= claim.at_least and not broken[p] for p in smokes)
    counts = "; ".join(f"{p}: {complete[p]} complete, {plural(broken[p], 'error')}" for p in smokes)
    return Judgement(
        "supported" if good else "refuted",
        f"{counts} (at least {claim.at_least} asked for).",
        {"complete": complete, "errors": broken},
        ", ".join(f"{complete[p]}/{complete[p] + broken[p]}" for p in smokes),
        tested_on(policies=list(smokes)),
        {p: rows_of(frame.sort_values(list(PAIR_KEY))) for p, frame in smokes.items()},
    )


# --- routes: supported if every round names its route, every draft its prefix, and the episodes' own counters agree;
# --- refuted otherwise. The counts are of the arm's summary, which is made of the rounds. ---


def _judge_routes(claim: types.RoutesClaim, campaign: Campaign, alpha: float) -> Judgement:
    summary, episodes = campaign.summaries.get(claim.arm), campaign.of_arm("episodes", claim.arm)
    if summary is None or not len(episodes):
        raise NotTested(f"arm {claim.arm} was not run")
    routes, prefix = summary["routes"], summary["accepted_prefix"]
    if not routes["draft"]:
        raise NotTested(f"{claim.arm} has no draft round, so no accepted prefix")
    problems = _route_problems(summary, episodes)
    rounds = f"{routes['full']:,} full and {plural(routes['draft'], 'draft round')}"
    most = summaries.of_how_many(prefix)
    sentence = (
        f"{claim.arm} took {rounds} ({percent(routes['draft_share'], 1)} drafts); accepted on average "
        f"{prefix['mean_draft']:.3f} of {most} in draft rounds, {prefix['mean_all']:.3f} where full rounds count as "
        f"{most}. "
    )
    sentence += f"{'; '.join(problems)}." if problems else "Rows and counters agree."
    prefix_numbers = {key: prefix[key] for key in ("histogram", "mean_draft", "mean_all", "zero", "whole")}
    return Judgement(
        "refuted" if problems else "supported",
        sentence,
        {**{key: routes[key] for key in ("full", "draft", "n", "draft_share")}, **prefix_numbers, "problems": problems},
        f"{routes['full']:,} full, {routes['draft']:,} draft; {prefix['mean_draft']:.3f} of {most}",
        scope_of(campaign, {claim.arm: episodes}),
        {claim.arm: rows_of(campaign.judged(claim.arm))},
    )


def _route_problems(summary: Mapping[str, Any], episodes: pd.DataFrame) -> list[str]:
    routes, prefix = summary["routes"], summary["accepted_prefix"]
    problems = []
    if (nameless := routes["n"] - routes["full"] - routes["draft"]) != 0:
        problems.append(f"{plural(nameless, 'round')} without a route")
    if (missing := routes["draft"] - sum(prefix["histogram"])) != 0:
        most = summaries.of_how_many(prefix)
        problems.append(f"{plural(missing, 'draft round')} without an accepted prefix of 0 to {most}")
    for route in ("full", "draft"):
        if (counted := int(episodes[f"{route}_rounds"].sum())) != routes[route]:
            problems.append(f"the episodes count {counted:,} {route} rounds, the rows are {routes[route]:,}")
    drafting = episodes[episodes["draft_rounds"] > 0]
    if drafting["accepted_prefix_mean"].notna().all() and len(drafting):
        mean = float(
            (drafting["accepted_prefix_mean"] * drafting["draft_rounds"]).sum() / drafting["draft_rounds"].sum()
        )
        if abs(mean - prefix["mean_draft"]) > _PREFIX_TOLERANCE:
            problems.append(f"the episodes' accepted prefixes average {mean:.3f}, the rows {prefix['mean_draft']:.3f}")
    return problems


# --- bookkeeping: supported if in every arm the counters, k/n and the mixture identity agree, refuted otherwise ---


def _judge_bookkeeping(claim: types.BookkeepingClaim, campaign: Campaign, alpha: float) -> Judgement:
    summaries = campaign.summaries
    if not summaries:
        raise NotTested("there is no summary")
    failed: list[str] = []
    for arm, summary in summaries.items():
        episodes = campaign.of_arm("episodes", arm)
        counted = (int(episodes["success"].sum()), len(endings.judged(episodes)))
        if (summary["success"]["k"], summary["success"]["n"]) != counted:
            recorded = f"{summary['success']['k']}/{summary['success']['n']}"
            failed.append(f"{arm}: the summary says {recorded}, the rows {counted[0]}/{counted[1]}")
        errors = len(episodes) - counted[1]
        if summary["outcomes"]["error"] != errors:
            errors_recorded = plural(summary["outcomes"]["error"], "infrastructure error")
            failed.append(f"{arm}: the summary says {errors_recorded}, the rows {errors}")
        at_odds = summary["bookkeeping"]["episodes_at_odds"]
        if at_odds:
            failed.append(f"{arm}: {plural(at_odds, 'episode')} whose counters differ from their rounds")
        mean, implied = summary["mixture"]["mean_ms"], summary["mixture"]["implied_ms"]
        if mean is not None and abs(mean - implied) > claim.tolerance * mean:
            failed.append(f"{arm}: mean {mean:.4f} ms, its routes imply {implied:.4f} ms")
    without_rounds = [arm for arm, summary in summaries.items() if not summary["condition"]["rounds"]]
    if len(without_rounds) == len(summaries) and not failed:
        raise NotTested("there are no rounds: only k/n could be checked against the rows, and it agrees")
    broken = {line.split(":")[0] for line in failed}
    passed = len(summaries) - len(broken)
    sentence = tally(passed, len(summaries), "arm", f"agree with {'itself' if passed == 1 else 'themselves'}", failed)
    return Judgement(
        "refuted" if failed else "supported",
        sentence + (f" Without rounds only k/n was checked: {listed(without_rounds)}." if without_rounds else ""),
        {"arms": len(summaries), "failed": failed},
        f"{passed}/{len(summaries)}",
        tested_on(policies=sorted({s["policy"] for s in summaries.values()})),
        {arm: rows_of(campaign.judged(arm)) for arm in summaries},
    )


def _judge_none(claim: types.NotTestedClaim, campaign: Campaign, alpha: float) -> Judgement:
    raise NotTested(claim.reason)


_JUDGES: dict[str, Callable[[Any, Campaign, float], Judgement]] = {
    "records": _judge_records,
    "episodes_complete": _judge_episodes_complete,
    "rate_at_least": success_verdicts.judge_rate,
    "metric_rate": success_verdicts.judge_metric,
    "paired_difference": success_verdicts.judge_paired,
    "unpaired_difference": success_verdicts.judge_unpaired,
    "non_inferiority": success_verdicts.judge_non_inferiority,
    "steps_saved": measured_verdicts.judge_steps_saved,
    "steps_differ": measured_verdicts.judge_steps_differ,
    "signal_auroc": signal_verdicts.judge_signal,
    "measured": measured_verdicts.judge_measured,
    "latency_ratio": latency_verdicts.judge_ratio,
    "latency_at_most": latency_verdicts.judge_limit,
    "routes": _judge_routes,
    "published": published_verdicts.judge_published,
    "published_checks": published_verdicts.judge_published_checks,
    "published_mixture": published_verdicts.judge_published_mixture,
    "bookkeeping": _judge_bookkeeping,
    "none": _judge_none,
}


def evaluate(claims: str | Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Judge every claim of claims.yaml on a campaign's files and return what goes into claims.json.

    `inputs` is what `campaign.Campaign` takes. No verdict depends on anything but these files: not on the order of
    arms, not on prose.
    """
    file, campaign = types.load(claims), Campaign(inputs)
    return {
        "version": 1,
        **({"title": file.title} if file.title else {}),
        "alpha": file.alpha,
        "claims_digest": provenance.sha256_file(claims)[:16],
        "simulated": campaign.simulated,
        "claims": judge_all(file, campaign),
    }
