"""What the files beside a PyTorch checkpoint's weights say: LeRobot's statistics and config.json, read as data.

Nothing that these files name is imported or looked up: a step is told by its `registry_name`, the rest is ignored.
Layouts: LeRobot 0.4.4, `processor/{pipeline,normalize_processor}.py`, `policies/pi0/configuration_pi0.py` (0.6.1 adds
`use_relative_actions`), `datasets/utils.py` (meta/stats.json); 0.3.3, `policies/normalize.py` (buffers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import facts, identity, torch_tree

STATS_JSON = ("meta/stats.json", "stats.json")  # a data set's, where the weights bring none
PLACES = (
    "assets/*/norm_stats.json, policy_preprocessor.json's normalizer, normalize_inputs among the weights, "
    f"{' and '.join(STATS_JSON)}"
)
_KEYS = {"state": "observation.state", "actions": "action"}
_BUFFERS = {"state": "normalize_inputs.buffer_observation_state", "actions": "unnormalize_outputs.buffer_action"}
_EPS, _OUR_EPS = 1e-8, 1e-6  # what LeRobot adds to the state's deviation; what openpi and the engine add to both
_USED = {"state": 8, "actions": 7}
_VECTOR_BYTES = 4096  # of the longest statistic that is read
_FACTS = {
    "action_horizon": ("action_horizon", "chunk_size"),
    "action_dim": ("action_dim", "max_action_dim"),
    "num_steps": ("num_steps", "num_inference_steps"),
    "max_token_len": ("tokenizer_max_length",),
    "delta_actions": ("use_relative_actions",),
}
_FIXED = {  # relative actions are masked by joint names, which need not be the engine's first six dims
    "adapt_to_pi_aloha": False, "use_delta_joint_actions_aloha": False, "use_relative_actions": False,
    "min_period": 0.004, "max_period": 4.0,
}  # fmt: skip
_ANOTHER = "give a pi0 checkpoint tuned on LIBERO"


def described(config: Any) -> dict[str, Any]:
    """Return the facts that a config.json (LeRobot's, or of openpi's converter) states, under model.json's names.

    Raises UserError for a setting by which the same weights are another model than the engine's, or none.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"{facts.CONFIG_JSON} must hold an object")
    for key, value in _FIXED.items():
        if (said := config.get(key, value)) != value:
            raise UserError(f"{facts.CONFIG_JSON}: {key} is {str(said)[:20]}, the engine's is {value}: {_ANOTHER}")
    _check_modes(config.get("normalization_mapping"), facts.CONFIG_JSON)
    called = {fact: k for fact, keys in _FACTS.items() for k in keys if config.get(k) is not None}
    found = facts.read_model_json({fact: config[k] for fact, k in called.items()}, facts.CONFIG_JSON, called)
    features = config.get("input_features")
    cameras = [name for name in features if ".images." in name] if isinstance(features, Mapping) else []
    views = sum(".empty_camera_" not in name for name in cameras)  # an empty one is masked
    return found | ({"num_views": views} if views else {})


def norm_stats(files: Mapping[str, int], read: identity.Read) -> tuple[str, dict[str, Any]] | None:
    """Return where a checkpoint's statistics are and openpi's norm_stats object of them; None where there are none.

    The object is for openpi's formula, (x - mean) / (std + 1e-6) and x * (std + 1e-6) + mean; LeRobot adds 1e-8 to the
    state's deviation and nothing to the actions', so deviations are moved by the difference: the same function.
    Raises UserError for statistics that cannot be read, or another normalisation than by mean and deviation.
    """
    for find in (_of_processors, _of_buffers, _of_dataset):
        if (found := find(files, read)) is not None:
            place, parts, eps = found
            return place, {"norm_stats": {key: _moved(place, key, part, eps) for key, part in parts.items()}}
    return None


_Found = tuple[str, dict[str, Any], float] | None  # place, {state, actions} -> {mean, std}, LeRobot's eps


def _of_processors(files: Mapping[str, int], read: identity.Read) -> _Found:
    before = _step(files, read, "policy_preprocessor.json", "normalizer_processor")
    after = _step(files, read, "policy_postprocessor.json", "unnormalizer_processor") or before
    if before is None or after is None:
        return None
    (place, values, eps), (other, outputs, _) = before, after
    parts = {"state": _part(values, _KEYS["state"], place), "actions": _part(outputs, _KEYS["actions"], other)}
    return place, parts, eps


