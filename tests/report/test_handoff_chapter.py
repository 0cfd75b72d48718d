"""Hand-overs on the page: each arm's row says what its episodes say, beside the arm that nobody helped."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from claims.simulated import METADATA, shard

from flashtrail.base import provenance
from flashtrail.claims import summaries
from flashtrail.claims.campaign import Campaign
from flashtrail.report import arm_words, handoff_chapter, timeline
from flashtrail.tables import schemas

N = 20
BY = {"ho_never": None, "ho_overlap": "overlap", "ho_random": "random"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Campaign:
    root = tmp_path_factory.mktemp("handoff")
    files: dict[str, list[str]] = {name: [] for name in (*schemas.SCHEMAS, "summaries")}
    for arm, signal in BY.items():
        tables = {name: [row | {"arm": arm} for row in rows] for name, rows in shard("full_only", 0, N).items()}
        for number, row in enumerate(tables["episodes"]):
            row["verified_success"] = number >= (10 if signal is None else 4)
            if signal is not None:
                helped = number % 2
                row |= {"interventions": 2 * helped, "expert_steps": 30 * helped}
                row["steps"] = row["executed_actions"] + 30 * helped
        given = {"name": f"by_{signal}", "signal": signal, "alarm": 0.25, "patience": 3, "to": "expert"}
        about = METADATA | {"condition": json.dumps({"kind": "zero", "view": "agent"})}
        about |= {} if signal is None else {"handoff": json.dumps(given)}
        places = {name: root / arm / f"{name}.parquet" for name in schemas.SCHEMAS}
        for name, place in places.items():
            schemas.write_table(place, tables[name], schemas.SCHEMAS[name], about)
            files[name].append(str(place))
        provenance.json_dump(summaries.summarize_arm(**places), root / f"{arm}.json")
        files["summaries"].append(str(root / f"{arm}.json"))
    return Campaign(files | {"arms": list(BY)})


def test_each_arm_stands_beside_the_one_that_nobody_helped(run):
    made = BeautifulSoup(str(handoff_chapter.section(run)), "html.parser")
    never, overlap, random = (" ".join(row.get_text(" ").split()) for row in made.select("tbody tr"))
    assert "never" in never and f"10/{N}" in never
    assert "to expert at overlap > 0.25 in 3 rounds in a row" in overlap and f"16/{N}" in overlap
    assert f"10/{N}" in overlap and "1.00" in overlap and "15.0" in overlap  # half of them, twice, 30 steps
    assert "to expert by lot > 0.25" in random
    steps = run.judged("ho_overlap")["steps"].sum()
    assert f"{300 / steps:.0%}".replace("%", " %") in overlap


def test_an_arm_with_hand_overs_is_held_against_the_one_without_and_is_nobody_s_control(run):
    assert [run.control_of(arm) for arm in BY] == [None, "ho_never", "ho_never"]
    assert run.reference_of("ho_random") == "ho_never"
    words = {arm: arm_words.words(run.summaries[arm], "") for arm in BY}
    assert "hand-over by_overlap" in words["ho_overlap"] and "hand-over" not in words["ho_never"]
    assert len(set(words.values())) == 3


def test_a_run_without_hand_overs_has_no_such_section():
    assert not handoff_chapter.arms(Campaign({})) and str(handoff_chapter.section(Campaign({}))) == ""


def test_an_episode_s_page_says_who_acted():
    who = ["policy"] * 3 + ["expert"] * 2
    steps = pd.DataFrame({"step": range(5), "who": who, "gripper_closed": False, "stale": False})
    steps["offset_in_chunk"] = [0.0, 1.0, None, None, None]
    steps["eef_pos"] = [[0.0, 0.0, 0.1]] * 5
    said = " ".join(timeline._steps(steps, 5)).replace("\xa0", " ")
    assert "Who acts: expert: 2 of 5 steps" in said and "Held: no action left: 1 of 5 steps" in said
    assert "Who acts" not in " ".join(timeline._steps(steps.assign(who=None), 5))
