"""Which artifact a manifest is of: its digest follows from its files and dims, or it was edited by hand.

Apart from `checkpoints.artifact`, which writes it by the same rule: a server imports nothing of converting.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FORMAT, VERSION, KIND = "flashtrail-artifact", 1, "base"


def objection(manifest: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a base artifact's manifest before its dims and files are looked at, or None."""
    if (manifest.get("format"), manifest.get("version"), manifest.get("kind")) != (FORMAT, VERSION, KIND):
        return f"is not the manifest of a {KIND} {FORMAT} of version {VERSION}"
    try:
        files = {name: manifest["files"][name]["sha256"] for name in sorted(manifest["files"])}
        content = {"files": files, "dims": manifest["dims"]}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    except (KeyError, TypeError, AttributeError):
        return "lacks dims, or files with their sha256"
    if manifest.get("digest") != hashlib.sha256(text.encode()).hexdigest():
        return "was edited (its digest does not follow from its files and dims)"
    return None
