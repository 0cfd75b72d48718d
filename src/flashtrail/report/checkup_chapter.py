"""The checkup's page: verdict, first gripper closing by outcome, what so many episodes can tell, every episode.

Its verdict, counts and intervals are those of `checkup.judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from flashtrail.claims import checkup
from flashtrail.claims.campaign import Campaign
from flashtrail.report import cells, figures, page
from flashtrail.report.count_links import apart, behind, in_text
from flashtrail.report.page import Html
from flashtrail.statistics import power
from flashtrail.statistics.intervals import Interval
from flashtrail.statistics.wording import counted, integers, percent, plural, points, points_range
from flashtrail.tables import links

_VERDICTS = {"healthy": "supported", "suspicious": "inconclusive", "broken": "refuted", checkup.OPEN: "not_tested"}


def found_of(run: Campaign) -> dict[str, Any]:
    """Return what was judged; a page without it has nothing to show."""
    assert run.checkup is not None, "the checkup's page needs results/checkup/checkup.json"
    return run.checkup


# --- first screen ---


def first(run: Campaign) -> Html:
    """Verdict, both rates, their difference, and the verdict that the point estimate alone would give."""
    record = found_of(run)
    ours, arm = record["success"], record["arm"]
    rows: dict[str, Any] = {
        "What was run": f"{record['policy']} on {record['suite']}, task {record['task_id']} ({record['task']}), "
        f"initial states {integers(record['init_states'])}, seed {record['seed']}: {plural(ours['n'], 'episode')}"
    }
    if record["published"] is None:
        rows["Verdict"] = "none: the config names no published figure (checkup.published, policies.*.published)"
    else:
        rows["Verdict"] = page.inline(badge(record["verdict"]), f"; {checkup.said(record)}")
    rows["Ours"] = in_text(checkup.counted(ours), [partial(behind, run, arm)])
    if record["published"] is not None:
        ends = Interval(**record["interval"])
        theirs = in_text(checkup.theirs(record["published"]), [partial(apart, what="published")])
        rows["Published"] = page.inline(theirs, f"; {record['published']['key']}")
        rows["Difference"] = f"{points(record['difference'], 1)}, 95 % interval {points_range(ends, 1)}"
        if record["verdict"] == checkup.OPEN:
            rows["Settled by"] = "; ".join(_plan_words(plan) for plan in record["settle"])
        rows["By eye (not the verdict)"] = _by_eye(record)
    rows |= {
        "Verified success": in_text(_verified(record), [partial(behind, run, arm)]),
        "First closing": _closing(record),
    }
    note = "Healthy: at most 3 points below what was published; suspicious: 3 to 5; broken: more than 5. "
    note += _interval_words(record)
    drawing = difference(run) if record["published"] is not None else None
    found = "has no published figure to compare with" if record["published"] is None else f"is {record['verdict']}"
    counts = in_text(checkup.counted(ours), [partial(behind, run, arm)])
    said = page.inline(f"{record['policy']} {found}: ", counts, f" on task {record['task_id']}.")
    return page.join(page.paragraph(said, "said"), page.first_screen(rows, page.paragraph(note, "note")), drawing)


def badge(verdict: str) -> Html:
    """The checkup's verdict as a word, with the mark of a claim's verdict."""
    return page.badge(_VERDICTS[verdict], verdict)


def _interval_words(record: Mapping[str, Any]) -> str:
    if record["published"] is None:
        return ""
    if record["published"]["count"] is None:
        return "The interval is Clopper-Pearson\u2019s of our rate; the published one is taken as exact."
    return "The interval is Newcombe\u2019s, of two rates that both have their sampling error."


def _by_eye(record: Mapping[str, Any]) -> str:
    same, worse = record["chances"][0], next((c for c in record["chances"] if c["below"] == 0.10), None)
    text = (
        f"{record['by_eye']}, by the point estimate alone, which in {percent(same['by_eye_broken'])} of such checkups "
        "would call a policy broken that is exactly as published"
    )
    return text + (
        f", and {percent(1 - worse['by_eye_broken'])} would not call one broken that is 10 points worse."
        if worse
        else "."
    )


def _plan_words(plan: Mapping[str, Any]) -> str:
    if plan["n"] is None:
        return f"not settled by any feasible number, if {plan['assumption']}"
    return f"about {plural(plan['n'], plan['unit'])}, if {plan['assumption']}"


def _verified(record: Mapping[str, Any]) -> str:
    entry = record["verified"]
    if entry is None:
        return "not every episode was verified"
    apart = plural(len(record["disagreements"]), "episode")
    return f"{checkup.counted(entry)}; it differs from the simulator\u2019s, which the verdict uses, in {apart}"


def _closing(record: Mapping[str, Any]) -> str:
    closing, n = record["closing"], record["success"]["n"]
    never = f"never in {closing['never']} of {plural(n, 'episode')}"
    if closing["never"]:
        never += f", {closing['never_and_success'] or 'none'} of them counted as success"
    return never if closing["median_step"] is None else f"step {closing['median_step']:g} (median); {never}"


# --- figures ---


def difference(run: Campaign) -> Html:
    """Our rate less the published one, with its interval, over the three zones."""
    caption = (
        "Our rate less the published one with its 95 % interval. Left of the grey band: broken; in it: suspicious; "
        "right of it: healthy. A verdict needs the whole bar in one of the three zones."
    )
    return figures.shown(run, "checkup", caption)


def first_closing(run: Campaign) -> Html:
    """Histogram of the step of the first gripper closing, coloured by outcome, \u201cnever\u201d apart."""
    caption = (
        "Step at which the gripper closed first; every block is an episode, stacked by outcome. "
        "\u201cNever\u201d is a bar of its own, also where it is empty: success without a closing would stand there. "
        "Failures that close late, or at the successes\u2019 time, point to different causes."
    )
    return figures.shown(run, "checkup-closing", caption)


# --- what so many episodes can tell ---


def power_of_this(run: Campaign) -> Html:
    """How often such a checkup says what under several truths, and how many episodes would settle this one."""
    record = found_of(run)
    if record["published"] is None:
        return page.paragraph("Nothing published to compare with.", "note")
    n = plural(record["success"]["n"], "episode")
    rows = [
        {
            "truth": "as published" if not row["below"] else f"{100 * row['below']:g} points below",
            "rate": percent(row["rate"], 1),
            **{name: percent(row[name]) for name in (*checkup.ZONES, checkup.OPEN, "by_eye_broken")},
        }
        for row in record["chances"]
    ]
    heads = {"truth": "If the policy is", "rate": "True rate", **{zone: zone.capitalize() for zone in checkup.ZONES}}
    heads |= {checkup.OPEN: "Open", "by_eye_broken": "By eye: broken"}
    caption = f"How often a checkup of {n} says what (exact binomial; the published rate taken as the true one)"
    return page.join(
        page.table(rows, heads, tuple(heads)[1:], caption, stacked=True, name="checkup-power"), _settle(record)
    )


def _settle(record: Mapping[str, Any]) -> Html:
    rows = [
        {
            "truth": plan["assumption"],
            "verdict": badge(plan["verdict"]),
            "n": f"about {plural(plan['n'], plan['unit'])}" if plan["n"] else f"not by {power.MOST:,} episodes",
        }
        for plan in record["settle"]
    ]
    note = (
        f"Episodes to run for the verdict in {percent(power.POWER)} of the checkups, against the published count. "
        "\u201cA side\u201d: the published episodes are too few whatever is run here, so as many published ones "
        "would be needed too (normal approximation). A true difference at the edge of two verdicts is never settled. "
        "More than a task\u2019s 50 initial states need checkup.repeats; episodes of one initial state are alike, so "
        "repeats are worth less than new ones."
    )
    heads = {"truth": "If", "verdict": "Then", "n": "With"}
    table = page.table(rows, heads, (), "Episodes that would settle it", stacked=True, name="checkup-settle")
    return page.join(table, page.paragraph(note, "note"))


# --- what is compared ---


def compared(run: Campaign) -> Html:
    """Whose figure the published one is, and how the initial states overlap."""
    record = found_of(run)
    theirs = record["published"]
    if theirs is None:
        return page.paragraph("Nothing published to compare with.", "note")
    facts = {
        "Published figure": page.inline(page.code(theirs["key"]), f": {theirs['title']}"),
        "Where": theirs["where"],
        "Policy": f"published: {theirs['policy']}; here: {record['policy']}",
        "Setting": theirs["setting"],
        "Hardware": theirs["hardware"],
        "Scope": _scope(record),
        "Starts": _starts(record),
    }
    return page.join(page.facts(facts), _split(run))


def _scope(record: Mapping[str, Any]) -> str:
    text = str(record["published"]["success_scope"])
    if record["published"]["scope"] == "suite":
        text += (
            ". It covers several tasks: this one may be easier or harder than their mean, so a difference may come "
            "from the task and not from the policy"
        )
    return text


def _starts(record: Mapping[str, Any]) -> str:
    starts = record["starts"]
    if starts is None:
        return "the published episodes are known by their scope only"
    theirs = record["published"]["starts"]
    text = (
        f"published: initial states {integers(theirs['init_states'])}, {theirs['repeats']} each, seed "
        f"{theirs['seed']}; here: {integers(record['init_states'])}, seed {record['seed']}. "
    )
    if starts["same"]:
        return text + (
            f"{plural(starts['same'], 'episode')} here and in the published evaluation have the same start, scene and "
            "noise, so they are counted twice. The interval treats them as independent and is wider than necessary; "
            "another checkup.seed repeats no episode"
        )
    return text + "No episode is shared: scenes and noise differ"


def _split(run: Campaign) -> Html | None:
    record = found_of(run)
    starts = record["starts"]
    if starts is None or not starts["shared"] or not starts["others"]:
        return None
    rows = []
    for name, label in (("shared", "of the published evaluation"), ("others", "others")):
        rate = cells.rate_of(starts[name])
        states, count = integers(starts[name]["init_states"]), behind(run, record["arm"], counted(rate))
        rows.append({"states": f"{label}: {states}", "count": count, **cells.rate(rate)})
    heads = {"states": "Initial states", "count": "k/n", **cells.RATE}
    return page.table(
        rows,
        heads,
        tuple(heads)[1:],
        "Our success by initial state: the published ones, and the others",
        name="checkup-states",
    )


# --- every episode ---


def episodes(run: Campaign) -> Html:
    """Every episode in a row, linked to its page."""
    record = found_of(run)
    listed = run.pages.get(record["arm"])
    heads = {"state": "Initial state", "end": "End", "verified": "Verified", "closing": "First closing (step)"}
    heads |= {"closures": "Closures", "grasps": "Grasps", "lifts": "Lifts", "steps": "Steps", "film": "Film"}
    rows = []
    for row in run.judged(record["arm"]).to_dict("records"):
        state = f"initial state {row['init_state']}"
        counts = {"closures": row["gripper_closures"], "grasps": row["grasps"], "lifts": row["lifts"]}
        rows.append(
            {
                "state": page.link(state, links.episode(listed, row)) if listed else state,
                "end": "\u25cf success" if row["success"] else "\u25cb time ran out",
                "verified": _verified_cell(row),
                "closing": "never" if pd.isna(row["first_close_step"]) else f"{row['first_close_step']:.0f}",
                **{name: None if pd.isna(count) else f"{count:.0f}" for name, count in counts.items()},
                "steps": str(row["steps"]),
                "film": "yes" if isinstance(row["video"], str) else None,
            }
        )
    numeric = ("closing", "closures", "grasps", "lifts", "steps")
    return page.table(rows, heads, numeric, plural(len(rows), "episode"), stacked=True, name="checkup-episodes")


def _verified_cell(row: Mapping[str, Any]) -> str | None:
    if row["verified_success"] is None or pd.isna(row["verified_success"]):
        return None
    if row["verified_success"]:
        return "yes"
    return f"no: {row['verified_reason']}" if row["success"] else "no"
