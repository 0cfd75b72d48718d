"""Demonstrations: the scripted expert in LIBERO, disturbed on purpose, recorded as the policy will see the scene.

Label = the expert's clean action, executed = that plus noise: the policy learns to come back, not to wobble. Only
init states 10-49 are used; 0-9 are for evaluation. Everything random about episode k of a task follows from
(seed, task, k), so processes share the work in any order and a killed run continues at the next missing file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.base.provenance import write_atomic
from flashtrail.simulators.observation import resize_with_pad, state_vector, upright
from flashtrail.simulators.robosuite.opengl import choose_backend
from flashtrail.training import expert

SEED = 2026
TRAIN_INITS = range(10, 50)
EPISODES = {0: 70, 1: 90, 2: 150}  # task 2, the bottle, is the hardest grasp
CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
MOVABLE = ("akita_black_bowl_1", "wine_bottle_1", "plate_1", "cream_cheese_1")
FIXTURES = ("site:flat_stove_1_cook_region", "site:wooden_cabinet_1_top_side", "geom:wooden_cabinet_1_g29")
RENDER_PIXELS, STORED_PIXELS = 256, 112
STILL = np.array([0.0] * 6 + [expert.OPEN])
WAIT_STEPS, IMAGE_EVERY, MAX_STEPS, PAST_SUCCESS = 10, 4, 280, 12
MISSED_EVERY = 6  # every 6th episode begins where a grasp has just failed


@dataclass(frozen=True)
class Disturbance:
    """How one episode is disturbed; drawn once from its generator."""

    init_state: int
    scene_seed: int
    jitter_m: float  # movable objects are shifted by up to this much, x and y
    sigma: float  # of the executed action's position noise, in control units
    displaced: bool  # begins away from the home pose, by an unrecorded random motion
    missed: bool  # begins at the end of a grasp that missed

    @classmethod
    def draw(cls, episode: int, rng: np.random.Generator, missed_every: int = MISSED_EVERY) -> Disturbance:
        clean = rng.random() < 0.15
        missed = episode % missed_every == missed_every - 1
        return cls(
            init_state=TRAIN_INITS[episode % len(TRAIN_INITS)],
            scene_seed=int(rng.integers(2**31)),
            jitter_m=0.012 if rng.random() < 0.6 else 0.0,
            sigma=0.0 if clean else float(rng.choice([0.05, 0.1, 0.2])),
            displaced=not clean and not missed and rng.random() < 0.5,
            missed=missed,
        )


@dataclass
class ActionNoise:
    """Noise of the executed action: white, plus now and then a push in one direction for a few steps."""

    sigma: float
    rng: np.random.Generator
    left: int = 0
    push: NDArray[np.float64] = field(default_factory=lambda: np.zeros(7))

    def __call__(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        """Clean action (7,) -> executed action (7,) within [-1, 1]; the gripper command is never touched."""
        out = action.copy()
        if self.sigma:
            out[:3] += self.rng.normal(0.0, self.sigma, 3)
            out[3:6] += self.rng.normal(0.0, 0.3 * self.sigma, 3)
            if self.left == 0 and self.rng.random() < 0.02:
                self.left = int(self.rng.integers(3, 8))
                strength = self.rng.uniform(0.2, 0.9)
                self.push = np.concatenate(
                    [self.rng.uniform(-1, 1, 3) * strength, self.rng.uniform(-0.15, 0.15, 3), [0.0]]
                )
            if self.left:
                out += self.push
                self.left -= 1
        return np.clip(out, -1.0, 1.0)


def stored_view(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A 256-pixel render -> what the policy would get at 224, area-averaged to 112; uint8 (112, 112, 3).

    The model's stem begins with the same 2 x 2 average, so half the size loses only a rounding to uint8.
    """
    seen = resize_with_pad(upright(image)).astype(np.float32)
    half = seen.reshape(STORED_PIXELS, 2, STORED_PIXELS, 2, 3).mean((1, 3))
    return np.round(half).astype(np.uint8)


