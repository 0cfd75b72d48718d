"""What is said of drills follows from counts: named, noticed or unseen, told apart or not, after how many episodes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from drills import made
from scipy import stats

from flashtrail.base.errors import UserError
from flashtrail.drills import diagnosis, power
from flashtrail.drills.logs import Logged, Run
from flashtrail.drills.predicates import NAMES, SLACK
from flashtrail.statistics import intervals

REFERENCE = made.reference()


def arm(name: str, toggle: dict, n: int = 15, first: int = 300) -> list[Logged]:
    return [
        Logged(name, f"task {i % 3}", f"init {i // 3}", made.episode(first + i, **({"steps": 70 + 5 * i} | toggle)))
        for i in range(n)
    ]


CLEAN = arm("drill_clean", {}, first=800)


@pytest.fixture(scope="module")
def found() -> dict:
    drills = {name: arm(f"drill_{name}", toggle) for name, toggle in made.DRILLS.items()}
    drills["harmless"] = arm("drill_harmless", {}, first=700)  # changes nothing
    return diagnosis.diagnose(REFERENCE, drills, CLEAN)


@pytest.mark.parametrize("name", made.DRILLS)
def test_a_failure_that_its_log_shows_is_named(found, name):
    assert found["verdicts"][name] == {
        "verdict": "named",
        "run_cause": name,
        "same_name": [],
        "not_told_from": [],
    }
    assert found["matrix"][name][name]["k"] >= 14 and found["enough"][name] == 1


def test_a_drill_that_changes_nothing_is_reported_as_unseen_by_computation(found):
    entry = found["verdicts"]["harmless"]
    assert entry["verdict"] == "unseen" and entry["not_told_from"] == ["clean"] and entry["run_cause"] is None


def test_two_failures_with_one_log_are_not_told_apart_and_neither_is_named():
    """Another prompt and a late answer may look alike: both fail with healthy motion."""
    drills = {
        "late_answer": arm("a", made.FAILURES["unexplained"]),
        "bad_prompt": arm("b", made.FAILURES["unexplained"], first=400),
    }
    verdicts = diagnosis.diagnose(REFERENCE, drills, CLEAN)["verdicts"]
    assert {name: v["verdict"] for name, v in verdicts.items()} == {"late_answer": "noticed", "bad_prompt": "noticed"}
    entry = verdicts["late_answer"]
    assert entry["same_name"] == entry["not_told_from"] == ["bad_prompt"] and entry["run_cause"] == "unexplained"


def test_false_alarms_are_counted_on_episodes_that_the_bounds_do_not_come_from(found):
    alarms = found["false_alarms"]
    flagged = sum(any(row["flags"].values()) for row in found["episodes"]["clean"])
    assert (alarms["any"]["k"], alarms["any"]["n"]) == (flagged, 15) and alarms["run"]["cause"] is None
    rate = intervals.rate(flagged, 15)
    assert alarms["any"]["wilson"]["high"] == rate.wilson.high and alarms["any"]["exact"]["high"] == rate.exact.high
    assert alarms["by_predicate"]["bad_unnorm"]["promised_at_most"] == pytest.approx(1 / 16)
    assert alarms["by_predicate"]["swapped_cameras"]["promised_at_most"] == pytest.approx(1 / 16)
    assert alarms["by_predicate"]["unexplained"]["promised_at_most"] is None


def test_another_slack_is_shown_and_decides_nothing(found):
    """With more slack no predicate with a bound holds in more episodes, clean or not; the page's own is among them."""
    shown = {entry["slack"]: entry for entry in found["slack"]}
    assert list(shown) == sorted(diagnosis.SLACKS) and SLACK in shown
    assert shown[SLACK]["clean"]["k"] == found["false_alarms"]["any_bound"]["k"]
    for name in ("bad_unnorm", "bad_prompt", "swapped_cameras"):
        held = [shown[slack]["drills"][name]["k"] for slack in sorted(shown)]
        assert held == sorted(held, reverse=True)
        assert shown[SLACK]["drills"][name]["k"] == found["matrix"][name][name]["k"]
    clean = [shown[slack]["clean"]["k"] for slack in sorted(shown)]
    assert clean == sorted(clean, reverse=True)


def test_success_is_paired_with_the_same_starts_of_the_clean_run(found):
    entry = found["success"]["no_flip"]
    assert (entry["k"], entry["n"]) == (0, 15) and entry["paired"]["k_clean"] == 15
    assert entry["paired"]["difference"] == -1 and found["success"]["clean"]["paired"] is None


