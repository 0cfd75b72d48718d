"""Trees that people have, from the probe to the first round: other horizons, no deltas, other stores, other sizes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoints.conftest import G1, save_tree
from serving.in_process import running

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, fetch, orbax, parity, probe
from flashtrail.policies.pi0.policy import FlashPolicy
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.serving.client import PolicyClient

SAID = {"horizon": 50, "delta_actions": True, "views": 2, "steps": 2, "max_token_len": 48}
STATE = np.array([0.3, -0.2, 0.9, 1.0, -1.0, 0.5, 0.02, -0.02])

GREY = np.full((224, 224, 3), 90, np.uint8)
OBSERVATION = {
    "observation/image": GREY, "observation/wrist_image": GREY, "observation/state": STATE, "prompt": "put the bowl"
}  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return Path(shutil.copytree(G1 / "checkpoint", tmp_path / "mine"))


def converted(tree: Path, tokenizer: bytes, out: Path, **declared: Any) -> dict[str, Any]:
    """Probe, fetch and convert; the manifest."""
    (tree.parent / "tok").write_bytes(tokenizer)
    candidate = probe.select(probe.probe([str(tree)], {**SAID, **declared}, "mine"))
    fetched = fetch.fetch(candidate, out, str(tree.parent / "tok"), None, lambda line: None)
    return artifact.convert_base(out / "source", out / "base", "float32", fetched)


def one_round(out: Path, **settings: Any) -> dict[str, Any]:
    policy = FlashPolicy.load(out / "base", settings=FlashSettings(**settings))
    return policy.infer(policy.new_session(), OBSERVATION, reset=True, noise_seed=1)


def test_a_horizon_of_ten_is_converted_compared_and_served_as_ten(
    tree: Path, tokenizer_bytes: bytes, tmp_path: Path
) -> None:
    manifest = converted(tree, tokenizer_bytes, tmp_path / "out", horizon=10)
    assert manifest["dims"]["action_horizon"] == 10
    result = parity.check_parity(tmp_path / "out/source", tmp_path / "out/base")
    assert result["passed"]
    reply = one_round(tmp_path / "out")
    assert reply["actions"].shape == (10, 7)
    assert reply["accepted_prefix_len"] == 10, "twelve may be executed, and there are ten"
    assert one_round(tmp_path / "out", max_exec_steps=4)["accepted_prefix_len"] == 4


def test_a_served_horizon_of_ten_comes_over_the_wire(tree: Path, tokenizer_bytes: bytes, tmp_path: Path) -> None:
    converted(tree, tokenizer_bytes, tmp_path / "out", horizon=10)
    policy = FlashPolicy.load(tmp_path / "out/base")
    with running(policy) as server, PolicyClient(server.url) as client:
        facts = client.metadata["facts"]
        reply = client.infer(OBSERVATION, reset=True, noise_seed=1)
    assert (facts["action_horizon"], facts["delta_actions"]) == (10, True)
    assert (reply.actions.shape, reply.accepted_prefix_len) == ((10, 7), 10)


def test_without_deltas_the_state_is_not_added(tree: Path, tokenizer_bytes: bytes, tmp_path: Path) -> None:
    for name, delta in (("with", True), ("without", False)):
        manifest = converted(tree, tokenizer_bytes, tmp_path / name, delta_actions=delta)
        assert manifest["transforms"] == {"delta_actions": delta}
    added = one_round(tmp_path / "with")["actions"] - one_round(tmp_path / "without")["actions"]
    assert np.allclose(added, np.append(STATE[:6], 0.0))


def test_a_directory_a_leaf_gives_the_same_artifact(tree: Path, tokenizer_bytes: bytes, tmp_path: Path) -> None:
    """As Orbax saved before OCDBT."""
    old = Path(shutil.copytree(tree, tmp_path / "old"))
    shutil.rmtree(old / "params")
    nested: dict[str, Any] = {}
    for path, values in orbax.read_tree(tree / "params").items():
        *parents, last = path.split("/")
        at = nested
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = values
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save((old / "params").resolve(), args=ocp.args.PyTreeSave({"params": nested}))
    assert not (old / "params/manifest.ocdbt").exists()
    one, two = (converted(t, tokenizer_bytes, tmp_path / f"out_{t.name}") for t in (tree, old))
    assert one["digest"] == two["digest"]
    assert parity.check_parity(tmp_path / "out_old/source", tmp_path / "out_old/base")["passed"]


def test_dims_that_the_statistics_do_not_fill_are_refused_at_conversion(
    tree: Path, tokenizer_bytes: bytes, tmp_path: Path
) -> None:
    leaves = orbax.read_tree(tree / "params")
    for name in ("state_proj/kernel", "action_in_proj/kernel"):
        leaves[name] = leaves[name][:7]
    for name in ("action_out_proj/kernel", "action_out_proj/bias"):
        leaves[name] = leaves[name][..., :7]
    save_tree(tree, leaves)
    with pytest.raises(UserError, match="state needs 8 dims, this model has 7"):
        converted(tree, tokenizer_bytes, tmp_path / "out")
    assert not (tmp_path / "out/base").exists()


def test_a_declared_action_dim_is_held_to_the_tree(tree: Path, tokenizer_bytes: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="action_dim is declared as 24, the checkpoint's action_in_proj has 32"):
        converted(tree, tokenizer_bytes, tmp_path / "out", action_dim=24)


def test_weights_that_are_cut_off_are_one_line(tree: Path, tokenizer_bytes: bytes, tmp_path: Path) -> None:
    largest = max((tree / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged or incomplete: complete it and fetch it again"):
        converted(tree, tokenizer_bytes, tmp_path / "out")
