"""robosuite's Lift as an episode needs it: a start from the episode's key, steps, and a picture on request.

Renders with OSMesa from installed packages alone. One simulator per process: robosuite draws scenes from numpy's global
generator.
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
from flashtrail.simulators.observation import POLICY_PIXELS, Observation, state_vector
from flashtrail.simulators.protocol import Metrics, Sense, Step
from flashtrail.simulators.robosuite import opengl
from flashtrail.simulators.robosuite.pictures import Pictures
from flashtrail.simulators.robosuite.rebuild import KeptRendering
from flashtrail.simulators.robosuite.senses import Senses
from flashtrail.simulators.robosuite.substeps import LeanSteps
from flashtrail.simulators.robosuite_lift import goals, metrics
from flashtrail.simulators.robosuite_lift.cube import CubeModels
from flashtrail.simulators.robosuite_lift.tasks import TASKS, Task
from flashtrail.simulators.verify import Goal, Verdict
from flashtrail.simulators.witness import FINGERS, PADS, Witness

WAIT_STEPS = 10  # the cube falls from 1 cm above the table
HOLD_STEPS = 10  # the goal has held at the end of so many steps in a row: done
CAMERAS = ("agentview", "robot0_eye_in_hand")
_DUMMY_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)


class LiftSimulator:
    """One task of the suite ``robosuite_lift``, both cameras at 224 x 224, upright by rows as robomimic stores them.

    An init state is a seed: robosuite draws the cube's size, its place and the arm's noise after numpy's generator is
    seeded from the episode's key. So `scene_seed` changes nothing. Without `hard_reset` the model, and with it the
    cube's size, is drawn once from `seed`. Actions are (dx, dy, dz, three of rotation, gripper) as LIBERO's, -1 opens;
    a robot without rotation drops the three. `horizon`: control steps of an episode; None is the suite's own limit.
    With `shortcuts` pictures are drawn only where `step` is told so, a hard reset writes the new cube into the compiled
    model (`cube`) and a control step computes nothing twice; all bit-identical to robosuite's own way
    (tests/simulators/test_lift_fidelity.py).

    An episode is `done` only after its goal (`goals`) has held for HOLD_STEPS steps in a row.
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
        self._task = TASKS[task_id]
        self.prompt = self._task.prompt
        self._seed = seed
        opengl.choose_backend()
        try:
            with opengl.quiet():
                np.random.seed(seeds.legacy_seed([seed]))
                models = CubeModels()
                with models.compiling() if shortcuts else contextlib.nullcontext():
                    self._env = _construct(self._task, hard_reset)
        except UserError:
            raise
        except Exception as error:
            raise opengl.explain(error) from error
        self._pictures = Pictures(self._env, only_wanted=shortcuts)
        self._kept = KeptRendering(self._env, models) if shortcuts else None
        self._take_step = LeanSteps(self._env).step if shortcuts else self._env.step
        self._observation: dict[str, Any] = {}
        self._held = 0  # steps in a row at whose end the goal held
        # From the last reset on: where the cube lay, who looks, what other criteria say.
        self._start = (0.0, 0.0, 0.0)
        self._witness: Witness | None = None
        self._metrics = metrics.NOTHING_YET

    def reset(self, key: EpisodeKey) -> None:
        """Seed, reset and take the wait steps; the last one renders."""
        self._witness = None
        if (key.suite, key.task_id) != (self.suite, self.task_id):
            raise ValueError(f"this simulator runs {self.suite} task {self.task_id}, not {key}")
        check_init_state(key.init_state, f" of {self.suite} task {self.task_id}", suite_of(self.suite).init_states)
        np.random.seed(seeds.legacy_seed(seeds.derive(self._seed, key, "sim")))
        gripper = self._env.robots[0].gripper
        gripper.current_action = np.zeros(gripper.dof)  # a soft reset would leave it as the last episode did
        with self._pictures.wanted(False):
            self._env.reset()
        for waited in range(1, WAIT_STEPS + 1):
            self.step(_DUMMY_ACTION, render=waited == WAIT_STEPS)
        self._held, self._start, self._metrics = 0, goals.place(self._env), metrics.NOTHING_YET
        fingers = PADS if self._task.pads else FINGERS
        self._witness = Witness(self._env, goals.goals(self._env, self._task.family), fingers)

    def observe(self) -> Observation:
        """Return the observation of the last step, which must have rendered."""
        self._pictures.check_drawn()
        agent, wrist = (np.ascontiguousarray(self._observation[f"{name}_image"][::-1]) for name in CAMERAS)
        fingers = self._observation["robot0_gripper_qpos"][list(self._task.fingers)]
        return Observation(
            agent, wrist, state_vector(self._observation | {"robot0_gripper_qpos": fingers}), self.prompt
        )

    def step(self, action: Sequence[float], *, render: bool) -> Step:
        """Take one control step with a (7,) action; done once the goal has held long enough."""
        taken = [float(value) for value in action]
        if self._env.action_dim == 4:  # three of translation, and the gripper
            del taken[3:6]
        with self._pictures.wanted(render):
            self._observation, reward, _, _ = self._take_step(taken)
        if self._witness is not None:
            closed = bool(action[6] > 0)
            self._witness.look(closed=closed)
            self._metrics = metrics.after_step(self._metrics, self._env, closed=closed)
            self._held = self._held + 1 if goals.holds(self._env, self._task.family, self._start) else 0
        eef_pos = np.array(self._observation["robot0_eef_pos"], np.float64)
        return Step(float(reward), self._held >= HOLD_STEPS, eef_pos)

    def verdict(self, success: bool) -> Verdict | None:
        """Return the verdict on the episode so far; `success`: what the last step's `done` said."""
        return None if self._witness is None else self._witness.verdict(success)

    def sense(self) -> Sense:
        """Return where the gripper is and the force at its wrist."""
        return Senses(self._env).read()

    def metrics(self) -> Metrics:
        """Return what other criteria say of the episode so far."""
        return self._metrics

    def seen(self) -> list[Goal]:
        """Return what `verdict` judges, goal by goal."""
        return [] if self._witness is None else self._witness.goals()

    @property
    def truth(self) -> tuple[Any, dict[str, Any]]:
        """robosuite's environment and its last observation, for whoever may know more than a policy."""
        return self._env, self._observation

    def state(self) -> np.ndarray:
        """Flat physics state with the sizes of all geoms: equal arrays mean equal worlds."""
        sim = self._env.sim
        return np.concatenate([sim.get_state().flatten(), sim.model.geom_size.ravel(), sim.model.body_mass])

    def close(self) -> None:
        """Free the model and the rendering context."""
        self._env.close()
        self._kept = self._witness = None
        del self._take_step, self._pictures


def _construct(task: Task, hard_reset: bool) -> Any:
    import robosuite
    from robosuite.utils.placement_samplers import UniformRandomSampler

    opengl.keep_contexts_apart()
    reach = [-task.half_width, task.half_width]
    # All else as robosuite's own sampler of Lift has it.
    placement = UniformRandomSampler(
        name="ObjectSampler",
        x_range=reach,
        y_range=reach,
        rotation=None,
        ensure_object_boundary_in_range=False,
        ensure_valid_placement=True,
        reference_pos=np.array((0, 0, 0.8)),
        z_offset=0.01,
    )
    return robosuite.make(
        "Lift",
        robots=task.robot,
        controller_configs=robosuite.load_controller_config(default_controller=task.controller),
        placement_initializer=placement,
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names=list(CAMERAS),
        camera_heights=POLICY_PIXELS,
        camera_widths=POLICY_PIXELS,
        control_freq=20,
        ignore_done=True,
        hard_reset=hard_reset,
    )
