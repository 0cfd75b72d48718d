"""Malformed messages and broken websocket frames, random but the same from the same seed.

Plain random draws: hypothesis takes ten times as long per message and repeats a third of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from random import Random
from typing import Any

import msgpack
from serving.conftest import G3

from flashtrail.serving.protocol import (
    EXECUTED_STEPS_KEY,
    IMAGE_MASK_KEY,
    LIBERO_SCHEMA,
    NOISE_SEED_KEY,
    RESET_KEY,
    ProtocolError,
    unpackb,
)

# Headers of msgpack that promise much: 4 GiB of text, bytes, list or map; an extension; numbers; the unused byte.
HEADERS = [b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
HEADERS += [b"\xc9\xff\xff\xff\xff\x05", b"\xcf" + b"\xff" * 8, b"\xcb\x7f\xf8" + b"\0" * 6, b"\xc1", b"\xc0", b"\x80"]
# Values that a field of a request must not have; arrays are written as their maps, so that these may be wrong too.
VALUES: list[Any] = [None, True, -1, 2**63, 1e308, float("nan"), "", "x" * 5000, b"\xff", [], [[[[]]]], {}, [0] * 600]
VALUES += [[[[]] * 500] * 40]  # short on the wire, many objects
DTYPES: list[Any] = ["|u1", "<f8", "<f4", "|O", "|V8", "<c16", "<M8[s]", "<U2000000000", "<f16", "u1,f4", "", 3, None]
SHAPES: list[Any] = [[], [0], [-1], [224, 224, 3], [8], [2**62, 4], [1] * 40, [1.5], "8", None, [True], [2**31, 2**31]]
FURTHER_KEYS = [RESET_KEY, NOISE_SEED_KEY, IMAGE_MASK_KEY, EXECUTED_STEPS_KEY, 7, b"k"]

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
FRAMES = [
    b"\x82\x05hello",  # not masked
    b"\xf2\x80\0\0\0\0",  # reserved bits
    b"\x83\x80\0\0\0\0",  # unknown opcode
    b"\x82\xff\x7f" + b"\xff" * 7 + b"\0\0\0\0",  # 2**63 bytes announced
    b"\x89\xfe\x00\x7e\0\0\0\0" + b"p" * 126,  # a ping too long
    b"\x80\x80\0\0\0\0",  # goes on with a message that never began
    b"\x81\x82\0\0\0\0\xff\xfe",  # text that is not UTF-8
    b"\x88\x81\0\0\0\0\x03",  # half a close code
    b"\x02\x81\0\0\0\0a",  # one fragment, and no more
]


def recorded_requests() -> list[bytes]:
    """What clients of the golden data sent and was a map."""
    requests = []
    for path in sorted(G3.glob("*_client.bin")):
        with contextlib.suppress(ProtocolError):
            if isinstance(unpackb(path.read_bytes()), dict):
                requests.append(path.read_bytes())
    return requests


def outside_pixels(raw: bytes) -> list[int]:
    """Offsets of a message that are not inside its pixels: there nearly every mutant would be a valid message."""
    inside = bytearray(len(raw))
    for value in msgpack.unpackb(raw, strict_map_key=False).values():
        if isinstance(value, dict) and len(data := value.get(b"data", b"")) > 1024:
            start = raw.index(data)
            inside[start : start + len(data)] = b"\1" * len(data)
    return [at for at, pixels in enumerate(inside) if not pixels]


CORPUS = recorded_requests()
OFFSETS = [outside_pixels(raw) for raw in CORPUS]
MAPS = [msgpack.unpackb(raw, strict_map_key=False) for raw in CORPUS]


def mutants(draw: Random) -> Iterator[bytes]:
    """Endless mutants of recorded requests."""
    while True:
        yield byte_mutant(draw) if draw.random() < 0.6 else field_mutant(draw)


def byte_mutant(draw: Random) -> bytes:
    """A request with one to eight edits that know nothing of its fields."""
    which = draw.randrange(len(CORPUS))
    raw = bytearray(CORPUS[which])
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = min(draw.choice(OFFSETS[which]), len(raw))
        edit = draw.choice(("flip", "replace", "header", "delete", "splice", "truncate"))
        if edit == "flip" and at < len(raw):
            raw[at] ^= 1 << draw.randrange(8)
        elif edit == "replace":
            raw[at : at + draw.randint(1, 9)] = draw.randbytes(draw.randint(1, 9))
        elif edit == "header":
            header = draw.choice(HEADERS)
            raw[at : at + draw.choice((0, 1, len(header)))] = header
        elif edit == "delete":
            del raw[at : at + draw.randint(1, 64)]
        elif edit == "splice":
            other = draw.randrange(len(CORPUS))
            raw[at:] = CORPUS[other][draw.choice(OFFSETS[other]) :]
        else:
            del raw[at:]
    return bytes(raw[: 2 * LIBERO_SCHEMA.max_message_bytes])


def field_mutant(draw: Random) -> bytes:
    """A request with one or two fields missing, or of another type, dtype or shape; sometimes with a key too many."""
    message = dict(draw.choice(MAPS))
    for _ in range(draw.choice((1, 1, 2))):
        key = draw.choice(list(message)) if message else "prompt"
        value = message.get(key)
        edit = draw.choice(("remove", "value", "dtype", "shape", "part"))
        if edit == "remove":
            message.pop(key, None)
        elif edit == "value" or not isinstance(value, dict):
            message[key] = draw.choice(VALUES)
        elif edit == "dtype":
            message[key] = {**value, b"dtype": draw.choice(DTYPES)}
        elif edit == "shape":
            message[key] = {**value, b"shape": draw.choice(SHAPES)}
        else:
            message[key] = {name: item for name, item in value.items() if name != draw.choice(list(value))}
        if draw.random() < 0.2:
            message[draw.choice(FURTHER_KEYS)] = draw.choice(VALUES)
    return bytes(msgpack.packb(message))


def broken_opening(draw: Random) -> bytes:
    """What a peer sends that does not speak websocket after its handshake; one in ten does not speak HTTP."""
    if draw.random() < 0.1:
        return draw.randbytes(200)
    return HANDSHAKE + draw.choice([*FRAMES, draw.randbytes(draw.randint(1, 64))])
