"""The grid of a report: its counts are those of the episodes, its oracle is named as a bound, no grid shows nothing."""

from __future__ import annotations

import re

import pytest
from claims.simulated import ARMS, shard, write_campaign

from flashtrail.claims.campaign import Campaign
from flashtrail.experiment.arms import Cell
from flashtrail.report import chapters, grid, headline

BARE, GUARDED = "wrist_zero_every4", "guard_wrist_zero_every4"
CELL = {"grid": "wrist_grid", "fault": "zero", "view": "wrist", "parameter": "every"}
CELLS = {
    BARE: CELL | {"severity": 4, "guard": "none", "guard_kind": "none"},
    GUARDED: CELL | {"severity": 4, "guard": "perfect", "guard_kind": "oracle"},
    "not_run": CELL | {"severity": 2, "guard": "none", "guard_kind": "none"},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict:
    return write_campaign(tmp_path_factory.mktemp("campaign"), ["clean", BARE, GUARDED])


def rows_of(text: str) -> list[list[str]]:
    body = text.split("<tbody>")[1].split("</tbody>")[0]
    return [
        [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", row)] for row in body.split("</tr>")[:-1]
    ]


def test_a_cell_counts_its_own_episodes_against_the_same_severity_without_a_guard(inputs):
    run = Campaign({**inputs, "grids": CELLS})
    rows = rows_of(grid.table(run, "wrist_grid"))
    for row, arm in zip(rows, (BARE, GUARDED), strict=True):
        episodes = [e for task in (0, 1, 2) for e in shard(arm, task, ARMS[arm][1])["episodes"]]
        assert row[0] == "every 4" and row[2] == f"{sum(e['success'] for e in episodes)}/{len(episodes)}"
    assert rows[0][1] == "no guard" and rows[0][5] == rows[0][6] == "\u2013"
    assert rows[1][1] == "perfect (upper bound)" and "points" in rows[1][5]


def test_the_section_draws_what_was_run_and_says_what_an_oracle_is(inputs):
    text = grid.section(Campaign({**inputs, "grids": CELLS}))
    assert text.count("<figure>") == 1 and "Success by fault, severity and guard" in text
    assert "upper bound" in text and "no robot has" in text


def test_without_a_grid_there_is_no_section(inputs):
    assert grid.section(Campaign(inputs)) == ""
    assert grid.section(Campaign({**inputs, "grids": {"not_run": CELLS["not_run"]}})) == ""


def test_the_headline_and_the_success_figure_leave_the_grid_to_its_own_section(inputs):
    run = Campaign({**inputs, "grids": CELLS})
    assert list(run.plain_summaries) == ["clean"] and len(run.summaries) == 3
    assert "every4" not in headline.section(run).replace("<wbr>", "")
    assert "every4" in chapters.success_table(run).replace("<wbr>", "")


def test_names_are_readable_and_say_the_severity():
    cell = Cell("patch", "occlusion", "both", "size", 0.25, "wrist_mask")
    assert (cell.condition, cell.arm) == ("patch_size0p25", "patch_size0p25_wrist_mask")
