"""An artifact of this family from disk to replies over the wire, its controls, and every way in which it is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from policies.fluid.made import KNOWN, STATS, dims, made, observation, served

from flashtrail import cli
from flashtrail.checkpoints.artifact import artifact_digest, take_artifact
from flashtrail.policies.fluid.dims import CORES, FluidDims, document, nano
from flashtrail.policies.fluid.model import FluidVLA, parts
from flashtrail.policies.parts.errors import ArtifactError, ObservationError, OptionError
from flashtrail.serving.client import PolicyClient, PolicyError
from flashtrail.serving.handles import serve_command
from flashtrail.serving.launch import PolicyServerProcess, free_port


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return served(made(tmp_path_factory.mktemp("fluid") / "artifact"))


def ask(policy, obs, session=None, reset=True):
    return policy.infer(policy.new_session() if session is None else session, obs, reset=reset)


def test_a_reply_is_a_chunk_of_robot_actions_and_says_its_steps(policy) -> None:
    reply = ask(policy, observation())
    assert reply["actions"].shape == (12, 7) and reply["actions"].dtype == np.float64
    assert reply["accepted_prefix_len"] == 12 and reply["policy_timing"]["steps_used"] == 2 * 6
    np.testing.assert_array_equal(ask(policy, observation())["actions"], reply["actions"])


@pytest.mark.parametrize("core", CORES)
def test_each_view_state_and_prompt_reach_the_actions_of_every_core(tmp_path, core) -> None:
    policy = served(made(tmp_path / "artifact", dims(core)))
    base, other = ask(policy, observation())["actions"], observation(1)
    for changed in (
        observation(prompt="open the middle drawer"),
        observation() | {"observation/image": other["observation/image"]},
        observation() | {"observation/wrist_image": other["observation/wrist_image"]},
        observation() | {"observation/state": observation()["observation/state"] + 0.1},
    ):
        assert np.abs(ask(policy, changed)["actions"] - base).max() > 1e-4


@pytest.mark.parametrize("core", CORES)
def test_rounds_in_one_pass_are_the_same_rounds_alone(tmp_path, core) -> None:
    """With an adaptive stop, too; one that is refused takes no other with it."""
    stepped = core not in ("cnn", "vit")
    epsilon = {"epsilon": 0.2 if core == "document" else 0.1} if stepped else {}
    policy = served(made(tmp_path / "artifact", dims(core, steps=20)), epsilon)
    flat = {key: np.full((224, 224, 3), 128, np.uint8) for key in ("observation/image", "observation/wrist_image")}
    asked = [observation(0), observation(1) | flat, observation(2, "zzz"), observation(3, "open the drawer")]
    replies = dict(policy.infer_many([(policy.new_session(), obs, None, True, None) for obs in asked], 4))
    assert isinstance(replies[2], ObservationError)
    for index in (0, 1, 3):
        alone = ask(policy, asked[index])
        np.testing.assert_allclose(replies[index]["actions"], alone["actions"], rtol=1e-4, atol=1e-5)
        steps = [reply["policy_timing"].get("steps_used") for reply in (replies[index], alone)]
        assert steps[0] == steps[1] and (steps[0] is None) != stepped
        assert replies[index]["policy_timing"]["batch_size"] == (1 if core == "document" else 3)
    if stepped:
        assert all(replies[index]["policy_timing"]["steps_used"] < 40 for index in (0, 1, 3))


def test_a_missing_view_is_not_looked_at(policy) -> None:
    masked = observation(__image_mask__=[True, False])
    blank = masked | {"observation/wrist_image": np.zeros((224, 224, 3), np.uint8)}
    np.testing.assert_array_equal(ask(policy, blank)["actions"], ask(policy, masked)["actions"])
    assert np.abs(ask(policy, observation())["actions"] - ask(policy, masked)["actions"]).max() > 1e-4


def test_a_session_remembers_its_last_pictures_until_it_is_reset(tmp_path) -> None:
    policy = served(made(tmp_path / "artifact", dims(frames=3, lags=(1, 2))))
    session = policy.new_session()
    first = ask(policy, observation(0), session)["actions"]
    second = ask(policy, observation(1), session, reset=False)["actions"]
    assert np.abs(second - ask(policy, observation(1))["actions"]).max() > 1e-5
    for seed in (1, 1):  # the first picture has left the window of three: all that is left is the second
        third = ask(policy, observation(seed), session, reset=False)["actions"]
    np.testing.assert_array_equal(third, ask(policy, observation(1))["actions"])
    np.testing.assert_array_equal(ask(policy, observation(0), session, reset=True)["actions"], first)


def test_a_blind_policy_answers_from_state_and_prompt_alone(tmp_path) -> None:
    policy = served(made(tmp_path / "artifact", dims(blind=True)))
    np.testing.assert_array_equal(ask(policy, observation(0))["actions"], ask(policy, observation(1))["actions"])


# --- sizes and controls ---


def test_the_documents_encoder_has_its_parameters() -> None:
    """447,241 (FLUID.md A1), and its first head's 68,230 with one pooled vector."""
    with torch.device("meta"):
        counted = parts(FluidVLA(document()))
    assert counted["embedding"] + counted["core"] == 447_241
    a_layer = FluidVLA(document(layers=1)).layers[0]
    assert torch.nn.functional.softplus(a_layer.spread).mean().item() == pytest.approx(0.744, abs=5e-4)


