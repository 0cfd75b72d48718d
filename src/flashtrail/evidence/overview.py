"""The parts of a report that speak about the whole run: first screen, claims, provenance, what is not claimed.

Every sentence is made of numbers from the summaries and verdicts; no number is written here. Knows campaign, page
and wording; the parts about one topic are in chapters.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flashtrail import provenance
from flashtrail.evidence import claims, links, page, power, published, statistics
from flashtrail.evidence.campaign import Campaign
from flashtrail.evidence.page import Html
from flashtrail.evidence.statistics import Rate
from flashtrail.evidence.wording import (
    NBSP,
    integers,
    listed,
    p_value,
    percent,
    plural,
    points,
    points_range,
)

HEURISTIC = (
    "FLASH\u2019s verification is a radius heuristic, not lossless speculative sampling: an accepted action is near "
    "the full model\u2019s estimate, not equal to its sample."
)


def rate_of(entry: Mapping[str, Any]) -> Rate:
    """Return the Rate of a summary's k/n entry."""
    return statistics.rate(entry["k"], entry["n"])


def has_fault(summary: Mapping[str, Any]) -> bool:
    """True if a condition touched at least one round of the arm."""
    return bool(summary["condition"]["rounds_hit"])


def has_guard(summary: Mapping[str, Any]) -> bool:
    """True if a guard looked at the arm's rounds."""
    return summary["guard"] is not None


def is_oracle(summary: Mapping[str, Any]) -> bool:
    """True if the arm's policy was shown undamaged frames: an upper bound, to be named as such wherever it stands."""
    guard = json.loads(summary.get("metadata", {}).get("guard") or "{}")
    return bool(guard.get("kind") == "oracle")


def arm_name(arm: str, summary: Mapping[str, Any]) -> Html:
    """The name of an arm, with the words that an oracle's must never be without."""
    return page.inline(page.code(arm), " (oracle: upper bound)" if is_oracle(summary) else "")


def behind(run: Campaign, arm: str, number: Any, anchor: str = "") -> Any:
    """Return a number as a link to the episodes it counts, or as it is where they have no pages."""
    if arm not in run.pages:
        return number
    return page.link(number, run.pages[arm] + (f"#{anchor}" if anchor else ""))


def header(run: Campaign, title: str) -> Html:
    """Title, one line of what the page is about, links to the other pages, and a warning if anything is simulated."""
    parts = [f"<h1>{page.html(title)}</h1>", f'<p class="line note">{page.html(subject(run))}</p>']
    if run.simulated:
        text = "Simulated data: these numbers test the report. They are not evidence about any policy."
        parts.append(f'<p class="warning">{text}</p>')
    if run.imported:
        text = f"Imported, not run here: {listed(run.imported)}. What that record does not say is left empty."
        parts.append(f'<p class="note">{page.html(text)}</p>')
    ways = [page.link(path.stem, path.name) for path in run.files("chapters")]
    index = links.index(run.files("page_index"))
    ways += [page.link("every episode", index)] if index else []
    if ways:
        parts.append(f'<nav aria-label="pages">Further: {" ".join(way.text for way in ways)}</nav>')
    return Html(f"<header>{''.join(parts)}</header>")


def subject(run: Campaign) -> str:
    policies = list(dict.fromkeys(s["policy"] for s in run.summaries.values()))
    suites = list(dict.fromkeys(s["suite"] for s in run.summaries.values()))
    tasks = {t["task_id"] for s in run.summaries.values() for t in s["tasks"]}
    if not policies:
        return "FLASHTrail"
    return f"{listed(policies)} on {listed(suites)}, task{'s' * (len(tasks) != 1)} {integers(tasks)}"


def paired(run: Campaign, arm: str, control: str) -> statistics.Paired | None:
    keys = ["suite", "task_id", "init_state", "repeat"]
    a, b = (run.of_arm("episodes", name)[[*keys, "success"]] for name in (arm, control))
    both = a.merge(b, on=keys, suffixes=("_a", "_b"))
    return statistics.paired(both["success_a"].tolist(), both["success_b"].tolist()) if len(both) else None