def test_arms_are_told_by_their_names_and_a_clean_one_must_be_there():
    runs = [Run(CLEAN), Run(arm("drill_long_chunk", made.FAILURES["long_chunk"]))]
    assert list(diagnosis.of_runs(REFERENCE, runs)["verdicts"]) == ["long_chunk"]
    with pytest.raises(UserError, match="no clean run among long_chunk"):
        diagnosis.of_runs(REFERENCE, runs[1:])


def test_labels_of_drills_do_not_reach_the_flags():
    """The same episodes called by each other's names: the flags go with the episodes, not with the names."""
    one, other = arm("a", made.FAILURES["bad_unnorm"]), arm("b", made.FAILURES["stale_frame"])
    right = diagnosis.diagnose(REFERENCE, {"bad_unnorm": one, "stale_frame": other}, CLEAN)
    wrong = diagnosis.diagnose(REFERENCE, {"bad_unnorm": other, "stale_frame": one}, CLEAN)
    assert [e["flags"] for e in right["episodes"]["bad_unnorm"]] == [
        e["flags"] for e in wrong["episodes"]["stale_frame"]
    ]
    assert wrong["verdicts"]["bad_unnorm"]["verdict"] == "noticed"
    assert wrong["verdicts"]["bad_unnorm"]["run_cause"] == "stale_frame"


# --- power ---


def flags(held: int, n: int, name: str = "bad_unnorm") -> list[dict]:
    return [dict.fromkeys(NAMES, False) | {name: i < held} for i in range(n)]


def test_power_is_that_of_a_majority_of_independent_draws():
    found = power.curve(flags(8, 10), ["t"] * 10, "bad_unnorm", REFERENCE)
    for entry in found:
        assert entry.named == pytest.approx(stats.binom.sf(entry.m // 2, entry.m, 0.8), abs=0.03)
        assert entry.named == entry.any


def test_power_rises_with_the_run_where_most_episodes_show_it_and_falls_where_few_do():
    often = [e.named for e in power.curve(flags(11, 15), ["t"] * 15, "bad_unnorm", REFERENCE)]
    seldom = [e.named for e in power.curve(flags(4, 15), ["t"] * 15, "bad_unnorm", REFERENCE)]
    assert all(a < b for a, b in pairwise(often)) and all(a > b for a, b in pairwise(seldom))


def test_tasks_are_drawn_alike_however_many_episodes_each_has():
    """One task always shows it and has one episode; the other never does and has nine."""
    (entry,) = power.curve(flags(1, 10), ["a"] + ["b"] * 9, "bad_unnorm", REFERENCE, lengths=(1,))
    assert entry.named == pytest.approx(0.5, abs=0.03)


def test_the_first_predicate_in_order_names_a_run():
    both = [dict.fromkeys(NAMES, False) | {"swapped_cameras": True, "bad_unnorm": True}] * 5
    assert power.curve(both, ["t"] * 5, "bad_unnorm", REFERENCE, lengths=(3,))[0].named == 0
    assert power.curve(both, ["t"] * 5, "swapped_cameras", REFERENCE, lengths=(3,))[0].named == 1


def test_what_cannot_be_judged_is_no_majority():
    blind = [dict.fromkeys(NAMES, False) | {"long_chunk": None}] * 5
    (entry,) = power.curve(blind, ["t"] * 5, None, REFERENCE, lengths=(5,))
    assert entry.named == 1 and entry.any == 0


def test_an_interval_stands_around_its_estimate_and_is_left_out_where_all_agree():
    mixed = power.curve(flags(10, 15), ["a", "b", "c"] * 5, "bad_unnorm", REFERENCE)
    for entry in mixed:
        assert entry.named_interval.low <= entry.named <= entry.named_interval.high
    (same,) = power.curve(flags(15, 15), ["a", "b", "c"] * 5, "bad_unnorm", REFERENCE, lengths=(5,))
    assert same.named == 1 and same.named_interval is None


def test_enough_is_the_length_from_which_on_no_longer_run_falls_below():
    shares = zip((1, 3, 5, 7), (0.9, 0.7, 0.85, 0.9), strict=True)
    entries = [power.Power(m, share, None, share, None) for m, share in shares]
    assert power.enough(entries) == 5
    assert power.enough(entries[:2]) is None and power.enough([]) is None


def test_the_same_episodes_give_the_same_curve():
    one, other = (power.curve(flags(9, 15), ["a", "b", "c"] * 5, "bad_unnorm", REFERENCE) for _ in range(2))
    assert one == other and np.isfinite(one[0].named)
