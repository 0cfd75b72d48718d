"""A policy of two robots and one more, from no demonstration to the report: few of everything, the real Snakefile."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from workflow.checkouts import ROOT, Checkout
from workflow.test_settle import WORDS

from flashtrail.policies.lift_vla import artifact
from flashtrail.tables import schemas

TARGETS = [f"results/lift/robots/{robot}/demos.hdf5" for robot in ("panda", "panda_3dof", "iiwa")]
TARGETS += [f"results/measured/train_{policy}.json" for policy in ("joint", "more")]
TARGETS += [f"results/tables/{arm}/episodes.parquet" for arm in ("right", "wrong_token", "short", "new")]
TARGETS += ["reports/trial.html"]
STEPS = 12  # of an episode, in place of 100: two or three rounds
ARM = {"episodes": 2, "video": "none", "execution": {"replan_steps": 5}}
EXPERIMENT = {
    "suite": "robosuite_lift",
    "tasks": "0",
    "claims": "few.yaml",
    "report": "trial",
    "smoke": {"episodes": 1},
    "policies": {
        "__only__": True,
        "joint": {"train": {"robots": {"panda": 2, "panda_3dof": 2}, "steps": 15}},
        "more": {"train": {"of": "joint", "like": "panda", "robots": {"panda": 2, "iiwa": 1}, "steps": 5}},
    },
    "arms": {
        "__only__": True,
        "right": ARM | {"policy": "joint", "settings": {"embodiment": "panda"}},
        "wrong_token": ARM | {"policy": "joint", "settings": {"embodiment": "panda", "token": "panda_3dof"}},
        "short": ARM | {"policy": "joint", "settings": {"embodiment": "panda_3dof"}, "tasks": "2"},
        "new": ARM | {"policy": "more", "settings": {"embodiment": "iiwa"}, "tasks": "3"},
    },
    "sweeps": {"__only__": True},
    "drills": None,
    "profile": {"policy": "joint", "episodes": 1, "samples": 2, "warmup": 1},
    "checkup": None,
}
CLAIM = WORDS | {"id": "J1", "test": "paired_difference", "success": "verified", "arm": "right", "margin": 0.3}
CLAIM |= {"control": "wrong_token", "direction": "greater"}


def rows(run: Checkout, arm: str, table: str) -> list[dict]:
    path = run.path / f"results/tables/{arm}/{table}.parquet"
    return schemas.read_table(path, schemas.SCHEMAS[table]).to_pylist()


@pytest.mark.simulator
def test_two_robots_and_one_more_from_demonstrations_to_the_report(checkout):
    shutil.copytree(ROOT / "notebooks", checkout.path / "notebooks", dirs_exist_ok=True)
    (checkout.path / "trial.yaml").write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    (checkout.path / "few.yaml").write_text(yaml.safe_dump({"version": 1, "title": "A trial", "claims": [CLAIM]}))
    for file, old, new in (
        (
            "experiment/suites.py",
            'horizon=100, simulator="robosuite_lift"',
            f'horizon={STEPS}, simulator="robosuite_lift"',
        ),
        ("training/lift/demonstrations.py", "A_PART, SCENES_A_PART = 5, 50", "A_PART, SCENES_A_PART = 1, 50"),
        ("training/lift/files.py", "VALID_EVERY, VALID_AT = 11, 5", "VALID_EVERY, VALID_AT = 11, 2"),
    ):
        checkout.edit(f"src/flashtrail/{file}", old, new)
    command = ["snakemake", "--profile", "profiles/local", "--configfile", "trial.yaml", "--cores", "1"]
    for target in TARGETS:  # one after another, since a run that takes ten minutes is stopped
        checkout.run(*command, "--", target)

    artifacts = checkout.path / "results/artifacts"
    model, _, manifest = artifact.read(artifacts / "more/base")
    assert model.dims.robots == ["panda", "panda_3dof", "iiwa"]
    joint = json.loads((artifacts / "joint/base/manifest.json").read_text())["digest"]
    assert manifest["source"]["digest"] == joint
    assert [len(rows(checkout, arm, "episodes")) for arm in ("right", "wrong_token", "short", "new")] == [2] * 4
    assert not any(any(row["action"][3:6]) for row in rows(checkout, "short", "steps"))
    first = [rows(checkout, arm, "steps")[0]["action"] for arm in ("right", "wrong_token")]
    assert first[0] != first[1], "the same start, the same pictures, another token"
    record = json.loads((checkout.path / "results/measured/train_more.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in record["figures"]}
    assert (figures["demonstrations"], figures["steps"]) == (3, 10) and not list(
        (checkout.path / "results/lift/robots/runs").iterdir()
    )
    (judged,) = json.loads((checkout.path / "results/claims/trial.json").read_text())["claims"]
    assert judged["id"] == "J1" and "wrong_token" in (checkout.path / "reports/trial.html").read_text()
    again = checkout.run(*command, "-n", "--", "reports/trial.html").stdout
    assert "Nothing to be done" in again
