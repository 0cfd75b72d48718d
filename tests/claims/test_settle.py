"""Whose turn it is: the rule by which `flashtrail settle` gives out episodes, and where claims stand."""

from __future__ import annotations

import math
from dataclasses import replace

import calibration
import numpy as np
import pandas as pd
import pytest
from claims.test_claims import HURTS, verdict, write
from pydantic import TypeAdapter

from flashtrail.base import provenance
from flashtrail.claims import claims as types
from flashtrail.claims import settle, settling, verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.settle import Left, Line, Standing

WORDS = {"title": "t", "statement": "s", "scope": "x", "estimand": "e", "refuted_if": "r"}
KINDS = {
    "C1": {"test": "paired_difference", "arm": "a", "control": "b", "margin": 0.1, "direction": "greater"},
    "C2": {"test": "paired_difference", "arm": "a", "control": "b", "margin": 0.1, "direction": "less"},
    "C3": {"test": "non_inferiority", "arm": "a", "control": "b", "margin": 0.1},
    "C4": {"test": "rate_at_least", "arm": "a", "bar": 0.5},
}
LINES = {"arms.a": Line(5, tasks=3), "arms.b": Line(10, tasks=3), "arms.c": Line(5, tasks=3)}


def claim(name: str) -> settle.Tested:
    return TypeAdapter(types.AnyClaim).validate_python({"id": name, **WORDS, **KINDS[name]})


def standing(name: str, *arms: str, further: float = 20.0, n: int = 15, verdict: str = "") -> Standing:
    return Standing(name, tuple(f"arms.{arm}" for arm in arms), n, 1.0, 1.0, 20.0, further, verdict)


def test_the_nearest_claim_is_next_and_its_arms_get_the_same_starts():
    far, near = standing("F", "a", "b", further=60), standing("N", "c", "b", further=12)
    batch = settle.next_batch([far, near], LINES, Left())
    assert batch.claim == "N" and list(batch.sizes) == ["arms.c"]  # b is ahead: it waits
    assert batch.episodes == 3 * (batch.sizes["arms.c"] - 5)
    caught_up = {**LINES, "arms.c": Line(10, tasks=3)}
    batch = settle.next_batch([near], caught_up, Left())
    assert batch.sizes["arms.c"] == batch.sizes["arms.b"] > 10


def test_distance_is_what_it_costs_and_a_tie_goes_to_the_fewer_pairs_then_the_first():
    behind, ahead = standing("B", "a", "c", further=12), standing("A", "a", "b", further=12)
    assert settle.next_batch([behind, ahead], LINES, Left()).claim == "A"  # one arm of it has the starts already
    first, fewer = standing("1", "a", "c"), standing("2", "a", "c", n=12)
    assert settle.next_batch([first, fewer], LINES, Left()).claim == "2"
    assert settle.next_batch([first, standing("3", "a", "c")], LINES, Left()).claim == "1"


def test_a_claim_without_pairs_costs_its_first_and_one_out_of_sight_is_last():
    lines = {**LINES, "arms.d": Line(5, first=20, tasks=3)}
    blind, never = standing("B", "a", "d", further=0, n=0), standing("N", "a", "b", further=math.inf)
    near = standing("1", "a", "b", further=90)
    batch = settle.next_batch([never, near, blind], lines, Left())
    assert batch.claim == "B" and batch.sizes["arms.a"] > 20  # to where the other arm's starts begin, and beyond
    assert settle.next_batch([never, near], lines, Left()).claim == "1"
    assert settle.next_batch([never], lines, Left()).claim == "N"  # all that is left to do


def test_a_claim_ends_by_its_verdict_or_with_its_starts():
    lines = {"arms.a": Line(50), "arms.b": Line(45, first=5)}
    for found, word in ((standing("1", "a", "b"), "out of starts"), (standing("2", "a", verdict="refuted"), "refuted")):
        assert settle.ended(found, lines) == word and settle.next_batch([found], lines, Left()) is None
    assert settle.ended(standing("3", "a"), {"arms.a": Line(49)}) == ""


