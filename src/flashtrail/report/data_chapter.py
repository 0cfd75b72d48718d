"""The chapter "Data": what the sets of demonstrations hold that the config names, from the records of datasets/survey.

What is to be seen at a glance stands first: what hardly moves, what saturates, which episodes are odd.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flashtrail.claims.campaign import Campaign
from flashtrail.report import data_figures, figures, page, thumbnails
from flashtrail.report.page import Html
from flashtrail.statistics.wording import DASH, integers, listed, percent, plural, without_places
from flashtrail.tables.measurements import written

_MOST_REFUSED = 10  # shown
_UNITS = {"h": 3600, "min": 60, "s": 1}
_MOST_NAMED = 8  # dims of one kind in a sentence


def section(run: Campaign) -> Html:
    """Return every set, in the order of the config; empty without any."""
    return page.join(*(_one(run, name, about) for name, about in run.datasets.items()))


def _one(run: Campaign, name: str, about: Mapping[str, Any]) -> Html:
    drawn = [figures.shown(run, f"data-{kind}/{name}", caption) for kind, caption in CAPTIONS.items()]
    return page.join(
        page.heading(name, 3, f"data-{name}"), words(about), page.side_by_side(*drawn), tables_of(name, about),
        pictures(about, run.dataset_sheets.get(name)),
    )  # fmt: skip


CAPTIONS = {
    "lengths": "Episodes by their length.",
    "actions": "Every action dim over all steps: its smallest to its largest value, the bar of a bound at which it "
    "saturates in orange.",
}


def words(about: Mapping[str, Any]) -> Html:
    """Return the strip of facts, what is odd in a sentence each, and what loaders refuse."""
    each = about["each"]
    seconds = about["steps"] / about["fps"]
    unit, size = next((unit, size) for unit, size in _UNITS.items() if seconds >= 2 * size or size == 1)
    turns, held = [episode["switches"] for episode in each], sum(episode["held_out"] for episode in each)
    facts = {
        "Episodes": f"{about['episodes']:,}",
        "Steps": f"{about['steps']:,}",
        "Duration": f"{seconds / size:.1f} {unit} at {about['fps']:g} Hz",
        "Tasks": str(len(about["tasks"])),
        "Steps without motion": percent(about["static"], 1),
        "Gripper switches per episode": _spread(turns) if about["grippers"] else None,
        "Held out by training": f"{held} of {len(each)}" if held else "none: too few episodes",
    }
    refused, cameras = about["refused"], f"; cameras: {', '.join(about['cameras'])}"
    lines = [page.paragraph(without_places(line)) for line in refused[:_MOST_REFUSED]]
    head = f"What loaders refuse: {plural(len(refused), 'line')}"
    head += f", the first {_MOST_REFUSED}" if len(refused) > _MOST_REFUSED else ""
    return page.join(
        page.paragraph(page.inline(page.code(without_places(about["path"])), cameras), "note"),
        page.strip(facts),
        page.paragraphs(_findings(about)),
        page.details(head, page.join(*lines)) if refused else None,
    )


def _spread(values: Sequence[float]) -> str:
    """``2-7, median 2``."""
    low, high, middle = min(values), max(values), float(np.median(values))
    return f"{low:g}" if low == high else f"{low:g}{DASH}{high:g}, median {middle:g}"


def _findings(about: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence on each kind of odd dim that the set has, and one on its odd episodes."""
    dims = {f"{kind} {dim['name']}": dim for kind in ("state", "action") for dim in about[kind]}
    limits = about["limits"]
    kinds = {
        "Constant": [name for name, dim in dims.items() if dim["note"] == "constant"],
        f"Hardly move (in less than {percent(limits['hardly'])} of the steps)": [
            name for name, dim in dims.items() if dim["note"] == "hardly moves"
        ],
        f"Saturate (at a bound in {percent(limits['saturates'])} of the steps or more)": [
            f"{name} ({data_figures.noted(dim).partition(': ')[2]})" for name, dim in dims.items() if dim["saturates"]
        ],
    }
    for kind, found in kinds.items():
        more = [f"{len(found) - _MOST_NAMED} more"] if len(found) > _MOST_NAMED else []
        if found:
            yield f"{kind}: {listed([*found[:_MOST_NAMED], *more])}."
    if about["odd"]:
        names = {word: about["each"][place] for word, place in about["odd"]}
        said = "; ".join(f"{word}: {one['name']} ({plural(one['steps'], 'step')})" for word, one in names.items())
        yield f"{said[0].upper()}{said[1:]}."


