"""The verdict of a run in one sentence, and what too few episodes leave open: from verdicts and summaries only.

Pure: from claims as claims.json has them and the arms' words to text. Each text comes with the arms whose counts it
names, in order, so that the page can link them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flashtrail.statistics import power
from flashtrail.statistics.wording import percent, plural, points

_COMPARED = ("paired_difference", "unpaired_difference", "non_inferiority")
_KINDS = ("speculation", "fault", "remedy", "control")  # control: of another policy, as it is
_MOST_OPEN = 2  # open questions that the sentence names; beyond, it counts them
_MOST_METRICS = 3  # claims about metrics that the sentence names
Claim = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """What the sentence needs to know of an arm: its role (palette.ROLES), its fault and remedy in words, drafts.

    `policy`: its name, where the run has several.
    """

    role: str
    fault: str = ""
    remedy: str = ""
    drafts: bool = True
    policy: str = ""


@dataclass(frozen=True)
class Said:
    """Text, and the arms whose counts k/n it names, in their order."""

    text: str
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """What several claims about the same two arms ask; `found`: worse, better, alike or open, of the arm."""

    kind: str  # one of _KINDS
    what: str
    arm: str
    control: str
    found: str
    counts: str  # ``3/9 against 7/9``
    margin: float
    needs: str  # what would settle it


def questions(claims: Sequence[Claim], arms: Mapping[str, Arm]) -> list[Question]:
    """Return the comparisons of two arms, in the order of their first claim, those that were tested."""
    by_pair: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        if claim["test"] in _COMPARED and claim["verdict"] != "not_tested" and set(claim["arms"]) <= set(arms):
            by_pair.setdefault((claim["arms"][0], claim["arms"][1]), []).append(claim)
    asked = (_question(arm, control, of_pair, arms) for (arm, control), of_pair in by_pair.items())
    found = sorted((q for q in asked if q), key=lambda q: _KINDS.index(q.kind))
    several = [name for name in (q.what for q in found) if [q.what for q in found].count(name) > 1]
    return [replace(q, what=f"{q.what} with {_article(arms[q.arm].fault)}") if q.what in several else q for q in found]


def _question(arm: str, control: str, claims: Sequence[Claim], arms: Mapping[str, Arm]) -> Question | None:
    own, other = arms[arm], arms[control]
    alike = bool(own.fault) == bool(other.fault)  # in words they may differ: imported faults are counted
    if own.remedy and own.remedy != other.remedy and alike:
        kind, what = "remedy", f"the {own.remedy.partition(':')[0]}"  # guard: last healthy frame -> the guard
    elif own.fault and not other.fault and not own.remedy:
        kind, what = "fault", own.fault
    elif own.drafts and not other.drafts and alike:
        kind, what = "speculation", "drafting"
    elif own.policy and other.policy not in ("", own.policy) and not own.fault and not other.fault:
        kind, what = "control", f"{own.policy} and {other.policy}"
    else:
        return None
    numbers = claims[0]["numbers"]
    k, n, k_control, n_control = _counts(numbers)
    margin = max((claim["margin"] or 0.0 for claim in claims), default=0.0)
    open_ = [claim for claim in claims if claim["verdict"] == "inconclusive"]
    least = min(open_, key=lambda claim: (claim["settle"] or {}).get("n") or power.MOST + 1, default=None)
    counts = f"{k}/{n} against {k_control}/{n_control}"
    return Question(kind, what, arm, control, _found(claims), counts, margin, needs(least))


def _counts(numbers: Mapping[str, Any]) -> tuple[int, int, int, int]:
    if "k_arm" in numbers:
        return numbers["k_arm"], numbers["n"], numbers["k_control"], numbers["n"]
    a, b = numbers["a"], numbers["b"]
    return a["k"], a["n"], b["k"], b["n"]


def _found(claims: Sequence[Claim]) -> str:
    """Several claims about one pair make one answer: what any of them established, else open."""
    said = [_of_claim(claim) for claim in claims]
    return next((answer for answer in ("worse", "better", "alike") if answer in said), "open")


def _of_claim(claim: Claim) -> str:
    verdict, difference = claim["verdict"], claim["numbers"]["difference"]
    if verdict == "inconclusive":
        return "open"
    if claim["test"] == "non_inferiority":
        return "alike" if verdict == "supported" else "worse"
    return ("better" if difference > 0 else "worse") if verdict == "supported" else "alike"


# --- the sentence ---


def sentence(
    claims: Sequence[Claim], arms: Mapping[str, Arm], ratio: float | None = None, where: str = "On this machine"
) -> Said:
    """Return the verdict on a run: what was established, then what is open.

    `ratio`: time of a round without drafts over one with them, of the two arms that are compared; `where` the rounds
    were timed. Empty where no claim says anything of the run.
    """
    asked = questions(claims, arms)
    parts: list[Said] = [*_speed(claims, asked, ratio, where), *(_decided(q) for q in asked if q.found != "open")]
    if not any(q.kind == "speculation" for q in asked):
        parts = [*_baseline(claims, arms), *parts]
    parts += _metrics(claims)
    open_ = [q for q in asked if q.found == "open"]
    if len(open_) <= _MOST_OPEN:
        parts += [Said(f"{_subject(q)} is undecided: {q.needs}") for q in open_]
    elif parts:
        parts.append(Said(f"{len(open_)} of {plural(len(asked), 'comparison')} are undecided"))
    else:
        parts.append(Said(f"nothing is decided yet: all {plural(len(asked), 'comparison')} are undecided"))
    parts = [part for part in parts if part.text]
    text = "; ".join(part.text for part in parts)
    return Said(f"{_capital(text)}." if text else "", tuple(arm for part in parts for arm in part.arms))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _speed(claims: Sequence[Claim], asked: Sequence[Question], ratio: float | None, where: str) -> list[Said]:
    """What a round costs with and without drafts, and with it what drafting does to success, where that is decided."""
    claim = next((c for c in claims if c["test"] == "latency_ratio" and c["verdict"] != "not_tested"), None)
    if claim is None:
        return []
    if claim["verdict"] == "inconclusive":
        load = claim["numbers"].get("machine") or {}
        loaded = (load.get("others") or 0) > claim["numbers"].get("load_at_most", 1)
        why = "the machine was busy with other programs while rounds were timed" if loaded else needs(claim)
        return [Said(f"whether FLASH is faster is undecided: {why}")]
    shorter = 1 / claim["numbers"]["ratio"]["ratio"]
    if claim["verdict"] == "refuted":
        return [Said(f"{where} a draft round is not faster than a full one ({shorter:.2g} times as fast)")]
    if ratio is None:
        return [Said(f"{where} a draft round is {_times(shorter)} as fast as a full one")]
    return [Said(f"{where} FLASH, fallbacks included, answers {_times(ratio)} as fast as full rounds")]


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"


def _baseline(claims: Sequence[Claim], arms: Mapping[str, Arm]) -> list[Said]:
    """Success without a fault, where no comparison gives it."""
    for claim in claims:
        if claim["test"] == "rate_at_least" and claim["verdict"] != "not_tested":
            arm, rate = claim["arms"][0], claim["numbers"]["rate"]
            if arm in arms and arms[arm].role == "clean":
                whose = f" of {arms[arm].policy}" if arms[arm].policy else ""
                return [Said(f"without a fault {rate['k']}/{rate['n']} episodes{whose} succeed", (arm,))]
    return []


def _metrics(claims: Sequence[Claim]) -> list[Said]:
    """What was found of metrics that claims are about: the first claims' titles, with the count that decides each."""
    tested = [c for c in claims if c["test"] == "metric_rate" and c["verdict"] != "not_tested"]
    judged = [c for c in tested if c["verdict"] != "inconclusive"]
    shown = judged if len(judged) <= _MOST_METRICS else judged[: _MOST_METRICS - 1]
    said = []
    for claim in shown:
        rate, title = claim["numbers"]["rate"], claim["title"][:1].lower() + claim["title"][1:]
        what = title if claim["verdict"] == "supported" else f"it is refuted that {title}"
        said.append(Said(f"{what} ({rate['k']}/{rate['n']})", (claim["arms"][0],)))
    if len(shown) < len(judged):
        rest = [claim for claim in tested if claim not in shown]
        held = sum(claim["verdict"] == "supported" for claim in rest)
        said.append(Said(f"{held} of {len(rest)} further claims of this kind are supported"))
    return said


