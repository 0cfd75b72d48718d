"""Malformed messages, a small share of `make fuzz`; and that the fuzzer would notice what it looks for."""

from __future__ import annotations

import contextlib
import logging
import mmap
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving.conftest import resident_mb
from serving.in_process import running
from serving.malformed import CORPUS, broken_opening, mutants
from serving.test_limits import until
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect

from flashtrail.serving.client import healthy
from flashtrail.serving.protocol import (
    CONTROL_KEYS,
    IMAGE_KEYS,
    NOISE_SEED_KEY,
    PROMPT_KEY,
    STATE_KEY,
    ProtocolError,
    packb,
    parse_request,
    unpackb,
)
from flashtrail.serving.server import Limits, PolicyServer

PROPERTY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
arrays = st.fixed_dictionaries(
    {},
    optional={
        b"__ndarray__": scalars,
        b"__npgeneric__": scalars,
        b"data": scalars,
        b"dtype": st.sampled_from(["<f8", "|u1", "|b1", "<U3", "|O", "<M8[s]", "<i8"]) | scalars,
        b"shape": st.lists(st.integers(-2, 300), max_size=9) | scalars,
    },
)
values = st.recursive(scalars | arrays, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4))
keys = st.sampled_from([*IMAGE_KEYS, STATE_KEY, PROMPT_KEY, NOISE_SEED_KEY, *CONTROL_KEYS]) | st.text() | st.binary()


def refusal(raw: bytes) -> str | None:
    """The line a message is refused with, held to what may cross the wire; None where it is valid."""
    try:
        parse_request(raw)
    except ProtocolError as error:
        assert one_line_about_a_field(str(error))
        return str(error)
    return None


def one_line_about_a_field(line: str) -> bool:
    return "\n" not in line and ": " in line and len(line) <= 400


@PROPERTY
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_line(raw) -> None:
    assert refusal(raw)


@PROPERTY
@given(st.dictionaries(keys, values, max_size=6))
def test_any_map_is_refused_with_a_line(message) -> None:
    assert refusal(msgpack.packb(message))


@PROPERTY
@given(st.data())
def test_any_wrong_value_in_a_golden_request_names_its_field(data) -> None:
    message = msgpack.unpackb(CORPUS[0], strict_map_key=False)
    key = data.draw(st.sampled_from([*IMAGE_KEYS, STATE_KEY]))
    message[key] = data.draw(values)
    line = refusal(msgpack.packb(message))
    assert line is not None and line.startswith((f"{key}:", f"{key}."))


@PROPERTY
@given(st.floats(), st.sampled_from(["<f2", "<f4", "<f8"]), st.integers(0, 7))
def test_a_state_is_taken_exactly_if_it_is_finite(value, dtype, at) -> None:
    message = unpackb(CORPUS[0])
    state = np.zeros(8, dtype)
    with np.errstate(over="ignore"):
        state[at] = value
    line = refusal(packb({**message, STATE_KEY: state}))
    fit = np.isfinite(state).all() and np.abs(state).max() <= np.finfo(np.float32).max
    assert line is None if fit else line.startswith(f"{STATE_KEY}: holds a value ")


@pytest.mark.parametrize("header", [b"\xdb", b"\xc6", b"\xdd", b"\xdf", b"\xc9"])
@pytest.mark.parametrize("depth", [0, 1, 400])
def test_a_short_message_that_promises_much_costs_nothing(header, depth) -> None:
    before = resident_mb()
    raw = b"\x91" * depth + header + b"\xff\xff\xff\xff"
    assert (refusal(raw) or "").startswith("message: not valid msgpack")
    assert resident_mb() - before < 5


# --- by the thousand: `make fuzz` ---

MAX_GROWTH_MB = 20.0
HANG_S = 5.0
WARM_UP = 500
VALID, FRAMES = "valid", "(frames)"
FIELDS = ("message", PROMPT_KEY, *IMAGE_KEYS, STATE_KEY, NOISE_SEED_KEY, *CONTROL_KEYS)


