"""Success as it comes in, arm by arm: a section of the page of a run under way.

The last episodes, whether success has dropped below what was expected (statistics/decline.py), and what the episodes'
own tables say of limits, hand-overs and latency. The finished tasks of an arm are shown beside it and judge nothing:
another task may be harder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.experiment.outlook import RUN, Shard, State
from flashtrail.report import early, page
from flashtrail.report.page import Html
from flashtrail.statistics import resampling, wording
from flashtrail.statistics.decline import Decline, decline
from flashtrail.tables import schemas

WINDOW = 20  # episodes, of the rolling rate
READ = 100  # episodes of an arm, the newest, whose tables are read
_COUNTS = {"limited_steps": "Steps limited", "stops": "Stops", "interventions": "Hand-overs"}
_HEADS = {
    "arm": "Arm",
    "last": f"Last {WINDOW}",
    "all": "All, at any time",
    "reference": "Reference",
    "dropped": "Has it dropped?",
}
_NOTE = (
    "Whether success has dropped may be looked at after every episode: of arms whose success has not, 5 % at most are "
    "ever said to have dropped. The other intervals are no test."
)
_decline = lru_cache(maxsize=256)(decline)

Find = Callable[[Shard, str, str], "Path | None"]
"""The file of this name of a shard's episode, if it is there."""


@dataclass(frozen=True)
class Expected:
    """What is asked of a run: a success rate by arm (``""``: any), which may fall by `margin`, and a latency budget."""

    rates: Mapping[str, float] = field(default_factory=dict)
    margin: float = 0.1
    budget_ms: float | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Expected:
        """Return that of a command line; UserError for a rate that nothing can fall below."""
        for name, rate in arguments.expect:
            if not arguments.margin < rate <= 1:
                what = f"{name}={rate:g}" if name else f"{rate:g}"
                raise UserError(f"--expect {what} --margin {arguments.margin:g}: give 0 < margin < rate <= 1")
        return cls(dict(arguments.expect), arguments.margin, arguments.budget_ms)


def expectation(text: str) -> tuple[str, float]:
    """Return ``0.9`` or ``ARM=0.9`` as an arm and a rate; a type of argparse."""
    arm, _, rate = text.rpartition("=")
    try:
        return arm, float(rate)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a rate nor ARM=RATE") from None


def declines(states: Mapping[Shard, State], expected: Expected) -> dict[str, Decline]:
    """Return what each arm of which a rate is expected says of a drop."""
    rates = {shard.arm: expected.rates.get(shard.arm, expected.rates.get("")) for shard in states}
    return {
        arm: _decline(tuple(won for *_, won in _played(states, arm)), rate - expected.margin)
        for arm, rate in rates.items()
        if rate is not None
    }


def words(found: Decline) -> str:
    """Return what is known of a drop: ``has dropped: by episode 37, from about 31 on; e = 22 (needs 20)``."""
    begun = f"has dropped: by episode {found.decided_at}, from about {found.begins} on"
    return f"{begun if found.decided_at else 'not shown'}; {wording.e_value(found.e, found.needs)}"


def section(states: Mapping[Shard, State], find: Find, expected: Expected) -> Html | None:
    """Return the table of all arms with an episode; None where it says no more than the counts so far."""
    judged = declines(states, expected)
    arms = {arm: _played(states, arm) for arm in dict.fromkeys(shard.arm for shard in states)}
    rows = []
    for arm, played in arms.items():
        if played:
            newest = [(shard, name) for shard, name, _ in played[-READ:]]
            row = _success(arm, states, [won for *_, won in played], judged.get(arm), expected.margin)
            rows.append(row | _counts(newest, find) | _over(newest, find, expected.budget_ms))
    if all(len(row) == 2 for row in rows) and all(len(played) <= WINDOW for played in arms.values()):
        return None
    heads = _HEADS | _COUNTS | {"over": f"Rounds over {expected.budget_ms or 0:g} ms"}
    unknown = [name for name in expected.rates if name and name not in arms]
    return page.join(
        page.heading("As it comes in"),
        page.paragraph(_NOTE, "note"),
        page.paragraph(f"--expect: the run has no arm {wording.listed(unknown)}", "warning") if unknown else None,
        page.table(rows, {key: text for key, text in heads.items() if any(row.get(key) for row in rows)}),
    )


