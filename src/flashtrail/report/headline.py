"""The first screen: what was run, on what, how well, how fast, what broke, what helped, what may be claimed.

Every sentence is made of numbers from the summaries and verdicts; no number is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flashtrail.base import machine
from flashtrail.claims import claims
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.summaries import of_how_many
from flashtrail.report import cells, claims_chapter, page
from flashtrail.report.cells import paired, rate_of
from flashtrail.report.count_links import behind, pooled
from flashtrail.report.overview import arm_name, has_fault, has_guard
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import (
    NBSP,
    counted,
    integers,
    listed,
    milliseconds,
    percent,
    plural,
    points,
    points_range,
)
from flashtrail.tables import schemas

_Choice = Callable[[Mapping[str, Any]], bool]


def section(run: Campaign) -> Html:
    """The first screen: what was run, on what, how well, how fast, what broke, what helped, what may be claimed."""
    rows: dict[str, Any] = {
        "What was run": _what_was_run(run),
        "On what": _on_what(run),
        "How well": page.paragraphs(_of_arm(run, arm, s) for arm, s in run.plain_summaries.items() if not has_fault(s)),
        "How fast": _how_fast(run),
        "What broke": page.paragraphs(
            _against_clean(run, lambda s: has_fault(s) and not has_guard(s) and not _is_remedy(run, s))
        ),
        "What the guard did": page.paragraphs(_against_fault(run, has_guard)),
        "Other remedies": page.paragraphs(_against_fault(run, lambda s: not has_guard(s) and _is_remedy(run, s))),
        "Clock running": page.paragraphs(_at_each_rate(run)),
        "What may be claimed": _may_be_claimed(run),
    }
    return page.first_screen(rows, _note(run))


def said(run: Campaign) -> str:
    """The verdict of a run in one sentence."""
    found = [claim["verdict"] for claim in (run.claims or {"claims": []})["claims"]]
    parts = [f"{found.count(verdict)} {verdict.replace('_', ' ')}" for verdict in claims.VERDICTS if verdict in found]
    return f"{plural(len(found), 'claim')}: {listed(parts)}." if found else "The claims were not evaluated."


def _note(run: Campaign) -> Html:
    """How rates and counts are to be read; empty where the first screen has none."""
    if not run.summaries:
        return Html("")
    note = "Brackets: 95\u00a0% intervals, Wilson\u2019s of a rate, Tango\u2019s of a paired difference."
    if run.pages:
        note += " A count links to its episodes; a paired one takes those of them whose start both arms have."
    return page.paragraph(note, "note")


def _of_arm(run: Campaign, arm: str, summary: Mapping[str, Any], *rest: Any) -> Html:
    return page.inline(
        arm_name(arm, summary), ": ", _rate(run, arm, summary["success"]), *rest, _errors(run, arm, summary)
    )


def _errors(run: Campaign, arm: str, summary: Mapping[str, Any]) -> str | Html:
    """Episodes that infrastructure ended: not in k/n, counted here and linked."""
    errors = summary["outcomes"]["error"]
    if not errors:
        return ""
    linked = behind(run, arm, plural(errors, "episode"), "infrastructure")
    ending = "an infrastructure error and is" if errors == 1 else "infrastructure errors and are"
    return page.inline("; ", linked, f" ended in {ending} not counted")


def _rate(run: Campaign, arm: str, entry: Mapping[str, Any]) -> Html:
    """``27/30 = 90 % [74-97 %]``, the count as a link to its episodes."""
    measured = rate_of(entry)
    count = behind(run, arm, counted(measured))
    return page.inline(count, f" = {cells.share(measured.rate, measured.wilson)}" if measured.wilson else "")


def _at_each_rate(run: Campaign) -> list[Html]:
    """One line per control frequency under a running clock: each arm's count and the latency it was run with."""
    lines: dict[str, list[Html]] = {}
    for arm, summary in run.running.items():
        clock = summary["clock"]
        how = f"{clock['hz']:g} Hz, {'drafting' if summary['routes']['draft'] else 'every round full'}: "
        line = page.inline(_rate(run, arm, summary["success"]), f" at {milliseconds(clock['mean_ms'])} a round")
        lines.setdefault(how, []).append(line)
    return [page.inline(how, Html("; ").join(parts)) for how, parts in lines.items()]


