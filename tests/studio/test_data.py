"""Sets of demonstrations in the studio: what is offered, what is shown of one, an episode step by step."""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from datasets import sets
from PIL import Image

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.studio import data
from flashtrail.studio.visitors import Backstage

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A directory with a LeRobot set, and one to train on made of it."""
    place = tmp_path_factory.mktemp("beside")
    sets.v3(place / "robots/lerobot")
    assert (
        cli.main(["import-dataset", str(place / "robots/lerobot"), "--out", str(place / "ours"), "--every", "3"]) == 0
    )
    return place


@pytest.fixture(scope="module")
def backstage(beside, tmp_path_factory):
    made = Backstage(Path(sys.executable), ROOT, tmp_path_factory.mktemp("log"), [str(beside)])
    yield made
    made.close()


def grey(encoded):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L"))[56, 56]


def test_sets_of_the_checkout_and_of_what_the_command_names_are_offered(beside, tmp_path):
    (tmp_path / "results/training").mkdir(parents=True)
    (tmp_path / "results/training/demos").symlink_to(beside / "ours")
    assert data.sets(tmp_path) == {"results/training/demos": tmp_path / "results/training/demos"}
    assert [*data.sets(tmp_path, [beside])][1:] == [str(beside / "ours"), str(beside / "robots/lerobot")]
    assert [*data.sets(tmp_path, [beside / "ours"])][1:] == [str(beside / "ours")]


def test_a_directory_that_may_not_be_looked_into_is_passed_over():
    """Root may look everywhere: it looks as nobody."""
    with tempfile.TemporaryDirectory() as name:
        place, root = Path(name), os.geteuid() == 0
        place.chmod(0o755)
        (place / "demos/task0").mkdir(parents=True)
        (place / "demos/task0/ep0000.npz").touch()
        (place / "locked").mkdir(mode=0)
        os.seteuid(65534 if root else os.geteuid())
        try:
            assert [*data.sets(place / "none", [place])] == [str(place / "demos")]
        finally:
            os.seteuid(0 if root else os.geteuid())


@pytest.mark.parametrize("name", ["ours", "robots/lerobot"])
def test_a_set_is_shown_and_stepped_through(backstage, beside, name):
    path = str(beside / name)
    *said, told = backstage.ask({"do": "survey", "set": path})
    assert {"now": "1 of its episodes are read"} in said
    assert "Episodes" in told["html"] and told["html"].count("<svg") == 2 and told["html"].count("<img") == 3
    lines, names = zip(*told["episodes"], strict=True)
    assert lines[2].endswith(": 14 steps, push the cube") and len(names) == 3
    *_, seen = backstage.ask({"do": "episode", "set": path, "episode": names[2]})
    states, actions = sets.numbers(2)
    wanted = list(range(0, 14, 3)) if name == "ours" else list(range(14))
    assert seen["steps"] == wanted and seen["length"] == 14 and "<svg" in seen["curves"]
    for at, step in enumerate(wanted):
        for camera in (0, 1):
            assert abs(int(grey(seen["pictures"][at][camera])) - int(sets.pictures(2, camera)[step, 0, 0, 0])) <= 6
        np.testing.assert_allclose(seen["values"][at], [states[step], actions[step]], atol=1e-4)


@pytest.mark.parametrize(
    ("order", "line"),
    [
        ({"do": "survey", "set": "/etc"}, "unknown choice '/etc'"),
        ({"do": "survey", "set": "../.."}, "unknown choice '../..'"),
        ({"do": "survey"}, "unknown choice 'None'"),
        ({"do": "episode", "set": "OURS", "episode": "../../secret"}, "the set has no episode '../../secret'"),
        ({"do": "episode", "set": "OURS", "episode": "task0/ep0077"}, "the set has no episode 'task0/ep0077'"),
        ({"do": "episode", "set": "OURS", "episode": "episode 0"}, "the set has no episode 'episode 0'"),
        ({"do": "episode", "set": "LEROBOT", "episode": "episode 3"}, "it has no episode 3"),
    ],
)
def test_what_is_not_offered_is_refused_in_a_line(backstage, beside, order, line):
    places = {"OURS": str(beside / "ours"), "LEROBOT": str(beside / "robots/lerobot")}
    *_, told = backstage.ask({**order, "set": places.get(order.get("set"), order.get("set"))})
    assert line in told["failed"] and told["last"] and "lost" not in told


def test_a_long_episode_is_thinned_and_keeps_its_ends(tmp_path):
    (tmp_path / "task0").mkdir()
    rows = np.zeros((1000, 2), np.float32)
    views = np.zeros((1000, 112, 112, 3), np.uint8)
    np.savez(tmp_path / "task0/ep0000.npz", state=rows, label=rows, at=np.arange(1000), agent=views)
    seen = data.episode(tmp_path, "task0/ep0000")
    assert len(seen["pictures"]) == data.MOST_PICTURES and (seen["steps"][0], seen["steps"][-1]) == (0, 999)
    np.savez(tmp_path / "task0/ep0001.npz", state=rows, label=rows[:-1], at=np.arange(1000), agent=views)
    with pytest.raises(UserError, match=r"ep0001\.npz is damaged"):
        data.episode(tmp_path, "task0/ep0001")
    np.savez(tmp_path / "task0/ep0002.npz", state=rows[:, 0], label=rows, at=np.arange(1000), agent=views)
    with pytest.raises(UserError, match=r"ep0002\.npz is damaged.*state is float32 of shape"):
        data.episode(tmp_path, "task0/ep0002")
