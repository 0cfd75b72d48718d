"""A plan read back is the experiment that was planned, or it is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment import config, plans

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("profile", ["local", "ci", "runpod-l40s"])
def test_a_plan_read_back_is_the_experiment(tmp_path, profile):
    """Grids and sweeps are written out once, published figures are resolved: every slice of a job is the same."""
    experiment = config.load(ROOT / "config.yaml", ROOT / f"profiles/{profile}/overlay.yaml")
    plans.freeze(experiment, tmp_path)
    again = plans.planned({"plan": plans.name_of(experiment)}, tmp_path)
    assert again == experiment and again.grid_cells() == experiment.grid_cells()
    assert [again.arm(name) for name in again.all_arms] == [experiment.arm(name) for name in experiment.all_arms]


def test_a_plan_that_is_gone_or_another_is_refused(tmp_path):
    experiment = config.load(ROOT / "config.yaml", ROOT / "profiles/ci/overlay.yaml")
    name = plans.name_of(experiment)
    for settings in ({}, {"plan": "../../etc/passwd"}, {"plan": "plan-../x"}):
        with pytest.raises(UserError, match="does not name a plan"):
            plans.planned(settings, tmp_path)
    with pytest.raises(UserError, match=f"{name}.json, what this job was planned as, is missing on this node"):
        plans.planned({"plan": name}, tmp_path)
    plans.freeze(experiment, tmp_path)
    stored = provenance.json_load(tmp_path / f"{name}.json")
    for changed in ({**stored, "seed": 8}, {"suite": "libero_goal"}):
        provenance.json_dump(changed, tmp_path / f"{name}.json")
        with pytest.raises(UserError, match=f"{name}.json is not what this job was planned as"):
            plans.planned({"plan": name}, tmp_path)
