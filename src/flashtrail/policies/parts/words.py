"""The embedded text encoder: words of an instruction -> rows of a frozen table, with one row for every other word.

A random table knows no synonyms: an instruction in other words is understood by the words that it shares with the
training's. Order is not encoded. A stronger encoder is CLIP's (lift_vla/clip.py).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from flashtrail.policies.parts.errors import ArtifactError, ObservationError

FILE = "vocabulary.json"
UNKNOWN = 0
_LONGEST = 64  # words of an instruction that are read


def split(instruction: str) -> list[str]:
    """Return the words of an instruction, lower case, without punctuation; at most 64."""
    return re.findall(r"\w+", instruction.lower().replace("_", " "))[:_LONGEST]


def vocabulary(instructions: Iterable[str]) -> list[str]:
    """Return the words of these instructions, sorted: word i has row i + 1 of the table."""
    return sorted({word for instruction in instructions for word in split(instruction)})


class WordTable(nn.Module):
    """A frozen table (rows, width) of random unit vectors."""

    rows: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        table = torch.randn(rows, width)
        self.register_buffer("rows", table / table.norm(dim=-1, keepdim=True))

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, L) -> tokens (B, L, width)."""
        return self.rows[ids]


class Vocabulary:
    """Instruction -> ids, by the words of the training."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._rows = {word: row for row, word in enumerate(words, 1)}

    @classmethod
    def read(cls, path: Path, rows: int) -> Vocabulary:
        """From an artifact's file; ArtifactError where it is no list of words, or not as long as the table."""
        try:
            words = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{path} cannot be read ({type(error).__name__}: {error}); export it again") from None
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words) or len(set(words)) != len(words):
            raise ArtifactError(f"{path} is not a list of different words; export it again")
        if len(words) + 1 != rows:
            raise ArtifactError(f"{path} has {len(words)} words for a table of {rows} rows; export it again")
        return cls(words)

    def ids(self, instruction: str) -> tuple[list[int], list[str]]:
        """Return the words' rows, and the words that have none; ObservationError where not one is known."""
        words = split(instruction)
        ids = [self._rows.get(word, UNKNOWN) for word in words]
        if not any(ids):
            said = " ".join(words)[:100] or "nothing"
            close = difflib.get_close_matches(said, self.words, n=1, cutoff=0.6)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known words: {', '.join(self.words)[:400]}"
            raise ObservationError(f"prompt: no word of {said!r} is in this policy's vocabulary{hint}")
        return ids, [word for word, row in zip(words, ids, strict=True) if row == UNKNOWN]
