"""reports/drills.html, second part: power, false alarms, indistinguishable arms, costs, features, bounds.

Every sentence follows from the diagnosis and the bounds as they were stored.
"""

from __future__ import annotations

from typing import Any

from flashtrail.claims.campaign import Campaign
from flashtrail.drills import bounds as clean
from flashtrail.drills.diagnosis import CLEAN
from flashtrail.drills.predicates import LEFT_OVER
from flashtrail.report import cells, figures, page
from flashtrail.report.drills_figures import DRAWN
from flashtrail.report.drills_stored import bounds, count, diagnosis, ordered
from flashtrail.report.page import Html
from flashtrail.statistics.intervals import Interval
from flashtrail.statistics.wording import (
    counted,
    difference_with_range,
    listed,
    p_value,
    percent,
    plural,
)


def power(run: Campaign) -> Html:
    """How many episodes a run needs: a panel per failure, and the table behind it."""
    diagnosed = diagnosis(run)
    drawing = figures.shown(
        run,
        "drills-power",
        "Runs diagnosed correctly (clean arm: no diagnosis) by number of episodes; bars: 95 %; dashed: 80 %.",
    )
    note = (
        "Method: a run of m episodes is drawn by drawing a task, each as likely, and then one of its initial states, m "
        "times with replacement from the episodes played; it is called what most of its episodes show, "
        f"{LEFT_OVER} only where it fails more often than the clean reference explains (5 %). Intervals draw each "
        "task\u2019s initial states again first, and are left out where all episodes agree: then a bootstrap sees no "
        "spread. Odd m, since half of an even run is not a majority. Draws cover only the initial states that were "
        "played."
    )
    rows = []
    for name, entries in diagnosed["power"].items():
        shares = {f"m{e['m']}": cells.share(e["named"], e["named_interval"]) for e in entries}
        rows.append({"arm": page.code(name), **shares})
    lengths = [e["m"] for e in next(iter(diagnosed["power"].values()), [])]
    heads = {"arm": "Arm", **{f"m{m}": plural(m, "episode") for m in lengths}}
    table = page.table(
        rows, heads, tuple(heads)[1:], "Runs diagnosed correctly [95 %]", stacked=True, name="drills-power"
    )
    return page.join(drawing, table, page.paragraph(note, "note"))


def false_alarms(run: Campaign) -> Html:
    """Each predicate on clean episodes that its bounds do not come from, beside what is promised."""
    alarms = diagnosis(run)["false_alarms"]
    entries: dict[str, Any] = {page.code(name): entry for name, entry in alarms["by_predicate"].items()}
    entries |= {"any bound": alarms["any_bound"], "any predicate": alarms["any"]}
    rows = []
    for name, entry in entries.items():
        rate, promised = cells.rate_of(entry), None
        if "promised_at_most" in entry:
            bound = entry["promised_at_most"]
            promised = "no bound of one feature" if bound is None else f"at most {percent(bound, 1)}"
        row = {"name": name, "count": count(run, CLEAN, counted(rate)), **cells.rate(rate)}
        rows.append(row | {"promised": promised})
    heads = {"name": "Predicate", "count": "k/n", **cells.BOTH_INTERVALS, "promised": "Promised"}
    caption = "False alarms: clean episodes that the bounds do not come from"
    return page.table(rows, heads, tuple(heads)[1:], caption, stacked=True, name="drills-alarms")


def slack(run: Campaign) -> Html:
    """The same episodes under other slacks of the bounds."""
    slacks, chosen = diagnosis(run)["slack"], bounds(run)["guarantee"]["slack"]
    rows = []
    for entry in slacks:
        named = [name for name, drill in entry["drills"].items() if drill["cause"] == name]
        drills = ordered(entry["drills"])
        counts = {name: count(run, name, f"{drill['k']}/{drill['n']}") for name, drill in drills.items()}
        mark = " (this page)" if entry["slack"] == chosen else ""
        clean_run = count(run, CLEAN, f"{entry['clean']['k']}/{entry['clean']['n']}")
        row = {"slack": f"{entry['slack']:g}{mark}", "clean": clean_run, **counts}
        rows.append(row | {"named": f"{len(named)} of {len(counts)}"})
    heads = {"slack": "Slack", "clean": "Clean, any bound", **{name: name for name in ordered(slacks[0]["drills"])}}
    heads |= {"named": "Runs named"}
    note = (
        "How far a bound lies beyond the clean extremes, as a share of their distance, was chosen before any drill was "
        "run. The same episodes under other choices: a gain in one column costs in another."
    )
    table = page.table(
        rows,
        heads,
        tuple(heads)[1:],
        "Episodes in which a drill\u2019s own predicate holds",
        stacked=True,
        name="drills-slack",
    )
    return page.join(page.paragraph(note), table)


