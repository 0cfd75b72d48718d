"""A step log as JSON lines, one object a control step, read into episodes, or refused where they cannot be told apart.

Fields: `step`, `action`, `reward`, `img_mean` (may be null) and, where there are any, `episode` and `done`; others are
passed over.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flashtrail.base.errors import UserError
from flashtrail.experiment.suites import SUITES

_LONGEST_LINE = 1 << 20  # bytes
_LIMIT = max(suite.horizon for suite in SUITES.values())  # LIBERO's longest, steps
_LONGEST = 1000  # steps of what may be one episode
_LARGEST = 10**6  # of any number in a row: counts, commands and brightness are far smaller
_REMEDY = "count `step` from 0 in each episode, or give each line its `episode`"


class Row(NamedTuple):
    """One control step: its line in the file, its number, 7 numbers of action, the picture's mean (or NaN), reward."""

    line: int
    step: int
    action: Sequence[float]
    picture: float
    reward: float


@dataclass
class _Reader:
    """The episodes so far; `restarts`: the counter has begun again, `marked`: something else tells them apart."""

    path: Path
    episodes: list[list[Row]]
    named: dict[str, list[Row]]
    last: list[Row] | None = None
    done: bool = False
    restarts: bool = False
    marked: bool = False

    def heading(self) -> None:
        """A line without an action: whatever follows is another episode."""
        self.marked = self.marked or bool(self.episodes)
        self.last = None

    def add(self, row: Row, name: Any, done: bool) -> None:
        """Put a row where it belongs; UserError for one that belongs nowhere."""
        known = self.last
        if name is not None:
            self.marked = True
            known = self.named.get(json.dumps(name))
        if known is not None and self.done and not done and name is None:
            known, self.marked = None, True
        if known is not None and row.step <= known[-1].step:
            self._restart(row, known)
            known = None
        if known is None:
            known = []
            self.episodes.append(known)
        known.append(row)
        if name is not None:
            self.named[json.dumps(name)] = known
        self.last, self.done = known, done

    def _restart(self, row: Row, known: Sequence[Row]) -> None:
        """Take a row for the first of another episode; UserError where it is doubled or out of order."""
        before = known[-1]
        if row.step == before.step:
            raise UserError(
                f"{self.path}:{row.line}: duplicate step {row.step} (line {before.line}): the row is doubled, or "
                "two episodes are mixed; give each line its `episode`"
            )
        if row.step > max(1, self.episodes[0][0].step):
            raise UserError(
                f"{self.path}:{row.line}: step {row.step} comes after step {before.step}: rows are out of order, or "
                f"lines are missing; {_REMEDY}"
            )
        self.restarts = True

    def check(self) -> None:
        """Raise UserError where steps are missing, or one counter seems to go on over several episodes."""
        for rows in self.episodes:
            for before, row in itertools.pairwise(rows):
                if row.step != before.step + 1:
                    raise UserError(
                        f"{self.path}:{row.line}: step {row.step} comes after step {before.step} (line {before.line}): "
                        "lines are missing; log every step"
                    )
        if self.restarts or self.marked:
            return
        for rows in self.episodes:
            if len(rows) > _LONGEST:
                raise UserError(
                    f"{self.path}: {len(rows)} steps in a row, and no episode of LIBERO takes more than {_LIMIT}: "
                    f"`step` seems to be counted over the whole run; {_REMEDY}"
                )
            for before, row in itertools.pairwise(rows):
                if before.reward > 0 >= row.reward:
                    raise UserError(
                        f"{self.path}:{row.line}: step {row.step} goes on after the reward of step {before.step}: "
                        f"`step` seems to be counted over the whole run; {_REMEDY}"
                    )


def read(path: Path) -> list[list[Row]]:
    """Return a file's episodes.

    A new one begins where `step` begins again, after `done`, with another `episode`, or at a line with neither action
    nor `step`.
    UserError, naming file and line, for a line that cannot be read, a row that is doubled, out of order or missing,
    and a counter that goes on from one episode to the next.
    """
    reader = _Reader(path, [], {})
    for line, row in _lines(path):
        if "action" not in row:
            if step := [name for name in ("step", "reward", "img_mean") if name in row]:
                raise UserError(f"{path}:{line}: a line with `{step[0]}` has no `action`: log each step's 7 numbers")
            reader.heading()
        else:
            reader.add(_row(path, line, row), row.get("episode"), row.get("done") is True)
    reader.check()
    return reader.episodes


def _row(path: Path, line: int, row: Mapping[str, Any]) -> Row:
    where, action, picture = f"{path}:{line}", row["action"], row.get("img_mean")
    if not isinstance(action, list) or len(action) != 7 or any(_real(x) is None for x in action):
        raise UserError(f"{where}: action is not a list of 7 numbers")
    command = [_number(where, f"action[{place}]", value) for place, value in enumerate(action)]
    step, reward = (_number(where, name, row.get(name)) for name in ("step", "reward"))
    missing = picture is None or (isinstance(picture, float) and math.isnan(picture))
    mean = math.nan if missing else _number(where, "img_mean", picture)
    if step != int(step):
        raise UserError(f"{where}: step is {row['step']!r}, not a whole number")
    if step < 0:
        raise UserError(f"{where}: step is {int(step)}: steps are counted from 0")
    return Row(line, int(step), command, mean, reward)


def _number(where: str, name: str, value: Any) -> float:
    """Return a number of a control step; UserError for what is not one, not finite or far too large."""
    number = _real(value)
    if number is None:
        raise UserError(f"{where}: {name} is {value!r}, not a number")
    if not math.isfinite(number):
        raise UserError(f"{where}: {name} is not finite")
    if abs(number) > _LARGEST:
        raise UserError(f"{where}: {name} is {number:.7g}, over {_LARGEST:,}: too large for a control step")
    return number


def _real(value: Any) -> float | None:
    """Return a JSON number as float, infinite beyond its range; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as stream:
            number = 0
            while content := stream.readline(_LONGEST_LINE + 1):
                number += 1
                if len(content) > _LONGEST_LINE:
                    raise UserError(f"{path}:{number}: a line of over {_LONGEST_LINE >> 20} MiB is not a control step")
                if content.strip():
                    yield number, _object(path, number, content)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _object(path: Path, number: int, content: bytes) -> dict[str, Any]:
    try:
        text = content.decode("utf-8-sig" if number == 1 else "utf-8")
        row = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{number}: not JSON ({error.msg}, column {error.colno})") from None
    except UnicodeDecodeError:
        packed = "packed with gzip: gunzip it" if content.startswith(b"\x1f\x8b") else "not UTF-8: save it as UTF-8"
        raise UserError(f"{path}:{number}: {packed}") from None
    except RecursionError:
        raise UserError(f"{path}:{number}: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path}:{number}: not a control step ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}:{number}: a {type(row).__name__}, not an object")
    return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate {next(name for name in names if names.count(name) > 1)!r}")
    return row
