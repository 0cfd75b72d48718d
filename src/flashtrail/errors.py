"""The one exception that a user is meant to read: a single line that names the thing and the remedy.

Knows nothing of stages. Scripts and the command line print it as ``error: <line>`` and exit non-zero;
anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake or a shortage that the user can mend; ``str()`` is one actionable line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of `known`, or the list of what is known."""
    names = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
