"""Verdicts as cards: what this run says, what others printed, what is plumbing and arithmetic, each counted apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashtrail.claims import claims as types
from flashtrail.claims.campaign import Campaign
from flashtrail.report import count_links, page
from flashtrail.report.page import Html

# A claim's group follows from its test: what it is computed from.
GROUPS = {
    "run": "This run",
    "published": "Published figures",
    "plumbing": "Plumbing and arithmetic",
}
_GROUP_OF = {"published": "published", "published_mixture": "published"} | dict.fromkeys(
    ("records", "episodes_complete", "routes", "bookkeeping", "published_checks"), "plumbing"
)
Claim = Mapping[str, Any]


def grouped(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    """Return the claims by group (a key of GROUPS), groups without a claim left out."""
    found: dict[str, list[Claim]] = {group: [] for group in GROUPS}
    for claim in claims:
        found[_GROUP_OF.get(claim["test"], "run")].append(claim)
    return {group: members for group, members in found.items() if members}


def short(claim: Claim) -> str:
    """Return a claim's numbers, named where a figure shows another interval (Wilson's) or another mean of times."""
    numbers = str(claim["short"] or "")
    if claim["test"] in ("rate_at_least", "metric_rate"):
        return numbers.replace("]", ", exact]")
    return f"medians {numbers}" if claim["test"] == "latency_ratio" and numbers else numbers


def numbers(run: Campaign, claim: Claim, details: str | None) -> Html:
    """Return a claim's numbers, counts as links: of `measured` a line a figure with its title, bound and whether it is
    met. A claim about the same pairs as one before it says so.
    """
    figures = claim["numbers"].values() if claim["test"] == "measured" else ()
    lines = ["{title}: {said}, {bound}: {met}".format(**f) for f in figures if "said" in f] or [short(claim)]
    told = [count_links.of_claim(run, claim, line, details) for line in lines]
    if first := _same_pairs(run, claim):
        told.append(page.inline("the same comparison as ", page.link(first["id"], f"#{anchor(first)}")))
    return Html("<br>").join(told)


def _same_pairs(run: Campaign, claim: Claim) -> Claim | None:
    """Return the first claim that compares the same episodes of the same two arms, where that is one before this."""
    if claim["test"] not in ("paired_difference", "non_inferiority") or not claim["rows"]:
        return None
    same = ("arms", "success", "rows")
    first = next(c for c in run.claims["claims"] if all(c[key] == claim[key] for key in same)) if run.claims else claim
    return None if first["id"] == claim["id"] else first


def tally(claims: Sequence[Claim]) -> Html:
    """``2 supported, 1 refuted``, each with its mark; verdicts that no claim has are left out."""
    counts = {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in types.VERDICTS}
    said = (page.badge(verdict, f"{n} {verdict}") for verdict, n in counts.items() if n)
    return Html('<span class="tally">{}</span>').format(Html(" ").join(said))


def anchor(claim: Claim) -> str:
    """Return the anchor of a claim's row in the matrix."""
    return f"claim-{claim['id']}"


def section(run: Campaign, details: str | None) -> Html | None:
    """Return the cards of this run's claims, the other groups folded; None where no claim was evaluated.

    `details`: the page that has the claims' details, to which counts of records lead, if there is one.
    """
    if not run.claims:
        return None
    parts = []
    for group, members in grouped(run.claims["claims"]).items():
        body = _cards(run, members, details)
        if group == "run":
            parts.append(page.inline(page.heading(page.inline(GROUPS[group], " ", tally(members)), 3), body))
        else:
            parts.append(page.details(page.inline(GROUPS[group], " ", tally(members)), body))
    return Html('<section class="cards" aria-label="verdicts">{}</section>').format(page.join(*parts))


def _cards(run: Campaign, members: Sequence[Claim], details: str | None) -> Html:
    tested, untested = split(members)
    lists = [_list(run, part, details) for part in (tested, untested)]
    folded = page.details(page.badge("not_tested", f"{len(untested)} not_tested"), lists[1]) if untested else None
    return page.join(lists[0] if tested else None, folded)


def split(members: Sequence[Claim]) -> tuple[list[Claim], list[Claim]]:
    """Return the claims that were tested, and those that were not."""
    tested = [claim for claim in members if claim["verdict"] != "not_tested"]
    return tested, [claim for claim in members if claim["verdict"] == "not_tested"]


def _list(run: Campaign, members: Sequence[Claim], details: str | None) -> Html:
    return Html("<ul>{}</ul>").format(page.inline(*(_card(run, claim, details) for claim in members)))


def _card(run: Campaign, claim: Claim, details: str | None) -> Html:
    """One claim: verdict, title, numbers; the whole card leads to its row, a count to its episodes."""
    return Html(
        '<li class="card {0}"><a class="whole" href="#{1}">{2} <span class="title">{3}</span></a>'
        '<span class="numbers">{4}</span></li>'
    ).format(
        claim["verdict"], anchor(claim), page.badge(claim["verdict"]), claim["title"], numbers(run, claim, details)
    )
