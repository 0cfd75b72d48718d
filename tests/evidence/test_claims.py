"""Verdicts are computed: each kind of test on rows whose answer is known, and one episode can turn one."""

import json
from pathlib import Path

import pytest
import yaml
from evidence.simulated import METADATA, SUITE, expected, profile, shard

from flashtrail import provenance
from flashtrail.errors import UserError
from flashtrail.evidence import claims, tables

REPOSITORY = Path(__file__).resolve().parents[2]


def episodes(arm: str, policy: str, outcomes: list[bool]) -> list[dict]:
    """Return one episode per outcome, init states counting up."""
    row = shard("clean", 0, 1)["episodes"][0]
    return [
        {
            **row,
            "arm": arm,
            "policy": policy,
            "init_state": i,
            "success": won,
            "outcome": "success" if won else "horizon",
        }
        for i, won in enumerate(outcomes)
    ]


def write(root: Path, arms: dict[str, list[bool]]) -> dict:
    files = []
    for arm, outcomes in arms.items():
        path = root / "tables" / arm / "episodes.parquet"
        tables.write_table(path, episodes(arm, "pi0_nano", outcomes), tables.EPISODES, METADATA)
        files.append(str(path))
    return {"episodes": files, "arms": list(arms)}


def write_claims(root: Path, **claim: object) -> Path:
    path = root / "claims.yaml"
    entry = {"id": "C7", "title": "t", "statement": "s", "scope": "x", "refuted_if": "r", "estimand": "e", **claim}
    path.write_text(yaml.safe_dump({"version": 1, "claims": [entry]}))
    return path


def verdict(root: Path, inputs: dict, **claim: object) -> dict:
    return claims.evaluate(write_claims(root, **claim), inputs)["claims"][0]


HURTS = {"test": "paired_difference", "arm": "fault", "control": "clean", "direction": "less", "margin": 0.1}


def test_one_episode_flips_a_verdict(tmp_path):
    """Six discordant pairs one way give p = 2/64, five give p = 2/32."""
    clean = [True] * 12
    six = write(tmp_path / "six", {"clean": clean, "fault": [False] * 6 + [True] * 6})
    five = write(tmp_path / "five", {"clean": clean, "fault": [False] * 5 + [True] * 7})
    found = verdict(tmp_path, six, **HURTS)
    assert found["verdict"] == "supported" and found["p"] == pytest.approx(2 / 64)
    assert "fault succeeded in 6/12, clean in 12/12 of the same episodes" in found["sentence"]
    assert found["sentence"].endswith(
        "Holds for pi0_nano on libero_goal task 0 (init states 0–11) on none (simulated)."
    )
    assert "(init states resampled within tasks: [\u2212" in found["sentence"]
    four = write(tmp_path / "four", {"clean": clean, "fault": [False] * 4 + [True] * 8})
    assert "within tasks: no interval, too few of them differ)" in verdict(tmp_path, four, **HURTS)["sentence"]
    other = verdict(tmp_path, five, **HURTS)
    assert other["verdict"] == "inconclusive" and other["p"] == pytest.approx(2 / 32)
    assert other["rows"]["arm"]["digest"] != found["rows"]["arm"]["digest"]
    assert other["rows"]["control"] == found["rows"]["control"]
    assert found["rows"]["only_control"] == [f"{SUITE}/0/{i}/0" for i in range(6)]


def test_an_effect_is_refuted_only_when_it_is_excluded(tmp_path):
    same = [True, False] * 30
    many = write(tmp_path / "many", {"clean": same, "fault": same})
    few = write(tmp_path / "few", {"clean": same[:10], "fault": same[:10]})
    assert verdict(tmp_path, many, **HURTS)["verdict"] == "refuted"
    assert verdict(tmp_path, few, **HURTS)["verdict"] == "inconclusive"
    better = write(tmp_path / "better", {"clean": [False] * 20, "fault": [True] * 20})
    assert verdict(tmp_path, better, **HURTS)["verdict"] == "refuted"


def test_pairs_are_only_the_episodes_that_both_arms_have(tmp_path):
    inputs = write(tmp_path, {"clean": [True] * 10, "fault": [False] * 4})
    found = verdict(tmp_path, inputs, **HURTS)
    assert found["numbers"]["n"] == 4 and "0/4, clean in 4/4" in found["sentence"]
    missing = verdict(tmp_path, inputs, **{**HURTS, "arm": "elsewhere"})
    assert missing["verdict"] == "not_tested" and "arm elsewhere was not run" in missing["sentence"]


