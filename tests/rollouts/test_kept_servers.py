"""Policy servers that outlive a shard: the next one gets the same tables, and a server in doubt is nobody's."""

from __future__ import annotations

import os
import signal
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from policies.test_registry import artifact as holding_still
from rollouts.shards import SERVER, children, parts, roll_out, rows, servers, spec, start, wait_until

from flashtrail.checkpoints import artifact
from flashtrail.rollouts import lending, processes
from flashtrail.serving.handles import serve_command
from flashtrail.serving.launch import ServerError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no abstract sockets: no keeper")
ROOT = Path(__file__).parents[2]
AT_HAND = "a policy server of an earlier shard is at hand; its log: "
OTHER = {"arm": "other", "condition": {"kind": "swap"}, "guard": {"kind": "none"}, "init_states": [3, 4]}


def test_the_next_shard_has_the_same_server_and_is_told_where_its_log_is(tmp_path, kept):
    told = spec(init_states=[0, 1])
    assert AT_HAND not in roll_out(spec(**OTHER), tmp_path / "first")
    (server,) = servers(kept.pid)
    log = roll_out(told, tmp_path / "second")
    assert log.count(AT_HAND + str(tmp_path / "first/server.log")) == 1
    assert servers(kept.pid) == [server] and not (tmp_path / "second/server.log").exists()
    assert (tmp_path / "first/server.log").exists()


@pytest.mark.parametrize(
    "other",
    [
        {"server": [*SERVER, "0.001"]},
        {"metadata": {"code_digest": "new"}},
        {"metadata": {"artifact_digest": "new"}},
        {"metadata": {"execution": '{"action_stats_digest": "new"}'}},
    ],
    ids=["settings", "code", "artifact", "statistics"],
)
def test_a_shard_of_other_needs_has_another_server(tmp_path, kept, other):
    roll_out(spec(init_states=[0]), tmp_path / "first")
    assert AT_HAND not in roll_out(spec(init_states=[0], **other), tmp_path / "second")
    assert len(servers(kept.pid)) == 2 and (tmp_path / "second/server.log").exists()


def test_another_environment_is_another_server_and_on_a_gpu_none_is_kept(tmp_path, kept, monkeypatch):
    roll_out(spec(init_states=[0]), tmp_path / "first")
    roll_out(spec(init_states=[0]), tmp_path / "second", gpu=True)
    assert len(servers(kept.pid)) == 1 and (tmp_path / "second/server.log").exists()
    monkeypatch.setenv("FLASHTRAIL_TOKEN", "secret")
    assert AT_HAND not in roll_out(spec(init_states=[0]), tmp_path / "third")
    assert len(servers(kept.pid)) == 2


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> dict[str, list[str]]:
    """Commands of `nothing` and of pi0_nano with its draft, two settings of it."""
    root = tmp_path_factory.mktemp("artifacts")
    (root / "nothing").mkdir()
    holding_still(root / "nothing")
    source = ROOT / "resources/pi0_nano"
    origin = {"uri": str(source), "class": "MATCH_FLASH_PI0_LIBERO_JAX", "digest": "d" * 16}
    artifact.convert_base(source, root / "base", "float32", origin)
    artifact.convert_draft(source / "draft.pt", root / "draft", base=root / "base")
    nano = {"draft": root / "draft", "threads": 1, "workers": 1, "max_batch": 1}
    return {
        "nothing": serve_command(root / "nothing", threads=1, workers=1, max_batch=1),
        "flash": serve_command(root / "base", **nano, settings={"tau_radius": 0.3}),
        "full": serve_command(root / "base", **nano, settings={"force_full_each_round": True}),
    }


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["flash", "nothing"])
def test_a_real_server_kept_from_another_arm_answers_as_a_new_one(tmp_path, kept, monkeypatch, commands, policy):
    """No session, draft, noise or count of the earlier shard is left: rows equal to the bit, the same metadata."""
    told = {"server": commands[policy], "suite": "reach", "task_id": 1, "horizon": 30, "init_states": [0, 1]}
    roll_out(spec(**told | OTHER), tmp_path / "first", processes.COMMAND)
    (words,) = (command for pid, command in children(kept.pid).items() if pid in servers(kept.pid))
    address = f"127.0.0.1:{words.split('--port ')[1].split()[0]}"
    before = said_of_itself(address)
    if policy == "flash":
        full = told | {"server": commands["full"]}
        assert AT_HAND not in roll_out(spec(**full), tmp_path / "full", processes.COMMAND)
    assert AT_HAND in roll_out(spec(**told), tmp_path / "second", processes.COMMAND)
    assert said_of_itself(address) == before
    monkeypatch.delenv(lending.ADDRESS)
    roll_out(spec(**told), tmp_path / "alone", processes.COMMAND)
    assert untimed(tmp_path / "second") == untimed(tmp_path / "alone")
    routes = {row["route"] for row in rows(tmp_path / "second")["rounds"]}
    assert routes == ({"full", "draft"} if policy == "flash" else {"full"})