def _decided(q: Question) -> Said:
    size = points(q.margin).lstrip("+")
    if q.kind == "control":
        own, _, other = q.what.partition(" and ")
        how = {"worse": "is worse than", "better": "is better than", "alike": f"is at most {size} worse than"}
        return Said(f"the policy {own} {how[q.found]} {other} ({q.counts})", (q.arm, q.control))
    if q.kind == "speculation":
        verb = {"worse": "costs success", "better": "raises success", "alike": f"costs less than {size} of success"}
    elif q.kind == "fault":
        verb = {"worse": "lowers success", "better": "raises success", "alike": f"costs less than {size} of success"}
    else:
        verb = {"worse": "lowers success", "better": "raises success", "alike": f"brings less than {size}"}
    return Said(f"{_article(q.what)} {verb[q.found]} ({q.counts})", (q.arm, q.control))


def _article(what: str) -> str:
    return f"a {what}" if what.startswith(("wrist", "agent")) else what


def _subject(q: Question) -> str:
    if q.kind == "speculation":
        return "whether drafting costs success"
    if q.kind == "control":
        return f"which of {q.what} succeeds more often"
    return f"what {_article(q.what)} does" if q.kind == "fault" else q.what


def needs(claim: Claim | None) -> str:
    """``40 paired episodes would settle it``: the claim's own planning number, of a run of that size; or why none."""
    plan = claim and claim["settle"]
    if not plan:
        return (claim or {}).get("open") or "episodes can be added until it is decided"
    if not plan["n"]:
        return f"{plural(power.MOST, plan['unit'])} would not settle it"
    return f"{plural(plan['n'], plan['unit'])} would settle it"


def too_few(claims: Sequence[Claim], arms: Mapping[str, Arm]) -> list[Said]:
    """Return, for each question about success that is open, what it is, its counts and the episodes that it needs."""
    found = [
        Said(f"{_capital(_subject(q))}: {q.counts}; {q.needs}", (q.arm, q.control))
        for q in questions(claims, arms)
        if q.found == "open"
    ]
    for claim in claims:
        if claim["test"] == "rate_at_least" and claim["verdict"] == "inconclusive" and claim["arms"][0] in arms:
            arm, rate = claim["arms"][0], claim["numbers"]["rate"]
            fault = arms[arm].fault
            under = f"with {_article(fault)}" if fault else "without a fault"
            words = f"Whether success {under} reaches {percent(claim['margin'])}: {rate['k']}/{rate['n']}"
            found.append(Said(f"{words}; {needs(claim)}", (arm,)))
        elif claim["test"] == "metric_rate" and claim["verdict"] == "inconclusive":
            rate = claim["numbers"]["rate"]
            words = f"{claim['title']}: {rate['k']}/{rate['n']}; {needs(claim)}"
            found.append(Said(words, (claim["arms"][0],)))
    return found
