"""Episodes as JSON lines (``episodes.jsonl``): one object an episode, under a CSV file's column names or mapped ones.

No program's own format: it is what home-made evaluations write. LeRobot's ``meta/episodes.jsonl`` of a data set says no
success and is refused for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrail.imports.cells import BadRow
from flashtrail.imports.episode_list import DEEPEST, EpisodeList

KIND = "JSON lines file"
UNSAID = ""


def is_one(content: str) -> bool:
    """Return whether the first line of a text is a JSON object of its own."""
    first = content.lstrip().partition("\n")[0]
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def read(path: Path, content: str) -> EpisodeList:
    """Return the objects of a file, each with its line; what is no object is a bad row."""
    lines = [(number, words) for number, words in enumerate(content.split("\n"), 1) if words.strip()]
    return EpisodeList(path, KIND, [_row(words) for _, words in lines], UNSAID, lines=[number for number, _ in lines])


def _row(words: str) -> Mapping[str, Any] | BadRow:
    try:
        value = json.loads(words)
    except (ValueError, RecursionError) as error:
        return BadRow(f"not JSON ({DEEPEST if isinstance(error, RecursionError) else error})")
    return value if isinstance(value, dict) else BadRow(f"a {type(value).__name__}, not an object")
