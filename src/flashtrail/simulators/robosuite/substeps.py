"""A control step's 25 physics steps with every number that robosuite computes, each computed once.

robosuite runs MuJoCo's pipeline three times a physics step: `forward`, once more in the controller's `update`, and in
`step`. Nothing that the position and velocity stages read changes in between, so they run once; the solver runs three
times as before, since each solve is the next one's warm start. One thing does move: every run of the position stage
normalizes the quaternions in qpos, and a second time may change a last bit; where it would, the stage runs again.
Force sensors are computed where they can be read. The controller's law is written out with robosuite's operations in
robosuite's order and memory layout; what is constant is looked up once per model.

Only for what was checked (`objection`); anything else is stepped by robosuite itself. tests/rollouts/test_fidelity.py
and ``make fidelity`` compare with it bit for bit, on Lift tests/simulators/test_lift_fidelity.py. Sources: mujoco 2.3.7
engine_forward.c (mj_step, mj_forwardSkip, mj_Euler), robosuite 1.4.0 environments/base.py, controllers/osc.py and
robots/single_arm.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_CHECKED = {"mujoco": "2.3.7", "robosuite": "1.4.0"}
_CALLBACKS = ("control", "passive", "sensor", "act_dyn", "act_gain", "act_bias", "contactfilter")
# How a gripper's actuators follow its command, by its class in robosuite.
_CLOSING = {
    "PandaGripper": (-1.0, 1.0),
    "Robotiq140Gripper": (1.0, -1.0),
    "Robotiq85Gripper": (1.0,),
    "JacoThreeFingerGripper": (-1.0,),
}


class LeanSteps:
    """Steps an environment of LIBERO or robosuite as its own ``step`` does, bit for bit, where `objection` has none."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._parts: tuple[Any, Any] = (None, None)
        self._arm: _Arm | None = None

    def step(self, action: Sequence[float]) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        """Take one control step, as ``BDDLBaseDomain.step`` does, or robosuite's ``MujocoEnv.step``."""
        env = self._env
        parts = env.sim.data._data, env.robots[0].controller
        if any(one is not other for one, other in zip(parts, self._parts, strict=True)):  # the first step, or a reset
            self._parts, self._arm = parts, None if objection(env) else _Arm(env)
        if self._arm is None or env.done or len(action) != env.action_dim:
            stepped: tuple[dict[str, Any], float, bool, dict[str, Any]] = env.step(action)
            return stepped
        arm, physics, clock = self._arm, self._arm.physics, _SamplingClock(env)
        env.timestep += 1
        last = int(env.control_timestep / env.model_timestep) - 1
        for number in range(last + 1):
            physics.forward()
            if number == 0:
                env._pre_action(action, True)  # robosuite's own: it sets the goal, and notes things once a step
                physics.settle()
                arm.begin(action)
            else:
                physics.again()
                arm.control()
            sampling = clock.due()
            physics.step(sensors=sampling or number == last)
            clock.tick(sampling)
        clock.leave()
        env.cur_time += env.control_timestep
        reward, done, info = env._post_action(action)
        observations = env._get_observations()
        return observations, reward, env._check_success() if _is_libero(env) else done, info


def _is_libero(env: Any) -> bool:
    return hasattr(env, "bddl_file_name")


