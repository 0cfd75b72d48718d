"""Where robosuite's gripper is, corner by corner, and the force at the wrist: what limits go by. Writes nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from flashtrail.simulators.protocol import Sense

_CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))


class Senses:
    """Reads one compiled model; a reset may bring another. Corners: of the boxes around the gripper's solid parts."""

    def __init__(self, env: Any) -> None:
        robot, model = env.robots[0], env.sim.model
        self._robot, self._data = robot, env.sim.data._data
        self._geoms = [model.geom_name2id(name) for name in robot.gripper.contact_geoms]
        boxes = model._model.geom_aabb[self._geoms]  # centre and half sides, in the geom's frame
        self._corners = boxes[:, None, :3] + _CORNERS * boxes[:, None, 3:]  # (geoms, 8, 3)

    def read(self) -> Sense:
        """Return what is felt now: of the end of the last control step."""
        turned = self._data.geom_xmat[self._geoms].reshape(-1, 3, 3)
        points = self._data.geom_xpos[self._geoms][:, None] + np.einsum("gij,gcj->gci", turned, self._corners)
        hand = np.array(self._data.site_xpos[self._robot.eef_site_id])
        return Sense(hand, points.reshape(-1, 3), float(np.linalg.norm(self._robot.ee_force)))
