"""A tiny policy and draft with random weights: dims, and the artifact files that the converter would leave."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.torch import save_file

from flashtrail.policies.pi0.dims import DraftDims, GemmaDims, Pi0Dims, VisionDims

PROMPTS = ["put the bowl on the plate", "open the middle drawer", "put the wine bottle on the cabinet"]
DIMS = Pi0Dims(
    vision=VisionDims(width=16, depth=2, mlp_dim=24, num_heads=2, head_dim=8, patch=56),
    prefix=GemmaDims(width=16, depth=2, mlp_dim=24, num_heads=4, num_kv_heads=1, head_dim=8),
    expert=GemmaDims(width=12, depth=2, mlp_dim=20, num_heads=4, num_kv_heads=1, head_dim=8),
    vocab_size=64,
)
DRAFT_DIMS = DraftDims(width=16, mlp_dim=24, num_heads=4, num_kv_heads=1, head_dim=8)


def write_artifact(directory: Path, kind: str, tensors: dict, dims: dict) -> None:
    """model.safetensors and manifest.json, as the converter leaves them."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "model.safetensors"
    save_file(tensors, path)
    record = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    manifest = {
        "format": "flashtrail-artifact",
        "version": 1,
        "kind": kind,
        "dtype": "float32",
        "dims": dims,
        "files": {path.name: record},
        "digest": f"digest-of-{kind}",
        "transforms": {"delta_actions": True},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))


def write_stats(path: Path, state_dim: int = 8, action_dim: int = 7) -> None:
    stats = {
        name: {"mean": [0.1] * n, "std": [0.5] * n, "q01": [0.0] * n, "q99": [1.0] * n}
        for name, n in (("state", state_dim), ("actions", action_dim))
    }
    path.write_text(json.dumps({"norm_stats": stats}))