def objection(env: Any) -> str | None:
    """Return why this environment is left to robosuite, or None where everything is as it was checked."""
    import mujoco
    import robosuite
    from robosuite.controllers.osc import OperationalSpaceController
    from robosuite.environments.robot_env import RobotEnv

    found = {"mujoco": mujoco.__version__, "robosuite": robosuite.__version__}
    if found != _CHECKED:
        return f"checked with {_CHECKED}, not {found}"
    kind, model = type(env), env.sim.model._model
    base: Any = RobotEnv
    if _is_libero(env):
        from libero.libero.envs.bddl_base_domain import BDDLBaseDomain

        base = BDDLBaseDomain
    if kind.step is not base.step or kind._pre_action is not base._pre_action:
        return f"{kind.__name__} steps in its own way"
    if len(env.robots) != 1 or env.viewer is not None:
        return "several robots, or a viewer"
    law = env.robots[0].controller
    if type(law) is not OperationalSpaceController or law.impedance_mode != "fixed":
        return "another controller"
    if env.action_dim != law.control_dim + 1 or law.control_dim not in (3, 6):
        return "another action"
    if not law.uncoupling or law.interpolator_pos is not None or law.interpolator_ori is not None:
        return "a controller with other options"
    if type(env.robots[0].gripper).__name__ not in _CLOSING:
        return "another gripper"
    if model.opt.integrator != mujoco.mjtIntegrator.mjINT_EULER or model.opt.enableflags or model.opt.disableflags:
        return "another integrator, or flags"
    if model.na or model.nplugin or model.nmocap or (model.sensor_needstage != mujoco.mjtStage.mjSTAGE_ACC).any():
        return "activations, plugins, mocap bodies, or sensors of other stages"
    if any(getattr(mujoco, f"get_mjcb_{name}")() is not None for name in _CALLBACKS):
        return "callbacks"
    if any(list(at) != list(range(at[0], at[0] + len(at))) for at in (law.qpos_index, law.qvel_index)):
        return "joints of the arm that are not side by side"
    return None


class _Physics:
    """robosuite's three passes through MuJoCo's pipeline in a physics step: `forward`, `again`, `step`."""

    def __init__(self, model: Any, data: Any) -> None:
        import mujoco

        self._mujoco, self._model, self._data = mujoco, model, data
        self._none, self._velocity = int(mujoco.mjtStage.mjSTAGE_NONE), int(mujoco.mjtStage.mjSTAGE_VEL)
        self._qpos, self._normalized = data.qpos, np.empty_like(data.qpos)
        self._settled = False  # one more position stage would find what the last one did

    def settle(self) -> None:
        """Find out whether normalizing once more leaves every bit of qpos as it is."""
        np.copyto(self._normalized, self._qpos)
        self._mujoco.mj_normalizeQuat(self._model, self._normalized)
        self._settled = self._normalized.tobytes() == self._qpos.tobytes()

    def forward(self) -> None:
        self._mujoco.mj_forwardSkip(self._model, self._data, self._none, 1)
        self.settle()

    def again(self) -> None:
        """Be `forward` once more from the same state."""
        if self._settled:
            self._mujoco.mj_forwardSkip(self._model, self._data, self._velocity, 1)
        else:
            self.forward()

    def step(self, *, sensors: bool) -> None:
        """Be mj_step from the state of the last pass, under new controls; `sensors`: somebody may read them."""
        lib, model, data = self._mujoco, self._model, self._data
        if not self._settled or data.time <= 0:
            lib.mj_step(model, data)
            return
        lib.mj_checkPos(model, data)
        lib.mj_checkVel(model, data)
        if data.time > 0:
            lib.mj_forwardSkip(model, data, self._velocity, 0 if sensors else 1)
        else:  # a bad number: MuJoCo has reset everything
            lib.mj_forward(model, data)
        lib.mj_checkAcc(model, data)
        lib.mj_Euler(model, data)


