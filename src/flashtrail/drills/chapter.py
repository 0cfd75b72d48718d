"""reports/drills.html: which failure is named by which predicate, after how many episodes, with what false alarms.

Every sentence follows from the diagnosis and the bounds as they were stored; none is written in advance but what each
predicate means. Knows campaign, page and wording; computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from flashtrail import provenance
from flashtrail.drills import bounds as clean
from flashtrail.drills import drawings
from flashtrail.drills.diagnosis import CLEAN, PREFIX
from flashtrail.drills.predicates import FEATURES, LEFT_OVER, NAMES, PREDICATES
from flashtrail.errors import UserError
from flashtrail.evidence import links, page, sheets, statistics
from flashtrail.evidence.campaign import Campaign
from flashtrail.evidence.overview import behind
from flashtrail.evidence.page import Html
from flashtrail.evidence.statistics import Interval, Rate
from flashtrail.evidence.wording import (
    DASH,
    counted,
    integers,
    listed,
    p_value,
    percent,
    percent_range,
    plural,
    points,
    points_range,
)

_WORDS = {p.name: p for p in PREDICATES}
# What a reader learns most from seeing, first; the rest of FEATURES is in the table of bounds.
_DRAWN = ("picture_step", "longest_hold", "reach", "effort", "seam", "travel")


@lru_cache(maxsize=4)
def _load(path: str) -> dict[str, Any]:
    return {kind: _ordered(value) for kind, value in provenance.json_load(path).items()}


def _ordered(value: Any) -> Any:
    """Return a mapping by arm or predicate with the clean run first and the others as they are asked."""
    if not isinstance(value, dict):
        return value
    order = [name for name in (CLEAN, *NAMES) if name in value]
    return {name: _ordered(value[name]) for name in (*order, *(key for key in value if key not in order))}


def diagnosis(run: Campaign) -> dict[str, Any]:
    """Return the stored diagnosis; UserError where the page was given none."""
    return _file(run, "diagnosis")


def bounds(run: Campaign) -> dict[str, Any]:
    """Return the stored bounds with their origin and guarantee."""
    return _file(run, "bounds")


def _file(run: Campaign, kind: str) -> dict[str, Any]:
    files = run.files(kind)
    if not files:
        raise UserError(f"the page of drills was given no {kind}: run `make drills`")
    return _load(str(files[0]))


def _rate(entry: Mapping[str, Any]) -> Rate:
    return statistics.rate(entry["k"], entry["n"])


def _count(run: Campaign, drill: str, text: Any, anchor: str = "") -> Any:
    return behind(run, PREFIX + drill, text, anchor)


def _with_intervals(entry: Mapping[str, Any]) -> str:
    """``0 % [Wilson 0-20 %, exact 0-22 %]``."""
    rate = _rate(entry)
    if rate.wilson is None or rate.exact is None:
        return DASH
    return f"{percent(rate.rate)} [Wilson {percent_range(rate.wilson)}, exact {percent_range(rate.exact)}]"


# --- the first screen ---


def header(run: Campaign, title: str) -> Html:
    """Title, what was run, and a warning if anything is simulated."""
    episodes = run.episodes
    policies, tasks = listed(sorted(set(episodes["policy"]))), integers(set(episodes["task_id"]))
    line = f"{policies} on {listed(sorted(set(episodes['suite'])))}, tasks {tasks}"
    parts = [f"<h1>{page.html(title)}</h1>", f'<p class="line note">{page.html(line)}</p>']
    if run.simulated:
        text = "Simulated data: these numbers test the report. They are not evidence about any policy."
        parts.append(f'<p class="warning">{text}</p>')
    index = links.index(run.files("page_index"))
    if index:
        parts.append(f'<nav aria-label="pages">Further: {page.link("every episode", index).text}</nav>')
    return Html(f"<header>{''.join(parts)}</header>")


def section(run: Campaign) -> Html:
    """The first screen: what was done on purpose, what is named, what is not, false alarms, how many episodes."""
    found = diagnosis(run)
    by_word = {word: [n for n, e in found["verdicts"].items() if e["verdict"] == word] for word in _VERDICTS}
    rows = {
        "What was run": _what_was_run(run, found),
        "Named": _each(_named(run, found, name) for name in by_word["named"]),
        "Noticed, but not named": _each(_noticed(run, found, name) for name in by_word["noticed"]),
        "Not told from a clean run": _each(_unseen(run, found, name) for name in by_word["unseen"]),
        "False alarms": _alarms_in_short(run, found),
        "How many episodes": _episodes_needed(found),
        "On a run of your own": page.inline(
            page.code("flashtrail doctor RUN"), " asks the same predicates; the bounds must be of the same policy."
        ),
    }
    note = "Named: a run of this failure is given its name by most of its episodes, and no other run is. "
    note += "k/n: episodes in which its own predicate holds. Brackets: 95\u00a0% intervals (Wilson)."
    facts = page.facts({term: value for term, value in rows.items() if value is not None})
    return Html(f'<div class="first">{facts.text}{page.paragraph(note, "note").text}</div>')


_VERDICTS = ("named", "noticed", "unseen")


def _each(texts: Iterable[Html]) -> Html | None:
    items = list(texts)
    return page.join(*(page.paragraph(text) for text in items)) if items else None


def _what_was_run(run: Campaign, found: Mapping[str, Any]) -> str:
    drills = [name for name in found["episodes"] if name != CLEAN]
    n = sum(len(rows) for rows in found["episodes"].values())
    reference = bounds(run)
    return (
        f"{plural(len(drills), 'failure')}, each one toggle from the clean run, on the same initial states and seeds: "
        f"{plural(n, 'episode')}. Predicates see actions, the mean of the pictures sent and rewards. Their bounds come "
        f"from {plural(reference['episodes'], 'clean episode')} of other initial states."
    )


def _own(run: Campaign, found: Mapping[str, Any], name: str) -> Html:
    """``no_flip: 15/15 [80-100 %]``: episodes of the drill in which its own predicate holds."""
    if name not in NAMES:
        return page.inline(page.code(name), ": no predicate of its own")
    rate = _rate(found["matrix"][name][name])
    ends = f" [{percent_range(rate.wilson)}]" if rate.wilson else ""
    return page.inline(page.code(name), ": ", _count(run, name, counted(rate)), ends)


def _named(run: Campaign, found: Mapping[str, Any], name: str) -> Html:
    return page.inline(_own(run, found, name), ", ", _cost(found, name))


def _noticed(run: Campaign, found: Mapping[str, Any], name: str) -> Html:
    entry = found["verdicts"][name]
    called = f"its run is called {entry['run_cause']}" if entry["run_cause"] else "its run is called nothing"
    shared = f", as that of {listed(entry['same_name'])}" if entry["same_name"] else ""
    return page.inline(_own(run, found, name), f"; {called}{shared}, ", _cost(found, name))


def _unseen(run: Campaign, found: Mapping[str, Any], name: str) -> Html:
    return page.inline(
        _own(run, found, name), "; no predicate tells its episodes from clean ones, ", _cost(found, name)
    )


def _cost(found: Mapping[str, Any], name: str) -> str:
    """What the failure did to success, against the same starts of the clean run."""
    entry, base = found["success"][name], found["success"][CLEAN]
    return f"rewarded {entry['k']}/{entry['n']} (clean {base['k']}/{base['n']})"


def _alarms_in_short(run: Campaign, found: Mapping[str, Any]) -> Html:
    alarms = found["false_alarms"]
    bounded, run_cause = alarms["any_bound"], alarms["run"]["cause"]
    rest = alarms["by_predicate"][LEFT_OVER]
    return page.join(
        page.paragraph(
            page.inline(
                "Any bound exceeded in ",
                _count(run, CLEAN, f"{bounded['k']}/{bounded['n']}"),
                f" clean episodes: {_with_intervals(bounded)}; {LEFT_OVER}, by elimination, in "
                f"{rest['k']}/{rest['n']}, clean episodes that failed.",
            )
        ),
        page.paragraph(f"The clean run as a whole is called {run_cause or 'nothing'}."),
    )


def _episodes_needed(found: Mapping[str, Any]) -> str:
    """The shortest run that is named in 80 % of the draws, failures of one length together."""
    by_length: dict[int, list[str]] = {}
    never = []
    for name, m in found["enough"].items():
        if name == CLEAN:
            continue
        if m is None:
            never.append(name)
        else:
            by_length.setdefault(m, []).append(name)
    parts = [f"{plural(m, 'episode')} for {listed(by_length[m])}" for m in sorted(by_length)]
    longest = max((e["m"] for rows in found["power"].values() for e in rows), default=0)
    if never:
        parts.append(f"not with {longest} for {listed(never)}")
    return f"Until 80\u00a0% of runs are given the right name: {'; '.join(parts)}."


# --- sections ---


def confusion(run: Campaign) -> Html:
    """Predicate x drill: figure, table with intervals and links, and what single episodes are called."""
    found = diagnosis(run)
    drawing = page.figure(
        drawings.confusion(found["matrix"]),
        "Episodes of each arm in which each predicate holds",
        "Episodes of each arm (rows) in which each predicate (columns) holds, k/n; darker: more. Framed: the "
        "failure\u2019s own predicate. Several may hold in one episode.",
    )
    return page.join(page.side_by_side(drawing, _runs(run, found)), _by_episode(run, found), _rates(run, found))


def _runs(run: Campaign, found: Mapping[str, Any]) -> Html:
    rows = []
    for name, entry in found["runs"].items():
        also = [n for n in entry["firing"] if n != entry["cause"]]
        verdict = found["verdicts"].get(name, {}).get("verdict", DASH)
        rows.append(
            {
                "arm": page.code(name),
                "cause": page.code(entry["cause"]) if entry["cause"] else "nothing",
                "also": listed(also) if also else None,
                "verdict": verdict,
            }
        )
    heads = {"arm": "Run of", "cause": "Is called", "also": "Holds in most, too", "verdict": "So it is"}
    return page.table(rows, heads, (), "What the doctor says of each whole run", stacked=True)


def _by_episode(run: Campaign, found: Mapping[str, Any]) -> Html:
    rows = []
    for name, counts in found["diagnoses"].items():
        n = sum(counts.values())
        told = [f"{cause} {k}" for cause, k in sorted(counts.items(), key=lambda e: -e[1]) if k]
        right = counts.get(name, 0) if name != CLEAN else counts["none"]
        rows.append({"arm": page.code(name), "right": _count(run, name, f"{right}/{n}"), "told": ", ".join(told)})
    heads = {"arm": "Episodes of", "right": "Called rightly", "told": "Called"}
    return page.table(
        rows, heads, ("right",), "A single episode, by itself (the first predicate that holds)", stacked=True
    )


def _rates(run: Campaign, found: Mapping[str, Any]) -> Html:
    rows = []
    for name, rates in found["matrix"].items():
        for predicate, entry in rates.items():
            if entry["k"]:
                rows.append(
                    {
                        "arm": page.code(name),
                        "predicate": page.code(predicate),
                        "count": _count(run, name, f"{entry['k']}/{entry['n']}"),
                        "rate": _with_intervals(entry),
                        "episodes": _episodes(run, name, found["episodes"][name], predicate),
                    }
                )
    heads = {"arm": "Arm", "predicate": "Predicate", "count": "k/n", "rate": "Rate [95 %]", "episodes": "Episodes"}
    table = page.table(
        rows, heads, ("count",), "Every cell that is not zero, with the episodes behind it", stacked=True
    )
    return page.details("Rates with intervals, and the episodes behind them", table)


def _episodes(run: Campaign, drill: str, rows: Sequence[Mapping[str, Any]], predicate: str) -> Html:
    """The episodes in which a predicate holds, each a link where it has a page."""
    place = run.pages.get(PREFIX + drill)
    parts = []
    for row in rows:
        if row["flags"][predicate]:
            key = row["key"]
            text = f"{key['task_id']}/{key['init_state']}" if key else row["start"]
            parts.append(page.link(text, links.episode(place, key)).text if place and key else page.html(text))
    return Html(", ".join(parts))


def sentences(run: Campaign) -> Html:
    """One sentence for each failure, with how often it was right and wrong."""
    found = diagnosis(run)
    rows = []
    for name in NAMES:
        predicate = _WORDS[name]
        matrix = found["matrix"]
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
                "own": f"{own['k']}/{own['n']}" if own else DASH,
                "clean": f"{matrix[CLEAN][name]['k']}/{matrix[CLEAN][name]['n']}",
                "wrong": f"{wrong['k']}/{wrong['n']}",
            }
        )
    heads = {"name": "Predicate", "sentence": "Diagnosis", "own": "Of its own failure", "clean": "Of clean episodes"}
    heads |= {"wrong": "Of other failures"}
    return page.table(rows, heads, ("own", "clean", "wrong"), "In the order in which they are asked", stacked=True)


def power(run: Campaign) -> Html:
    """How many episodes a run needs: a panel per failure, and the table behind it."""
    found = diagnosis(run)
    drawing = page.figure(
        drawings.power(found["power"]),
        "Share of runs diagnosed rightly against the number of episodes, a panel for each arm",
        "Runs that are given the right name (of the clean arm: none) by the number of their episodes; bars: 95 %; "
        "dashed: 80 %.",
    )
    note = (
        "Method: a run of m episodes is drawn by drawing a task, each as likely, and then one of its initial states, m "
        "times with replacement from the episodes played; it is called what most of its episodes show, "
        f"{LEFT_OVER} only where it fails more often than the clean reference explains (5 %). Intervals draw each "
        "task\u2019s initial states again first, and are left out where all episodes agree: then a bootstrap sees no "
        "spread. Odd m, since half of an even run is no majority. No draw knows of more initial states than were "
        "played."
    )
    rows = []
    for name, entries in found["power"].items():
        rows.append({"arm": page.code(name), **{f"m{e['m']}": _power_cell(e) for e in entries}})
    lengths = [e["m"] for e in next(iter(found["power"].values()), [])]
    heads = {"arm": "Arm", **{f"m{m}": plural(m, "episode") for m in lengths}}
    table = page.table(rows, heads, tuple(heads)[1:], "Runs given the right name [95 %]", stacked=True)
    return page.join(drawing, table, page.paragraph(note, "note"))


def _power_cell(entry: Mapping[str, Any]) -> str:
    ends = entry["named_interval"]
    between = f" [{percent_range(Interval(ends['low'], ends['high']))}]" if ends else ""
    return f"{percent(entry['named'])}{between}"


def false_alarms(run: Campaign) -> Html:
    """Each predicate on clean episodes that its bounds do not come from, beside what is promised."""
    found = diagnosis(run)["false_alarms"]
    rows = []
    for name, entry in found["by_predicate"].items():
        rate = _rate(entry)
        promised = entry["promised_at_most"]
        rows.append(
            {
                "name": page.code(name),
                "count": _count(run, CLEAN, counted(rate)),
                "rate": percent(rate.rate),
                "wilson": percent_range(rate.wilson) if rate.wilson else DASH,
                "exact": percent_range(rate.exact) if rate.exact else DASH,
                "promised": "no bound of one feature" if promised is None else f"at most {percent(promised, 1)}",
            }
        )
    for name, words in (("any_bound", "any bound"), ("any", "any predicate")):
        rate = _rate(found[name])
        ends = {"wilson": rate.wilson, "exact": rate.exact}
        cells = {key: percent_range(value) if value else DASH for key, value in ends.items()}
        rows.append({"name": words, "count": counted(rate), "rate": percent(rate.rate), **cells, "promised": None})
    heads = {"name": "Predicate", "count": "k/n", "rate": "Rate", "wilson": "Wilson 95 %", "exact": "Exact 95 %"}
    heads |= {"promised": "Promised"}
    numeric = ("count", "rate", "wilson", "exact", "promised")
    return page.table(rows, heads, numeric, "False alarms: clean episodes, not those of the bounds", stacked=True)


def slack(run: Campaign) -> Html:
    """What another slack of the bounds would have made of the same episodes."""
    found, chosen = diagnosis(run)["slack"], bounds(run)["guarantee"]["slack"]
    rows = []
    for entry in found:
        clean_run = entry["clean"]
        named = [name for name, drill in entry["drills"].items() if drill["cause"] == name]
        cells = {name: f"{drill['k']}/{drill['n']}" for name, drill in _ordered(entry["drills"]).items()}
        mark = " (this page)" if entry["slack"] == chosen else ""
        rows.append(
            {"slack": f"{entry['slack']:g}{mark}", "clean": f"{clean_run['k']}/{clean_run['n']}", **cells}
            | {"named": f"{len(named)}/{len(cells)}"}
        )
    drills = list(_ordered(found[0]["drills"])) if found else []
    heads = {"slack": "Slack", "clean": "Clean, any bound", **{name: name for name in drills}, "named": "Runs named"}
    note = (
        "How far a bound lies beyond the clean extremes, as a share of their distance, was chosen before any drill was "
        "run. The same episodes under other choices: what is gained in one column is paid for in another."
    )
    table = page.table(
        rows, heads, tuple(heads)[1:], "Episodes in which a drill\u2019s own predicate holds", stacked=True
    )
    return page.join(page.paragraph(note), table)


def apart(run: Campaign) -> Html:
    """Which arms no predicate tells apart, by computation, and the evidence for those that one does."""
    found = diagnosis(run)
    blurred = [e for e in found["apart"] if not e["apart"]]
    told = len(found["apart"]) - len(blurred)
    words = f"{told} of {plural(len(found['apart']), 'pair')} of arms are told apart by some predicate."
    if blurred:
        words += f" Not told apart: {'; '.join(' from '.join((e['a'], e['b'])) for e in blurred)}."
    rows = [
        {"a": page.code(e["a"]), "b": page.code(e["b"]), "by": page.code(e["predicate"]), "p": p_value(e["p"])}
        for e in found["apart"]
        if e["apart"]
    ]
    note = (
        "Two arms are told apart where some predicate holds at different rates in them: Boschloo\u2019s exact test, p "
        f"values Holm\u2019s over all pairs and predicates, below {found['alpha']:g}. Episodes are taken as "
        "independent; those of one task are alike, so that p values near the limit say less than they seem to."
    )
    heads = {"a": "Arm", "b": "Other arm", "by": "By", "p": "Holm\u2019s p"}
    table = page.table(rows, heads, ("p",), "Pairs that are told apart, by which predicate most surely")
    return page.join(page.paragraph(words), page.paragraph(note, "note"), page.details("The pairs", table))


def cost(run: Campaign) -> Html:
    """What each failure does to success, paired with the clean run."""
    found = diagnosis(run)["success"]
    rows = []
    for name, entry in found.items():
        rate, paired = _rate(entry), entry["paired"]
        row: dict[str, Any] = {"arm": page.code(name), "count": _count(run, name, counted(rate))}
        row |= {"rate": percent(rate.rate), "wilson": percent_range(rate.wilson) if rate.wilson else DASH}
        if paired:
            ends = Interval(paired["interval"]["low"], paired["interval"]["high"])
            between = points_range(ends).removesuffix("\u00a0points")
            row |= {"difference": f"{points(paired['difference'])} {between}", "p": p_value(paired["p"])}
        rows.append(row)
    heads = {"arm": "Arm", "count": "Rewarded", "rate": "Rate", "wilson": "Wilson 95 %"}
    heads |= {"difference": "Against clean [95 %]", "p": "Exact McNemar"}
    return page.table(rows, heads, tuple(heads)[1:], "Success under each failure", stacked=True)


def features(run: Campaign) -> Html:
    """The features themselves, every episode a point."""
    found, stored = diagnosis(run), bounds(run)["bounds"]
    parts = [
        page.figure(
            drawings.feature(name, found["episodes"], stored.get(name)),
            f"{FEATURES[name]}, each episode of each arm a point",
            page.inline(page.code(name), ": filled, rewarded; hollow, not. Shaded: within the clean bounds."),
        )
        for name in _DRAWN
    ]
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
    words = (
        f"Of {plural(n, 'clean episode')} ({stored['rewarded']} rewarded) the least and the largest value, widened by "
        f"{percent(guarantee['slack'])} of their distance on each side. Whatever the distribution, another clean "
        f"episode of the same tasks lies above the largest (or below the least) with probability 1/{n + 1} = "
        f"{percent(clean.beyond(n), 1)}, and beyond the widened bound at most so often; with "
        f"{percent(guarantee['confidence'])} confidence at least {percent(guarantee['content_of_one_side'])} of all "
        "clean episodes lie on the clean side. A run is judged by majority, so that its alarms are rarer still."
    )
    tasks = listed(origin.get("tasks", [])) if origin.get("tasks") else "tasks not recorded"
    where = f"From {listed(origin.get('arms', []))}, {tasks}; digests of its tables are in results/drills/bounds.json."
    numeric = ("least", "largest", "low", "high", "n")
    table = page.table(rows, heads, numeric, "Clean bounds of each feature", stacked=True)
    return page.join(page.paragraph(words), table, page.paragraph(where, "note"))


def films(run: Campaign) -> Html:
    """Contact sheets of the episodes that were filmed, under a heading of their own; nothing where none was."""
    if not len(run.sheets):
        return Html("")
    return page.join(Html("<h2>What it looks like</h2>"), sheets.section(run))
