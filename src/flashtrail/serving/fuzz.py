"""Malformed messages by the hundred thousand: nothing may crash, hang or grow.

    python -m flashtrail.serving.fuzz --messages 100000 --wire 2000

Mutates recorded requests byte by byte and field by field (`Mutator`), gives them to the decoder in this process and, a
smaller share, to a real server over its socket, with broken websocket frames among them.
"""

from __future__ import annotations

import contextlib
import logging
import random
import resource
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.serving.client import healthy
from flashtrail.serving.protocol import (
    EXECUTED_STEPS_KEY,
    IMAGE_KEYS,
    IMAGE_MASK_KEY,
    LIBERO_SCHEMA,
    NOISE_SEED_KEY,
    PROMPT_KEY,
    RESET_KEY,
    STATE_KEY,
    ProtocolError,
    parse_request,
    unpackb,
)
from flashtrail.serving.server import Limits, PolicyServer, running

MAX_GROWTH_MB = 20.0
_HANG_S = 5.0
_WARM_UP = 500
_LINE_CHARS = 400
_LEAKS = ("Traceback", 'File "', ".py", "site-packages")
# Headers of msgpack that promise much: 4 GiB of text, bytes, list or map; an extension; numbers; the unused byte.
_HEADERS = [b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
_HEADERS += [b"\xc9\xff\xff\xff\xff\x05", b"\xcf" + b"\xff" * 8, b"\xcb\x7f\xf8" + b"\0" * 6, b"\xc1", b"\xc0", b"\x80"]
# Values that a field of a request must not have; arrays are written as their maps, so that these may be wrong too.
_VALUES: list[Any] = [None, True, -1, 2**63, 1e308, float("nan"), "", "x" * 5000, b"\xff", [], [[[[]]]], {}, [0] * 600]
_VALUES += [[[[]] * 500] * 40]  # short on the wire, many objects
_DTYPES: list[Any] = ["|u1", "<f8", "<f4", "|O", "|V8", "<c16", "<M8[s]", "<U2000000000", "<f16", "u1,f4", "", 3, None]
_SHAPES: list[Any] = [[], [0], [-1], [224, 224, 3], [8], [2**62, 4], [1] * 40, [1.5], "8", None, [True], [2**31, 2**31]]


@dataclass
class Findings:
    """What came of a run. `refused` counts by the field that was named, `accepted` mutants that were still valid."""

    refused: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    crashes: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    growth_mb: float = 0.0
    seconds: float = 0.0

    @property
    def messages(self) -> int:
        """Malformed messages."""
        return sum(self.refused.values())

    @property
    def good(self) -> bool:
        """Nothing crashed, hung or grew."""
        return not self.crashes and not self.hangs and self.growth_mb < MAX_GROWTH_MB

    def line(self, where: str) -> str:
        """One line for a person."""
        most = ", ".join(f"{name} {count}" for name, count in self.refused.most_common(6))
        return (
            f"{where}: {self.messages} malformed messages in {self.seconds:.0f} s, {self.accepted} mutants were valid; "
            f"crashes {len(self.crashes)}, hangs {len(self.hangs)}, memory growth {self.growth_mb:.1f} MB; "
            f"refused: {most}, {max(0, len(self.refused) - 6)} other fields"
        )


class Mutator:
    """Endless mutants of recorded requests: random, but the same from the same seed."""

    def __init__(self, corpus: Sequence[bytes], seed: int) -> None:
        self._random = random.Random(seed)
        self._corpus = [(raw, _structure(raw)) for raw in corpus]
        self._maps = [msgpack.unpackb(raw, strict_map_key=False) for raw in corpus]

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield self._of_bytes() if self._random.random() < 0.6 else self._of_fields()

    def _of_bytes(self) -> bytes:
        draw = self._random
        original, offsets = draw.choice(self._corpus)
        raw = bytearray(original)
        for _ in range(draw.choice((1, 1, 1, 2, 8))):
            at = min(draw.choice(offsets), len(raw))
            kind = draw.randrange(6)
            if kind == 0 and at < len(raw):
                raw[at] ^= 1 << draw.randrange(8)
            elif kind == 1:
                raw[at : at + draw.randint(1, 9)] = draw.randbytes(draw.randint(1, 9))
            elif kind == 2:
                header = draw.choice(_HEADERS)
                raw[at : at + draw.choice((0, 1, len(header)))] = header
            elif kind == 3:
                del raw[at : at + draw.randint(1, 64)]
            elif kind == 4:
                other, other_offsets = draw.choice(self._corpus)
                raw[at:] = other[draw.choice(other_offsets) :]
            else:
                del raw[at:]
        return bytes(raw[: 2 * LIBERO_SCHEMA.max_message_bytes])

    def _of_fields(self) -> bytes:
        draw = self._random
        message = dict(draw.choice(self._maps))
        for _ in range(draw.choice((1, 1, 2))):
            key = draw.choice(list(message)) if message else "prompt"
            value, kind = message.get(key), draw.randrange(5)
            if kind == 0:
                message.pop(key, None)
            elif kind == 1 or not isinstance(value, dict):
                message[key] = draw.choice(_VALUES)
            elif kind == 2:
                message[key] = {**value, b"dtype": draw.choice(_DTYPES)}
            elif kind == 3:
                message[key] = {**value, b"shape": draw.choice(_SHAPES)}
            else:
                message[key] = {name: item for name, item in value.items() if name != draw.choice(list(value))}
            if draw.random() < 0.2:
                message[draw.choice(("__reset__", "noise_seed", "__image_mask__", "__executed_steps__", 7, b"k"))] = (
                    draw.choice(_VALUES)
                )
        return bytes(msgpack.packb(message))


def _structure(raw: bytes) -> list[int]:
    """Offsets of a message that are not inside its pixels: there nearly every mutant would be a valid message."""
    inside = bytearray(len(raw))
    for value in msgpack.unpackb(raw, strict_map_key=False).values():
        if isinstance(value, dict) and len(data := value.get(b"data", b"")) > 1024:
            start = raw.index(data)
            inside[start : start + len(data)] = b"\1" * len(data)
    return [at for at, pixels in enumerate(inside) if not pixels]


def corpus_of(directory: Path) -> list[bytes]:
    """Return the recorded requests of a directory: what clients sent and was a map. UserError where there is none."""
    found = []
    for path in sorted(directory.glob("*_client.bin")):
        with contextlib.suppress(ProtocolError):
            if isinstance(unpackb(path.read_bytes()), dict):
                found.append(path.read_bytes())
    if not found:
        raise UserError(f"{directory} has no recorded requests (*_client.bin): give --corpus")
    return found


# --- in this process ---


class _Hang(BaseException):
    pass


@contextlib.contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    """Raise _Hang in the main thread where the block takes longer."""

    def ring(number: int, frame: object) -> None:
        raise _Hang

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def fuzz_decoder(corpus: Sequence[bytes], messages: int, seed: int = 0) -> Findings:
    """Decode mutants until `messages` of them were refused; call it in the main thread."""
    findings, started, before = Findings(), time.perf_counter(), 0.0
    for number, raw in enumerate(Mutator(corpus, seed)):
        if number == _WARM_UP:
            before = resident_mb()
        if findings.messages >= messages or len(findings.crashes) + len(findings.hangs) >= 20:
            break
        try:
            with _watchdog(_HANG_S):
                parse_request(raw, LIBERO_SCHEMA)
            findings.accepted += 1
        except ProtocolError as error:
            findings.refused[_field(str(error), findings)] += 1
        except _Hang:
            findings.hangs.append(f"seed {seed}, mutant {number}")
        except BaseException as error:
            findings.crashes.append(f"seed {seed}, mutant {number}: {type(error).__name__}: {error}")
    findings.growth_mb = resident_mb() - before
    findings.seconds = time.perf_counter() - started
    return findings


def _field(line: str, findings: Findings) -> str:
    """Return the field that a refusal names; one that is not one short line, or tells of us, counts as a crash."""
    if "\n" in line or len(line) > _LINE_CHARS or any(leak in line for leak in _LEAKS):
        findings.crashes.append(f"unfit for the wire: {line[:200]!r}")
    name, _, what = line.partition(": ")
    if not what:
        findings.crashes.append(f"names no field: {line[:200]!r}")
    known = name.split(".")[0]
    return known if known in _FIELDS else "(client's own keys)"


_FIELDS = frozenset(
    ("message", PROMPT_KEY, *IMAGE_KEYS, STATE_KEY, NOISE_SEED_KEY, IMAGE_MASK_KEY, EXECUTED_STEPS_KEY, RESET_KEY)
)


# --- over a socket ---


class Zeros:
    """What stands behind a fuzzed server."""

    metadata: Mapping[str, Any] = {"policy": "zeros"}

    def new_session(self) -> None:
        """No state."""

    def infer(self, session: None, obs: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """Answer zeros."""
        return {"actions": np.zeros((50, 7)), "accepted_prefix_len": 12, "policy_timing": {"route_type": "full"}}


def fuzz_server(corpus: Sequence[bytes], messages: int, seed: int = 0) -> Findings:
    """Send mutants and broken frames to a server, each over a connection of its own; one session lives through it all.

    Every fourth connection speaks broken websocket instead of a broken message. What hangs is a refusal, a healthy
    session's answer or a freed session that does not come within 5 s.
    """
    findings, started = Findings(), time.perf_counter()
    draw, mutants = random.Random(seed), iter(Mutator(corpus, seed))
    with running(Zeros(), limits=Limits(ping_interval_s=1, ping_timeout_s=1)) as server, _opened(server) as survivor:
        before, number = 0.0, 0
        while findings.messages < messages and len(findings.crashes) + len(findings.hangs) < 20:
            number += 1
            if number == min(_WARM_UP, messages // 4):
                before = resident_mb()
            if number % 4:
                _send_message(server, next(mutants), findings)
            else:
                _send_frames(server, draw, findings)
            if number % 25 == 0:
                _check_alive(server, survivor, corpus[0], findings)
        _check_freed(server, findings)
        findings.growth_mb = resident_mb() - before
    findings.seconds = time.perf_counter() - started
    return findings


@contextlib.contextmanager
def _opened(server: PolicyServer) -> Iterator[ClientConnection]:
    with connect(server.url, compression=None, proxy=None, close_timeout=_HANG_S) as connection:
        connection.recv(timeout=_HANG_S)
        yield connection


def _send_message(server: PolicyServer, raw: bytes, findings: Findings) -> None:
    with contextlib.suppress(ConnectionClosed), _opened(server) as connection:
        try:
            connection.send(raw)
            answer = connection.recv(timeout=_HANG_S)
            if isinstance(answer, bytes):
                findings.accepted += 1
                return
            findings.refused[_field(answer, findings)] += 1
            connection.recv(timeout=_HANG_S)
            findings.crashes.append(f"the session went on after {answer[:200]!r}")
        except TimeoutError:
            findings.hangs.append("no answer to a message")
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
            if code == 1009:
                findings.refused["message"] += 1
            elif code != 1011:
                findings.crashes.append(f"closed with {code}")


def _send_frames(server: PolicyServer, draw: random.Random, findings: Findings) -> None:
    """A handshake, then something that is no frame of a client, or half of one; the server has to let go."""
    frames = [
        b"\x82\x05hello",  # not masked
        b"\xf2\x80\0\0\0\0",  # reserved bits
        b"\x83\x80\0\0\0\0",  # unknown opcode
        b"\x82\xff\x7f" + b"\xff" * 7 + b"\0\0\0\0",  # 2**63 bytes announced
        b"\x89\xfe\x00\x7e\0\0\0\0" + b"p" * 126,  # a ping too long
        b"\x80\x80\0\0\0\0",  # goes on with a message that never began
        b"\x81\x82\0\0\0\0\xff\xfe",  # text that is not UTF-8
        b"\x88\x81\0\0\0\0\x03",  # half a close code
        b"\x02\x81\0\0\0\0a",  # one fragment, and no more
        draw.randbytes(draw.randint(1, 64)),
    ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=_HANG_S) as sock:
        if draw.random() < 0.1:
            sock.sendall(draw.randbytes(200))  # not even HTTP
        else:
            lines = ["GET / HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade"]
            lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
            sock.sendall("\r\n".join(lines).encode() + draw.choice(frames))
        if draw.random() < 0.5:
            sock.shutdown(socket.SHUT_WR)  # else the pings find out
        else:
            return
        try:
            while sock.recv(65536):
                pass
        except TimeoutError:
            findings.hangs.append("the server held on to a broken connection")
        except ConnectionError:
            pass
    findings.refused["(frames)"] += 1


def _check_alive(server: PolicyServer, survivor: ClientConnection, request: bytes, findings: Findings) -> None:
    try:
        survivor.send(request)
        if not isinstance(survivor.recv(timeout=_HANG_S), bytes):
            findings.crashes.append("the healthy session was refused")
    except (TimeoutError, ConnectionClosed):
        findings.hangs.append("the healthy session got no answer")
    if healthy("127.0.0.1", server.port) is None:
        findings.crashes.append("no health")


def _check_freed(server: PolicyServer, findings: Findings) -> None:
    deadline = time.monotonic() + _HANG_S
    while server.sessions > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    if server.sessions > 1:
        findings.hangs.append(f"{server.sessions - 1} sessions were not freed")


def resident_mb() -> float:
    """Resident memory of this process, MB; the peak so far where the system does not tell the present."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * resource.getpagesize() / 1e6
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main(argv: Sequence[str] | None = None) -> int:
    """Run both; exit code 1 where something crashed, hung or grew."""
    parser = commands.Parser(prog="python -m flashtrail.serving.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--messages", type=int, default=100_000, help="malformed messages for the decoder")
    parser.add_argument("--wire", type=int, default=2_000, help="of which so many more over a socket")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, default=Path("tests/golden/G3_wire"), help="directory of *_client.bin")
    arguments = parser.parse_args(argv)
    logging.getLogger("flashtrail.serving").setLevel(logging.ERROR)  # a line for each refusal would bury the findings
    try:
        corpus = corpus_of(arguments.corpus)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    good = True
    for where, count, fuzz in (("decoder", arguments.messages, fuzz_decoder), ("server", arguments.wire, fuzz_server)):
        findings = fuzz(corpus, count, arguments.seed)
        print(findings.line(where), flush=True)
        for trouble in (*findings.crashes, *findings.hangs):
            print(f"  {trouble}", file=sys.stderr)
        good &= findings.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(commands.run(main, "fuzz"))