def test_the_controls_are_of_the_same_size() -> None:
    counted = {core: parts(FluidVLA(nano(20, core))) for core in CORES}
    for core in CORES:
        assert counted[core]["head"] == counted["ours"]["head"]
        assert counted[core]["core"] == pytest.approx(counted["ours"]["core"], rel=0.15), core
    assert sum(counted["ours"].values()) * 4 < 10e6  # bytes: it is to be shipped


def test_plain_and_fused_attention_give_one_answer(tmp_path) -> None:
    plain, fused = (served(made(tmp_path / kind, dims("vit", attention=kind))) for kind in ("plain", "fused"))
    np.testing.assert_allclose(ask(plain, observation())["actions"], ask(fused, observation())["actions"], atol=1e-5)


# --- over the wire ---


def test_it_is_served_like_any_other_and_a_client_reads_why_it_is_refused(tmp_path) -> None:
    port = free_port()
    settings = {"max_exec_steps": 7, "epsilon": 1e6, "min_steps": 2, "patience": 1}
    command = serve_command(made(tmp_path / "artifact"), port=port, threads=1, settings=settings)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    with PolicyServerProcess(command, tmp_path / "log", port, 120, env=environment) as server:
        with PolicyClient(server.url, 10) as client:
            reply = client.infer(observation(), None, True, [1, 2])
            whole = settings | {"max_steps": 0, "precision": "float32"}
            assert client.metadata["family"] == "fluid" and client.metadata["settings"] == whole
        assert reply.actions.shape == (12, 7) and reply.accepted_prefix_len == 7
        assert reply.policy_timing["steps_used"] == 2 * 2
        with PolicyClient(server.url, 10) as client, pytest.raises(PolicyError) as refused:
            client.infer(observation(prompt="pon la taza aquí"), None, True, [1])
    assert "policy refused: prompt: no word of 'pon la taza aquí' is in this policy's vocabulary" in str(refused.value)
    alone = ask(served(tmp_path / "artifact", settings), observation())
    np.testing.assert_allclose(reply.actions, alone["actions"], rtol=1e-4, atol=1e-5)


