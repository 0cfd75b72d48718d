"""The JAX reference against golden data, so that parity compares with something that is itself right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.conftest import FACTS, G1, G4, GOLDEN

from flashtrail.checkpoints import reference

VIEWS = ("base_0_rgb", "left_wrist_0_rgb")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    named = {"torch": G1 / "upstream_torch.npz", "draft": G4 / "cases.npz", "verify": GOLDEN / "G5_verify/cases.npz"}
    return {k: np.load(path) for k, path in named.items()} | {n: np.load(G1 / f"obs{n}.npz") for n in range(3)}


@pytest.fixture(scope="module", params=["checkpoint", "checkpoint_value_suffix"])
def source(request: Any, tmp_path_factory: pytest.TempPathFactory) -> reference.Source:
    root = Path(shutil.copytree(G1 / request.param, tmp_path_factory.mktemp("reference") / "source"))
    shutil.copy(G4 / "draft.pt", root / "draft.pt")
    (root / "facts.json").write_text(json.dumps(FACTS))
    return reference.load_source(root)


def run_prefix(source: reference.Source, obs: Any) -> tuple[list[Any], reference.Prefix]:
    views = [reference.encode_view(source, obs[f"image_{v}"].astype(np.float32) / 255 * 2 - 1) for v in VIEWS]
    return views, reference.prefill(source, views, obs["token_ids"][obs["token_mask"]])


def close(found: Any, expected: Any, atol: float) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("n", [0, 2])
def test_prefix_and_actions(source: reference.Source, golden: dict[str, Any], n: int) -> None:
    obs = golden[n]
    views, prefix = run_prefix(source, obs)
    mask = obs["out_prefix_pad_mask"]
    for found, view in zip(views, VIEWS, strict=True):
        close(found, obs[f"out_img_emb_{view}"], 1e-5)
    assert np.array_equal(prefix.valid, mask)
    close(np.asarray(prefix.embeddings)[mask], obs["out_prefix_emb"][mask], 1e-5)
    close(np.asarray(prefix.keys)[:, mask, 0], obs["out_prefix_k"][:, mask], 2e-4)
    close(np.asarray(prefix.values)[:, mask, 0], obs["out_prefix_v"][:, mask], 1e-5)
    for j, t in enumerate(obs["v_times"]):
        v = reference.velocity(source, prefix, obs["state_normalized"], obs["noise"], float(t))
        close(v, golden["torch"][f"obs{n}/out_v_at_noise"][j], 1.5e-5)
    _, steps = reference.denoise(source, prefix, obs["state_normalized"], obs["noise"])
    close(steps[-1], golden["torch"][f"obs{n}/out_actions_normalized"], 5e-5)
    for x, expected in zip(steps, obs["out_euler_x"], strict=True):
        close(x, expected, 5e-4)


def test_draft_and_verify(source: reference.Source, golden: dict[str, Any]) -> None:
    prefixes = [run_prefix(source, golden[n])[1] for n in range(3)]
    for n, prefix in enumerate(prefixes):
        case = f"g1obs{n}"
        found = reference.draft(source, prefix, golden["draft"][f"{case}/robot_state"][0])
        close(found, golden["draft"][f"{case}/out_actions"][0], 1e-5)
    cases = golden["verify"]
    for case in ("case0", "case3"):
        prefix = prefixes[int(cases[f"{case}/prev_obs"])]
        state = golden[int(cases[f"{case}/cur_obs"])]["state_normalized"]
        for k, t in enumerate(cases[f"{case}/t_list"]):
            x0 = cases[f"{case}/x0_draft"]
            v, x0_hat = reference.verify(source, prefix, state, x0[:, :7], cases[f"{case}/noise"], float(t))
            close(v, cases[f"{case}/out_v"][k], 5e-4)
            close(x0_hat, cases[f"{case}/out_x0_hat_upstream_torch"][k], 1e-5)
