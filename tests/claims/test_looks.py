"""Looks at a comparison are kept, and a verdict rests on the fixed-n test only where n was the same at every look."""

import json
from pathlib import Path

import pytest
from claims.simulated import METADATA
from claims.test_claims import HURTS, episodes, verdict, write_claims

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import looks, verdicts
from flashtrail.statistics import anytime
from flashtrail.tables import schemas


def write(root: Path, arms: dict[str, list[bool]], **about: str) -> dict:
    """Write the arms' episodes, and where their looks are kept."""
    files = []
    for arm, outcomes in arms.items():
        files.append(str(root / "tables" / arm / "episodes.parquet"))
        schemas.write_table(files[-1], episodes(arm, "pi0_nano", outcomes), schemas.EPISODES, METADATA | about)
    return {"episodes": files, "arms": list(arms), "looks": str(root / looks.FILE)}


def look(root: Path, lost: int, n: int, asked: str = "report", about: dict | None = None, **claim: object) -> dict:
    """Look once at a fault that lost `lost` of n episodes; return the claim as judged, the look kept."""
    inputs = write(root, {"clean": [True] * n, "fault": [False] * lost + [True] * (n - lost)}, **(about or {}))
    inputs["asked"] = asked
    found = verdicts.evaluate(write_claims(root, **{**HURTS, **claim}), inputs)["claims"]
    looks.append(inputs["looks"], found, asked, {"clean": n, "fault": n})
    again = verdicts.evaluate(root / "claims.yaml", inputs)["claims"]
    assert json.dumps(again, default=str) == json.dumps(found, default=str), "the look itself changes no verdict"
    return found[0]


def kept(root: Path) -> list[dict]:
    return looks.read(root / looks.FILE)


def test_a_verdict_after_looks_at_two_n_rests_on_the_anytime_valid_test(tmp_path):
    """6 against 0 discordant pairs: p = 0.031 would do, were it not the second look; e = 11 of 20 does not. 7 do."""
    first = look(tmp_path, 2, 6)
    assert first["verdict"] == "inconclusive" and first["anytime"]["rests_on"] == "fixed-n"
    second = look(tmp_path, 6, 12)
    assert second["p"] < 0.05 and second["verdict"] == "inconclusive"
    assert "rests on the anytime-valid test: there were looks at n = 6 and 12." in second["sentence"]
    assert "Anytime-valid: e = 11 (needs 20), 95 % sequence [\u2212".replace(" %", "\u00a0%") in second["sentence"]
    third = look(tmp_path, 7, 14)
    assert third["verdict"] == "supported" and third["anytime"]["looks"] == [6, 12, 14]
    assert third["anytime"]["e"] == pytest.approx(anytime.paired_e(0, 7))
    assert [(r["n"], r["asked"], r["rests_on"], r["verdict"]) for r in kept(tmp_path)] == [
        (6, "report", "fixed-n", "inconclusive"),
        (12, "report", "anytime", "inconclusive"),
        (14, "report", "anytime", "supported"),
    ]
    last = kept(tmp_path)[-1]
    assert last["claim"] == "C7" and (last["arm"], last["control"]) == ("fault", "clean") and last["n_planned"] == 14
    assert (last["k_arm"], last["k_control"], last["wins"], last["losses"]) == (7, 14, 0, 7)
    assert last["e"] == third["anytime"]["e"] and last["p"] == third["p"]


def test_the_same_look_again_is_no_look(tmp_path):
    assert look(tmp_path, 6, 12)["verdict"] == "supported"
    assert look(tmp_path, 6, 12)["verdict"] == "supported" and len(kept(tmp_path)) == 1
    assert look(tmp_path, 6, 12, title="said otherwise", estimand="in other words")["anytime"]["looks"] == [12]


def test_other_outcomes_at_the_same_n_are_a_second_chance(tmp_path):
    """Episodes run again until the test rejects: n was the same at every look, and yet nothing was fixed."""
    assert look(tmp_path, 2, 12)["anytime"]["rests_on"] == "fixed-n"
    again = look(tmp_path, 6, 12)
    assert again["p"] < 0.05 and again["verdict"] == "inconclusive" and again["anytime"]["looks"] == [12, 12]
    assert "looks at n = 12; at one n episodes were run again with other outcomes" in again["sentence"]


