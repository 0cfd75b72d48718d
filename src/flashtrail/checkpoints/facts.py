"""What a checkpoint's tree does not hold: gathered from the tree's own model.json, the config and the known table.

Nothing is assumed: a missing fact is an error that names the key to write. What was used, and its source, goes
into the probe's record and, as facts.json, into the fetched source, where converter and parity read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError

from flashtrail.base.errors import UserError, nearest
from flashtrail.policies.facts import NAMES, PolicyFacts

MODEL_JSON, CONFIG_JSON = "assets/flashtrail/model.json", "config.json"
FACTS = "facts.json"
KNOWN = Path(__file__).parents[3] / "resources/checkpoints/known.yaml"
TREE_NAMES = {"horizon": "action_horizon", "views": "num_views", "steps": "num_steps"}  # else as under policies.X
TREE_ONLY = ("stem", "lora_scaling", "vision_heads")
NEEDED = ("horizon", "delta_actions", "views", "steps", "max_token_len")
_EXAMPLES = {"horizon": 50, "delta_actions": "true", "views": 2, "steps": 10, "max_token_len": 48}


@cache
def known() -> dict[str, dict[str, Any]]:
    """Return the table of public checkpoints: address -> facts and robot (resources/checkpoints/known.yaml)."""
    return dict(yaml.safe_load(KNOWN.read_text(encoding="utf-8")))


def read_model_json(
    source: Any, where: str = MODEL_JSON, called: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return a model.json's (or facts.json's) object, its keys and their types checked; `source`: a dict or a path.

    `called`: key -> what the file `where` calls it, if otherwise. Raises UserError naming the key that is unknown or
    the value that does not fit.
    """
    if isinstance(source, str | Path):
        try:
            source = json.loads(Path(source).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{where} cannot be read: {error}") from None
    if not isinstance(source, Mapping):
        raise UserError(f"{where} must hold an object")
    keys = [TREE_NAMES.get(name, name) for name in NAMES] + list(TREE_ONLY)
    for key in source:
        if key not in keys:
            raise UserError(f"{where}: unknown key {key!r}{nearest(str(key), keys)}")
    _checked({name: source[key] for name in NAMES if (key := TREE_NAMES.get(name, name)) in source}, where, called)
    heads = source.get("vision_heads", 1)
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise UserError(f"{where}: vision_heads is {str(heads)[:20]}, not a number of heads from 1 on")
    return dict(source)


def resolve(
    policy: str,
    uri: str,
    declared: Mapping[str, Any],
    model_json: Mapping[str, Any] | None,
    config_json: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return name -> {value, said_by} for one candidate; a missing fact is left out (see `missing`).

    The tree's own model.json counts before its config.json (`lerobot.described`), these before the config, the config
    before the table of public checkpoints. Raises UserError where the config contradicts the tree.
    """
    own = {**read_model_json(config_json or {}, CONFIG_JSON), **(model_json or {})}
    table = known().get(uri.rstrip("/"), {})
    facts: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        key = f"policies.{policy}.{name}"
        held, stated = own.get(tree_name := TREE_NAMES.get(name, name)), declared.get(name)
        where = MODEL_JSON if tree_name in (model_json or {}) else CONFIG_JSON
        if held is not None and stated is not None and held != stated:
            raise UserError(
                f"{key} says {_shown(stated)}, the checkpoint's own {where} says {_shown(held)}: remove {key}, or "
                "correct the file"
            )
        for value, who in ((held, where), (stated, key), (table.get(name), f"resources/checkpoints/{KNOWN.name}")):
            if value is not None:
                facts[name] = {"value": value, "said_by": who}
                break
    return facts


def missing(policy: str, facts: Mapping[str, Any]) -> str | None:
    """Return what to write under policies.X for the missing facts, or None if all are there."""
    absent = [name for name in NEEDED if name not in facts]
    if not absent:
        return None
    lines = ", ".join(f"{name}: {_EXAMPLES[name]}" for name in absent)
    return (
        f"its tree does not hold {', '.join(absent)}: write its training's values under policies.{policy} "
        f"(openpi's pi0_libero: {lines})"
    )


def shown(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the facts in one line, each with who said it."""
    return ", ".join(f"{name} {_shown(f['value'])} ({f['said_by']})" for name, f in facts.items())


def as_tree(facts: Mapping[str, Mapping[str, Any]], model_json: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what facts.json holds: the facts under the tree's names, and what only the tree can say."""
    tree = {key: model_json[key] for key in TREE_ONLY if key in model_json} if model_json else {}
    return tree | {TREE_NAMES.get(name, name): fact["value"] for name, fact in facts.items()}


def of_source(source: Path) -> dict[str, Any]:
    """Return the facts of a fetched source: facts.json, or model.json where a tree is converted without fetching.

    Raises UserError for a missing fact.
    """
    own = source / FACTS
    path = own if own.is_file() else source / MODEL_JSON
    if not path.is_file():
        raise UserError(
            f"{source} has neither {FACTS} nor {MODEL_JSON}: its horizon, delta_actions, views, steps and "
            "max_token_len are unknown; fetch it through policies.X of the config"
        )
    return require(read_model_json(path, FACTS if path == own else MODEL_JSON), str(path))


def require(described: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the object itself; UserError if it lacks a fact that conversion needs."""
    absent = [key for name in NEEDED if (key := TREE_NAMES.get(name, name)) not in described]
    if absent:
        raise UserError(f"{where} lacks {', '.join(absent)}: state the values of the checkpoint's training there")
    return dict(described)


def _checked(values: Mapping[str, Any], where: str, called: Mapping[str, str]) -> None:
    try:
        PolicyFacts.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = TREE_NAMES.get(name := str(first["loc"][0]), name)
        raise UserError(f"{where}: {called.get(key, key)} is {repr(first['input'])[:40]}: {first['msg']}") from None


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
