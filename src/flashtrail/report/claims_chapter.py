"""The part of a report about claims: matrix, details with the rows behind them, what would settle the open ones.

Verdicts and sentences are those of claims.json; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashtrail.claims import claims, published
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.verdicts import anytime_words, looks_words
from flashtrail.report import cards, count_links, overview, page, pairs
from flashtrail.report.page import Html
from flashtrail.statistics import power
from flashtrail.statistics.wording import NBSP, e_value, listed, p_value, percent, plural
from flashtrail.tables import links


def matrix(run: Campaign, details_here: bool = False) -> Html:
    """Every claim in one row, by group: statement, verdict, counts and interval, the reproduction's words.

    `details_here`: the page has the claims' details, too; else links go to the chapter that has them, if there is one.
    """
    if not run.claims:
        return page.paragraph("The claims were not evaluated.", "note")
    details_page = "" if details_here else chapter(run)
    groups = cards.grouped(run.claims["claims"])
    parts = [_group(run, name, members, details_page) for name, members in groups.items()]
    note = (
        "p holds where the number of episodes was fixed before the first look; e holds at any look and any stop, and "
        "decides where there were looks at several n, or settle's. An e of 1/alpha or more rejects."
    )
    body = page.join(_filter(run.claims["claims"]), *parts, page.paragraph(note, "note"))
    return Html('<div class="claims">{}</div>').format(body)


def _filter(members: Sequence[Mapping[str, Any]]) -> Html:
    """Which verdicts are shown: buttons that work without scripts (report.css), all of them at first."""
    verdicts = [v for v in claims.VERDICTS if v != "not_tested" and any(m["verdict"] == v for m in members)]
    option = Html('<label><input type="radio" name="shown" value="{}"{}> {}</label>')
    shown = [option.format(v, "", page.badge(v)) for v in verdicts]
    return Html('<fieldset class="filter"><legend>Show</legend>{}</fieldset>').format(
        page.inline(option.format("all", Html(" checked"), "all"), *shown)
    )


def _group(run: Campaign, name: str, members: Sequence[Mapping[str, Any]], details_page: str | None) -> Html:
    """One group's table, its claims that were not tested folded below; what this run says is open."""
    title, (tested, untested) = cards.GROUPS[name], cards.split(members)
    head = page.heading(page.inline(title, " ", cards.tally(members)), 3)
    called = "claims" if name == "run" else f"claims/{name}"
    table = _table(run, tested, f"{title}: verdicts, computed from the tables", details_page, called)
    rest = _table(run, untested, f"{title}: not tested", details_page, f"claims/{name}-untested") if untested else None
    folded = page.details(page.badge("not_tested", f"{len(untested)} not_tested"), rest) if rest else None
    body = page.join(table if tested else None, folded)
    return page.join(head, body if name == "run" else page.details(plural(len(members), "claim"), body))


def _table(
    run: Campaign, members: Sequence[Mapping[str, Any]], caption: str, details_page: str | None, name: str
) -> Html:
    rows = [
        {
            "id": Html('<span id="{}">{}</span>').format(cards.anchor(claim), _id(claim["id"], details_page)),
            "claim": claim["statement"],
            "verdict": page.badge(claim["verdict"]),
            "numbers": cards.numbers(run, claim, details_page) if claim["short"] else None,
            "p": _p(claim["p"], claim["family"]),
            "anytime": _anytime(claim),
            "seed": _seed(claim["seed"]),
        }
        for claim in members
    ]
    columns = {"id": "Id", "claim": "Claim", "verdict": "Verdict", "numbers": "k/n; difference [95 %]", "p": "p"}
    columns |= {"anytime": "Anytime-valid", "seed": "The reproduction said"}
    filled = {name: head for name, head in columns.items() if any(row[name] for row in rows)}
    return page.table(rows, filled, caption=caption, stacked=True, name=name)


def _anytime(claim: Mapping[str, Any]) -> str | None:
    """``e = 3.1 (needs 20); n = 10, 20: the verdict rests on it``, in a family Holm's, as that of p is."""
    if not (side := claim["anytime"]):
        return None
    adjusted = f" (Holm {claim['family']['e_adjusted']:.2g})" if claim["family"] else ""
    sizes = dict.fromkeys(f"{n:,}" for n in side["looks"])
    looks = f"; {'settled, ' * side['settled']}looks at n = {listed(list(sizes))}: the verdict rests on it"
    return f"{e_value(side['e'], side['needs'])}{adjusted}" + ("" if side["rests_on"] == "fixed-n" else looks)


def _id(name: str, details_page: str | None) -> Any:
    return name if details_page is None else page.link(name, f"{details_page}#{name}")


