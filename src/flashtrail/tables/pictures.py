"""What is kept of an episode beside its rows: how film and contact sheet are laid out, and what else was sent.

A film has one frame a query: a strip of words above the agent and the wrist view as they were sent. Its contact sheet
shows some of these frames. Beside a film lies what else the policy was sent and returned, one .npz an episode.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.base.errors import UserError

FRAMES_PER_SECOND = 4  # of a film; a frame is a query
# A view's side, and the rows of words above both: a multiple of the encoder's blocks of 16 pixels.
PIXELS, STRIP = 224, 32
SHEET_FRAMES, SHEET_COLUMNS, SHEET_WIDTH = 12, 4, 224  # a sheet's frames at most, those of a row, and their width
SENT = ".npz"  # the suffix, beside a film, of what was sent and returned
_MOST_BYTES = 64 << 20


def on_sheet(frames: int) -> list[int]:
    """Return which frames of a film are on its contact sheet: evenly over the episode, first and last among them."""
    return sorted({round(i) for i in np.linspace(0, frames - 1, min(SHEET_FRAMES, frames))}) if frames else []


@dataclass(frozen=True)
class Sent:
    """Beside the pictures, one entry a query: `prompts`, `states` (n, 8) as sent, `chunks` (n, H, 7) as returned.

    For looking at, chunks in half precision: what a robot executed stands in the table of steps, to the last digit.
    """

    prompts: Sequence[str]
    states: NDArray[Any]
    chunks: NDArray[Any]


def write_sent(
    path: str | Path, prompts: Sequence[str], states: Sequence[NDArray[Any]], chunks: Sequence[NDArray[Any]]
) -> None:
    """Write what was sent and returned as one compressed .npz; a chunk shorter than the longest ends in NaN."""
    padded = np.full((len(chunks), max(map(len, chunks)), chunks[0].shape[1]), np.nan, np.float16)
    for row, chunk in zip(padded, chunks, strict=True):
        row[: len(chunk)] = chunk
    arrays = {"prompts": np.array(prompts, np.str_), "states": np.array(states, np.float32), "chunks": padded}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_sent(path: str | Path) -> Sent:
    """Read what `write_sent` wrote; UserError, one line, for a file that is something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
                raise ValueError("it is larger than any episode's")
        with np.load(path, allow_pickle=False) as data:
            prompts, states, chunks = (data[name] for name in ("prompts", "states", "chunks"))
        if prompts.dtype.kind != "U" or states.dtype.kind != "f" or chunks.dtype.kind != "f":
            raise ValueError("its arrays have other types")
        if not (states.ndim == 2 and chunks.ndim == 3 and len(prompts) == len(states) == len(chunks)):
            raise ValueError("its arrays have other shapes")
        return Sent([str(prompt) for prompt in prompts], states, chunks)
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path}: not what a policy was sent ({error}): remove it") from None