def _what_was_run(run: Campaign) -> Html:
    if not run.summaries:
        return page.inline(_timed(run))
    episodes = sum(sum(s["outcomes"].values()) for s in run.summaries.values())
    rounds = sum(s["routes"]["n"] for s in run.summaries.values())
    seeds = sorted({s["seed"] for s in run.summaries.values()})
    paired_by = "; arms paired by task, initial state and repeat" if len(run.summaries) > 1 else ""
    return page.inline(
        f"{plural(len(run.summaries), 'arm')}, ",
        pooled(run, plural(episodes, "episode")),
        f", {plural(rounds, 'round') if rounds else 'rounds not recorded'}; seed {integers(seeds)}{_days(run)}"
        f"{paired_by}.{_clock(run)}",
    )


def _timed(run: Campaign) -> str:
    """What the profile holds where no arm was run."""
    if not len(run.profile):
        return "No episode was run and no round was timed."
    counts = run.profile["route"].value_counts()
    routes = listed([f"{counts[route]:,} {route}" for route in schemas.ROUTES if route in counts])
    policies = listed(list(dict.fromkeys(run.profile["policy"])))
    return (
        f"{plural(len(run.profile), 'round')} of {policies} timed ({routes}; {run.whose(None)}), without episodes: "
        "success was not measured."
    )


def _clock(run: Campaign) -> str:
    if all(run.whose(arm) != "ours" for arm in run.summaries):  # no foreign record says it
        return ""
    if not run.running:
        return " The simulator waits for the policy (clock: paused)."
    return (
        f" The simulator waits for the policy (clock: paused), but not in {plural(len(run.running), 'arm')}, where it "
        "goes on while a round is under way (clock: running)."
    )


def _days(run: Campaign) -> str:
    days = sorted({str(start)[:10] for start in run.episodes["started_at"].dropna()})
    return "" if not days else f"; run on {days[0]}" if len(days) == 1 else f"; run {days[0]} to {days[-1]}"


def _on_what(run: Campaign) -> str:
    devices = run.devices()
    return "; ".join(devices) if devices else "device not recorded"


def _how_fast(run: Campaign) -> Html | None:
    if not len(run.profile):
        return None
    times = {route: run.profile.loc[run.profile["route"] == route, "policy_ms"] for route in ("draft", "full")}
    measured = {route: intervals.latency(values) for route, values in times.items()}
    lines: list[str | Html] = []
    synchronised = "synchronised" if run.profile["synchronized"].eq(True).all() else "not synchronised"
    # An imported record does not state whether rounds were alone on the device.
    how = f"{synchronised}, {'batch 1' if run.whose(None) == 'ours' else run.whose(None)}"
    if measured["draft"].p50 and measured["full"].p50:
        ratio = measured["full"].p50.value / measured["draft"].p50.value
        lines.append(
            f"A draft round takes {milliseconds(measured['draft'].p50.value)}, a full round "
            f"{milliseconds(measured['full'].p50.value)} (medians of policy time, n = {measured['draft'].n} and "
            f"{measured['full'].n}, {how}; {machine.words(run.machine)}): {ratio:.1f} times as long."
        )
    else:
        for route, of_route in measured.items():
            if of_route.p50:
                beside = f"median, n = {of_route.n}, {how}; {machine.words(run.machine)}"
                lines.append(f"A {route} round takes {milliseconds(of_route.p50.value)} ({beside}).")
    for arm, summary in run.plain_summaries.items():
        if summary["routes"]["draft"] and not has_fault(summary):
            routes, prefix = summary["routes"], summary["accepted_prefix"]
            text = (
                f": {percent(routes['draft_share'])} of {plural(routes['n'], 'round')} were drafts; "
                f"{prefix['mean_draft']:.1f} of {of_how_many(prefix)} actions accepted per draft"
                f"{_control(run, summary)}."
            )
            lines.append(page.inline(page.code(arm), text))
    return page.paragraphs(lines)