def test_a_workflow_takes_the_artifact_as_it_takes_any(tmp_path) -> None:
    manifest = take_artifact(made(tmp_path / "artifact"), tmp_path / "taken")
    assert manifest["family"] == "fluid" and served(tmp_path / "taken").metadata["base_digest"] == manifest["digest"]


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "drawr"}, "prompt: no word of 'drawr' is in this policy's vocabulary; did you mean 'drawer'?"),
        ({"observation/state": np.zeros(6)}, "observation/state: expected 8 finite numbers, got shape (6,)"),
        ({"observation/wrist_image": None}, "observation/wrist_image: missing from the observation"),
        ({"observation/image": np.zeros((224, 224, 3))}, "expected uint8 (224, 224, 3), got float64 (224, 224, 3)"),
    ],
)
def test_an_observation_that_does_not_fit_is_one_line(policy, changes, message) -> None:
    given = {key: value for key, value in (observation() | changes).items() if value is not None}
    with pytest.raises(ObservationError) as refused:
        ask(policy, given)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": -0.1}, "epsilon -0.1 must be a finite number >= 0"),
        ({"epsilon": float("nan")}, "epsilon nan must be a finite number >= 0"),
        ({"max_steps": 65}, "max_steps 65 must be 1 to 64, or 0: as trained"),
        ({"min_steps": 0}, "min_steps 0 must be at least 1"),
        ({"patience": 0}, "patience 0 must be at least 1"),
    ],
)
def test_a_setting_out_of_range_is_one_line(tmp_path, capsys, settings, message) -> None:
    with pytest.raises(OptionError, match=message.replace("(", r"\(")):
        served(made(tmp_path / "artifact"), settings)
    ((name, value),) = settings.items()
    words = ["serve", "--artifact", str(tmp_path / "artifact"), "--port", "0", f"--{name.replace('_', '-')}={value}"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_core_without_steps_takes_no_dial(tmp_path) -> None:
    directory = made(tmp_path / "artifact", dims("vit"))
    for settings in ({"epsilon": 0.1}, {"max_steps": 3}):
        with pytest.raises(OptionError, match="the core vit takes no steps; leave them out"):
            served(directory, settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dilations": [1, 7]}, "dilation 7 does not fit a grid of 7: below half of it"),
        ({"lags": [1]}, "lag 1 does not fit 1 frames"),
        ({"patch": 9}, "patch 9 must divide pixels 112"),
        ({"pool": 8}, "pool 8 is finer than the grid of 7 patches"),
        ({"core": "vit", "width": 18}, "width 18 is not a multiple of its 4 heads"),
        ({"absolute": [0.1] * 8}, "absolute has 8 dims, more than the state or the action"),
        ({"core": "resnet"}, "dims.core: Input should be 'ours', 'document', 'none', 'cnn' or 'vit'"),
        ({"zzz": 1}, "dims.zzz: Extra inputs are not permitted; not dims of a fluid policy"),
    ],
)
def test_dims_that_do_not_fit_are_one_line(changes, message) -> None:
    with pytest.raises(ArtifactError) as refused:
        FluidDims.read(dims().model_dump(mode="json") | changes, "a manifest")
    assert message in str(refused.value) and "\n" not in str(refused.value)


def edit(directory: Path, change) -> None:
    """Change a manifest by hand, its digest with it."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["digest"] = artifact_digest(manifest["files"], manifest["dims"])
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["dims"].update(width=24), "has shape"),
        (lambda m: m["dims"].update(layers=3), r"lacks tensor layers.2.gate.bias \(17 missing\)"),
        (lambda m: m["dims"].update(core="none"), "layers.0.recall has shape|layers.0.spread has shape"),
        (lambda m: m["dims"].update(action_dim=6), "has shape"),
        (lambda m: m["files"]["vocabulary.json"].update(sha256="0" * 64), "is not the file of its manifest"),
        (lambda m: m["dims"]["prompt"].update(rows=9), "text.rows has shape"),
    ],
)
def test_an_artifact_that_is_another_is_one_line(tmp_path, change, message) -> None:
    edit(made(tmp_path / "artifact"), change)
    with pytest.raises(ArtifactError, match=message) as refused:
        served(tmp_path / "artifact")
    assert "\n" not in str(refused.value)


def test_foreign_statistics_change_the_robots_actions_alone(tmp_path) -> None:
    directory = made(tmp_path / "artifact")
    other = tmp_path / "bridge.json"
    other.write_text(json.dumps({"norm_stats": STATS | {"actions": {"mean": [0.0] * 7, "std": [1.0] * 7}}}))
    ours, theirs = (ask(served(directory, action_stats=file), observation())["actions"] for file in (None, other))
    np.testing.assert_allclose(theirs, (ours - 0.1) / (0.5 + 1e-6) * (1 + 1e-6), atol=1e-9)
    assert served(directory, action_stats=other).metadata["action_stats"] == "bridge.json"


def test_a_policy_without_language_takes_any_prompt(tmp_path) -> None:
    sizes = document(width=16, head_width=16, layers=1, frames=2, lags=(1,), state_dim=8, action_dim=7)
    policy = served(made(tmp_path / "artifact", sizes))
    answers = [ask(policy, observation(prompt=prompt))["actions"] for prompt in (KNOWN[0], "zzz")]
    np.testing.assert_array_equal(*answers)
