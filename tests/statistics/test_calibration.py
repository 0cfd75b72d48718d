"""The chain on campaigns with planted effects, in small; in large: python tools/calibration.py."""

import calibration
import calibration_settle as growing
import numpy as np
import pytest
from calibration import Row, Scenario
from scipy import stats

from flashtrail.claims import settle
from flashtrail.statistics import anytime, intervals


@pytest.mark.slow
def test_verdicts_are_as_often_right_as_they_say():
    generator = np.random.default_rng(0)
    scenarios = [calibration.SCENARIOS[i] for i in (0, 3)]
    rows = calibration.paired(150, generator, scenarios) + calibration.rates(100, generator)
    assert [row for row in rows if not row.holds] == [], calibration.text(rows)
    events = {(row.scenario, row.n, row.event): row for row in rows}
    none = events["no effect, 20 % discordant", 30, "a difference is supported, either way"]
    found = events["+10 points", 100, "a gain is supported"]
    assert none.k / none.runs <= calibration.ALPHA
    assert found.k / found.runs == pytest.approx(found.expected, abs=0.12)


def test_files_lead_to_the_verdicts_of_their_counts():
    row = calibration.by_files(2, np.random.default_rng(1))[0]
    assert (row.k, row.runs) == (2, 2) and row.holds


def test_a_chain_that_claims_too_much_is_caught(monkeypatch):
    """McNemar's p made five times too small: 20 % false positives instead of 5."""
    honest = intervals.mcnemar
    monkeypatch.setattr(intervals, "mcnemar", lambda a, b: honest(a, b) / 5)
    rows = calibration.paired(150, np.random.default_rng(2), [Scenario("no effect, even", 100, 0.2, 0.2)])
    assert [row.event for row in rows if not row.holds] == ["a difference is supported, either way"]


def test_a_chain_that_finds_too_little_is_caught(monkeypatch):
    honest = intervals.mcnemar
    monkeypatch.setattr(intervals, "mcnemar", lambda a, b: min(1.0, honest(a, b) * 5))
    rows = calibration.paired(150, np.random.default_rng(3), [Scenario("planted", 100, 0.15, 0.05)])
    assert [row.event for row in rows if not row.holds] == ["a gain is supported"]


def test_families_that_are_settled_together_err_as_seldom_as_one_claim():
    """In small: no false one, the gain found, and what is judged whole ends as the rule says."""
    rows = calibration.settled_families(25, np.random.default_rng(8))
    assert all(row.holds for row in rows) and len(rows) == 5, calibration.text(rows)
    assert rows[3].k == rows[3].runs and rows[0].k + rows[2].k <= 2


def test_latency_and_unpaired_rows_hold():
    generator = np.random.default_rng(4)
    rows = calibration.latencies(10, generator) + calibration.families(10, generator)
    rows += calibration.within_tasks(60, generator)
    assert all(row.holds for row in rows), calibration.text(rows)


def test_a_row_fails_only_beyond_chance():
    assert Row("s", 30, "e", 60, 1000, at_most=0.05).holds and not Row("s", 30, "e", 90, 1000, at_most=0.05).holds
    assert Row("s", 30, "e", 520, 1000, expected=0.5).holds and not Row("s", 30, "e", 600, 1000, expected=0.5).holds
    assert not Row("s", 30, "e", 9, 10, at_least=1.0).holds and Row("s", 30, "e", 10, 10, at_least=1.0).holds


# --- settle: looked at as it grows ---


def test_campaigns_that_settle_ends_are_as_often_right_as_they_say():
    rows = calibration.settled(25, np.random.default_rng(5), tasks=3)
    assert all(row.holds for row in rows), calibration.text(rows)


def looked_at_after_every_start(monkeypatch, campaigns=150):
    monkeypatch.setattr(settle, "BATCH_S", 0.0)  # one init state a batch
    monkeypatch.setattr(growing, "ENTRIES", {"C1": growing.ENTRIES["C1"]})
    return calibration.settled(campaigns, np.random.default_rng(6), tasks=3)


def test_no_number_of_looks_makes_settle_claim_too_much(monkeypatch):
    rows = looked_at_after_every_start(monkeypatch)
    assert all(row.holds for row in rows) and rows[0].k / rows[0].runs <= calibration.ALPHA, calibration.text(rows)


def test_peeking_with_the_fixed_n_test_is_caught(monkeypatch):
    """1/p of exact McNemar, one-sided, in the place of the e-value: right at one look, wrong at fifty."""
    monkeypatch.setattr(anytime, "paired_e", lambda a, b: 1 / (1e-300 + stats.binom.sf(a - 1, a + b, 0.5)))
    rows = looked_at_after_every_start(monkeypatch)
    assert not rows[0].holds and rows[0].event == "supported at any time", calibration.text(rows)
