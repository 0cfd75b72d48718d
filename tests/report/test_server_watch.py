"""`flashtrail watch ws://...`: a camera dies in a session with a real server, and watch says which and when."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from report.test_watch import Served, command, plain
from serving.conftest import ScriptedPolicy
from serving.in_process import running

from flashtrail import cli
from flashtrail.drills.predicates import Bound
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.report import server_watch
from flashtrail.report.server_watch import Rules, ServerWatch
from flashtrail.serving.client import PolicyClient, ServerUnavailable, fetch_metrics
from flashtrail.simulators import registry
from flashtrail.simulators.pick2d.simulator import Pick2dSimulator

BLACK = np.zeros((224, 224, 3), np.uint8)
DIES, ROUNDS = 17, 24


def observation(number: int, **views: np.ndarray) -> dict:
    rng = np.random.default_rng(number)
    pictures = {view: rng.integers(0, 256, (224, 224, 3), np.uint8) for view in ("image", "wrist_image")} | views
    named = {f"observation/{view}": picture for view, picture in pictures.items()}
    return named | {"observation/state": np.full(8, 0.1 * number), "prompt": "pick up the cube"}


def session(url: str, watch: ServerWatch, dies: int | None, view: str = "wrist_image") -> dict[int, list[str]]:
    """Play a session, looked at after every round as a poll in time would; return what was said after which round."""
    said = {}
    with PolicyClient(url) as client:
        for number in range(1, ROUNDS + 1):
            dead = {view: BLACK} if dies and number >= dies else {}
            client.infer(observation(number, **dead), executed_steps=12, reset=number == 1)
            if lines := watch.look(fetch_metrics(url)):
                said[number] = lines
    return said


@pytest.mark.parametrize(("view", "name"), [("wrist_image", "wrist"), ("image", "agent")])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_camera_that_dies_is_named_after_as_many_rounds_as_asked_and_a_session_without_raises_no_alarm(
    view, name, rounds
):
    with running(ScriptedPolicy()) as server:
        watch = ServerWatch(server.url, Rules(rounds))
        assert session(server.url, watch, None) == {} and not watch.wrong, "the control"
        said = session(server.url, watch, DIES, view)
        now = f"{name} view: no contrast since round {DIES} ({rounds} round{'s' * (rounds > 1)})"
        assert said == {DIES + rounds - 1: [now]}
        while server.sessions:
            pass  # until its end has come through
        assert watch.look(fetch_metrics(server.url)) == [f"over: {name} view: no contrast"]


@pytest.mark.parametrize("moves", [True, False], ids=["expert", "at rest"])
@pytest.mark.parametrize("dies", [None, 9], ids=["control", "dies"])
def test_on_pictures_of_a_simulator_only_a_dead_camera_is_an_alarm(moves, dies):
    """pick2d's pictures, of the expert at work and of a robot that stands still and sends the same picture rightly."""
    simulator = Pick2dSimulator("pick2d", 0)
    simulator.reset(EpisodeKey("pick2d", 0, 3, 0))
    acts = registry.expert("pick2d", simulator) if moves else lambda: [0.0] * 6 + [-1.0]
    with running(ScriptedPolicy()) as server, PolicyClient(server.url) as client:
        watch, said = ServerWatch(server.url, Rules()), {}
        for number in range(1, 14):
            seen = simulator.observe().request()
            dead = {"observation/wrist_image": BLACK} if dies and number >= dies else {}
            client.infer(seen | dead, executed_steps=3, reset=number == 1)
            if lines := watch.look(fetch_metrics(server.url)):
                said[number] = lines
            for _ in range(3):
                simulator.step(acts(), render=True)
    assert said == ({dies + 2: [f"wrist view: no contrast since round {dies} (3 rounds)"]} if dies else {})


def page(**samples: float) -> bytes:
    return "".join(f"flashtrail_{name} {value}\n" for name, value in samples.items()).encode()


def latency(over: int, n: int) -> bytes:
    return page(**{"round_seconds_count": n, 'round_seconds_bucket{le="0.05"}': n - over})


@pytest.mark.parametrize(("over", "n", "wrong"), [(5, 100, False), (40, 100, True), (0, 0, False), (3, 3, True)])
def test_a_budget_is_a_test_that_may_be_looked_at_at_any_time(over, n, wrong):
    watch = ServerWatch("ws://x", Rules(budget_s=0.05))
    lines = watch.look(latency(over, n))
    assert bool(lines) == wrong
    assert server_watch.figures(watch.now, watch.rules)["Latency"].startswith(f"{over}/{n} rounds over 50 ms [")


def test_actions_are_held_against_the_doctors_bounds():
    bounds = {"effort": Bound(0.2, 0.4, 15), "spread": Bound(0.24, 0.35, 15)}
    watch = ServerWatch("ws://x", Rules(bounds=bounds))
    assert watch.look(page(action_effort=0.45, action_spread=0.1)) == [], "within the slack; not a quarter"
    assert watch.look(page(action_effort=0.6, action_spread=0.01)) == [
        "actions larger than clean ones: effort 0.6, bound 0.5",
        "answers hardly differ: spread 0.01, of clean episodes at least 0.24",
    ]
    assert watch.look(page()) == ["over: actions larger than clean ones", "over: answers hardly differ"]


