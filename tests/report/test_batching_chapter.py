"""Rounds alone and batched stand apart, counted and timed from their own rows; the profile is said to run alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from claims.simulated import METADATA, write_campaign

from flashtrail.base import provenance
from flashtrail.claims import summaries
from flashtrail.claims.campaign import Campaign
from flashtrail.report import batching, chapters
from flashtrail.tables import schemas


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict:
    """Two arms; in one, every second round shared its pass with two others and took three times as long."""
    root = tmp_path_factory.mktemp("campaign")
    found = write_campaign(root, ["clean", "full_only"], episodes=3)
    path = root / "tables" / "clean" / "rounds.parquet"
    rows = schemas.read_table(path, schemas.ROUNDS).to_pylist()
    for row in rows[::2]:
        row |= {"batch_size": 3, "policy_ms": 3 * row["policy_ms"]}
    schemas.write_table(path, rows, schemas.ROUNDS, METADATA)
    summary = summaries.summarize_arm(path.with_name("episodes.parquet"), path)
    provenance.json_dump(summary, root / "summaries" / "clean.json")
    return found


def test_batched_rounds_are_shown_beside_those_alone(inputs):
    run = Campaign(inputs)
    rounds = run.of_arm("rounds", "clean")
    soup = BeautifulSoup(batching.section(run), "html.parser")
    text = soup.get_text().replace("\u00a0", " ")
    shared, everything = int((rounds["batch_size"] > 1).sum()), len(run.rounds)
    assert "The profile runs alone: one session" in text and f"{shared:,} of {everything:,} rounds" in text
    rows = {}
    for line in soup.find("tbody").find_all("tr"):
        cells = {cell["data-head"]: cell.get_text() for cell in line.find_all("td")}
        rows[cells["Arm"], cells["Route"]] = cells
    assert sorted(rows) == [("clean", "draft"), ("clean", "full")]  # the other arm had none
    for (_, route), cells in rows.items():
        part = rounds[rounds["route"] == route]
        for label, chosen in (("Rollouts, alone", part["batch_size"] == 1), ("Batched", part["batch_size"] == 3)):
            times = part.loc[chosen, "policy_ms"]
            assert cells[f"{label}: rounds (episodes)"].startswith(f"{len(times):,} (")
            assert float(cells[f"{label}: p50 [95 %]"].split(" ")[0]) == pytest.approx(np.median(times), rel=0.01)
            assert "[" in cells[f"{label}: p50 [95 %]"]
        assert cells["Rounds a pass, mean"] == "3.0"
        profiled = run.profile.loc[run.profile["route"] == route, "policy_ms"]
        assert cells["Profile, alone: p50 [95 %] (n)"].endswith(f"({len(profiled)})")


def test_the_rollouts_percentiles_say_that_batched_ones_are_among_them(inputs):
    assert "shared a pass with others are among them (clean)" in chapters.latency_in_rollouts(Campaign(inputs))


def test_without_batched_rounds_the_chapter_says_so(tmp_path: Path):
    run = Campaign(write_campaign(tmp_path, ["clean"], episodes=1))
    text = batching.section(run).replace("\u00a0", " ")
    assert f"So did all {len(run.rounds)} rounds of the rollouts" in text and "<table" not in text
    assert "shared a pass" not in chapters.latency_in_rollouts(run)


def test_a_record_that_does_not_say_is_not_taken_for_alone(tmp_path: Path):
    run = Campaign(write_campaign(tmp_path, ["clean"], episodes=1))
    run.rounds["batch_size"] = None
    assert "do not say how many rounds shared a pass" in batching.section(run)
