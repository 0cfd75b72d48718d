"""Malformed messages, a small share of `make fuzz`; and that the fuzzer would notice what it looks for."""

from __future__ import annotations

import mmap
import time

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving.conftest import G3

from flashtrail.serving import fuzz
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

CORPUS = fuzz.corpus_of(G3)
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
        line = str(error)
        assert "\n" not in line and ": " in line and len(line) <= 400
        return line
    return None


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
    before = fuzz.resident_mb()
    raw = b"\x91" * depth + header + b"\xff\xff\xff\xff"
    assert (refusal(raw) or "").startswith("message: not valid msgpack")
    assert fuzz.resident_mb() - before < 5


def test_mutants_of_golden_requests_in_the_decoder() -> None:
    findings = fuzz.fuzz_decoder(CORPUS, 3000, seed=1)
    assert findings.good, findings
    assert findings.messages == 3000
    assert len(findings.refused) >= 8  # it reached many checks, not one


def test_mutants_and_broken_frames_over_a_socket() -> None:
    findings = fuzz.fuzz_server(CORPUS, 120, seed=1)
    assert findings.good, findings
    assert findings.refused["(frames)"] >= 10 and findings.messages >= 120


@pytest.mark.parametrize("fault", ["crash", "hang", "path", "growth"])
def test_the_fuzzer_notices(monkeypatch, fault) -> None:
    held = []

    def parse(raw, schema):
        if fault == "crash":
            raise IndexError("list index out of range")
        if fault == "hang":
            time.sleep(60)
        if fault == "growth":
            held.append(mmap.mmap(-1, 200_000))  # pages of its own: a heap with room would not grow
            held[-1].write(b"x" * 200_000)
        raise ProtocolError('message: File "/home/me/server.py", line 3' if fault == "path" else "message: no")

    monkeypatch.setattr(fuzz, "parse_request", parse)
    monkeypatch.setattr(fuzz, "_HANG_S", 0.05)
    monkeypatch.setattr(fuzz, "_WARM_UP", 50)
    findings = fuzz.fuzz_decoder(CORPUS, 300, seed=1)
    assert not findings.good
    troubles = {"crash": findings.crashes, "path": findings.crashes, "hang": findings.hangs}
    assert len(troubles.get(fault, [findings.growth_mb])) >= 1 and (fault != "growth" or findings.growth_mb > 20)