def test_what_settle_looked_at_rests_on_the_anytime_valid_test_even_if_it_was_never_grown(tmp_path):
    """Whether it was grown depended on what was seen: with p at the only n, else e, it would err twice as often."""
    assert look(tmp_path, 6, 12)["verdict"] == "supported"
    settled = look(tmp_path, 6, 12, asked="settle")
    assert settled["verdict"] == "inconclusive" and settled["anytime"]["looks"] == [12] and not settled["settle"]
    assert "looks at n = 12, by a loop that adds episodes (settle)." in settled["sentence"]
    assert look(tmp_path, 6, 12)["verdict"] == "inconclusive", "a report afterwards does not undo it"


def test_a_record_that_is_gone_is_an_error_and_never_begun_afresh(tmp_path):
    look(tmp_path, 2, 6)
    (tmp_path / looks.FILE).unlink()
    with pytest.raises(UserError, match=r"it was written and is gone.*put back the copy .* remove it and .looks.parq"):
        look(tmp_path, 6, 12)
    (tmp_path / looks.FILE).with_name(".looks.parquet.lock").unlink()
    assert look(tmp_path, 6, 12)["anytime"]["rests_on"] == "fixed-n"


@pytest.mark.parametrize("change", [{"about": {"config_digest": "other"}}, {"about": {"artifact_digest": "other"}}])
def test_another_comparison_has_its_own_looks(tmp_path, change):
    look(tmp_path, 2, 6)
    assert look(tmp_path, 6, 12, **change)["anytime"]["looks"] == [12]


@pytest.mark.parametrize("change", [{"margin": 0.2}, {"direction": "greater"}, {"id": "C8"}, {"family": "f"}])
def test_editing_a_claim_after_a_look_does_not_make_n_fixed_again(tmp_path, change):
    look(tmp_path, 2, 6)
    assert look(tmp_path, 6, 12, **change)["anytime"]["looks"] == [6, 12]


def test_a_first_verdict_is_that_of_the_fixed_n_test(tmp_path):
    """Without a record, and with one that is begun: the same words as ever."""
    arms = {"clean": [True] * 12, "fault": [False] * 6 + [True] * 6}
    plain = {key: value for key, value in write(tmp_path, arms).items() if key != "looks"}
    assert verdict(tmp_path, plain, **HURTS) == look(tmp_path, 6, 12)


