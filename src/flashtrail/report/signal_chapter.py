"""The report's section on signals of doubt: sentences, figure and tables made of what signal.py found.

Every sentence follows from an interval; none is written in advance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flashtrail.claims import signal
from flashtrail.claims.campaign import Campaign
from flashtrail.report import cells, figures, page
from flashtrail.report.count_links import apart, behind, in_text, pooled
from flashtrail.report.page import Html
from flashtrail.statistics.wording import DASH, integers, listed, percent, plural

_HEADS = {"signal": "Signal", "unit": "Per", "before": "Steps looked at", "auroc": "AUROC [95 %]"}
_HEADS |= {"n": "Positive / all", "episodes": "Episodes", "strata": "Arm-tasks"}


def says(run: Campaign) -> bool:
    """Return whether there is anything to say: an arm drafted, or failed and successful episodes have a signal."""
    return run.drafts or bool(signal.whole_window(signal.of_run(run)))


def section(run: Campaign) -> Html:
    """Does what a round says of itself tell how its episode ends, or that a camera is dead?"""
    analysis = signal.of_run(run)
    if not analysis["signals"]:
        return page.paragraph("No round says how sure the policy is.", "note")
    drafted = bool(analysis["draft_rounds"])
    first = acceptance(run, analysis["acceptance"]) if drafted else None
    if analysis["window"] is None:
        note = "The record does not give the steps of rounds, so episodes\u2019 ends cannot be analysed."
        return page.join(first, page.paragraph(note, "note"))
    parts = [
        first,
        page.paragraph(page.inline(page.bold("The episode\u2019s end. "), outcome_words(analysis))),
        _outcome(run, analysis),
        _alarms(run, analysis["alarms"], analysis["window"]),
        _printed(run, analysis["printed"]),
    ]
    if drafted:
        camera = page.paragraph(page.inline(page.bold("A dead wrist camera. "), camera_words(analysis["camera"])))
        parts += [_reliability(run, analysis["reliability"]), camera, _camera(run, analysis["camera"])]
    return page.join(*parts)


# --- acceptance beside its control ---


def acceptance(run: Campaign, rows: Sequence[Mapping[str, Any]]) -> Html:
    """Return how often drafts were within tau, arm by arm, beside the full route against itself."""
    table = []
    for row in rows:
        control = row["control"]
        table.append(
            {
                "arm": page.code(row["arm"]),
                "within": DASH if row["within"] is None else _within(run, row),
                "radius": DASH if row["median_radius"] is None else f"{row['median_radius']:.3f}",
                "control": "not measured for this policy"
                if control is None
                else page.inline(
                    apart(f"{control['k']}/{control['n']}", "profile"),
                    f" ({cells.share(control['rate'], control['wilson'])})",
                ),
                "distance": DASH if control is None else f"{control['median_distance']:.3f}",
            }
        )
    heads = {"arm": "Arm", "within": "Drafts with radius within tau [95 % over episodes]", "radius": "Median radius"}
    heads |= {"control": "Control: full against itself [Wilson 95 %]", "distance": "Its median distance"}
    numeric = ("within", "radius", "control", "distance")
    caption = "Acceptance and its control, by the radius alone"
    words = page.paragraph(
        page.inline(page.bold("Acceptance. "), in_text(acceptance_words(rows), [partial(apart, what="profile")]))
    )
    return page.join(words, page.table(table, heads, numeric, caption, stacked=True, name="acceptance"))


def _within(run: Campaign, row: Mapping[str, Any]) -> Html:
    count = behind(run, row["arm"], f"{row['within']}/{row['draft_rounds']}")
    return page.inline(count, f" ({cells.share(row['within'] / row['draft_rounds'], row['interval'])})")


def acceptance_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say what the control makes of the drafts' acceptance."""
    measured = [row for row in rows if row["control"]]
    if not measured:
        return "The control of acceptance was not measured, so acceptance is not yet evidence of agreement."
    control = measured[0]["control"]
    within, drafts = sum(row["within"] for row in measured), sum(row["draft_rounds"] for row in measured)
    share = within / drafts
    text = (
        f"{within:,} of {plural(drafts, 'draft')} ({percent(share)}) had a mean radius within {control['tau']:g}; two "
        f"full rounds on the same observation under different noise lie within it in {control['k']}/{control['n']} "
        f"({percent(control['rate'])})."
    )
    if share > control["wilson"]["high"]:
        return text + (
            " Drafts are accepted more often than the full route would accept itself: the estimate that a draft is "
            "judged by starts from that draft, so acceptance is not agreement with an independent sample."
        )
    if share < control["wilson"]["low"]:
        return text + " Drafts are accepted less often than the full route would accept itself."
    return text + " Drafts are accepted about as often as the full route would accept itself."


