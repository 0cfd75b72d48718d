"""The one exception that a user is meant to read: a single line that names the thing and the remedy.

Scripts and commands (`commands`) print it as ``error: <line>`` and exit non-zero; anything else that is raised is a bug
and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LONGEST = 2000


class UserError(Exception):
    """An error that the user can fix; ``str()`` is one actionable line.

    What a foreign file or server put into it is data: control characters are written out, and what is longer than a
    screen is cut in the middle.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(str(message).split())
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} [...] {line[-_LONGEST // 2 :]}"
        super().__init__(line)


class SettingError(UserError, ValueError):
    """A setting that cannot be: pydantic gives it the place in the config, elsewhere it is a user's error as it is."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of `known`, or the list of what is known."""
    names = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(name)[:_LONGEST], names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit|Warning|Unavailable)(: |$)")


def cause(text: str) -> str:
    """Return the line of a text that says what went wrong: ``RuntimeError: CUDA error: out of memory``.

    Of a traceback the exception that was raised last (of chained ones: what came of them), without the advice that
    follows it; of other text the first line that begins as an exception does, else the first line. "" of a blank text.
    """
    # Exception groups draw a margin of their own.
    lines = [re.sub(r"^(\s*[|+])+[-+ ]?", "", line).rstrip() for line in text.splitlines()]
    starts = [place for place, line in enumerate(lines) if line.lstrip().endswith(_TRACEBACK)]
    if starts:
        indent = len(lines[starts[-1]]) - len(lines[starts[-1]].lstrip())
        for line in lines[starts[-1] + 1 :]:
            if line.strip() and len(line) - len(line.lstrip()) <= indent:
                return line.strip()
    stripped = [line.strip() for line in lines if line.strip()]
    return next((line for line in stripped if _EXCEPTION.match(line)), stripped[0] if stripped else "")