def test_infrastructure_errors_are_no_failures(tmp_path):
    rows = episodes("clean", "pi0_nano", [True] * 10 + [False])
    rows[-1] |= {"outcome": "error", "error": "lost"}
    path = tmp_path / "tables" / "clean" / "episodes.parquet"
    tables.write_table(path, rows, tables.EPISODES, METADATA)
    found = verdict(tmp_path, {"episodes": str(path)}, test="rate_at_least", arm="clean", bar=0.5)
    assert found["numbers"]["rate"]["n"] == 10


@pytest.mark.parametrize(("won", "word"), [(20, "supported"), (10, "inconclusive"), (2, "refuted")])
def test_a_rate_against_its_bar(tmp_path, won, word):
    inputs = write(tmp_path, {"clean": [True] * won + [False] * (20 - won)})
    assert verdict(tmp_path, inputs, test="rate_at_least", arm="clean", bar=0.5)["verdict"] == word


def test_non_inferiority_needs_the_margin_excluded(tmp_path):
    claim = {"test": "non_inferiority", "arm": "clean", "control": "full_only", "margin": 0.1}
    full = [True] * 100
    cases = {"supported": 1, "inconclusive": 8, "refuted": 40}
    for word, lost in cases.items():
        inputs = write(tmp_path / word, {"clean": [False] * lost + [True] * (100 - lost), "full_only": full})
        assert verdict(tmp_path, inputs, **claim)["verdict"] == word


@pytest.mark.parametrize(("others", "word"), [(0.02, "supported"), (0.1, "supported"), (0.85, "inconclusive")])
def test_latency_measured_under_load_is_not_decided(tmp_path, others, word):
    """The same rows, other programs on 2, 10 and 85 % of the cores; the record stands in the sentence either way."""
    load = {"cores": 2, "load_begin": 0.4, "load_max": 20.0, "others": others, "cpu_mhz": None}
    record = json.dumps(load | {"governor": None, "gpu_mhz": None})
    path = tmp_path / "profile.parquet"
    tables.write_table(path, profile(), tables.PROFILE, {"machine": record})
    found = verdict(tmp_path, {"profile": str(path)}, test="latency_ratio", below=1.0)
    assert found["verdict"] == word and "load average 0.40 at the beginning, 20.00 at most" in found["sentence"]
    assert ("Measured under load" in found["sentence"]) == (word == "inconclusive")
    assert (found["p"] is None) == (word == "inconclusive") and not found["settle"]


def test_latency_needs_a_synchronised_device(tmp_path):
    rows = profile(samples=30)
    for name, synchronized in (("yes", True), ("no", False)):
        table = [{**row, "synchronized": synchronized} for row in rows]
        tables.write_table(tmp_path / f"{name}.parquet", table, tables.PROFILE, METADATA)
    found = verdict(tmp_path, {"profile": str(tmp_path / "yes.parquet")}, test="latency_ratio", below=1.0)
    assert found["verdict"] == "supported" and found["numbers"]["draft"]["n"] == 90
    strict = verdict(tmp_path, {"profile": str(tmp_path / "yes.parquet")}, test="latency_ratio", below=0.1)
    assert strict["verdict"] == "refuted"
    blind = verdict(tmp_path, {"profile": str(tmp_path / "no.parquet")}, test="latency_ratio", below=1.0)
    assert blind["verdict"] == "not_tested" and "not synchronised" in blind["sentence"]


def test_records_are_checked_by_policy_and_named(tmp_path):
    checks = [{"path": "ready_s", "at_most": "ready_timeout_s"}, {"path": "stages[vision].passed", "equals": True}]
    for policy, seconds in (("good", 3.0), ("slow", 300.0)):
        record = {"ready_s": seconds, "ready_timeout_s": 180, "stages": [{"stage": "vision", "passed": True}]}
        provenance.json_dump(record, tmp_path / policy / "boot.json")
    claim = {"test": "records", "of": "boots", "checks": checks}
    good = {"boots": [str(tmp_path / "good" / "boot.json")]}
    assert verdict(tmp_path, good, **claim)["verdict"] == "supported"
    both = verdict(tmp_path, {"boots": [*good["boots"], str(tmp_path / "slow" / "boot.json")]}, **claim)
    assert both["verdict"] == "refuted" and "slow: ready_s is 300.0, more than 180" in both["sentence"]
    absent = verdict(tmp_path, good, **{**claim, "checks": [{"path": "nothing", "is": "present"}]})
    assert absent["verdict"] == "refuted" and "nothing is missing" in absent["sentence"]


