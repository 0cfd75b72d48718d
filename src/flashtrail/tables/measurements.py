"""Figures that no episode has: measured of a policy, a network or a data set, each with its interval.

A measurement is one JSON file, results/measured/NAME.json; claims of the test `measured` compare its figures, and the
chapter `measured` shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, TypeAdapter, model_validator

from flashtrail.base import documents, provenance
from flashtrail.base.documents import Section
from flashtrail.base.errors import UserError
from flashtrail.statistics.intervals import Interval
from flashtrail.statistics.wording import MINUS

FORMAT: Literal["flashtrail-measurement"] = "flashtrail-measurement"
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,60}$")]
Words = Annotated[str, Field(pattern=r"^[^\p{Cc}]+$", max_length=2000)]  # one line, which a page can show
_MAX_BYTES = 1 << 20
_ENDS = ("value", "low", "high")


class Figure(Section):
    """One number; its interval is the 95 % one over `n` of `of`, e.g. 12 episodes. None: too few for an interval."""

    name: Name
    title: Words = Field(description="in words, with its unit where it has one")
    value: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None
    n: int = Field(ge=1)
    of: Words = Field(description="what was sampled, in the plural")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"{self.name}: an interval has two ends")
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise ValueError(f"{self.name}: the interval [{self.low:g}, {self.high:g}] is turned round")
        return self

    def said(self, beside: float | None = None) -> str:
        """``0.41 [0.35, 0.48]``, each number written `beside` a bound."""
        return f"{written(self.value, beside)} {self.interval(beside)}".strip()

    def interval(self, beside: float | None = None) -> str:
        """``[0.35, 0.48]``, its ends written `beside` a bound; empty where there is none."""
        ends = [written(end, beside) for end in (self.low, self.high) if end is not None]
        return f"[{', '.join(ends)}]" if ends else ""


_NOTHING = 1e-15  # an end of a rate that is 0 but for rounding


def figure(
    name: str, title: str, value: float, interval: Interval | None, n: int, of: str, root: bool = False
) -> Figure:
    """Return a figure with its interval, where there is one; `root`: the square roots of value and ends."""
    ends = (value, None, None) if interval is None else (value, interval.low, interval.high)
    rounded = (None if end is None else 0.0 if abs(end) < _NOTHING else float(end) for end in ends)
    taken = (None if end is None else end ** (0.5 if root else 1.0) for end in rounded)
    about = {"name": name, "title": title, "n": n, "of": of}
    return Figure.model_validate(about | dict(zip(_ENDS, taken, strict=True)))


def written(value: float, beside: float | None = None) -> str:
    """Three digits, or whole with thousands apart: 0.0123, 41.2, 12,345.

    `beside` a bound as many more as it takes to see on which side of it the value lies: -0.020015 beside -0.02 is
    -0.02002.
    """
    for digits in range(3, 18):
        text = f"{value:,.{digits - 3}f}" if abs(value) >= 999.5 else f"{value:.{digits}g}"
        shown = float(text.replace(",", ""))
        if beside is None or (shown < beside, shown > beside) == (value < beside, value > beside):
            break
    return text.replace("-", MINUS)


class Measurement(Section):
    """What was measured, how, and its figures, each name once."""

    format: Literal["flashtrail-measurement"] = FORMAT
    title: Words
    method: Words = Field(description="one or two sentences: what was done, what the interval is over")
    figures: list[Figure] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [figure.name for figure in self.figures]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"figure {twice[0]} is there twice")
        return self

    def figure(self, name: str) -> Figure | None:
        """Return the figure of this name."""
        return next((figure for figure in self.figures if figure.name == name), None)


def write(path: Path, title: str, method: str, figures: Sequence[Figure]) -> None:
    """Write one measurement, whole."""
    provenance.json_dump(Measurement(title=title, method=method, figures=list(figures)).model_dump(mode="json"), path)


def read(path: Path) -> Measurement:
    """Read one measurement; UserError in one line where it is none."""
    return documents.typed(TypeAdapter(Measurement), _data(path), f"{path} is no measurement")


def _data(path: Path) -> Any:
    """Return what a file of at most 1 MiB holds: one that a config names may be anything."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no measurement: not a file")
        if path.exists() and path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path} is no measurement: larger than {_MAX_BYTES >> 20} MiB")
        return provenance.json_load(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # such as a whole number of more digits than Python reads
        raise UserError(f"{path} is not valid JSON: {error}") from None
