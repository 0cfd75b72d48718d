"""The process behind the page, over its socket: an episode of the studio is the shard's, until someone disturbs it."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from rollouts import shards

from flashtrail.rollouts.processes import COMMAND
from flashtrail.studio import choices
from flashtrail.studio.stage import spec_of
from flashtrail.studio.visitors import Backstage

pytestmark = [pytest.mark.simulator, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
CHOSEN = {"policy": "lift_nano", "suite": "robosuite_lift", "task": 0, "init_state": 3, "seed": 7, "instruction": ""}
PLAY = {"do": "play", "guard": "none", "pace": 20, **CHOSEN}


@pytest.fixture(scope="module")
def backstage(tmp_path_factory):
    made = Backstage(Path(sys.executable), ROOT, tmp_path_factory.mktemp("it's a log"))
    yield made
    process = psutil.Process(made._process.pid)
    under = process.children(recursive=True)
    assert any("serve" in child.cmdline() for child in under)
    assert made.close() == 0
    assert not [child for child in under if child.is_running()]


def messages(backstage, order):
    return [message for message in backstage.ask(order) if message]


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")).astype(int)


def stored(rows, columns):
    """Return these columns as the tables hold them, some of whose floats have 32 bits."""
    return [{name: _stored(row[name]) for name in columns} for row in rows]


def _stored(value):
    if isinstance(value, list):
        return [_stored(item) for item in value]
    return float(np.float32(value)) if isinstance(value, float) else value


def test_an_episode_that_is_watched_is_the_shards(backstage, tmp_path):
    said = messages(backstage, {**PLAY, "rows": True})
    ended = said[-1]
    artifact = choices.artifacts(ROOT)[0]["lift_nano"]
    shards.roll_out(spec_of(artifact, "lift_nano", PLAY), tmp_path / "shard", worker=COMMAND)
    tables = shards.rows(tmp_path / "shard")
    (row,) = tables["episodes"]
    for name in ("outcome", "success", "verified_success", "naive_success", "printed_success", "steps", "rounds"):
        assert ended[name] == row[name], name
    for name in ("steps", "rounds"):
        own = ended["rows"][name]
        columns = {column for column in own[0] if column not in shards.TIMING and not column.endswith("_ms")}
        assert len(columns) > 8 and stored(own, columns) == stored(tables[name], columns)
    frames, queries = ([m for m in said if word in m] for word in ("step", "query"))
    assert [frame["step"] for frame in frames] == list(range(row["steps"] + 1))
    assert [query["accepted"] for query in queries] == [line["accepted_prefix"] for line in tables["rounds"]]
    assert set(frames[0]["lights"]) == {"naive", "own", "printed", "verified"}
    last = frames[-1]["lights"]
    assert last["verified"] == row["verified_success"] and last["naive"] == row["naive_success"]
    assert last["own"] == row["own_success"] and last["printed"] == row["printed_success"]
    assert not frames[0]["lights"]["own"]
    assert pixels(frames[-1]["world"]).shape == (448, 448, 3)


def test_a_camera_breaks_from_the_next_round_on_is_mended_and_the_run_is_ended(backstage):
    asked, ended = [], None
    for message in backstage.ask({**PLAY, "init_state": 4, "guard": "wrist_health"}):
        if "query" in message:
            asked.append(message)
            if message["query"] == 1:
                backstage.tell({"fault": "wrist view black"})
            if message["query"] == 3:
                backstage.tell({"fault": "nothing: mend it"})
            if message["query"] == 4:
                backstage.tell({"end": True})
        ended = message
    assert ended == {"ended": "ended by the visitor", "last": True}
    assert [query["hit"] for query in asked] == [False, False, True, True, False]
    assert [query["fault"] for query in asked][1:4] == [None, "wrist view black", "wrist view black"]
    assert asked[1]["guard"] == "passed" and asked[2]["guard"].startswith("replaced")
    assert pixels(asked[2]["wrist"]).mean() > 5  # by the guard; the agent view is another camera's
    assert pixels(asked[2]["agent"]).mean() > 5


def test_a_chunk_is_drawn_into_the_start_or_into_a_picture_that_was_handed_in(backstage):
    order = {"do": "predict", **CHOSEN}
    *_, told = messages(backstage, order)
    assert np.shape(told["actions"]) == (10, 7) and told["accepted"] == 5 and told["told"] == "lift the red cube"
    assert told["moved_mm"][2] < -20  # the cube is below
    green = (np.abs(pixels(told["image"]) - [80, 230, 120]) < 40).all(axis=2)
    assert green.sum() > 50
    buffer = io.BytesIO()
    Image.new("RGB", (640, 320), (10, 20, 200)).save(buffer, "PNG")
    handed = base64.b64encode(buffer.getvalue()).decode()
    *_, other = messages(backstage, {**order, "picture": handed})
    assert other["actions"] != told["actions"]
    assert tuple(pixels(other["image"])[224, 20] // 20) == (0, 1, 10)  # the picture, and not the scene
    *_, again = messages(backstage, order)
    assert again["actions"] == told["actions"]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"instruction": "zzz qqq"}, "no word of 'zzz qqq' is in this policy's vocabulary"),
        ({"picture": "AAAA"}, "the picture cannot be read: give a PNG or JPEG"),
        ({"policy": "../lift_nano"}, "unknown choice '../lift_nano'"),
    ],
)
def test_what_cannot_be_answered_is_one_line_and_the_next_order_is_answered(backstage, more, line):
    *_, told = messages(backstage, {"do": "predict", **CHOSEN, **more})
    assert line in told["failed"] and "Traceback" not in told["failed"] and "lost" not in told
    *_, next_one = messages(backstage, {"do": "predict", **CHOSEN})
    assert next_one["actions"]


def test_a_visitor_who_left_keeps_nobody_waiting(backstage):
    for message in backstage.ask({**PLAY, "pace": 1}):
        if message.get("step") == 2:
            break  # his browser is gone
    *_, told = messages(backstage, {"do": "predict", **CHOSEN})
    assert told["actions"]


def test_a_policy_without_weights_moves_as_its_script_says(backstage):
    *_, told = messages(backstage, {"do": "predict", **CHOSEN, "policy": "scripted/close_only"})
    assert told["route"] == "full" and {row[6] for row in told["actions"]} == {1.0}