def remedies(run: Campaign) -> Html:
    """Every remedy beside the same fault without it, paired; the fault's arm is the one that the name ends with."""
    rows = []
    for arm, summary in run.summaries.items():
        control = next((name for name in run.summaries if name != arm and arm.endswith(name)), None)
        found = paired(run, arm, control) if control else None
        if found is None or not has_fault(summary):
            continue
        rows.append(
            {
                "arm": arm_name(arm, summary),
                "a": behind(run, arm, f"{found.k_a}/{found.n}"),
                "control": page.code(control),
                "b": behind(run, str(control), f"{found.k_b}/{found.n}"),
                "difference": f"{points(found.difference)} {points_range(found.interval)}".replace(
                    "\u00a0points [", " ["
                ),
                "discordant": f"{found.only_a} / {found.only_b}",
                "p": p_value(found.p),
            }
        )
    heads = {"arm": "Remedy", "a": "k/n", "control": "Without it", "b": "k/n, same episodes"}
    heads |= {"difference": "Difference [95 %]", "discordant": "Only with / only without", "p": "Exact McNemar"}
    return page.table(rows, heads, ("a", "b", "difference", "discordant", "p"), "Remedies, paired", stacked=True)


# --- claims ---


def claim_matrix(run: Campaign) -> Html:
    """Every claim in one row: statement, verdict, counts and interval, the seed's word."""
    if not run.claims:
        return page.paragraph("The claims were not evaluated.", "note")
    rows = [
        {
            "id": claim["id"],
            "claim": claim["statement"],
            "verdict": page.badge(claim["verdict"]),
            "numbers": claim["short"] or None,
            "p": _p(claim["p"], claim["family"]),
            "seed": _seed(claim["seed"]),
        }
        for claim in run.claims["claims"]
    ]
    columns = {"id": "Id", "claim": "Claim", "verdict": "Verdict", "numbers": "k/n; difference [95 %]", "p": "p"}
    return page.table(
        rows, columns | {"seed": "Seed run said"}, caption="Verdicts, computed from the tables", stacked=True
    )


def _seed(seed: Mapping[str, Any]) -> Html:
    parts = [page.code(seed["word"]).text if seed["word"] else "", page.html(seed["figures"].replace("->", "\u2192"))]
    return Html("<br>".join(part for part in parts if part))


def _p(value: float | None, family: Mapping[str, Any] | None) -> str | None:
    if value is None:
        return None
    adjusted = f" (Holm {_p(family['p_adjusted'], None)})" if family else ""
    return (f"<{NBSP}0.0001" if value < 1e-4 else f"{value:.2g}") + adjusted


def claim_details(run: Campaign) -> Html:
    """Every claim with its sentence, scope, test, what would refute it and the rows behind it."""
    if not run.claims:
        return page.paragraph("The claims were not evaluated.", "note")
    parts = []
    for claim in run.claims["claims"]:
        margin = "" if claim["margin"] is None else f", margin {claim['margin']:g}"
        facts = {
            "Verdict": page.inline(
                page.badge(claim["verdict"]), "; in the seed\u2019s words ", page.code(claim["seed_word"])
            ),
            "Found": claim["sentence"],
            "Scope": claim["scope"],
            "Estimand": claim["estimand"] or None,
            "Arms": page.inline(*_codes(claim["arms"])) if claim["arms"] else None,
            "Test": page.inline(page.code(claim["test"]), margin, _family(claim["family"])),
            "Refuted if": claim["refuted_if"],
            "Rows": _rows(claim["rows"]),
        }
        parts += [
            Html(f'<h3 id="{page.html(claim["id"])}">{page.html(claim["id"])}: {page.html(claim["title"])}</h3>'),
            page.paragraph(claim["statement"]),
            page.facts({term: value for term, value in facts.items() if value is not None}),
        ]
    return page.join(*parts)


def _codes(names: Sequence[str]) -> list[Any]:
    return [part for name in names for part in (" against ", page.code(name))][1:]


def _family(family: Mapping[str, Any] | None) -> str:
    if not family:
        return ""
    return (
        f", one of {plural(family['size'], 'test')} ({family['name']}), Holm-adjusted {p_value(family['p_adjusted'])}"
    )


def open_claims(run: Campaign) -> Html:
    """What would settle the inconclusive claims: episodes by verdict and assumption, at the stated power."""
    rows = []
    for claim in (run.claims or {"claims": []})["claims"]:
        for plan in claim["settle"]:
            rows.append(
                {
                    "id": claim["id"],
                    "claim": claim["title"],
                    "truth": plan["assumption"],
                    "verdict": page.badge(plan["verdict"]),
                    "n": f"{plan['n']:,}" if plan["n"] else f"> {power.MOST:,}",
                    "unit": plural(plan["n"] or power.MOST, plan["unit"]).split("\u00a0", 1)[1],
                }
            )
    if not rows:
        return page.paragraph("No claim is inconclusive.", "note")
    heads = {"id": "Id", "claim": "Claim", "truth": "If", "verdict": "Then", "n": "With about", "unit": "of"}
    note = (
        f"Numbers have {percent(power.POWER)} power under the assumption in the row; the share of discordant pairs is "
        "taken from the episodes at hand, which are few. A claim in a family is planned at its strictest Holm step."
    )
    table = page.table(rows, heads, ("n",), "Episodes that would settle the open claims", stacked=True)
    return page.join(page.paragraph(note, "note"), table)


