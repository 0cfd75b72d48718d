"""A page for every episode and a list of an arm's episodes: what stands behind each k/n.

Written from the tables as plain HTML, without a notebook: a hundred pages take a second. Films and contact sheets lie
in or beside them where they were kept. Links are relative, so that the reports' directory can be moved as a whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from flashtrail.base import provenance
from flashtrail.report import chosen_round, layout, page, pairs, timeline
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import (
    DASH,
    plural,
    rate_with_interval,
    run_label,
    three_digits,
    whole,
    without_places,
)
from flashtrail.tables import endings, links, pictures, schemas
from flashtrail.tables.pictures import Sent
from flashtrail.tables.schemas import EPISODE_KEY

FOOTER = "Made by FLASHTrail from the tables of the run."
END_MARKS = {
    "success": "\u25cf",
    "horizon": "\u25cb",
    "perturbation": "\u2715",
    "untold": "\u25cc",
    "infrastructure": "!",
}
_SHORT = {"success": "success", "error": "error", "horizon": "out of time"}


def write_arm(
    out: str | Path,
    files: Mapping[str, str | Path],
    sheets: Iterable[str | Path] = (),
    report: str = "../../final.html",
    index: str | None = f"../{links.INDEX}",
) -> int:
    """Write an arm's pages, list and films as the directory `out`, whole or not at all; return how many episodes.

    `files` are its merged tables by name; `sheets` its contact sheets, beside which films lie as its episodes say.
    `report` is where the link to the report goes, seen from `out`, `index` that to the index of all arms (None: it
    does not have this one).
    """
    frames = {name: schemas.read_table(files[name], schema).to_pandas() for name, schema in schemas.SCHEMAS.items()}
    episodes = frames["episodes"].sort_values(list(EPISODE_KEY), kind="stable", ignore_index=True)
    episodes["kind"] = endings.kinds(episodes, frames["rounds"])
    shards = [Path(path) for path in sheets]
    pictures = _by_episode(schemas.read_tables(shards, schemas.SHEETS).to_pandas())
    rounds = {key: _records(part) for key, part in _by_episode(_ordered(frames["rounds"], "round")).items()}
    steps = _by_episode(_ordered(frames["steps"], "step"))
    about = schemas.read_metadata(files["episodes"])
    up = Upwards(report, bool(about.get("simulated")), index, about.get("imported", ""), schemas.longest_prefix(about))
    up = replace(up, drafts=bool(frames["rounds"]["route"].eq("draft").any()))
    rows = episodes.to_dict("records")
    with provenance.write_atomic(out) as directory:
        directory.mkdir()
        for before, row, after in zip([None, *rows[:-1]], rows, [*rows[1:], None], strict=True):
            row["film"], row["sent"] = _film(row, shards, directory)
            parts = (rounds.get(_key(row), []), steps.get(_key(row)), pictures.get(_key(row)))
            text = episode(row, *parts, up, before, after)
            title = f"FLASHTrail: {schemas.episode_id(row)}"
            _write(directory / links.file_name(row), layout.document(title, text, FOOTER, True, parts=("episode",)))
        text = arm_list(rows, frames["rounds"], up)
        title = f"FLASHTrail: episodes of {rows[0]['arm']}" if rows else "FLASHTrail: no episode"
        _write(directory / links.INDEX, layout.document(title, text, FOOTER))
    return len(rows)


@dataclass(frozen=True)
class Upwards:
    """Where links upwards go, seen from an arm's directory; whether the pages must warn of simulated rows; of what the
    rows are an import (empty: they are this run's own); the longest prefix that the policy could accept; whether it
    drafts at all: one that never did has no word of routes."""

    report: str
    simulated: bool = False
    index: str | None = f"../{links.INDEX}"
    imported: str = ""
    longest: int = schemas.EXEC_STEPS
    drafts: bool = True


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


_Key = tuple[Any, ...]


def _key(row: Mapping[str, Any]) -> _Key:
    return tuple(row[name] for name in EPISODE_KEY)


def _by_episode(frame: pd.DataFrame) -> dict[_Key, pd.DataFrame]:
    return {key: part for key, part in frame.groupby(list(EPISODE_KEY), sort=False)}


def _ordered(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    return frame.sort_values([*EPISODE_KEY, by], kind="stable")


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows with None in empty cells, whole numbers as such."""
    return pa.Table.from_pandas(frame, schemas.imported(schemas.ROUNDS), preserve_index=False).to_pylist()


def _film(row: Mapping[str, Any], sheets: Sequence[Path], directory: Path) -> tuple[str | None, Sent | None]:
    """Copy an episode's film below `directory`; return its place there and what lies beside it, None where not kept."""
    if not isinstance(row["video"], str):
        return None, None
    for sheet in sheets:
        source = sheet.parent / row["video"]
        if sheet.parent.name == f"task_{row['task_id']}" and source.is_file():
            target = directory / "videos" / f"{links.stem(row)}{source.suffix}"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
            sent = source.with_suffix(pictures.SENT)
            return f"videos/{target.name}", pictures.read_sent(sent) if sent.is_file() else None
    return None, None


# --- one episode ---


def episode(
    row: Mapping[str, Any],
    rounds: Sequence[Mapping[str, Any]],
    steps: pd.DataFrame | None,
    sheet: pd.DataFrame | None,
    up: Upwards,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> Html:
    """Return the page of one episode: how it ended, its rounds over its steps, film, contact sheet, rounds as rows."""
    ways = {"Report": up.report, "All episodes of this arm": f"{links.INDEX}#{links.task_anchor(row['task_id'])}"}
    ways |= {"This start in every arm": f"{up.index}#{links.start_anchor(row)}"} if up.index else {}
    near = {name: links.file_name(other) for name, other in (("Previous", before), ("Next", after)) if other}
    home = {"All episodes": f"{up.index}#{links.chosen(arm=row['arm'])}"} if up.index else {}
    pages = page.inline(_links(ways), " ", _links(home, "home"), " ", _links(near, "near"))
    name = f"{row['arm']}: task {row['task_id']}, initial state {row['init_state']}, repeat {row['repeat']}"
    parts: list[Html | None] = [
        page.header(name, f"{row['task']}; {row['policy']} on {row['suite']}", pages, up.simulated, up.imported),
        _facts(row, rounds, up, _untold(row, rounds, _frame(steps)) if up.imported else ""),
    ]
    chosen = chosen_round.section(row.get("film"), sheet, rounds, _frame(steps), _length(row, rounds), row.get("sent"))
    parts += [page.heading("What the policy saw, and what it did"), *chosen]
    if rounds:
        drawn = timeline.draw(rounds, _frame(steps), _length(row, rounds), _SHORT[row["outcome"]], up.longest)
        parts += [page.heading("Rounds and steps"), drawn]
    parts.append(_sheet(row, sheet))
    if rounds:
        parts += [page.heading("Every round"), _rounds_table(rounds, up.drafts)]
    return page.join(*parts)


def _links(targets: Mapping[str, str], mark: str = "") -> Html:
    """Links beside each other; `mark`: what static/episode.js knows them by."""
    data = f" data-{mark}" if mark else ""
    made = Html('<a href="{}"{}>{}</a>')
    return Html(" ").join(made.format(target, Html(data), text) for text, target in targets.items())


def _frame(rows: pd.DataFrame | None) -> pd.DataFrame:
    return schemas.STEPS.empty_table().to_pandas() if rows is None else rows


def _length(row: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> int:
    """Return an episode's steps; where its record does not say them, the actions that its rounds executed."""
    recorded = _given(row["steps"])
    return sum(entry["executed"] for entry in rounds) if recorded is None else int(recorded)


# what an episode's page would show, and where it stands: in its row, its rounds or its steps
_HOLES = {
    "row": {"started_at": "start", "wall_s": "wall time", "video": "film", "verified_success": "verified success"}
    | {"steps": "steps", "rounds": "rounds"},
    "rounds": {
        "env_step": "steps at which rounds began",
        "condition_applied": "whether a condition was applied",
        "radius": "radius of drafts",
        "policy_ms": "policy time",
        "synchronized": "whether the device was synchronised",
        "batch_size": "whether rounds shared a pass",
        "noise_seed": "noise seeds",
    },
    "steps": {"eef_pos": "height of the gripper"},
}


def _untold(row: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], steps: pd.DataFrame) -> str:
    """Return what the record of an imported episode does not say, in words."""
    names = [name for key, name in _HOLES["row"].items() if _given(row.get(key)) is None]
    names += [name for key, name in _HOLES["rounds"].items() if rounds and all(entry[key] is None for entry in rounds)]
    names += [name for key, name in _HOLES["steps"].items() if steps[key].isna().all()]
    return ", ".join(names)


def _facts(row: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], up: Upwards, untold: str = "") -> Html:
    verified = _given(row.get("verified_success"))
    facts: dict[str, Any] = {
        "End": page.inline(
            page.bold(f"{end(row['kind'])}{_after(row)}"),
            f"; {without_places(row['error'])}" if _given(row["error"]) else "",
        ),
        "Verified": None if verified is None else _verified_words(verified, row),
        "Rounds": _rounds_words(row, up),
        "Fault": _fault_words(rounds),
        "Guard": _guard_words(rounds),
        "Seed": str(row["seed"]),
        "Run": _run_words(row),
        "Name": page.code(schemas.episode_id(row)),
        "Not recorded": untold or None,
    }
    return page.facts(facts)


def _after(row: Mapping[str, Any]) -> str:
    return "" if _given(row["steps"]) is None else f", after {plural(int(row['steps']), 'step')}"


def _verified_words(verified: bool, row: Mapping[str, Any]) -> str:
    missing = _given(row.get("verified_reason"))
    seen = "the behaviour that the task implies was seen" if verified else "no"
    return f"{seen}: {missing}" if missing else seen


def _given(value: Any) -> Any:
    return None if value is None or (isinstance(value, float) and pd.isna(value)) else value


def _rounds_words(row: Mapping[str, Any], up: Upwards) -> str | None:
    if _given(row["rounds"]) is None:
        return None
    if not up.drafts:
        return whole(row["rounds"])
    text = f"{whole(row['rounds'])}: {whole(row['full_rounds'])} full, {whole(row['draft_rounds'])} draft"
    mean = _given(row["accepted_prefix_mean"])
    return text if mean is None else f"{text}; {mean:.1f} of {up.longest} actions of a draft accepted on average"


def _fault_words(rounds: Sequence[Mapping[str, Any]]) -> str | None:
    if all(row["condition_applied"] is None for row in rounds):  # true without rounds as well
        return None
    hit = sum(bool(row["condition_applied"]) for row in rounds)
    return f"the condition touched {hit} of {plural(len(rounds), 'round')}" if hit else "none applied"


def _guard_words(rounds: Sequence[Mapping[str, Any]]) -> str | None:
    did = [timeline.guard_word(row) for row in rounds]
    counts = {word: did.count(word) for word in timeline.GUARD_WORDS if word in did}
    return ", ".join(f"{word} {count}" for word, count in counts.items()) + f" of {len(did)}" if counts else None


def _run_words(row: Mapping[str, Any]) -> Html:
    started = f"; started {str(row['started_at'])[:19].replace('T', ' ')} UTC" if _given(row["started_at"]) else ""
    wall = f"; {three_digits(row['wall_s'])} s by the wall clock" if _given(row["wall_s"]) is not None else ""
    return page.inline(page.code(run_label(row["run_id"])), f"{started}{wall}")


def _sheet(row: Mapping[str, Any], sheet: pd.DataFrame | None) -> Html | None:
    if sheet is not None:
        caption = (
            "Agent view and wrist view of up to twelve rounds, first and last among them, after condition and guard. "
            "Orange: hit by the condition, or missed by the guard; green: replaced or declared missing."
        )
        return page.picture(bytes(sheet.iloc[0]["jpeg"]), "Contact sheet of the episode", caption)
    return None if row.get("film") else page.paragraph("No film of this episode.", "note")


_ROUND_HEADS = {
    "round": "Round",
    "env_step": "Step",
    "route": "Route",
    "fallback_cause": "Why full",
    "accepted_prefix": "Accepted",
    "executed": "Executed",
    "radius": "Radius",
    "policy_ms": "Policy (ms)",
    "roundtrip_ms": "Round trip (ms)",
    "fault": "Condition",
    "guard": "Guard",
    "cache_age": "Cache age",
    "waited_steps": "Waited (steps)",
    "stale_dropped": "Dropped",
}
_DIGITS = {"radius": "{:.3f}", "policy_ms": "{:.1f}", "roundtrip_ms": "{:.1f}"}
_WORDS = ("route", "fallback_cause", "fault", "guard")
_OF_DRAFTS = ("route", "fallback_cause", "accepted_prefix", "radius")


def _rounds_table(rounds: Sequence[Mapping[str, Any]], drafts: bool) -> Html:
    """Every round in one row; columns that are empty throughout are left out, and without `drafts` those about them."""
    shown = [
        {**row, "fault": "applied" if row["condition_applied"] else None, "guard": timeline.guard_word(row)}
        for row in rounds
    ]
    told = {name: head for name, head in _ROUND_HEADS.items() if drafts or name not in _OF_DRAFTS}
    heads = {name: head for name, head in told.items() if any(row[name] is not None for row in shown)}
    rows = [{name: _cell(name, row[name]) for name in heads} for row in shown]
    return page.table(
        rows, heads, [n for n in heads if n not in _WORDS], plural(len(rows), "round"), anchor="every-round"
    )


def _cell(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if name in _WORDS:
        return str(value).replace("_", " ")
    return _DIGITS.get(name, "{:.0f}").format(value)


# --- an arm's list ---


_ACCEPTED = (
    "Accepted: actions of a draft within a radius of the full model\u2019s estimate. The report gives the control: how "
    "often the full route is that near to itself under other noise."
)


def arm_list(rows: Sequence[Mapping[str, Any]], rounds: pd.DataFrame, up: Upwards) -> Html:
    """Return the list of an arm's episodes: by how they ended, then task by task."""
    if not rows:
        return page.paragraph("This arm has no episode.", "note")
    first = rows[0]
    ways = {"Report": up.report} | ({"Every start in every arm": up.index} if up.index else {})
    ways |= {"In pictures": f"{up.index}#{links.chosen(arm=first['arm'])}"} if up.index else {}
    judged = [row for row in rows if row["kind"] != "infrastructure"]  # endings.judged
    won = intervals.rate(sum(row["kind"] == "success" for row in judged), len(judged))
    count, _, rest = rate_with_interval(won).partition(" ")
    anchor = "success" if won.k else links.task_anchor(first["task_id"])
    line = page.inline(
        f"{first['policy']} on {first['suite']}: success in ",
        page.link(count, f"#{anchor}"),
        f" {rest}{_verified(judged)}",
    )
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in endings.KINDS}
    ends = page.inline(*(_of_kind(kind, of_kind) for kind, of_kind in by_kind.items() if of_kind))
    medians = _medians(rounds)
    tasks = {(row["suite"], row["task_id"]): row["task"] for row in rows}
    parts: list[Html | None] = [
        page.header(f"Episodes of {first['arm']}", line, _links(ways), up.simulated, up.imported),
        Html('<dl class="facts">{}</dl>').format(ends),
        page.paragraph(_ACCEPTED, "note") if up.drafts else None,
    ]
    for (suite, task), prompt in tasks.items():
        part = [row for row in rows if (row["suite"], row["task_id"]) == (suite, task)]
        parts.append(page.heading(f"Task {task}: {prompt}", anchor=links.task_anchor(task)))
        parts.append(_task_table(part, medians, up.drafts))
    return page.join(*parts)


def _verified(judged: Sequence[Mapping[str, Any]]) -> str:
    """``, verified in 51``, where every episode says whether it was and one success was not."""
    seen = [_given(row["verified_success"]) for row in judged]
    k = sum(value is True or value == 1 for value in seen)
    differs = None not in seen and k != sum(row["kind"] == "success" for row in judged)
    return f", verified in {k}" if differs else ""


def _of_kind(kind: str, rows: Sequence[Mapping[str, Any]]) -> Html:
    """One way to end: an anchor, a count, and a link to each episode."""
    linked = pairs.by_task(rows, lambda row: page.link(pairs.start_name(row), links.file_name(row)))
    return Html('<dt id="{}">{}: {}</dt><dd>{}</dd>').format(kind, end(kind), len(rows), linked)


def end(kind: str) -> str:
    """Return how an episode ended: symbol and words."""
    return f"{END_MARKS[kind]} {endings.KINDS[kind]}"


def _medians(rounds: pd.DataFrame) -> dict[_Key, float]:
    return dict(rounds.groupby(list(EPISODE_KEY))["policy_ms"].median())


def _task_table(rows: Sequence[Mapping[str, Any]], medians: Mapping[_Key, float], drafts: bool) -> Html:
    heads = {"state": "Initial state", "repeat": "Repeat", "end": "End", "steps": "Steps", "rounds": "Rounds"}
    heads |= {"draft": "Drafts", "prefix": "Accepted, drafts"} if drafts else {}
    heads |= {"ms": "Median policy time (ms)", "film": "Film"}
    cells = []
    for row in rows:
        mean, median = _given(row["accepted_prefix_mean"]), _given(medians.get(_key(row)))
        cells.append(
            {
                "state": page.link(f"initial state {row['init_state']}", links.file_name(row)),
                "repeat": row["repeat"],
                "end": end(row["kind"]),
                "steps": whole(row["steps"]),
                "rounds": whole(row["rounds"]),
                "draft": whole(row["draft_rounds"]),
                "prefix": DASH if mean is None else f"{mean:.1f}",
                "ms": DASH if median is None else three_digits(median),
                "film": page.link("film", row["film"]) if row["film"] else None,
            }
        )
    if all(row["repeat"] == 0 for row in rows):
        heads.pop("repeat")
    numeric = ("repeat", "steps", "rounds", "draft", "prefix", "ms")
    return page.table(cells, heads, numeric, plural(len(cells), "episode"), stacked=True)
