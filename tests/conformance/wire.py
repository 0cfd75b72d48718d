"""G3: the wire, byte for byte, and a recorded episode answered again by this package's own policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conformance.golden import Arrays, Golden, read_json, read_npz
from conformance.rows import Parts, Rows, close, count, same
from conformance.sessions import equal

from flashtrail.policies.pi0 import transforms as tf
from flashtrail.policies.pi0.engine import Engine
from flashtrail.policies.pi0.policy import EXTRA_KEYS, FlashPolicy
from flashtrail.serving import protocol

ACTIONS, RADIUS = 2e-5, 1e-5
REJECTED = {
    "complex64": np.zeros(2, np.complex64),
    "object": np.asarray([None], dtype=object),
    "void": np.zeros(2, np.dtype([("a", "<i4")])),
}


@dataclass(frozen=True)
class RoundToBfloat16:
    """Upstream rounds image and state to bf16 before its float32 route; only a replay of its records wants this."""

    def __call__(self, data: tf.Data) -> tf.Data:
        rounded = {
            key: torch.from_numpy(np.asarray(data[key], np.float32)).to(torch.bfloat16).float().numpy()
            for key in ("images", "state")
        }
        return data | rounded


def parts(golden: Golden) -> Parts:
    folder = golden.root / "G3_wire"
    yield "G3 pack", packing(folder)
    for connection in read_json(folder / "index.json")["connections"]:
        name = f"G3 {connection['name']}"
        if connection["name"] == "episode":
            yield name, episode(golden, folder, connection)
        else:
            yield name, refusal(folder, connection, name)


def packing(folder: Path) -> Rows:
    """Unpack, compare with the index, pack again: the bytes must be upstream's."""
    index = read_json(folder / "pack_index.json")
    wrong_values, wrong_bytes = [], []
    for name, case in index["cases"].items():
        raw = (folder / case["file"]).read_bytes()
        value = protocol.unpackb(raw)
        if describe(value) != _normal(case["decoded"]):
            wrong_values.append(name)
        if raw.hex() != case["hex"] or protocol.packb(value) != raw:
            wrong_bytes.append(name)
    yield count("G3 pack_* decoded", wrong_values, len(index["cases"]))
    yield count("G3 pack_* byte-exact", wrong_bytes, len(index["cases"]))
    accepted = [name for name in index["rejected"] if not _rejects(REJECTED[name])]
    yield count("G3 pack rejected types", accepted, len(index["rejected"]))


def _rejects(value: Any) -> bool:
    try:
        protocol.packb(value)
    except protocol.ProtocolError:
        return True
    return False


def describe(value: Any) -> Any:
    """A decoded value in the index's terms."""
    if isinstance(value, np.ndarray):
        return {"ndarray": True, "dtype": value.dtype.str, "shape": list(value.shape), "values": value.tolist()}
    if isinstance(value, np.generic):
        return {"npgeneric": value.dtype.str, "value": value.item()}
    if isinstance(value, dict):
        return {k: describe(v) for k, v in value.items()}
    if isinstance(value, list):
        return [describe(v) for v in value]
    if isinstance(value, bytes):
        return {"bytes_hex": value.hex()}
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": str(value)}
    return value


def _normal(value: Any) -> Any:
    """The index writes finite msgpack floats both plainly and as {"float": x}."""
    if isinstance(value, dict):
        if set(value) == {"float"} and not isinstance(value["float"], str):
            return value["float"]
        return {k: _normal(v) for k, v in value.items()}
    return [_normal(v) for v in value] if isinstance(value, list) else value


def episode(golden: Golden, folder: Path, connection: dict) -> Rows:
    """Metadata, then each request answered by our policy: actions, routes, keys."""
    messages = connection["messages"]
    metadata = (folder / messages[0]["file"]).read_bytes()
    yield same("G3 episode metadata frame", protocol.packb({}), metadata)
    side = read_npz(folder / "episode_side_inputs.npz")
    policy, session = replay_policy(golden, side), None
    seen: set[str] = set()
    for number, (sent, answered) in enumerate(zip(messages[1::2], messages[2::2], strict=True)):
        name = f"G3 episode round{number}"
        request = protocol.parse_request((folder / sent["file"]).read_bytes())
        session = session or policy.new_session()
        ours = policy.replay(
            session,
            request.observation,
            side[f"noise_{number}"],
            executed_steps=request.executed_steps,
            reset=request.reset,
        )
        theirs = protocol.unpackb((folder / answered["file"]).read_bytes())
        yield same(f"{name} decoded actions", theirs["actions"].tolist(), side[f"actions_{number}"].tolist())
        yield close(f"{name} actions", ours["actions"], theirs["actions"], ACTIONS)
        yield same(f"{name} actions dtype", ours["actions"].dtype.str, theirs["actions"].dtype.str)
        yield same(f"{name} accepted_prefix_len", ours["accepted_prefix_len"], theirs["accepted_prefix_len"])
        reply = protocol.unpackb(protocol.packb(protocol.reply_message(ours, theirs["server_timing"])))
        yield same(f"{name} reply keys", list(reply), answered["top_level_key_order"])
        yield from timing_rows(reply["policy_timing"], theirs["policy_timing"], name)
        seen |= set(theirs["server_timing"])
    yield same("G3 server_timing keys", sorted(protocol.SERVER_TIMING_KEYS), sorted(seen))


def timing_rows(ours: dict, theirs: dict, name: str) -> Rows:
    """The key set, and every value that is not a time of some machine."""
    yield same(f"{name} policy_timing keys", sorted(set(ours) - set(EXTRA_KEYS)), sorted(theirs))
    wrong = []
    for key in set(theirs) - {k for k in theirs if k.endswith("_ms")}:
        a, b = ours.get(key), theirs[key]
        near = key.startswith("radius_dist") and isinstance(a, float) and abs(a - b) <= RADIUS
        if not near and not equal(a, None if isinstance(b, float) and np.isnan(b) else b):
            wrong.append(f"{key}: ours {a}, golden {b}")
    yield count(f"{name} policy_timing values", wrong, len(theirs))


def replay_policy(golden: Golden, side: Arrays) -> FlashPolicy:
    """Our policy with G1's weights, G4's draft, default settings, the recorded tokens and upstream's rounding."""
    dims = golden.base[1]
    state, actions = golden.stats("checkpoint")
    tokens = side["token_ids"][side["token_mask"].astype(bool)].astype(np.int64)
    inputs: list[tf.Transform] = [
        tf.PickViews(dims.num_views, dims.state_dim),
        tf.NormalizeState(state),
        tf.ResizeWithPad(dims.vision.image_size),
        tf.ScaleImages(dims.vision.image_size),
        tf.Tokenize(lambda prompt: tokens),
        tf.PadState(dims.action_dim),
        RoundToBfloat16(),
    ]
    outputs: list[tf.Transform] = [tf.UnnormalizeActions(actions, dims.env_action_dim), tf.AbsoluteActions()]
    return FlashPolicy(Engine(golden.runtime), inputs, outputs)


def refusal(folder: Path, connection: dict, name: str) -> Rows:
    """A request that upstream answers with an error is refused here too, by one line without a traceback."""
    sent = next(m for m in connection["messages"] if m["sender"] == "client")
    text = ""
    try:
        protocol.parse_request((folder / sent["file"]).read_bytes())
    except protocol.ProtocolError as error:
        text = str(error)
    yield same(f"{name} refused in one line", bool(text) and "\n" not in text and "Traceback" not in text, True)
