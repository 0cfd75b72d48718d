"""The wire: msgpack with numpy arrays, what a request may hold, what a reply holds (the official FLASH protocol).

Pure functions over bytes. Every refusal is a `ProtocolError`: one line that begins with the name of the field and is
safe to send to a stranger.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from flashtrail.base.errors import UserError, nearest

IMAGE_KEYS = ("observation/image", "observation/wrist_image")
STATE_KEY = "observation/state"
PROMPT_KEY = "prompt"
EXECUTED_STEPS_KEY = "__executed_steps__"
RESET_KEY = "__reset_policy_state__"
IMAGE_MASK_KEY = "__image_mask__"
NOISE_SEED_KEY = "noise_seed"
TRACE_KEYS = ("__trace_run_id__", "__trace_task_id__", "__trace_episode_idx__", "__trace_infer_id__")
CONTROL_KEYS = (EXECUTED_STEPS_KEY, RESET_KEY, IMAGE_MASK_KEY, *TRACE_KEYS)

REPLY_KEYS = ("actions", "accepted_prefix_len", "policy_timing", "server_timing")
# In the order of the official server; the two `prev_*` keys appear from a connection's second reply on.
SERVER_TIMING_KEYS = (
    "ws_recv_ms",
    "ws_unpack_ms",
    "infer_ms",
    "policy_time_ms",
    "server_recv_timestamp_s",
    "prev_total_ms",
    "prev_ws_send_ms",
    "ws_pack_ms",
    "serve_time_ms",
    "server_response_timestamp_s",
)

# Plain numbers and fixed-width text: what upstream's codec accepts, less the platform's own (long double, dates).
_DTYPE = re.compile(r"[<>|=](b1|[iu][1248]|f[248]|[US][1-9]\d{0,3})")
_ARRAY_FIELDS = frozenset((b"__ndarray__", b"data", b"dtype", b"shape"))
_SCALAR_FIELDS = frozenset((b"__npgeneric__", b"data", b"dtype"))
_MAX_DEPTH = 16
_MAX_NDIM = 8
# msgpack allocates a list from its declared length, before reading it: a short message must not ask for much.
_MAX_ITEMS = 512
# And in all: what is one byte on the wire may be an empty list, 56 bytes and a Python object.
_MAX_VALUES = 4096
_MAX_NOISE_SEED_WORDS = 64
_MAX_PROMPT_CHARS = 4096
_MAX_INTEGER = 2**63 - 1
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class ProtocolError(UserError, ValueError):
    """A message outside the protocol; ``str()`` is one line, ``field: what is wrong``, fit for the wire."""


class ResultError(ProtocolError):
    """A policy's result outside the protocol: not the client's doing."""


class NotFlashError(ProtocolError):
    """A reply without an accepted prefix: from an openpi server without FLASH."""


@dataclass(frozen=True)
class ObservationSchema:
    """What the arrays of a request must be: (H, W, 3) uint8 for each view and a flat real state.

    The defaults are those of `pi0_libero` and its family.
    """

    image_shape: tuple[int, int, int] = (224, 224, 3)
    state_dim: int = 8

    @property
    def max_message_bytes(self) -> int:
        """Size limit of a request. Eight times the images, so that float64 images are still refused by name."""
        return 8 * len(IMAGE_KEYS) * math.prod(self.image_shape) + 65536


LIBERO_SCHEMA = ObservationSchema()


@dataclass(frozen=True)
class Request:
    """A checked request.

    `observation` holds the two images (H, W, 3) uint8, the state (8,) float, the prompt and, if sent,
    ``__image_mask__``; its arrays are read-only views of the message. `executed_steps` is None where the client
    did not send it (a policy then assumes that it executed everything it could).
    """

    observation: dict[str, Any]
    executed_steps: int | None
    reset: bool
    noise_seed: list[int] | int | None


# --- codec ---


def packb(value: Any) -> bytes:
    """Return `value` as msgpack, byte for byte as upstream's msgpack_numpy packs it.

    Raises ProtocolError for void, object and complex arrays and for whatever msgpack cannot hold.
    """
    try:
        return bytes(msgpack.packb(value, default=_numpy_to_map))
    except (TypeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"message: cannot be packed ({error})") from None


def _numpy_to_map(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise ProtocolError(f"message: cannot send a {type(value).__name__}")
    if not _DTYPE.fullmatch(value.dtype.str):
        raise ProtocolError(f"message: cannot send an array of dtype {value.dtype}")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def unpackb(raw: bytes, max_bytes: int | None = None) -> Any:
    """Return the value in `raw`; arrays come back as read-only views of it.

    Checks the size, the nesting, the number of values, that the keys of a map are unique, every array's dtype against a
    whitelist, and its data against its shape. Raises ProtocolError that names the field, as a path of map keys.
    """
    if max_bytes is not None and len(raw) > max_bytes:
        raise ProtocolError(f"message: {len(raw)} bytes, at most {max_bytes} are accepted")
    census = _Census()
    try:
        value = msgpack.unpackb(
            raw,
            object_pairs_hook=census.map,
            list_hook=census.list,
            max_ext_len=0,
            max_array_len=_MAX_ITEMS,
            max_map_len=_MAX_ITEMS,
            strict_map_key=True,  # text or bytes only
        )
    except ProtocolError:
        raise
    except msgpack.exceptions.ExtraData:
        raise ProtocolError("message: bytes follow the end of the msgpack value") from None
    except (msgpack.exceptions.UnpackException, ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"message: not valid msgpack ({type(error).__name__})") from None
    return _restore(value, (), 0)


class _Census:
    """Counts the values of a message while it is decoded, so that a short one cannot create many objects."""

    def __init__(self) -> None:
        self._values = 0

    def list(self, items: list[Any]) -> list[Any]:
        """Count a list."""
        self._count(len(items))
        return items

    def map(self, pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
        """Count a map, and make it."""
        self._count(len(pairs))
        made = dict(pairs)
        if len(made) != len(pairs):
            seen = [key for key, _ in pairs]
            duplicate = next(key for key in seen if seen.count(key) > 1)
            raise ProtocolError(f"{_printable(duplicate)}: duplicate key in a map")
        return made

    def _count(self, more: int) -> None:
        self._values += 1 + more
        if self._values > _MAX_VALUES:
            raise ProtocolError(f"message: holds more than {_MAX_VALUES} values")


def _restore(value: Any, path: tuple[str, ...], depth: int) -> Any:
    """Replace the maps that stand for arrays and numpy scalars, from the leaves up."""
    if depth > _MAX_DEPTH:
        raise ProtocolError(f"{_name(path[:1])}: nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        if b"__ndarray__" in value:
            return _restore_array(value, _name(path))
        if b"__npgeneric__" in value:
            return _restore_scalar(value, _name(path))
        return {key: _restore(item, (*path, _printable(key)), depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item, path, depth + 1) for item in value]
    return value


def _restore_array(value: dict[Any, Any], name: str) -> np.ndarray:
    if set(value) != _ARRAY_FIELDS:
        raise ProtocolError(f"{name}: an array needs exactly __ndarray__, data, dtype and shape")
    data, shape, dtype = value[b"data"], value[b"shape"], _dtype(value[b"dtype"], name)
    if not isinstance(data, bytes):
        raise ProtocolError(f"{name}: array data must be bytes, not {type(data).__name__}")
    if not isinstance(shape, list) or len(shape) > _MAX_NDIM:
        raise ProtocolError(f"{name}: array shape must be a list of at most {_MAX_NDIM} sizes")
    if any(type(size) is not int or not 0 <= size < 2**31 for size in shape):
        raise ProtocolError(f"{name}: array shape must hold sizes from 0 to 2**31-1")
    expected = math.prod(shape) * dtype.itemsize
    if expected != len(data):
        raise ProtocolError(f"{name}: {len(data)} bytes of data, shape {tuple(shape)} of {dtype} needs {expected}")
    try:
        return np.ndarray(buffer=data, dtype=dtype, shape=tuple(shape))
    except (ValueError, TypeError):
        raise ProtocolError(f"{name}: shape {tuple(shape)} of {dtype} is not possible") from None


def _restore_scalar(value: dict[Any, Any], name: str) -> np.generic:
    if set(value) != _SCALAR_FIELDS:
        raise ProtocolError(f"{name}: a numpy scalar needs exactly __npgeneric__, data and dtype")
    data, dtype = value[b"data"], _dtype(value[b"dtype"], name)
    wanted: tuple[type, ...] = {"b": (bool,), "f": (float, int), "U": (str,), "S": (bytes,)}.get(dtype.kind, (int,))
    if not isinstance(data, wanted) or (isinstance(data, bool) and dtype.kind != "b"):
        raise ProtocolError(f"{name}: {type(data).__name__} data does not fit numpy scalar {dtype}")
    try:
        if isinstance(data, int) and dtype.kind in "iu":
            bounds = np.iinfo(dtype)
            if not bounds.min <= data <= bounds.max:
                raise OverflowError  # numpy before 2 wraps silently
        return dtype.type(data)
    except (ValueError, TypeError, OverflowError):
        raise ProtocolError(f"{name}: data is out of range for numpy scalar {dtype}") from None


def _dtype(text: Any, name: str) -> np.dtype:
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise ProtocolError(f"{name}: dtype is not one of bool, int, uint, float16-64 or fixed-width text")
    return np.dtype(text)


def _printable(key: Any) -> str:
    text = key.decode("ascii", "replace") if isinstance(key, bytes) else str(key)
    return "".join(c if c.isprintable() else "?" for c in text[:60])


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path) or "message"


# --- requests ---


def parse_request(raw: bytes | str, schema: ObservationSchema = LIBERO_SCHEMA) -> Request:
    """Return the checked request in one websocket message; raise ProtocolError naming the offending field.

    Unknown observation keys are ignored, as the official server does; an unknown ``__control__`` key is refused,
    because a misspelt reset would silently mix two episodes.
    """
    if isinstance(raw, str):
        raise ProtocolError("message: expected a binary frame with msgpack, got a text frame")
    message = unpackb(raw, schema.max_message_bytes)
    if not isinstance(message, dict):
        raise ProtocolError(f"message: expected a map, got {_kind(message)}")
    for key in message:
        if not isinstance(key, str):
            raise ProtocolError(f"{_printable(key)}: top-level keys must be text")
        if key.startswith("__") and key not in CONTROL_KEYS:
            raise ProtocolError(f"{_printable(key)}: unknown control key{nearest(key[:60], CONTROL_KEYS)}")
    observation: dict[str, Any] = {key: _image(message, key, schema.image_shape) for key in IMAGE_KEYS}
    observation[STATE_KEY] = _state(message, schema.state_dim)
    observation[PROMPT_KEY] = _prompt(message)
    if message.get(IMAGE_MASK_KEY) is not None:
        observation[IMAGE_MASK_KEY] = _image_mask(message[IMAGE_MASK_KEY])
    executed = message.get(EXECUTED_STEPS_KEY)
    return Request(
        observation=observation,
        executed_steps=None if executed is None else _integer(executed, EXECUTED_STEPS_KEY),
        reset=_flag(message.get(RESET_KEY, False), RESET_KEY),
        noise_seed=_noise_seed(message.get(NOISE_SEED_KEY)),
    )


def _required(message: Mapping[str, Any], key: str) -> Any:
    if key not in message:
        raise ProtocolError(f"{key}: missing from the request")
    return message[key]


def _image(message: Mapping[str, Any], key: str, shape: tuple[int, int, int]) -> np.ndarray:
    value = _required(message, key)
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.shape != shape:
        raise ProtocolError(f"{key}: expected a uint8 array of shape {shape}, got {_kind(value)}")
    return value


def _state(message: Mapping[str, Any], dim: int) -> np.ndarray:
    value = _required(message, STATE_KEY)
    real = isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.shape == (dim,)
    if not real:
        raise ProtocolError(f"{STATE_KEY}: expected a float array of shape ({dim},), got {_kind(value)}")
    if not np.isfinite(value).all():
        raise ProtocolError(f"{STATE_KEY}: holds a value that is not finite")
    if np.abs(value).max(initial=0) > _FLOAT32_MAX:
        raise ProtocolError(f"{STATE_KEY}: holds a value beyond float32, in which policies compute")
    return value


def _prompt(message: Mapping[str, Any]) -> str:
    value = _required(message, PROMPT_KEY)
    if not isinstance(value, str):
        raise ProtocolError(f"{PROMPT_KEY}: expected text, got {_kind(value)}")
    if len(value) > _MAX_PROMPT_CHARS:
        raise ProtocolError(f"{PROMPT_KEY}: {len(value)} characters, at most {_MAX_PROMPT_CHARS} are accepted")
    return value


def _image_mask(value: Any) -> list[bool]:
    items = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(items, list) or len(items) != len(IMAGE_KEYS) or not all(_is_flag(i) for i in items):
        raise ProtocolError(f"{IMAGE_MASK_KEY}: expected {len(IMAGE_KEYS)} booleans, got {_kind(value)}")
    return [_flag(item, IMAGE_MASK_KEY) for item in items]


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or (isinstance(value, int) and value in (0, 1))


def _flag(value: Any, key: str) -> bool:
    if not _is_flag(value):
        raise ProtocolError(f"{key}: expected true or false, got {_kind(value)}")
    return bool(value)


def _integer(value: Any, key: str) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or abs(int(value)) > _MAX_INTEGER:
        raise ProtocolError(f"{key}: expected an integer, got {_kind(value)}")
    return int(value)


def _noise_seed(value: Any) -> list[int] | int | None:
    if value is None:
        return None
    words = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(words, list):
        return _seed_word(words)
    if not 1 <= len(words) <= _MAX_NOISE_SEED_WORDS:
        raise ProtocolError(f"{NOISE_SEED_KEY}: expected 1 to {_MAX_NOISE_SEED_WORDS} integers")
    return [_seed_word(word) for word in words]


def _seed_word(value: Any) -> int:
    word = _integer(value, NOISE_SEED_KEY)
    if word < 0:
        raise ProtocolError(f"{NOISE_SEED_KEY}: expected integers from 0 on, got a negative one")
    return word


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return "nothing" if value is None else type(value).__name__


# --- replies ---


def reply_message(result: Mapping[str, Any], server_timing: Mapping[str, float] | None) -> dict[str, Any]:
    """Return the reply map in the official key order; without `server_timing` it is the part to time packing on.

    Raises ProtocolError where a policy's result lacks a key, has no (H, D) real actions, or an accepted prefix
    outside them.
    """
    for key in REPLY_KEYS[:3]:
        if key not in result:
            raise ProtocolError(f"{key}: missing from the policy's result")
    actions = result["actions"]
    if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind != "f":
        raise ProtocolError(f"actions: expected a 2-dimensional float array, got {_kind(actions)}")
    accepted = _integer(result["accepted_prefix_len"], "accepted_prefix_len")
    if not 0 <= accepted <= len(actions):
        raise ProtocolError(f"accepted_prefix_len: {accepted} is outside 0..{len(actions)}")
    reply = {"actions": actions, "accepted_prefix_len": accepted, "policy_timing": result["policy_timing"]}
    if server_timing is not None:
        reply["server_timing"] = server_timing
    return reply


def pack_result(result: Mapping[str, Any]) -> bytes:
    """Return a policy's result packed as a reply without `server_timing`, which has yet to be known.

    Raises ResultError where it is no reply, or holds actions that are not finite: they are never sent.
    """
    try:
        reply = reply_message(result, None)
        packed = packb(reply)
    except ProtocolError as error:
        raise ResultError(str(error)) from None
    if not np.isfinite(reply["actions"]).all():
        raise ResultError("actions: the policy returned a value that is not finite")
    return packed


def parse_reply(raw: bytes, max_bytes: int) -> dict[str, Any]:
    """Return the reply in a binary frame: `actions` (H, D) as float64, both timing maps (empty where absent).

    Raises ProtocolError where it is not one. The keys that only some servers send are not required.
    """
    message = unpackb(raw, max_bytes)
    if not isinstance(message, dict):
        raise ProtocolError(f"message: expected a map, got {_kind(message)}")
    if "actions" in message and REPLY_KEYS[1] not in message:
        raise NotFlashError(f"{REPLY_KEYS[1]}: missing from the reply")
    reply = reply_message({"policy_timing": {}, **message}, message.get("server_timing", {}))
    for key in REPLY_KEYS[2:]:
        if not isinstance(reply[key], dict):
            raise ProtocolError(f"{key}: expected a map, got {_kind(reply[key])}")
    return {**reply, "actions": np.array(reply["actions"], dtype=np.float64)}
