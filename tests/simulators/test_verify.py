"""The rules of verified success, on made-up instants; test_verified_success.py has the real simulator."""

from __future__ import annotations

import dataclasses

import pytest

from flashtrail.simulators import verify
from flashtrail.simulators.verify import Goal, Instant

HERE, GOAL = (0.0, 0.0, 0.9), (0.3, 0.0, 0.9)


def still(place=HERE, **other):
    return Instant(
        **{"closed": False, "left": False, "right": False, "touched": False, "target": GOAL} | other, place=place
    )


def held(place, moved=0.02, slip=0.001, **other):
    grip = {
        "closed": True,
        "left": True,
        "right": True,
        "touched": True,
        "moved": moved,
        "by_hand": moved,
        "slip": slip,
    }
    return still(place, **grip | other)


def carried():
    """Grasped, 10 cm up, 30 cm across, 8 cm down, let go."""
    up = [held((0.0, 0.0, 0.9 + 0.02 * i)) for i in range(6)]
    across = [held((0.03 * i, 0.0, 1.0)) for i in range(11)]
    down = [held((0.3, 0.0, 1.0 - 0.02 * i)) for i in range(5)]
    return [still(), still(), *up, *across, *down, still((0.3, 0.0, 0.9)), still((0.3, 0.0, 0.9))]


def pick_place(track, **other):
    return verify.judge(True, False, [Goal(verify.PICK_PLACE, False, [track], **other)])


def test_an_honest_pick_and_place_is_verified_and_counted():
    verdict = pick_place(carried())
    assert (verdict.verified, verdict.missing, verdict.grasps, verdict.lifts) == (True, None, 1, 1)


def replaced(track, change):
    return [dataclasses.replace(now, **change) for now in track]


@pytest.mark.parametrize(
    "track, missing",
    [
        ([still(), still(), still(GOAL), still(GOAL)], verify.NEVER_GRASPED),
        (replaced(carried(), {"closed": False}), verify.NEVER_GRASPED),  # glued under an open hand
        (replaced(carried(), {"left": False}), verify.NEVER_GRASPED),  # scooped with one finger
        (replaced(carried(), {"slip": 0.02}), verify.NEVER_LIFTED),  # it rises between the fingers, not with them
        ([now for now in carried() if now.place[2] < 0.915], verify.NEVER_LIFTED),  # dragged
        ([*carried()[:8], still(GOAL), still(GOAL)], verify.NOT_RELEASED),  # lifted, then it is there
        ([*carried()[:14], *[still((0.18 + 0.01 * i, 0.0, 0.9)) for i in range(13)]], verify.NOT_RELEASED),  # a throw
    ],
)
def test_what_a_pick_and_place_may_lack(track, missing):
    verdict = pick_place(track)
    assert (verdict.verified, verdict.missing) == (False, missing)


def test_success_while_the_fingers_still_hold_it_at_the_goal_counts_as_released():
    assert pick_place(carried()[:-2]).verified


def test_a_drawer_may_carry_what_was_put_into_it():
    after = [still((0.3, -0.03 * i, 0.9), target=(0.3, -0.03 * i, 0.9)) for i in range(8)]
    assert pick_place([*carried(), *after]).verified
    gone = [still((0.3, -0.03 * i, 0.9)) for i in range(8)]
    assert pick_place([*carried(), *gone]).missing == verify.NOT_RELEASED


def test_a_finger_may_lose_contact_for_a_moment_and_not_longer():
    track = carried()
    gap = [dataclasses.replace(now, left=False) for now in track[8:10]]
    assert len(verify.grasps([*track[:8], *gap, *track[10:]])) == 1
    gap = [dataclasses.replace(now, left=False) for now in track[8:12]]
    assert len(verify.grasps([*track[:8], *gap, *track[12:]])) == 2


def turned(joints, **touch):
    return [still(joint=q, **touch if index else {}) for index, q in enumerate(joints)]


def hand(moved=0.01, by_hand=0.01):
    return {"touched": True, "moved": moved, "by_hand": by_hand}


@pytest.mark.parametrize("family", [verify.DRAWER, verify.KNOB])
@pytest.mark.parametrize(
    "track, missing",
    [
        (turned([0.0, 0.0, -0.05, -0.10, -0.15], **hand()), None),
        (turned([0.0, 0.0, -0.15]), verify.NEVER_TOUCHED),
        ([*turned([0.0, 0.0, -0.01], **hand()), *turned([-0.01, -0.15])], verify.MOVED_ALONE),  # set after a touch...
        (turned([0.0, 0.0, -0.15], **hand(0.15, 0.002)), verify.MOVED_ALONE),  # ... or while the hand rests on it
        (turned([0.0, 0.0, 0.0], **hand()), verify.MOVED_ALONE),
    ],
)
def test_a_joint_moves_with_the_hand(family, track, missing):
    assert verify.missing_behaviour(Goal(family, False, [track])) == missing


def test_one_joint_of_several_is_enough():
    pulled, shut = turned([0.0, 0.0, -0.08, -0.15], **hand()), turned([0.0, 0.0, 0.0, 0.0])
    assert verify.missing_behaviour(Goal(verify.DRAWER, False, [shut, pulled])) is None


