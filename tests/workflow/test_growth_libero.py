"""What a changed condition, clock, policy or code runs again in LIBERO's simulator: docs/workflow.md, Growth.

The other rows of that table, and these on a point in the simulator's place: test_growth.py.
"""

from __future__ import annotations

import json

import pytest
from workflow.checkouts import ROOT, Checkout, copy_checkout
from workflow.test_growth import GROWN, episodes_run

from flashtrail.checkpoints import artifact
from flashtrail.tables import schemas

ARMS = """
  same: {policy: still, episodes: 1, video: none}
  seen: {policy: still, episodes: 1, video: none}
  timed: {policy: still, episodes: 1, video: none}
  moved: {policy: still, episodes: 1, video: none}
"""
CHANGED = """
  same: {policy: still, episodes: 1, video: none}
  seen: {policy: still, episodes: 1, video: none, condition: wrist_zero_all}
  timed: {policy: still, episodes: 1, video: none, clock: {kind: running, hz: 20, source: {constant_ms: 100}}}
  moved: {policy: other, episodes: 1, video: none}
"""
EXPERIMENT = f"""
suite: libero_goal
tasks: "0"
policies: {{__only__: true, still: {{artifact: resources/still}}, other: {{artifact: resources/other}}}}
arms:
  __only__: true{ARMS}
sweeps: {{__only__: true}}
drills: {{policy: still}}
profile: {{policy: still}}
checkup: {{policy: still}}
smoke: {{episodes: 1}}
"""
NAMES = ["moved", "same", "seen", "timed"]
STEPS = 12  # of an episode, in place of 300: the smallest of one round
TIMING = {"wall_s", "started_at", "run_id", "policy_ms", "encoder_ms", "serve_ms", "roundtrip_ms"}


@pytest.fixture
def run(tmp_path) -> Checkout:
    """A checkout with two policies that hold still, and a suite of short episodes."""
    checkout = copy_checkout(tmp_path / "checkout")
    manifest = json.loads((ROOT / "resources/still/manifest.json").read_text())
    for name, horizon in (("still", 50), ("other", 40)):
        manifest["dims"]["action_horizon"] = horizon
        manifest["digest"] = artifact.artifact_digest({}, manifest["dims"])
        (checkout.path / "resources" / name).mkdir()
        (checkout.path / "resources" / name / "manifest.json").write_text(json.dumps(manifest))
    (checkout.path / GROWN).write_text(EXPERIMENT)
    checkout.edit("src/flashtrail/experiment/suites.py", "tasks=10, horizon=300", f"tasks=10, horizon={STEPS}")
    return checkout


def played(run: Checkout) -> list[str]:
    """Bring the run up to its config, on one core for one simulator; return the arms that were played."""
    tables = [f"results/tables/{arm}/episodes.parquet" for arm in NAMES]
    options = ["--profile", "profiles/local", "--configfile", GROWN, "--cores", "1"]
    return [name.split("/")[0] for name in episodes_run(run, ["snakemake", *options, "--", *tables])]


def tables(run: Checkout, arm: str) -> dict[str, list[dict]]:
    """The tables of an arm, without what the clock wrote."""
    read = {
        name: schemas.read_table(run.path / f"results/tables/{arm}/{name}.parquet", schema).to_pylist()
        for name, schema in schemas.SCHEMAS.items()
    }
    return {
        name: [{key: value for key, value in row.items() if key not in TIMING} for row in rows]
        for name, rows in read.items()
    }


@pytest.mark.slow
@pytest.mark.simulator
def test_condition_clock_policy_and_code_run_all_of_their_arms_again(run):
    assert played(run) == NAMES
    first = {arm: tables(run, arm) for arm in NAMES}
    assert [row["steps"] for rows in first.values() for row in rows["episodes"]] == [STEPS] * len(NAMES)

    run.edit(GROWN, ARMS, CHANGED)
    assert played(run) == ["moved", "seen", "timed"]
    assert tables(run, "same") == first["same"]
    for arm, column, before, after in (
        ("seen", "condition_applied", False, True),
        ("timed", "waited_steps", None, 2),
        ("moved", "policy", "still", "other"),
    ):
        table = "episodes" if column == "policy" else "rounds"
        found = [{row[column] for row in rows[table]} for rows in (first[arm], tables(run, arm))]
        assert found == [{before}, {after}]

    run.edit(GROWN, CHANGED, ARMS)
    assert played(run) == [], "the last two settings of a shard keep their episodes"
    assert {arm: tables(run, arm) for arm in NAMES} == first

    module = run.path / "src/flashtrail/simulators/libero/simulator.py"
    module.write_text(module.read_text() + "\n# a change\n")
    assert played(run) == NAMES
    assert {arm: tables(run, arm) for arm in NAMES} == first, "the same episodes, bit for bit"
