"""What the policy saw and did at one round: the film, and the data from which static/episode.js draws a chosen one.

The film holds the pictures as sent, one frame a query; the steps hold what was executed. State, prompt as sent and the
whole chunk returned lie beside a film (`pictures.Sent`), where one was kept. Without scripts the page has the film, the
timeline and the table of rounds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashtrail.report import page, thumbnails, timeline
from flashtrail.report.page import Html
from flashtrail.tables import pictures
from flashtrail.tables.pictures import Sent

_ACTIONS = ("x", "y", "z", "turn x", "turn y", "turn z", "gripper")
_NOTE = (
    "Actions as sent to the simulator: shaded, the accepted prefix; thin, the chunk returned; thick, what was executed."
    " The slider, the arrow keys or a click on the timeline choose the round, and the film jumps there; Escape goes "
    "back to the page of all episodes."
)
_NOT_KEPT = "State, prompt as sent and the rest of the chunk were not kept for this episode."


def section(
    film: str | None,
    sheet: pd.DataFrame | None,
    rounds: Sequence[Mapping[str, Any]],
    steps: pd.DataFrame,
    length: int,
    sent: Sent | None,
) -> list[Html]:
    """Return the film, and what static/episode.js needs to show a round beside it; an empty list without either.

    `film` is where it lies seen from the page, `length` the episode's steps.
    """
    parts = []
    if film:
        poster = (
            thumbnails.frame(bytes(sheet.iloc[0]["jpeg"]), len(rounds), 0, words=True) if sheet is not None else None
        )
        shown = Html(' poster="{}"').format(thumbnails.source(poster)) if poster else Html("")
        video = Html('<video controls preload="none" src="{}"{} aria-label="film of the episode"></video>')
        note = page.inline("One frame a round, four a second. ", page.link("Open the film by itself", film), ".")
        parts.append(Html("<div>{}{}</div>").format(video.format(film, shown), page.paragraph(note, "note film")))
    if rounds:
        said = _NOTE if sent is not None else f"{_NOTE} {_NOT_KEPT}"
        data = json.dumps(_data(rounds, steps, length, sent), separators=(",", ":"), allow_nan=False)
        stored = Html('<script type="application/json" id="rounds">{}</script>').format(
            Html(data.replace("<", "\\u003c").replace("&", "\\u0026"))
        )
        parts.append(Html('<div id="round" class="round" data-note="{}" hidden></div>{}').format(said, stored))
    return [Html('<div class="film-and-round">{}</div>').format(page.join(*parts))] if parts else []


def _data(rounds: Sequence[Mapping[str, Any]], steps: pd.DataFrame, length: int, sent: Sent | None) -> dict[str, Any]:
    """Return what the script draws from: of each round where it stands and what it executed, in steps of its chunk."""
    done: dict[int, list[list[Any]]] = {}
    if len(steps):
        held = steps[steps["offset_in_chunk"].notna()]
        for number, offset, action in zip(held["round"], held["offset_in_chunk"], held["action"], strict=True):
            done.setdefault(int(number), []).append([int(offset), *_short(action)])
    kept = sent if sent is not None and len(sent.prompts) == len(rounds) else None
    entries = []
    for place, row in enumerate(timeline.placed(rounds, length)):
        entry = {"start": row["start"], "end": row["end"], "accepted": row["accepted_prefix"]}
        entry["done"] = done.get(row["round"], [])
        if kept is not None:
            chunk = [_short(action) for action in kept.chunks[place] if not math.isnan(action[0])]
            entry |= {"prompt": kept.prompts[place], "state": _short(kept.states[place], 4), "chunk": chunk}
        entries.append(entry)
    film = {"names": _ACTIONS, "rate": pictures.FRAMES_PER_SECOND, "length": max(length, 1)}
    return film | {"rounds": entries}


def _short(values: Any, digits: int = 3) -> list[float | None]:
    """Return numbers to be drawn; one that JSON does not know as None."""
    rounded = (round(float(value), digits) for value in np.asarray(values, float))
    return [value if math.isfinite(value) else None for value in rounded]
