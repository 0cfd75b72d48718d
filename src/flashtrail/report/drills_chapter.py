"""reports/drills.html, first part: which failures are named, and by which predicate; drills_findings.py has the rest.

Every sentence follows from the diagnosis and the bounds as they were stored; none is written in advance but what each
predicate means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashtrail.claims.campaign import Campaign
from flashtrail.drills.diagnosis import CLEAN, PREFIX
from flashtrail.drills.predicates import LEFT_OVER, NAMES, PREDICATES
from flashtrail.report import cells, drills_figures, page, sheets
from flashtrail.report.count_links import pooled
from flashtrail.report.drills_stored import bounds, count, diagnosis, with_intervals
from flashtrail.report.page import Html
from flashtrail.statistics.wording import DASH, counted, listed, plural
from flashtrail.tables import links

_WORDS = {p.name: p for p in PREDICATES}


# --- the first screen ---


def section(run: Campaign) -> Html:
    """The first screen: what was done on purpose, what is named, what is not, false alarms, how many episodes."""
    diagnosed = diagnosis(run)
    by_word = {word: [n for n, e in diagnosed["verdicts"].items() if e["verdict"] == word] for word in _VERDICTS}
    rows = {
        "What was run": _what_was_run(run, diagnosed),
        "Named": page.paragraphs(_named(run, diagnosed, name) for name in by_word["named"]),
        "Noticed, but not named": page.paragraphs(_noticed(run, diagnosed, name) for name in by_word["noticed"]),
        "Not told from a clean run": page.paragraphs(_unseen(run, diagnosed, name) for name in by_word["unseen"]),
        "False alarms": _alarms_in_short(run, diagnosed),
        "How many episodes": _episodes_needed(diagnosed),
        "On a run of your own": page.inline(
            page.code("flashtrail doctor RUN"), " applies the same predicates; the bounds must be of the same policy."
        ),
    }
    note = (
        "Named: most episodes of the run are diagnosed as this failure, no other run is given its name, and its "
        "episodes are told from clean ones. k/n: episodes in which its own predicate holds. Brackets: 95\u00a0% "
        "intervals (Wilson)."
    )
    counts = [len(by_word[word]) for word in _VERDICTS]
    said = (
        f"Of {plural(sum(counts), 'silent failure')} made on purpose, {counts[0]} are named by a log of actions alone, "
        f"{counts[1]} noticed without a name, {counts[2]} not told from a clean run."
    )
    return page.join(page.paragraph(said, "said"), page.first_screen(rows, page.paragraph(note, "note")))


_VERDICTS = ("named", "noticed", "unseen")


def finding(run: Campaign, name: str) -> Html:
    """Return what was found of one drill: its verdict as a word, and the sentence behind it."""
    diagnosed = diagnosis(run)
    if name not in diagnosed["verdicts"]:
        return page.inline(page.badge("not_tested"), ": no drill of this run")
    word = diagnosed["verdicts"][name]["verdict"]
    say = {"named": _named, "noticed": _noticed, "unseen": _unseen}[word]
    shown = {"unseen": "not told from a clean run"}.get(word, word)
    return page.inline(page.bold(shown), ". ", say(run, diagnosed, name))


def _what_was_run(run: Campaign, diagnosed: Mapping[str, Any]) -> str:
    drills = [name for name in diagnosed["episodes"] if name != CLEAN]
    n = sum(len(rows) for rows in diagnosed["episodes"].values())
    reference = bounds(run)
    return (
        f"{plural(len(drills), 'failure')}, each one toggle from the clean run, on the same initial states and seeds: "
        f"{plural(n, 'episode')}. Predicates see actions, the mean of the pictures sent and rewards. Their bounds come "
        f"from {plural(reference['episodes'], 'clean episode')} of other initial states."
    )


def _own(run: Campaign, diagnosed: Mapping[str, Any], name: str) -> Html:
    """``no_flip: 15/15 [80-100 %]``: episodes of the drill in which its own predicate holds."""
    if name not in NAMES:
        return page.inline(page.code(name), ": no predicate of its own")
    rate = cells.rate_of(diagnosed["matrix"][name][name])
    ends = f" [{cells.ends(rate.wilson)}]" if rate.wilson else ""
    return page.inline(page.code(name), ": ", count(run, name, counted(rate)), ends)


def _named(run: Campaign, diagnosed: Mapping[str, Any], name: str) -> Html:
    return page.inline(_own(run, diagnosed, name), ", ", _cost(run, diagnosed, name))


def _noticed(run: Campaign, diagnosed: Mapping[str, Any], name: str) -> Html:
    entry = diagnosed["verdicts"][name]
    called = f"its run is diagnosed as {entry['run_cause']}" if entry["run_cause"] else "its run gets no diagnosis"
    shared = f", as that of {listed(entry['same_name'])}" if entry["same_name"] else ""
    return page.inline(_own(run, diagnosed, name), f"; {called}{shared}, ", _cost(run, diagnosed, name))


def _unseen(run: Campaign, diagnosed: Mapping[str, Any], name: str) -> Html:
    entry = diagnosed["verdicts"][name]
    called = f"; its run is diagnosed as {entry['run_cause']}, but" if entry["run_cause"] else ";"
    sentence = (
        f"{called} no predicate tells its episodes from clean ones after Holm\u2019s correction for all comparisons, "
    )
    return page.inline(_own(run, diagnosed, name), sentence, _cost(run, diagnosed, name))


def _cost(run: Campaign, diagnosed: Mapping[str, Any], name: str) -> Html:
    """What the failure did to success, against the same starts of the clean run."""
    entry, base = diagnosed["success"][name], diagnosed["success"][CLEAN]
    own, clean_run = (f"{e['k']}/{e['n']}" for e in (entry, base))
    return page.inline("rewarded ", count(run, name, own), " (clean ", count(run, CLEAN, clean_run), ")")


def _alarms_in_short(run: Campaign, diagnosed: Mapping[str, Any]) -> Html:
    alarms = diagnosed["false_alarms"]
    bounded, run_cause = alarms["any_bound"], alarms["run"]["cause"]
    rest = alarms["by_predicate"][LEFT_OVER]
    return page.join(
        page.paragraph(
            page.inline(
                "Any bound exceeded in ",
                count(run, CLEAN, f"{bounded['k']}/{bounded['n']}"),
                f" clean episodes: {with_intervals(bounded)}; {LEFT_OVER}, by elimination, in ",
                count(run, CLEAN, f"{rest['k']}/{rest['n']}"),
                ", clean episodes that failed.",
            )
        ),
        page.paragraph(f"Diagnosis of the clean run as a whole: {run_cause or 'none'}."),
    )


def _episodes_needed(diagnosed: Mapping[str, Any]) -> str:
    """The shortest run that is named in 80 % of the draws, failures of one length together."""
    by_length: dict[int, list[str]] = {}
    never = []
    for name, m in diagnosed["enough"].items():
        if name == CLEAN:
            continue
        if m is None:
            never.append(name)
        else:
            by_length.setdefault(m, []).append(name)
    parts = [f"{plural(m, 'episode')} for {listed(by_length[m])}" for m in sorted(by_length)]
    longest = max((e["m"] for rows in diagnosed["power"].values() for e in rows), default=0)
    if never:
        parts.append(f"not with {longest} for {listed(never)}")
    return f"Episodes until 80\u00a0% of runs are diagnosed correctly: {'; '.join(parts)}."


# --- sections ---


def confusion(run: Campaign) -> Html:
    """Predicate x drill: figure, table with intervals and links, and what single episodes are called."""
    diagnosed = diagnosis(run)
    drawing = page.figure(
        drills_figures.confusion(diagnosed["matrix"]),
        "Episodes of each arm in which each predicate holds",
        "Episodes of each arm (rows) in which each predicate (columns) holds, k/n; darker: more. Framed: the "
        "failure\u2019s own predicate. Several may hold in one episode.",
    )
    return page.join(
        page.side_by_side(drawing, _runs(run, diagnosed)), _by_episode(run, diagnosed), _rates(run, diagnosed)
    )


def _runs(run: Campaign, diagnosed: Mapping[str, Any]) -> Html:
    rows = []
    for name, entry in diagnosed["runs"].items():
        also = [n for n in entry["firing"] if n != entry["cause"]]
        verdict = diagnosed["verdicts"].get(name, {}).get("verdict", DASH)
        rows.append(
            {
                "arm": page.code(name),
                "cause": page.code(entry["cause"]) if entry["cause"] else "nothing",
                "also": listed(also) if also else None,
                "verdict": verdict,
            }
        )
    heads = {"arm": "Run of", "cause": "Diagnosis", "also": "Also holds in most episodes", "verdict": "Verdict"}
    return page.table(rows, heads, (), "Diagnosis of each whole run", stacked=True)


def _by_episode(run: Campaign, diagnosed: Mapping[str, Any]) -> Html:
    rows = []
    for name, counts in diagnosed["diagnoses"].items():
        n = sum(counts.values())
        causes = [f"{cause} {k}" for cause, k in sorted(counts.items(), key=lambda e: -e[1]) if k]
        right = counts.get(name, 0) if name != CLEAN else counts["none"]
        rows.append({"arm": page.code(name), "right": count(run, name, f"{right}/{n}"), "told": ", ".join(causes)})
    heads = {"arm": "Episodes of", "right": "Diagnosed correctly", "told": "Diagnosed as"}
    return page.table(
        rows, heads, ("right",), "Diagnosis of single episodes (the first predicate that holds)", stacked=True
    )


def _rates(run: Campaign, diagnosed: Mapping[str, Any]) -> Html:
    rows = []
    for name, rates in diagnosed["matrix"].items():
        for predicate, entry in rates.items():
            if entry["k"]:
                rows.append(
                    {
                        "arm": page.code(name),
                        "predicate": page.code(predicate),
                        "count": count(run, name, f"{entry['k']}/{entry['n']}"),
                        "rate": with_intervals(entry),
                        "episodes": _episodes(run, name, diagnosed["episodes"][name], predicate),
                    }
                )
    heads = {"arm": "Arm", "predicate": "Predicate", "count": "k/n", "rate": "Rate [95 %]", "episodes": "Episodes"}
    table = page.table(
        rows, heads, ("count",), "Every cell that is not zero, with the episodes behind it", stacked=True
    )
    return page.details("Rates with intervals, and the episodes behind them", table)


def _episodes(run: Campaign, drill: str, rows: Sequence[Mapping[str, Any]], predicate: str) -> Html:
    """The episodes in which a predicate holds, each a link where it has a page."""
    pages = run.pages.get(PREFIX + drill)
    parts = []
    for row in rows:
        if row["flags"][predicate]:
            key = row["key"]
            text = f"{key['task_id']}/{key['init_state']}" if key else row["start"]
            parts.append(page.link(text, links.episode(pages, key)) if pages and key else page.html(text))
    return Html(", ").join(parts)


def sentences(run: Campaign) -> Html:
    """One sentence for each failure, with how often it was right and wrong."""
    diagnosed = diagnosis(run)
    rows = []
    for name in NAMES:
        predicate = _WORDS[name]
        matrix = diagnosed["matrix"]
        own = matrix[name][name] if name in matrix else None
        others = [rates[name] for arm, rates in matrix.items() if arm not in (name, CLEAN)]
        wrong = {"k": sum(e["k"] for e in others), "n": sum(e["n"] for e in others)}
        rows.append(
            {
                "name": page.code(name),
                "sentence": page.inline(
                    f"If {predicate.sign}, the likely cause is ",
                    page.bold(predicate.cause),
                    f": check {predicate.check}.",
                ),
                "own": count(run, name, f"{own['k']}/{own['n']}") if own else DASH,
                "clean": count(run, CLEAN, f"{matrix[CLEAN][name]['k']}/{matrix[CLEAN][name]['n']}"),
                "wrong": pooled(run, f"{wrong['k']}/{wrong['n']}"),
            }
        )
    heads = {"name": "Predicate", "sentence": "Diagnosis", "own": "Of its own failure", "clean": "Of clean episodes"}
    heads |= {"wrong": "Of other failures"}
    return page.table(rows, heads, ("own", "clean", "wrong"), "Predicates in the order of evaluation", stacked=True)


def films(run: Campaign) -> Html:
    """Contact sheets of the episodes that were filmed, under a heading of their own; nothing where none was."""
    if not len(run.sheets):
        return Html("")
    return page.join(page.heading("What it looks like"), sheets.section(run))
