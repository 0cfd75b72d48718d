"""A finished run as the directory that is served and shipped: artifact, curve, card.

The artifact holds the averaged weights of the best or the last step, without the auxiliary head.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from flashtrail.checkpoints.artifact import Stream, write_artifact
from flashtrail.policies.lift_vla import artifact, statistics
from flashtrail.policies.lift_vla.dims import LiftDims

CARD = "README.md"


def write(
    target: Path,
    dims: LiftDims,
    tensors: Mapping[str, Tensor],
    stats: Mapping[str, Any],
    text_files: Mapping[str, bytes],
) -> dict[str, Any]:
    """Write the artifact directory `target`, which appears when it is whole; returns the manifest.

    `tensors`: a state dict of `LiftVLA`; `stats`: norm_stats.json's content; `text_files`: the text encoder's.
    """
    streams = {name: _stream(tensor) for name, tensor in tensors.items()}
    files = {statistics.FILE: json.dumps(stats, indent=1).encode(), **text_files}
    sizes = dims.model_dump(mode="json")
    return write_artifact(target, "base", "float32", sizes, streams, files, None, {}, family=artifact.FAMILY)


def _stream(tensor: Tensor) -> Stream:
    values = np.asarray(tensor.detach().float().cpu())
    return Stream(values.shape, lambda: iter([values]))


def ship(run: Path, target: Path, card: str) -> None:
    """Copy a run's artifact and curve to `target`, with the card as README.md."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted((run / "artifact").iterdir()):
        shutil.copyfile(path, target / path.name)
    shutil.copyfile(run / "curve.csv", target / "curve.csv")
    (target / CARD).write_text(card, encoding="utf-8")
