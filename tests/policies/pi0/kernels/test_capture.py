"""The order of a CUDA capture, with a stand-in for torch.cuda that writes down what it is asked for."""

from __future__ import annotations

import contextlib

import pytest
import torch

from flashtrail.policies.pi0.kernels.graphs import WARM_UP_RUNS, Counters, CudaGraphs, Programs


class Stream:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


class Log(list):
    """What was asked for, in order, and the name of the stream that is current."""

    current = "own"


class Graph:
    def __init__(self, log):
        self.log = log

    def replay(self):
        self.log.append("replay")


@pytest.fixture
def log(monkeypatch):
    """What is done, in order; streams are named as they are made, and the first is the device's own."""
    found = Log()
    streams = iter(Stream(found, name) for name in ("side", "capture", "third", "fourth"))
    current = [Stream(found, "own")]

    @contextlib.contextmanager
    def on(stream):
        current.append(stream)
        found.current = stream.name
        yield
        current.pop()
        found.current = current[-1].name

    @contextlib.contextmanager
    def guard(device):
        found.append(f"on {device}")
        yield

    @contextlib.contextmanager
    def graph(which, pool, stream, capture_error_mode):
        found.append(f"capture in {pool} on {stream.name}, {capture_error_mode}")
        with on(stream):
            yield
        found.append("captured")

    pools = iter(("pool", "another pool"))
    stand_ins = {
        "device": guard,
        "stream": on,
        "graph": graph,
        "Stream": lambda: next(streams),
        "CUDAGraph": lambda: Graph(found),
        "graph_pool_handle": lambda: next(pools),
        "current_stream": lambda: current[-1],
        "synchronize": lambda: found.append("synchronize"),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return found


def test_a_body_is_warmed_up_beside_and_captured_on_the_devices_own_streams(log):
    graphs = CudaGraphs(torch.device("cuda:1"))
    replay = graphs.record(lambda: log.append(f"body on {log.current}"))
    assert log == [
        "on cuda:1",
        "side waits for own",
        *["body on side"] * WARM_UP_RUNS,
        "own waits for side",
        "synchronize",
        "capture in pool on capture, thread_local",
        "body on capture",
        "captured",
    ]
    log.clear()
    replay()
    assert log == ["replay"]
    graphs.record(lambda: None)  # the same pool and streams
    assert "capture in pool on capture, thread_local" in log and not any("third" in line for line in log)


def test_a_body_that_cannot_be_captured_is_neither_kept_nor_counted(log):
    counters = Counters()
    programs = Programs(CudaGraphs(torch.device("cuda:0")), counters)

    def body():
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        programs.run("a", body)
    assert (len(programs), counters.captures) == (0, 0)
