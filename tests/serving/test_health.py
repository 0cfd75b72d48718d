"""What a session shows of its cameras and actions, at the real server's /metrics: numbers by view, nobody's picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
from serving.in_process import running
from serving.test_limits import metrics, opened, until
from serving.test_server import ask

from flashtrail.drills import predicates
from flashtrail.serving.health import ANSWERS, WINDOW, SessionHealth
from flashtrail.serving.metrics import read
from flashtrail.serving.protocol import Request

RNG = np.random.default_rng(3)


def seen(state: float = 0.0, **pictures: np.ndarray) -> dict:
    shown = {
        "observation/image": RNG.integers(0, 256, (224, 224, 3), np.uint8),
        "observation/wrist_image": RNG.integers(0, 256, (224, 224, 3), np.uint8),
    }
    named = {"agent": "observation/image", "wrist": "observation/wrist_image"}
    return (
        shown | {named[view]: picture for view, picture in pictures.items()} | {"observation/state": np.full(8, state)}
    )


def noted(health: SessionHealth, observation: dict, executed: int | None = None, reset: bool = False, actions=None):
    answer = np.zeros((50, 7)) if actions is None else actions
    health.note(Request(observation, executed, reset, None), {"actions": answer, "accepted_prefix_len": 12})


FLAT = {"black": np.zeros((224, 224, 3), np.uint8), "grey": np.full((224, 224, 3), 91, np.uint8)}


@pytest.mark.parametrize("picture", FLAT.values(), ids=FLAT)
@pytest.mark.parametrize("view", ["agent", "wrist"])
def test_a_dark_view_is_named_and_counted_until_it_sees_again(view, picture):
    health = SessionHealth()
    noted(health, seen())
    for moved in range(3):
        noted(health, seen(moved, **{view: picture}))
    assert +health.runs == {(view, "no_contrast"): 3} and health.round == 4, "not frozen as well"
    noted(health, seen(9.0))
    assert not +health.runs


def test_a_frozen_view_is_told_from_a_robot_at_rest():
    picture = seen()["observation/image"]
    rests, dead = SessionHealth(), SessionHealth()
    for number in range(4):
        noted(rests, seen(0.0, agent=picture))
        noted(dead, seen(0.1 * number, agent=picture))
    assert not +rests.runs and +dead.runs == {("agent", "frozen"): 3}
    noted(dead, seen(9.0, agent=picture), reset=True)
    assert not +dead.runs, "the first picture of an episode follows none"


def test_a_view_that_is_said_to_be_missing_is_not_judged():
    health = SessionHealth()
    noted(health, seen(wrist=FLAT["black"]) | {"__image_mask__": [True, False]})
    assert not +health.runs and set(health.looks) == {"agent"}


@pytest.mark.parametrize("replan", [1, 5, 12])
def test_features_are_the_doctors(replan):
    """The same executed actions give the same numbers as a step log of them."""
    health, actions, at = SessionHealth(), [], []
    for number in range(20):
        chunk = RNG.normal(size=(50, 7)) * 0.3
        chunk[:, 6] = -1.0
        noted(health, seen(number), None if not number else replan, not number, chunk)
        at.append(len(actions))
        actions.extend(chunk[:replan])
    noted(health, seen(), replan)
    means = np.full(len(actions), np.nan)
    means[at] = RNG.normal(size=len(at))
    known = predicates.features(predicates.Episode(np.array(actions), means, np.zeros(len(actions))))
    assert WINDOW == predicates.WINDOW and health.spread == pytest.approx(known["spread"])
    if len(actions) >= WINDOW:
        assert health.effort == pytest.approx(known["effort"])
    else:
        assert math.isnan(health.effort)
    noted(health, seen(), replan, reset=True)
    assert math.isnan(health.effort) and math.isnan(health.spread), "another episode"


def test_answers_of_a_hand_that_opens_and_closes_are_not_called_alike():
    health = SessionHealth()
    for number in range(ANSWERS + 2):
        noted(health, seen(number), 1, actions=np.full((50, 7), (-1.0) ** number))
    assert math.isnan(health.spread)


def test_actions_of_other_robots_are_taken_in():
    for width in (1, 3, 12):
        health = SessionHealth()
        for number in range(60):
            noted(health, seen(number), 1, actions=np.full((5, width), 0.5))
        assert health.effort == pytest.approx(0.5)


def test_the_page_shows_the_worst_open_session_and_forgets_one_that_ended(policy, observation) -> None:
    black = observation | {"observation/wrist_image": FLAT["black"]}
    key = 'flashtrail_view_fault_{}{{fault="no_contrast",view="wrist"}}'
    with running(policy) as server, opened(server) as well:
        well.recv(timeout=10)
        with opened(server) as ill:
            ill.recv(timeout=10)
            for message in (observation, black, black):
                ask(ill, message), ask(well, observation)
            until(lambda: metrics(server)['flashtrail_view_rounds_total{view="wrist"}'] == 6)
            page = metrics(server)
            assert (page[key.format("run")], page[key.format("since")]) == (2, 2)
            assert page['flashtrail_view_std{view="agent"}'] > 60 and page["flashtrail_round_seconds_count"] == 6
        until(lambda: server.sessions == 1)
        page = metrics(server)
    assert page[key.format("run")] == page[key.format("since")] == 0
    assert page['flashtrail_view_faults_total{fault="no_contrast",view="wrist"}'] == 2
    assert page['flashtrail_view_faults_total{fault="no_contrast",view="agent"}'] == 0


def test_a_page_is_read_as_numbers_of_ours():
    page = b'# HELP x\nflashtrail_sessions 1.0\nother 2.0\nflashtrail_a{view="x"} NaN\nflashtrail_b inf\n'
    assert read(page + b"flashtrail_c x\n\xff") == {"flashtrail_sessions": 1.0}