# --- the episode's end ---


def outcome_words(analysis: Mapping[str, Any]) -> str:
    """Say which signals tell a failing episode, by where their intervals lie."""
    rows = [row for row in analysis["outcome"] if row["unit"] == "episode" and row["before_step"] == analysis["window"]]
    start = f"Within an arm and a task, from the first {analysis['window']} steps of an episode: "
    judged = [row for row in rows if row["interval"]]
    if not judged:
        return start + "too few episodes of both kinds, or constant signals: no conclusion."
    return start + _by_verdict(judged, "failure")


def _by_verdict(rows: Sequence[Mapping[str, Any]], what: str) -> str:
    told = {"above": f"points to {what}", "below": f"points away from {what}", "open": "does not tell"}
    parts = []
    for says, words in told.items():
        names = [f"{r['words']} ({r['value']:.2f} [{_ends(r['interval'])}])" for r in rows if r["says"] == says]
        if names:
            verb = words if len(names) == 1 else words.replace("points", "point").replace("does not", "do not")
            parts.append(f"{listed(names)} {verb}")
    return "; ".join(parts) + "."


def _outcome(run: Campaign, analysis: Mapping[str, Any]) -> Html:
    if not signal.whole_window(analysis):
        return Html("")
    drawing = figures.shown(
        run,
        "signal",
        f"How well the mean of each signal over an episode\u2019s first {analysis['window']} steps tells that it will "
        "fail. Pairs are of one arm and task; episodes that ended sooner are left out. Orange: the interval lies above "
        "chance. Right: failed of all episodes.",
    )
    rows = [_row(run, row) for row in analysis["outcome"]]
    numeric = ("before", "auroc", "n", "episodes", "strata")
    table = page.table(
        rows, _HEADS, numeric, "AUROC for failure, rounds and episode means", stacked=True, name="signal"
    )
    return page.join(drawing, page.details("All of them: per round, and sooner in the episode", table, printed=False))


def _row(run: Campaign, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "signal": row["words"],
        "unit": row["unit"],
        "before": row["before_step"],
        "auroc": _auroc(row),
        "n": pooled(run, f"{row['positive']}/{row['rows']}"),
        "episodes": row["episodes"],
        "strata": row["strata"],
    }


