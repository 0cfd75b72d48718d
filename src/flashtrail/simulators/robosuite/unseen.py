"""Leaves what a camera cannot see out of its picture: MuJoCo draws every geom, also behind the camera and beside it.

In software rendering the vertices are what costs, and the hand's camera has half of them outside its view; where the
one surface that reflects (the stove's) is outside too, its mirrored second drawing of everything goes as well. A geom
is left out if its bounding sphere is outside the camera's pyramid and, while the reflecting surface is in view, its
mirror image is outside too; so the picture is the same bit for bit (tests/rollouts/test_fidelity.py). Source: mujoco
2.3.7 render_gl3.c (mjr_render draws at most one plane or box as reflecting, the first), engine_vis_visualize.c.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

_CHECKED = "2.3.7"
_HIDDEN = 5  # a geom group that robosuite does not show
_MARGIN, _SHARE = 0.005, 1.02  # m, of the radius: rounding, and half a pixel
_OPAQUE = 0.995


@contextlib.contextmanager
def left_out(sim: Any, camera: str) -> Iterator[None]:
    """Hide what a camera (square picture) does not see while its picture is drawn."""
    model, context = sim.model._model, sim._render_context_offscreen
    if not _checked(model, context):
        yield
        return
    drawn = np.asarray(context.vopt.geomgroup, bool)[model.geom_group.clip(0, _HIDDEN)]
    hidden = _unseen(model, sim.data._data, int(sim.model.camera_name2id(camera)), drawn)
    groups = model.geom_group[hidden]
    model.geom_group[hidden] = _HIDDEN
    try:
        yield
    finally:
        model.geom_group[hidden] = groups


def _checked(model: Any, context: Any) -> bool:
    import mujoco

    if mujoco.__version__ != _CHECKED or context is None or context.vopt.geomgroup[_HIDDEN] or context.scn.stereo:
        return False
    return not model.nskin and not model.light_castshadow.any()


def _unseen(model: Any, data: Any, camera: int, drawn: np.ndarray) -> np.ndarray:
    """Return which geoms contribute nothing to a camera's picture, given which are drawn at all; (ngeom,) bool."""
    import mujoco

    with_material = model.geom_matid >= 0
    material = np.where(with_material, model.geom_matid, 0)
    alpha, reflectance = model.geom_rgba[:, 3], np.zeros(model.ngeom)
    if model.nmat:
        alpha = np.where(with_material, np.minimum(alpha, model.mat_rgba[material, 3]), alpha)
        reflectance = np.where(with_material, model.mat_reflectance[material], 0.0)
    flat = (model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE) | (model.geom_type == mujoco.mjtGeom.mjGEOM_BOX)
    mirrors = np.flatnonzero(flat & (reflectance > 0) & drawn)

    radius = model.geom_rbound * _SHARE + _MARGIN
    out = _outside(model, data, camera, data.geom_xpos, radius)
    out &= (model.geom_rbound > 0) & (alpha >= _OPAQUE)  # planes have no bound; transparent ones are drawn in order
    if len(mirrors) > 1:
        out[mirrors] = False  # with the first one gone another would reflect
    for mirror in mirrors:
        if not out[mirror]:
            normal = data.geom_xmat[mirror].reshape(3, 3)[:, 2]
            top = data.geom_xpos[mirror]
            if model.geom_type[mirror] == mujoco.mjtGeom.mjGEOM_BOX:
                top = top + model.geom_size[mirror, 2] * normal
            image = data.geom_xpos - 2 * ((data.geom_xpos - top) @ normal)[:, None] * normal
            out &= _outside(model, data, camera, image, radius)
    return out


def _outside(model: Any, data: Any, camera: int, centres: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Return which spheres (N, 3), (N,) are wholly outside the pyramid that a camera sees; (N,) bool."""
    seen = (centres - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)
    slope = np.tan(np.radians(model.cam_fovy[camera]) / 2)
    beyond = (np.abs(seen[:, :2]).max(1) + seen[:, 2] * slope) / np.hypot(1.0, slope)
    out: np.ndarray = beyond > radius
    return out