def _played(states: Mapping[Shard, State], arm: str) -> list[tuple[Shard, str, bool]]:
    """Return the episodes of an arm that were run, and whether each succeeded, in the order in which they ended."""
    played = [
        (state.ended[name].at if name in state.ended else 0.0, (shard, name, outcome == "success"))
        for shard, state in states.items()
        for name, outcome in state.outcomes.items()
        if shard.arm == arm and outcome in RUN
    ]
    return [one for _, one in sorted(played, key=lambda pair: pair[0])]


def _success(
    arm: str, states: Mapping[Shard, State], won: list[bool], judged: Decline | None, margin: float
) -> dict[str, Any]:
    last = won[-WINDOW:]
    row: dict[str, Any] = {"arm": page.code(arm), "last": early.counted(sum(last), len(last))}
    done = [state for shard, state in states.items() if shard.arm == arm and state.n == len(shard.expected)]
    if judged:
        row["all"] = f"{judged.k}/{judged.n} [{wording.percent_range(judged.interval)}]"
        row["reference"] = f"{wording.percent(judged.bar + margin)}, less {wording.percent(margin)}"
        row["dropped"] = page.bold(words(judged)) if judged.decided_at else words(judged)
    elif done:
        counted = early.counted(sum(state.k for state in done), sum(state.n for state in done))
        row["reference"] = f"its finished tasks: {counted}; not judged"
    return row


def _counts(episodes: Sequence[tuple[Shard, str]], find: Find) -> dict[str, str]:
    """Return the share of steps that limits changed, and in how many episodes the other counts are not 0."""
    columns = (*_COUNTS, "steps")
    last = next(_read(episodes[::-1], find, "episodes", columns), None)
    if last is None or all(last[name] == [None] for name in _COUNTS):
        return {}  # an arm without limits and hand-overs: its other episodes need not be opened
    rows, said = list(_read(episodes, find, "episodes", columns)), {}
    for name in _COUNTS:
        pairs = [(row[name][0], row["steps"][0]) for row in rows if row[name][0] is not None]
        if pairs and name == "limited_steps":
            said[name] = _share(pairs, "step")
        elif pairs:
            said[name] = f"in {early.counted(sum(count > 0 for count, _ in pairs), len(pairs))} episodes"
    return said


def _over(episodes: Sequence[tuple[Shard, str]], find: Find, budget_ms: float | None) -> dict[str, str]:
    if budget_ms is None:
        return {}
    took = [row["roundtrip_ms"] for row in _read(episodes, find, "rounds", ("roundtrip_ms",))]
    pairs = [(sum(one > budget_ms for one in ms), len(ms)) for ms in took if ms]
    return {"over": _share(pairs, "round")} if pairs else {}


def _share(pairs: Sequence[tuple[int, int]], unit: str) -> str:
    """``12 of 450 steps [1-6 %]`` of (part, whole) by episode; episodes are resampled."""
    part, whole = np.array(pairs).T
    held = resampling.share_over_episodes(part, whole)
    interval = f" [{wording.percent_range(held)}]" if held else ""
    return f"{part.sum():,} of {wording.plural(int(whole.sum()), unit)}{interval}"


def _read(
    episodes: Sequence[tuple[Shard, str]], find: Find, table: str, columns: tuple[str, ...]
) -> Iterator[dict[str, list[Any]]]:
    for shard, name in episodes:
        if path := find(shard, name, f"{table}.parquet"):
            try:
                yield _columns(path, path.stat().st_mtime_ns, table, columns)
            except (UserError, OSError):
                continue  # replaced at this moment, or no table of ours


@lru_cache(maxsize=2**13)
def _columns(path: Path, written_ns: int, table: str, columns: tuple[str, ...]) -> dict[str, list[Any]]:
    return dict(schemas.read_table(path, schemas.SCHEMAS[table], columns).to_pydict())