def _auroc(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return DASH
    return f"{row['value']:.2f}" + (f" [{_ends(row['interval'])}]" if row["interval"] else "")


# --- the alarm ---


def alarm_words(rows: Sequence[Mapping[str, Any]], window: int) -> str:
    """Say which alarms ring in failed episodes more often than in successful ones."""
    if not rows:
        return "In no arm and task are there episodes enough of both ends to learn an alarm from."
    start = (
        f"An alarm on a signal\u2019s mean over {signal.ALARM_ROUNDS} rounds, its threshold set on other init states "
        f"of the same arm and task to ring in at most {percent(signal.FALSE_ALARMS)} of the successful episodes, rings "
        f"before step {window} "
    )
    good = [row["words"] for row in rows if row["failed"]["wilson"]["low"] > row["successful"]["wilson"]["high"]]
    if not good:
        return start + "in no more failed than successful episodes that their intervals would not overlap."
    return start + f"more often in failed episodes than in successful ones for {listed(good)}."


def _alarms(run: Campaign, alarms: Sequence[Mapping[str, Any]], window: int) -> Html:
    rows = [row for row in alarms if row["failed"]["n"] and row["successful"]["n"]]
    words = page.paragraph(page.inline(page.bold("A warning. "), alarm_words(rows, window)))
    if not rows:
        return words
    table = [
        {
            "signal": row["words"],
            "failed": _share(run, row["failed"]),
            "successful": _share(run, row["successful"]),
            "lead": " / ".join(f"{x / signal.STEP_HZ:.1f}" for x in row["lead_steps"]) if row["lead_steps"] else DASH,
        }
        for row in rows
    ]
    heads = {"signal": "Signal", "failed": "Rang in failed episodes", "successful": "In successful ones"}
    heads |= {"lead": "s before time ran out, quartiles"}
    caption = "Alarms and how early they come"
    return page.join(words, page.table(table, heads, tuple(heads)[1:], caption, stacked=True, name="alarms"))


def _share(run: Campaign, rate: Mapping[str, Any]) -> Html:
    return page.inline(pooled(run, f"{rate['k']}/{rate['n']}"), f" ({cells.share(rate['rate'], rate['wilson'])})")


def _printed(run: Campaign, rows: Sequence[Mapping[str, Any]]) -> Html | None:
    if not rows:
        return None
    parts = []
    for row in rows:
        rounds, failed = row["rounds"], row["failed"]
        parts.append(
            f"by the {row['words']} (at most {row['largest']:.2f}) in {rounds['k']}/{rounds['n']} rounds "
            f"[{cells.ends(rounds['wilson'])}] and in {failed['k']}/{failed['n']} failed episodes"
        )
    words = (
        "The source document proceeds where 1 / (1 + spread) > 0.5, that is below a spread of "
        f"{signal.PRINTED_SPREAD:g}: it would have paused {'; '.join(parts)}."
    )
    linked = in_text(words, [partial(pooled, run)])
    return page.paragraph(page.inline(page.bold("The document\u2019s rule. "), linked))


# --- reliability ---


def _reliability(run: Campaign, analysis: Mapping[str, Any] | None) -> Html:
    if analysis is None:
        return page.paragraph("Too few episodes to compare predicted with observed failure.", "note")
    rows = [
        {
            "predicted": percent(entry["predicted"]),
            "count": pooled(run, f"{entry['k']}/{entry['n']}"),
            "observed": cells.share(entry["rate"], entry["wilson"]),
        }
        for entry in analysis["bins"]
    ]
    heads = {"predicted": "Predicted failure", "count": "Failed", "observed": "Observed [Wilson 95 %]"}
    score = analysis["brier"]
    better = score["signal"] < score["arm_and_task"]
    words = (
        "Reliability: failure predicted from the accepted prefix, learned on other initial states, has a Brier score "
        f"of {score['signal']:.3f} over {plural(analysis['episodes'], 'episode')}; knowing only arm and task gives "
        f"{score['arm_and_task']:.3f}, the overall share alone {score['share_alone']:.3f} (lower is better). "
    )
    words += (
        "The signal predicts better than arm and task." if better else "Arm and task alone predict as well or better."
    )
    table = page.table(rows, heads, tuple(heads), "Predicted against observed failure", name="reliability")
    return page.join(page.paragraph(words), table)


# --- the camera ---


def camera_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say whether the verifier notices a broken view, comparison by comparison."""
    verifier = [row for row in rows if row["signal"] != "health_std"]
    if not verifier:
        return "No arm has broken and whole rounds to compare."
    parts = []
    for comparison in dict.fromkeys(row["comparison"] for row in verifier):
        chosen = [row for row in verifier if row["comparison"] == comparison]
        judged = [row for row in chosen if row["interval"]]
        words = _by_verdict(judged, "the broken view") if judged else "too few episodes of both kinds."
        parts.append(f"{comparison[0].upper()}{comparison[1:]}: {words}")
    pixels = next((row for row in rows if row["signal"] == "health_std"), None)
    if pixels:
        parts.append(f"A look at the pixels, as the guard\u2019s, has an AUROC of {_auroc(pixels)}.")
    return " ".join(parts)


def _camera(run: Campaign, rows: Sequence[Mapping[str, Any]]) -> Html | None:
    if not rows:
        return None
    table = []
    for row in rows:
        means = row["means"] or {"broken": None, "whole": None}
        numbers = {key: DASH if value is None else f"{value:.3g}" for key, value in means.items()}
        entry = {"comparison": row["comparison"], "signal": row["words"], "auroc": _auroc(row), **numbers}
        table.append(
            entry | {"n": pooled(run, f"{row['positive']}/{row['rows']}"), "episodes": integers([row["episodes"]])}
        )
    heads = {"comparison": "Rounds compared", "signal": "Signal", "auroc": "AUROC [95 %]", "broken": "Mean, broken"}
    heads |= {"whole": "Mean, whole", "n": "Broken / all rounds", "episodes": "Episodes"}
    numeric = ("auroc", "broken", "whole", "n", "episodes")
    return page.table(
        table, heads, numeric, "Does the verifier notice a dead wrist camera?", stacked=True, name="camera"
    )


def _ends(interval: Mapping[str, Any]) -> str:
    return f"{interval['low']:.2f}, {interval['high']:.2f}"
