"""Sweeps of the running clock: one line of the config, latency x control frequency, written out as arms.

Names are made of the sweep's name, the latency and the frequency, so that they stay what they are when a value is
added. Pure; knows the config's text only, no result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashtrail.base.errors import UserError
from flashtrail.experiment.grids import OF_ARM

_OF_CLOCK = ("while_waiting", "ask_ahead")


def arms(name: str, sweep: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a sweep's arms by name (``latency_58ms_100hz``), latency by latency; UserError for a value given twice."""
    for what in ("constant_ms", "hz"):
        if len(set(sweep[what])) != len(sweep[what]) or not sweep[what]:
            raise UserError(f"config: sweeps.{name}.{what}: give each once, and at least one")
    common = {key: sweep[key] for key in (*OF_ARM, "condition", "guard")}
    waiting = {key: sweep[key] for key in _OF_CLOCK}
    return {
        f"{name}_{_spelled(ms)}ms_{_spelled(hz)}hz": {
            **common,
            "clock": {"kind": "running", "hz": hz, **waiting, "source": {"constant_ms": ms}},
        }
        for ms in sweep["constant_ms"]
        for hz in sweep["hz"]
    }


def written_out(data: Mapping[str, Any], sweeps: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the config with the arms of its sweeps added; UserError for a name that is taken."""
    known = dict(data.get("arms", {}))
    for name, sweep in sweeps.items():
        for arm, spec in arms(name, sweep).items():
            if arm in known:
                raise UserError(f"config: sweeps.{name}: its arm {arm!r} has the name of another arm: rename one")
            known[arm] = spec
    return {**data, "arms": known}


def _spelled(value: float) -> str:
    return f"{value:g}".replace(".", "p").replace("+", "")
