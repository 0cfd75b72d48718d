"""Lift's page: criteria side by side, the printed table beside ours, and no word of routes where no policy drafts."""

from __future__ import annotations

import json

import pytest
from bs4 import BeautifulSoup
from claims.simulated import METADATA, REPOSITORY, shard

from flashtrail.base import provenance
from flashtrail.claims import published, summaries, verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.report import cards, chapters, claims_chapter, figures, headline, metric_chapter, overview, tables
from flashtrail.tables import schemas

N = 40
# arm: (policy, naive, printed, verified, gripper closures), and how many steps late
ARMS = {
    "lift_nothing": ("nothing", 40, 0, 0, 0, 0),
    "lift_grasp_only": ("grasp_only", 40, 13, 0, 40, 0),
    "lift_nano": ("lift_nano", 40, 40, 36, 40, 0),
    "lift_nano_late": ("lift_nano", 40, 0, 0, 0, 9),
}
WILSON = "[91\u2013100\u00a0%]"  # of 40/40


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Campaign:
    """Tables of one task, every round full, in which exactly so many episodes meet each criterion."""
    root = tmp_path_factory.mktemp("lift")
    files: dict[str, list[str]] = {name: [] for name in (*schemas.SCHEMAS, "summaries")}
    for arm, (policy, naive, printed, verified, closures, lag) in ARMS.items():
        own = {"arm": arm, "suite": "robosuite_lift"}
        tables = {name: [row | own for row in rows] for name, rows in shard("full_only", 0, N).items()}
        tables["episodes"] = [
            row
            | {"policy": policy, "task": "lift the red cube", "naive_success": i < naive, "own_success": i < verified}
            | {"printed_success": i < printed, "verified_success": i < verified, "success": i < verified}
            | {"gripper_closures": int(i < closures), "grasps": int(i < printed), "lifts": int(i < verified)}
            | {"outcome": "success" if i < verified else "horizon"}
            for i, row in enumerate(tables["episodes"])
        ]
        about = METADATA | {"condition": '{"kind": "none", "name": "clean"}'}
        about |= {"execution": json.dumps({"window_lag": lag})} if lag else {}
        places = {name: root / arm / f"{name}.parquet" for name in schemas.SCHEMAS}
        for name, place in places.items():
            schemas.write_table(place, tables[name], schemas.SCHEMAS[name], about)
            files[name].append(str(place))
        provenance.json_dump(summaries.summarize_arm(**places), root / f"{arm}.json")
        files["summaries"].append(str(root / f"{arm}.json"))
    inputs = files | {"arms": list(ARMS), "published": str(published.DEFAULT.with_name("documents.yaml"))}
    provenance.json_dump(verdicts.evaluate(REPOSITORY / "claims-lift.yaml", inputs), root / "lift.json")
    return Campaign(inputs | {"claims": str(root / "lift.json")})


def test_each_arm_has_each_criterion_with_its_interval(run):
    (table,) = metric_chapter.by_arm(run).tables
    text = BeautifulSoup(str(metric_chapter.by_arm(run)), "html.parser").get_text()
    assert text.count(f"40/40\u00a0{WILSON}") == 4 + 1, "naive of every arm, printed of lift_nano"
    for count in ("13/40", "36/40"):
        assert count in text
    assert table.name == "metrics" and len(table.rows) == len(ARMS)


def test_the_printed_table_stands_beside_the_arms_of_claims_and_their_twin_on_time(run):
    made = metric_chapter.beside_printed(run)
    text = str(made)
    assert "Table 4, and ours" in text and "Printed: actual" in text and "100% (" in text
    heads = text[text.index("<thead>") : text.index("</thead>")]
    assert [arm for arm in ARMS if f">{arm}<" in heads.replace("<wbr>", "")] == list(ARMS)
    rows = published.load(published.DEFAULT.with_name("documents.yaml")).results
    assert all(row.what in text for row in rows) and "Corrected criterion, as printed" in text
    assert 'data-behind="published"' in text, "a printed count is not one of this page's runs"


def test_the_verdict_says_what_was_found_of_each_metric(run):
    said = headline.said(run)
    assert "; the success test tells nothing (40/40); " in said.text and "is refuted" not in said.text
    assert "the corrected criterion passes a grasp that never left the table (13/40)" in said.text
    assert set(said.arms) <= set(ARMS) and len(said.arms) == said.text.count("/40")
    assert "exact]" in str(cards.section(run, None))


def test_a_run_that_never_drafts_has_no_word_of_routes_or_the_reproduction(run):
    assert not run.drafts and overview.title(run).startswith("Lift: ")
    parts = [headline.section(run), chapters.success(run), chapters.comparisons(run), chapters.latency_in_rollouts(run)]
    parts += [metric_chapter.section(run), claims_chapter.not_claimed(run), claims_chapter.details(run)]
    text = " ".join(map(str, parts))
    for word in ("FLASH", "every round full", "both routes", "radius heuristic", "reproduction\u2019s words", "guard:"):
        assert word not in text, word
    assert "each action 9 steps late" in text and "criteria" in figures.names(run)
    assert {"metrics", "metrics-printed"} <= set(tables.found(run))


def test_arms_are_held_against_the_same_policy(run):
    assert run.reference_of("lift_nano_late") == "lift_nano" == run.reference_of("lift_nothing")
