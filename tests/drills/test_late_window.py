"""Commands nine steps late, named from real logs alone: of two policies, and of Lift's scripted expert.

late_window.parquet has what a step log has, on time and late: pi0_nano on libero_goal tasks 0-2, every round full
(reference: initial states 0-4, the others of 5-9); lift_nano (reference: 85-99, the others 0-9) and the expert, one
query a step (reference: 15-24, the others of 0-4), on robosuite_lift task 0. Recorded with the arms full_only and
drill_late_window of config.yaml, and lift_nano, lift_nano_late and the drills of profiles/lift.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flashtrail.drills import bounds, verdicts
from flashtrail.drills.predicates import Episode, features


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Episode]]:
    frame = pq.read_table(Path(__file__).with_name("late_window.parquet")).to_pandas()
    found: dict[str, list[Episode]] = {}
    for (name, _), part in frame.groupby(["run", "episode"], observed=True):
        columns = np.stack(part["action"]).astype(float), part["img_mean"].to_numpy(float), part["reward"]
        found.setdefault(name, []).append(Episode(*columns[:2], columns[2].to_numpy(float)))
    return found


def held(episodes: list[Episode], reference: bounds.Reference) -> tuple[int, int, list[str]]:
    """Return in how many episodes late_window holds, of how many, and what the run is called."""
    rates = verdicts.counts(verdicts.judge(episode, reference.bounds) for episode in episodes)
    return rates["late_window"].k, rates["late_window"].n, verdicts.firing(rates, reference)


@pytest.mark.parametrize("policy", ["pi0_nano", "lift_nano", "expert"])
def test_a_late_run_is_called_late_and_a_clean_one_nothing(runs, policy):
    reference = bounds.derive(runs[f"{policy}_reference"])
    k, n, names = held(runs[f"{policy}_late"], reference)
    assert names[0] == "late_window" and k >= n - 1
    assert held(runs[f"{policy}_clean"], reference) == (0, len(runs[f"{policy}_clean"]), [])


def test_a_policy_is_known_by_its_seams_and_the_expert_by_never_resting(runs):
    assert ("seam" in bounds.derive(runs["pi0_nano_reference"]).bounds) and all(
        not np.isnan(features(episode)["seam"]) for episode in runs["pi0_nano_late"]
    )
    assert "seam" not in bounds.derive(runs["expert_reference"]).bounds
    rest = {name: [features(episode)["rest"] for episode in runs[f"expert_{name}"]] for name in ("clean", "late")}
    assert max(rest["clean"]) < 0.1 and min(rest["late"]) > 0.5


def test_the_expert_never_closes_its_hand_late_and_always_on_time(runs):
    for name, closes in (("clean", True), ("late", False)):
        assert {bool((episode.actions[:, 6] > 0).any()) for episode in runs[f"expert_{name}"]} == {closes}


@pytest.mark.parametrize("policy", ["pi0_nano", "lift_nano", "expert"])
def test_none_of_them_is_called_frozen_and_each_would_be_if_it_were(runs, policy):
    """Clean and late episodes of real logs, and all of them cut short; and with one action at every step."""
    reference = bounds.derive(runs[f"{policy}_reference"])
    clean = [*runs[f"{policy}_reference"], *runs[f"{policy}_clean"]]
    played = clean + runs[f"{policy}_late"]
    played += [Episode(e.actions[:60], e.img_mean[:60], np.zeros(60)) for e in played if len(e.actions) > 60]
    assert {verdicts.judge(e, reference.bounds)["frozen_policy"] for e in played} == {False}
    frozen = [Episode(np.tile(e.actions[:10].mean(0), (300, 1)), np.full(300, np.nan), np.zeros(300)) for e in clean]
    called = {verdicts.cause(verdicts.judge(e, reference.bounds)) for e in frozen}
    assert called == {"frozen_policy"}
