"""The episodes of a whole run on one page: a grid of pictures by arm, and every start with its end in every arm.

Without scripts the grid is a list of links by arm. static/browser.js adds filters, a paired view of two arms and the
keys; what is chosen stands in the page's fragment (`links.chosen`), so that any link may open it chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

from flashtrail.base import provenance
from flashtrail.claims.campaign import Campaign
from flashtrail.report import arm_words, layout, page, pairs, thumbnails
from flashtrail.report.episode_pages import END_MARKS, FOOTER, end
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import plural, rate_with_interval, whole
from flashtrail.tables import endings, keys, links, schemas
from flashtrail.tables.schemas import EPISODE_KEY, PAIR_KEY

PAGE_BYTES = 1_500_000  # of JPEG; in the page a third more
_COLUMNS = ("task", "policy", "outcome", "steps", "rounds", "seed", *EPISODE_KEY)
_OF_ROUNDS = ("round", "env_step", "route", "accepted_prefix", "executed", "condition_applied", *EPISODE_KEY)
_KEYS = (
    "Keys: arrows move between pictures, Enter opens the episode, Escape comes back from it and, here, clears what is "
    "chosen. What is chosen stands in the address: copy it, or go back."
)


def write_index(
    out: str | Path,
    files: Mapping[str, Sequence[str | Path]],
    arms: Sequence[str],
    report: str = "../final.html",
    sheets: Iterable[str | Path] = (),
) -> None:
    """Write the page of all arms: `files` are their tables of episodes and rounds, `sheets` their contact sheets.

    `files` may have their summaries, which say what an arm is in words. `report` is where the link upwards goes, seen
    from the page.
    """
    episodes = schemas.read_tables(files["episodes"], schemas.EPISODES, _COLUMNS).to_pandas()
    rounds = schemas.read_tables(files["rounds"], schemas.ROUNDS, _OF_ROUNDS).to_pandas()
    episodes = keys.one_text(episodes.assign(kind=endings.kinds(episodes, rounds)))
    metadata = [schemas.read_metadata(path) for path in files["episodes"]]
    imported = "; ".join(dict.fromkeys(entry["imported"] for entry in metadata if entry.get("imported")))
    episodes["start_task"] = _task_of_start(episodes)
    untold = [path for path, about in zip(files["episodes"], metadata, strict=True) if about.get("starts")]
    blind = episodes["arm"].isin(set(schemas.read_tables(untold, schemas.EPISODES, ["arm"])["arm"].to_pylist()))
    episodes["start_task"] = episodes["start_task"].where(~blind, episodes["start_task"] + " in " + episodes["arm"])
    present = [arm for arm in arms if (episodes["arm"] == arm).any()]
    longest = max(map(schemas.longest_prefix, metadata), default=schemas.EXEC_STEPS)
    small = _strips(rounds, longest) | _pictures(episodes, sheets)
    simulated = any(entry.get("simulated") for entry in metadata)
    line = f"{plural(len(episodes), 'episode')} in {plural(len(present), 'arm')}."
    head = page.header("Every episode", line, page.link("Report", report), simulated, imported)
    run = Campaign({"summaries": files.get("summaries", ())})
    called = {arm: arm_words.short(summary, run.usual_policy(summary)) for arm, summary in run.summaries.items()}
    body = page.join(head, *_body(episodes, {arm: called.get(arm, "") for arm in present}, small))
    text = layout.document("FLASHTrail: every episode", body, FOOTER, parts=("browser",))
    with provenance.write_atomic(out) as path:
        path.write_text(text, encoding="utf-8")


def _body(episodes: pd.DataFrame, arms: Mapping[str, str], small: Mapping[tuple[Any, ...], Html]) -> Iterator[Html]:
    """The grid of all episodes, by arm, and every start with its end in every arm; `arms`: what each is, in words."""
    seen = set(episodes["kind"])
    ends = "; ".join(end(kind) for kind in endings.KINDS if kind in seen)
    yield Html('<div id="chosen" class="chosen" hidden></div>')
    grids = [_arm(arm, words, episodes[episodes["arm"] == arm], small) for arm, words in arms.items()]
    note = f"{ends}. A picture is the last that the policy was sent; a strip stands for an episode without one: "
    note += "its rounds over its steps, full ones low, drafts as high as they were accepted."
    yield page.paragraph(note, "note")
    yield Html('<div id="episodes" data-keys="{}">{}</div>').format(_KEYS, page.join(*grids))
    yield page.heading("Every start in every arm", anchor="starts")
    yield page.paragraph("A row is one start, paired across arms; the number is the steps to its end.", "note")
    for (_, task), part in episodes.groupby(["suite", "task_id"], sort=True):
        yield page.heading(f"Task {task}: {part['task'].iloc[0]}", 3, anchor=links.task_anchor(task))
        yield _starts(part, list(arms))


def _task_of_start(episodes: pd.DataFrame) -> pd.Series:
    """Return the task by which `keys.pairs` pairs: its text, with its number where an arm has one under several."""
    numbers = episodes.groupby(["arm", "suite", "task"])["task_id"].nunique().groupby(["suite", "task"]).max()
    several = pd.MultiIndex.from_frame(episodes[["suite", "task"]]).isin(numbers[numbers > 1].index)
    return episodes["task"].where(~several, episodes["task"] + " " + episodes["task_id"].astype(str))


# --- the grid ---


def _arm(arm: str, words: str, episodes: pd.DataFrame, small: Mapping[tuple[Any, ...], Html]) -> Html:
    """One arm's pictures below its key, what it is in words, and its success, in the order of their starts."""
    won = intervals.rate(int((episodes["kind"] == "success").sum()), len(endings.judged(episodes)))
    count, _, rest = rate_with_interval(won).partition(" ")
    linked = page.link(count, f"{links.directory(arm)}/{links.INDEX}#{'success' if won.k else ''}")
    ordered = episodes.sort_values(list(EPISODE_KEY), kind="stable").to_dict("records")
    cards = Html("").join(_card(row, small) for row in ordered)
    line = page.paragraph(page.inline("Success in ", linked, f" {rest}"), "note")
    named = Html(" <small>{}</small>").format(words) if words else ""
    head = page.join(page.heading(page.inline(page.code(arm), named)), line)
    section = '<section class="episodes" data-arm="{}" data-name="{}">{}<ul class="grid">{}</ul></section>'
    return Html(section).format(arm, words, head, cards)