def said_of_itself(address: str) -> tuple[bytes, ...]:
    """A server's description and health, once none of its sessions is left."""
    wait_until(lambda: b"\nflashtrail_sessions 0.0" in urllib.request.urlopen(f"http://{address}/metrics").read())
    return tuple(urllib.request.urlopen(f"http://{address}/{page}").read() for page in ("metadata", "healthz"))


def untimed(directory: Path) -> dict[str, list[dict]]:
    """The tables without what a clock wrote, stage times among it."""
    return {
        name: [{key: value for key, value in row.items() if not key.endswith("_ms")} for row in table]
        for name, table in rows(directory).items()
    }


@pytest.mark.parametrize("mode", ["refuse", "crash_once"])
def test_a_server_that_failed_a_round_is_ended_and_never_lent_again(tmp_path, kept, mode):
    told = spec(server=[*SERVER, "0", mode, str(tmp_path / "file")])
    log = roll_out(told, tmp_path / "out")
    if mode == "refuse":
        assert log.count("attempt") == 3 and not servers(kept.pid)
        return
    assert "the policy server is gone (exit code 9); started again after 0.5 s (1 of 3)" in log
    assert len(servers(kept.pid)) == 1, "the one that was started after the failure"
    assert AT_HAND in roll_out(told.model_copy(update={"init_states": [3]}), tmp_path / "next")


def test_a_kept_server_killed_in_an_episode_costs_one_attempt(tmp_path, kept, monkeypatch):
    fast = tmp_path / "fast"
    fast.touch()
    told = spec(server=[*SERVER, "0.3", "slow_until", str(fast)])
    roll_out(spec(server=told.server.command, **OTHER), tmp_path / "first")
    (lent,) = servers(kept.pid)
    fast.unlink()

    def kill() -> None:
        wait_until(lambda: parts(tmp_path / "out"))
        os.kill(lent, signal.SIGKILL)
        fast.touch()

    killer = threading.Thread(target=kill)
    killer.start()
    log = roll_out(told, tmp_path / "out")
    killer.join()
    assert AT_HAND in log and "the policy server is gone (signal 9); started again after 0.5 s (1 of 3)" in log
    assert log.count("attempt") == 1 and len(servers(kept.pid)) == 1 and lent not in servers(kept.pid)
    monkeypatch.delenv(lending.ADDRESS)
    roll_out(told, tmp_path / "alone")
    assert rows(tmp_path / "out") == rows(tmp_path / "alone")


def test_a_keeper_killed_in_an_episode_takes_the_server_along_and_costs_one_attempt(tmp_path, kept):
    fast = tmp_path / "fast"
    told = spec(server=[*SERVER, "0.3", "slow_until", str(fast)])
    shard = start(tmp_path / "out", told)
    wait_until(lambda: parts(tmp_path / "out"))
    left = children(kept.pid)
    kept.kill()
    kept.wait()
    fast.touch()
    assert shard.wait(120) == 0 and len(left) == 2
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), seconds=20)
    roll_out(told, tmp_path / "alone")
    assert rows(tmp_path / "out") == rows(tmp_path / "alone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_shard_that_is_ended_takes_its_borrowed_server_with_it(tmp_path, kept, number):
    shard = start(tmp_path / "out", spec(server=[*SERVER, "600"]))
    wait_until(lambda: len(children(kept.pid)) == 2)
    shard.send_signal(number)
    shard.wait()
    wait_until(lambda: not children(kept.pid), seconds=20)
    assert kept.poll() is None


def test_a_kept_server_that_does_not_answer_is_replaced(tmp_path, kept):
    roll_out(spec(init_states=[0]), tmp_path / "first")
    (deaf,) = servers(kept.pid)
    os.kill(deaf, signal.SIGSTOP)
    roll_out(spec(init_states=[0]), tmp_path / "second")
    assert [row["outcome"] for row in rows(tmp_path / "second")["episodes"]] == ["success"]
    assert len(servers(kept.pid)) == 1 and deaf not in servers(kept.pid)


def test_a_server_that_does_not_start_ends_the_shard_with_its_log(tmp_path, kept):
    crash = [sys.executable, "-c", "print('no such checkpoint'); raise SystemExit(3)", "{port}"]
    with pytest.raises(ServerError, match=r"before it was ready \(exit code 3\).*no such checkpoint"):
        roll_out(spec(server=crash), tmp_path / "out")
    assert not children(kept.pid)
