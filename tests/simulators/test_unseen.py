"""Which geoms a picture can do without; that it is the same picture: test_simulator.py and test_fidelity.py."""

from __future__ import annotations

import numpy as np
import pytest

from flashtrail.simulators.robosuite import opengl, unseen

opengl.choose_backend()  # before MuJoCo is imported
mujoco = pytest.importorskip("mujoco")

# A camera at (0, 0, 1) that looks along +x and 30 degrees down, 45 degrees high; a mirror ahead of it.
SCENE = """
<mujoco><asset><material name="mirror" reflectance="{reflectance}"/></asset><worldbody>
  <camera name="c" pos="0 0 1" xyaxes="0 -1 0 .5 0 .866" fovy="45"/>
  <geom name="mirror" type="{mirror}" pos="3 0 {level}" size="1 1 .1" material="mirror"/>
  <geom name="another" type="box" pos="-3 0 0" size=".1 .1 .1" {another}/>
  <geom name="ahead" pos="3 0 0" size=".1"/>
  <geom name="behind" pos="-3 0 1" size=".1"/>
  <geom name="beside" pos="1 3 0" size=".1"/>
  <geom name="edge" pos="3 1.35 0" size=".1"/>
  <geom name="above" pos="3 0 {above}" size=".1"/>
  <geom name="glass" pos="-3 0 1" size=".1" rgba="1 1 1 .5"/>
</worldbody></mujoco>
"""


def unseen_names(*, reflectance=0.5, mirror="box", level=-0.5, above=1.0, another=""):
    scene = SCENE.format(reflectance=reflectance, mirror=mirror, level=level, above=above, another=another)
    model = mujoco.MjModel.from_xml_string(scene)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    found = unseen._unseen(model, data, 0, np.ones(model.ngeom, bool))
    return {model.geom(number).name for number in np.flatnonzero(found)}


def test_what_is_behind_or_beside_is_left_out_and_what_sticks_in_is_kept():
    assert unseen_names(reflectance=0) == {"another", "behind", "beside", "above"}


def test_what_is_seen_in_the_mirror_is_kept():
    assert "above" not in unseen_names()  # its image is at z = -1.8, below a mirror whose top is at -0.4
    assert "above" in unseen_names(reflectance=0)
    assert "above" in unseen_names(above=9)
    assert "behind" in unseen_names()


def test_the_first_of_two_mirrors_stays_since_another_would_reflect_instead():
    assert "another" in unseen_names()
    assert "another" not in unseen_names(another='material="mirror"')


def test_a_plane_has_no_end():
    assert "mirror" not in unseen_names(mirror="plane", level=99)