@pytest.mark.parametrize("left", [Left(episodes=11), Left(episodes=6), Left(seconds=130), Left(seconds=90.1)])
def test_no_batch_exceeds_what_is_left(left):
    batch = settle.next_batch([standing("1", "a", "c", further=900)], LINES, left)
    assert batch is None or (batch.episodes <= left.episodes and batch.seconds <= left.seconds)
    assert (batch is None) == (left.seconds == 90.1)  # one start of both arms takes 120 s
    assert settle.next_batch([standing("1", "a", "c")], LINES, Left(seconds=130), pace=2.0) is None


def test_a_batch_is_worth_half_its_start_and_no_longer_than_ten_minutes():
    cheap = {name: replace(line, seconds=0.5) for name, line in LINES.items()}
    small = settle.next_batch([standing("1", "a", "c", further=1)], cheap, Left())
    assert settle.START_S / 2 <= small.seconds - settle.START_S < settle.START_S
    long = {name: replace(line, seconds=60, episodes=20) for name, line in LINES.items()}
    assert settle.next_batch([standing("1", "a", "c", further=99)], long, Left()).episodes == 6  # one start at least
    grown = {name: replace(line, seconds=10, episodes=20) for name, line in LINES.items()}
    assert 300 < settle.next_batch([standing("1", "a", "c", further=900)], grown, Left()).seconds <= settle.BATCH_S


def test_evidence_is_what_the_verdict_is_made_of():
    """Rule and real judging agree on every claim, whatever the counts."""
    generator, words = np.random.default_rng(0), set()
    file = types.ClaimsFile(version=1, claims=[claim(name) for name in KINDS])
    for _ in range(60):
        n, p, q = int(generator.integers(5, 150)), *generator.uniform(0.05, 0.95, 2)
        won = {"a": generator.random(n) < p, "b": generator.random(n) < q}
        frame = pd.concat([calibration.episodes_table(arm, w).to_pandas() for arm, w in won.items()], ignore_index=True)
        entries = verdicts.judge_all(file, Campaign.of_frames(episodes=frame), plan=False)
        lines = {name: Line(n) for name in ("arms.a", "arms.b")}
        found = settling.standings(file, {"claims": entries}, {"a": "arms.a", "b": "arms.b"}, lines)
        for one, entry in zip(found, entries, strict=True):
            verdict = "supported" if one.support >= 20 else "refuted" if one.refute >= 20 else "inconclusive"
            assert verdict == entry["anytime"]["verdict"], (one, entry["short"])
            assert (one.further == 0 or one.further >= 1) and one.verdict == verdict.replace("inconclusive", "")
            words.add(verdict)
    assert len(words) == 3


def test_a_claim_is_as_far_as_its_effect_is_small():
    strong, weak = (settle.further(claim("C1"), *counts, 20.0) for counts in ((8, 0, 15), (6, 3, 15)))
    assert 1 <= strong < weak
    assert settle.further(claim("C4"), 5, 5, 10, 20.0) == math.inf  # it is where its bar is
    assert settle.further(claim("C1"), 8, 0, 15, 20.0, size=3) > strong


@pytest.mark.parametrize("hits", [0, 5])
def test_a_guard_that_replaced_no_frame_gets_no_plan_but_the_reason(tmp_path, hits):
    inputs = write(tmp_path, {"clean": [False] * 9, "fault": [False] * 9})
    about = {"arm": "fault", "guard": {"hits": hits, "masked": 0, "unhealthy": 273}, "routes": {"draft": 0}}
    provenance.json_dump(about, tmp_path / "fault.json")
    claim = {**HURTS, "direction": "greater"}
    found = verdict(tmp_path, inputs | {"summaries": [str(tmp_path / "fault.json")]}, **claim)
    assert found["verdict"] == "inconclusive" and bool(found["settle"]) == bool(hits) == (not found["open"])
    assert ("replaced none of 273" in found["sentence"]) == (not hits)
