"""The parts of a report that speak about one topic: success, routes, accepted prefix, latency, guard, failures.

Each returns a figure, a table or both, with a caption that says what is shown, on how many, with which interval.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from flashtrail.base import machine
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.summaries import of_how_many
from flashtrail.report import arm_words, cells, figures, page, pairs, verified_chapter
from flashtrail.report.cells import rate_of
from flashtrail.report.count_links import apart, behind
from flashtrail.report.overview import VERIFY_TIMES, arm_name, has_fault, has_guard
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.intervals import Interval, Latency, Quantile
from flashtrail.statistics.wording import (
    DASH,
    counted,
    listed,
    percent,
    quantile,
    three_digits,
)
from flashtrail.tables import endings, links, schemas

_SCOPES = {"all_episodes": "all", "successful_episodes": "successful"}
_ANCHORS = {"all_episodes": "", "successful_episodes": "success"}


def success(run: Campaign) -> Html:
    """Success by arm and task, drawn and as a table."""
    if not run.summaries:
        return page.paragraph("No arm was run.", "note")
    drawing = figures.shown(
        run,
        "success",
        f"Success of each arm and task: {run.success_words}. {_colours(run)}. Bars: Wilson 95 %.",
    )
    return page.join(
        page.side_by_side(drawing, success_table(run)),
        success_by_task(run),
        verified_chapter.section(run),
    )


_COLOURS = {
    "clean": "",  # see _CLEAN
    "fault": "vermillion: fault",
    "remedy": "green: fault and guard",
    "retrained": "purple: fault and a policy of another training",
}
_CLEAN = {  # by whether the fault is not on record
    (False,): "blue: no fault",
    (False, True): "blue: no fault, or not recorded",
    (True,): "blue: fault not recorded",
}


def _colours(run: Campaign) -> str:
    """What the colours of the figure stand for, those that are in it."""
    arms = [(arm_words.role(summary, run.usual_policy(summary)), summary) for summary in run.plain_summaries.values()]
    clean = {arm_words.untold(summary) for role, summary in arms if role == "clean"}
    said = _COLOURS | {"clean": _CLEAN[tuple(sorted(clean))]} if clean else _COLOURS
    return "; ".join(words for role, words in said.items() if role in dict(arms)).capitalize()


def success_table(run: Campaign) -> Html:
    """k/n, rate and both intervals per arm."""
    rows = []
    for arm, summary in run.summaries.items():
        rate = rate_of(summary["success"])
        rows.append(
            {
                "arm": arm_name(arm, summary, run),
                "count": behind(run, arm, counted(rate)),
                **cells.rate(rate),
            }
        )
    heads = {"arm": "Arm", "count": "k/n", **cells.BOTH_INTERVALS}
    numeric, caption = tuple(heads)[1:], "Success, all tasks"
    return page.table(rows, heads, numeric, caption, stacked=True, anchor=links.ARMS, name="success")


def success_by_task(run: Campaign) -> Html | None:
    """k/n of each arm and task; None where there is one task."""
    tasks = _task_heads(run)
    if len(tasks) < 2:
        return None
    rows = []
    for arm, summary in run.summaries.items():
        counts = {
            f"{summary['suite']} {task['task_id']}": behind(
                run, arm, f"{task['k']}/{task['n']}", links.task_anchor(task["task_id"])
            )
            for task in summary["tasks"]
        }
        rows.append({"arm": arm_name(arm, summary), **counts})
    heads = {"arm": "Arm", **{f"{suite} {number}": head for (suite, number), head in tasks.items()}}
    caption = "Success by task, k/n (intervals: in the figure)"
    return page.table(rows, heads, tuple(heads)[1:], caption, stacked=True, name="success-by-task")


def task_names(run: Campaign) -> Html:
    """What the tasks ask for."""
    heads = _task_heads(run)
    tasks = {(s["suite"], t["task_id"]): t["task"] for s in run.summaries.values() for t in s["tasks"]}
    entries = (f"{heads[task][0].lower()}{heads[task][1:]}: {name}" for task, name in sorted(tasks.items()))
    return page.paragraph("; ".join(entries), "note")


def _task_heads(run: Campaign) -> dict[tuple[str, int], str]:
    """Return ``Task 3``, of several suites ``Task 3 of libero_goal``, by suite and number."""
    tasks = sorted({(s["suite"], task["task_id"]) for s in run.summaries.values() for task in s["tasks"]})
    several = len({suite for suite, _ in tasks}) > 1
    return {(suite, number): f"Task {number}{f' of {suite}' * several}" for suite, number in tasks}


def faults(run: Campaign) -> Html:
    """Every arm with a fault against the same policy and settings without it, paired."""
    return comparisons(
        run, [(a, of) for a, s in run.summaries.items() if has_fault(s) and (of := run.without_fault(a))]
    )


def comparisons(run: Campaign, against: Sequence[tuple[str, str]] | None = None) -> Html:
    """Arms `against` others on the episodes that both have: paired difference, interval, exact McNemar.

    Without `against` every arm has its reference (`Campaign.reference_of`): arms are paired within a suite.
    """
    if against is None:
        against = [(arm, of) for arm in run.summaries if (of := run.reference_of(arm)) != arm]
    several = len({of for _, of in against}) > 1
    rows = []
    for arm, of in against:
        compared = cells.paired(run, arm, of)
        if compared is None:
            continue
        count = behind(run, of, f"{compared.k_b}/{compared.n}")
        rows.append(
            {
                "arm": page.code(arm),
                "a": behind(run, arm, f"{compared.k_a}/{compared.n}"),
                "b": page.inline(page.code(of), " ", count) if several else count,
                **cells.compared(compared),
            }
        )
    named = "reference" if several or not against else against[0][1]
    heads = {"arm": "Arm", "a": "k/n", "b": f"{named}, same episodes", "difference": "Difference [95 %]"}
    heads |= {"discordant": "Only arm / only reference", "p": "Exact McNemar"}
    caption = "Paired with the reference that each row names" if several else f"Paired with {named}"
    table = page.table(rows, heads, tuple(heads)[1:], caption, stacked=True, name="paired")
    return page.join(table, pairs.differing(run, against))


# --- routes ---


def routes(run: Campaign) -> Html:
    """Route mix of every arm, and the table behind it."""
    mix = figures.shown(
        run,
        "routes",
        "Route of each round, and the cause of each full round. Intervals resample episodes, since rounds of one "
        "episode are alike.",
    )
    rows = []
    for arm, summary in run.summaries.items():
        mixed, prefix = summary["routes"], summary["accepted_prefix"]
        rows.append(
            {
                "arm": page.code(arm),
                "draft": behind(run, arm, f"{mixed['draft']}/{mixed['n']}"),
                "share": cells.share(mixed["draft_share"], mixed.get("draft_share_interval")),
                "actions": percent(mixed["draft_share_of_actions"]),
                "prefix": _mean(prefix["mean_draft"], prefix.get("mean_draft_interval")),
                "prefix_all": _mean(prefix["mean_all"], None),
                "zero": behind(run, arm, f"{prefix['zero']}/{prefix['draft_rounds']}"),
            }
        )
    rows += _control_row(run)
    most = " or ".join(str(n) for n in sorted({of_how_many(s["accepted_prefix"]) for s in run.summaries.values()}))
    heads = {"arm": "Arm", "draft": "Draft rounds", "share": "Share [95 %]", "actions": "Of actions"}
    heads |= {"prefix": "Accepted, drafts [95 %]", "prefix_all": f"Accepted, full = {most}", "zero": "Rejected whole"}
    table = page.table(
        rows, heads, tuple(heads)[1:], f"Routes and accepted prefix (of {most})", stacked=True, name="routes"
    )
    return page.join(page.side_by_side(mix, accepted_prefix(run)), table)


def _control_row(run: Campaign) -> list[dict[str, Any]]:
    """The control's row: answers of the full route judged as if they were drafts."""
    control = run.control
    if not control or not sum(control.get("histogram") or []):
        return []
    histogram = control["histogram"]
    mean = sum(accepted * count for accepted, count in enumerate(histogram)) / sum(histogram)
    rejected = apart(f"{histogram[0]}/{sum(histogram)}", "profile")
    name = f"control: full route against itself under other noise, {control['policy']}"
    return [{"arm": name, "draft": f"{sum(histogram)} queries", "prefix": f"{mean:.2f}", "zero": rejected}]


