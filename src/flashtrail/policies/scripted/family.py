"""Scripted policies as the registry has them: an artifact is a manifest alone, served, rolled out and judged like any.

Format, version, kind, ``family: scripted``, and `dims`, which its digest covers: action_horizon, action_dim, `script`
(scripts.SCRIPTS) and, for blind_grasp, `grasp`: {x, y, z} of the table's top and perhaps `lift`, m. A manifest of the
``family: nothing`` is the script of that name.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.policies import identity
from flashtrail.policies.scripted.scripts import SCRIPTS, Grasp, Script, Seed

SHORT_FLAGS: dict[str, str] = {}
NOTHING = "nothing"
_FARTHEST_M = 10.0


class Error(ValueError):
    """An artifact or a flag that this family does not take; one line."""


@dataclass(frozen=True)
class Settings:
    """`max_exec_steps`: how many actions of a chunk may be executed before the next round."""

    max_exec_steps: int = 12

    def __post_init__(self) -> None:
        if self.max_exec_steps < 1:
            raise Error(f"max_exec_steps {self.max_exec_steps} must be at least 1")


@dataclass
class Session:
    """The episode of one client."""

    script: Script


class Scripted:
    """Rounds of a script; chunks of `shape`, (actions, numbers of each), the last number being the gripper's."""

    reentrant = True

    def __init__(self, about: Mapping[str, Any], grasp: Grasp | None, settings: Settings) -> None:
        self._about, self._grasp, self._settings = about, grasp, settings
        self._shape = int(about["action_horizon"]), int(about["action_dim"])

    @property
    def metadata(self) -> dict[str, Any]:
        """Digest, device and settings under the keys that every family uses, and the script."""
        about = {"base_digest": self._about["digest"], "device": "cpu", "settings": asdict(self._settings)}
        about |= {name: self._about[name] for name in ("family", "script")}
        return about | {"request_keys": ["noise_seed"], "synchronized": True}

    def new_session(self) -> Session:
        return Session(self._begun())

    def infer(
        self,
        session: Session,
        obs: Mapping[str, Any],
        *,
        executed_steps: int | None = None,
        reset: bool = False,
        noise_seed: Seed = None,
    ) -> dict[str, Any]:
        """Return the script's next chunk; its time is that of the answer alone."""
        start = time.perf_counter()
        if reset:
            session.script = self._begun()
        actions = session.script.chunk(np.asarray(obs["observation/state"]), executed_steps or 0, noise_seed)
        ms = (time.perf_counter() - start) * 1e3
        timing = {"sample_actions_ms": ms, "total_ms": ms, "route_type": "full", "is_full_pipeline_round": 1.0}
        timing |= {"synchronized": True, "fallback_cause": "", "batch_size": 1}
        accepted = min(self._settings.max_exec_steps, len(actions))
        return {"actions": actions, "accepted_prefix_len": accepted, "policy_timing": timing}

    def _begun(self) -> Script:
        return SCRIPTS[self._about["script"]](self._shape, self._grasp)


def load(
    artifact: Path,
    draft: Path | None,
    *,
    settings: Settings,
    device: str,
    backend: str,
    action_stats: Path | None,
    **_: Any,
) -> Scripted:
    """See `policies.protocol.Family`; Error for a manifest of another family or a flag not taken."""
    path = artifact / "manifest.json"
    family = "scripted"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        dims, family = manifest["dims"], str(manifest["family"])
        about = {name: dims[name] for name in ("action_horizon", "action_dim")}
        about |= {"digest": str(manifest["digest"]), "family": family}
        about["script"] = script = NOTHING if family == NOTHING else dims["script"]
        grasp = _grasp(path, dims["grasp"]) if script == "blind_grasp" else None
    except Error:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Error(f"{path} is not a manifest of the family {family} ({type(error).__name__}: {error})") from None
    for flag, value, allowed in (
        ("draft", draft, (None,)),
        ("action-stats", action_stats, (None,)),
        ("device", device, ("cpu",)),
        ("backend", backend, ("auto", "torch")),
    ):
        if value not in allowed:
            raise Error(f"--{flag} {value}: not an option of the family {family}; leave it out")
    if not isinstance(script, str) or script not in SCRIPTS:
        raise Error(f"{path}: dims.script {script!r} is no script; known: {', '.join(SCRIPTS)}")
    sizes = about["action_horizon"], about["action_dim"]
    if not all(type(size) is int and 1 <= size <= 1000 for size in sizes):
        raise Error(f"{path}: dims: action_horizon and action_dim must be whole numbers from 1 to 1000")
    if grasp is not None and sizes[1] != 7:
        raise Error(f"{path}: dims: a hand that grasps has an action_dim of 7, not {sizes[1]}")
    if wrong := identity.objection(manifest):
        raise Error(f"{path} {wrong}: give a whole artifact, or correct its digest")
    return Scripted(about, grasp, settings)


def _grasp(path: Path, given: Any) -> Grasp:
    """Return the place of a grasp; Error for what is not numbers of metres on a table."""
    names = Grasp.__dataclass_fields__
    if not isinstance(given, dict) or not {"x", "y", "z"} <= set(given) <= set(names):
        raise Error(f"{path}: dims.grasp must hold x, y, z of the table's top in m, and may hold lift")
    for name, value in given.items():
        real = type(value) in (int, float) and math.isfinite(value)
        if not real or not -_FARTHEST_M <= value <= _FARTHEST_M or (name == "lift" and value < 0):
            raise Error(f"{path}: dims.grasp.{name} is {value!r}, not a length in m within {_FARTHEST_M:g}")
    return Grasp(**{name: float(value) for name, value in given.items()})


def set_threads(count: int) -> None:
    """Nothing is computed: threads make no difference."""