class _Arm:
    """``SingleArm.control`` of the physics steps that bring no new goal, for one compiled model."""

    def __init__(self, env: Any) -> None:
        from robosuite.utils import control_utils

        robot, model, data = env.robots[0], env.sim.model._model, env.sim.data._data
        self.physics = _Physics(model, data)
        self._mujoco, self._law = self.physics._mujoco, control_utils
        self._robot, self._controller, self._gripper = robot, robot.controller, robot.gripper
        self._model, self._data = model, data
        controller = robot.controller
        self._site = env.sim.model.site_name2id(controller.eef_name)
        self._site_xpos, self._site_xmat = data.site_xpos[self._site], data.site_xmat[self._site]
        self._qpos = data.qpos[controller.qpos_index[0] : controller.qpos_index[-1] + 1]
        self._dofs = slice(controller.qvel_index[0], controller.qvel_index[-1] + 1)
        self._qvel, self._bias, self._inertia = data.qvel, data.qfrc_bias[self._dofs], data.qM
        self._jacp, self._jacr = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        self._mass = np.zeros((model.nv, model.nv))
        self._low, self._high = (limit.copy() for limit in robot.torque_limits)
        self._joints = np.array(robot._ref_joint_actuator_indexes)
        self._fingers = np.array([env.sim.model.actuator_name2id(name) for name in robot.gripper.actuators])
        reach = model.actuator_ctrlrange[self._fingers]
        self._middle, self._half = 0.5 * (reach[:, 1] + reach[:, 0]), 0.5 * (reach[:, 1] - reach[:, 0])
        self._ctrl = data.ctrl
        self._direction = np.array(_CLOSING[type(robot.gripper).__name__])
        self._closing = self._direction

    def begin(self, action: Sequence[float]) -> None:
        """Note what holds for a whole control step."""
        controller = self._controller
        self._closing = self._direction * self._gripper.speed * np.sign(action[controller.control_dim :])
        self._kp, self._kd = (controller.kp[:3], controller.kp[3:6]), (controller.kd[:3], controller.kd[3:6])

    def control(self) -> None:
        """Compute torques from the present state and write the controls; arrays are laid out as robosuite's are."""
        c, dofs, dot = self._controller, self._dofs, np.dot
        self._mujoco.mj_jacSite(self._model, self._data, self._jacp, self._jacr, self._site)
        self._mujoco.mj_fullM(self._model, self._mass, self._inertia)
        c.ee_pos, c.ee_ori_mat = self._site_xpos.copy(), self._site_xmat.copy().reshape(3, 3)
        c.ee_pos_vel, c.ee_ori_vel = dot(self._jacp, self._qvel), dot(self._jacr, self._qvel)
        c.joint_pos, c.joint_vel = self._qpos.copy(), self._qvel[dofs].copy()
        c.J_pos, c.J_ori = self._jacp[:, dofs].copy("F"), self._jacr[:, dofs].copy("F")
        c.J_full = np.concatenate((c.J_pos, c.J_ori))
        c.mass_matrix = self._mass[dofs, dofs].copy("F")

        turn = self._law.orientation_error(c.goal_ori, c.ee_ori_mat)
        force = (c.goal_pos - c.ee_pos) * self._kp[0] + -c.ee_pos_vel * self._kd[0]
        torque = turn * self._kp[1] + -c.ee_ori_vel * self._kd[1]
        _, along, around, null = self._law.opspace_matrices(c.mass_matrix, c.J_full, c.J_pos, c.J_ori)
        torques = dot(c.J_full.T, np.concatenate((dot(along, force), dot(around, torque)))) + self._bias
        torques += self._law.nullspace_torques(c.mass_matrix, null, c.initial_joint, c.joint_pos, c.joint_vel)
        c.torques = torques

        self._robot.torques = torques.clip(self._low, self._high)
        self._gripper.current_action = (self._gripper.current_action + self._closing).clip(-1.0, 1.0)
        self._ctrl[self._fingers] = self._middle + self._half * self._gripper.current_action
        self._ctrl[self._joints] = self._robot.torques


class _SamplingClock:
    """The clocks of an environment's observables, as one while they agree: they sample once in a control step."""

    def __init__(self, env: Any) -> None:
        self._env, self._tick = env, env.model_timestep
        self._observables = [one for one in env._observables.values() if one._enabled]
        self._enter()

    def due(self) -> bool:
        """Whether an observable samples, or begins a new period, at the end of this physics step."""
        if not self._agree:
            return True
        at = self._at + self._tick
        return bool((not self._sampled and self._period - self._delay >= at) or at >= self._period)

    def tick(self, due: bool) -> None:
        """Let the physics step end; `due`: what `due` said."""
        if due:
            self.leave()
            self._env._update_observables()
            self._enter()
        else:
            self._at += self._tick

    def leave(self) -> None:
        """Write the time back to the observables."""
        if self._agree:
            for one in self._observables:
                one._time_since_last_sample = self._at

    def _enter(self) -> None:
        states = {
            (one._time_since_last_sample, one._sampled, one._sampling_timestep, one._current_delay)
            for one in self._observables
        }
        self._agree = len(states) == 1
        if self._agree:
            self._at, self._sampled, self._period, self._delay = states.pop()