def accepted_prefix(run: Campaign) -> Html:
    """Accepted prefix of the first arm that drafts, beside its control where that was measured."""
    caption = f"How many leading actions of each draft were verified (arm {''.join(figures.drafting(run))})."
    if control := figures.control(run):
        caption += (
            f" Grey, the control: the full route judged against itself under other noise, by the same radius "
            f"({control['queries']} queries, {percent(control['share_within_tau'])} within {control['tau']:g})."
        )
    else:
        caption += " The control (the full route against itself under other noise) was not measured for this page."
    return figures.shown(run, "prefix", caption)


def _mean(value: float | None, interval: Mapping[str, float] | None) -> str:
    if value is None:
        return DASH
    between = f" [{interval['low']:.2f}, {interval['high']:.2f}]" if interval else ""
    return f"{value:.2f}{between}"


# --- latency ---


def latency_profile(run: Campaign) -> Html:
    """Both routes timed alone on the device: box, distribution, stages."""
    profile = run.profile
    if not len(profile):
        return page.paragraph("No profile was measured.", "note")
    synchronised = "synchronised at the edges" if profile["synchronized"].eq(True).all() else "NOT synchronised"
    biases = {schemas.read_metadata(path).get("official_time_bias", "") for path in run.files("profile")}
    if run.drafts and (times := sorted(VERIFY_TIMES[value] for value in biases & set(VERIFY_TIMES))):
        synchronised += f", verification times {listed(times)}"
    devices = listed(sorted(set(profile["device"]) - {""}) or ["a device that is not recorded"])
    # An imported record does not state whether rounds were warm and alone on the device.
    how = "batch 1, warmed per prompt and route, alone on" if run.whose(None) == "ours" else f"{run.whose(None)}, on"
    where = f"{listed(sorted(set(profile['policy'])))}, {how} {devices}, {synchronised}; {machine.words(run.machine)}"
    box = figures.shown(run, "latency", f"Policy time of a round{' by route' * run.drafts} ({where}).")
    cdf = figures.shown(run, "latency-cdf", "The same rounds as cumulative distributions.")
    return page.join(page.side_by_side(box, cdf), latency_table(run))


