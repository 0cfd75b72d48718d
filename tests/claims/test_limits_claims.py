"""Claims about what was measured of a robot: within a limit in so many episodes, and the document's own claims file."""

from __future__ import annotations

from pathlib import Path

import pytest
from claims.test_claims import verdict
from claims.test_lift_claims import table

from flashtrail.base.errors import UserError
from flashtrail.claims import claims
from flashtrail.experiment import config

ROOT = Path(__file__).resolve().parents[2]
WITHIN = {"test": "metric_rate", "arm": "a", "metric": "peak_force_n", "limit": 60.0, "side": "at_least", "bar": 0.9}


@pytest.mark.parametrize(("inside", "word"), [(50, "supported"), (45, "inconclusive"), (20, "refuted")])
def test_a_measured_quantity_is_held_to_its_limit_episode_by_episode(tmp_path, inside, word):
    inputs = table(tmp_path, "a", peak_force_n=[60.0] * inside + [60.1] * (50 - inside))
    found = verdict(tmp_path, inputs, **WITHIN)
    assert found["verdict"] == word and found["numbers"]["rate"]["k"] == inside
    assert bool(found["settle"]) == (word == "inconclusive"), "an open claim says how many episodes would settle it"
    assert f"In a the peak force at the wrist was at most 60 N in {inside}/50" in found["sentence"]


def test_an_excursion_below_zero_is_inside_and_another_limit_is_another_comparison(tmp_path):
    inputs = table(tmp_path, "a", worst_excursion_mm=[-7.0] * 40 + [20.0] * 10)
    claim = WITHIN | {"metric": "worst_excursion_mm"}
    near, far = (verdict(tmp_path, inputs, **claim | {"limit": limit}) for limit in (0.0, 25.0))
    assert (near["numbers"]["rate"]["k"], far["numbers"]["rate"]["k"]) == (40, 50)
    assert near["anytime"]["digest"] != far["anytime"]["digest"]


def test_an_arm_that_was_not_measured_leaves_the_claim_open(tmp_path):
    found = verdict(tmp_path, table(tmp_path, "a", stops=[None] * 50), **WITHIN)
    assert found["verdict"] == "not_tested" and "have no peak_force_n" in found["sentence"]


@pytest.mark.parametrize("change", [{"limit": None}, {"metric": "grasps"}])
def test_a_limit_belongs_to_what_is_measured_and_to_nothing_else(tmp_path, change):
    with pytest.raises(UserError, match=r"give its limit|takes no limit"):
        verdict(tmp_path, {}, **WITHIN | change)


def test_each_claim_of_the_document_names_an_arm_of_its_profile_and_each_limited_arm_has_its_control():
    experiment = config.load(ROOT / "config.yaml", ROOT / "profiles/deployment/overlay.yaml")
    file = claims.load(ROOT / "claims-deployment.yaml")
    named = {arm for claim in file.claims for arm in (getattr(claim, "arm", None), getattr(claim, "control", None))}
    assert named - {None} <= set(experiment.arms)
    table_, measured = experiment.limits["table"], experiment.limits["measured"]
    assert table_.box == measured.box and table_.act and not measured.act
    pairs = {
        arm: "limits_none" if arm == "limits_nano" else f"{arm}_none"
        for arm, own in experiment.arms.items()
        if own.limits == "table"
    }
    for arm, control in pairs.items():
        own, other = (experiment.arm(name) for name in (arm, control))
        different = {key for key in own if own[key] != other[key]}
        assert different - {"init_states"} == {"arm", "limits"} and own["limits"]["act"] and not other["limits"]["act"]


def test_arms_with_hand_overs_differ_in_the_signal_alone():
    """Turns and budget are equal, so that a difference is the moments alone; alarms were learnt on other starts."""
    experiment = config.load(ROOT / "config.yaml", ROOT / "profiles/deployment/overlay.yaml")
    never, *helped = (experiment.arm(f"ho_{name}") for name in ("never", "overlap", "random", "oracle"))
    assert min(never["init_states"]) > 15 and "handoff" not in never
    for own in helped:
        assert {key for key in own if own[key] != never.get(key)} == {"arm", "handoff"}
        assert {own["handoff"][key] == helped[0]["handoff"][key] for key in ("to", "steps", "budget")} == {True}


def test_an_intervention_is_counted_by_the_episode(tmp_path):
    claim = {"test": "metric_rate", "arm": "a", "metric": "interventions", "side": "at_most", "bar": 0.5}
    found = verdict(tmp_path, table(tmp_path, "a", interventions=[0] * 40 + [2] * 10), **claim)
    assert found["verdict"] == "supported" and "Another took over from a in 10/50" in found["sentence"]
