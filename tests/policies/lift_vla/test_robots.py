"""An artifact of several robots from disk to replies, and one of a single robot as it ever was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from policies.lift_vla.test_policy import DIMS, KNOWN, STATS, edit, observation, served

from flashtrail import cli
from flashtrail.checkpoints.artifact import artifact_digest, take_artifact
from flashtrail.policies.lift_vla import artifact
from flashtrail.policies.lift_vla.artifact import FAMILY
from flashtrail.policies.lift_vla.dims import Embodiment, LiftDims
from flashtrail.policies.lift_vla.errors import ArtifactError, OptionError
from flashtrail.policies.lift_vla.model import LiftVLA, parts
from flashtrail.policies.lift_vla.settings import Settings
from flashtrail.policies.parts import words
from flashtrail.training import artifact as written

ROOT = Path(__file__).parents[3]
ROBOTS = (Embodiment(name="panda", task=0), Embodiment(name="short", task=2, action_dim=4))
SEVERAL = DIMS.model_copy(update={"embodiments": ROBOTS})


def made(directory: Path, dims: LiftDims = SEVERAL) -> Path:
    """An artifact of random weights, each robot's statistics its own: the second one's actions are twice as large."""
    torch.manual_seed(0)
    files = {words.FILE: json.dumps(KNOWN).encode()}
    for number, name in enumerate(dims.robots, 1):
        actions = {key: [number * value for value in values] for key, values in STATS["actions"].items()}
        files[f"norm_stats_{name}.json"] = json.dumps({"norm_stats": STATS | {"actions": actions}}).encode()
    written.write(directory, FAMILY, dims, LiftVLA(dims).state_dict(), None, files)
    return directory


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """Not to be changed."""
    return made(tmp_path_factory.mktemp("robots") / "artifact")


def actions(directory: Path, obs=None, **settings):
    policy = served(directory, settings=Settings(**settings))
    return policy.infer(None, observation() if obs is None else obs)["actions"]


@pytest.mark.parametrize("name", ["lift_nano", "lift_nano_blind", "lift_doubt"])
def test_an_artifact_of_one_robot_is_what_it_was(name):
    """Its dims as they are read give the digest that its manifest has had from the first, and no word of robots."""
    model, stats, manifest = artifact.read(ROOT / "resources" / name)
    sizes = model.dims.model_dump(mode="json")
    assert sizes == manifest["dims"] and artifact_digest(manifest["files"], sizes) == manifest["digest"]
    assert stats.state_mean.shape == (8,) and not [key for key in model.state_dict() if key.startswith("robots.")]


def test_the_token_the_adapter_and_the_head_each_matter(several):
    own, token, other = (
        actions(several, **said)
        for said in (
            {"embodiment": "panda"},
            {"embodiment": "panda", "token": "short"},
            {"embodiment": "short", "token": "panda"},
        )
    )
    assert own.shape == token.shape == (10, 7)
    assert np.abs(own - token).max() > 1e-4 and np.abs(token[:, :3] - other[:, :3]).max() > 1e-3
    np.testing.assert_array_equal(actions(several, embodiment="panda", token="panda"), own)
    state = observation() | {"observation/state": observation()["observation/state"] + 0.1}
    assert np.abs(actions(several, state, embodiment="panda") - own).max() > 1e-4


def test_what_a_robot_does_not_take_is_zero_and_its_statistics_are_its_own(several, tmp_path):
    short = actions(several, embodiment="short")
    assert not short[:, 3:6].any() and short[:, :3].all() and np.abs(short[:, 6]).max() < 1
    model, stats, _ = artifact.read(several)
    np.testing.assert_array_equal(stats.of(1).action_std, 2 * stats.of(0).action_std)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"norm_stats": STATS}))
    policy = served(several, settings=Settings(embodiment="short"), action_stats=other)
    foreign = policy.infer(None, observation())["actions"]
    np.testing.assert_allclose(2 * foreign[:, :3], short[:, :3], atol=1e-5)
    assert not foreign[:, 3:6].any() and policy.metadata["settings"]["embodiment"] == "short"
    assert parts(model)["decoder"] > parts(LiftVLA(DIMS))["decoder"]


def test_the_token_gets_a_gradient_and_the_other_robots_parts_none():
    torch.manual_seed(0)
    model = LiftVLA(SEVERAL)
    fused, hand = torch.randn(3, 2, DIMS.width), torch.randn(3, 10)
    model.decode(fused, hand, None, torch.tensor([1, 1, 1])).square().sum().backward()
    grads = {name: tensor.grad for name, tensor in model.named_parameters() if name.startswith("robots.")}
    assert all((grad is None) == name.startswith("robots.0.") for name, grad in grads.items()) and len(grads) == 10
    assert grads["robots.1.token"].abs().sum() > 0


def test_rounds_in_one_pass_and_missing_views_are_as_alone(several):
    policy = served(several, settings=Settings(embodiment="short", token="panda"))
    asked = [observation(0), observation(1, __image_mask__=[True, False]), observation(2, "cube")]
    for index, reply in policy.infer_many([(None, obs, None, True, None) for obs in asked], 8):
        np.testing.assert_allclose(reply["actions"], policy.infer(None, asked[index])["actions"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "int8_dynamic", "int8_weight"])
def test_other_number_formats_keep_each_robots_head(several, precision):
    plain = actions(several, embodiment="short")
    np.testing.assert_allclose(actions(several, embodiment="short", precision=precision), plain, atol=0.1)


def test_one_embodiment_need_not_be_named(tmp_path):
    alone = made(tmp_path / "alone", DIMS.model_copy(update={"embodiments": ROBOTS[:1]}))
    np.testing.assert_array_equal(actions(alone), actions(alone, embodiment="panda"))
    assert take_artifact(alone, tmp_path / "taken")["dims"]["embodiments"][0]["name"] == "panda"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "this artifact has several robots: say which with embodiment: panda, short"),
        ({"token": "panda"}, "this artifact has several robots: say which with embodiment: panda, short"),
        ({"embodiment": "iiwa"}, "embodiment iiwa: this artifact has no such robot; it has panda, short"),
        ({"embodiment": "panda", "token": "iiwa"}, "token iiwa: this artifact has no such robot; it has panda, short"),
        ({"embodiment": "panda", "doubt": True}, "doubt: an artifact of several robots has no heads for it"),
    ],
)
def test_a_robot_that_is_not_there_is_one_line(several, settings, message, capsys):
    with pytest.raises(OptionError) as refused:
        actions(several, **settings)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in settings.items()]
    assert cli.main(["serve", "--artifact", str(several), "--port", "0", *flags]) == 2
    assert message in capsys.readouterr().err


def test_an_artifact_of_one_robot_takes_no_name():
    for key in ("embodiment", "token"):
        with pytest.raises(OptionError, match=f"{key} panda: this artifact is of one robot: leave the setting out"):
            actions(ROOT / "resources/lift_nano", **{key: "panda"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["dims"]["embodiments"][1].update(name="panda"), "embodiments: two have one name"),
        (lambda m: m["dims"]["embodiments"][1].update(task=0), "embodiments: two have one task"),
        (lambda m: m["dims"]["embodiments"][1].update(action_dim=8), "embodiments: action_dim beyond the wire's 7"),
        (lambda m: m["dims"]["embodiments"][1].update(action_dim=5), "robots.1.out.weight has shape (4, 32)"),
        (lambda m: m["dims"]["embodiments"][1].update(name="../x"), "dims.embodiments.1.name: String should match"),
        (lambda m: m["dims"].update(proprioception=False), "embodiments: their adapters need proprioception"),
        (lambda m: m["dims"]["embodiments"].pop(), "has tensor robots.1.hand.bias, which its manifest's dims do not"),
        (lambda m: m["dims"]["embodiments"][1].update(name="iiwa"), "norm_stats_iiwa.json is missing"),
    ],
)
def test_another_artifact_is_one_line(tmp_path, change, message):
    edit(made(tmp_path / "artifact"), change)
    with pytest.raises(ArtifactError) as refused:
        artifact.read(tmp_path / "artifact")
    assert message in str(refused.value) and "\n" not in str(refused.value)
