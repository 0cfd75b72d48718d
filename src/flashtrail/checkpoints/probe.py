"""Classifies checkpoint candidates from their listings alone: which one, if any, is the model to fetch.

Seven classes and their order are those of the reproduction project that first probed these locations; an eighth
names trees of this project's own small policies. Reads names and sizes, never contents; downloads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from flashtrail.checkpoints.stores import Entry, StoreUnreachable, open_location
from flashtrail.errors import UserError

PI05_MISMATCH = "PUBLIC_PI05_LIBERO_MISMATCH"
PI0_BASE = "BASE_PI0_PRETRAIN_ONLY"
PLACEHOLDER = "LOCAL_PLACEHOLDER_ONLY"
NOT_FOUND = "NOT_FOUND"
TORCH_ONLY = "MATCH_FLASH_PI0_LIBERO_TORCH_ONLY"
LIBERO_JAX = "MATCH_FLASH_PI0_LIBERO_JAX"
NANO_JAX = "MATCH_FLASH_PI0_NANO_JAX"
UNKNOWN = "UNKNOWN_ACCESS_ERROR"
SELECTABLE = (LIBERO_JAX, NANO_JAX)

ORBAX_MARKERS = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "checkpoint")
MODEL_JSON = "assets/flashtrail/model.json"
_PLACEHOLDER_ROOT = "/openpi-assets/"


def classify(uri: str, entries: Sequence[Entry] | None, trouble: str | None = None) -> tuple[str, str]:
    """Return (class, reason) of one candidate; the first rule that applies decides.

    `entries`: its files; empty or None = nothing is there, unless `trouble` says why it could not be listed.
    """
    path = uri.rstrip("/")
    if "pi05_libero" in path:
        return PI05_MISMATCH, "the path names pi05_libero: another model (pi0.5), which FLASH's pi0 engine cannot run"
    if "pi0_base" in path:
        return PI0_BASE, "the path names pi0_base: pretrained only, not tuned on LIBERO"
    if trouble is not None:
        return UNKNOWN, f"could not be listed, which says nothing about whether it exists: {trouble}"
    if not entries:
        if path.startswith(_PLACEHOLDER_ROOT):
            return (
                PLACEHOLDER,
                f"a path below {_PLACEHOLDER_ROOT} is a placeholder of container images; nothing is there",
            )
        return NOT_FOUND, "nothing is there"
    if "pi0_libero_torch" in path:
        return TORCH_ONLY, "a PyTorch copy; conversion reads the JAX tree"
    missing = missing_parts(entries)
    if PurePosixPath(path).name == "params":
        return UNKNOWN, "ends in params: give the checkpoint's own directory, which also holds assets"
    if "pi0_libero" in path and not missing:
        return LIBERO_JAX, f"pi0_libero with params, assets and an Orbax marker; {_size(entries)}"
    if MODEL_JSON in {entry.name for entry in entries} and not missing:
        return NANO_JAX, f"carries {MODEL_JSON} with params, assets and an Orbax marker; {_size(entries)}"
    lacking = f"lacks {', '.join(missing)}" if missing else f"neither named pi0_libero nor carrying {MODEL_JSON}"
    return UNKNOWN, f"there, but not a known checkpoint: {lacking}"


def missing_parts(entries: Sequence[Entry]) -> list[str]:
    """Return which of params, assets and the Orbax marker a listing lacks."""
    names = [PurePosixPath(entry.name) for entry in entries]
    tops = {name.parts[0] for name in names if len(name.parts) > 1}
    markers = {name.parts[0] for name in names} | {
        n.parts[1] for n in names if n.parts[0] == "params" and len(n.parts) > 1
    }
    missing = [top for top in ("params", "assets") if top not in tops]
    return missing if markers.intersection(ORBAX_MARKERS) else [*missing, "an Orbax marker"]


def find_norm_stats(entries: Sequence[Entry]) -> list[str]:
    """Return the norm_stats.json files below assets/: openpi keeps them two levels down, under the asset's id."""
    names = [PurePosixPath(entry.name) for entry in entries]
    return [str(name) for name in names if name.parts[0] == "assets" and name.name == "norm_stats.json"]


def probe_candidate(uri: str) -> dict[str, Any]:
    """List one candidate and return its part of the record: verdict, reason and listing."""
    entries: list[Entry] = []
    trouble = None
    try:
        entries = open_location(uri).entries()
    except FileNotFoundError:
        pass
    except StoreUnreachable as error:
        trouble = str(error)
    verdict, reason = classify(uri, entries, trouble)
    return {
        "uri": uri,
        "class": verdict,
        "reason": reason,
        "listed": trouble is None,
        "norm_stats": find_norm_stats(entries),
        "total_bytes": sum(entry.bytes for entry in entries),
        "files": {entry.name: entry.bytes for entry in entries},
    }


def probe(candidates: Sequence[str]) -> dict[str, Any]:
    """Probe every candidate and return the JSON record; `selected` is the URI if exactly one matches, else None."""
    if not candidates:
        raise UserError("no checkpoint candidates: name at least one under policies.*.candidates")
    results = [probe_candidate(uri) for uri in candidates]
    matches = [result["uri"] for result in results if result["class"] in SELECTABLE]
    return {"version": 1, "candidates": results, "selected": matches[0] if len(matches) == 1 else None}


def select(record: dict[str, Any]) -> dict[str, Any]:
    """Return the one candidate that matches; a UserError line says what was found if there is none or several."""
    candidates = record["candidates"]
    matches = [c for c in candidates if c["class"] in SELECTABLE]
    if len(matches) > 1:
        found = ", ".join(c["uri"] for c in matches)
        raise UserError(
            f"{len(matches)} checkpoint candidates match ({found}): leave only one in the policy's candidates"
        )
    if not matches:
        found = "; ".join(f"{c['uri']}: {c['class']} ({c['reason']})" for c in candidates)
        unasked = [c for c in candidates if not c["listed"]]
        remedy = "check the network and run again" if unasked else "correct the policy's candidates"
        raise UserError(f"no checkpoint candidate matches: {found}; {remedy}")
    match = matches[0]
    if len(match["norm_stats"]) != 1:
        found = ", ".join(match["norm_stats"]) or "none"
        raise UserError(f"{match['uri']} needs exactly one norm_stats.json below assets/; found: {found}")
    return match


def _size(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} files, {sum(entry.bytes for entry in entries) / 1e6:,.1f} MB"
