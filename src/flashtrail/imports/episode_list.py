"""Episodes that another program's result file holds, as rows under the official names: what a CSV file of episodes is.

A format's own module turns its file into one of these; typing, keys, duplicates and problems are then those of CSV.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashtrail.base.errors import UserError
from flashtrail.imports.cells import BadRow

_ROUNDED = 1e-4  # rates are written to four digits or more
DEEPEST = "it is nested too deeply"


@dataclass
class EpisodeList:
    """Episodes of one file. Each is a mapping of official names (columns.OFFICIAL) and of others, or what is wrong.

    `kind`: what such files are called; `unsaid`: what their format cannot know, in words; `starts`: whether an
    episode's number tells its initial state, without which it pairs with none. `lines` are the episodes' own, where
    the file has lines; else they are counted. `made_of`: ids of evaluations that it holds, or was made from.
    """

    path: Path
    kind: str
    episodes: Sequence[Mapping[str, Any] | BadRow]
    unsaid: str
    starts: bool = True
    lines: Sequence[int] | None = None
    made_of: frozenset[str] = frozenset()
    note: str = ""

    @property
    def name(self) -> str:
        """Return what a problem's line says before the number."""
        return self.path.name if self.lines is not None else f"{self.path.name}, episode"

    @property
    def header(self) -> list[str]:
        """Return the columns in which an episode has a value."""
        rows = [row for row in self.episodes if isinstance(row, Mapping)]
        return list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))

    def rows(self) -> Iterator[tuple[int, Sequence[Any] | BadRow]]:
        """Yield (line or number from 1, cells as `header` has them) of each episode, or what is wrong with it."""
        header, numbers = self.header, self.lines or range(1, len(self.episodes) + 1)
        for number, row in zip(numbers, self.episodes, strict=True):
            yield number, row if isinstance(row, BadRow) else [row.get(name) for name in header]


def parsed(text: str, where: str) -> Any:
    """Return a JSON text as plain data; UserError with `where` (a path) for one that cannot be read."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}:{error.lineno}: not valid JSON ({error.msg}); was the run cut off?") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
        why = DEEPEST if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{where}: JSON that cannot be read ({why})") from None


def part(value: Any, name: str, kind: type[Any]) -> Any:
    """Return one entry of a JSON object, which must be of a kind; BadRow says which is not."""
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        words: dict[type[Any], str] = {list: "a list", dict: "an object", str: "a text"}
        raise BadRow(f"{name} is {'missing' if found is None else f'a {type(found).__name__}'}, not {words[kind]}")
    return found


def check_count(where: str, said: Any, found: Sequence[Mapping[str, Any] | BadRow]) -> None:
    """Hold a file's own number of episodes against them, as `check_rate`; bad rows are named by themselves."""
    bad = any(isinstance(row, BadRow) for row in found)
    if isinstance(said, int | float) and said != len(found) and not bad:
        told = str(said) if abs(said) < 10**9 else "more"
        raise UserError(f"{where} says {told} episodes, but holds {len(found)}: was the file cut or edited?")


def check_rate(where: str, rate: Any, found: Sequence[Mapping[str, Any] | BadRow], one: int = 1) -> None:
    """Hold a file's own rate against its episodes: UserError, with `where`, for a file that was cut or edited.

    `one`: what the file writes where every episode succeeded, 100 for percent.
    """
    rows = [row for row in found if isinstance(row, Mapping) and row["success"] is not None]
    if isinstance(rate, int | float) and rows and len(rows) == len(found):
        k = sum(row["success"] in (True, 1) for row in rows)
        try:
            rate = rate / one
        except OverflowError:  # JSON has integers that no float holds
            rate = math.inf
        if abs(rate - k / len(rows)) > _ROUNDED:
            said = f"{where} has a success rate of {rate:.4g}, but {k} of its {len(rows)} episodes succeeded"
            raise UserError(f"{said}: was the file cut or edited?")