def latency_table(run: Campaign) -> Html:
    """Percentiles of the profile per route with distribution-free intervals."""
    rows = []
    imported = run.whose(None) != "ours"
    for (policy, route), part in run.profile.groupby(["policy", "route"], sort=True):
        rows.append({"policy": policy, "route": route, **_percentiles(intervals.latency(part["policy_ms"]))})
    for policy, part in run.profile.groupby("policy", sort=True) if imported else ():
        # A mixture as it came, not one that was forced: its percentiles say something of the run.
        for route, time in (("both", "policy_ms"), ("both, round trip", "roundtrip_ms")):
            if part[time].notna().any():
                rows.append({"policy": policy, "route": route, **_percentiles(intervals.latency(part[time]))})
    caption = f"Profile, policy time (ms){f'; {run.whose(None)}' if imported else ''}"
    heads = {"policy": "Policy", **({"route": "Route"} if run.drafts else {}), **_PERCENTILES}
    return page.table(rows, heads, _NUMERIC, caption, stacked=True, name="latency")


def stages(run: Campaign) -> Html:
    """What a round of each route is made of."""
    caption = "Medians of the stages, 95 % intervals. Transforms, transport and waiting are not in them."
    return figures.shown(run, "stages", caption)


def latency_in_rollouts(run: Campaign) -> Html:
    """Latency during the rollouts, both scopes side by side, intervals over episodes; routes and rounds below."""
    beside: list[dict[str, Any]] = []
    full: list[dict[str, Any]] = []
    for arm, summary in run.summaries.items():
        if not summary["latency"]["all_episodes"]["all"]["policy_ms"]["n"] and summary["routes"]["n"]:
            continue  # the simulator's expert: rounds without a policy's time
        row: dict[str, Any] = {"arm": page.code(arm)}
        for scope, label in _SCOPES.items():
            for route in ("all", "draft", "full"):
                entry = summary["latency"][scope][route]
                measured = _latency(entry["policy_ms"])
                if route == "all":
                    times = _over_episodes(entry, measured)
                    times["n"] = behind(run, arm, times["n"], _ANCHORS[scope])
                    row |= {f"{scope}_{name}": cell for name, cell in times.items()}
                if measured.n:
                    full.append({"arm": page.code(arm), "scope": label, "route": route, **_percentiles(measured)})
        stored = run.metadata.get(arm, {}).get("machine")
        beside.append(row | {"machine": machine.brief(json.loads(stored) if stored else None)})
    heads = {"arm": "Arm"}
    for scope, label in _SCOPES.items():
        heads |= {f"{scope}_n": f"{label.capitalize()}: rounds (episodes)"}
        heads |= {f"{scope}_{name}": f"{label.capitalize()}: {name} [95 %]" for name in ("p50", "p95", "p99")}
    heads |= {"machine": "Load at most"}
    note = (
        "Rollouts share the machine with the simulator, so these times are not the profile\u2019s; beside them the "
        "highest load average, the cores and the largest share that other programs took. Both scopes stand "
        "side by side because published latencies are often over successful episodes only. Intervals resample whole "
        "episodes, since rounds of one episode are alike; no 99th percentile is given under 500 rounds."
    )
    note += " Successful: by the simulator\u2019s own test." * run.verified
    shared = [arm for arm, s in run.summaries.items() if s["latency"]["all_episodes"]["all"].get("in_company")]
    if shared:
        note += f" Rounds that shared a pass with others are among them ({listed(shared)}); the profile runs alone."
    by_route = page.table(
        full,
        {"arm": "Arm", "scope": "Episodes", "route": "Route", **_PERCENTILES},
        _NUMERIC,
        stacked=True,
        name="latency-by-route",
    )
    by_rounds = "Here intervals are distribution-free order statistics and take rounds as independent."
    routes = ", both routes" * run.drafts
    caption = f"Policy time of a round in the rollouts{routes} (ms): all episodes beside successful ones"
    return page.join(
        page.paragraph(note, "note"),
        page.table(beside, heads, tuple(heads)[1:], caption, stacked=True, name="latency-rollouts"),
        page.details("The same by route", page.join(page.paragraph(by_rounds, "note"), by_route), printed=False)
        if run.drafts
        else None,
    )