def test_prose_changes_no_verdict(tmp_path):
    inputs = write(tmp_path, {"clean": [True] * 12, "fault": [False] * 6 + [True] * 6})
    prose = {key: "refuted, certainly" for key in ("title", "statement", "scope", "estimand", "refuted_if")}
    prose["seed"] = {"word": "negative_limited", "figures": "12/12"}
    loud, plain = verdict(tmp_path, inputs, **HURTS, **prose), verdict(tmp_path, inputs, **HURTS)
    assert plain["verdict"] == "supported"
    assert {k: v for k, v in loud.items() if k not in prose} == {k: v for k, v in plain.items() if k not in prose}


def judged(root: Path, inputs: dict, **entries: dict) -> dict[str, dict]:
    """Judge several claims of one file; names are ids."""
    base = {"title": "t", "statement": "s", "scope": "x", "refuted_if": "r", "estimand": "e"}
    path = root / "several.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "claims": [{"id": i, **base, **e} for i, e in entries.items()]}))
    return {claim["id"]: claim for claim in claims.evaluate(path, inputs)["claims"]}


def test_a_family_shares_its_error_rate(tmp_path):
    """Six discordant pairs one way have p = 2/64: enough alone, not as the smallest of three (Holm: 6/64)."""
    even = [True, False] * 6
    arms = {"clean": [True] * 12, "six": [False] * 6 + [True] * 6, "even": even, "other": even}
    inputs = write(tmp_path, arms)
    alone = judged(tmp_path, inputs, C1={**HURTS, "arm": "six"})["C1"]
    assert alone["verdict"] == "supported" and alone["family"] is None
    together = judged(
        tmp_path,
        inputs,
        C1={**HURTS, "arm": "six", "family": "f"},
        C2={**HURTS, "arm": "even", "control": "other", "family": "f"},
        C3={**HURTS, "arm": "other", "control": "even", "family": "f"},
        C4={**HURTS, "arm": "absent", "family": "f"},
    )
    assert together["C1"]["family"] == {"name": "f", "size": 3, "p_adjusted": pytest.approx(6 / 64)}
    assert together["C1"]["verdict"] == "inconclusive" and "not established at 0.05" in together["C1"]["sentence"]
    assert together["C4"]["verdict"] == "not_tested" and together["C4"]["family"] is None


def test_an_open_claim_says_what_would_settle_it(tmp_path):
    five = write(tmp_path, {"clean": [True] * 12, "fault": [False] * 5 + [True] * 7})
    found = verdict(tmp_path, five, **HURTS)
    assert found["verdict"] == "inconclusive" and "To settle it with 80" in found["sentence"]
    observed, planned, none = found["settle"]
    assert 12 < observed["n"] < 40 and [p["verdict"] for p in (planned, none)] == ["supported", "refuted"]
    settled = write(tmp_path / "six", {"clean": [True] * 12, "fault": [False] * 6 + [True] * 6})
    assert verdict(tmp_path, settled, **HURTS)["settle"] == []


def test_unpaired_arms_need_no_common_episode(tmp_path):
    claim = {"test": "unpaired_difference", "arm": "ours", "control": "theirs", "direction": "less", "margin": 0.1}
    inputs = write(tmp_path, {"ours": [True] * 4 + [False] * 11, "theirs": [True] * 27 + [False] * 3})
    found = verdict(tmp_path, inputs, **claim)
    assert found["verdict"] == "supported" and "exact Boschloo" in found["sentence"]
    assert found["rows"]["ours"]["n"] == 15 and found["rows"]["theirs"]["n"] == 30
    guard = write(tmp_path / "guard", {"ours": [True] * 6 + [False] * 9, "theirs": [True] * 4 + [False] * 11})
    open_claim = verdict(tmp_path, guard, **{**claim, "direction": "greater"})
    assert open_claim["verdict"] == "inconclusive" and open_claim["settle"][0]["unit"] == "episode in each arm"


def test_figures_of_others_are_checked_and_given_their_interval(tmp_path):
    inputs = {"published": str(REPOSITORY / "resources" / "published" / "published.yaml")}
    found = {c["id"]: c for c in claims.evaluate(REPOSITORY / "claims.yaml", inputs)["claims"]}
    assert found["K2"]["verdict"] == found["K3"]["verdict"] == found["K4"]["verdict"] == "supported"
    assert found["K2"]["short"] == "16/16" and len(found["K2"]["rows"]["published"]) == 16
    # The implied draft rounds, 8.25 to 9.95 ms, differ by more than rounding leaves open.
    assert found["K5"]["verdict"] == "refuted" and found["K5"]["short"] == "8.25 to 9.95 ms"
    assert found["P2"]["verdict"] == "not_tested" and found["P2"]["short"].startswith("1875/2000 vs 1883/2000")
    interval = found["P2"]["numbers"]["interval"]
    assert interval["low"] < -0.003 < 0 < interval["high"]
    assert found["P4"]["short"].startswith("28/60 vs 16/60")


