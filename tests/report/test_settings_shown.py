"""What an arm was told is what its summary, figures and sentences say, whatever the defaults are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from claims import simulated
from claims.simulated import write_campaign
from matplotlib.figure import Figure

from flashtrail.claims import claims, summaries, verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.report import arm_words, chapters, headline, overview, page, palette, timeline, tradeoff

REPOSITORY = Path(__file__).resolve().parents[2]
FAULT, GUARDED, OTHER = "wrist_zero_every4", "patched", "trained_again"
CONDITION = {"kind": "zero", "view": "wrist", "every": 4}


def told(arm: str, **more: str) -> dict[str, str]:
    condition = {"name": arm, **({"kind": "none"} if arm == "clean" else CONDITION)}
    guard = {"kind": "wrist_health", "std_min": 7.0} if arm == GUARDED else {"kind": "none"}
    return {"condition": json.dumps(condition), "guard": json.dumps({"name": "g", **guard}), **more}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Campaign:
    """Four arms of a policy that executes at most 20 actions; no remedy's name says what it is a remedy of."""
    monkeypatch.setitem(simulated.ARMS, GUARDED, ("pi0_nano", 5, 0.6, 4, True, False))
    monkeypatch.setitem(simulated.ARMS, OTHER, ("second_policy", 5, 0.75, 4, False, False))
    arms = ["clean", FAULT, GUARDED, OTHER]
    return Campaign(write_campaign(tmp_path, arms, 2, {arm: told(arm, max_exec_steps="20") for arm in arms}))


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that a page is given, kept as they were drawn."""
    kept: list[Figure] = []
    write = page.figure
    monkeypatch.setattr(page, "figure", lambda drawing, *rest: kept.append(drawing) or write(drawing, *rest))
    return kept


def test_the_longest_prefix_is_the_settings(run, drawn):
    prefix = run.summaries["clean"]["accepted_prefix"]
    assert len(prefix["histogram"]) == 21 and prefix["whole"] == 0
    text = chapters.accepted_prefix(run) + chapters.routes(run)
    assert "Accepted, full = 20" in text and "(of 20)" in text
    (axes,) = drawn[0].axes
    assert axes.get_xlim()[1] == pytest.approx(20.7) and "of 20, n =" in axes.get_legend_handles_labels()[1][0]
    assert "of 20 actions accepted per draft" in headline.section(run)
    shipped = claims.load(REPOSITORY / "claims.yaml").claims
    claim = next(claim for claim in shipped if isinstance(claim, claims.RoutesClaim))
    assert (
        "of 20 in draft rounds" in verdicts._judge_routes(claim.model_copy(update={"arm": "clean"}), run, 0.05).sentence
    )


def test_an_episodes_lane_is_as_high_as_its_setting():
    row = {"round": 0, "env_step": 0, "route": "draft", "accepted_prefix": 10, "executed": 10, "fallback_cause": None}
    lane = timeline._routes(timeline.placed([row], 10), 10, 20)[1]
    assert "accepted prefix, 0 to 20" in lane


def test_a_campaign_that_does_not_say_is_of_the_official_twelve(tmp_path):
    found = Campaign(write_campaign(tmp_path, ["clean"], 2)).summaries["clean"]["accepted_prefix"]
    assert summaries.of_how_many(found) == 12 and sum(found["histogram"]) == found["draft_rounds"]


def test_the_guards_threshold_is_drawn_where_it_was(run, drawn):
    chapters.guard(run)
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["threshold 7"]
    assert [7.0, 7.0] in [list(line.get_ydata()) for line in axes.lines]


def test_a_remedys_control_is_the_arm_of_the_same_fault_without_it(run):
    assert {arm: run.control_of(arm) for arm in run.summaries} == {
        "clean": None,
        FAULT: None,
        GUARDED: FAULT,
        OTHER: FAULT,
    }
    text = overview.remedies(run)
    assert text.count(page.code(FAULT)) >= 2 and page.code(OTHER) in text


def test_a_colour_depends_on_what_was_done_and_on_no_name():
    hit = {"guard": None, "condition": {"rounds_hit": 3}}
    roles = {policy: arm_words.role({**hit, "policy": policy}, "dropout") for policy in ("dropout", "second")}
    colours = {policy: palette.of_role(role) for policy, role in roles.items()}
    assert colours == {"dropout": palette.ORANGE, "second": palette.PURPLE}


def test_a_fault_is_held_against_the_same_policy_and_settings_without_it(run):
    assert run.without_fault(FAULT) == run.without_fault(GUARDED) == "clean"
    assert run.without_fault(OTHER) is None, "no arm of its policy is without a fault"
    assert [row["arm"] for row in chapters.faults(run).tables[0].rows] == [page.code(FAULT), page.code(GUARDED)]
    assert [p.control for p in tradeoff.points(run) if p.role == "clean"] == [None]
    run.summaries["clean"]["metadata"]["settings"] = json.dumps({"epsilon": 0.1})
    assert run.without_fault(FAULT) is None, "an arm with other settings is no control of a fault"