def apart(run: Campaign) -> Html:
    """Which arms no predicate distinguishes, and the evidence for those that one does."""
    diagnosed = diagnosis(run)
    blurred = [e for e in diagnosed["apart"] if not e["apart"]]
    distinguished = len(diagnosed["apart"]) - len(blurred)
    text = f"{distinguished} of {plural(len(diagnosed['apart']), 'pair')} of arms are distinguished by some predicate."
    if blurred:
        text += f" Not distinguished: {'; '.join(' from '.join((e['a'], e['b'])) for e in blurred)}."
    rows = [
        {"a": page.code(e["a"]), "b": page.code(e["b"]), "by": page.code(e["predicate"]), "p": p_value(e["p"])}
        for e in diagnosed["apart"]
        if e["apart"]
    ]
    note = (
        "Arms are distinguished where some predicate holds at different rates in them: Boschloo\u2019s exact test, p "
        f"values Holm\u2019s over all pairs and predicates, below {diagnosed['alpha']:g}. Episodes are taken as "
        "independent; those of one task are alike, so p values near the limit overstate the evidence."
    )
    heads = {"a": "Arm", "b": "Other arm", "by": "By", "p": "Holm\u2019s p"}
    table = page.table(
        rows, heads, ("p",), "Distinguishable pairs, with the most significant predicate", name="drills-apart"
    )
    return page.join(page.paragraph(text), page.paragraph(note, "note"), page.details("The pairs", table))


def cost(run: Campaign) -> Html:
    """What each failure does to success, paired with the clean run."""
    diagnosed = diagnosis(run)["success"]
    rows = []
    for name, entry in diagnosed.items():
        rate, paired = cells.rate_of(entry), entry["paired"]
        row: dict[str, Any] = {"arm": page.code(name), "count": count(run, name, counted(rate)), **cells.rate(rate)}
        if paired:
            interval = Interval(paired["interval"]["low"], paired["interval"]["high"])
            row |= {"difference": difference_with_range(paired["difference"], interval), "p": p_value(paired["p"])}
        rows.append(row)
    heads = {"arm": "Arm", "count": "Rewarded", **cells.RATE}
    heads |= {"difference": "Against clean [95 %]", "p": "Exact McNemar"}
    return page.table(rows, heads, tuple(heads)[1:], "Success under each failure", stacked=True, name="drills-cost")


def features(run: Campaign) -> Html:
    """The features themselves, every episode a point."""
    rest = ": filled, rewarded; hollow, not. Shaded: within the clean bounds."
    parts = [figures.shown(run, f"drills-feature/{name}", page.inline(page.code(name), rest)) for name in DRAWN]
    return page.join(*(page.side_by_side(*parts[i : i + 2]) for i in range(0, len(parts), 2)))


def bounds_table(run: Campaign) -> Html:
    """The clean bounds, what they guarantee and where they come from."""
    stored = bounds(run)
    rows = [
        {
            "name": page.code(name),
            "what": entry["what"],
            **{key: f"{entry[key]:.4g}" for key in ("least", "largest", "low", "high")},
            "n": entry["n"],
        }
        for name, entry in stored["bounds"].items()
    ]
    heads = {"name": "Feature", "what": "What it is", "least": "Least", "largest": "Largest"}
    heads |= {"low": "Bound below", "high": "Bound above", "n": "Episodes"}
    n, guarantee, origin = stored["episodes"], stored["guarantee"], stored["origin"]
    text = (
        f"Of {plural(n, 'clean episode')} ({stored['rewarded']} rewarded) the least and the largest value, widened by "
        f"{percent(guarantee['slack'])} of their distance on each side. Whatever the distribution, another clean "
        f"episode of the same tasks lies above the largest (or below the least) in one case of {n + 1} at "
        f"most ({percent(clean.beyond(n), 1)}), and beyond the widened bound at most so often; with "
        f"{percent(guarantee['confidence'])} confidence at least {percent(guarantee['content_of_one_side'])} of all "
        "clean episodes lie on the clean side. A run is judged by majority, so that its alarms are rarer still."
    )
    tasks = listed(origin.get("tasks", [])) if origin.get("tasks") else "tasks not recorded"
    where = f"From {listed(origin.get('arms', []))}, {tasks}; digests of its tables are in results/drills/bounds.json."
    numeric = ("least", "largest", "low", "high", "n")
    table = page.table(rows, heads, numeric, "Clean bounds of each feature", stacked=True, name="drills-bounds")
    return page.join(page.paragraph(text), table, page.paragraph(where, "note"))