def _rows(rows: Mapping[str, Any]) -> Html | None:
    lines: list[str | Html] = []
    for side, entry in rows.items():
        if isinstance(entry, Mapping) and side == "published":
            lines.append(f"published: {'; '.join(f'{method} {count}' for method, count in entry.items())}")
        elif isinstance(entry, Mapping) and "digest" in entry:
            lines.append(page.inline(f"{side}: {plural(entry['n'], 'row')}, digest ", page.code(entry["digest"])))
        elif isinstance(entry, list) and entry:
            lines.append(page.inline(f"{side.replace('_', ' ')}: ", page.code(", ".join(map(str, entry)))))
    return page.join(*(page.paragraph(line) for line in lines)) if lines else None


def words_table() -> Html:
    """How our verdicts and the seed's words correspond."""
    rows = [
        {
            "ours": page.badge(ours.split("/")[0]),
            "scope": "few tasks, one policy" if "/" in ours else "",
            "seed": page.code(seed),
        }
        for ours, seed in claims.SEED_WORDS.items()
    ]
    return page.table(rows, {"ours": "Verdict here", "scope": "Scope", "seed": "Seed\u2019s word"})


def not_claimed(run: Campaign) -> Html:
    """What this report does not say, from the claims that were not tested and the limits that always hold."""
    items = [HEURISTIC, "The simulator\u2019s own success test decides; nobody watched the episodes."]
    items.append("Episodes of one initial state are alike; intervals treat them as independent within an arm.")
    if run.claims:
        items += [
            f"{c['id']}: {c['statement']} {c['sentence']}" for c in run.claims["claims"] if c["verdict"] == "not_tested"
        ]
    return Html("<ul>" + "".join(f"<li>{page.html(item)}</li>" for item in items) + "</ul>")


# --- provenance ---

# The official Triton verifier conditions every time below 0.10 on the embedding of 0.10 (official_time_bias).
VERIFY_TIMES = {"false": "true", "true": "clamped at 0.10, as official"}


def provenance_table(run: Campaign) -> Html:
    """Initial states, digests of config, artifact and code, and the device, per arm."""
    digests = {"config_digest": "Config", "artifact_digest": "Artifact", "code_digest": "Code"}
    rows = []
    for arm, entry in run.metadata.items():
        summary = run.summaries.get(arm)
        rows.append(
            {
                "arm": page.code(arm),
                "states": integers(summary["init_states"]) if summary else None,
                **{key: page.code((entry.get(key) or "\u2013")[:16]) for key in digests},
                "device": entry.get("device") or None,
                "time": VERIFY_TIMES.get(entry.get("official_time_bias", "")),
            }
        )
    heads = {"arm": "Arm", "states": "Init states", **digests, "device": "Device", "time": "Verification times"}
    return page.table(rows, heads, caption="What each arm ran with (digests, first 16 characters)", stacked=True)


def environments(run: Campaign) -> Html:
    """Versions and devices of both environments, and the commit that this page was rendered at."""
    commit = provenance.git_commit(published.DEFAULT.parents[2]) or "not a git checkout"
    parts = [page.paragraph(page.inline("Rendered at commit ", page.code(commit), "."))]
    for name, record in run.environments.items():
        facts = {
            "Device": _plain(record.get("device")),
            "Checks": _plain(record.get("checks")),
            "Versions": _plain(record.get("versions")),
        }
        parts += [Html(f"<h3>{page.html(name)} environment</h3>"), page.facts({k: v for k, v in facts.items() if v})]
    return page.join(*parts)


def _plain(value: Any) -> str | None:
    """Return nested plain data as one readable line."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_plain(item)}" for key, item in value.items() if item not in (None, "", {}, []))
    if isinstance(value, list):
        return ", ".join(str(_plain(item)) for item in value)
    return None if value is None else "yes" if value is True else "no" if value is False else str(value)
