"""The registry of families, and its smallest one through the same command, process and wire as any other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.checkpoints.artifact import artifact_digest
from flashtrail.policies import registry
from flashtrail.serving.client import PolicyClient
from flashtrail.serving.handles import serve_command
from flashtrail.serving.launch import PolicyServerProcess, free_port

MANIFEST = {
    "format": "flashtrail-artifact",
    "version": 1,
    "kind": "base",
    "family": "nothing",
    "dims": {"action_horizon": 20, "action_dim": 7},
    "files": {},
}
OBSERVATION = {
    "observation/image": np.zeros((224, 224, 3), np.uint8),
    "observation/wrist_image": np.zeros((224, 224, 3), np.uint8),
    "observation/state": np.zeros(8),
    "prompt": "stand still",
}


def artifact(directory, **changes):
    manifest = MANIFEST | changes
    digest = artifact_digest(manifest["files"], manifest["dims"])
    (directory / "manifest.json").write_text(json.dumps(manifest | {"digest": digest}))
    return directory


def test_a_policy_of_another_family_is_served_like_any_other(tmp_path) -> None:
    port = free_port()
    command = serve_command(artifact(tmp_path), port=port, threads=1, settings={"max_exec_steps": 5})
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    with (
        PolicyServerProcess(command, tmp_path / "log", port, 120, env=environment) as server,
        PolicyClient(server.url, 10) as client,
    ):
        reply = client.infer(OBSERVATION, None, True, [1, 2])
        assert client.metadata["family"] == "nothing" and client.metadata["settings"] == {"max_exec_steps": 5}
    assert reply.actions.shape == (20, 7) and reply.accepted_prefix_len == 5
    assert not reply.actions[:, :6].any() and (reply.actions[:, 6] == -1).all()


def test_the_flags_are_those_of_the_artifacts_family(tmp_path, capsys) -> None:
    assert cli.main(["serve", "--artifact", str(artifact(tmp_path)), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "settings of nothing" in shown and "--max-exec-steps" in shown and "--tau" not in shown
    assert cli.main(["serve", "--help"]) == 0
    assert "settings of pi0" in (shown := capsys.readouterr().out) and "--tau" in shown


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"family": "nothin"}, [], "names the family 'nothin'; did you mean 'nothing'?"),
        ({"family": ["pi0"]}, [], "names the family ['pi0']"),
        ({"dims": {}}, [], "is not a manifest of the family nothing (KeyError: 'action_horizon')"),
        ({"dims": {"action_horizon": True, "action_dim": 7}}, [], "must be whole numbers from 1 to 1000"),
        ({}, ["--draft", "d"], "--draft d: not an option of the family nothing"),
        ({}, ["--action-stats", "s"], "--action-stats s: not an option of the family nothing"),
        ({}, ["--device", "cuda"], "--device cuda: not an option of the family nothing"),
        ({}, ["--backend", "triton"], "--backend triton: not an option of the family nothing"),
        ({}, ["--max-exec-steps", "0"], "max_exec_steps 0 must be at least 1"),
        ({}, ["--tau", "0.1"], "unrecognized arguments: --tau 0.1"),
    ],
)
def test_what_a_family_does_not_take_is_one_line(tmp_path, capsys, changes, words, message) -> None:
    words = ["serve", "--artifact", str(artifact(tmp_path, **changes)), "--port", "0", *words]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_every_family_is_one_folder_and_one_line() -> None:
    assert registry.FAMILIES["nothing"] == registry.FAMILIES["scripted"]  # it was a family of its own
    for name, module in registry.FAMILIES.items():
        family = registry.load(name)
        folder = "scripted" if name == "nothing" else name
        assert module == f"flashtrail.policies.{folder}.family" and issubclass(family.Error, Exception)
        assert set(family.SHORT_FLAGS) <= set(family.Settings.__dataclass_fields__)


def test_an_artifact_without_the_word_is_pi0(tmp_path) -> None:
    assert registry.family_of(tmp_path) == "pi0"
    (tmp_path / "manifest.json").write_text(json.dumps({k: v for k, v in MANIFEST.items() if k != "family"}))
    assert registry.family_of(tmp_path) == "pi0"
    with pytest.raises(UserError, match="known: fluid, lift_vla, nothing, pi0, scripted"):
        registry.family_of(artifact(tmp_path, family="zzz"))
