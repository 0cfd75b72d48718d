"""What a shard says of itself while it runs: `progress.json` beside its outputs, plain JSON.

Written when it starts and after each episode. It is nobody's result and no output of a job: once the shard is
assembled, its ledger.json says how its episodes ended. The run as a whole says its part in results/progress.json
(`outlook.Standing`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError

FILE, LEDGER = "progress.json", "ledger.json"
_SAID = ("wall_s", "steps", "rounds", "ended_at")  # of each episode, beside its outcome; ended_at in seconds since 1970


class Record:
    """A shard's progress.json, kept by the shard itself."""

    def __init__(
        self, directory: Path, expected: Sequence[str], outcomes: Mapping[str, str], spec_digest: str = ""
    ) -> None:
        """Begin with the episodes that are kept from before, and with what an earlier record says of their time.

        `spec_digest` names the folder in parts/ where finished episodes, and their films, lie.
        """
        before = read(directory)
        self._path = directory / FILE
        self._content: dict[str, Any] = {
            "expected": list(expected),
            "spec_digest": spec_digest,
            "outcomes": {name: outcomes[name] for name in expected if name in outcomes},
        }
        for key in _SAID:
            self._content[key] = {
                name: value for name, value in before.get(key, {}).items() if name in self._content["outcomes"]
            }
        provenance.json_dump(self._content, self._path)

    def add(self, name: str, outcome: str, wall_s: float, steps: int, rounds: int) -> None:
        """Note that an episode has ended, now."""
        said = (round(wall_s, 2), steps, rounds, round(time.time(), 2))
        for key, value in (("outcomes", outcome), *zip(_SAID, said, strict=True)):
            self._content[key][name] = value
        provenance.json_dump(self._content, self._path)


def read(directory: Path, file: str = FILE) -> dict[str, Any]:
    """Return what a shard says in one of its JSON files; {} where there is none."""
    try:
        content = provenance.json_load(directory / file)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}
