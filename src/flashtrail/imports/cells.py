"""One cell of a foreign record as a value: a number, a count, a truth value, a text, or BadRow that says why not.

A cell holds what it says: nothing is guessed, cut or rounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

INT32, INT64 = 2**31 - 1, 2**63 - 1  # what the tables' columns hold
_TRUE, _FALSE = ("1", "1.0", "true", "t", "yes", "y", "on"), ("0", "0.0", "false", "f", "no", "n", "off")
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
_SHOWN = 60  # characters of a cell that an error repeats


class BadRow(ValueError):
    """A row that cannot be taken; the text says why."""


class Row(dict[str, Any]):
    """A row under the official names; `called` says what its file calls a column that has another name there."""

    def __init__(self, values: Mapping[str, Any], called: Mapping[str, str]) -> None:
        super().__init__(values)
        self.called = called


def called(row: Mapping[str, Any], name: str) -> str:
    """Return the name under which a column stands in the row's own file."""
    return row.called.get(name, name) if isinstance(row, Row) else name


def _said(row: Mapping[str, Any], name: str) -> str:
    value = repr(row.get(name))
    return f"{called(row, name)} is {value if len(value) <= _SHOWN else f'{value[:_SHOWN]}...'}"


def empty(row: Mapping[str, Any], name: str) -> bool:
    """Return whether a cell is absent or blank."""
    value = row.get(name)
    return value is None or (isinstance(value, str) and not value.strip())


def number(row: Mapping[str, Any], name: str) -> float | None:
    """Return a finite number, or None for an absent, empty or NaN cell; BadRow for anything else."""
    value = row.get(name)
    if value is None or empty(row, name):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadRow(f"{_said(row, name)}, not a number")
    try:
        parsed = float(value)
    except OverflowError:
        parsed = math.inf
    except ValueError:
        hint = ": write a decimal point, not a comma" if _DECIMAL_COMMA.fullmatch(str(value)) else ""
        raise BadRow(f"{_said(row, name)}, not a number{hint}") from None
    if isinstance(value, str) and "_" in value:  # Python's float() takes 1_000
        raise BadRow(f"{_said(row, name)}, not a number")
    if math.isinf(parsed):
        raise BadRow(f"{_said(row, name)}, not finite")
    return None if math.isnan(parsed) else parsed


def needed(row: Mapping[str, Any], name: str) -> float:
    """Return a number that must be there."""
    parsed = number(row, name)
    if parsed is None:
        raise BadRow(f"{called(row, name)} is missing" if empty(row, name) else f"{_said(row, name)}, not a number")
    return parsed


def whole(row: Mapping[str, Any], name: str, most: int = INT32) -> int:
    """Return a whole number from 0 to `most` that must be there."""
    parsed = needed(row, name)
    if parsed != int(parsed) or parsed < 0:
        raise BadRow(f"{_said(row, name)}, not a count")
    value = row[name]
    exact = value if isinstance(value, int) else int(value) if str(value).strip().isdecimal() else int(parsed)
    if exact > most:
        raise BadRow(f"{_said(row, name)}, more than the {most} that the tables hold")
    return exact


def whole_or_none(row: Mapping[str, Any], name: str) -> int | None:
    """Return a count, or None where the cell is empty; a NaN is not empty."""
    return None if empty(row, name) else whole(row, name)


def duration(row: Mapping[str, Any], name: str) -> float:
    """Return a time in ms that must be there and cannot be negative."""
    parsed = needed(row, name)
    if parsed < 0:
        raise BadRow(f"{called(row, name)} is {parsed:g} ms, a negative time")
    return parsed


def flag(row: Mapping[str, Any], name: str) -> bool | None:
    """Return a truth value written as true/false, t/f, yes/no, y/n, on/off or 1/0, in any case; None if empty."""
    if empty(row, name):
        return None
    word = str(row.get(name)).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise BadRow(f"{_said(row, name)}, neither true nor false")


def needed_flag(row: Mapping[str, Any], name: str) -> bool:
    """Return a truth value that must be there."""
    value = flag(row, name)
    if value is None:
        raise BadRow(f"{called(row, name)} is missing")
    return value


def text(row: Mapping[str, Any], name: str) -> str | None:
    """Return a text, or None where it is absent or empty; BadRow for a list, and for one that UTF-8 cannot hold."""
    if empty(row, name):
        return None
    if isinstance(row[name], list | dict):
        raise BadRow(f"{_said(row, name)}, not a text")
    content = str(row[name])
    try:
        content.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{_said(row, name)}, half a character (a lone surrogate)") from None
    return content