def _control(run: Campaign, summary: Mapping[str, Any]) -> str:
    """Return the control of acceptance: how often the full route agrees with itself."""
    control = run.control
    if not control or control.get("policy") != summary["policy"] or not sum(control["histogram"]):
        return " (control not measured)"
    mean = sum(h * count for h, count in enumerate(control["histogram"])) / sum(control["histogram"])
    of = f"{mean:.1f} of {of_how_many(control)}, n = {control['queries']}"
    return f" (control, full route against itself under other noise: {of})"


def _is_remedy(run: Campaign, summary: Mapping[str, Any]) -> bool:
    """True for a policy of another training than the one most arms use."""
    return bool(summary["policy"] != run.usual_policy)


def _against_clean(run: Campaign, choose: _Choice) -> list[Html]:
    reference = next((arm for arm, s in run.plain_summaries.items() if not has_fault(s)), None)
    lines = []
    for arm, summary in run.plain_summaries.items():
        if choose(summary):
            lines.append(_of_arm(run, arm, summary, _difference(run, arm, reference, "without the fault")))
    return lines


def _against_fault(run: Campaign, choose: _Choice) -> list[Html]:
    """One line per remedy: a guard, or a policy of another training, against the same fault without it."""
    lines = []
    for arm, summary in run.plain_summaries.items():
        if has_fault(summary) and choose(summary):
            control = run.control_of(arm)
            rest = _difference(run, arm, control, "without it")
            lines.append(_of_arm(run, arm, summary, rest, _counters(summary)))
    return lines


def _counters(summary: Mapping[str, Any]) -> str:
    """How many broken frames the guard replaced or declared missing."""
    count = summary["guard"]
    if not count or not count["unhealthy"]:
        return ""
    masked = f", {count['masked']} declared missing" if count["masked"] else ""
    return f"; {count['hits']} of {count['unhealthy']} broken frames replaced{masked}"


def _difference(run: Campaign, arm: str, control: str | None, label: str) -> str | Html:
    compared = paired(run, arm, control) if control and control != arm else None
    if compared is None or control is None:
        return ""
    count = behind(run, control, f"{compared.k_b}/{compared.n}")
    return page.inline("; ", count, f" {label}, {points(compared.difference)} {_ends(compared.interval)}")


def _ends(interval: intervals.Interval) -> str:
    return points_range(interval).removesuffix(f"{NBSP}points")


def _may_be_claimed(run: Campaign) -> Html | None:
    if not run.claims:
        return None
    chapter = claims_chapter.chapter(run)
    by_verdict: dict[str, list[Html]] = {verdict: [] for verdict in claims.VERDICTS}
    for claim in run.claims["claims"]:
        title = claim["title"]
        if not any(letter.isupper() for letter in title.split()[0][1:]):  # WristHealthGuard is a name
            title = title[0].lower() + title[1:]
        name = page.link(claim["id"], f"{chapter}#{claim['id']}") if chapter else claim["id"]
        by_verdict[claim["verdict"]].append(page.inline(f"{title}\u00a0(", name, _settled_by(claim), ")"))
    return page.paragraphs(
        page.inline(page.badge(verdict), " ", Html(", ").join(titles))
        for verdict, titles in by_verdict.items()
        if titles
    )


def _settled_by(claim: Mapping[str, Any]) -> str:
    """The number of episodes that would settle an open claim; its assumptions are in the chapter of the claims."""
    plan, side = claim["settle"], claim["anytime"]
    if not plan:
        return ": by its anytime-valid test" if side and side["rests_on"] == "anytime" else ""
    return (
        f": {plural(plan['n'], plan['unit'])} would settle it" if plan["n"] else ": more episodes would not settle it"
    )