def _over_episodes(entry: Mapping[str, Any], measured: Latency) -> dict[str, Any]:
    """Return a scope's n and percentiles, intervals over episodes."""
    times: dict[str, Any] = {"n": f"{measured.n:,} ({entry['episodes']:,})"}
    for name in ("p50", "p95", "p99"):
        value, ends = getattr(measured, name), entry["over_episodes"].get(name)
        interval = Interval(ends["low"], ends["high"]) if ends else None
        times[name] = DASH if value is None else quantile(Quantile(value.value, interval))
    return times


def mixture(run: Campaign) -> Html:
    """Mean latency against the mixture of its routes: they must agree in any run."""
    rows = []
    for arm, summary in run.summaries.items():
        shares, action = summary["mixture"], summary["latency_per_action"]
        times = {
            "mean": shares["mean_ms"],
            "implied": shares["implied_ms"],
            "all": action["all_episodes"],
            "won": action["successful_episodes"],
        }
        rows.append({"arm": page.code(arm), **{k: three_digits(v) if v else DASH for k, v in times.items()}})
    heads = {"arm": "Arm", "mean": "Mean per round", "implied": "Implied by routes"}
    heads |= {"all": "Per action, all episodes", "won": "Per action, successful"}
    return page.table(rows, heads, ("mean", "implied", "all", "won"), _MIXTURE_CAPTION, stacked=True, name="mixture")


_MIXTURE_CAPTION = "Mean policy time (ms): measured, and as route shares and route means imply it; they must agree"
_PERCENTILES = {"n": "n", "mean": "Mean", "p50": "p50 [95 %]", "p95": "p95 [95 %]", "p99": "p99 [95 %]", "max": "Max"}
_NUMERIC = tuple(_PERCENTILES)


def _percentiles(measured: Latency) -> dict[str, Any]:
    number = {"mean": measured.mean, "max": measured.maximum}
    return {
        "n": measured.n,
        **{name: DASH if value is None else three_digits(value) for name, value in number.items()},
        **{name: quantile(getattr(measured, name)) for name in ("p50", "p95", "p99")},
    }


