"""What a shard says of itself while it runs: `progress.json` beside its outputs, plain JSON.

Written when it starts and after each episode. It is nobody's result and no output of a job: once the shard is
assembled, its ledger.json says how its episodes ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError

FILE, LEDGER = "progress.json", "ledger.json"


class Record:
    """A shard's progress.json, kept by the shard itself."""

    def __init__(self, directory: Path, expected: Sequence[str], outcomes: Mapping[str, str]) -> None:
        """Begin with the episodes that are kept from before, and with what an earlier record says of their time."""
        before = read(directory)
        self._path = directory / FILE
        self._content: dict[str, Any] = {
            "expected": list(expected),
            "outcomes": {name: outcomes[name] for name in expected if name in outcomes},
        }
        for key in ("wall_s", "steps"):
            self._content[key] = {
                name: value for name, value in before.get(key, {}).items() if name in self._content["outcomes"]
            }
        provenance.json_dump(self._content, self._path)

    def add(self, name: str, outcome: str, wall_s: float, steps: int) -> None:
        """Note that an episode has ended."""
        for key, value in (("outcomes", outcome), ("wall_s", round(wall_s, 2)), ("steps", steps)):
            self._content[key][name] = value
        provenance.json_dump(self._content, self._path)


def read(directory: Path, file: str = FILE) -> dict[str, Any]:
    """Return what a shard says in one of its JSON files; {} where there is none."""
    try:
        content = provenance.json_load(directory / file)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}
