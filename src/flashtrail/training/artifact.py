"""A trained network as an artifact directory; families whose tensors are a module's state dict are all written so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel
from torch import Tensor

from flashtrail.checkpoints.artifact import Stream, write_artifact
from flashtrail.policies.parts import statistics


def write(
    target: Path,
    family: str,
    dims: BaseModel,
    tensors: Mapping[str, Tensor],
    stats: Mapping[str, Any] | None,
    text_files: Mapping[str, bytes],
    parent: str | None = None,
) -> dict[str, Any]:
    """Write the artifact directory `target`, which appears when it is whole; returns the manifest.

    `tensors`: a state dict of the family's network; `stats`: norm_stats.json's content, None: there is none;
    `text_files`: of its prompts, and what else it has. `parent`: the digest of the artifact that it was made of, its
    source in the manifest.
    """
    origin = None if parent is None else {"class": "ARTIFACT", "digest": parent}
    streams = {name: _stream(tensor) for name, tensor in tensors.items()}
    own = {} if stats is None else {statistics.FILE: json.dumps(stats, indent=1).encode()}
    files = {**own, **text_files}
    sizes = dims.model_dump(mode="json")
    return write_artifact(target, "base", "float32", sizes, streams, files, origin, {}, family=family)


def _stream(tensor: Tensor) -> Stream:
    values = np.asarray(tensor.detach().float().cpu())
    return Stream(values.shape, lambda: iter([values]))