def _latency(entry: Mapping[str, Any]) -> Latency:
    """Return a summary's latency entry as the dataclass that it came from."""
    quantiles = {}
    for name in ("p50", "p95", "p99"):
        given = entry[name]
        interval = given and given["interval"]
        quantiles[name] = given and Quantile(given["value"], Interval(**interval) if interval else None)
    return Latency(entry["n"], entry["mean"], **quantiles, maximum=entry["maximum"], note=entry["note"])


# --- guard ---


def guard(run: Campaign) -> Html:
    """What the guard saw and did, arm by arm."""
    guarded = {arm: s for arm, s in run.summaries.items() if has_guard(s)}
    if not guarded:
        return page.paragraph("No arm had a guard.", "note")
    drawings, rows = [], []
    for arm, summary in guarded.items():
        count = summary["guard"]
        hits = intervals.rate(count["hits"], count["unhealthy"])
        share = cells.share(hits.rate, hits.wilson)
        caption = page.inline(
            page.code(arm),
            f": the wrist image\u2019s pixel standard deviation in every round of "
            f"{summary['success']['n']} episodes, and how the guard classified it. Unhealthy images replaced: ",
            behind(run, arm, counted(hits)),
            f", {share} (Wilson 95 %). Points are jittered sideways.",
        )
        if arm in run.plain_summaries:
            drawings.append(figures.shown(run, f"guard/{arm}", caption))
        rounds, healthy = behind(run, arm, count["rounds"]), percent(count["updates"] / count["rounds"], 1)
        rows.append({"arm": page.code(arm), **count, "rounds": rounds, "healthy": healthy, "repaired": share})
    heads = {
        "arm": "Arm",
        "rounds": "Rounds seen",
        "healthy": "Healthy",
        "updates": "Cache updates",
        "unhealthy": "Unhealthy",
        "hits": "Hits",
    }
    heads |= {"masked": "Declared missing", "misses": "Misses", "repaired": "Hits of unhealthy [Wilson 95 %]"}
    table = page.table(rows, heads, tuple(heads)[1:], "Guard counters, in rounds", stacked=True, name="guard")
    return page.join(page.side_by_side(*drawings), table)


# --- failures ---


def taxonomy(run: Campaign) -> pd.DataFrame:
    """Return how the episodes of each arm ended, one column per kind (`endings`)."""
    return endings.taxonomy(run.episodes, run.rounds, run.arms)


def failures(run: Campaign) -> Html:
    """How episodes ended, drawn and as a table with the share that failed."""
    kinds = taxonomy(run)
    if not len(kinds):
        return page.paragraph("No arm was run.", "note")
    drawing = figures.shown(
        run,
        "endings",
        "How episodes ended. \u201cUnder a fault\u201d says that the condition touched at least one round, not that it "
        "was the cause. Success is the simulator\u2019s own. Infrastructure errors never count as policy failures: of "
        "our own runs they stop the merge, of imported ones they are shown here and are in no k/n.",
    )
    rows = []
    for entry in kinds.to_dict("records"):
        n = entry["n"] - entry["infrastructure"]
        failed = intervals.rate(n - entry["success"], n)
        linked, between = behind(run, entry["arm"], counted(failed)), failed.wilson
        share = page.inline(linked, f" [{cells.ends(between)}]") if between else DASH
        counts = {kind: behind(run, entry["arm"], entry[kind], kind) for kind in endings.KINDS if entry[kind]}
        counts |= {"n": behind(run, entry["arm"], entry["n"]), "arm": page.code(entry["arm"]), "failed": share}
        rows.append({**entry, **counts})
    heads = {"arm": "Arm", "horizon": "No fault", "perturbation": "Fault"}
    heads |= ({"untold": "Not recorded"} if kinds["untold"].any() else {}) | {"infrastructure": "Infra."}
    table = page.table(
        rows,
        heads | {"failed": "Failed [Wilson 95 %]"},
        (*tuple(heads)[1:], "failed"),
        "Failed episodes",
        stacked=True,
        name="endings",
    )
    return page.side_by_side(drawing, table)
