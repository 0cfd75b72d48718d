"""A finished run as the directory that is served and shipped: artifact, curve, card.

The artifact holds the averaged weights of the best or the last step, without the auxiliary head.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from flashtrail.policies.lift_vla.artifact import FAMILY
from flashtrail.policies.lift_vla.dims import LiftDims
from flashtrail.training import artifact

CARD = "README.md"


def write(
    target: Path,
    dims: LiftDims,
    tensors: Mapping[str, Tensor],
    stats: Mapping[str, Any],
    text_files: Mapping[str, bytes],
) -> dict[str, Any]:
    """`training.artifact.write` for a state dict of `LiftVLA`."""
    return artifact.write(target, FAMILY, dims, tensors, stats, text_files)


def ship(run: Path, target: Path, card: str) -> None:
    """Copy a run's artifact and curve to `target`, with the card as README.md."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted((run / "artifact").iterdir()):
        shutil.copyfile(path, target / path.name)
    shutil.copyfile(run / "curve.csv", target / "curve.csv")
    (target / CARD).write_text(card, encoding="utf-8")
