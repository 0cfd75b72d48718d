"""Limits: each rule by itself, their order, and a robot under them, beside controls that have to break them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from rollouts import scripted
from rollouts.scripted import FULL, run

from flashtrail.base import documents
from flashtrail.base.errors import UserError
from flashtrail.experiment import config, limits
from flashtrail.experiment import shard as specs
from flashtrail.rollouts.limits import RETREAT_STEPS, STEP_S, Limiter, eased, excursion, held_inside
from flashtrail.simulators.expert import UNIT_M
from flashtrail.simulators.protocol import Sense
from flashtrail.tables import schemas

BOX = {"low": [-0.1, -0.1, 0.0], "high": [0.1, 0.1, 0.3]}
CORNERS = np.array([[x, y, z] for x in (-0.02, 0.02) for y in (-0.03, 0.03) for z in (-0.01, 0.1)])
STIFFNESS, FINE = 150.0, 25  # robosuite takes 25 steps of physics as well


def at(*hand: float, force: float | None = 5.0) -> Sense:
    return Sense(np.array(hand), np.array(hand) + CORNERS, force)


def limiter(sense: Sense | None = None, **given) -> Limiter:
    return Limiter(limits.read(given), sense or at(0, 0, 0.1))


class Arm:
    """A hand on robosuite's law: critically damped, its goal set anew from where it is."""

    def __init__(self) -> None:
        self.place, self.speed, self.farthest = np.array([0.0, 0.0, 0.1]), np.zeros(3), -math.inf

    def step(self, action) -> Sense:
        goal = self.place + np.clip(action[:3], -1, 1) * UNIT_M
        for _ in range(FINE):
            self.speed += (STIFFNESS * (goal - self.place) - 2 * math.sqrt(STIFFNESS) * self.speed) * STEP_S / FINE
            self.place = self.place + self.speed * STEP_S / FINE
            self.farthest = max(self.farthest, excursion(limits.read({"box": BOX}).box, self.place + CORNERS))
        return at(*self.place)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("more", [{}, {"max_step_m": 0.005}, {"max_jerk_m_s3": 20.0}])
def test_no_corner_leaves_the_box_whatever_is_asked_for(seed, more):
    """The constants follow from the controller's law alone: here the law itself is integrated."""
    rng, arms = np.random.default_rng(seed), {act: Arm() for act in (True, False)}
    own = {act: limiter(box=BOX, act=act, **more) for act in arms}
    for number in range(200):
        corner = np.sign(rng.uniform(-1, 1, 7)) if number % 15 == 0 else corner  # noqa: F821
        for act, arm in arms.items():
            own[act].felt(arm.step(own[act].apply(np.array([*corner[:3], 0, 0, 0, 1])).action))
    assert arms[True].farthest < 5e-4
    assert arms[False].farthest > 0.1  # the control
    worst = {act: own[act].totals["worst_excursion_mm"] for act in own}
    assert worst[True] == pytest.approx(arms[True].farthest * 1e3, abs=0.6)
    assert worst[False] == pytest.approx(arms[False].farthest * 1e3, rel=0.02)


@pytest.mark.parametrize("seed", range(50))
def test_all_points_come_to_rest_inside_the_box(seed):
    rng = np.random.default_rng(seed)
    box = limits.read({"box": BOX}).box
    low, high = np.array(box.low), np.array(box.high)
    arms = rng.uniform(-0.05, 0.05, (8, 3))
    rest = rng.uniform(low, high) + arms
    step, turn = held_inside(box, rng.uniform(-0.2, 0.2, 3), rng.uniform(-0.5, 0.5, 3), rest, arms)
    assert excursion(box, rest + step + np.cross(turn, arms)) < 1e-12


