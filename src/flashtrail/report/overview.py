"""The parts of a report that speak about the whole run: head, remedies, provenance, environments.

Every sentence is made of numbers from the summaries; no number is written here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flashtrail.base import provenance
from flashtrail.claims import published
from flashtrail.claims.campaign import Campaign
from flashtrail.report import arm_words, cells, page, pairs
from flashtrail.report.count_links import behind
from flashtrail.report.page import Html
from flashtrail.statistics.wording import integers, listed
from flashtrail.tables import links

HEURISTIC = (
    "FLASH\u2019s verification is a radius heuristic, not lossless speculative sampling: an accepted action is near "
    "the full model\u2019s estimate, not equal to its sample."
)


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


def arm_name(arm: str, summary: Mapping[str, Any], run: Campaign | None = None) -> Html:
    """The name of an arm, with the words that an oracle's must never be without; with `run`, what it is below it."""
    oracle = " (oracle: upper bound)" if is_oracle(summary) else ""
    words = Html(" <small>{}</small>").format(arm_words.words(summary, run.usual_policy(summary))) if run else ""
    return page.inline(page.code(arm), oracle, words)


def title(run: Campaign) -> str:
    """Return the title of a run's report: that of its claims, where their file gives one."""
    usual = "What a real-time robot policy buys, at what success, under which faults"
    usual = "Policies compared" if run.imported and not run.claims else usual
    return str((run.claims or {}).get("title") or usual)


def header(run: Campaign, title: str) -> Html:
    """Title, one line of what the page is about, links to the other pages, and a warning if anything is simulated."""
    pages = [page.link(path.stem.rpartition("-")[2], path.name) for path in run.files("chapters")]
    index = links.index(run.files("page_index"))
    pages += [page.link("every episode", index)] if index else []
    more = page.inline("Further: ", Html(" ").join(pages)) if pages else Html("")
    return page.header(title, subject(run), more, run.simulated, "; ".join(run.imported))


def subject(run: Campaign) -> str:
    """``pi0_nano on libero_goal, tasks 0-2``; of several suites each with its own tasks."""
    policies = list(dict.fromkeys(s["policy"] for s in run.summaries.values()))
    tasks: dict[str, set[int]] = {}
    for summary in run.summaries.values():
        tasks.setdefault(summary["suite"], set()).update(task["task_id"] for task in summary["tasks"])
    if not policies and len(run.episodes):  # drills are counted episode by episode, without summaries
        policies = sorted(set(run.episodes["policy"]))
        tasks = {str(suite): set(part["task_id"]) for suite, part in run.episodes.groupby("suite", observed=True)}
    if not policies:
        timed = list(dict.fromkeys(run.profile["policy"]))
        return f"{listed(timed)}: rounds timed, no episodes" if timed else "FLASHTrail"
    places = [f"{suite}, task{'s' * (len(own) != 1)} {integers(own)}" for suite, own in tasks.items()]
    return f"{listed(policies)} on {'; '.join(places)}"


def remedies(run: Campaign) -> Html:
    """Every remedy beside the same fault without it, paired."""
    rows, against = [], []
    for arm, summary in run.plain_summaries.items():
        control = run.control_of(arm)
        compared = cells.paired(run, arm, control) if control else None
        if compared is None or not has_fault(summary):
            continue
        against.append((arm, str(control)))
        rows.append(
            {
                "arm": arm_name(arm, summary),
                "a": behind(run, arm, f"{compared.k_a}/{compared.n}"),
                "control": page.code(control),
                "b": behind(run, str(control), f"{compared.k_b}/{compared.n}"),
                **cells.compared(compared),
            }
        )
    heads = {"arm": "Remedy", "a": "k/n", "control": "Without it", "b": "k/n, same episodes"}
    heads |= {"difference": "Difference [95 %]", "discordant": "Only with / only without", "p": "Exact McNemar"}
    table = page.table(
        rows, heads, ("a", "b", "difference", "discordant", "p"), "Remedies, paired", stacked=True, name="remedies"
    )
    return page.join(table, pairs.differing(run, against))


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
                "from": entry.get("imported") or "run here",
                "time": VERIFY_TIMES.get(entry.get("official_time_bias", "")) if run.drafts else None,
            }
        )
    heads = {"arm": "Arm", "states": "Init states", **digests, "device": "Device"}
    heads |= {"time": "Verification times"} if run.drafts else {}
    heads |= {"from": "Imported from"} if run.imported else {}
    return page.table(
        rows, heads, caption="What each arm ran with (digests, first 16 characters)", stacked=True, name="provenance"
    )


def environments(run: Campaign) -> Html:
    """Versions and devices of both environments, and the commit that this page was rendered at."""
    commit = provenance.git_commit(published.DEFAULT.parents[2]) or "not a git checkout"
    parts = [page.paragraph(page.inline("Rendered at commit ", page.code(commit), "."))]
    for name, record in run.records("environments").items():
        facts = {
            "Device": _plain(record.get("device")),
            "Checks": _plain(record.get("checks")),
            "Versions": _plain(record.get("versions")),
        }
        parts += [page.heading(f"{name} environment", 3), page.facts({k: v or None for k, v in facts.items()})]
    return page.join(*parts)


def _plain(value: Any) -> str | None:
    """Return nested plain data as one readable line."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_plain(item)}" for key, item in value.items() if item not in (None, "", {}, []))
    if isinstance(value, list):
        return ", ".join(str(_plain(item)) for item in value)
    return None if value is None else "yes" if value is True else "no" if value is False else str(value)
