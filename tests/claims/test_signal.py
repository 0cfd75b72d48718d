"""The signal analysis on campaigns whose answer is planted: a signal, none, a verifier that sees and a blind one."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from flashtrail.claims import claims, signal, signal_verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.judgement import NotTested
from flashtrail.report import signal_chapter
from flashtrail.statistics import discrimination
from flashtrail.tables import schemas

ROUNDS = 12


def campaign(prefix, *, episodes=60, hit=None, seed=0):
    """Return frames of one arm and two tasks; `prefix(failed, hit, generator)` draws a round's accepted prefix."""
    generator = np.random.default_rng(seed)
    ends, rounds = [], []
    for number in range(episodes):
        key = {"arm": "clean", "suite": "s", "task_id": number % 2, "init_state": number // 2, "repeat": 0}
        failed = bool(generator.random() < 0.5)
        steps = 300 if failed else int(generator.integers(140, 160))
        ends.append(
            {**key, "policy": "p", "success": not failed, "outcome": "horizon" if failed else "success"}
            | {"steps": steps, "draft_rounds": ROUNDS, "interventions": None}
        )
        for index in range(steps // 12):
            broken = bool(hit and index % hit == 0)
            accepted = float(prefix(failed, broken, generator)) if index else 12.0
            rounds.append(
                {**key, "round": index, "env_step": 12 * index, "route": "draft" if index else "full"}
                | {"accepted_prefix": accepted, "radius": 0.5 - accepted / 40 if index else None}
                | {"fallback_cause": None if index else "first", "condition_applied": broken}
                | {"replaced": None, "health_std": None, **dict.fromkeys(schemas.DOUBT)}
            )
    return pd.DataFrame(ends), pd.DataFrame(rounds)


def whole_window(found, name="accepted_prefix"):
    rows = [r for r in found["outcome"] if (r["signal"], r["unit"]) == (name, "episode")]
    return next(r for r in rows if r["before_step"] == found["window"])


def test_auroc_is_mann_whitney_and_counts_ties_half():
    generator = np.random.default_rng(0)
    score, positive = generator.integers(0, 5, 80), generator.random(80) < 0.4
    found = discrimination.auroc(score, positive, np.arange(80), np.zeros(80))
    pairs = positive.sum() * (~positive).sum()
    assert found.value == pytest.approx(stats.mannwhitneyu(score[positive], score[~positive]).statistic / pairs)
    by_hand = np.mean([(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]])
    assert found.value == pytest.approx(by_hand)
    assert found.interval.low < found.value < found.interval.high


def test_a_hard_task_is_no_warning():
    """Score and failure both follow the task and nothing else: pooled it would look like a signal."""
    generator = np.random.default_rng(1)
    task = np.repeat([0, 1], 100)
    failed = generator.random(200) < np.where(task, 0.8, 0.2)
    score = task * 3 + generator.normal(0, 1, 200)
    within = discrimination.auroc(score, failed, np.arange(200), task)
    pooled = discrimination.auroc(score, failed, np.arange(200), np.zeros(200))
    assert within.says == "open" and pooled.says == "above"


def test_alike_rounds_do_not_narrow_the_interval():
    generator = np.random.default_rng(2)
    score, failed = generator.normal(0, 1, 30), generator.random(30) < 0.5
    once = discrimination.auroc(score, failed, np.arange(30), np.zeros(30))
    often = discrimination.auroc(
        np.repeat(score, 20), np.repeat(failed, 20), np.repeat(np.arange(30), 20), np.zeros(600)
    )
    assert often.value == pytest.approx(once.value)
    assert (often.interval.low, often.interval.high) == pytest.approx((once.interval.low, once.interval.high))


def test_a_planted_signal_is_found_and_warns_early(monkeypatch):
    ends, rounds = campaign(lambda failed, hit, g: g.choice([0, 12], p=[0.7, 0.3] if failed else [0.1, 0.9]))
    found = signal.analyse(ends, rounds)
    assert whole_window(found)["says"] == "above" and whole_window(found)["value"] > 0.9
    assert found["signals"] == ["accepted_prefix", "radius", "rejected", "gripper", "zero_accept"]
    alarm = found["alarms"][0]
    assert alarm["signal"] == "accepted_prefix" and found["printed"] == []
    assert alarm["failed"]["wilson"]["low"] > alarm["successful"]["wilson"]["high"]
    assert alarm["lead_steps"][1] > 300 - found["window"]
    assert "more often in failed episodes" in signal_chapter.alarm_words(found["alarms"], found["window"])
    assert found["reliability"]["brier"]["signal"] < found["reliability"]["brier"]["arm_and_task"]
    assert "point to failure" in signal_chapter.outcome_words(found)
    monkeypatch.setattr(signal, "of_run", lambda run: found)
    made = {table.name: table for table in signal_chapter.section(Campaign({})).tables}
    row = made["alarms"].rows[0]
    for end in ("failed", "successful"):
        assert str(row[end]).startswith(f"{alarm[end]['k']}/{alarm[end]['n']} (")


def test_no_signal_is_found_where_there_is_none():
    """A failed episode shows three times the rounds of a successful one; that alone must not look like a signal."""
    ends, rounds = campaign(lambda failed, hit, g: g.choice([0, 12], p=[0.3, 0.7]))
    found = signal.analyse(ends, rounds)
    assert whole_window(found)["says"] == "open" and "do not tell" in signal_chapter.outcome_words(found)
    assert "in no more failed" in signal_chapter.alarm_words(found["alarms"], found["window"])
    assert found["reliability"]["brier"]["signal"] > found["reliability"]["brier"]["share_alone"] - 0.01


def test_a_policy_without_drafts_has_signals_of_its_own():
    """Two of them planted: the spread is larger where the episode fails, the overlap is noise; no draft's signal."""
    generator = np.random.default_rng(5)
    ends, rounds = campaign(lambda failed, hit, g: 12)
    ends["draft_rounds"], rounds["route"], rounds["radius"] = 0, "full", None
    key = ["arm", "task_id", "init_state"]
    failed = rounds.merge(ends[[*key, "success"]], on=key)["success"].to_numpy() == 0
    rounds["sample_spread"] = np.where(failed, 0.9, 0.5) + generator.normal(0, 0.15, len(rounds))
    rounds["overlap"] = generator.normal(0.2, 0.05, len(rounds))
    found = signal.analyse(ends, rounds)
    assert found["draft_rounds"] == 0 and found["signals"] == ["overlap", "sample_spread"]
    assert whole_window(found, "sample_spread")["says"] == "above" and whole_window(found, "overlap")["says"] == "open"
    (rule,) = found["printed"]
    paused = rounds["sample_spread"] >= 1
    assert (rule["rounds"]["k"], rule["rounds"]["n"]) == (paused.sum(), len(rounds)) and rule["rounds"]["k"] > 0
    assert rule["failed"]["n"] == (~ends["success"]).sum()


class Run:
    """A campaign of two frames."""

    control, metadata = None, {}

    def __init__(self, ends, rounds):
        self.episodes, self.rounds = ends, rounds

    def judged(self, arm):
        return self.episodes[self.episodes["arm"] == arm]


def claim(above, signal="accepted_prefix"):
    words = dict.fromkeys(("title", "statement", "scope", "refuted_if", "estimand"), "-")
    return claims.SignalClaim(id="S1", test="signal_auroc", signal=signal, above=above, **words)


def test_a_claim_about_a_signal():
    tells = Run(*campaign(lambda failed, hit, g: g.choice([0, 12], p=[0.7, 0.3] if failed else [0.1, 0.9])))
    silent = Run(*campaign(lambda failed, hit, g: g.choice([0, 12])))
    judged = [signal_verdicts.judge_signal(claim(bar), run, 0.05) for run in (tells, silent) for bar in (0.5, 0.8)]
    assert [one.verdict for one in judged] == ["supported", "supported", "inconclusive", "refuted"]
    assert "31 of 56" in judged[0].sentence and judged[0].numbers["low"] > 0.8
    with pytest.raises(NotTested, match="no round has the signal novelty"):
        signal_verdicts.judge_signal(claim(0.5, "novelty"), tells, 0.05)
    with pytest.raises(ValueError, match=r"unknown signal .noveltie.*novelty"):
        claim(0.5, "noveltie")


def test_an_arm_with_hand_overs_is_left_out_and_one_that_always_fails_sets_off_no_alarm():
    """Its helper changed how it ended; and where all fail, a high signal tells none of them apart."""
    prefix = lambda failed, hit, g: g.choice([0, 12], p=[0.7, 0.3] if failed else [0.1, 0.9])  # noqa: E731
    ends, rounds = campaign(prefix)
    found = signal.analyse(ends, rounds)
    helped, lost = ((ends.assign(arm=arm), rounds.assign(arm=arm)) for arm in ("helped", "lost"))
    helped[0]["interventions"] = 1
    lost[0]["success"], lost[1]["accepted_prefix"] = False, 0.0
    both = [pd.concat(frames) for frames in zip((ends, rounds), helped, lost, strict=True)]
    with_all = signal.analyse(*both)
    assert whole_window(with_all) == whole_window(found)
    assert with_all["alarms"][0] == found["alarms"][0]


def test_a_verifier_that_sees_the_dead_camera_and_one_that_does_not():
    seeing = campaign(lambda failed, hit, g: g.choice([0, 12], p=[0.8, 0.2] if hit else [0.2, 0.8]), hit=4)
    blind = campaign(lambda failed, hit, g: g.choice([0, 12], p=[0.3, 0.7]), hit=4, seed=1)
    sees, misses = (signal.analyse(*frames)["camera"] for frames in (seeing, blind))
    assert sees[0]["signal"] == "accepted_prefix" and sees[0]["says"] == "above" and misses[0]["says"] == "open"
    assert sees[0]["means"]["broken"] < sees[0]["means"]["whole"]
    assert "point to the broken view" in signal_chapter.camera_words(sees)
    assert "do not tell" in signal_chapter.camera_words(misses)


def test_acceptance_stands_beside_its_control():
    ends, rounds = campaign(lambda failed, hit, g: 12)
    control = {"policy": "p", "tau": 0.3, "queries": 50, "share_within_tau": 0.62, "median_distance": 0.25}
    row = signal.analyse(ends, rounds, control)["acceptance"][0]
    assert (row["control"]["k"], row["control"]["n"]) == (31, 50) and row["within"] == row["draft_rounds"]
    assert "more often than the full route would accept itself" in signal_chapter.acceptance_words([row])
    other = signal.analyse(ends, rounds, {**control, "policy": "q"})["acceptance"][0]
    assert other["control"] is None and "was not measured" in signal_chapter.acceptance_words([other])


def test_cross_fitting_learns_on_the_others_only():
    """An event that only one fold has is never predicted from that fold itself."""
    fold = np.repeat([0, 1], 30)
    found = discrimination.cross_fitted(np.tile(np.arange(30), 2), fold == 1, fold)
    assert (found[fold == 1] < 0.2).all() and (found[fold == 0] > 0.8).all()


def test_rounds_without_a_step_still_have_their_acceptance():
    ends, rounds = campaign(lambda failed, hit, g: 12)
    found = signal.analyse(ends, rounds.assign(env_step=np.nan))
    assert found["window"] is None and len(found["acceptance"]) == 1 and "outcome" not in found
    unknown = signal.analyse(ends, rounds.assign(condition_applied=None))
    assert unknown["camera"] == [] and unknown["outcome"]