class Stage:
    """One task's environment, rendering only on demand; one instance per task."""

    def __init__(self, task_id: int) -> None:
        choose_backend()
        from libero.libero import benchmark, get_libero_path
        from libero.libero.envs import OffScreenRenderEnv

        suite = benchmark.get_benchmark_dict()["libero_goal"]()
        task = suite.get_task(task_id)
        path = Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
        self.task_id = task_id
        self.inits = suite.get_task_init_states(task_id)
        self.env = OffScreenRenderEnv(
            bddl_file_name=os.fspath(path), camera_heights=RENDER_PIXELS, camera_widths=RENDER_PIXELS
        )

    @property
    def inner(self) -> Any:
        """The task environment inside LIBERO's wrapper."""
        return self.env.env

    def cameras(self, on: bool) -> None:
        """Switch rendering, which costs a hundred physics steps."""
        for name in CAMERAS:
            self.inner.modify_observable(name, "enabled", on)

    def begin(self, init_state: int, scene_seed: int, *, hard: bool) -> dict[str, Any]:
        """Reset, set the init state, return the observation (objects are still in the air).

        Fixtures are sampled anew at every reset from numpy's global generator, hence the seeds here.
        """
        np.random.seed(scene_seed)
        self.env.seed(scene_seed)
        self.inner.hard_reset = hard
        self.cameras(False)
        self.env.reset()
        self.cameras(False)
        return self.env.set_init_state(self.inits[init_state])

    def look(self) -> dict[str, Any]:
        """Return the current observation, rendered."""
        self.cameras(True)
        obs = self.inner._get_observations(force_update=True)
        self.cameras(False)
        return obs

    def step(self, action: NDArray[np.float64]) -> tuple[dict[str, Any], bool]:
        """One control step -> (observation without images, success)."""
        obs, _, done, _ = self.env.step(action)
        return obs, bool(done)

    def jitter(self, metres: float, rng: np.random.Generator) -> None:
        """Shift every movable object a little."""
        sim = self.inner.sim
        for name in MOVABLE:
            joint = sim.model.body_jntadr[sim.model.body_name2id(name + "_main")]
            at = sim.model.jnt_qposadr[joint]
            sim.data.qpos[at : at + 2] += rng.uniform(-metres, metres, 2)
        sim.forward()

    def landmarks(self, obs: dict[str, Any]) -> NDArray[np.float32]:
        """Positions (K, 3) of movable objects and fixtures relative to the hand: targets of the auxiliary head."""
        place = expert.observe(self.inner, obs).place
        points = [obs[name + "_pos"] for name in MOVABLE] + [place(name) for name in FIXTURES]
        return (np.array(points) - obs["robot0_eef_pos"]).astype(np.float32)


def begin(stage: Stage, episode: int, *, hard: bool) -> tuple[dict[str, Any], Disturbance, np.random.Generator]:
    """Set up the scene where an episode's record begins; the observation, its disturbance, what goes on drawing."""
    rng = np.random.default_rng([SEED, stage.task_id, episode])
    how = Disturbance.draw(episode, rng)
    obs = stage.begin(how.init_state, how.scene_seed, hard=hard)
    if how.jitter_m:
        stage.jitter(how.jitter_m, rng)
    for _ in range(WAIT_STEPS):
        obs, _ = stage.step(STILL)
    if how.displaced:
        obs = displace(stage.step, rng)
    elif how.missed:
        obs = _miss(stage, obs, rng)
    return obs, how, rng