def test_a_server_that_goes_away_leaves_what_was_wrong_and_what_strangers_say_is_only_numbers():
    watch = ServerWatch("ws://x", Rules(budget_s=0.05))
    watch.look(latency(40, 100))
    assert watch.look(ServerUnavailable("it is gone")) == ["no answer: it is gone"]
    assert "latency over its budget:" in watch.wrong and watch.look(latency(40, 100)) == ["over: no answer"]
    fault = 'fault="frozen",view="agent"'
    strange = {f"view_fault_run{{{fault}}}": 1e300, f"view_fault_since{{{fault}}}": -5, "round_seconds_count": -3}
    said = watch.look(page(**strange, **{'view_faults_total{fault="frozen",view="wrist"}': 7}))
    assert "agent view: frozen since round 0 (1000000000000 rounds)" in said
    text = watch("")[0]
    assert "0/0 rounds over 50 ms" in plain(text) and watch("x") is None


def test_the_page_says_the_same_and_is_given_out_as_a_run_s_is():
    watch = ServerWatch("ws://<b>:1", Rules())
    fault = 'fault="no_contrast",view="wrist"'
    watch.look(page(**{f"view_fault_run{{{fault}}}": 4, f"view_fault_since{{{fault}}}": 17}))
    served = Served(watch)
    try:
        code, text = served.ask(f"/{served.root}/")
        assert code == 200 and "wrist view: no contrast since round 17 (4 rounds)" in plain(text)
        assert "<b>" not in text and "alarm" in plain(text) and "connect-src 'self'" in served.head
        assert served.ask("/")[0] == served.ask(f"/{served.root}/metrics")[0] == 404
        assert served.ask(f"/{served.root}/", host="evil.example")[0] == 421
    finally:
        served.stop()


# --- the command ---


def test_the_command_prints_each_change_once_and_ends_with_ctrl_c():
    with running(ScriptedPolicy()) as server, PolicyClient(server.url) as client:
        started = command(server.url)
        assert started.stdout.readline() == f"watching {server.url}\n"
        assert re.fullmatch(r"open http://127\.0\.0\.1:\d+/\S{22}/ on this machine; .*\n", started.stdout.readline())
        for number in range(1, 5):
            client.infer(observation(number, wrist_image=BLACK))
        assert re.fullmatch(r"wrist view: no contrast since round 1 \([34] rounds\)\n", started.stdout.readline())
        client.infer(observation(9))
        assert started.stdout.readline() == "over: wrist view: no contrast\n"
        started.send_signal(signal.SIGINT)
        assert started.communicate(timeout=60) == ("ended; the server goes on\n", "") and started.returncode == 0


def once(url: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(server_watch.__file__).parents[2])} | variables
    line = [sys.executable, "-m", "flashtrail", "watch", url, "--once", *words]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)


def test_once_is_an_exit_code_and_wants_the_token():
    with running(ScriptedPolicy(), token="s3cret") as server, PolicyClient(server.url, token="s3cret") as client:
        refused = once(server.url)
        assert (refused.returncode, refused.stderr) == (
            2,
            f"error: {server.url} requires a token (HTTP 401): set FLASHTRAIL_TOKEN\n",
        )
        client.infer(observation(0))
        well = once(server.url, "--budget-ms", "10000", FLASHTRAIL_TOKEN="s3cret")
        assert well.returncode == 0 and "wrist view: no contrast in 0/1 [0\u201379\u00a0%] rounds, " in well.stdout
        assert "Latency: 0/1 rounds over 10000 ms [0\u2013" in well.stdout
        for number in range(3):
            client.infer(observation(number, wrist_image=BLACK))
        ill = once(server.url, FLASHTRAIL_TOKEN="s3cret")
    assert ill.returncode == 1 and ill.stdout.endswith("wrist view: no contrast since round 2 (3 rounds)\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["http://x"], "http://x: watch takes a run's directory, or a server, ws://HOST:PORT"),
        (["ws://u@x"], "ws://u@x: watch takes"),
        (["ws://localhost:8000", "--expect", "0.9"], "--expect is of a run"),
        (["ws://localhost:1", "--budget-ms", "51"], "give one at which a server counts, 0.5, 1, "),
        (["ws://localhost:1", "--rounds", "0"], "'0' is not a number of rounds"),
        (["ws://localhost:1", "--budget-ms", "nan"], "'nan' is not a positive number"),
        (["ws://localhost:1"], "GET /metrics of ws://localhost:1 failed"),
        (["."], None),
    ],
)
def test_what_cannot_be_watched_is_one_line(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = cli.main(["watch", *words, "--once"])
    said = capsys.readouterr()
    if line is None:
        assert (code, said.out) == (0, "No run under way. No run is here yet: `make report` starts one.\n")
    else:
        assert code == 2 and line in said.err and len(said.err.splitlines()) == 1
