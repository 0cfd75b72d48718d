"""A run with arms of two suites: each is compared within its own, and no task number is read as the other's."""

from __future__ import annotations

import pytest
import yaml
from claims import simulated

from flashtrail.claims import verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.report import chapters, headline, overview, tradeoff

LIFT = {"lifted": ("lift", 8, 0.9, 0, False, False), "lifted_dark": ("lift", 8, 0.1, 1, False, False)}
OF_LIBERO = ["clean", "wrist_zero_all"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two campaigns as one, the second on two tasks of robosuite_lift."""
    root = tmp_path_factory.mktemp("two")
    found = simulated.write_campaign(root / "libero", OF_LIBERO, 8)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(simulated, "ARMS", {**simulated.ARMS, **LIFT})
        patched.setattr(simulated, "SUITE", "robosuite_lift")
        patched.setattr(simulated, "TASKS", {0: "lift the red cube", 7: "push the red cube forward"})
        more = simulated.write_campaign(root / "lift", list(LIFT), 8)
    return {**found, **{k: [*found[k], *more[k]] for k in ("episodes", "rounds", "steps", "summaries", "arms")}}


def test_a_reference_is_of_the_arms_own_suite(inputs):
    run = Campaign(inputs)
    assert run.usual_policies == {"libero_goal": "pi0_nano", "robosuite_lift": "lift"}
    assert [run.control_of(arm) for arm in run.arms] == [None] * 4
    controls = {point.arm: point.control for point in tradeoff.points(run)}
    assert controls == {"clean": None, "wrist_zero_all": "clean", "lifted": None, "lifted_dark": "lifted"}
    paired = chapters.comparisons(run)
    assert "<code>lifted</code> " in paired and "<code>clean</code> " in paired and "reference, same episodes" in paired
    assert "policy lift" not in headline.section(run), "its suite's usual policy is no remedy"


def test_an_imported_or_single_suite_run_reads_as_before(inputs):
    first = {k: v[:2] for k, v in inputs.items() if k in ("episodes", "rounds", "summaries", "arms")}
    assert "clean, same episodes" in chapters.comparisons(Campaign(first))
    assert overview.subject(Campaign(first)) == "pi0_nano on libero_goal, tasks 0\N{EN DASH}2"


def test_tasks_stand_with_their_suite(inputs):
    words = overview.subject(Campaign(inputs))
    assert words == "pi0_nano and lift on libero_goal, tasks 0\N{EN DASH}2; robosuite_lift, tasks 0, 7"
    assert "Task 7 of robosuite_lift" in str(chapters.success_by_task(Campaign(inputs)))


def test_a_claim_about_arms_of_two_suites_is_not_tested_and_says_why(inputs, tmp_path):
    shipped = yaml.safe_load((simulated.REPOSITORY / "claims.yaml").read_text())
    (claim,) = [claim for claim in shipped["claims"] if claim.get("arm") == "wrist_zero_all"]
    file = tmp_path / "claims.yaml"
    own = {"arm": "lifted_dark", "control": "clean", "estimand": "success(lifted_dark) - success(clean), paired"}
    file.write_text(yaml.safe_dump({**shipped, "claims": [{**claim, **own}]}))
    (judged,) = verdicts.evaluate(file, inputs)["claims"]
    assert judged["verdict"] == "not_tested"
    assert "pairs are within a suite, and they are of robosuite_lift and libero_goal" in judged["sentence"]