def test_what_fits_is_left_as_it_is_and_what_does_not_is_changed_least():
    box, arms = limits.read({"box": BOX}).box, CORNERS
    rest = np.array([0.0, 0.0, 0.1]) + CORNERS
    step, turn = held_inside(box, np.array([0.01, 0, 0]), np.array([0, 0, 0.1]), rest, arms)
    assert step.tolist() == [0.01, 0, 0] and turn.tolist() == [0, 0, 0.1]
    step, turn = held_inside(box, np.array([0.2, 0.01, 0]), np.zeros(3), rest, arms)
    assert step == pytest.approx([0.08, 0.01, 0])
    # At the side a turn that swings a corner out is left away; the opposite one, which swings others out, as well;
    # one about the axis across moves nothing that way.
    rest = np.array([0.08, 0.0, 0.1]) + CORNERS
    assert held_inside(box, np.zeros(3), np.array([0, 0, 0.1]), rest, arms)[1] == pytest.approx(np.zeros(3))
    assert held_inside(box, np.zeros(3), np.array([0.1, 0, 0]), rest, arms)[1] == pytest.approx([0.1, 0, 0])


def test_nothing_turns_while_a_corner_is_outside():
    """Not even back in: at the end of a joint's range the turn would drive the hand on."""
    one = limiter(at(0.09, 0, 0.1), box=BOX)
    one.felt(at(0.09, 0, 0.1))
    sent = one.apply([0, 0, 0, 0.1, 0, 0, -1])
    assert sent.by == ("box",) and sent.action[0] < 0 and np.abs(sent.action[3:6]).max() <= 1e-6
    assert limiter(at(0.05, 0, 0.1), box=BOX).apply([0, 0, 0, 0.1, 0, 0, -1]).action[3] == 0.1


def test_a_gripper_too_large_for_the_box_is_centred():
    box = limits.Box(low=[-0.01, -1, -1], high=[0.01, 1, 1])
    step, _ = held_inside(box, np.array([0.3, 0, 0]), np.zeros(3), CORNERS + np.array([0.004, 0, 0]), CORNERS)
    assert step == pytest.approx([-0.004, 0, 0])


@pytest.mark.parametrize("seed", range(10))
def test_a_bounded_jerk_meets_what_is_wanted_and_does_not_pass_it(seed):
    rng, most = np.random.default_rng(seed), 0.7
    for wanted in rng.uniform(-20, 20, (4, 3)):
        values = [np.zeros(3), np.zeros(3)]
        for _ in range(40):
            values.append(eased(wanted, values[-1], values[-1] - values[-2], most))
        assert np.abs(np.diff(values, 2, axis=0)).max() <= most + 1e-9
        assert values[-1] == pytest.approx(wanted)
        assert (np.abs(values) <= np.abs(wanted) + 1e-9).all()
    noise = [np.zeros(3), np.zeros(3)]
    for wanted in rng.uniform(-20, 20, (100, 3)):
        noise.append(eased(wanted, noise[-1], noise[-1] - noise[-2], most))
    assert np.abs(np.diff(noise, 2, axis=0)).max() <= most + 1e-9


def test_step_and_turn_are_shortened_and_keep_their_direction():
    sent = limiter(max_step_m=0.002, max_turn_rad=0.01).apply([1, 0.5, 0, 0, 0.4, 0, -1])
    assert sent.by == ("step", "turn")
    assert sent.action[0] == pytest.approx(2 * sent.action[1]) and 0 < sent.action[0] < 1
    assert sent.action[3] == sent.action[5] == 0 and 0 < sent.action[4] < 0.4
    assert sent.action[6] == -1


def test_the_gripper_changes_at_most_once_in_so_many_steps():
    one, commands = limiter(min_gripper_steps=5), []
    for step in range(40):
        sent = one.apply([0, 0, 0, 0, 0, 0, 1 if step % 2 else -1])
        one.felt(at(0, 0, 0.1))
        commands.append(sent.action[6] > 0)
    changes = [step for step in range(1, 40) if commands[step] != commands[step - 1]]
    assert changes[0] == 1 and min(np.diff(changes)) == 5
    assert one.totals["limited_steps"] == sum(closed != bool(step % 2) for step, closed in enumerate(commands)) > 10


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_held_and_counted(bad):
    one = limiter(max_step_m=0.01)
    one.apply([0.1] * 6 + [1])
    sent = one.apply([0.1, bad, 0, 0, 0, 0, -1])
    assert sent.by == ("finite",) and sent.action[:3] == [0, 0, 0] and sent.action[6] == 1
    assert np.isfinite(sent.action).all() and one.totals["limited_steps"] == 1
    assert np.isnan(limiter(act=False, box=BOX).apply([math.nan] * 7).action).all()  # the control


