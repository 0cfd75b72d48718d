"""The codec against the golden bytes, and one refusal per rule."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import msgpack
import numpy as np
import pytest

from flashtrail.serving.protocol import (
    LIBERO_SCHEMA,
    SERVER_TIMING_KEYS,
    ObservationSchema,
    ProtocolError,
    packb,
    parse_request,
    unpackb,
)

G3 = Path(__file__).parents[1] / "golden" / "G3_wire"
PACKED = json.loads((G3 / "pack_index.json").read_text())


def assert_decoded(value, expected) -> None:
    if isinstance(expected, dict) and "ndarray" in expected:
        assert isinstance(value, np.ndarray) and value.dtype.str == expected["dtype"]
        assert list(value.shape) == expected["shape"]
        np.testing.assert_array_equal(value, np.array(expected["values"], value.dtype).reshape(value.shape))
    elif isinstance(expected, dict) and "npgeneric" in expected:
        assert isinstance(value, np.generic) and value.dtype.str == expected["npgeneric"]
        assert value.item() == expected["value"]
    elif isinstance(expected, dict) and "float" in expected:
        assert isinstance(value, float) and str(value) == expected["float"]
    elif isinstance(expected, dict) and "bytes_hex" in expected:
        assert value == bytes.fromhex(expected["bytes_hex"])
    elif isinstance(expected, dict):
        assert list(value) == list(expected)
        for key in expected:
            assert_decoded(value[key], expected[key])
    elif isinstance(expected, list):
        assert len(value) == len(expected)
        for one, other in zip(value, expected, strict=True):
            assert_decoded(one, other)
    else:
        assert type(value) is type(expected) and value == expected


@pytest.mark.parametrize("name", sorted(PACKED["cases"]))
def test_codec_agrees_with_golden_bytes(name: str) -> None:
    case = PACKED["cases"][name]
    raw = (G3 / case["file"]).read_bytes()
    assert_decoded(unpackb(raw), case["decoded"])
    assert packb(unpackb(raw)) == raw


@pytest.mark.parametrize("name", ["fortran_order", "strided"])
def test_memory_layout_does_not_reach_the_wire(name: str) -> None:
    raw = (G3 / PACKED["cases"][name]["file"]).read_bytes()
    array = unpackb(raw)
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    assert packb(np.asfortranarray(array)) == raw
    assert packb(wide[..., ::2]) == raw


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(2, np.complex64),
        np.array([None]),
        np.zeros(1, [("a", "<i4")]),
        np.zeros(1, "M8[s]"),
        np.zeros(1, np.longdouble),
        np.complex64(1),
        {"set": {1}},
        2**70,
    ],
)
def test_what_the_wire_cannot_hold_is_refused_when_packing(value) -> None:
    with pytest.raises(ProtocolError, match="message"):
        packb({"x": value})


def packed_array(**changes) -> bytes:
    fields = {"__ndarray__": True, "data": b"\0" * 8, "dtype": "<f4", "shape": [2], **changes}
    body = {name.encode(): value for name, value in fields.items() if value is not ...}
    return msgpack.packb({"camera": body})


@pytest.mark.parametrize("dtype", ["|O", "|V8", "<c8", "<f16", "<M8[s]", "f4,f4", "<U0", "<U99999", "", 7, b"<f4"])
def test_dtype_outside_the_whitelist_is_refused_by_name(dtype) -> None:
    with pytest.raises(ProtocolError, match=r"^camera: dtype"):
        unpackb(packed_array(dtype=dtype))


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [3]},
        {"shape": [-2]},
        {"shape": [True, 2]},
        {"shape": "2"},
        {"shape": [2.0]},
        {"shape": [1] * 9},
        {"shape": [0, 2**31 - 1, 2**31 - 1, 2**31 - 1], "data": b""},
        {"shape": [2**31], "data": b""},
        {"data": "text"},
        {"data": b"\0" * 9},
        {"data": ...},
        {"shape": ...},
        {"extra": 1},
    ],
)
def test_array_whose_shape_and_data_disagree_is_refused_by_name(changes) -> None:
    with pytest.raises(ProtocolError, match=r"^camera: "):
        unpackb(packed_array(**changes))


@pytest.mark.parametrize(
    ("dtype", "data"), [("|u1", 256), ("<i8", 1.5), ("|b1", 1), ("<f4", "1"), ("<i4", True), ("<f4", 10**18 + 0.5j)]
)
def test_numpy_scalar_that_does_not_fit_is_refused(dtype, data) -> None:
    if isinstance(data, complex):
        data = None
    with pytest.raises(ProtocolError, match=r"^x: "):
        unpackb(msgpack.packb({"x": {b"__npgeneric__": True, b"data": data, b"dtype": dtype}}))


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x81\xa1a",
        b"\x01\x02",
        msgpack.packb({"a": 1}) + b"\0",
        msgpack.packb({1: 2}),
        msgpack.packb(msgpack.ExtType(5, b"abc")),
        msgpack.packb(nested(17)),
        msgpack.packb(nested(400)),
        b"\xdd\x7f\xff\xff\xff" * 200,
        b"\xdf\x7f\xff\xff\xff" * 200,
        b"\x81\xa1\xff\x01",
    ],
)
def test_malformed_msgpack_is_one_line(raw: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        unpackb(raw)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_twice_in_a_map_is_refused_by_name(observation) -> None:
    message = bytearray(packb({**observation, "__reset_policy_state__": True}))
    message[0] += 1
    with pytest.raises(ProtocolError, match=r"^__reset_policy_state__: duplicate key in a map"):
        parse_request(bytes(message + msgpack.packb("__reset_policy_state__") + b"\xc2"))
    with pytest.raises(ProtocolError, match=r"^a: duplicate key in a map"):
        unpackb(b"\x81\xa1x\x82\xa1a\x01\xa1a\x02")


@pytest.mark.parametrize("empty", [b"\x90", b"\x80", b"\xc0"])
def test_a_message_of_many_values_costs_little(empty) -> None:
    """2.3 MB on the wire: as objects 200 MB, and seconds in which nobody else is answered."""
    of_512 = b"\xdc\x02\x00"
    bomb = b"\x81\xa1x\x98" + (of_512 + (of_512 + empty * 512) * 512) * 8
    assert 2_000_000 < len(bomb) < LIBERO_SCHEMA.max_message_bytes
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=r"^message: holds more than 4096 values"):
            parse_request(bomb)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_size_limit_comes_before_decoding() -> None:
    with pytest.raises(ProtocolError, match="at most 10 are accepted"):
        unpackb(b"\xc1" * 11, max_bytes=10)


def test_golden_requests_are_read(transcripts, golden_bytes) -> None:
    requests = [
        parse_request(golden_bytes(m["file"])) for m in transcripts["episode"]["messages"] if m["sender"] == "client"
    ]
    assert [r.reset for r in requests] == [True, False, False, False]
    assert [r.executed_steps for r in requests] == [0, 12, 12, 0]
    assert all(r.observation["prompt"] == "put the bowl on the plate" for r in requests)
    assert all(set(r.observation) == set(requests[0].observation) for r in requests)
    assert len(requests[0].observation) == 4


def test_timing_keys_are_those_of_the_official_server(golden_replies) -> None:
    assert tuple(golden_replies[1]["server_timing"]) == SERVER_TIMING_KEYS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("observation/image", ...),
        ("observation/wrist_image", ...),
        ("observation/state", ...),
        ("prompt", ...),
        ("observation/image", np.zeros((224, 224, 3))),
        ("observation/image", np.zeros((3, 224, 224), np.uint8)),
        ("observation/wrist_image", np.zeros((0, 224, 3), np.uint8)),
        ("observation/wrist_image", b"\0" * 10),
        ("observation/state", np.zeros(7)),
        ("observation/state", np.zeros((8, 1))),
        ("observation/state", np.array([0.0] * 7 + [math.nan])),
        ("observation/state", np.array([0.0] * 7 + [math.inf], np.float32)),
        ("observation/state", np.array([0.0] * 7 + [1e39])),
        ("observation/state", ["a"] * 8),
        ("prompt", 7),
        ("prompt", "x" * 5000),
        ("__executed_steps__", "12"),
        ("__executed_steps__", 12.0),
        ("__executed_steps__", True),
        ("__executed_steps__", 2**63),
        ("__reset_policy_state__", "yes"),
        ("__reset_policy_state__", 2),
        ("__reset_policy__", True),
        ("__image_mask__", [True]),
        ("__image_mask__", [True, "no"]),
        ("noise_seed", -1),
        ("noise_seed", []),
        ("noise_seed", [1, 2.5]),
        ("noise_seed", [1] * 65),
        ("noise_seed", "7"),
    ],
)
def test_violation_names_its_field(observation, key, value) -> None:
    message = {**observation, key: value}
    if value is ...:
        del message[key]
    with pytest.raises(ProtocolError) as caught:
        parse_request(packb(message))
    assert str(caught.value).startswith(f"{key}: ")
    assert "\n" not in str(caught.value)


def test_misspelt_control_key_is_offered_the_right_one(observation) -> None:
    with pytest.raises(ProtocolError, match="did you mean '__reset_policy_state__'"):
        parse_request(packb({**observation, "__reset_policy_stat__": True}))


def test_optional_keys_are_understood(observation) -> None:
    request = parse_request(
        packb(
            {
                **observation,
                "observation/depth": 1,
                "__executed_steps__": np.int64(-3),
                "__reset_policy_state__": np.bool_(True),
                "__image_mask__": np.array([True, False]),
                "noise_seed": [2**63 - 1, 0],
            }
        )
    )
    assert request.executed_steps == -3 and request.reset is True
    assert request.noise_seed == [2**63 - 1, 0]
    assert request.observation["__image_mask__"] == [True, False]
    assert "observation/depth" not in request.observation


def test_size_limit_leaves_room_for_naming_a_float_image(observation) -> None:
    message = packb({**observation, "observation/image": np.zeros((224, 224, 3))})
    assert len(message) < LIBERO_SCHEMA.max_message_bytes < 4_000_000


def test_schema_of_another_size(observation) -> None:
    small = ObservationSchema(image_shape=(8, 8, 3), state_dim=2)
    observation.update(
        {
            "observation/image": np.zeros((8, 8, 3), np.uint8),
            "observation/wrist_image": np.zeros((8, 8, 3), np.uint8),
            "observation/state": np.zeros(2, np.float32),
        }
    )
    assert parse_request(packb(observation), small).observation["observation/state"].shape == (2,)
