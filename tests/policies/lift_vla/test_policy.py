"""An artifact of this family from disk to replies: what a reply holds, and every way in which it is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from policies.lift_vla import clip_files

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.checkpoints.artifact import artifact_digest, take_artifact
from flashtrail.policies.lift_vla import artifact
from flashtrail.policies.lift_vla.artifact import FAMILY
from flashtrail.policies.lift_vla.dims import Clip, LiftDims, Vision, Words, document, nano
from flashtrail.policies.lift_vla.errors import ArtifactError, ObservationError, OptionError
from flashtrail.policies.lift_vla.family import load
from flashtrail.policies.lift_vla.model import LiftVLA, parts
from flashtrail.policies.lift_vla.settings import Settings
from flashtrail.policies.parts import words
from flashtrail.serving.client import PolicyClient, PolicyError
from flashtrail.serving.handles import serve_command
from flashtrail.serving.launch import PolicyServerProcess, free_port
from flashtrail.training import artifact as written

KNOWN = words.vocabulary(["Lift the red cube", "Push the red cube forward"])
SMALL = {
    "width": 32,
    "layers": 1,
    "feedforward": 32,
    "vision": Vision(width=8, stages=2, pool="keypoints", keypoints=4),
}
DIMS = nano(len(KNOWN) + 1).model_copy(update=SMALL)
STATS = {"state": {"mean": [0.0] * 8, "std": [1.0] * 8}, "actions": {"mean": [0.1] * 7, "std": [0.5] * 7}}


def made(directory: Path, dims: LiftDims = DIMS, files: dict[str, bytes] | None = None) -> Path:
    """An artifact of random weights."""
    torch.manual_seed(0)
    files = {words.FILE: json.dumps(KNOWN).encode()} if files is None else files
    written.write(directory, FAMILY, dims, LiftVLA(dims).state_dict(), {"norm_stats": STATS}, files)
    return directory


def served(directory: Path, **changes):
    words = {"device": "cpu", "dtype": "float32", "backend": "auto", "settings": Settings(), "action_stats": None}
    return load(directory, changes.pop("draft", None), together=None, sessions=1, **(words | changes))


def observation(seed: int = 0, prompt: str = "Lift the red cube", **more):
    rng = np.random.default_rng(seed)
    views = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    state = np.array([0.1, 0.0, 0.9, 3.1, 0.1, 0.0, 0.04, -0.04])
    keys = {"observation/image": views[0], "observation/wrist_image": views[1], "observation/state": state}
    return {**keys, "prompt": prompt, **more}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return served(made(tmp_path_factory.mktemp("lift") / "artifact"))


def test_a_reply_is_a_chunk_of_robot_actions(policy) -> None:
    reply = policy.infer(None, observation(), executed_steps=None, reset=True, noise_seed=[1])
    assert reply["actions"].shape == (10, 7) and reply["actions"].dtype == np.float64
    assert np.abs(reply["actions"][:, -1]).max() < 1  # the gripper's word, from open to closed
    assert reply["accepted_prefix_len"] == 5 and reply["policy_timing"]["unknown_words"] == 0
    again = policy.infer(None, observation(), executed_steps=5, reset=False, noise_seed=[2])
    np.testing.assert_array_equal(again["actions"], reply["actions"])  # no noise, no memory


def test_the_instruction_and_each_view_reach_the_actions(policy) -> None:
    base = policy.infer(None, observation())["actions"]
    other = observation(1)
    for changed in (
        observation(prompt="push the red cube forward"),
        observation() | {"observation/image": other["observation/image"]},
        observation() | {"observation/wrist_image": other["observation/wrist_image"]},
        observation() | {"observation/state": observation()["observation/state"] + 0.1},
    ):
        assert np.abs(policy.infer(None, changed)["actions"] - base).max() > 1e-4


def test_a_missing_view_is_not_looked_at(policy) -> None:
    replies = [policy.infer(None, observation(seed, __image_mask__=[True, False])) for seed in (0, 0)]
    blank = observation(__image_mask__=[True, False]) | {"observation/wrist_image": np.zeros((224, 224, 3), np.uint8)}
    np.testing.assert_allclose(policy.infer(None, blank)["actions"], replies[0]["actions"], atol=1e-6)
    assert np.abs(policy.infer(None, observation())["actions"] - replies[0]["actions"]).max() > 1e-4


def test_rounds_in_one_pass_are_the_same_rounds_alone(policy) -> None:
    """Prompts of different lengths share a pass; one that is refused takes no other with it."""
    asked = [observation(0), observation(1, "cube"), observation(2, "zzz"), observation(3, "push the cube forward")]
    replies = dict(policy.infer_many([(None, obs, None, True, None) for obs in asked], 2))
    assert isinstance(replies[2], ObservationError)
    for index in (0, 1, 3):
        alone = policy.infer(None, asked[index])
        np.testing.assert_allclose(replies[index]["actions"], alone["actions"], rtol=1e-4, atol=1e-5)


def test_words_that_are_not_known_are_counted_and_share_a_row(policy) -> None:
    first, second = (policy.infer(None, observation(prompt=f"{word} the red cube")) for word in ("Hoist", "Nudge"))
    assert first["policy_timing"]["unknown_words"] == 1
    np.testing.assert_array_equal(first["actions"], second["actions"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "lieft"}, "prompt: no word of 'lieft' is in this policy's vocabulary; did you mean 'lift'?"),
        ({"prompt": "!"}, "known words: cube, forward, lift, push, red, the"),
        ({"observation/state": np.zeros(7)}, "observation/state: expected 8 finite numbers, got shape (7,)"),
        (
            {"observation/image": np.zeros((224, 224, 3))},
            "observation/image: expected uint8 (224, 224, 3), got float64",
        ),
    ],
)
def test_an_observation_that_does_not_fit_is_one_line(policy, changes, message) -> None:
    with pytest.raises(ObservationError) as refused:
        policy.infer(None, observation() | changes)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_it_is_served_like_any_other_and_a_client_reads_why_it_is_refused(tmp_path) -> None:
    port = free_port()
    command = serve_command(made(tmp_path / "artifact"), port=port, threads=1, settings={"max_exec_steps": 7})
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    with PolicyServerProcess(command, tmp_path / "log", port, 120, env=environment) as server:
        with PolicyClient(server.url, 10) as client:
            reply = client.infer(observation(), None, True, [1, 2])
            assert client.metadata["family"] == "lift_vla" and client.metadata["facts"]["action_horizon"] == 10
        assert reply.actions.shape == (10, 7) and reply.accepted_prefix_len == 7
        with PolicyClient(server.url, 10) as client, pytest.raises(PolicyError) as refused:
            client.infer(observation(prompt="öffne die Schublade"), None, True, [1])
    assert "policy refused: prompt: no word of 'öffne die schublade' is in" in str(refused.value)


def test_a_workflow_takes_the_artifact_as_it_takes_any(tmp_path) -> None:
    manifest = take_artifact(made(tmp_path / "artifact"), tmp_path / "taken")
    assert manifest["family"] == "lift_vla" and served(tmp_path / "taken").metadata["base_digest"] == manifest["digest"]


# --- what is refused before a policy is served ---


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
        (lambda m: m.update(family="pi0"), "is of the family 'pi0', not lift_vla"),
        (lambda m: m["dims"].update(width=33), "dims: Value error, width 33 is not a multiple of its 8 heads"),
        (lambda m: m["dims"].update(width=64), "has shape"),
        (lambda m: m["dims"].update(layers=2), "lacks tensor decoder.layers.1.linear1.bias (18 missing)"),
        (lambda m: m["dims"].update(zzz=1), "dims.zzz: Extra inputs are not permitted; not dims of a lift_vla policy"),
        (lambda m: m["dims"]["text"].update(kind="bert"), "dims.text: Input tag 'bert'"),
        (lambda m: m["dims"].update(views=1), "has tensor views.wrist.backbone.bn1.bias, which its manifest's dims do"),
        (lambda m: m["files"]["norm_stats.json"].update(sha256="0" * 64), "is not the file of its manifest"),
        (lambda m: m.pop("dims") and m.update(dims={}), "dims.vision: Field required"),
    ],
)
def test_another_artifact_is_one_line(tmp_path, change, message) -> None:
    edit(made(tmp_path / "artifact"), change)
    with pytest.raises(ArtifactError) as refused:
        served(tmp_path / "artifact") if "pi0" not in message else artifact.read(tmp_path / "artifact")
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["dims"].update(blind=True), "was edited (its digest does not follow from its files and dims)"),
        (lambda m: m.update(digest=""), "was edited"),
        (lambda m: m.update(version=2), "is not the manifest of a base flashtrail-artifact of version 1"),
        (lambda m: m.update(kind="draft"), "is not the manifest of a base"),
        (lambda m: m.update(files=["model.safetensors"]), "lacks dims, or files with their sha256"),
    ],
)
def test_an_edited_manifest_is_not_served_under_its_old_name(tmp_path, change, message) -> None:
    """The digest goes into every table: a policy made blind by hand would be counted as the one that sees."""
    path = made(tmp_path / "artifact") / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError) as refused:
        served(tmp_path / "artifact")
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_tensors_that_are_no_floats_are_refused(tmp_path, dtype) -> None:
    from safetensors.torch import load_file, save

    directory = made(tmp_path / "artifact")
    tensors = {name: value.to(dtype) for name, value in load_file(directory / "model.safetensors").items()}
    replaced(directory, "model.safetensors", save(tensors))
    with pytest.raises(ArtifactError, match=r"has dtype .*, not a floating one"):
        served(directory)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"layers": 100_000}, r"dims\.layers: Input should be less than or equal to 100"),
        ({"pixels": 2, "crop": None, "wrist_pool": 4}, "pixels 2 are fewer than wrist_pool 4 takes for one"),
    ],
)
def test_dims_that_nobody_could_build_are_refused_at_once(tmp_path, dims, message) -> None:
    edit(made(tmp_path / "artifact"), lambda m: m["dims"].update(dims))
    with pytest.raises(ArtifactError, match=message):
        artifact.read(tmp_path / "artifact")


def replaced(directory: Path, name: str, content: bytes) -> None:
    """Another content of a file, with the manifest's record of it."""
    import hashlib

    (directory / name).write_bytes(content)
    record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(directory, lambda manifest: manifest["files"].update({name: record}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"no tensors", "is truncated or corrupted"),
        ("vocabulary.json", b'["cube"]', "has 1 words for a table of 7 rows"),
        ("vocabulary.json", b'{"cube": 1}', "is not a list of different words"),
        ("norm_stats.json", b"{}", "must hold norm_stats.state and .actions"),
        ("norm_stats.json", json.dumps({"norm_stats": STATS | {"state": STATS["actions"]}}).encode(), "another robot"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, name, content, message) -> None:
    replaced(made(tmp_path / "artifact"), name, content)
    with pytest.raises(ArtifactError, match=message):
        served(tmp_path / "artifact")


def test_a_missing_file_and_options_that_are_not_taken(tmp_path, capsys) -> None:
    directory = made(tmp_path / "artifact")
    for changes, message in (
        ({"dtype": "bfloat16"}, "--dtype bfloat16: not an option of the family lift_vla"),
        ({"draft": Path("d")}, "--draft d: not an option"),
        ({"device": "cuda:7"}, "device 'cuda:7' is not on this machine"),
        ({"device": "tpu"}, "device 'tpu' is not supported"),
    ):
        with pytest.raises(OptionError, match=message):
            served(directory, **changes)
    (directory / words.FILE).unlink()
    assert cli.main(["serve", "--artifact", str(directory), "--port", "0"]) == 2
    assert "vocabulary.json is missing" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"vocabulary\.json is missing"):
        take_artifact(directory, tmp_path / "taken")


