"""The families of policies, by the name that an artifact's manifest gives: a new one is one folder and one line here.

Modules are named as text and imported when asked for, so that the code digest of one family's runs does not reach
another's.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import cast

from flashtrail.base.errors import UserError, nearest
from flashtrail.policies.protocol import Family

PI0 = "pi0"  # what a manifest without the word is: until the second family none had it
FAMILIES = {
    PI0: "flashtrail.policies.pi0.family",
    "scripted": "flashtrail.policies.scripted.family",
    "nothing": "flashtrail.policies.scripted.family",  # as one of its scripts was called when it was a family
    "lift_vla": "flashtrail.policies.lift_vla.family",
    "fluid": "flashtrail.policies.fluid.family",
}


def family_of(artifact: Path) -> str:
    """Return the family that an artifact's manifest names; a manifest that cannot be read is left to the loader."""
    try:
        manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return PI0
    named = manifest.get("family", PI0) if isinstance(manifest, dict) else PI0
    if not isinstance(named, str) or named not in FAMILIES:
        raise UserError(f"{artifact}: its manifest names the family {named!r}{nearest(str(named), FAMILIES)}")
    return named


def source_of(name: str) -> str:
    """Return a family's module file, below the package: what the code digest of a server of it has to reach."""
    return FAMILIES[name].removeprefix("flashtrail.").replace(".", "/") + ".py"


def load(name: str) -> Family:
    """Return a family's module."""
    return cast(Family, importlib.import_module(FAMILIES[name]))


def settings_of(name: str) -> set[str]:
    """Return the names of a family's settings: flags of its server, keys of an arm."""
    return {field.name for field in dataclasses.fields(load(name).Settings)}
