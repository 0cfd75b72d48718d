"""Whole shards: a scripted policy server, real worker processes, a simulator that is arithmetic; killed and resumed."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rollouts.shards import HERE, SERVER, WORKER, parts, rows, servers_of, spec, start, wait_until

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment.shard import Server
from flashtrail.rollouts import recorder, servers
from flashtrail.rollouts.shard import default_parts_dir, roll_out_shard
from flashtrail.serving.launch import PolicyServerProcess, ServerError, free_port
from flashtrail.tables import pictures, schemas


@pytest.fixture(autouse=True)
def _package_on_path(monkeypatch):
    source = str(HERE.parents[1] / "src")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The tables of a shard that nothing happened to, and its directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]))
        out, log = tmp_path_factory.mktemp("undisturbed"), io.StringIO()
        summary = roll_out_shard(spec(), out, log=log, worker_command=WORKER)
    return out, rows(out), summary, log.getvalue()


def test_a_shard_from_end_to_end(undisturbed):
    out, read, summary, log = undisturbed
    assert summary.outcomes == {
        "init_000_repeat_0": "success",
        "init_001_repeat_0": "horizon",
        "init_002_repeat_0": "horizon",
    }
    summary.check()
    assert [row["steps"] for row in read["episodes"]] == [30, 60, 60]
    assert len(read["steps"]) == 150 == sum(row["executed"] for row in read["rounds"])
    assert {row["task"] for row in read["episodes"]} == {"move the point"}
    hits = [row["round"] % 4 == 0 for row in read["rounds"]]
    assert [row["condition_applied"] for row in read["rounds"]] == hits
    assert schemas.read_metadata(out / "rounds.parquet")["artifact_digest"] == "scripted"
    assert "3/3 init_002_repeat_0 horizon, 60 steps" in log and "success 1/3" in log
    assert parts(out) == list(summary.outcomes), "a longer shard finds them"
    assert not servers_of(out)


CLOCKS = {
    "none": {"kind": "running", "source": {"constant_ms": 0}},
    "late": {"kind": "running", "hz": 100, "source": {"constant_ms": {"full": 33.156, "draft": 8.067}}},
}
OF_CLOCK = {"latency_ms", "waited_steps", "stale_dropped", "stale"}


def without_clock(read):
    return {name: [{k: v for k, v in row.items() if k not in OF_CLOCK} for row in rows] for name, rows in read.items()}


def test_a_running_clock_without_latency_gives_the_tables_of_the_paused_one(undisturbed, tmp_path):
    roll_out_shard(spec(clock=CLOCKS["none"]), tmp_path, log=io.StringIO(), worker_command=WORKER)
    assert without_clock(rows(tmp_path)) == without_clock(undisturbed[1])
    assert {row["waited_steps"] for row in rows(tmp_path)["rounds"]} == {0}
    assert {row["waited_steps"] for row in undisturbed[1]["rounds"]} == {None}


def test_a_running_clock_goes_through_the_worker_and_can_be_replayed(tmp_path):
    late, again = tmp_path / "late", tmp_path / "again"
    roll_out_shard(spec(clock=CLOCKS["late"], simulators=2), late, log=io.StringIO(), worker_command=WORKER)
    read = rows(late)
    for row in read["rounds"][:4]:
        assert row["latency_ms"] == (33.156 if row["route"] == "full" else 8.067)
        assert row["waited_steps"] == (4 if row["route"] == "full" else 1)
    assert sum(row["executed"] + row["waited_steps"] for row in read["rounds"]) == len(read["steps"])
    replay = {"kind": "running", "hz": 100, "source": {"replay": str(late / "rounds.parquet")}}
    measured = rows(late, timing=True)["rounds"]
    roll_out_shard(spec(clock=replay, init_states=[0]), again, log=io.StringIO(), worker_command=WORKER)
    known = {route: {r["roundtrip_ms"] for r in measured if r["route"] == route} for route in ("full", "draft")}
    assert all(row["latency_ms"] in known[row["route"]] for row in rows(again)["rounds"])


def test_a_round_that_the_clock_cannot_time_stops_the_shard_with_one_line(tmp_path):
    only_full = {"kind": "running", "source": {"constant_ms": {"full": 33.156}}}
    with pytest.raises(UserError, match="no latency of a draft round"):
        roll_out_shard(spec(clock=only_full), tmp_path, log=io.StringIO(), worker_command=WORKER)


def test_two_simulators_give_the_same_tables(undisturbed, tmp_path):
    roll_out_shard(spec(simulators=2), tmp_path, log=io.StringIO(), worker_command=WORKER)
    assert rows(tmp_path) == undisturbed[1]


@pytest.mark.parametrize(("simulators", "sessions"), [(1, "1"), (2, "2"), (5, "3")])
def test_the_server_is_told_how_many_simulators_there_will_be(monkeypatch, tmp_path, simulators, sessions):
    """Three episodes keep three simulators busy; a server that prepares for more starts later for nothing."""
    started = []

    def start(command, *_):
        started.append(command)
        raise UserError("that is all")

    monkeypatch.setattr(servers, "BorrowedServer", start)
    told = spec(server=["serve", "--port={port}", "--max-batch", "{simulators}"], simulators=simulators)
    with pytest.raises(UserError, match="that is all"):
        roll_out_shard(told, tmp_path, log=io.StringIO(), worker_command=WORKER)
    assert started == [["serve", "--port={port}", "--max-batch", sessions]]


def test_a_shard_against_a_server_that_runs_already(undisturbed, tmp_path):
    port = free_port()
    command = [word.replace("{port}", str(port)) for word in SERVER]
    with PolicyServerProcess(command, tmp_path / "server.log", port, 60) as server:
        told = spec().model_copy(update={"server": Server(url=server.url)})
        roll_out_shard(told, tmp_path / "out", log=io.StringIO(), worker_command=WORKER)
        assert server.alive
    assert rows(tmp_path / "out") == undisturbed[1]


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_a_shard_killed_in_an_episode_resumes_at_the_next(undisturbed, tmp_path, finished):
    fast = tmp_path / "fast"
    slow = spec(server=[*SERVER, "0.2", "slow_until", str(fast)])
    process = start(tmp_path, slow)
    wait_until(lambda: len(parts(tmp_path)) >= finished and (finished or servers_of(tmp_path)))
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = parts(tmp_path)
    assert len(kept) == finished
    times = {name: (default_parts_dir(tmp_path) / next_digest(tmp_path) / name).stat().st_mtime_ns for name in kept}
    assert not (tmp_path / "episodes.parquet").exists()
    wait_until(lambda: not servers_of(tmp_path))
    fast.touch()
    log = io.StringIO()
    roll_out_shard(slow, tmp_path, log=log, worker_command=WORKER)
    assert rows(tmp_path) == undisturbed[1]
    load = json.loads(schemas.read_metadata(tmp_path / "rounds.parquet")["machine"])
    assert load["cores"] >= 1 and load["load_max"] >= 0
    assert all(f"{name} " not in log.getvalue() for name in times), "a finished episode was run again"


def next_digest(out: Path) -> str:
    return next(path.name for path in default_parts_dir(out).iterdir() if path.is_dir())


def test_a_changed_spec_starts_afresh(tmp_path):
    fast = tmp_path / "fast"
    slow = spec(server=[*SERVER, "0.2", "slow_until", str(fast)])
    process = start(tmp_path, slow)
    wait_until(lambda: parts(tmp_path))
    process.kill()
    process.wait()
    fast.touch()
    log = io.StringIO()
    roll_out_shard(slow.model_copy(update={"seed": 8}), tmp_path, log=log, worker_command=WORKER)
    assert "kept from before" not in log.getvalue()
    assert {row["seed"] for row in rows(tmp_path)["episodes"]} == {8}


def test_a_server_that_crashes_is_started_again(undisturbed, tmp_path):
    told = spec(server=[*SERVER, "0", "crash_once", str(tmp_path / "crashed")])
    log = io.StringIO()
    roll_out_shard(told, tmp_path / "out", log=log, worker_command=WORKER)
    assert "attempt 1 failed (server)" in log.getvalue()
    assert rows(tmp_path / "out") == undisturbed[1]


def test_a_server_killed_in_an_episode_costs_one_attempt(undisturbed, tmp_path):
    """SIGKILL in the middle of an episode: replayed from its start, in the tables once, the incident in the log."""
    out, fast, log = tmp_path / "out", tmp_path / "fast", io.StringIO()
    killed: list[int] = []

    def kill_server() -> None:
        wait_until(lambda: parts(out))  # the first episode is recorded; let the second get under way
        time.sleep(0.6)
        killed.extend(servers_of(out))
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        fast.touch()

    killer = threading.Thread(target=kill_server)
    killer.start()
    roll_out_shard(spec(server=[*SERVER, "0.3", "slow_until", str(fast)]), out, log=log, worker_command=WORKER)
    killer.join()
    assert len(killed) == 1 and rows(out) == undisturbed[1]
    text = log.getvalue()
    assert text.count("attempt 1 failed (server)") == 1
    assert "the policy server is gone (signal 9); started again after 0.5 s (1 of 3)" in text


def test_each_restart_waits_longer_and_they_end(monkeypatch, tmp_path):
    class Gone:
        alive, port = False, 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def exit_text(self):
            return "signal 9"

        def check(self):
            raise UserError("the policy server is gone (signal 9)")

    pauses = []
    monkeypatch.setattr(servers, "BorrowedServer", lambda *_: Gone())
    monkeypatch.setattr(servers.time, "sleep", pauses.append)
    with servers.Server(spec(server=["serve", "{port}"]), tmp_path / "log", 1) as server:
        for number in (1, 2, 3):
            assert f"({number} of 3)" in server.revive()
        with pytest.raises(UserError, match="signal 9"):
            server.revive()
    assert pauses == [0.5, 2.0, 8.0]


def test_a_server_that_always_crashes_ends_the_shard_with_its_log(tmp_path):
    crash = [sys.executable, "-c", "print('no such checkpoint'); raise SystemExit(3)", "{port}"]
    with pytest.raises(ServerError, match="no such checkpoint"):
        roll_out_shard(spec(server=crash), tmp_path, worker_command=WORKER)
    assert not (tmp_path / "episodes.parquet").exists()


@pytest.mark.parametrize("mode", ["crash_once", "hang_once"])
def test_a_simulator_that_crashes_or_hangs_costs_one_attempt(undisturbed, tmp_path, mode):
    log = io.StringIO()
    told = spec(episode_timeout_s=8 if mode == "hang_once" else 60)
    roll_out_shard(told, tmp_path / "out", log=log, worker_command=[*WORKER, mode, str(tmp_path / "file")])
    assert "init_001_repeat_0: attempt 1 failed (simulator)" in log.getvalue()
    assert ("SIGSEGV" if mode == "crash_once" else "no answer within 8 s") in log.getvalue()
    assert rows(tmp_path / "out") == undisturbed[1]


def test_an_episode_that_cannot_be_run_is_an_error_and_no_failure(undisturbed, tmp_path):
    told = spec(server=[*SERVER, "0", "refuse"])
    log = io.StringIO()
    summary = roll_out_shard(told, tmp_path, log=log, worker_command=WORKER)
    assert log.getvalue().count("init_001_repeat_0: attempt") == 3
    assert list(summary.outcomes.values()) == ["success", "error", "horizon"]
    with pytest.raises(UserError, match="init_001_repeat_0"):
        summary.check()
    read = rows(tmp_path)
    assert [row["outcome"] for row in read["episodes"]] == ["success", "error", "horizon"]
    assert "policy" in read["episodes"][1]["error"]
    assert {row["init_state"] for row in read["steps"]} == {0, 2}
    assert "success 1/2" in log.getvalue()
    assert parts(tmp_path) == [f"init_00{i}_repeat_0" for i in range(3)], "kept, so that only the error is tried again"
    again = io.StringIO()
    roll_out_shard(told, tmp_path, log=again, worker_command=WORKER)
    assert "2 of 3 episodes are kept from before" in again.getvalue()


def test_no_opengl_library_ends_the_shard_at_once_with_the_apt_line(tmp_path):
    log = io.StringIO()
    with pytest.raises(UserError, match="apt-get install -y libosmesa6"):
        roll_out_shard(spec(), tmp_path, log=log, worker_command=[*WORKER, "blind", "-"])
    assert "attempt" not in log.getvalue() and not parts(tmp_path) and not servers_of(tmp_path)


def test_a_policy_that_accepts_nothing_is_an_error_and_no_failure(tmp_path):
    told = spec(init_states=[0], server=[*SERVER, "0", "none"])
    summary = roll_out_shard(told, tmp_path, log=io.StringIO(), worker_command=WORKER)
    assert summary.outcomes == {"init_000_repeat_0": "error"}
    assert "full_fallback" in summary.errors["init_000_repeat_0"]


def test_a_film_of_what_the_policy_saw(tmp_path):
    told = spec(init_states=[0, 1], video="failures")
    roll_out_shard(told, tmp_path, log=io.StringIO(), worker_command=WORKER)
    assert [row["video"] for row in rows(tmp_path)["episodes"]] == [None, "videos/init_001_repeat_0.mp4"]
    import imageio_ffmpeg

    frames = imageio_ffmpeg.read_frames(str(tmp_path / "videos/init_001_repeat_0.mp4"))
    size = next(frames)["size"]
    assert size == (448, 256)
    wrist = [np.frombuffer(f, np.uint8).reshape(256, 448, 3)[100:200, 300:400].mean() for f in frames]
    queries = [row for row in rows(tmp_path)["rounds"] if row["init_state"] == 1]
    assert len(wrist) == len(queries)
    sent = pictures.read_sent(tmp_path / "videos/init_001_repeat_0.npz")
    assert set(sent.prompts) == {rows(tmp_path)["episodes"][1]["task"]} and sent.states.shape == (len(queries), 8)
    steps = [row for row in rows(tmp_path)["steps"] if row["init_state"] == 1]
    assert [row["action"] for row in steps] == [
        pytest.approx(sent.chunks[row["round"], row["offset_in_chunk"]], abs=1e-3) for row in steps
    ]


def bytes_of_films(out: Path) -> dict[str, int]:
    """What each film takes, with what was sent beside it."""
    names = {path.stem for path in (out / "videos").iterdir()}
    return {name: sum(path.stat().st_size for path in (out / "videos").glob(f"{name}.*")) for name in names}


def test_examples_keep_to_their_bytes_and_the_success_comes_first(tmp_path, monkeypatch):
    told = spec(init_states=[1, 0, 2], video="all")  # only init state 0 succeeds
    roll_out_shard(told, tmp_path / "all", log=io.StringIO(), worker_command=WORKER)
    sizes = bytes_of_films(tmp_path / "all")
    assert len(sizes) == 3
    limit = sizes["init_000_repeat_0"] + sizes["init_001_repeat_0"]
    monkeypatch.setattr(recorder, "EXAMPLES_BYTES", limit)
    roll_out_shard(
        told.model_copy(update={"video": "examples"}), tmp_path / "some", log=io.StringIO(), worker_command=WORKER
    )
    kept = bytes_of_films(tmp_path / "some")
    assert set(kept) == {"init_000_repeat_0", "init_001_repeat_0"} and sum(kept.values()) <= limit


def test_examples_are_every_failure_and_the_first_success_with_their_sheets(tmp_path):
    told = spec(init_states=[1, 0, 2], repeats=2, video="examples")  # only init state 0 succeeds, in both repeats
    roll_out_shard(told, tmp_path, log=io.StringIO(), worker_command=WORKER)
    filmed = {path.stem for path in (tmp_path / "videos").iterdir()}
    assert filmed == {f"init_{i:03d}_repeat_{r}" for i, r in ((1, 0), (0, 0), (2, 0), (1, 1), (2, 1))}
    assert {Path(row["video"]).stem for row in rows(tmp_path)["episodes"] if row["video"]} == filmed
    sheets = schemas.read_table(tmp_path / "sheets.parquet", schemas.SHEETS).to_pylist()
    assert [(row["init_state"], row["repeat"], row["outcome"]) for row in sheets] == [
        (1, 0, "horizon"),
        (0, 0, "success"),
        (2, 0, "horizon"),
        (1, 1, "horizon"),
        (2, 1, "horizon"),
    ]
    for row in sheets:
        picture = Image.open(io.BytesIO(row["jpeg"]))
        assert picture.format == "JPEG" and picture.width <= 4 * 224 and picture.height <= 3 * 128


def test_the_ledger_names_the_digest_of_the_spec(undisturbed):
    ledger = provenance.json_load(undisturbed[0] / "ledger.json")
    assert len(ledger["spec_digest"]) == 16
    assert ledger["expected"] == list(undisturbed[2].outcomes)
