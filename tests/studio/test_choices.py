"""What the studio offers: the artifacts that are there, a line for those that cannot be served, no way to any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flashtrail.base.errors import UserError
from flashtrail.studio import choices
from flashtrail.studio.stage import spec_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path):
    shutil.copytree(ROOT / "resources/lift_nano", tmp_path / "resources/lift_nano")
    shutil.copytree(ROOT / "resources/scripted", tmp_path / "resources/scripted")
    return tmp_path


def test_every_family_that_is_shipped_is_offered_with_its_card_and_its_words():
    told = choices.described(ROOT)
    policies = told["policies"]
    assert {about["facts"]["family"] for about in policies.values()} >= {"lift_vla", "scripted"}
    nano, manifest = policies["lift_nano"], json.loads((ROOT / "resources/lift_nano/manifest.json").read_text())
    assert nano["facts"]["digest"] == manifest["digest"] and nano["facts"]["dims.pixels"] == "112"
    assert nano["card"] == (ROOT / "resources/lift_nano/README.md").read_text()
    assert "cube" in nano["words"] and not policies["scripted/nothing"]["words"]
    assert set(told["suites"]) == {"robosuite_lift", *(f"libero_{n}" for n in ("spatial", "object", "goal", 10, 90))}
    json.dumps(told)


def test_a_converted_policy_has_its_draft_and_its_sources_card(root):
    base, draft = (root / "results/artifacts/pi0_nano" / kind for kind in ("base", "draft"))
    for place in (base, draft):
        place.mkdir(parents=True)
        (place / "manifest.json").write_text(json.dumps({"digest": "d", "dims": {"depth": 2}}))
    (root / "resources/pi0_nano").mkdir()
    (root / "resources/pi0_nano/README.md").write_text("# pi0_nano")
    found, notes = choices.artifacts(root)
    assert found["pi0_nano"].draft == draft and found["pi0_nano"].card == "# pi0_nano" and not notes
    assert choices.about(found["pi0_nano"])["suite"] == "libero_goal"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"family": "act"}', "other is not offered: its manifest names the family 'act'"),
        ("[1]", "other is not offered: its manifest is not JSON"),
        ("{", "other is not offered: its manifest is not JSON"),
    ],
)
def test_a_checkpoint_of_another_family_is_one_line_and_the_others_are_offered(root, content, line):
    (root / "resources/other").mkdir()
    (root / "resources/other/manifest.json").write_text(content)
    told = choices.described(root)
    assert [note for note in told["notes"] if note.startswith(line)] and "other" not in told["policies"]
    assert "lift_nano" in told["policies"]


def test_a_manifest_of_odd_values_is_shown_as_text(root):
    (root / "resources/odd").mkdir()
    (root / "resources/odd/manifest.json").write_text('{"dims": 5, "source": [], "files": "x", "digest": {"a": 1}}')
    assert choices.described(root)["policies"]["odd"]["facts"]["digest"] == '{"a": 1}'


def test_a_word_of_a_visitor_is_looked_up_and_never_a_path(root):
    known, _ = choices.artifacts(root)
    for word in ("../lift_nano", str(root / "resources/lift_nano"), "lift_nanp", None, ["lift_nano"]):
        with pytest.raises(UserError, match="unknown choice"):
            choices.chosen(word, known)


def order(**more):
    told = {"do": "play", "suite": "robosuite_lift", "task": 0, "init_state": 3, "seed": 7, "instruction": ""}
    return told | more


def test_the_spec_is_that_of_a_shard_of_one_episode(root):
    artifact = choices.artifacts(root)[0]["lift_nano"]
    spec = spec_of(artifact, "lift_nano", order(guard="wrist_health"))
    assert (spec.suite, spec.task_id, spec.init_states, spec.seed) == ("robosuite_lift", 0, [3], 7)
    assert spec.guard.kind == "wrist_health" and spec.condition.kind == "none"
    told = spec_of(artifact, "lift_nano", order(instruction="  push\n the cube ")).condition
    assert told.kind == "instruction" and told.text == "push the cube"
    assert spec_of(artifact, "lift_nano", order(instruction="lift the red cube")).condition.kind == "none"


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"suite": "robosuite_lif"}, "robosuite_lift"),
        ({"suite": "os:path"}, "unknown suite"),
        ({"task": 8}, "out of range 0-7"),
        ({"task": "0/../1"}, "task_id"),
        ({"init_state": 1000}, "out of range 0-999"),
        ({"init_state": None}, "init_states"),
        ({"seed": -1}, "seed"),
        ({"guard": "flashtrail.rollouts"}, "unknown choice"),
    ],
)
def test_what_cannot_be_is_one_line(root, more, line):
    with pytest.raises(UserError, match=line) as caught:
        spec_of(choices.artifacts(root)[0]["lift_nano"], "lift_nano", order(**more))
    assert "\n" not in str(caught.value)
