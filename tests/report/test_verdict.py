"""The verdict in a sentence, over runs of every kind: it says what was established, no more, and what is open."""

import itertools
import re

import pytest

from flashtrail.report import verdict
from flashtrail.report.verdict import Arm

EVERY4, ALL = "wrist camera black every 4th round", "wrist camera black in every round"
ARMS = {
    "clean": Arm("clean"),
    "full": Arm("clean", drafts=False),
    "every4": Arm("fault", EVERY4),
    "all": Arm("fault", ALL),
    "guard": Arm("remedy", EVERY4, "guard: last healthy frame"),
    "guard_all": Arm("remedy", ALL, "guard: last healthy frame"),
    "trained": Arm("retrained", EVERY4, "policy other"),
}
VERDICTS = ("supported", "refuted", "inconclusive", "not_tested")


def compared(arm, control, found, k, k_control, n=30, test="paired_difference", needs=46):
    plan = {"n": needs, "unit": "paired episode", "verdict": "supported", "assumption": ""}
    numbers = {"k_arm": k, "k_control": k_control, "n": n, "difference": (k - k_control) / n}
    settle = plan if found == "inconclusive" and needs != "none" else None
    return {"test": test, "verdict": found, "arms": [arm, control], "numbers": numbers, "margin": 0.1, "settle": settle}


def timed(found="supported", ratio=0.4, machine=None, needs=None):
    numbers = {"ratio": {"ratio": ratio}, "machine": machine, "load_at_most": 0.1}
    plan = needs and {"n": needs, "unit": "round a route", "verdict": "supported", "assumption": ""}
    return {"test": "latency_ratio", "verdict": found, "arms": [], "numbers": numbers, "margin": 1.0, "settle": plan}


def rate(k, n, arm="clean", found="supported"):
    numbers = {"rate": {"k": k, "n": n}}
    return {"test": "rate_at_least", "verdict": found, "arms": [arm], "numbers": numbers, "margin": 0.5, "settle": None}


NI = {"test": "non_inferiority"}
CASES = {
    "the whole story": (
        [
            timed(),
            compared("clean", "full", "supported", 27, 28, **NI),
            compared("all", "clean", "supported", 0, 9, 9),
            compared("guard", "every4", "inconclusive", 6, 4),
        ],
        "On this machine FLASH, fallbacks included, answers 2.5 times as fast as full rounds; drafting costs less than "
        "10\u00a0points of success (27/30 against 28/30); a wrist camera black in every round lowers success (0/9 "
        "against 9/9); the guard is undecided: 46\u00a0paired episodes would settle it.",
    ),
    "drafting costs success": (
        [timed(), compared("clean", "full", "refuted", 10, 28, **NI)],
        "On this machine FLASH, fallbacks included, answers 2.5 times as fast as full rounds; drafting costs success "
        "(10/30 against 28/30).",
    ),
    "a fault that only lowers, a remedy that helps": (
        [compared("every4", "clean", "supported", 10, 28), compared("guard", "every4", "supported", 20, 10)],
        "A wrist camera black every 4th round lowers success (10/30 against 28/30); the guard raises success (20/30 "
        "against 10/30).",
    ),
    "a fault that the policy bears, a remedy without use": (
        [compared("every4", "clean", "supported", 27, 28, **NI), compared("trained", "every4", "refuted", 27, 27)],
        "A wrist camera black every 4th round costs less than 10\u00a0points of success (27/30 against 28/30); the "
        "policy other brings less than 10\u00a0points (27/30 against 27/30).",
    ),
    "two claims about one pair are one answer": (
        [compared("every4", "clean", "inconclusive", 10, 28, **NI), compared("every4", "clean", "supported", 10, 28)],
        "A wrist camera black every 4th round lowers success (10/30 against 28/30).",
    ),
    "one guard under two faults": (
        [
            compared("guard", "every4", "supported", 20, 10),
            compared("guard_all", "all", "inconclusive", 0, 0, needs=None),
        ],
        "The guard with a wrist camera black every 4th round raises success (20/30 against 10/30); the guard with a "
        "wrist camera black in every round is undecided: 20,000\u00a0paired episodes would not settle it.",
    ),
    "too much is open to be named": (
        [
            timed("inconclusive", machine={"others": 0.5}),
            compared("clean", "full", "inconclusive", 7, 9, 9, **NI),
            compared("every4", "clean", "inconclusive", 3, 7, 9),
            compared("guard", "every4", "inconclusive", 5, 3, 9),
        ],
        "Whether FLASH is faster is undecided: the machine was busy with other programs while rounds were timed; 3 of "
        "3\u00a0comparisons are undecided.",
    ),
    "rounds only": ([timed()], "On this machine a draft round is 2.5 times as fast as a full one."),
    "drafts that are slower": (
        [timed("refuted", 1.25)],
        "On this machine a draft round is not faster than a full one (0.8 times as fast).",
    ),
    "too few rounds": (
        [timed("inconclusive", needs=300)],
        "Whether FLASH is faster is undecided: 300\u00a0rounds a route would settle it.",
    ),
    "one clean arm": ([rate(27, 30)], "Without a fault 27/30 episodes succeed."),
    "decided by adding episodes": (
        [rate(27, 30), compared("guard", "every4", "inconclusive", 5, 3, 9, needs="none")],
        "Without a fault 27/30 episodes succeed; the guard is undecided: episodes can be added until it is decided.",
    ),
    "a remedy beside the arm without a fault is not said to help": (
        [compared("guard", "clean", "supported", 20, 28), compared("trained", "guard", "refuted", 20, 20)],
        "The policy other brings less than 10\u00a0points (20/30 against 20/30).",
    ),
    "nothing tested": ([compared("guard", "every4", "not_tested", 0, 0), timed("not_tested")], ""),
    "claims about arms that are not here": ([compared("x", "y", "supported", 1, 2), rate(1, 2, "x")], ""),
    "no claim": ([], ""),
}