def _card(row: Mapping[str, Any], small: Mapping[tuple[Any, ...], Html]) -> Html:
    """An episode: picture, outcome as symbol and word, task, initial state, steps; what filters ask for as data."""
    start = "|".join(str(row[name]) for name in ("suite", "start_task", "init_state", "repeat", "seed"))
    card = (
        '<li data-arm="{arm}" data-task="{task}" data-end="{kind}" data-won="{won}" data-start="{start}" '
        'data-words="{words}"><a href="{target}">{picture}<span class="end {kind}">{end}</span> '
        '<span class="what">task {task}, initial state {state}{steps}</span></a></li>'
    )
    return Html(card).format(
        arm=row["arm"],
        task=row["task_id"],
        kind=row["kind"],
        won={"success": 1, "infrastructure": ""}.get(row["kind"], 0),
        start=start,
        words=f"{row['task']} {row['policy']} {row['suite']}",
        target=f"{links.directory(row['arm'])}/{links.file_name(row)}",
        picture=small.get(tuple(row[name] for name in EPISODE_KEY), ""),
        end=end(row["kind"]),
        state=pairs.start_name(row),
        steps="" if pd.isna(row["steps"]) else f", {plural(int(row['steps']), 'step')}",
    )


def _pictures(episodes: pd.DataFrame, sheets: Iterable[str | Path]) -> dict[tuple[Any, ...], Html]:
    """Return the last picture of each episode that has a contact sheet, within PAGE_BYTES, file by file."""
    rounds = {tuple(row[name] for name in EPISODE_KEY): row["rounds"] for row in episodes.to_dict("records")}
    found: dict[tuple[Any, ...], Html] = {}
    left = PAGE_BYTES
    for path in sheets:  # one at a time: a sheet is twenty times its last picture
        for row in schemas.read_table(path, schemas.SHEETS).to_pylist():
            key = tuple(row[name] for name in EPISODE_KEY)
            jpeg = thumbnails.frame(row["jpeg"], rounds[key], -1) if key in rounds else None
            if jpeg is not None and len(jpeg) <= left:
                left -= len(jpeg)
                picture = Html('<img src="{}" alt="" width="224" height="112" loading="lazy">')
                found[key] = picture.format(thumbnails.source(jpeg))
    return found


def _strips(rounds: pd.DataFrame, longest: int) -> dict[tuple[Any, ...], Html]:
    """Return, for each episode, its rounds as a picture: full ones and drafts, each as wide as what it executed."""
    found = {}
    for key, part in rounds.sort_values([*EPISODE_KEY, "round"], kind="stable").groupby(list(EPISODE_KEY), sort=False):
        done = part["executed"].tolist()
        total = max(sum(done), 1)
        starts = [0, *accumulate(done)]
        paths = {"full": "", "draft": ""}
        for at, width, route, prefix in zip(starts, done, part["route"], part["accepted_prefix"], strict=False):
            high = 10 if route == "full" else 30 * prefix / longest
            paths[route] += f"M{at} 80v{-high:.0f}h{width}v{high:.0f}z" if width and high else ""
        drawn = Html("").join(Html('<path class="{}" d="{}"/>').format(*item) for item in paths.items())
        strip = '<svg class="strip" viewBox="0 0 {} 80" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
        found[key] = Html(strip).format(total, drawn)
    return found


# --- every start ---


def _starts(episodes: pd.DataFrame, arms: Sequence[str]) -> Html:
    rows = []
    for _, part in episodes.groupby(list(PAIR_KEY), sort=True):
        by_arm = {row["arm"]: row for row in part.to_dict("records")}
        first = next(iter(by_arm.values()))
        cells = {arm: _end_link(by_arm[arm]) if arm in by_arm else None for arm in arms}
        start = Html('<span id="{}">{}</span>').format(links.start_anchor(first), pairs.start_name(first))
        rows.append({"start": start, **cells})
    heads = {"start": "Initial state", **{arm: arm for arm in arms}}
    return page.table(rows, heads, caption=plural(len(rows), "start"), stacked=True)


def _end_link(row: Mapping[str, Any]) -> Html:
    text = f"{END_MARKS[row['kind']]} {whole(row['steps'])}"
    title = f"{row['arm']}: {endings.KINDS[row['kind']]} after {whole(row['steps'])} steps"
    target = f"{links.directory(row['arm'])}/{links.file_name(row)}"
    return Html('<a class="{}" href="{}" title="{}">{}</a>').format(row["kind"], target, title, text)
