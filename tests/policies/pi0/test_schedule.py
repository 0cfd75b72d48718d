"""The session machine sentence by sentence; tests/conformance replays upstream's traces."""

import numpy as np
import pytest

from flashtrail.policies.pi0 import schedule
from flashtrail.policies.pi0.schedule import SessionState
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import Verdict

CHUNK = np.arange(50 * 7, dtype=np.float32).reshape(50, 7)
DEFAULT = FlashSettings()


def verdict(accepted: int, stop: bool = False, cut: bool = False) -> Verdict:
    return Verdict(-CHUNK, accepted, 0.1, stop, cut)


@pytest.fixture
def warm() -> SessionState:
    return schedule.after_full(SessionState(), CHUNK, "snapshot")


def test_a_new_session_begins_full():
    assert schedule.full_cause(SessionState(), DEFAULT) == "first"


def test_an_accepted_draft_replaces_the_chunk_and_the_next_round_is_a_draft(warm):
    state = schedule.after_draft(schedule.advance(warm, 12, DEFAULT), verdict(5), DEFAULT)
    assert state.chunk[1, 0] == -CHUNK[1, 0] and state.ptr == 0 and state.rounds_since_full == 1
    assert schedule.full_cause(state, DEFAULT) is None


def test_zero_accepted_schedules_one_full_round_and_keeps_the_chunk(warm):
    state = schedule.after_draft(schedule.advance(warm, 12, DEFAULT), verdict(0), DEFAULT)
    assert state.chunk is CHUNK and state.ptr == 12
    assert schedule.full_cause(state, DEFAULT) == "zero_accept"
    state = schedule.after_full(state, CHUNK, "fresh")
    assert schedule.full_cause(state, DEFAULT) is None and state.snapshot == "fresh"


def test_a_gripper_event_holds_full_rounds_for_its_window(warm):
    settings = FlashSettings(gripper_full_window=3)
    state = schedule.after_draft(warm, verdict(4, cut=True), settings)
    causes = []
    for _ in range(4):
        causes.append(schedule.full_cause(state, settings))
        state = schedule.after_full(state, CHUNK, "s") if causes[-1] else state
    assert causes == ["gripper", "gripper", "gripper", None]


def test_without_fallback_nothing_is_scheduled(warm):
    settings = FlashSettings(full_fallback=False)
    state = schedule.after_draft(warm, verdict(0, stop=True), settings)
    assert schedule.full_cause(state, settings) is None and state.chunk is not CHUNK


def test_periodic_and_forced_full_rounds(warm):
    every2 = FlashSettings(periodic_full_every_n_draft_rounds=2)
    state = schedule.after_draft(warm, verdict(5), every2)
    assert schedule.full_cause(state, every2) is None
    state = schedule.after_draft(state, verdict(5), every2)
    assert schedule.full_cause(state, every2) == "periodic"
    assert schedule.full_cause(state, FlashSettings(force_full_each_round=True)) == "forced"


@pytest.mark.parametrize(("executed", "ptr"), [(12, 12), (None, 12), (0, 0), (1000, 50), (-3, 0)])
def test_executed_steps_move_within_the_chunk(warm, executed, ptr):
    assert schedule.advance(warm, executed, DEFAULT).ptr == ptr


def test_the_last_gripper_is_kept_while_nothing_new_is_executed(warm):
    state = schedule.advance(warm, 3, DEFAULT)
    assert state.last_gripper == CHUNK[2, 6]
    state = schedule.after_draft(state, verdict(5), DEFAULT)
    assert schedule.advance(state, 0, DEFAULT).last_gripper == CHUNK[2, 6]
    assert SessionState().last_gripper == 0.0
