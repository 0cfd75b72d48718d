"""Contact sheets of a report: which are shown, and that a page stays small whatever was filmed."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pandas as pd
import pytest
from claims.simulated import METADATA, SUITE, write_campaign

from flashtrail.claims.campaign import Campaign
from flashtrail.report import overview, rendering, sheets
from flashtrail.tables import schemas


def row(arm, task, init_state, outcome, size=100):
    key = {"arm": arm, "suite": SUITE, "task_id": task, "init_state": init_state, "repeat": 0}
    return key | {"outcome": outcome, "jpeg": np.random.default_rng(init_state).bytes(size)}


ROWS = [
    *(row("clean", task, init, "horizon" if init else "success") for task in (0, 1) for init in range(4)),
    *(row("wrist_zero_all", task, init, "horizon") for task in (0, 1) for init in range(4)),
]


def keys(found):
    return [(r.arm, r.task_id, r.init_state) for r in found.itertuples()]


def test_each_arm_and_task_gets_a_failure_before_any_gets_two():
    assert keys(sheets.chosen(pd.DataFrame(ROWS), 400)) == [
        ("clean", 0, 1),
        ("clean", 1, 1),
        ("wrist_zero_all", 0, 0),
        ("wrist_zero_all", 1, 0),
    ]
    six = sheets.chosen(pd.DataFrame(ROWS), 600)
    assert list(six["outcome"]).count("success") == 2 and len(six) == 6
    assert len(sheets.chosen(pd.DataFrame(ROWS), 10**6)) == len(ROWS)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_campaign(tmp_path_factory.mktemp("campaign"), ["clean", "wrist_zero_all"], episodes=2)


def test_a_page_shows_them_within_its_bytes_and_loads_nothing(inputs, tmp_path):
    big = [r | {"jpeg": np.random.default_rng(i).bytes(300_000)} for i, r in enumerate(ROWS)]
    schemas.write_table(tmp_path / "sheets.parquet", big, schemas.SHEETS, METADATA)
    run = Campaign({**inputs, "sheets": [str(tmp_path / "sheets.parquet")]})
    text = sheets.section(run)
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    assert len(pictures) == 6 and len(text) < 2.5e6
    assert "6\u00a0episodes of 16" in text and "Contact sheets of wrist_zero_all: 2 failed, 0 succeeded" in text
    assert {base64.b64decode(p) for p in pictures} <= {r["jpeg"] for r in big}
    assert rendering.external_references(text) == []


def test_nothing_filmed_is_nothing_shown(inputs):
    assert sheets.section(Campaign(inputs)) == ""


def test_an_oracle_is_named_as_a_bound_wherever_its_arm_stands():
    summary = {"metadata": {"guard": json.dumps({"kind": "oracle", "name": "perfect"})}}
    assert "upper bound" in overview.arm_name("x", summary)
    for metadata in ({}, {"guard": ""}, {"guard": json.dumps({"kind": "wrist_mask"})}):
        assert "upper bound" not in overview.arm_name("x", {"metadata": metadata})
