"""An episode drawn over its steps: routes and accepted prefixes, condition, guard, gripper, times.

Each lane is an SVG as wide as the page allows, with its words beside it as text, so that it reads the same on a phone
and on paper. A lane's place and words say what a mark is; colour only repeats it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import accumulate
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from flashtrail.experiment.doubt import CAREFUL, OTHERS
from flashtrail.report.page import Html
from flashtrail.statistics.wording import plural, three_digits

# the page's own colours (palette.py): those of the reader's screen, light or dark
BLUE, GREEN, GREY, INK, ORANGE, PURPLE = (
    f"var(--{name})" for name in ("blue", "green", "grey", "ink", "orange", "purple")
)
HEIGHT = 32.0  # of a lane, in its own units
_TICKS = (5, 10, 20, 50, 100, 200, 500)
Row = Mapping[str, Any]
Span = tuple[float, float, float, float, str]  # start, end, bottom and top (shares of the lane), what it says
Mark = tuple[float, str]  # step, what it says


def draw(rounds: Sequence[Row], steps: pd.DataFrame, length: int, end: str, longest: int) -> Html:
    """Return the lanes of one episode. `rounds` and `steps` are its rows in order, `length` its steps,
    `longest` the longest prefix that could be accepted.

    An empty cell of a round is None.
    """
    placed_rounds = placed(rounds, length)
    total = max(length, 1)
    lanes = [*_routes(placed_rounds, total, longest), *_faults(placed_rounds, total), *_guard(placed_rounds, total)]
    lanes += [*_steps(steps, total), *_times(placed_rounds, total), _axis(total, end)]
    return Html(f'<div class="lanes">{"".join(lanes)}</div>')


def placed(rounds: Sequence[Row], length: int) -> list[dict[str, Any]]:
    """Return rounds with `start` and `end`, in steps: a round lasts until the next one begins.

    Where the record does not say at which step a round was (imported runs), the executed actions place it.
    """
    starts = [row["env_step"] for row in rounds]
    if None in starts:
        starts = [0, *accumulate(row["executed"] for row in rounds)][: len(rounds)]
    ends = [*starts[1:], length]
    return [{**row, "start": a, "end": max(a, b)} for row, a, b in zip(rounds, starts, ends, strict=True)]


def runs(marked: Sequence[bool]) -> list[tuple[int, int]]:
    """Return where stretches of True begin and end (exclusive)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.asarray(marked, bool), [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _routes(rounds: Sequence[Row], total: int, longest: int) -> list[str]:
    full, draft = ([row for row in rounds if row["route"] == route] for route in ("full", "draft"))
    causes = Counter(str(row["fallback_cause"] or "not said").replace("_", " ") for row in full)
    why = ", ".join(f"{count} {cause}" for cause, count in causes.most_common())
    label = f"Full rounds: {len(full)} of {len(rounds)}" + (f" ({why})" if why else "")
    label = label if draft else f"Rounds: {len(rounds)}"
    parts = [_lane(label, [_span(row, 1, _said(row)) for row in full], [], BLUE, total)]
    if draft:
        rejected = [(row["start"], _said(row)) for row in draft if not row["accepted_prefix"]]
        label = f"Draft rounds: {len(draft)}; height: accepted prefix, 0 to {longest}"
        label += f"; black: {plural(len(rejected), 'draft')} rejected whole" if rejected else ""
        spans = [_span(row, row["accepted_prefix"] / longest, _said(row)) for row in draft]
        parts.append(_lane(label, spans, rejected, ORANGE, total))
    return parts


def _said(row: Row) -> str:
    text = f"round {row['round']}, step {row['start']}: {row['route']}"
    return f"{text}, accepted {row['accepted_prefix']}, executed {row['executed']}"


def _faults(rounds: Sequence[Row], total: int) -> list[str]:
    hit = [row for row in rounds if row["condition_applied"]]
    if not hit:
        return []
    label = f"Condition applied: {len(hit)} of {plural(len(rounds), 'round')}"
    spans = [_span(row, 1, f"round {row['round']}: condition applied") for row in hit]
    return [_lane(label, spans, [], ORANGE, total)]


def _guard(rounds: Sequence[Row], total: int) -> list[str]:
    did = [guard_word(row) for row in rounds]
    if set(did) == {None}:
        return []
    parts = []
    for word, (name, colour) in _GUARD_LANES.items():
        part = [row for row, own in zip(rounds, did, strict=True) if own == word]
        if part or word == "replaced":
            label = f"{name}: {len(part)} of {plural(len(rounds), 'round')}"
            spans = [_span(row, 1, f"round {row['round']}: {name.lower()}") for row in part]
            parts.append(_lane(label, spans, [], colour, total))
    return parts


_GUARD_LANES = {
    "replaced": ("Guard replaced the view", GREEN),
    "declared missing": ("Guard declared the view missing", PURPLE),
    "missed": ("Guard found it broken, had nothing", GREY),
}
GUARD_WORDS = ("passed", *_GUARD_LANES)


def guard_word(row: Row) -> str | None:
    """Return what the guard did in a round (one of GUARD_WORDS), or None where there was none."""
    if row["healthy"] is None:
        return None
    helped = "declared missing" if row["masked"] else "replaced" if row["replaced"] else None
    return helped or ("passed" if row["healthy"] else "missed")


def _steps(steps: pd.DataFrame, total: int) -> list[str]:
    if not len(steps):
        return []
    at = steps["step"].to_numpy(float)
    parts = []
    held = steps["offset_in_chunk"].isna() & ~steps["who"].isin(OTHERS)
    columns = (
        ("Gripper closed", steps["gripper_closed"].eq(True), INK),
        ("Held: no action left", held if steps["stale"].notna().any() else None, GREY),
        *((f"Who acts: {who}", steps["who"] == who, BLUE) for who in (*OTHERS, CAREFUL)),
        ("Stale: a newer round was under way", steps["stale"].eq(True), PURPLE),
    )
    for name, marked, colour in columns:
        if marked is None or (name != "Gripper closed" and not marked.any()):
            continue
        stretches = runs(marked.tolist())
        spans = [(at[a], at[b - 1] + 1, 0.0, 1.0, f"steps {at[a]:.0f} to {at[b - 1]:.0f}") for a, b in stretches]
        label = f"{name}: {int(marked.sum())} of {plural(len(steps), 'step')}"
        parts.append(_lane(label, spans, [], colour, total))
    height = np.array([np.nan if p is None else p[2] for p in steps["eef_pos"]], float)
    if np.isfinite(height).sum() > 1:
        label = f"Height of the gripper, {np.nanmin(height):.2f} to {np.nanmax(height):.2f} m"
        parts.append(_curve(label, at, height, total))
    return parts


def _times(rounds: Sequence[Row], total: int) -> list[str]:
    column, name = "policy_ms", "Policy time"
    if all(row[column] is None for row in rounds):
        column, name = "roundtrip_ms", "Round trip"
    timed = [row for row in rounds if row[column] is not None]
    if not timed:
        return []
    times = [row[column] for row in timed]
    label = f"{name} of a round: median {three_digits(median(times))} ms, height up to {three_digits(max(times))} ms"
    strokes = [
        _stroke(row["start"], ms / max(times), INK, f"round {row['round']}: {three_digits(ms)} ms")
        for row, ms in zip(timed, times, strict=True)
    ]
    return [_row(label, "".join(strokes), total)]


# --- lanes as SVG ---


def _span(row: Row, high: float, tooltip: str) -> Span:
    return row["start"], row["end"], 0.0, high, tooltip


def _lane(label: str, spans: Iterable[Span], marks: Iterable[Mark], colour: str, total: int) -> str:
    """A box per span; a round that lasted no step, since its draft was rejected whole, is a stroke."""
    parts = []
    for start, end, low, high, tooltip in spans:
        if high <= low:
            continue
        if end <= start:
            parts.append(_stroke(start, high, colour, tooltip))
            continue
        inset = min(0.12 * (end - start), 0.6)  # neighbours stay apart
        shape = f'x="{start + inset / 2:.2f}" y="{HEIGHT * (1 - high):.1f}" width="{end - start - inset:.2f}"'
        parts.append(f'<rect {shape} height="{HEIGHT * (high - low):.1f}" fill="{colour}">{_title(tooltip)}</rect>')
    parts += [_stroke(at, 1.0, INK, tooltip) for at, tooltip in marks]
    return _row(label, "".join(parts), total)


def _stroke(at: float, share: float, colour: str, tooltip: str) -> str:
    line = f'x1="{at:.2f}" x2="{at:.2f}" y1="{HEIGHT}" y2="{HEIGHT * (1 - share):.1f}" stroke="{colour}"'
    return f'<line {line} stroke-width="2" vector-effect="non-scaling-stroke">{_title(tooltip)}</line>'


def _curve(label: str, at: np.ndarray, values: np.ndarray, total: int) -> str:
    low, high = np.nanmin(values), np.nanmax(values)
    y = HEIGHT * (0.94 - 0.88 * (values - low) / max(high - low, 1e-9))
    points = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(at, y, strict=True) if np.isfinite(b))
    line = f'<polyline points="{points}" fill="none" stroke="{INK}" stroke-width="1.5"'
    return _row(label, f'{line} vector-effect="non-scaling-stroke"/>', total)


def _row(label: str, body: str, total: int) -> str:
    name = escape(label, quote=True)
    view = f'viewBox="0 0 {total} {HEIGHT:.0f}" preserveAspectRatio="none" role="img" aria-label="{name}"'
    return f'<div class="lane"><div>{escape(label)}</div><svg {view}>{body}</svg></div>'


def _title(tooltip: str) -> str:
    return f"<title>{escape(tooltip)}</title>"


def _axis(total: int, end: str) -> str:
    every = next((tick for tick in _TICKS if total / tick <= 5), 1000)
    ticks = [tick for tick in range(0, total, every) if tick <= 0.7 * total]
    places = [(tick, f"{tick}") for tick in ticks] + [(total, f"{total}: {end}")]
    marks = "".join(f'<span style="left:{100 * at / total:.2f}%">{escape(label)}</span>' for at, label in places)
    return f'<div class="lane"><div>Step (20 a second of simulated time)</div><div class="ticks">{marks}</div></div>'