def forces(on_force: str, felt: list[float]) -> tuple[list, Limiter]:
    one, sent = limiter(max_force_n=20.0, on_force=on_force), []
    for number, force in enumerate(felt):
        sent.append(one.apply([1, 0, 0, 0, 0, 0, 1]))
        one.felt(at(0.01 * (number + 1), 0, 0.1, force=force))
    return sent, one


def test_above_the_force_the_hand_holds_retreats_or_stops():
    felt = [5.0, 5.0, 30.0, 25.0, 5.0, 5.0, 40.0] + [5.0] * 20
    sent, one = forces("hold", felt)
    assert [number for number, s in enumerate(sent) if s.by] == [3, 4, 7]
    assert sent[3].action[:3] == [0, 0, 0] and one.totals["stops"] == 2 and one.totals["peak_force_n"] == 40
    sent, one = forces("stop", felt)
    assert [number for number, s in enumerate(sent) if s.by] == list(range(3, len(felt))) and one.totals["stops"] == 1
    sent, one = forces("retreat", felt)
    assert [number for number, s in enumerate(sent) if s.by] == list(range(3, 7 + RETREAT_STEPS))
    assert sent[3].action[0] < 0 and sent[3].action[6] == 1 and one.totals["stops"] == 1
    assert forces("hold", [5.0] * 10)[1].totals["stops"] == 0
    assert forces("stop", [5.0, math.nan, 5.0])[1].totals["stops"] == 1


@pytest.mark.parametrize("number", [0, 1])
def test_what_was_felt_as_no_number_is_above_every_limit_in_the_table(number):
    one, felt = limiter(box=BOX, act=False), [at(0, 0, 0.1)] * 3
    felt[number] = at(0, 0, math.nan, force=math.nan)
    for sense in felt:
        one.felt(sense)
    assert (one.totals["peak_force_n"], one.totals["worst_excursion_mm"]) == (math.inf, math.inf)


def test_the_box_has_the_last_word():
    """A retreat ends at the box's sides, and a brake may be harder than the jerk allows."""
    one = limiter(at(0.0, 0, 0.1), box=BOX, max_jerk_m_s3=1.0)
    one.felt(at(0.06, 0, 0.1))
    one.felt(at(0.075, 0, 0.1))  # 0.3 m/s, at the side
    assert one.apply([1, 0, 0, 0, 0, 0, -1]).by == ("jerk", "box")


def test_within_its_limits_an_action_is_sent_to_the_bit():
    action = [0.1, -0.2, 0.3, 0.01, 0.02, -0.01, 0.3]
    many = {"box": BOX, "max_step_m": 0.02, "max_turn_rad": 0.1, "max_force_n": 20.0, "min_gripper_steps": 3}
    assert limiter(**many).apply(action).action == action
    assert limiter(act=False, **many).apply([9.0] * 7).action == [9.0] * 7
    still = limiter(**many).apply([0, 0, 0, 0, 0, 0, -1])  # robosuite takes a turn of zero for none: it would go on
    assert still.by == () and 0 < still.action[3] <= 1e-6


@pytest.mark.parametrize("given", [{"box": BOX}, {"box": BOX, "max_jerk_m_s3": 200.0, "max_turn_rad": 0.05}])
def test_what_is_felt_and_is_no_number_never_reaches_the_action(given):
    made = limiter(**given)
    for place in (math.nan, math.nan, 0.1, 0.1):
        made.felt(at(0, 0, place))
        sent = made.apply([1.0] * 7)
        assert np.isfinite(sent.action).all()
        assert place == 0.1 or (sent.by[0] == "finite" and np.abs(sent.action[:6]).max() <= 1e-6)
    assert "finite" not in sent.by and np.abs(sent.action[:3]).max() > 0


# --- in an episode ---


class Feeling(scripted.Simulator):
    """The scripted simulator with a hand on robosuite's law."""

    def reset(self, key):
        super().reset(key)
        self.arm, self.felt = Arm(), at(0, 0, 0.1)

    def step(self, action, *, render):
        self.felt = self.arm.step(action)
        return super().step(action, render=render)

    def sense(self):
        return self.felt


