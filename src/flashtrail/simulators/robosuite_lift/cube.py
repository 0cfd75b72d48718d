"""Hard resets that draw another cube, without compiling the scene again: its numbers are written into the model.

robosuite draws the cube's half sizes at each hard reset, and nothing else of the scene's XML changes. So the cube is
compiled by itself, what the compiler made of its size is written into a copy of the whole model, and MuJoCo computes
again what follows from it (mj_setConst). tests/simulators/test_lift_fidelity.py compares every array of such a model
with one that was compiled from the XML.
"""

from __future__ import annotations

import copy
import re
from typing import Any
from xml.etree import ElementTree

from flashtrail.simulators.robosuite.rebuild import CompiledModels

_CUBE = "cube_main"  # the body's name
_GEOMS = ("cube_g0", "cube_g0_vis")
_SIZED = re.compile(r'(<geom (?=[^>]*\bname="cube_g0(?:_vis)?")[^>]*\bsize=")([^"]*)(")')
_OF_GEOM, _OF_BODY = ("geom_size", "geom_aabb", "geom_rbound"), ("body_mass", "body_inertia")


class CubeModels(CompiledModels):
    """The model last compiled, for every size of the cube."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: list[str] = []

    def model(self, xml: str) -> Any:
        """Return a fresh ``mujoco.MjModel`` of this XML, compiled only if more than the cube's size is new."""
        import mujoco

        sizes = [found[1] for found in _SIZED.findall(xml)]
        plain = _SIZED.sub(r"\1\3", xml)
        if plain != self.xml:
            self._pristine, self.xml, self._sizes = mujoco.MjModel.from_xml_string(xml), plain, sizes
        model = copy.copy(self._pristine)
        if sizes != self._sizes:
            _write(model, mujoco.MjModel.from_xml_string(_alone(xml)))
            mujoco.mj_setConst(model, mujoco.MjData(model))
        return model


def _alone(xml: str) -> str:
    """Return a scene of nothing but the cube, under the same settings of the compiler and without its looks."""
    scene = ElementTree.fromstring(xml)
    cube = next(body for body in scene.iter("body") if body.get("name") == _CUBE)
    for geom in cube.iter("geom"):
        geom.attrib.pop("material", None)
    alone = ElementTree.Element("mujoco")
    alone.extend(part for part in scene if part.tag in ("compiler", "option"))
    ElementTree.SubElement(alone, "worldbody").append(cube)
    return ElementTree.tostring(alone, encoding="unicode")


def _write(model: Any, alone: Any) -> None:
    """Write into a model what depends on the cube's size in one of the cube alone."""
    for name in _GEOMS:
        for attribute in _OF_GEOM:
            getattr(model, attribute)[model.geom(name).id] = getattr(alone, attribute)[alone.geom(name).id]
    body, own = model.body(_CUBE).id, alone.body(_CUBE).id
    for attribute in _OF_BODY:
        getattr(model, attribute)[body] = getattr(alone, attribute)[own]
    at, count = model.body_bvhadr[body], model.body_bvhnum[body]
    begin = alone.body_bvhadr[own]
    model.bvh_aabb[at : at + count] = alone.bvh_aabb[begin : begin + count]