def fuzz(where: str, outcomes: Iterator[str], messages: int) -> Counter[str]:
    """Read outcomes until `messages` are refused: each is the field refused, or VALID. Prints a line for `make fuzz`.

    Memory must not grow by MAX_GROWTH_MB after the first few hundred.
    """
    counts: Counter[str] = Counter()
    started, warm_up, before = time.perf_counter(), min(WARM_UP, messages // 4), 0.0
    while counts.total() - counts[VALID] < messages:
        try:
            counts[next(outcomes)] += 1
        except BaseException as error:
            error.add_note(f"{where}: message {counts.total() + 1}")
            raise
        if counts.total() == warm_up:
            before = resident_mb()
    growth, seconds, valid = resident_mb() - before, time.perf_counter() - started, counts.pop(VALID, 0)
    assert growth < MAX_GROWTH_MB, f"memory grew by {growth:.1f} MB"
    fields = ", ".join(f"{field} {count}" for field, count in counts.most_common())
    print(
        f"{where}: {counts.total()} malformed messages in {seconds:.0f} s, {valid} mutants were valid; "
        f"no crash, no hang, memory growth {growth:.1f} MB; refused: {fields}"
    )
    return counts


@contextlib.contextmanager
def watchdog() -> Iterator[None]:
    """The test fails where the block takes longer than HANG_S."""

    def ring(number: int, frame: object) -> None:
        pytest.fail(f"the decoder took more than {HANG_S} s")  # a BaseException: no `except Exception` swallows it

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def decoded(seed: int) -> Iterator[str]:
    """Mutants in the decoder."""
    for raw in mutants(Random(seed)):
        with watchdog():
            line = refusal(raw)
        yield VALID if line is None else field_of(line)


def field_of(line: str) -> str:
    """The field that a refusal names; nothing of this machine may cross the wire."""
    assert one_line_about_a_field(line)
    assert not [leak for leak in ("Traceback", 'File "', ".py", "site-packages") if leak in line]
    field = re.split(r": |\.", line)[0]
    return field if field in FIELDS else "(client's own keys)"


def test_mutants_of_golden_requests_in_the_decoder(pytestconfig) -> None:
    refused = fuzz("decoder", decoded(seed=1), pytestconfig.getoption("--fuzz-messages", 3000))
    assert len(refused) >= 8  # it reached many checks, not one


class Zeros:
    """The policy of a fuzzed server."""

    metadata: Mapping[str, Any] = {"policy": "zeros"}

    def new_session(self) -> None:
        """No state."""

    def infer(self, session: None, obs: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        return {"actions": np.zeros((50, 7)), "accepted_prefix_len": 12, "policy_timing": {"route_type": "full"}}


@contextlib.contextmanager
def opened(server: PolicyServer) -> Iterator[ClientConnection]:
    with connect(server.url, compression=None, proxy=None, close_timeout=HANG_S) as connection:
        connection.recv(timeout=HANG_S)
        yield connection


def answered(server: PolicyServer, raw: bytes) -> str:
    """A message over a connection of its own: VALID, or the field of the refusal that ended the session."""
    field = "message"
    try:
        with opened(server) as connection:
            connection.send(raw)
            answer = connection.recv(timeout=HANG_S)
            if isinstance(answer, bytes):
                return VALID
            field = field_of(answer)
            connection.recv(timeout=HANG_S)
    except ConnectionClosed as closed:
        assert closed.rcvd is not None and closed.rcvd.code in (CloseCode.INTERNAL_ERROR, CloseCode.MESSAGE_TOO_BIG)
        return field
    pytest.fail(f"the session went on after {answer!r}")


def let_go(server: PolicyServer, opening: bytes, half_closed: bool) -> str:
    """Broken websocket; where the peer ends only its own half, the server must end the other."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as sock:
        sock.sendall(opening)
        if half_closed:
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while sock.recv(65536):
                    pass
    return FRAMES


def exchanged(server: PolicyServer, survivor: ClientConnection, seed: int) -> Iterator[str]:
    """Mutants and, every fourth, a broken frame, each over a connection of its own; one healthy session goes on."""
    draw = Random(seed)
    for number, raw in enumerate(mutants(draw), start=1):
        if number % 4:
            yield answered(server, raw)
        else:
            yield let_go(server, broken_opening(draw), half_closed=draw.random() < 0.5)
        if number % 25 == 0:
            survivor.send(CORPUS[0])
            assert isinstance(survivor.recv(timeout=HANG_S), bytes)
            assert healthy("127.0.0.1", server.port) is not None


def test_mutants_and_broken_frames_over_a_socket(pytestconfig, caplog) -> None:
    caplog.set_level(logging.ERROR, "flashtrail.serving")  # not a line for each refusal
    with running(Zeros(), limits=Limits(ping_interval_s=1, ping_timeout_s=1)) as server, opened(server) as survivor:
        count = pytestconfig.getoption("--fuzz-wire", 120)
        refused = fuzz("server", exchanged(server, survivor, seed=1), count)
        until(lambda: server.sessions <= 1, HANG_S)
    assert refused[FRAMES] >= count // 12  # of the quarter that are broken frames; some are only a peer that hangs up


@pytest.mark.parametrize("fault", ["crash", "hang", "path", "growth"])
def test_the_fuzzer_notices(monkeypatch, fault) -> None:
    held = []

    def parse(raw):
        if fault == "crash":
            raise IndexError("list index out of range")
        if fault == "hang":
            time.sleep(60)
        if fault == "growth":
            held.append(mmap.mmap(-1, 200_000))  # pages of its own: a heap with room would not grow
            held[-1].write(b"x" * 200_000)
        raise ProtocolError('message: File "/home/me/server.py", line 3' if fault == "path" else "message: no")

    monkeypatch.setattr(f"{__name__}.parse_request", parse)
    if fault == "hang":  # the others keep the real limit: a busy machine takes longer than this one
        monkeypatch.setattr(f"{__name__}.HANG_S", 0.05)
    noticed = {"crash": "list index", "hang": "took more than", "path": "File", "growth": "memory grew"}[fault]
    with pytest.raises((IndexError, AssertionError, pytest.fail.Exception), match=noticed):
        fuzz("decoder", decoded(seed=1), 300)