CASES = {
    "rate above": (
        {"test": "rate_at_least", "arm": "clean", "bar": 0.5},
        [True] * 6,
        None,
        "supported",
        "inconclusive",
    ),
    "rate below": ({"test": "rate_at_least", "arm": "clean", "bar": 0.5}, [False] * 30, None, "refuted", "refuted"),
    "no effect": (HURTS, [True, False] * 30, [True, False] * 30, "refuted", "refuted"),
    "few": (HURTS, [True, False] * 20, [True, False] * 20, "refuted", "inconclusive"),
    "not worse": (
        {"test": "non_inferiority", "arm": "fault", "control": "clean", "margin": 0.1},
        *([True] * 50, [True] * 50, "supported", "supported"),
    ),
    "perhaps not worse": (
        {"test": "non_inferiority", "arm": "fault", "control": "clean", "margin": 0.1},
        *([True] * 40, [True] * 40, "supported", "inconclusive"),
    ),
    "worse": (
        {"test": "non_inferiority", "arm": "fault", "control": "clean", "margin": 0.1},
        *([True] * 40, [False] * 30 + [True] * 10, "refuted", "refuted"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_both_tests_decide_by_one_rule(tmp_path, case):
    """The anytime-valid one needs more, never decides the other way, and is the verdict once n has changed."""
    claim, clean, fault, fixed, at_any_time = CASES[case]
    if case.startswith("few"):
        clean, fault = clean[:36], fault[:36]
    arms = {"clean": clean} | ({"fault": fault} if fault else {})
    inputs = write(tmp_path, arms)
    first = verdict(tmp_path, inputs, **claim)
    assert (first["verdict"], first["anytime"]["verdict"]) == (fixed, at_any_time)
    earlier = {**looks.of_claim(first), "n": 3, "at": "2026-01-01T00:00:00+00:00", "asked": "report"}
    schemas.write_table(inputs["looks"], [earlier], schemas.LOOKS)
    second = verdict(tmp_path, inputs, **claim)
    assert second["verdict"] == at_any_time and second["anytime"]["rests_on"] == "anytime"


def test_independent_arms_have_an_e_value_within_tasks(tmp_path):
    """Other seeds, so no pairs: supported by e; nothing refutes it at any time, and the words say no sequence."""
    rows = {arm: episodes(arm, "pi0_nano", [arm == "clean"] * 12) for arm in ("clean", "fault")}
    rows["fault"] = [{**row, "seed": 8} for row in rows["fault"]]
    files = []
    for arm, own in rows.items():
        files.append(str(tmp_path / f"{arm}.parquet"))
        schemas.write_table(files[-1], own, schemas.EPISODES, METADATA)
    found = verdict(tmp_path, {"episodes": files}, **{**HURTS, "test": "unpaired_difference"})
    assert found["verdict"] == found["anytime"]["verdict"] == "supported"
    assert found["anytime"]["e"] == pytest.approx(anytime.unpaired_e([(0, 12, 12, 12)]))
    assert "sequence" not in verdicts.anytime_words(found["anytime"])


def test_a_family_is_held_to_holm_by_its_e_values(tmp_path):
    """7 : 0 has e = 20.1: enough where Holm's other members are rejected before, not where one is still open.

    A member whose n was fixed keeps its p.
    """
    arms = {"clean": [True] * 20} | {f"lost{k}": [False] * k + [True] * (20 - k) for k in (7, 10)}
    inputs = write(tmp_path, arms | {"alike": arms["lost7"]})
    common = {"title": "t", "statement": "s", "scope": "x", "refuted_if": "r", "estimand": "e"}
    entries = [{**common, **HURTS, "id": f"C{k}", "arm": f"lost{k}", "family": "f"} for k in (7, 10)]
    provenance.json_dump({"version": 1, "claims": entries}, tmp_path / "claims.yaml")

    def judged() -> dict:
        return {claim["id"]: claim for claim in verdicts.evaluate(tmp_path / "claims.yaml", inputs)["claims"]}

    first = judged()
    assert first["C7"]["verdict"] == "supported" and first["C7"]["anytime"]["verdict"] == "supported"
    entries.append({**entries[0], "id": "C8", "control": "alike"})  # a third member, without any effect
    provenance.json_dump({"version": 1, "claims": entries}, tmp_path / "claims.yaml")
    first = judged()
    assert first["C7"]["anytime"]["verdict"] == "inconclusive" and first["C10"]["anytime"]["verdict"] == "supported"
    row = looks.of_claim(first["C7"]) | {"n": 3, "at": "2026-01-01T00:00:00+00:00", "asked": "report"}
    schemas.write_table(inputs["looks"], [row], schemas.LOOKS)
    mixed = judged()
    assert mixed["C7"]["verdict"] == "inconclusive" and "not established at 0.05" in mixed["C7"]["sentence"]
    assert mixed["C10"]["verdict"] == "supported" and mixed["C10"]["anytime"]["rests_on"] == "fixed-n"


@pytest.mark.parametrize("damage", ["flipped", "cut", "text"])
def test_a_damaged_record_is_an_error_and_never_begun_afresh(tmp_path, damage):
    look(tmp_path, 2, 6)
    path = tmp_path / looks.FILE
    whole = path.read_bytes()
    middle = len(whole) // 3
    path.write_bytes(
        {"flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], "cut": whole[:-9], "text": b"n"}[
            damage
        ]
    )
    with pytest.raises(UserError, match=r"cannot be read .*: put back the copy in your last bundle") as raised:
        look(tmp_path, 6, 12)
    assert "\n" not in str(raised.value) and "run again" not in str(raised.value)
    with pytest.raises(UserError, match="cannot be read"):
        looks.append(path, [], "report")


def test_an_interrupted_write_leaves_the_earlier_record(tmp_path, monkeypatch):
    look(tmp_path, 2, 6)
    before = (tmp_path / looks.FILE).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(schemas.parquet, "write", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            look(tmp_path, 6, 12)
    assert (tmp_path / looks.FILE).read_bytes() == before