def test_the_shipped_claims_are_those_of_the_seed_and_more():
    file = claims.load(REPOSITORY / "claims.yaml")
    ids = [claim.id for claim in file.claims]
    assert [f"C{i}" for i in range(12)] == ids[:12]
    words = {claim.id: claim.seed.word for claim in file.claims if claim.seed.word}
    assert words["C8"] == "negative_limited" and words["C11"] == "not_claimed"
    assert set(words.values()) <= set(claims.SEED_WORDS.values())
    arms = {getattr(claim, "arm", None) for claim in file.claims} - {None}
    assert arms <= set(yaml.safe_load((REPOSITORY / "config.yaml").read_text())["arms"])


def test_nothing_run_means_nothing_tested(tmp_path):
    result = claims.evaluate(REPOSITORY / "claims.yaml", {})
    assert {claim["verdict"] for claim in result["claims"]} == {"not_tested"}
    assert {claim["seed_word"] for claim in result["claims"]} == {"not_claimed"}


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (
            {"test": "paired_difference", "arm": "a", "control": "b", "direction": "less", "margin": 2},
            "claim C7, margin",
        ),
        ({"test": "none"}, "claim C7, reason"),
        ({"test": "hearsay"}, "claim C7"),
        ({"test": "records", "of": "boots", "checks": [{"path": "x"}]}, "exactly one of is, equals, at_most"),
    ],
)
def test_a_wrong_claim_is_named(tmp_path, claim, message):
    with pytest.raises(UserError, match=message):
        claims.load(write_claims(tmp_path, **claim))
    with pytest.raises(UserError, match="does not exist"):
        claims.load(tmp_path / "none.yaml")


def test_the_simulated_arms_are_the_configured_ones():
    arms = yaml.safe_load((REPOSITORY / "config.yaml").read_text())["arms"]
    arms = {name: arm for name, arm in arms.items() if "clock" not in arm}  # no claim is about the others
    assert {arm: len(expected(arm)["init_states"]) for arm in arms} == {a: s["episodes"] for a, s in arms.items()}


def verified(arm: str, pairs: list[tuple[bool, bool | None]]) -> list[dict]:
    rows = episodes(arm, "pi0_nano", [own for own, _ in pairs])
    return [row | {"verified_success": seen} for row, (_, seen) in zip(rows, pairs, strict=True)]


@pytest.mark.parametrize(("success", "k"), [(None, 20), ("simulator", 20), ("verified", 2)])
def test_a_claim_says_which_success_it_uses(tmp_path, success, k):
    path = tmp_path / "tables" / "clean" / "episodes.parquet"
    rows = verified("clean", [(True, index < 2) for index in range(20)])
    tables.write_table(path, rows, tables.EPISODES, METADATA)
    named = {} if success is None else {"success": success}
    found = verdict(tmp_path, {"episodes": str(path)}, test="rate_at_least", arm="clean", bar=0.5, **named)
    assert (found["success"], found["numbers"]["rate"]["k"]) == (success or "simulator", k)
    assert found["verdict"] == {20: "supported", 2: "refuted"}[k]
    words = {20: "Success is the simulator's own.", 2: "Success is the verified one: the behaviour was seen, too."}
    assert words[k] in found["sentence"]


def test_verified_success_is_not_guessed(tmp_path):
    path = tmp_path / "tables" / "clean" / "episodes.parquet"
    tables.write_table(path, verified("clean", [(True, True), (True, None)] * 10), tables.EPISODES, METADATA)
    claim = {"test": "rate_at_least", "arm": "clean", "bar": 0.5, "success": "verified"}
    found = verdict(tmp_path, {"episodes": str(path)}, **claim)
    assert found["verdict"] == "not_tested" and "of clean had nobody looking" in found["sentence"]


def test_a_claim_without_success_names_none(tmp_path):
    found = verdict(tmp_path, {"profile": []}, test="latency_ratio", below=1.0)
    assert found["success"] is None
    with pytest.raises(UserError, match="success"):
        verdict(tmp_path, {"profile": []}, test="latency_ratio", below=1.0, success="verified")
