"""Verified success in the reports: both rates, every disagreement, and nothing where nobody looked."""

from __future__ import annotations

import re

import pytest
from claims.simulated import METADATA, write_campaign

from flashtrail.claims.campaign import Campaign
from flashtrail.report import chapters, metric_chapter, tradeoff, verified_chapter
from flashtrail.tables import schemas


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_campaign(tmp_path_factory.mktemp("campaign"), ["clean"], episodes=3)


def campaign(inputs, change):
    """The campaign with its successes' verdicts given by `change(number)`; returns it and the successes' rows."""
    (path,) = inputs["episodes"] if isinstance(inputs["episodes"], list) else [inputs["episodes"]]
    rows = schemas.read_table(path, schemas.EPISODES).to_pylist()
    won = [row for row in rows if row["success"]]
    for row in rows:
        row |= {"verified_success": False, "verified_reason": "no success", "grasps": 0, "lifts": 0}
    for number, row in enumerate(won):
        row |= {"verified_success": change(number), "verified_reason": None if change(number) else "never grasped"}
    run = Campaign(inputs)
    run.__dict__["episodes"] = schemas.to_table(rows, schemas.EPISODES).to_pandas()
    return run, won


def test_disagreements_are_listed_by_name_and_reason(inputs):
    run, won = campaign(inputs, lambda number: number != 1)
    text = verified_chapter.section(run)
    assert f">{len(won)}/9<" in text and f">{len(won) - 1}/9<" in text
    assert text.count("never grasped") == 1 and schemas.episode_id(won[1]) in text.replace("<wbr>", "")
    assert text in chapters.success(run)


def test_agreement_is_said(inputs):
    run, _ = campaign(inputs, lambda number: True)
    assert "The two agree in all 9\u00a0episodes" in verified_chapter.section(run)


def test_nothing_is_said_where_nobody_looked(inputs):
    assert verified_chapter.section(Campaign(inputs)) == ""


def cells(inputs, rows: int, **columns) -> list[str]:
    """The counts of `What the metric saw` where these columns are of the first `rows` of nine episodes."""
    run = Campaign(inputs)
    (path,) = inputs["episodes"] if isinstance(inputs["episodes"], list) else [inputs["episodes"]]
    table = schemas.read_table(path, schemas.EPISODES).to_pylist()
    for number, row in enumerate(table):
        row |= {name: value if number < rows else None for name, value in columns.items()}
    run.__dict__["episodes"] = schemas.to_table(table, schemas.EPISODES).to_pandas()
    return re.findall(r"[0-9]+/[0-9]+", re.sub("<[^>]*>", "", str(metric_chapter.section(run))))


def test_the_criteria_stand_side_by_side_and_who_did_not_look_counts_nothing(inputs):
    criteria = {"naive_success": True, "own_success": False, "printed_success": True}
    own = sum(bool(value) for value in Campaign(inputs).episodes["success"])
    judged = ["9/9", "0/9", "9/9", f"{own}/9"]
    assert cells(inputs, 9, **criteria, verified_success=False) == [*judged, "0/9"]
    assert cells(inputs, 9, **criteria) == judged, "no verdict is no failure"
    assert cells(inputs, 0, **criteria) == []


def test_a_row_of_another_schema_is_named(tmp_path):
    """Tables from before these columns are refused by name, not read as if nobody had looked."""
    row = dict.fromkeys(schemas.EPISODES.names)
    del row["grasps"]
    with pytest.raises(ValueError, match="'grasps' is missing"):
        schemas.write_table(tmp_path / "episodes.parquet", [row], schemas.EPISODES, METADATA)


def test_a_run_whose_claims_are_about_verified_success_counts_that_everywhere(inputs, tmp_path):
    """One success of the simulator's was not verified: every k/n says so, and the page which success it counts."""
    run, won = campaign(inputs, lambda number: number != 1)
    tables = tmp_path / "episodes.parquet"
    schemas.write_table(tables, run.episodes.to_dict("records"), schemas.EPISODES, METADATA)
    files = {kind: value for kind, value in inputs.items() if kind not in ("episodes", "claims")}
    for success, k, words in (
        ("simulator", len(won), "the simulator\u2019s own test"),
        ("verified", len(won) - 1, "verified ("),
    ):
        led = Campaign(files | {"episodes": str(tables), "success": success})
        assert led.summaries["clean"]["success"]["k"] == k == led.judged("clean")["success"].sum()
        assert sum(task["k"] for task in led.summaries["clean"]["tasks"]) == k
        assert [point.k for point in tradeoff.points(led)] == [k]
        assert f"Up: success, {words}" in str(tradeoff.section(led))
        assert f">{len(won)}/9<" in verified_chapter.section(led), "the simulator's own stays beside it"
    unseen = Campaign({**files, "episodes": inputs["episodes"], "success": "verified"})
    assert unseen.verified == bool(unseen.episodes["verified_success"].notna().all())