def pushed(alone, steps=10):
    """30 cm along x; the last `alone` steps without the hand."""
    return [still((0.03 * i, 0.0, 0.9), **hand(0.03, 0.03) if i <= steps - alone else {}) for i in range(steps + 1)]


@pytest.mark.parametrize("alone, missing", [(0, None), (2, None), (5, verify.MOVED_ALONE), (11, verify.NEVER_TOUCHED)])
def test_a_push_is_contact_while_moving(alone, missing):
    assert verify.missing_behaviour(Goal(verify.PUSH, False, [pushed(alone)])) == missing


def test_success_before_the_robot_acted_is_never_verified():
    goal = Goal(verify.PICK_PLACE, True, [carried()])
    assert verify.judge(True, True, [goal]).missing == verify.HELD_BEFORE


def test_a_goal_that_held_from_the_start_asks_for_nothing_beside_one_that_did_not():
    shut = Goal(verify.DRAWER, True, [turned([0.0, 0.0])])
    assert verify.judge(True, False, [shut, Goal(verify.PICK_PLACE, False, [carried()])]).verified
    assert not verify.judge(True, False, [shut, Goal(verify.PICK_PLACE, False, [[still(GOAL)] * 3])]).verified


def test_all_behaviour_and_no_success_is_not_verified():
    verdict = verify.judge(False, False, [Goal(verify.PICK_PLACE, False, [carried()])])
    assert (verdict.verified, verdict.missing, verdict.grasps, verdict.lifts) == (False, verify.NO_SUCCESS, 1, 1)


def test_a_goal_without_a_rule_is_not_verified_and_says_so():
    assert verify.judge(True, False, [Goal(None, False, [])]).missing == verify.NO_RULE


def raised(to=0.06, hold=4):
    """Grasped on the table, raised by 20 mm a step, held there."""
    heights = [0.9 + 0.02 * i for i in range(round(to / 0.02) + 1)]
    return [still(), still(), *(held((0.0, 0.0, z)) for z in [*heights, *heights[-1:] * hold])]


def let_go(track):
    return replaced(track, {"closed": False})


def fallen(start):
    return [still((0.0, 0.0, z)) for z in (start - 0.02, 0.9, 0.9)]


IN_THE_AIR = [held((0.0, 0.0, 1.05))] * 4  # set between the closing fingers
BOBBING = [held((0.0, 0.0, 1.05 + 0.02 * (i % 2))) for i in range(12)]
NO_HAND = {"left": False, "right": False, "touched": False}


@pytest.mark.parametrize(
    "track, missing",
    [
        (raised(), None),
        ([*raised(), *fallen(0.96), *raised()[2:]], None),  # dropped, and taken up again
        ([still(), still((0.0, 0.0, 1.2)), *fallen(1.1), *raised()[2:]], None),  # kicked, then honestly raised
        (replaced(raised(), NO_HAND), verify.NEVER_GRASPED),  # it flies
        (let_go(raised()), verify.NEVER_GRASPED),
        (replaced(raised(), {"right": False}), verify.NEVER_GRASPED),  # balanced on a finger
        (raised(0.02), verify.NEVER_LIFTED),
        ([*raised(0.0), held((0.0, 0.0, 1.0), 0.1, slip=0.1)], verify.NEVER_LIFTED),  # set there, touched
        ([still(), *IN_THE_AIR], verify.NEVER_LIFTED),
        ([still(), *BOBBING], verify.NEVER_LIFTED),  # up and down in the air is no height
        ([still(), *IN_THE_AIR, *(held((0.0, 0.0, 1.05 + 0.02 * i)) for i in range(5))], verify.MOVED_ALONE),
        ([*raised(), *fallen(0.96)], verify.NOT_HELD),
        ([*raised(), *fallen(0.96), *raised(0.0)[2:]], verify.NOT_HELD),  # in hand again, on the table
        ([*raised(), *(held((0.0, 0.0, 0.96 - 0.02 * i)) for i in range(3))], verify.NOT_HELD),  # put down
        ([*raised(), *let_go(raised()[-1:])], verify.NOT_HELD),  # told to open; still between the fingers
    ],
)
def test_a_lift_is_raised_with_the_hand_and_held_at_the_end(track, missing):
    verdict = verify.judge(True, False, [Goal(verify.LIFT, False, [track])])
    assert (verdict.verified, verdict.missing) == (missing is None, missing)


def test_of_a_step_in_which_it_slips_the_slip_is_not_the_hands():
    track = [*raised(), held((0.0, 0.0, 0.98), slip=0.012)]
    assert verify.raised_with_hand(track)[-1] == pytest.approx(0.068)
    assert verify.raised_alone(track) == pytest.approx(0.012)
    assert verify.missing_behaviour(Goal(verify.LIFT, False, [track])) is None


def test_a_finger_that_loses_contact_on_the_way_up_costs_the_height_of_those_steps():
    track = raised(0.2)
    gap = [dataclasses.replace(now, left=False) for now in track[6:10]]
    flickering = [*track[:6], *gap, *track[10:]]
    assert len(verify.grasps(flickering)) == 2
    assert verify.raised_with_hand(flickering)[-1] == pytest.approx(0.1)
    assert verify.raised_alone(flickering) == pytest.approx(0.1)