def test_an_episode_has_what_was_sent_what_was_executed_and_what_was_measured():
    given = limits.read({"box": BOX, "max_step_m": 0.004, "name": "slow"})
    record, _, simulator = run([(12, FULL)], Feeling(), limits=given)
    assert [tuple(row["executed"]) for row in record.steps] == simulator.taken[1:]
    assert record.steps[30]["action"] != record.steps[30]["executed"]
    assert {row["limited"] for row in record.steps} <= {"", "step", "step box", "box"}
    limited = sum(bool(row["limited"]) for row in record.steps)
    assert 0 < record.episode["limited_steps"] == limited <= 40
    assert record.episode["peak_force_n"] == 5.0 and record.episode["worst_excursion_mm"] < 1
    again, *_ = run([(12, FULL)], Feeling(), limits=given)  # nothing is left of the episode before
    assert again.steps == record.steps

    watched, _, _ = run([(12, FULL)], Feeling(), limits=limits.read({"box": BOX, "act": False}))
    assert watched.episode["worst_excursion_mm"] > 100 and watched.episode["limited_steps"] is None
    plain, *_ = run([(12, FULL)], Feeling())
    assert [row["action"] for row in watched.steps] == [row["executed"] for row in watched.steps]
    assert {plain.steps[0][name] for name in schemas.LIMITED_STEP} == {None}
    assert {plain.episode[name] for name in schemas.LIMITED} == {None}


def test_limits_on_what_a_simulator_does_not_feel_are_refused():
    with pytest.raises(UserError, match="does not report the gripper"):
        run([(12, FULL)], limits=limits.read({"box": BOX}))
    numb = Feeling()
    numb.sense = lambda: at(0, 0, 0.1, force=None)
    with pytest.raises(UserError, match="limits gentle: this suite has no force sensor"):
        run([(12, FULL)], numb, limits=limits.read({"max_force_n": 20.0, "name": "gentle"}))


# --- in the config ---

ROOT = Path(__file__).parents[2]
SHIPPED = documents.mapping(ROOT / "config.yaml")


def with_limits(given, **arm):
    own = {"limits": {"table": given}, "arms": {"limited": {"policy": "pi0_nano", **arm}}}
    return config.parse(config.merge(SHIPPED, own))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"box": {"low": [0, 0, 1], "high": [1, 1, 0.5]}}, "the box is inside out in z: low 1 is not below high 0.5"),
        ({"max_force_n": 0}, "max_force_n: must be above 0"),
        ({"max_force_n": -3.0}, "max_force_n: must be above 0"),
        ({"max_torque_n": 3.0}, "max_torque_n"),
        ({"on_force": "pray"}, "on_force"),
        ({"box": {"low": [0, 0], "high": [1, 1, 1]}}, "low"),
        ({"min_gripper_steps": 0}, "min_gripper_steps: must be at least 1"),
    ],
)
def test_bad_limits_are_refused_in_one_line(given, said):
    with pytest.raises(UserError) as error:
        with_limits(given)
    assert said in str(error.value) and "limits.table" in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"arms.limited.limits: unknown name 'tabel'.*table"):
        with_limits({"max_force_n": 20.0}, limits="tabel")


def test_an_arm_without_limits_is_what_it_was(tmp_path):
    """No key, no other digest: finished shards are found again."""
    plain, beside = config.parse(SHIPPED), with_limits({"max_force_n": 20.0}, limits="table")
    assert all("limits" not in plain.arm(name) for name in plain.all_arms)
    assert {name: beside.arm(name) for name in plain.all_arms} == {name: plain.arm(name) for name in plain.all_arms}
    arm = beside.arm("limited")
    without = {key: value for key, value in arm.items() if key != "limits"}
    assert specs.config_digest(arm) != specs.config_digest(without)
    spec = {"arm": "a", "policy": "p", "suite": "libero_goal", "task_id": 1, "init_states": [0], "seed": 7}
    spec["server"] = {"command": ["serve", "{port}"]}
    assert specs.read({**spec, "limits": None}).digest == specs.read(spec).digest == KNOWN
    assert specs.read({**spec, "limits": arm["limits"]}).digest != KNOWN
    assert json.loads(json.dumps(arm["limits"])) == arm["limits"]


KNOWN = "8c22f4615cc1e899"  # as it was before there were limits