def _seed(seed: Mapping[str, Any]) -> Html:
    """The reproduction's status word, figures and caveat, as it printed them; empty where it said nothing."""
    figures = quoted(seed["figures"].replace("->", "\u2192"))
    parts = [page.code(seed["word"]) if seed["word"] else "", figures, page.html(seed["caveat"])]
    return Html("<br>").join(part for part in parts if part)


def said(claim: Mapping[str, Any], figures: published.Published, source: str) -> Html | None:
    """What a source printed of a claim, with the sections of the write-up and what its own rows do not give.

    Before it stand the reproduction's own words, where it made the claim.
    """
    own_words = _seed(claim["seed"]) if source == "reproduction" else Html("")
    entries = [entry for entry in figures.said if claim["id"] in entry.used_by and entry.source == source]
    lines = [f"{entry.figure}: {entry.value} ({', '.join(entry.where)})" + _from_rows(entry) for entry in entries]
    parts = [own_words] if own_words else []
    parts += [page.paragraph(quoted(line), "note") for line in lines]
    return page.join(*parts) if parts else None


def _from_rows(entry: published.Said) -> str:
    verdicts = {"yes": "", "no": "; does not follow from its own rows", "unknown": "; its rows are not at hand"}
    give = f"; its rows give {entry.rows_give}" if entry.rows_give else ""
    return verdicts[entry.follows_from_rows] + give


def _p(value: float | None, family: Mapping[str, Any] | None) -> str | None:
    if value is None:
        return None
    adjusted = f" (Holm {_p(family['p_adjusted'], None)})" if family else ""
    return (f"<{NBSP}0.0001" if value < 1e-4 else f"{value:.2g}") + adjusted


def details(run: Campaign) -> Html:
    """Every claim with its sentence, scope, test, what would refute it and the rows behind it."""
    if not run.claims:
        return page.paragraph("The claims were not evaluated.", "note")
    parts, figures = [], published.load(next(iter(run.files("published")), None))
    theirs = has_reproduction(run)
    for claim in run.claims["claims"]:
        margin = "" if claim["margin"] is None else f", margin {claim['margin']:g}"
        facts = {
            "Verdict": page.inline(page.badge(claim["verdict"]), *(_in_their_words(claim) if theirs else ())),
            "Found": count_links.of_claim(run, claim, claim["sentence"], ""),
            "Scope": claim["scope"],
            "Estimand": claim["estimand"] or None,
            "Arms": page.inline(*_arms(run, claim["arms"])) if claim["arms"] else None,
            "Test": page.inline(page.code(claim["test"]), margin, _family(claim["family"])),
            "Any time": f"{anytime_words(side)}. {looks_words(side)}" if (side := claim["anytime"]) else None,
            "Refuted if": claim["refuted_if"],
            **{f"{_WHO.get(source, source)} said": said(claim, figures, source) for source in figures.sources},
            "Rows": _rows(run, claim),
        }
        head = page.heading(f"{claim['id']}: {claim['title']}", 3, anchor=claim["id"])
        body = page.inline(head, page.paragraph(claim["statement"]), page.facts(facts))
        parts.append(Html("<section>{}</section>").format(body))
    return page.join(*parts)


_WHO = {"reproduction": "The reproduction", "paper": "The paper", "lift": "The report on Lift", "fluid": "FluidVLA"}
_WHO |= {"deployment": "The lesson on deployment"}


def has_reproduction(run: Campaign) -> bool:
    """Return whether any claim is one of the reproduction's, whose words then stand beside ours."""
    return any(claim["seed"]["word"] for claim in (run.claims or {"claims": []})["claims"])


def _in_their_words(claim: Mapping[str, Any]) -> tuple[str, Html]:
    return "; in the reproduction\u2019s words ", page.code(claim["seed_word"])


def _arms(run: Campaign, names: Sequence[str]) -> list[Any]:
    return [part for name in names for part in (" against ", count_links.behind(run, name, page.code(name)))][1:]


def _family(family: Mapping[str, Any] | None) -> str:
    if not family:
        return ""
    return (
        f", one of {plural(family['size'], 'test')} ({family['name']}), Holm-adjusted {p_value(family['p_adjusted'])}"
    )