@pytest.mark.parametrize("name", CASES)
def test_the_sentence_of_a_run(name):
    claims, words = CASES[name]
    drafting = any("clean" in claim["arms"] and "full" in claim["arms"] for claim in claims)
    assert verdict.sentence(claims, ARMS, 2.5 if drafting else None).text.replace(" points", "\u00a0points") == words


def test_a_rate_that_is_open_is_named_with_its_bar():
    plan = {"n": 35, "unit": "episode", "verdict": "supported", "assumption": ""}
    open_ = [rate(9, 12, arm, "inconclusive") | {"settle": plan} for arm in ("clean", "every4", "elsewhere")]
    assert [said.text.replace("\u00a0", " ") for said in verdict.too_few(open_, ARMS)] == [
        "Whether success without a fault reaches 50 %: 9/12; 35 episodes would settle it",
        "Whether success with a wrist camera black every 4th round reaches 50 %: 9/12; 35 episodes would settle it",
    ]


def test_a_comparison_that_episodes_cannot_settle_says_why():
    idle = compared("guard_all", "all", "inconclusive", 0, 0, needs="none") | {"open": "the guard replaced none"}
    (said,) = verdict.too_few([idle], ARMS)
    assert said.text == "The guard: 0/30 against 0/30; the guard replaced none"
    assert verdict.sentence([idle], ARMS).text == "The guard is undecided: the guard replaced none."


def test_imported_rounds_were_not_timed_here():
    said = verdict.sentence([timed()], {}, where="In the imported record")
    assert said.text.startswith("In the imported record a draft round")


PAIRS = [("clean", "full"), ("every4", "clean"), ("all", "clean"), ("guard", "every4"), ("trained", "every4")]


@pytest.mark.parametrize("speed", [*VERDICTS, None])
def test_every_run_gets_a_sentence_that_fits_its_verdicts(speed):
    """All 1,024 combinations of verdicts of five comparisons, under each verdict on speed."""
    for found in itertools.product(VERDICTS, repeat=len(PAIRS)):
        claims = [compared(*pair, word, 5, 9, 9) for pair, word in zip(PAIRS, found, strict=True)]
        claims += [timed(speed)] if speed else []
        said, open_ = verdict.sentence(claims, ARMS, 2.5), verdict.too_few(claims, ARMS)
        counts = re.findall(r"\d+/\d+", said.text)
        assert len(counts) == len(said.arms) and len(open_) == found.count("inconclusive")
        decided = [word for word in found if word in ("supported", "refuted")]
        assert len(counts) == 2 * len(decided)
        tested = {*found, speed} - {"not_tested", None}
        assert bool(said.text) == bool(tested)
        assert not said.text or (said.text[0].isupper() and said.text.endswith(".") and "None" not in said.text)
        undecided = said.text.count("undecided") - (speed == "inconclusive")
        assert undecided == (len(open_) if len(open_) <= 2 else 1)
        assert all("would settle it" in one.text and len(one.arms) == 2 for one in open_)
        assert ("as fast as full rounds" in said.text) == (speed == "supported")


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (
            compared("own", "other", "supported", 55, 40, 60),
            "The policy field is better than vit (55/60 against 40/60).",
        ),
        (
            compared("own", "other", "supported", 55, 56, 60, **NI),
            "The policy field is at most 10\u00a0points worse than vit (55/60 against 56/60).",
        ),
        (
            compared("own", "other", "refuted", 20, 56, 60, **NI),
            "The policy field is worse than vit (20/60 against 56/60).",
        ),
        (
            compared("own", "other", "inconclusive", 55, 56, 60, **NI),
            "Which of field and vit succeeds more often is undecided: 46\u00a0paired episodes would settle it.",
        ),
    ],
)
def test_two_policies_without_a_fault_are_compared_by_name(claim, said):
    arms = {
        "own": Arm("clean", drafts=False, policy="field"),
        "other": Arm("clean", remedy="policy vit", drafts=False, policy="vit"),
    }
    assert verdict.sentence([claim], arms).text == said
    assert bool(verdict.too_few([claim], arms)) == (claim["verdict"] == "inconclusive")
    first = verdict.sentence([rate(55, 60, "own")], arms).text
    assert first == "Without a fault 55/60 episodes of field succeed."
