"""The first screen: verdict, what is open, success against latency, cards, films; then the same in words.

Every sentence is made of numbers from the summaries and verdicts; no number is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flashtrail.base import machine
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.summaries import of_how_many
from flashtrail.report import (
    arm_words,
    cards,
    cells,
    claims_chapter,
    films,
    limits_chapter,
    metric_chapter,
    page,
    tradeoff,
    verdict,
)
from flashtrail.report.cells import paired, rate_of
from flashtrail.report.count_links import behind, in_text, pooled
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
    """The first screen: verdict, what is open, success against latency, verdicts as cards, films; then it in words."""
    chapter = claims_chapter.chapter(run)
    parts = [
        _verdict(run),
        _too_few(run),
        page.beside(_drawing(run), cards.section(run, chapter)),
        films.section(run),
        _at_a_glance(run),
        page.details(
            "The run in words: what was run, how well, how fast, what broke, what helped", _in_words(run), printed=False
        ),
    ]
    return page.join(*parts)


def _drawing(run: Campaign) -> Html | None:
    """The figure that the run is about: excursions under limits, else criteria of success, else the trade-off."""
    return limits_chapter.drawing(run) or metric_chapter.drawing(run) or tradeoff.section(run)


def _arms(run: Campaign) -> dict[str, verdict.Arm]:
    several = len({s["policy"] for s in run.summaries.values()}) > 1
    return {
        arm: verdict.Arm(
            arm_words.role(s, run.usual_policy(s)),
            arm_words.fault(s),
            arm_words.remedy(s, run.usual_policy(s)),
            bool(s["routes"]["draft"]),
            s["policy"] if several else "",
        )
        for arm, s in run.summaries.items()
    }


def said(run: Campaign) -> verdict.Said:
    """Return the verdict in one sentence; where no claim says anything of this run, how its arms did."""
    where = "On this machine" if run.whose(None) == "ours" else "In the imported record"
    claims_of_run = (run.claims or {"claims": []})["claims"]
    found = verdict.sentence(claims_of_run, _arms(run), tradeoff.ratio(tradeoff.points(run), run), where)
    return found if found.text else _without_verdicts(run)


def _verdict(run: Campaign) -> Html:
    found = said(run)
    return page.paragraph(_linked(run, found), "said" + " long" * (len(found.text) > _LONG))


def _without_verdicts(run: Campaign) -> verdict.Said:
    if not run.summaries:
        return verdict.Said(_timed(run))
    rates = {arm: s["success"] for arm, s in list(run.plain_summaries.items())[:_NAMED]}
    done = listed([f"{arm} succeeds in {rate['k']}/{rate['n']}" for arm, rate in rates.items()])
    more = len(run.summaries) - len(rates)
    why = "no claim was evaluated" if not run.claims else "no claim that compares arms is decided"
    return verdict.Said(f"{done}{f', {more} more arms below' if more else ''}; {why}.", tuple(rates))


_NAMED, _LONG = 3, 170  # arms named; letters from which on the sentence is set smaller


def _too_few(run: Campaign) -> Html | None:
    """What too few episodes leave open, each with the number that would settle it."""
    open_ = verdict.too_few((run.claims or {"claims": []})["claims"], _arms(run))
    items = Html("").join(Html("<li>{}</li>").format(_linked(run, said)) for said in open_)
    if not open_:
        return None
    note = "Where several claims compare the same two arms, the one that needs the fewest episodes stands here."
    note = note if any(len(said.arms) > 1 for said in open_) else ""
    return Html('<div class="banner" role="note"><p><strong>Undecided</strong> ({}):</p><ul>{}</ul>{}</div>').format(
        plural(len(open_), "question"), items, page.paragraph(note, "note") if note else ""
    )


def _linked(run: Campaign, said: verdict.Said) -> Html:
    return in_text(said.text, [partial(behind, run, arm) for arm in said.arms]) if said.arms else page.html(said.text)


def _at_a_glance(run: Campaign) -> Html:
    """One line: what was run, where, when, how busy the machine was, and the command that repeats it."""
    policies, seeds = ({s[key] for s in run.summaries.values()} for key in ("policy", "seed"))
    episodes = sum(sum(s["outcomes"].values()) for s in run.summaries.values())
    parts: list[Any] = [
        page.inline(pooled(run, plural(episodes, "episode")), f" of {listed(sorted(policies))}") if episodes else "",
        _on_what(run),
        _days(run).removeprefix("; ").removeprefix("run "),
        f"seed {integers(seeds)}" if seeds else "",
        machine.words(run.machine) if len(run.profile) else "",
    ]
    line = Html(" \u00b7 ").join(page.html(part) for part in parts if part)
    again = Html('<span class="repeat">Repeat: <code data-copy>{}</code></span>').format(run.repeat)
    return page.paragraph(page.inline(line, " ", again) if run.repeat else line, "glance")


def _in_words(run: Campaign) -> Html:
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
    }
    return page.first_screen(rows, _note(run))


def _note(run: Campaign) -> Html:
    """How rates and counts are to be read; empty where the first screen has none."""
    if not run.summaries:
        return Html("")
    note = (
        "Brackets: 95\u00a0% intervals, Wilson\u2019s of a rate (exact where a claim about it is decided), "
        "Tango\u2019s of a paired difference. Times are medians; the figure\u2019s are means, since only means of "
        "routes can be mixed."
    )
    if run.pages:
        note += " A count links to its episodes; a paired comparison uses the starts that both arms have."
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
        f" The simulator waits for the policy (clock: paused), except in {plural(len(run.running), 'arm')}, where "
        "it keeps running during a round (clock: running)."
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
        flash = tradeoff.ratio(tradeoff.points(run), run)
        mixed = f"; FLASH mixes both: full rounds take {flash:.1f} times as long as its mean round" if flash else ""
        lines.append(
            f"A draft round by itself takes {milliseconds(measured['draft'].p50.value)}, a full round "
            f"{milliseconds(measured['full'].p50.value)} (medians of policy time, n = {measured['draft'].n} and "
            f"{measured['full'].n}, {how}; {machine.words(run.machine)}): {ratio:.1f} times as long{mixed}."
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
    return bool(summary["policy"] != run.usual_policy(summary))


def _against_clean(run: Campaign, choose: _Choice) -> list[Html]:
    return [
        _of_arm(run, arm, summary, _difference(run, arm, run.without_fault(arm), "without the fault"))
        for arm, summary in run.plain_summaries.items()
        if choose(summary)
    ]


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