def _step(files: Mapping[str, int], read: identity.Read, name: str, kind: str) -> _Found:
    """A processor's step of one kind: its state file, the values in it, its eps; None where it keeps no state."""
    content = identity.read_json(read, name, files[name]) if name in files else {}
    steps = content.get("steps") if _is_map(content) else None
    for step in steps if isinstance(steps, list) else ():
        if not _is_map(step) or step.get("registry_name") != kind or not isinstance(step.get("state_file"), str):
            continue
        config, state = step.get("config"), step["state_file"]
        eps = config.get("eps", _EPS) if _is_map(config) else _EPS
        _check_modes(config.get("norm_map") if _is_map(config) else None, name)
        if not isinstance(eps, float) or not 0 <= eps <= _OUR_EPS:
            raise UserError(f"{name}: eps is {str(eps)[:20]}, not a number from 0 to {_OUR_EPS:g}: give LeRobot's file")
        if state not in files:
            raise UserError(f"{name}: its state_file {state[:80]!r} is not beside it: complete the copy")
        return state, _values(torch_tree.stored_in(state, files[state], read), read), eps
    return None


def _of_buffers(files: Mapping[str, int], read: identity.Read) -> _Found:
    for file in identity.weights_of(files):
        tensors = torch_tree.stored_in(file, files[file], read)
        if kept := {name: x for name, x in tensors.items() if name.startswith(torch_tree.STATISTICS)}:
            values = _values(kept, read)
            return file, {key: _part(values, name, file) for key, name in _BUFFERS.items()}, _EPS
    return None


def _of_dataset(files: Mapping[str, int], read: identity.Read) -> _Found:
    for name in STATS_JSON:
        if name in files:
            content = identity.read_json(read, name, files[name])
            parts = {key: content.get(theirs) if _is_map(content) else None for key, theirs in _KEYS.items()}
            if missing := [_KEYS[key] for key, part in parts.items() if not _is_map(part)]:
                raise UserError(f"{name} lacks {missing[0]}: give the stats.json of the data set it was trained on")
            return name, parts, _EPS
    return None


def _values(tensors: Mapping[str, torch_tree.Tensor], read: identity.Read) -> dict[str, Any]:
    """The values of vectors by name; what is longer than any statistic of a robot's is left out."""
    values = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) == 1 and tensor.bytes <= _VECTOR_BYTES:
            raw = read(tensor.file, tensor.bytes, tensor.start)
            if len(raw) != tensor.bytes:
                raise UserError(f"{tensor.file} is cut off at {name}: complete the copy or the download")
            values[name] = [float(x) for x in np.frombuffer(raw, tensor.dtype)]
    return values


def _part(values: Mapping[str, Any], name: str, place: str) -> dict[str, Any]:
    if missing := [f"{name}.{field}" for field in ("mean", "std") if f"{name}.{field}" not in values]:
        raise UserError(f"{place} lacks {missing[0]}: give the files of its training")
    return {field: values[f"{name}.{field}"] for field in ("mean", "std")}


def _moved(place: str, key: str, part: Mapping[str, Any], eps: float) -> dict[str, Any]:
    """The part with its deviations moved (see `norm_stats`); what is no number is left for the check of statistics."""
    std, shift = part.get("std"), _OUR_EPS - (eps if key == "state" else 0.0)
    if isinstance(std, list) and all(isinstance(x, int | float) and abs(x) < 1e300 for x in std):
        if any(0 <= x < shift for x in std[: _USED[key]]):
            raise UserError(
                f"{place}: {_KEYS[key]} has a standard deviation below {_OUR_EPS:g}, which openpi's formula cannot "
                "hold: give statistics of more data"
            )
        std = [x - shift if x >= shift else x for x in std]  # beyond those in use, padding of zeros
    return {"mean": part.get("mean"), "std": std}


def _check_modes(modes: Any, place: str) -> None:
    for kind in ("STATE", "ACTION"):
        if (mode := modes.get(kind, "MEAN_STD") if _is_map(modes) else "MEAN_STD") != "MEAN_STD":
            raise UserError(f"{place} normalises {kind} by {str(mode)[:20]}, not MEAN_STD as pi0 does: {_ANOTHER}")


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)