def test_foreign_statistics_change_the_robots_actions_alone(tmp_path) -> None:
    directory = made(tmp_path / "artifact")
    other = tmp_path / "bridge.json"
    other.write_text(json.dumps({"norm_stats": STATS | {"actions": {"mean": [0.0] * 7, "std": [1.0] * 7}}}))
    plain, foreign = served(directory), served(directory, action_stats=other)
    ours, theirs = (p.infer(None, observation())["actions"] for p in (plain, foreign))
    np.testing.assert_allclose(theirs[:, :6], (ours[:, :6] - 0.1) / (0.5 + 1e-6) * (1 + 1e-6), atol=1e-9)
    np.testing.assert_array_equal(theirs[:, 6], ours[:, 6])
    assert foreign.metadata["action_stats"] == "bridge.json" and "action_stats" not in plain.metadata


# --- text by CLIP, and the sizes ---


def test_a_policy_with_clips_text_is_served_from_its_artifact(tmp_path) -> None:
    text = clip_files.dims(width=32)
    dims = DIMS.model_copy(update={"text": text, "views": 1, "proprioception": False})
    folder = clip_files.write(tmp_path / "clip", text)
    files = {name: (folder / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    policy = served(made(tmp_path / "artifact", dims, files))
    lift, low = (policy.infer(None, observation(prompt=prompt)) for prompt in ("lift the red cube", "low"))
    assert np.abs(lift["actions"] - low["actions"]).max() > 1e-4
    both = [
        reply for _, reply in policy.infer_many([(None, observation(prompt=p), None, True, 0) for p in ("low", "lift")])
    ]
    np.testing.assert_allclose(both[0]["actions"], low["actions"], rtol=1e-4, atol=1e-5)


def test_the_documents_network_has_the_size_that_its_text_gives() -> None:
    """Its table says 2.1 M and 8.3 M for fusion and decoder, 21.6 M in all: its own widths give these instead."""
    with torch.device("meta"):
        counted = parts(LiftVLA(document()))
    assert counted["vision"] == 11_176_512 + 512 * 512 + 512
    assert counted["fusion"] == 2 * (512 * 512 + 512) + 3 * (512 * 512 + 512) + 2 * 512
    attention, forward, norms = 4 * 512 * 512 + 4 * 512, 2 * 512 * 2048 + 2048 + 512, 3 * 2 * 512
    queries_and_head = 10 * 512 + 512 * 7 + 7
    assert counted["decoder"] == 4 * (2 * attention + forward + norms) + 2 * 512 + queries_and_head
    assert counted["text_frozen"] == 63_428_096
    assert isinstance(document().text, Clip)


def test_the_shipped_size_trains_on_one_core() -> None:
    counted = parts(LiftVLA(nano(40)))
    assert sum(counted[name] for name in ("vision", "fusion", "decoder")) < 1_200_000
    assert isinstance(nano(40).text, Words)
