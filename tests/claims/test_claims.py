"""Verdicts are computed: each kind of test on rows whose answer is known, and one episode can turn one."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from claims.simulated import METADATA, SUITE, expected, profile, shard

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import claims, summaries, verdicts
from flashtrail.experiment import config
from flashtrail.statistics import anytime
from flashtrail.tables import schemas

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
        schemas.write_table(path, episodes(arm, "pi0_nano", outcomes), schemas.EPISODES, METADATA)
        files.append(str(path))
    return {"episodes": files, "arms": list(arms)}


def write_claims(root: Path, **claim: object) -> Path:
    path = root / "claims.yaml"
    entry = {"id": "C7", "title": "t", "statement": "s", "scope": "x", "refuted_if": "r", "estimand": "e", **claim}
    path.write_text(yaml.safe_dump({"version": 1, "claims": [entry]}))
    return path


def verdict(root: Path, inputs: dict, **claim: object) -> dict:
    return verdicts.evaluate(write_claims(root, **claim), inputs)["claims"][0]


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
    schemas.write_table(path, rows, schemas.EPISODES, METADATA)
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
    schemas.write_table(path, profile(), schemas.PROFILE, {"machine": record})
    found = verdict(tmp_path, {"profile": str(path)}, test="latency_ratio", below=1.0)
    assert found["verdict"] == word and "load average 0.40 at the beginning, 20.00 at most" in found["sentence"]
    assert ("Measured under load" in found["sentence"]) == (word == "inconclusive")
    assert (found["p"] is None) == (word == "inconclusive") and not found["settle"]


def test_latency_needs_a_synchronised_device(tmp_path):
    rows = profile(samples=30)
    for name, synchronized in (("yes", True), ("no", False)):
        table = [{**row, "synchronized": synchronized} for row in rows]
        schemas.write_table(tmp_path / f"{name}.parquet", table, schemas.PROFILE, METADATA)
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


def test_the_conversion_is_that_of_base_and_draft(tmp_path):
    """C2: a draft that differs refutes it; a policy without a draft is named; without any it stays open."""

    def judge(*drafts: bool | None) -> dict:
        files = []
        for i, passed in enumerate(drafts):
            stages = [{"stage": name, "passed": True} for name in ("norm_stats", "tokenizer")]
            stages += [] if passed is None else [{"stage": "draft", "passed": passed}]
            files.append(str(tmp_path / f"policy_{i}.json"))
            record = {"base": "b", "draft": None if passed is None else "d", "stages": stages}
            provenance.json_dump(record, files[-1])
        judged = verdicts.evaluate(REPOSITORY / "claims.yaml", {"parity": files})["claims"]
        return next(claim for claim in judged if claim["id"] == "C2")

    assert judge(True)["verdict"] == "supported" and "draft" not in judge(True)["sentence"]
    assert judge(True, False)["verdict"] == "refuted"
    assert "policy_1: stages[draft].passed is False" in judge(True, False)["sentence"]
    one, none = judge(True, None), judge(None)
    assert (
        one["verdict"] == "supported" and "Without a draft, which is therefore not tested: policy_1." in one["sentence"]
    )
    assert none["verdict"] == "not_tested" and "not tested: policy_0." in none["sentence"]


@pytest.mark.parametrize("device", ["", "NVIDIA L40S"])
def test_a_quoted_claim_does_not_say_more_of_hardware_than_is_known(tmp_path, device):
    path = tmp_path / "tables/clean/episodes.parquet"
    schemas.write_table(path, episodes("clean", "pi0_nano", [True]), schemas.EPISODES, METADATA | {"device": device})
    inputs = {"published": str(REPOSITORY / "resources/published/published.yaml"), "episodes": str(path)}
    found = {c["id"]: c["sentence"] for c in verdicts.evaluate(REPOSITORY / "claims.yaml", inputs)["claims"]}
    here = "here: NVIDIA L40S" if device else "the device of these rows is not recorded"
    for claim in ("P1", "P3"):
        assert f"; the paper does not name its hardware; {here}." in found[claim]
        assert "not the one here" not in found[claim]


def test_the_environments_are_on_record(tmp_path):
    """C1: a record is written only by a check that passed."""
    files = []
    for name in ("model", "libero"):
        files.append(str(tmp_path / f"{name}.json"))
        provenance.json_dump({"versions": {"python": "3.11.2"}, "checks": {"import_s": 1.0}}, files[-1])
    claim = {"test": "records", "of": "environments", "checks": [{"path": "checks", "is": "present"}]}
    found = verdict(tmp_path, {"environments": files}, **claim)
    assert (found["verdict"], found["short"]) == ("supported", "2/2") and found["rows"]["records"] == [
        "libero",
        "model",
    ]
    assert "Holds for" not in found["sentence"]
    provenance.json_dump({"versions": {"python": "3.11.2"}}, files[-1])
    assert "libero: checks is missing" in verdict(tmp_path, {"environments": files}, **claim)["sentence"]


def routes_of(root: Path, change=lambda tables, summary: None) -> dict:
    """Judge the routes of one shard of the simulated clean arm, its rows or its summary changed."""
    rows = shard("clean", 0)
    summary = summaries.summary(pd.DataFrame(rows["episodes"]), pd.DataFrame(rows["rounds"]))
    change(rows, summary)
    schemas.write_table(root / "episodes.parquet", rows["episodes"], schemas.EPISODES, METADATA)
    provenance.json_dump(summary, root / "clean.json")
    inputs = {"episodes": str(root / "episodes.parquet"), "summaries": str(root / "clean.json")}
    return verdict(root, inputs, test="routes", arm="clean")


def test_routes_and_accepted_prefixes_are_counted(tmp_path):
    found, rows = routes_of(tmp_path), shard("clean", 0)["rounds"]
    drafts = [row["accepted_prefix"] for row in rows if row["route"] == "draft"]
    assert found["verdict"] == "supported" and found["seed_word"] == "supported_limited"
    assert (found["numbers"]["full"], found["numbers"]["draft"]) == (len(rows) - len(drafts), len(drafts))
    mean, whole = sum(drafts) / len(drafts), sum(row["accepted_prefix"] for row in rows) / len(rows)
    assert f"average {mean:.3f} of 12 in draft rounds, {whole:.3f} where full rounds count as 12" in found["sentence"]
    assert found["sentence"].endswith("Rows and counters agree. " + found["tested_on"]["words"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows, summary: rows["episodes"][0].update(draft_rounds=99), r"the episodes count [\d,]+ draft rounds"),
        (lambda rows, summary: rows["episodes"][0].update(accepted_prefix_mean=0.5), "accepted prefixes average"),
        (lambda rows, summary: summary["routes"].update(n=summary["routes"]["n"] + 1), "1\xa0round without a route"),
        (lambda rows, summary: summary["accepted_prefix"]["histogram"].pop(), "without an accepted prefix of 0 to 11"),
    ],
)
def test_routes_that_do_not_add_up_are_named(tmp_path, change, words):
    found = routes_of(tmp_path, change)
    assert found["verdict"] == "refuted" and re.search(words, found["sentence"])


def test_an_arm_without_drafts_has_no_prefix_to_inspect(tmp_path):
    found = routes_of(tmp_path, lambda rows, summary: summary["routes"].update(draft=0))
    assert found["verdict"] == "not_tested" and "no draft round" in found["sentence"]
    assert verdict(tmp_path, {}, test="routes", arm="clean")["verdict"] == "not_tested"


def test_prose_changes_no_verdict(tmp_path):
    inputs = write(tmp_path, {"clean": [True] * 12, "fault": [False] * 6 + [True] * 6})
    prose = {key: "refuted, certainly" for key in ("title", "statement", "scope", "estimand", "refuted_if")}
    prose["seed"] = {"word": "negative_limited", "caveat": "certainly", "figures": "12/12"}
    loud, plain = verdict(tmp_path, inputs, **HURTS, **prose), verdict(tmp_path, inputs, **HURTS)
    assert plain["verdict"] == "supported"
    assert {k: v for k, v in loud.items() if k not in prose} == {k: v for k, v in plain.items() if k not in prose}


def judged(root: Path, inputs: dict, **entries: dict) -> dict[str, dict]:
    """Judge several claims of one file; names are ids."""
    base = {"title": "t", "statement": "s", "scope": "x", "refuted_if": "r", "estimand": "e"}
    path = root / "several.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "claims": [{"id": i, **base, **e} for i, e in entries.items()]}))
    return {claim["id"]: claim for claim in verdicts.evaluate(path, inputs)["claims"]}


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
    adjusted = {"p_adjusted": pytest.approx(6 / 64), "e_adjusted": pytest.approx(anytime.paired_e(6, 0) / 3)}
    assert together["C1"]["family"] == {"name": "f", "size": 3, **adjusted}
    assert together["C1"]["verdict"] == "inconclusive" and "not established at 0.05" in together["C1"]["sentence"]
    assert together["C4"]["verdict"] == "not_tested" and together["C4"]["family"] is None


def test_an_open_claim_says_what_would_settle_it(tmp_path):
    five = write(tmp_path, {"clean": [True] * 12, "fault": [False] * 5 + [True] * 7})
    found = verdict(tmp_path, five, **HURTS)
    plan = found["settle"]
    assert (
        found["verdict"] == "inconclusive"
        and f"To settle it: {plan['n']}\u00a0paired episodes support it" in found["sentence"]
    )
    assert 12 < plan["n"] < 40 and (plan["verdict"], plan["alpha"]) == ("supported", 0.05)
    settled = write(tmp_path / "six", {"clean": [True] * 12, "fault": [False] * 6 + [True] * 6})
    assert verdict(tmp_path, settled, **HURTS)["settle"] is None


def test_unpaired_arms_need_no_common_episode(tmp_path):
    claim = {"test": "unpaired_difference", "arm": "ours", "control": "theirs", "direction": "less", "margin": 0.1}
    inputs = write(tmp_path, {"ours": [True] * 4 + [False] * 11, "theirs": [True] * 27 + [False] * 3})
    found = verdict(tmp_path, inputs, **claim)
    assert found["verdict"] == "supported" and "exact Boschloo" in found["sentence"]
    assert found["rows"]["ours"]["n"] == 15 and found["rows"]["theirs"]["n"] == 30
    guard = write(tmp_path / "guard", {"ours": [True] * 6 + [False] * 9, "theirs": [True] * 4 + [False] * 11})
    open_claim = verdict(tmp_path, guard, **{**claim, "direction": "greater"})
    assert open_claim["verdict"] == "inconclusive" and open_claim["settle"]["unit"] == "episode in each arm"


def of_tasks(arm: str, counts: dict[int, tuple[int, int]], text: str = "task text {}") -> list[dict]:
    """Return k successes of n episodes of each task number; initial states count up."""
    row = shard("clean", 0, 1)["episodes"][0] | {"arm": arm}
    return [
        row
        | {"task_id": task, "task": text.format(task), "init_state": i, "success": i < k}
        | {"outcome": "success" if i < k else "horizon"}
        for task, (k, n) in counts.items()
        for i in range(n)
    ]


def store(root: Path, **arms: list[dict]) -> dict:
    for arm, rows in arms.items():
        schemas.write_table(root / arm / "episodes.parquet", rows, schemas.EPISODES, METADATA)
    return {"episodes": [str(root / arm / "episodes.parquet") for arm in arms], "arms": list(arms)}


UNPAIRED = {"test": "unpaired_difference", "arm": "a", "control": "b", "direction": "greater", "margin": 0.1}


def test_arms_on_different_tasks_are_not_compared(tmp_path):
    inputs = store(tmp_path, a=of_tasks("a", {0: (20, 20)}), b=of_tasks("b", {1: (0, 20), 2: (0, 5)}))
    found = verdict(tmp_path, inputs, **UNPAIRED)
    assert found["verdict"] == "not_tested" and found["p"] is None
    assert "no task in common: a has libero_goal task 0; b has libero_goal tasks 1\u20132" in found["sentence"]


def test_unpaired_arms_are_compared_task_by_task(tmp_path):
    """a has more episodes of the easy task, b of the hard one: pooled 23/30 against 7/30, within tasks nothing."""
    a, b = {0: (22, 24), 1: (1, 6), 7: (9, 9)}, {0: (6, 6), 1: (1, 24)}
    found = verdict(tmp_path, store(tmp_path, a=of_tasks("a", a), b=of_tasks("b", b)), **UNPAIRED)
    assert found["verdict"] == "inconclusive" and found["p"] > 0.3
    assert "a succeeded in 23/30" in found["sentence"] and "Mantel-Haenszel" in found["sentence"]
    assert "Left out, since only one arm has them: libero_goal task 7 (only a)." in found["sentence"]
    assert found["numbers"]["tasks"][0] == "libero_goal task 0: 22/24 against 6/6" and found["rows"]["a"]["n"] == 30


def test_a_task_is_its_text(tmp_path):
    """Twelve of a's task 3 and twelve of b's task 5 are the same; a number with two texts is refused by name."""
    moved = of_tasks("b", {5: (0, 12)}, "task text 3")
    inputs = store(tmp_path, a=of_tasks("a", {3: (12, 12)}), b=moved)
    found = verdict(tmp_path, inputs, **UNPAIRED | {"test": "paired_difference"})
    assert found["numbers"]["n"] == 12 and found["rows"]["only_arm"][0].endswith("/3/0/0")
    other = store(tmp_path / "other", a=of_tasks("a", {3: (2, 2)}), b=of_tasks("b", {3: (2, 2)}, "another text"))
    for test in ("paired_difference", "unpaired_difference"):
        with pytest.raises(
            UserError, match=r"task 3 of libero_goal has two texts: 'task text 3' \(a\) and 'another text'"
        ):
            verdict(tmp_path, other, **UNPAIRED | {"test": test})


def test_a_text_that_is_not_told_agrees_with_the_one_that_is(tmp_path):
    inputs = store(tmp_path, a=of_tasks("a", {3: (12, 12)}), b=of_tasks("b", {3: (0, 12)}, "task {}"))
    assert verdict(tmp_path, inputs, **UNPAIRED | {"test": "paired_difference"})["numbers"]["n"] == 12


def test_a_text_under_several_numbers_needs_the_number_too(tmp_path):
    """libero_90 has one sentence in several scenes."""
    rows = {arm: of_tasks(arm, {1: (k, 5), 2: (k, 5)}, "one sentence") for arm, k in (("a", 5), ("b", 0))}
    assert verdict(tmp_path, store(tmp_path, **rows), **UNPAIRED | {"test": "paired_difference"})["numbers"]["n"] == 10


def test_figures_of_others_are_checked_and_given_their_interval(tmp_path):
    inputs = {"published": str(REPOSITORY / "resources" / "published" / "published.yaml")}
    found = {c["id"]: c for c in verdicts.evaluate(REPOSITORY / "claims.yaml", inputs)["claims"]}
    assert found["K2"]["verdict"] == found["K3"]["verdict"] == found["K4"]["verdict"] == "supported"
    assert found["K2"]["short"] == "16/16" and len(found["K2"]["rows"]["published"]) == 16
    # The implied draft rounds, 8.25 to 9.95 ms, differ by more than rounding leaves open.
    assert found["K5"]["verdict"] == "refuted" and found["K5"]["short"] == "8.25 to 9.95 ms"
    assert found["P2"]["verdict"] == "not_tested" and found["P2"]["short"].startswith("1875/2000 vs 1883/2000")
    interval = found["P2"]["numbers"]["interval"]
    assert interval["low"] < -0.003 < 0 < interval["high"]
    assert found["P4"]["short"].startswith("28/60 vs 16/60")


# The reproduction's claim matrix: title, status word, caveat (appendix B of its write-up).
MATRIX = {
    "C1": ("Official repo/env readiness", "supported", "not evaluation"),
    "C2": ("Checkpoint/draft/base conversion", "supported", "weights local-only"),
    "C3": ("Policy server boot", "supported", "not rollout"),
    "C4": ("One-task closed-loop smoke", "supported", "tiny smoke"),
    "C5": ("Limited LIBERO Goal baseline", "supported_limited", "tasks 0-2 only"),
    "C6": ("Latency mechanism", "partially_supported_limited", "not hardware-exact"),
    "C7": ("Route / accepted prefix", "supported_limited", "partial signal"),
    "C8": ("Wrist dropout robustness", "negative_limited", "synthetic only"),
    "C9": ("WristHealthGuard", "partially_supported_limited", "not general robustness"),
    "C10": ("Full paper benchmark", "not_claimed", "out of scope"),
    "C11": ("Real-world conveyor", "not_claimed", "no robot setup"),
}


def test_the_shipped_claims_are_those_of_the_reproduction_and_more():
    file = claims.load(REPOSITORY / "claims.yaml")
    theirs = {c.id: (c.title, c.seed.word, c.seed.caveat) for c in file.claims if c.id.startswith("C")}
    assert theirs == MATRIX
    assert {word for _, word, _ in theirs.values()} == set(claims.SEED_WORDS.values())
    # What it never claimed has neither its numbers nor its words.
    assert not [c.id for c in file.claims if not c.id.startswith("C") and (c.seed.word or c.seed.caveat)]
    arms = {getattr(claim, "arm", None) for claim in file.claims} - {None}
    assert arms <= set(yaml.safe_load((REPOSITORY / "config.yaml").read_text())["arms"])


def test_nothing_run_means_nothing_tested(tmp_path):
    result = verdicts.evaluate(REPOSITORY / "claims.yaml", {})
    assert {claim["verdict"] for claim in result["claims"]} == {"not_tested"}
    assert {claim["seed_word"] for claim in result["claims"]} == {"not_claimed"}


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (
            {"test": "paired_difference", "arm": "a", "control": "b", "direction": "less", "margin": 2},
            "claim C7, margin",
        ),
        (
            {"test": "non_inferiority", "arm": "a", "control": "a", "margin": 0.1},
            "claim C7: arm and control are both 'a': an arm is never worse than itself",
        ),
        *(
            ({"test": "measured", "bounds": [{"measurement": "m", "figure": "f", side: float(end)}]}, f"0, {side}")
            for side, end in (("below", "inf"), ("above", "-inf"), ("below", "nan"))
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
    experiment = config.load(REPOSITORY / "config.yaml", REPOSITORY / "profiles/full/overlay.yaml")
    arms = {name: arm for name, arm in experiment.arms.items() if name not in experiment.running_arms}
    assert {arm: len(expected(arm)["init_states"]) for arm in arms} == {a: s.episodes for a, s in arms.items()}


def verified(arm: str, pairs: list[tuple[bool, bool | None]]) -> list[dict]:
    rows = episodes(arm, "pi0_nano", [own for own, _ in pairs])
    return [row | {"verified_success": seen} for row, (_, seen) in zip(rows, pairs, strict=True)]


@pytest.mark.parametrize(("success", "k"), [(None, 20), ("simulator", 20), ("verified", 2)])
def test_a_claim_says_which_success_it_uses(tmp_path, success, k):
    path = tmp_path / "tables" / "clean" / "episodes.parquet"
    rows = verified("clean", [(True, index < 2) for index in range(20)])
    schemas.write_table(path, rows, schemas.EPISODES, METADATA)
    named = {} if success is None else {"success": success}
    found = verdict(tmp_path, {"episodes": str(path)}, test="rate_at_least", arm="clean", bar=0.5, **named)
    assert (found["success"], found["numbers"]["rate"]["k"]) == (success or "simulator", k)
    assert found["verdict"] == {20: "supported", 2: "refuted"}[k]
    words = {20: "Success is the simulator's own.", 2: "Success is the verified one: the behaviour was seen, too."}
    assert words[k] in found["sentence"]


def test_verified_success_is_not_guessed(tmp_path):
    path = tmp_path / "tables" / "clean" / "episodes.parquet"
    schemas.write_table(path, verified("clean", [(True, True), (True, None)] * 10), schemas.EPISODES, METADATA)
    claim = {"test": "rate_at_least", "arm": "clean", "bar": 0.5, "success": "verified"}
    found = verdict(tmp_path, {"episodes": str(path)}, **claim)
    assert found["verdict"] == "not_tested" and "of clean were not verified" in found["sentence"]


def test_a_claim_without_success_names_none(tmp_path):
    found = verdict(tmp_path, {"profile": []}, test="latency_ratio", below=1.0)
    assert found["success"] is None
    with pytest.raises(UserError, match="success"):
        verdict(tmp_path, {"profile": []}, test="latency_ratio", below=1.0, success="verified")