def record(stage: Stage, episode: int, *, hard: bool) -> dict[str, NDArray[Any]] | None:
    """Play and record one episode; None if the expert did not succeed. Keys: see `dataset.load`."""
    obs, how, rng = begin(stage, episode, hard=hard)
    master, noise = expert.for_task(stage.task_id), ActionNoise(how.sigma, rng)
    columns: dict[str, list[Any]] = {name: [] for name in ("state", "label", "executed", "agent", "wrist", "at")}
    columns["objects"] = []
    done_at = None
    for step in range(MAX_STEPS):
        if step % IMAGE_EVERY == 0:
            picture = stage.look()
            for name, camera in zip(("agent", "wrist"), CAMERAS, strict=True):
                columns[name].append(stored_view(picture[camera]))
            columns["at"].append(step)
            columns["objects"].append(stage.landmarks(obs))
        clean = master.act(expert.observe(stage.inner, obs))
        executed = noise(clean)
        columns["state"].append(state_vector(obs).astype(np.float32))
        columns["label"].append(clean.astype(np.float32))
        columns["executed"].append(executed.astype(np.float32))
        obs, success = stage.step(executed)
        if success and done_at is None:
            done_at = step + 1
        if done_at is not None and step + 1 >= done_at + PAST_SUCCESS:
            break
    if done_at is None:
        return None
    out = {name: np.array(values) for name, values in columns.items()}
    return out | {"done_at": np.array(done_at), "init": np.array(how.init_state)}


def displace(
    step: Callable[[NDArray[np.float64]], tuple[dict[str, Any], bool]], rng: np.random.Generator
) -> dict[str, Any]:
    """A random motion for a few steps, sometimes with the gripper closed; the last observation."""
    push = np.concatenate([rng.uniform(-1, 1, 3) * [0.8, 0.8, 0.6], rng.uniform(-0.25, 0.25, 3)])
    grip = expert.CLOSED if rng.random() < 0.15 else expert.OPEN
    obs: dict[str, Any] = {}
    for _ in range(int(rng.integers(4, 16))):
        obs, _ = step(np.append(push, grip))
    return obs


def _miss(stage: Stage, obs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Let an expert approach the grasp, then move the hand aside or up and close it."""
    master = expert.for_task(stage.task_id)
    for _ in range(120):
        if master.phase == "close":
            break
        obs, _ = stage.step(master.act(expert.observe(stage.inner, obs)))
    back_off = np.array([*rng.uniform(-0.7, 0.7, 2), rng.uniform(0.2, 1.0), 0.0, 0.0, 0.0, expert.OPEN])
    for _ in range(int(rng.integers(2, 6))):
        obs, _ = stage.step(back_off)
    back_off[:6], back_off[6] = 0.0, expert.CLOSED
    for _ in range(int(rng.integers(4, 14))):
        obs, _ = stage.step(back_off)
    return obs


def generate(directory: Path, task_id: int, episodes: Iterable[int]) -> None:
    """Record the missing ones of `episodes` to DIRECTORY/taskT/epNNNN.npz.

    A failed episode leaves an empty `.failed` marker, so that it is not tried again.
    """
    folder = directory / f"task{task_id}"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [k for k in episodes if not list(folder.glob(f"ep{k:04d}.*"))]
    if not wanted:
        return
    stage = Stage(task_id)
    for count, episode in enumerate(wanted):
        begin = time.monotonic()
        arrays = record(stage, episode, hard=count == 0)
        if arrays is None:
            (folder / f"ep{episode:04d}.failed").touch()
        else:
            with write_atomic(folder / f"ep{episode:04d}.npz") as path, path.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
        outcome = "failed" if arrays is None else f"{len(arrays['at'])} frames, success at {arrays['done_at']}"
        print(f"task {task_id} episode {episode}: {outcome}, {time.monotonic() - begin:.1f} s", flush=True)
    stage.env.close()


def share(directory: Path, worker: int, workers: int) -> None:
    """Record one process's share of all tasks, in rounds: an early stop leaves the tasks balanced."""
    rounds = 4
    for part in range(rounds):
        for task_id, count in EPISODES.items():
            low, high = count * part // rounds, count * (part + 1) // rounds
            generate(directory, task_id, [k for k in range(low, high) if k % workers == worker])