def tables(run: Campaign) -> Html:
    """Return the tables of every set."""
    return page.join(*(tables_of(name, about) for name, about in run.datasets.items()))


def tables_of(name: str, about: Mapping[str, Any]) -> Html:
    """Return a set's tasks, and statistics of every dim."""
    return page.join(_tasks(name, about), _dims(name, about))


def _tasks(name: str, about: Mapping[str, Any]) -> Html:
    rows = []
    for task in about["tasks"]:
        own = [episode for episode in about["each"] if episode["task"] == task]
        steps = [episode["steps"] for episode in own]
        quiet = sum(episode["static"] * episode["steps"] for episode in own) / sum(steps)
        held = integers(episode["number"] for episode in own if episode["held_out"])
        rows.append(
            {
                **{"task": task, "episodes": len(own), "steps": f"{sum(steps):,}", "length": _spread(steps)},
                **{"static": percent(quiet, 1), "held": held or DASH},
            }
        )
    heads = {"task": "Task", "episodes": "Episodes", "steps": "Steps", "length": "Steps per episode"}
    heads |= {"static": "Without motion", "held": "Held out by training, by number"}
    caption = "Tasks; an episode's number is that of its file or, in a LeRobot set, its index"
    return page.table(rows, heads, ("episodes", "steps", "static"), caption, stacked=True, name=f"data-tasks/{name}")


def _dims(name: str, about: Mapping[str, Any]) -> Html:
    limits, ends = about["limits"], ("min", "q01", "mean", "std", "q99", "max")
    rows = [
        {
            "dim": page.inline(f"{kind} ", page.code(dim["name"])),
            **{end: written(dim[end]) for end in ends},
            **{share: percent(dim[share], 1) for share in ("moves", "at_min", "at_max")},
            "note": data_figures.noted(dim),
        }
        for kind in ("state", "action")
        for dim in about[kind]
    ]
    heads = {"dim": "Dim", "min": "Min", "q01": "1 %", "mean": "Mean", "std": "SD", "q99": "99 %", "max": "Max"}
    heads |= {"moves": "Moves", "at_min": "At min", "at_max": "At max", "note": "Note"}
    caption = (
        f"Every dim over all steps. Moves: in this share of the steps it changes by more than "
        f"{percent(limits['still'], 1)} of its range (1 to 99 %); at min, at max: within "
        f"{percent(limits['bound'], 1)} of the whole range"
    )
    numeric = tuple(heads)[1:-1]
    return page.table(rows, heads, numeric, caption, stacked=True, name=f"data-dims/{name}")


def pictures(about: Mapping[str, Any], sheet: bytes | None) -> Html | None:
    """Return first and last pictures of some episodes of each task; None where no sheet is there."""
    cut = thumbnails.cut(sheet, [shown["box"] for shown in about["pictured"]]) if sheet else []
    jpegs = {shown["episode"]: jpeg for shown, jpeg in zip(about["pictured"], cut, strict=False) if jpeg}
    if not jpegs:
        return None
    odd: dict[int, list[str]] = {}
    for word, place in about["odd"]:
        odd.setdefault(place, []).append(word)
    note = f"First picture (left) and last one (right) of {len(jpegs)} of {about['episodes']:,} episodes; "
    parts = [page.paragraph(f"{note}from above: {', '.join(about['cameras'])}.", "note")]
    for task in about["tasks"]:
        own = {place: jpeg for place, jpeg in jpegs.items() if about["each"][place]["task"] == task}
        if own:
            shown = [_picture(about["each"][place], jpeg, odd.get(place, [])) for place, jpeg in sorted(own.items())]
            parts += [page.paragraph(page.bold(task)), page.gallery(shown)]
    return page.join(*parts)


def _picture(episode: Mapping[str, Any], jpeg: bytes, odd: Sequence[str]) -> Html:
    held = ["held out"] if episode["held_out"] else []
    caption = ", ".join([episode["name"], plural(episode["steps"], "step"), *odd, *held])
    return page.picture(jpeg, f"First and last picture of {episode['name']}", caption)
