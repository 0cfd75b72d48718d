"""The list of tables: a name, a line on what it shows, and the section of a report that makes it.

A section's HTML carries the rows of its tables (`page.Table`), so that other formats have the cells of the page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flashtrail.claims.campaign import Campaign
from flashtrail.report import (
    batching,
    chapters,
    checkup_chapter,
    claims_chapter,
    comparison,
    data_chapter,
    drills_chapter,
    drills_findings,
    grid,
    handoff_chapter,
    limits_chapter,
    metric_chapter,
    overview,
    policies_chapter,
    running_chapter,
    signal_chapter,
    tradeoff,
)
from flashtrail.report.page import Html, Table


class Entry(NamedTuple):
    """A table. `needs`: the kind of file without which its section has nothing to say."""

    line: str
    section: Callable[[Campaign], Html | None]
    needs: str


TABLES = {
    "claims": Entry("The verdict of each claim, with k/n, interval and p", claims_chapter.matrix, "claims"),
    "settle": Entry("Episodes that would settle the open claims", claims_chapter.unsettled, "claims"),
    "metrics": Entry("What each criterion of success says of each arm", metric_chapter.section, "summaries"),
    "metrics-printed": Entry("A source's table of results, and ours", metric_chapter.section, "summaries"),
    "tradeoff": Entry("Success and time of a round of each arm", tradeoff.section, "summaries"),
    "words": Entry("Verdicts and the reproduction's status words", lambda run: claims_chapter.words_table(), "claims"),
    "success": Entry("Success of each arm: k/n, rate, both intervals", chapters.success, "summaries"),
    "success-by-task": Entry("Success of each arm and task: k/n", chapters.success, "summaries"),
    "verified": Entry("Verified success beside the simulator's", chapters.success, "summaries"),
    "verified-apart": Entry("Episodes in which the two differ", chapters.success, "summaries"),
    "paired": Entry("Each arm against the first without a fault, paired", chapters.comparisons, "summaries"),
    "policies": Entry("Every two imported policies, by suite", policies_chapter.section, "summaries"),
    "paired-starts": Entry("Starts at which one of the two succeeded", chapters.comparisons, "summaries"),
    "remedies": Entry("Each remedy against the same fault without it", overview.remedies, "summaries"),
    "routes": Entry("Routes and accepted prefix of each arm", chapters.routes, "summaries"),
    "latency": Entry("Policy time by route, alone on the device", chapters.latency_profile, "profile"),
    "latency-rollouts": Entry("Policy time in the rollouts, by scope", chapters.latency_in_rollouts, "summaries"),
    "latency-by-route": Entry("The same by route", chapters.latency_in_rollouts, "summaries"),
    "mixture": Entry("Mean policy time, measured and implied by routes", chapters.mixture, "summaries"),
    "batching": Entry("Policy time of rounds alone and batched", batching.section, "summaries"),
    "acceptance": Entry("Accepted drafts beside their control", signal_chapter.section, "rounds"),
    "signal": Entry("AUROC of each signal for failure", signal_chapter.section, "rounds"),
    "alarms": Entry("Alarms on signals of doubt and how early they come", signal_chapter.section, "rounds"),
    "reliability": Entry("Predicted against observed failure", signal_chapter.section, "rounds"),
    "camera": Entry("Does the verifier notice a dead camera", signal_chapter.section, "rounds"),
    "guard": Entry("What each guard saw and did, in rounds", chapters.guard, "summaries"),
    "grid": Entry("Success by severity and guard", grid.section, "summaries"),
    "clock": Entry("Success with the clock running", running_chapter.section, "summaries"),
    "clock-rates": Entry("Control rates with the clock running", running_chapter.section, "summaries"),
    "data-tasks": Entry("Tasks of a set of demonstrations", data_chapter.tables, "datasets"),
    "data-dims": Entry("Statistics of each dim of its states and actions", data_chapter.tables, "datasets"),
    "handoffs": Entry("Success with hand-overs, and what they took", handoff_chapter.section, "summaries"),
    "limits": Entry("Limits, excursion and force of each arm", limits_chapter.section, "summaries"),
    "endings": Entry("How episodes ended, by arm", chapters.failures, "summaries"),
    "printed": Entry("Printed figures and the imported rows", comparison.published_beside_ours, "published"),
    "published-success": Entry("Published success beside ours", comparison.published_beside_ours, "published"),
    "published-latency": Entry("Published latency beside ours", comparison.published_beside_ours, "published"),
    "published-sources": Entry("Where published figures come from", comparison.published_beside_ours, "published"),
    "published-checks": Entry("What can be checked of them", comparison.published_beside_ours, "published"),
    "published-said": Entry("What was printed, and where", comparison.published_beside_ours, "published"),
    "provenance": Entry("Digests and device of each arm", overview.provenance_table, "episodes"),
    "drills": Entry("Episodes of each drill in which each predicate holds", drills_chapter.confusion, "diagnosis"),
    "drills-runs": Entry("Diagnosis of each whole run", drills_chapter.confusion, "diagnosis"),
    "drills-episodes": Entry("Diagnosis of single episodes", drills_chapter.confusion, "diagnosis"),
    "drills-sentences": Entry("What to check, by predicate", drills_chapter.sentences, "diagnosis"),
    "drills-power": Entry("Runs diagnosed correctly, by episodes", drills_findings.power, "diagnosis"),
    "drills-alarms": Entry("False alarms on clean episodes", drills_findings.false_alarms, "diagnosis"),
    "drills-slack": Entry("The same episodes under other slacks", drills_findings.slack, "diagnosis"),
    "drills-apart": Entry("Arms that a predicate distinguishes", drills_findings.apart, "diagnosis"),
    "drills-cost": Entry("Success under each drill, paired", drills_findings.cost, "diagnosis"),
    "drills-bounds": Entry("Clean bounds of each feature", drills_findings.bounds_table, "diagnosis"),
    "checkup-power": Entry("How often such a checkup says what", checkup_chapter.power_of_this, "checkup"),
    "checkup-settle": Entry("Episodes that would settle it", checkup_chapter.power_of_this, "checkup"),
    "checkup-states": Entry("Success at published initial states", checkup_chapter.compared, "checkup"),
    "checkup-episodes": Entry("Every episode of the checkup", checkup_chapter.episodes, "checkup"),
}


def found(run: Campaign, families: tuple[str, ...] = tuple(TABLES)) -> dict[str, Table]:
    """Return the tables of these families that the run has, by their names, in the order of the list."""
    entries = [TABLES[family] for family in families]
    sections = dict.fromkeys(entry.section for entry in entries if run.files(entry.needs))
    made = {table.name: table for section in sections for table in (section(run) or Html()).tables}
    return {name: table for family in families for name, table in made.items() if name.partition("/")[0] == family}
