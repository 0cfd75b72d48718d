"""Hand-overs: what helped each arm, how often and for how many steps, beside the arm that nobody helped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashtrail.claims import summaries
from flashtrail.claims.campaign import Campaign
from flashtrail.experiment.handoff import ORACLE, RANDOM
from flashtrail.report import arm_words, limits_chapter, page
from flashtrail.report.overview import arm_name
from flashtrail.report.page import Html
from flashtrail.statistics.wording import DASH, percent, plural

_NOTE = (
    "A success with hand-overs is the policy\u2019s and its helper\u2019s together. The expert knows the true state, "
    "as no robot does: it stands for a human. Two arms are controls: a hand-over at rounds drawn by lot, and one by "
    "what only the simulator knows."
)
_CONTROLS = {RANDOM: "by lot", ORACLE: "by the simulator: control steps without a lift"}


def arms(run: Campaign) -> list[str]:
    """Return the arms with hand-overs, each behind the arm that it is held against."""
    helped = [arm for arm, summary in run.summaries.items() if summaries.setting(summary, "handoff")]
    alone = [control for arm in helped if (control := run.control_of(arm))]
    return [*dict.fromkeys([*alone, *helped])] if helped else []


def section(run: Campaign) -> Html:
    """Return success, interventions and the expert's steps by arm; empty where no arm has hand-overs."""
    rows = [_row(run, arm) for arm in arms(run)]
    if not rows:
        return page.join()
    heads = {
        "arm": "Arm",
        "by": "Hands over",
        "success": "Success, verified",
        "interventions": "Interventions an episode",
        "helped": "Episodes with one",
        "expert": "Expert\u2019s steps an episode",
        "shares": "Steps: policy, expert, held or retried",
    }
    caption = "k/n with Wilson\u2019s 95 % interval; the rest are means over episodes"
    table = page.table(rows, heads, ("interventions", "expert"), caption=caption, stacked=True, name="handoffs")
    return page.join(page.paragraph(_NOTE, "note"), table)


def _row(run: Campaign, arm: str) -> dict[str, object]:
    episodes, given = run.judged(arm), arm_words.recorded(run.summaries[arm], "handoff")
    verified = episodes["verified_success"].dropna().astype(bool)
    own = {"arm": arm_name(arm, run.summaries[arm], run), "success": limits_chapter.rate(run, arm, verified)}
    if not given:
        return {**own, "by": "never", **dict.fromkeys(("interventions", "helped", "expert", "shares"), DASH)}
    counts = episodes[["interventions", "expert_steps"]].astype(float)
    done, expert, of = episodes["executed_actions"].sum(), counts["expert_steps"].sum(), episodes["steps"].sum()
    return {
        **own,
        "by": f"to {given['to']} {_when(given)}",
        "interventions": f"{counts['interventions'].mean():.2f}",
        "helped": limits_chapter.rate(run, arm, counts["interventions"] > 0),
        "expert": f"{counts['expert_steps'].mean():.1f}",
        "shares": ", ".join(percent(part / of) for part in (done, expert, of - done - expert)),
    }


def _when(given: Mapping[str, Any]) -> str:
    if given["signal"] in _CONTROLS:
        return f"{_CONTROLS[given['signal']]} > {given['alarm']:g}"
    side = "<" if given["signal"] == "accepted_prefix" else ">"
    alarm = f"at {str(given['signal']).replace('_', ' ')} {side} {given['alarm']:g}"
    return alarm + (f" in {plural(given['patience'], 'round')} in a row" if given["patience"] > 1 else "")
