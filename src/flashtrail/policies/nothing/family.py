"""A policy that holds still, gripper open, whatever it sees: the control below which no success rate means anything.

Its artifact is a manifest alone: format, version, kind, ``family: nothing``, `dims` (action_horizon, action_dim) and a
digest. Served, rolled out and judged like any other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHORT_FLAGS: dict[str, str] = {}
OPEN = -1.0  # the gripper's word


class Error(ValueError):
    """An artifact or a flag that this family does not take; one line."""


@dataclass(frozen=True)
class Settings:
    """`max_exec_steps`: how many actions of a chunk may be executed before the next round."""

    max_exec_steps: int = 12

    def __post_init__(self) -> None:
        if self.max_exec_steps < 1:
            raise Error(f"max_exec_steps {self.max_exec_steps} must be at least 1")


class Nothing:
    """Rounds of zero motion; `horizon` actions of `dims` numbers, the last of which is the gripper's."""

    reentrant = True

    def __init__(self, horizon: int, dims: int, settings: Settings, digest: str) -> None:
        self._chunk = np.zeros((horizon, dims))
        self._chunk[:, -1] = OPEN
        self._settings, self._digest = settings, digest

    @property
    def metadata(self) -> dict[str, Any]:
        """Digest, device and settings under the keys that every family uses."""
        about = {"base_digest": self._digest, "device": "cpu", "settings": asdict(self._settings)}
        return about | {"family": "nothing", "request_keys": ["noise_seed"], "synchronized": True}

    def new_session(self) -> None:
        return None

    def infer(self, session: None, obs: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """Return the same chunk; its time is that of the answer alone."""
        start = time.perf_counter()
        accepted = min(self._settings.max_exec_steps, len(self._chunk))
        ms = (time.perf_counter() - start) * 1e3
        timing = {"sample_actions_ms": ms, "total_ms": ms, "route_type": "full", "is_full_pipeline_round": 1.0}
        extra = {"synchronized": True, "fallback_cause": "", "batch_size": 1}
        return {"actions": self._chunk.copy(), "accepted_prefix_len": accepted, "policy_timing": timing | extra}


def load(
    artifact: Path,
    draft: Path | None,
    *,
    settings: Settings,
    device: str,
    backend: str,
    action_stats: Path | None,
    **_: Any,
) -> Nothing:
    """See `policies.protocol.Family`; Error for a manifest of another family or a flag not taken."""
    path = artifact / "manifest.json"
    for flag, value, allowed in (
        ("draft", draft, (None,)),
        ("action-stats", action_stats, (None,)),
        ("device", device, ("cpu",)),
        ("backend", backend, ("auto", "torch")),
    ):
        if value not in allowed:
            raise Error(f"--{flag} {value}: not an option of the family nothing; leave it out")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        horizon, dims = (manifest["dims"][name] for name in ("action_horizon", "action_dim"))
        digest = str(manifest["digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Error(f"{path} is not a manifest of the family nothing ({type(error).__name__}: {error})") from None
    if not all(type(size) is int and 1 <= size <= 1000 for size in (horizon, dims)):
        raise Error(f"{path}: dims: action_horizon and action_dim must be whole numbers from 1 to 1000")
    return Nothing(horizon, dims, settings, digest)


def set_threads(count: int) -> None:
    """Nothing is computed: threads make no difference."""
