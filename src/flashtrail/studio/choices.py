"""What may be chosen in the studio: artifacts of this checkout, suites and tasks, conditions and guards, by name.

A visitor's word is looked up here and nowhere else: it never becomes a path or a module.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flashtrail.base.errors import UserError, nearest
from flashtrail.experiment.suites import EVIDENCE, suite_of
from flashtrail.policies import registry

T = TypeVar("T")
SEED = 7  # the config's
CAMERA: dict[str, Any] = {
    "nothing: mend it": {"kind": "none"},
    "agent view black": {"kind": "zero", "view": "agent"},
    "wrist view black": {"kind": "zero", "view": "wrist"},
    "both views black": {"kind": "zero", "view": "both"},
    "both views frozen": {"kind": "freeze", "view": "both"},
    "both views 4 queries old": {"kind": "stale", "view": "both", "queries": 4},
    "cameras swapped": {"kind": "swap"},
    "both views upside down": {"kind": "upside_down", "view": "both"},
    "a patch over both views": {"kind": "occlusion", "view": "both", "size": 0.5, "row": 0.5, "column": 0.5},
    "noise on both views": {"kind": "noise", "view": "both", "sigma": 60},
}
GUARDS: dict[str, Any] = {kind: {"kind": kind} for kind in ("none", "wrist_health", "wrist_mask", "oracle")}
# Where a simulator writes down its tasks without being built: (module, what makes words of it).
_TASKS = {
    "libero": "libero.libero.benchmark.libero_suite_task_map:libero_task_map",
    "robosuite_lift": "flashtrail.simulators.robosuite_lift.tasks:TASKS",
}
_FIRST_SUITE = {registry.PI0: "libero_goal"}  # of a family's policies that are shipped; all others: Lift


@dataclass(frozen=True)
class Artifact:
    """A policy that can be served: its directories, its family, what its manifest and its card say."""

    base: Path
    draft: Path | None
    family: str
    manifest: Mapping[str, Any]
    card: str
    words: list[str]  # of its vocabulary; empty where it takes any


def artifacts(root: Path) -> tuple[dict[str, Artifact], list[str]]:
    """Return the artifacts below resources/ and results/artifacts/ by name, and a line for each that cannot be offered.

    A converted policy's card is the one of its source of the same name in resources/.
    """
    found: dict[str, Artifact] = {}
    notes: list[str] = []
    shipped = [*root.glob("resources/*/manifest.json"), *root.glob("resources/scripted/*/manifest.json")]
    for path in sorted([*shipped, *root.glob("results/artifacts/*/base/manifest.json")]):
        base = path.parent
        top = base.parent if base.name == "base" else base
        name = top.name if top.parent.name != "scripted" else f"scripted/{top.name}"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(manifest, dict):
                raise ValueError("no mapping at its top")
            family = registry.family_of(base)
        except (OSError, ValueError, RecursionError, UserError) as error:
            line = str(error).replace(f"{base}: ", "") if isinstance(error, UserError) else "its manifest is not JSON"
            notes.append(f"{name} is not offered: {line}")
            continue
        draft = base.parent / "draft"
        own = [top / "README.md", base.parent / "README.md", root / "resources" / top.name / "README.md"]
        card = next((_text(file) for file in own if file.is_file()), "")
        words = _words(base / "vocabulary.json")
        has_draft = base.name == "base" and (draft / "manifest.json").is_file()
        found[name] = Artifact(base, draft if has_draft else None, family, manifest, card, words)
    if not any(artifact.family == registry.PI0 for artifact in found.values()):
        notes.append("pi0_nano is offered once make report has converted it")
    return found, notes


def chosen(name: object, known: Mapping[str, T]) -> T:
    """Return one of what is known; UserError with the nearest name otherwise."""
    if not isinstance(name, str) or name not in known:
        raise UserError(f"unknown choice {str(name)!r}{nearest(str(name), known)}")
    return known[name]


def described(root: Path) -> dict[str, Any]:
    """Return all choices as the page needs them."""
    found, notes = artifacts(root)
    return {
        "policies": {name: about(artifact) for name, artifact in found.items()},
        "suites": {name: {"tasks": tasks(name), "init_states": suite_of(name).init_states} for name in EVIDENCE},
        "camera": [*list(CAMERA)[1:], next(iter(CAMERA))],
        "guards": list(GUARDS),
        "seed": SEED,
        "notes": notes,
    }


def about(artifact: Artifact) -> dict[str, Any]:
    """Return what the page shows of an artifact: facts of the manifest, its card's text, its words."""
    manifest = artifact.manifest
    source, converter, files, dims = (_mapping(manifest, part) for part in ("source", "converter", "files", "dims"))
    facts = {
        "family": artifact.family,
        "digest": manifest.get("digest"),
        "converted by": converter.get("package_version"),
        "source": source.get("uri"),
        "dtype": manifest.get("dtype"),
        "draft": "yes" if artifact.draft else "no",
        "files": ", ".join(files) or None,
        **{f"dims.{name}": value for name, value in dims.items()},
    }
    shown = {name: json.dumps(value) if isinstance(value, dict | list) else str(value) for name, value in facts.items()}
    return {
        "facts": {name: text for name, text in shown.items() if facts[name] is not None},
        "card": artifact.card,
        "words": artifact.words,
        "suite": _FIRST_SUITE.get(artifact.family, "robosuite_lift"),
    }


def tasks(suite: str) -> list[str]:
    """Return what tells a suite's tasks apart, in order: their instructions, of Lift's also robot and placement."""
    count, simulator = suite_of(suite).tasks, suite_of(suite).simulator
    if simulator not in _TASKS:
        return [f"task {number}" for number in range(count)]
    module, _, name = _TASKS[simulator].partition(":")
    known = getattr(importlib.import_module(module), name)
    if simulator == "libero":
        return [task.split("SCENE")[-1].lstrip("0123456789_").replace("_", " ") for task in known[suite]]
    told = ["" if task.controller == "OSC_POSE" else f" {task.controller}" for task in known]  # the one that is usual
    return [f"{t.prompt}: {t.robot}{c}, \u00b1{100 * t.half_width:g} cm" for t, c in zip(known, told, strict=True)]


def instruction(suite: str, task: object) -> str:
    """Return the words of a task, without what tells it from others of the same words; "" where there is none."""
    known = tasks(suite)
    return known[task].split(":")[0] if isinstance(task, int) and 0 <= task < len(known) else ""


def _mapping(manifest: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    value = manifest.get(part)
    return value if isinstance(value, Mapping) else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[:50_000]


def _words(path: Path) -> list[str]:
    """Return the words of an artifact's table; none where it has no such table."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [str(word) for word in read][:500] if isinstance(read, list) else []
