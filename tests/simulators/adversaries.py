"""Successes that the robot did not earn, in the real simulator: TASK_ID..., prints a task's verdicts as a line of JSON.

A fork for each task, since a process should have one simulator. Each attack writes into the simulation what no robot
did; the episode ends when the simulator calls it a success.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from functools import partial

import forks
import goal_tasks
import numpy as np

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.simulators.libero.simulator import LiberoSimulator
from flashtrail.training import expert

STILL_OPEN = [0.0] * 6 + [expert.OPEN]
GRAVITY, PATIENCE = 9.81, 60
GOALS = {1: ("akita_black_bowl_1", "flat_stove_1_cook_region"), 5: ("plate_1", "main_table_stove_front_region")}


def up(metres):
    return np.array([0.0, 0.0, metres])


class Arena:
    """One task, and hands where no robot has any."""

    def __init__(self, task_id):
        self.simulator, self.key = LiberoSimulator("libero_goal", task_id), EpisodeKey("libero_goal", task_id, 0, 0)
        self.item, self.site = GOALS.get(task_id, (None, None))

    @property
    def sim(self):
        return self.simulator.truth[0].sim

    def reset(self):
        self.simulator.reset(self.key)

    def goal(self):
        return self.sim.data.get_site_xpos(self.site).copy()

    def free_joint(self):
        joint = self.sim.model.body_jntadr[self.sim.model.body_name2id(f"{self.item}_main")]
        return self.sim.model.jnt_qposadr[joint], self.sim.model.jnt_dofadr[joint]

    def position(self):
        at, _ = self.free_joint()
        return self.sim.data.qpos[at : at + 3].copy()

    def put(self, position, velocity=(0.0, 0.0, 0.0)):
        at, dof = self.free_joint()
        self.sim.data.qpos[at : at + 3] = position
        self.sim.data.qvel[dof : dof + 6] = [*velocity, 0.0, 0.0, 0.0]
        self.sim.forward()

    def wait(self, steps=PATIENCE, action=STILL_OPEN):
        """Take steps until success; return whether it came."""
        return any(self.simulator.step(action, render=False).done for _ in range(steps))

    def hand(self):
        return expert.observe(*self.simulator.truth)

    def verdict(self, success):
        return {"success": success, **asdict(self.simulator.verdict(success))}


def teleported(arena):
    arena.reset()
    arena.wait(5)
    arena.put(arena.goal() + up(0.03))
    return arena.verdict(arena.wait())


def placed_from_the_start(arena):
    arena.reset()
    at, _ = arena.free_joint()
    state = arena.simulator._init_states[0]
    kept = state.copy()
    state[1 + at : 4 + at] = arena.goal() + up(0.03)  # time comes first
    arena.reset()
    state[:] = kept
    return arena.verdict(arena.wait())


def kicked(arena):
    """Thrown so that it comes down on the goal; a plate slides there."""
    for flight_s in (0.35, 0.45, 0.3, 0.55, 0.65):
        arena.reset()
        arena.wait(3)
        way = arena.goal() - arena.position()
        arena.put(arena.position() + up(0.01), [*(way[:2] / flight_s), way[2] / flight_s + GRAVITY * flight_s / 2])
        if arena.wait():
            return arena.verdict(True)
    return arena.verdict(False)


def slid(arena):
    """Drawn along the table by no hand, at 0.4 m/s; its speed is set anew at each step."""
    arena.reset()
    arena.wait(3)
    for _ in range(PATIENCE):
        way = (arena.goal() - arena.position())[:2]
        arena.put(arena.position(), [*(way / max(np.linalg.norm(way), 1e-6) * 0.4), 0.0])
        if arena.wait(1):
            return arena.verdict(True)
    return arena.verdict(False)


def never_closed(arena):
    """The bowl follows a hand that never closes: up, over the goal, down, and stays there."""
    arena.reset()
    arena.wait(3)
    hand = arena.hand().hand
    arena.put(hand + np.array([0, -0.05, -0.06]))
    offset = arena.position() - hand
    above = arena.goal() - offset + up(0.12)
    for target, steps in ((hand + up(0.1), 15), (above, 60), (above - up(0.11), 30)):
        for _ in range(steps):
            scene = arena.hand()
            action = expert.servo(scene.hand, scene.attitude, target, expert.DOWN, expert.OPEN)
            if arena.simulator.step(action.tolist(), render=False).done:
                return arena.verdict(True)
            arena.put(arena.hand().hand + offset)
    return arena.verdict(arena.wait())


def lifted_then_teleported(arena):
    """An honest grasp and lift; then the bowl is at the goal."""
    arena.reset()
    master = goal_tasks.for_task(arena.key.task_id)
    while master.phase != "carry":
        arena.simulator.step(master.act(arena.hand()).tolist(), render=False)
    arena.put(arena.goal() + up(0.03))
    return arena.verdict(arena.wait(action=[0.0] * 6 + [expert.CLOSED]))


def joint_set(arena):
    """The goal's joint is where it should be from one moment to the next."""
    arena.reset()
    arena.wait(5)
    track = arena.simulator._witness._goals[0][2][0]
    for value in (-0.15, 0.15, 0.8, 2.0):
        arena.sim.data.qpos[track.joint] = value
        arena.sim.forward()
        if arena.wait(3):
            return arena.verdict(True)
    return arena.verdict(False)


def joint_set_under_a_resting_hand(arena):
    """The hand holds the handle, and the drawer opens by itself."""
    arena.reset()
    master = goal_tasks.for_task(arena.key.task_id)
    while master.phase != "pull":
        arena.simulator.step(master.act(arena.hand()).tolist(), render=False)
    arena.sim.data.qpos[arena.simulator._witness._goals[0][2][0].joint] = -0.155
    arena.sim.forward()
    return arena.verdict(arena.wait(3, [0.0] * 6 + [expert.CLOSED]))


def honest(arena):
    """The expert; and what a look costs, in ms of this process."""
    arena.reset()
    master, success, steps = goal_tasks.for_task(arena.key.task_id), False, 0
    while not success and steps < arena.simulator.horizon:
        success = arena.simulator.step(master.act(arena.hand()).tolist(), render=False).done
        steps += 1
    verdict, started = arena.verdict(success), time.process_time()
    for _ in range(200):
        arena.simulator._witness.look(closed=False)
    return verdict | {"look_ms": (time.process_time() - started) * 5}


ATTACKS = {
    0: (honest, joint_set, joint_set_under_a_resting_hand),
    1: (honest, teleported, placed_from_the_start, kicked, never_closed, lifted_then_teleported),
    5: (slid, teleported, honest),
    7: (honest, joint_set),
}


def attack(task_id, answer):
    arena = Arena(task_id)
    found = {attack.__name__: attack(arena) for attack in ATTACKS[task_id]}
    os.write(answer, json.dumps({task_id: found}).encode() + b"\n")


if __name__ == "__main__":
    answer, _ = os.dup(1), os.dup2(2, 1)  # LIBERO prints while it loads
    forks.run([partial(attack, int(task_id), answer) for task_id in sys.argv[1:]])
