"""Published figures beside ours, each with hardware and scope, and what can be checked of theirs from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashtrail.claims import published
from flashtrail.claims.campaign import Campaign
from flashtrail.report import cards, cells, page, printed_figures
from flashtrail.report.count_links import apart, behind, in_text
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.intervals import Rate
from flashtrail.statistics.wording import counted, listed, milliseconds

_SUCCESS_HEADS = {
    "who": "Who",
    "policy": "Policy, method",
    "arm": "Suite, arm",
    "count": "k/n",
    "rate": "Rate [Wilson 95 %]",
}
_LATENCY_HEADS = {
    "who": "Who",
    "policy": "Policy, method",
    "what": "Route, statistic",
    "ms": "ms",
    "n": "n",
    "where": "Hardware",
}


def published_beside_ours(run: Campaign) -> Html:
    """Others' success and latency beside ours, with hardware and scope; then what can be checked of theirs."""
    figures = published.load(next(iter(run.files("published")), None))
    if run.claims:
        figures = published.about(figures, {claim["id"] for claim in run.claims["claims"]})
    sources = [
        {
            "name": name,
            "what": page.inline(source.title, ". ", source.where, "."),
            "hardware": source.hardware,
            "setting": source.setting,
            "scope": f"Success: {source.success_scope}. Latency: {source.latency_scope}.",
        }
        for name, source in figures.sources.items()
    ]
    heads = {"name": "Name", "what": "Source", "hardware": "Hardware", "setting": "Setting", "scope": "Scope"}
    note = (
        "Policies, hardware and scopes differ, so these rows are for orientation, not for a test: a difference between "
        "a run and a published figure has many causes. Intervals of published counts are computed here."
    )
    return page.join(
        printed_figures.section(run),
        page.paragraph(note, "note"),
        _table(_success_rows(run, figures), _SUCCESS_HEADS, "Success") if figures.success else None,
        _table(_latency_rows(run, figures), _LATENCY_HEADS, "Latency per round") if figures.latency else None,
        page.table(
            sources, heads, caption="Where the published figures come from", stacked=True, name="published-sources"
        ),
        page.details("What can be checked of the published figures", _checks(figures))
        if published.checks(figures)
        else None,
        _at_odds(figures),
        page.details("What was printed, where, and what was found here", _said(run, figures)),
    )


def _table(rows: list[dict[str, Any]], heads: Mapping[str, str], caption: str) -> Html:
    name = f"published-{caption.split()[0].lower()}"
    return page.table(rows, heads, ("count", "ms", "n"), caption, stacked=True, name=name)


def _at_odds(figures: published.Published) -> Html | None:
    """One line per printed figure that its source's own rows do not give."""
    lines = [
        page.paragraph(
            page.inline(
                f"Does not follow from its own rows: {entry.source}, {entry.figure}, printed {entry.value}; they give ",
                _theirs(entry.rows_give),
                ".",
            )
        )
        for entry in figures.said
        if entry.follows_from_rows == "no"
    ]
    return page.join(*lines) if lines else None


def _said(run: Campaign, figures: published.Published) -> Html:
    """What the sources printed, with the verdicts on the claims about it."""
    judged = {claim["id"]: claim for claim in (run.claims or {"claims": []})["claims"]}
    rows = [
        {
            "source": entry.source,
            "figure": entry.figure,
            "value": _theirs(entry.value),
            "where": ", ".join(entry.where),
            "here": Html(", ").join(_verdict(judged[name]) for name in entry.used_by if name in judged)
            or entry.untested,
            "follows": entry.follows_from_rows,
            "give": _theirs(entry.rows_give) if entry.rows_give else None,
        }
        for entry in figures.said
    ]
    heads = {"source": "Source", "figure": "Figure", "value": "Printed", "where": "Where", "here": "Here"}
    if any(entry.follows_from_rows != "unknown" for entry in figures.said):
        heads |= {"follows": "Follows from its rows", "give": "They give"}
    note = "Where: section or appendix of the source\u2019s write-up, or a file of its repository."
    return page.join(page.paragraph(note, "note"), page.table(rows, heads, stacked=True, name="published-said"))


def _verdict(claim: Mapping[str, Any]) -> Html:
    return page.inline(page.link(claim["id"], f"#{cards.anchor(claim)}"), " ", page.badge(claim["verdict"]))


def _theirs(text: str) -> Html:
    return in_text(text, [lambda count: apart(count, "published")])


def _success_rows(run: Campaign, figures: published.Published) -> list[dict[str, Any]]:
    rows = [
        {
            "who": page.bold(run.whose(arm)),
            "policy": summary["policy"],
            "arm": f"{summary['suite']}, {arm}",
            "count": behind(run, arm, counted(cells.rate_of(summary["success"]))),
            "rate": _rate(cells.rate_of(summary["success"])),
        }
        for arm, summary in run.summaries.items()
    ]
    suites = {summary["suite"] for summary in run.summaries.values()}
    for entry in figures.success:
        if entry.suite in suites and entry.count is not None and entry.n is not None:
            measured = intervals.rate(entry.count, entry.n)
            rows.append(
                {
                    "who": entry.source,
                    "policy": f"{figures.sources[entry.source].policy}, {entry.method}",
                    "arm": f"{entry.suite}, {entry.arm or 'no fault'}",
                    "count": apart(counted(measured), "published"),
                    "rate": _rate(measured),
                }
            )
    return rows


def _rate(measured: Rate) -> str:
    return cells.share(measured.rate, measured.wilson)


def _latency_rows(run: Campaign, figures: published.Published) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for policy, route in run.profile[["policy", "route"]].drop_duplicates().itertuples(index=False):
        part = run.profile[(run.profile["policy"] == policy) & (run.profile["route"] == route)]
        measured = intervals.latency(part["policy_ms"])
        rows.append(
            {
                "who": page.bold(run.whose(None)),
                "policy": policy,
                "what": f"{route}, p50",
                "ms": milliseconds(measured.p50.value if measured.p50 else None),
                "n": measured.n,
                "where": listed(sorted(set(part["device"]))),
            }
        )
    for entry in figures.latency:
        source = figures.sources[entry.source]
        rows.append(
            {
                "who": entry.source,
                "policy": f"{source.policy}, {entry.method}",
                "what": f"{entry.route}, {entry.statistic}, {entry.suite}" + (f" ({entry.note})" if entry.note else ""),
                "ms": milliseconds(entry.ms),
                "n": entry.n,
                "where": source.hardware.split(";")[0],
            }
        )
    return rows


def _checks(figures: published.Published) -> Html:
    verdicts = {True: "agrees", False: "does not agree", None: "to compare"}
    rows = [
        entry | {"agrees": verdicts[entry["agrees"]], "found": apart(entry["found"], "published")}
        for entry in published.checks(figures)
    ]
    heads = {
        "check": "Check",
        "source": "Source",
        "what": "Figure",
        "printed": "Printed",
        "found": "Found",
        "agrees": "Verdict",
    }
    note = (
        "A rate must be a whole count of episodes. The mean of a mixture of routes implies one draft latency: "
        "share \u00d7 draft + (1 \u2212 share) \u00d7 full, with Table 1\u2019s 39.7 ms for the full round."
    )
    return page.join(page.paragraph(note, "note"), page.table(rows, heads, stacked=True, name="published-checks"))
