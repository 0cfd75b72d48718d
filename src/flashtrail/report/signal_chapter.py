"""The report's section on speculation as a signal: sentences, figure and tables made of what signal.py found.

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


def section(run: Campaign) -> Html:
    """Does what the verifier says of drafts tell how an episode ends, or that a camera is dead?"""
    analysis = signal.of_run(run)
    if not analysis["draft_rounds"]:
        return page.paragraph("No arm drafted.", "note")
    if analysis["window"] is None:
        note = "The record does not give the steps of rounds, so episodes\u2019 ends cannot be analysed."
        return page.join(acceptance(run, analysis["acceptance"]), page.paragraph(note, "note"))
    warning = alarm_words(analysis["alarm"], analysis["window"])
    parts = [
        acceptance(run, analysis["acceptance"]),
        page.paragraph(page.inline(page.bold("The episode\u2019s end. "), outcome_words(analysis))),
        _outcome(run, analysis),
        page.paragraph(page.inline(page.bold("A warning. "), in_text(warning, [partial(pooled, run)]))),
        _reliability(run, analysis["reliability"]),
        page.paragraph(page.inline(page.bold("A dead wrist camera. "), camera_words(analysis["camera"]))),
        _camera(run, analysis["camera"]),
    ]
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


def alarm_words(analysis: Mapping[str, Any], window: int) -> str:
    """Say how often the alarm rings in failed and in successful episodes, and how long before the end."""
    failed, won = analysis["failed"], analysis["successful"]
    if not failed["n"] or not won["n"]:
        return "There are no episodes of both kinds that last long enough."
    text = (
        f"An alarm on the mean accepted prefix of {analysis['rounds']} draft rounds, its threshold set on other "
        f"initial states to ring in at most {percent(signal.FALSE_ALARMS)} of the successful episodes, rang before "
        f"step {window} in {failed['k']}/{failed['n']} failed episodes [{cells.ends(failed['wilson'])}] and in "
        f"{won['k']}/{won['n']} successful ones [{cells.ends(won['wilson'])}]."
    )
    if analysis["lead_steps"]:
        low, middle, high = (round(x) for x in analysis["lead_steps"])
        text += (
            f" Where it rang in a failed episode, {middle} steps (quartiles {low} and {high}; "
            f"{middle / signal.STEP_HZ:.1f} s of the robot\u2019s time) were left until time ran out."
        )
    if failed["wilson"]["low"] <= won["wilson"]["high"]:
        text += " The two shares\u2019 intervals overlap: as a warning it is not established."
    return text


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