def unsettled(run: Campaign, details_here: bool = False) -> Html:
    """What would settle the inconclusive claims: one number of episodes each, with what it rests on."""
    rows, details_page = [], "" if details_here else chapter(run)
    claims = (run.claims or {"claims": []})["claims"]
    for claim in claims:
        if plan := claim["settle"]:
            rows.append(
                {
                    "id": _id(claim["id"], details_page),
                    "claim": claim["title"],
                    "n": f"{plan['n']:,}" if plan["n"] else f"> {power.MOST:,}",
                    "unit": plural(plan["n"] or power.MOST, plan["unit"]).split("\u00a0", 1)[1],
                    "verdict": page.badge(plan["verdict"]),
                    "truth": plan["assumption"],
                    "alpha": f"{plan['alpha']:.3g}",
                }
            )
    numberless = _numberless([c for c in claims if c["verdict"] == "inconclusive" and not c["settle"]])
    if not rows:
        return numberless or page.paragraph("No claim is inconclusive.", "note")
    heads = {"id": "Id", "claim": "Claim", "n": "With", "unit": "of", "verdict": "Then", "truth": "If"}
    note = (
        f"Size of a new run, fixed before it starts, from which on the claim\u2019s own test gives the verdict "
        f"with {percent(power.POWER)} power or more. Episodes added to those at hand, after this look, are judged by "
        "the anytime-valid test, which needs more. The effect assumed is the observed one where it exceeds the "
        "claim\u2019s margin, else the margin. Rates, and the share of discordant pairs, are those of the episodes at "
        "hand, which are few. Alpha is two-sided; in a family of claims it is that of the strictest Holm step."
    )
    table = page.table(
        rows,
        heads | {"alpha": "Alpha"},
        ("n", "alpha"),
        "Episodes that would settle the open claims",
        stacked=True,
        name="settle",
    )
    return page.join(page.paragraph(note, "note"), table, numberless)


def _numberless(claims: Sequence[Mapping[str, Any]]) -> Html | None:
    """Why no number of episodes is given for these claims; None where there are none."""
    told = [f"{claim['id']}: {claim['open']}." for claim in claims if claim.get("open")]
    if rest := [claim["id"] for claim in claims if not claim.get("open")]:
        told.append(
            f"{listed(rest)}: the evidence is not counted in episodes, a loss is established whose size is open, or "
            "there were looks at several n, after which no fixed n decides."
        )
    return page.paragraph(f"Inconclusive without a number of episodes. {' '.join(told)}", "note") if told else None


def _rows(run: Campaign, claim: Mapping[str, Any]) -> Html | None:
    """What a verdict stands on: rows with their digest, and episodes by name, as links where they have pages."""
    lines: list[str | Html | None] = []
    arms = dict(zip(("arm", "control"), claim["arms"], strict=False))
    for side, entry in claim["rows"].items():
        if side == "published":
            named = (f"{a} {b}" for a, b in entry.items()) if isinstance(entry, Mapping) else entry
            lines.append(page.inline("published: ", quoted("; ".join(named))))
        elif isinstance(entry, Mapping) and "digest" in entry:
            rows = count_links.behind(run, arms.get(side, side), plural(entry["n"], "row"))
            lines.append(page.inline(f"{side}: ", rows, ", digest ", page.code(entry["digest"])))
        elif isinstance(entry, list) and entry and side in _EPISODES:
            starts = pairs.starts(run, claim["arms"], [links.pair(name) for name in entry])
            lines.append(page.inline(f"{_EPISODES[side]}: ", starts))
        elif isinstance(entry, list) and entry:
            lines.append(page.inline(f"{side.replace('_', ' ')}: ", page.code(", ".join(map(str, entry)))))
    return page.paragraphs(lines)


_EPISODES = {"only_arm": "success only in the arm", "only_control": "success only in the control", "failed": "failed"}


def quoted(text: str) -> Html:
    """Return a source's words, their counts marked as not of this page's runs."""
    return count_links.in_text(text, [lambda count: count_links.apart(count, "published")])


def chapter(run: Campaign) -> str | None:
    """Return the name of the page with the claims' details, or None where it is not written."""
    return next((path.name for path in run.files("chapters") if path.stem.rpartition("-")[2] == "claims"), None)


def words_table() -> Html:
    """How our verdicts and the reproduction's status words correspond."""
    rows = [
        {
            "ours": page.badge(ours.split("/")[0]),
            "scope": "few tasks, one policy" if "/" in ours else "",
            "seed": page.code(seed),
        }
        for ours, seed in claims.SEED_WORDS.items()
    ]
    return page.table(
        rows, {"ours": "Verdict here", "scope": "Scope", "seed": "The reproduction\u2019s word"}, name="words"
    )


def limits(run: Campaign) -> list[str]:
    """Return what holds of every run, and of one that drafts."""
    return [
        *([overview.HEURISTIC] if run.drafts else []),
        f"Success is {run.success_words}, unless a claim names another; no person watched.",
        "Episodes of one initial state are alike; intervals treat them as independent within an arm.",
    ]


def not_claimed(run: Campaign) -> Html:
    """What this report does not say, from the claims that were not tested and the limits that always hold."""
    items: list[Any] = [*limits(run)]
    for claim in (run.claims or {"claims": []})["claims"]:
        if claim["verdict"] == "not_tested":
            sentence = count_links.of_claim(run, claim, claim["sentence"], chapter(run))
            items.append(page.inline(f"{claim['id']}: {claim['statement']} ", sentence))
    return Html("<ul>{}</ul>").format(page.inline(*(Html("<li>{}</li>").format(page.html(item)) for item in items)))
