"""Hard resets without the hard work: the compiled model and the uploaded meshes outlive the simulation.

A hard reset of robosuite writes the scene's XML, compiles it (2 s) and uploads meshes and textures to a new rendering
context (1.5 s). The XML of a task is the same every time, since placements are written into the compiled model
afterwards; so a copy of the model as compiled, with fresh data, is the same simulation bit for bit, and the context of
the last one shows it. Should the XML differ, everything is built anew. tests/rollouts/test_fidelity.py compares states
and pictures with resets that do it all.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any


class CompiledModels:
    """The model last compiled, as it was before anything was written into it."""

    def __init__(self) -> None:
        self.xml: str | None = None
        self._pristine: Any = None

    def model(self, xml: str) -> Any:
        """Return a fresh ``mujoco.MjModel`` of this XML, compiled only if the XML is new."""
        import mujoco

        if xml != self.xml:
            self._pristine, self.xml = mujoco.MjModel.from_xml_string(xml), xml
        return copy.copy(self._pristine)

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Have the environments that are constructed meanwhile take their models from here."""
        from robosuite.utils.binding_utils import MjSim

        original = MjSim.__dict__["from_xml_string"]
        MjSim.from_xml_string = classmethod(lambda cls, xml: cls(self.model(xml)))
        try:
            yield
        finally:
            MjSim.from_xml_string = original


class KeptRendering:
    """Gives an environment's next simulation the rendering context of the last one, where the model is the same.

    Replaces `_initialize_sim` and `_reset_internal` of one robosuite environment.
    """

    def __init__(self, env: Any, models: CompiledModels) -> None:
        self._env, self._models = env, models
        self._context, self._context_xml = env.sim._render_context_offscreen, models.xml
        self._reset = env._reset_internal
        env._initialize_sim, env._reset_internal = self._initialize_sim, self._reset_internal

    def _initialize_sim(self, xml_string: str | None = None) -> None:
        from robosuite.utils.binding_utils import MjSim

        env = self._env
        env.sim = MjSim(self._models.model(xml_string or env.model.get_xml()))
        env.sim.forward()
        env.initialize_time(env.control_freq)

    def _reset_internal(self) -> None:
        sim = self._env.sim
        if sim._render_context_offscreen is None and self._context_xml == self._models.xml:
            self._attach(sim)
        self._reset()
        self._context, self._context_xml = sim._render_context_offscreen, self._models.xml

    def _attach(self, sim: Any) -> None:
        """Do to the kept context what making a new one does, except for the upload."""
        import mujoco

        context = self._context
        context.gl_ctx.make_current()
        sim.forward()  # as a new context does: it leaves its mark in the solver's warm start
        sim.add_render_context(context)
        context.sim, context.model, context.data = sim, sim.model, sim.data
        context.scn = mujoco.MjvScene(sim.model._model, maxgeom=1000)
        context.cam, context.vopt, context.pert = mujoco.MjvCamera(), mujoco.MjvOption(), mujoco.MjvPerturb()
        context.cam.fixedcamid, context.cam.type = 0, mujoco.mjtCamera.mjCAMERA_FIXED
        context.pert.active, context.pert.select, context.pert.skinselect = 0, 0, -1
