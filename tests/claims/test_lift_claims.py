"""What the claims of the lift document need beside the others: a metric's rate, a latency limit, sums and lengths."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from claims.simulated import METADATA, profile
from claims.test_claims import episodes, verdict
from hypothesis import given
from hypothesis import strategies as st

from flashtrail.base.errors import UserError
from flashtrail.claims import claims, published, summaries, verdicts
from flashtrail.tables import schemas

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "claims-lift.yaml"
DOCUMENTS = published.DEFAULT.with_name("documents.yaml")
NAIVE = {"test": "metric_rate", "arm": "lift_nothing", "metric": "naive_success", "side": "at_least", "bar": 0.9}


def table(root: Path, arm: str, **columns) -> dict:
    """Write one arm's episodes, none of them a success, with columns of their own; return the inputs."""
    n = len(next(iter(columns.values())))
    rows = episodes(arm, "nothing", [False] * n)
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    path = root / arm / "episodes.parquet"
    schemas.write_table(path, rows, schemas.EPISODES, METADATA)
    return {"episodes": [str(path)], "arms": [arm]}


@pytest.mark.parametrize(("yes", "word"), [(50, "supported"), (45, "inconclusive"), (30, "refuted")])
def test_a_metrics_rate_is_judged_by_its_own_column(tmp_path, yes, word):
    inputs = table(tmp_path, "lift_nothing", naive_success=[True] * yes + [False] * (50 - yes))
    found = verdict(tmp_path, inputs, **NAIVE)
    assert found["verdict"] == word and found["numbers"]["rate"]["k"] == yes
    assert f"The naive metric called lift_nothing a success in {yes}/50" in found["sentence"]


@pytest.mark.parametrize(("closures", "word"), [(0, "supported"), (10, "inconclusive"), (30, "refuted")])
def test_at_most_is_the_other_side_and_a_count_is_yes_from_one_on(tmp_path, closures, word):
    inputs = table(tmp_path, "late", gripper_closures=[3] * closures + [0] * (50 - closures))
    claim = {"test": "metric_rate", "arm": "late", "metric": "gripper_closures", "side": "at_most", "bar": 0.2}
    found = verdict(tmp_path, inputs, **claim)
    assert found["verdict"] == word and f"late closed its hand in {closures}/50" in found["sentence"]
    assert (found["p"] < 0.025) == (word == "supported")
    where = {"supported": "lies at or below", "inconclusive": "contains", "refuted": "lies above"}[word]
    whole = "its" if word == "inconclusive" else "its whole"
    assert f"{whole} exact 95 % interval, " in found["sentence"].replace("\u00a0", " ")
    assert f" %, {where} the bar of 20" in found["sentence"].replace("\u00a0", " ")


def test_an_episode_without_the_metric_leaves_the_claim_open(tmp_path):
    inputs = table(tmp_path, "lift_nothing", naive_success=[True] * 49 + [None])
    found = verdict(tmp_path, inputs, **NAIVE)
    assert found["verdict"] == "not_tested" and "1 episode of lift_nothing have no naive_success" in found[
        "sentence"
    ].replace("\u00a0", " ")


def test_two_metrics_of_one_arm_are_two_comparisons(tmp_path):
    inputs = table(tmp_path, "lift_nothing", naive_success=[True] * 50, own_success=[False] * 50)
    one, other = (verdict(tmp_path, inputs, **{**NAIVE, "metric": m}) for m in ("naive_success", "own_success"))
    assert (one["verdict"], other["verdict"]) == ("supported", "refuted")
    assert one["anytime"]["digest"] != other["anytime"]["digest"]


@pytest.mark.parametrize(("factor", "word"), [(0.5, "supported"), (1.5, "refuted")])
def test_a_latency_limit_is_held_against_the_interval_of_the_median(tmp_path, factor, word):
    rows = profile(samples=30)
    full = sorted(row["policy_ms"] for row in rows if row["route"] == "full" and not row["warmup"])
    schemas.write_table(tmp_path / "profile.parquet", rows, schemas.PROFILE, METADATA)
    limit = float(full[len(full) // 2]) / factor
    found = verdict(tmp_path, {"profile": str(tmp_path / "profile.parquet")}, test="latency_at_most", ms=limit)
    assert found["verdict"] == word and f"n = {len(full)}" in found["sentence"]
    none = verdict(tmp_path, {"profile": []}, test="latency_at_most", ms=50)
    assert none["verdict"] == "not_tested" and "there is no profile" in none["sentence"]


# --- arithmetic ---


def test_the_documents_own_figures_are_judged_by_arithmetic():
    judged = {claim["id"]: claim for claim in verdicts.evaluate(FILE, {"published": str(DOCUMENTS)})["claims"]}
    assert {name: judged[name]["verdict"] for name in ("L5", "L6", "L7", "L9")} == {
        **{"L5": "refuted", "L6": "refuted", "L7": "refuted", "L9": "not_tested"}
    }
    assert judged["L5"]["short"] == "2/4" and "25, found 21.6" in judged["L5"]["sentence"]
    assert "8.3 M, found 8.42 M in its attention alone" in judged["L5"]["sentence"]
    assert "840, found at most 839 (800 where each episode holds one)" in judged["L6"]["sentence"]
    assert "87, found nearest possible 80.6" in judged["L7"]["sentence"]
    assert {judged[f"L{n}"]["verdict"] for n in (1, 2, 3, 4, 8)} == {"not_tested"}, "no arm, no profile"


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.integers(1, 12))
def test_no_lengths_hold_more_windows_than_are_said_to_fit(lengths, stride):
    windows = sum(max(0, (length - 10) // stride + 1) for length in lengths)
    row = {"source": "a", "what": "w", "episodes": len(lengths), "steps": sum(lengths), "length": 10, "stride": stride}
    assert check(windows=[row | {"printed": windows}])["agrees"]
    alone = {"episodes": 1, "steps": 10 + 3 * stride}  # an exact fit: the bound is reached
    assert check(windows=[row | alone | {"printed": 4}])["agrees"]
    assert not check(windows=[row | alone | {"printed": 5}])["agrees"]


def test_short_episodes_leave_their_steps_to_long_ones():
    """49 episodes of one step and one of 4,201: (4201 - 10) // 5 + 1 = 839 windows; 800 is no bound of them."""
    row = {"source": "a", "what": "w", "episodes": 50, "steps": 4250, "length": 10, "stride": 5}
    assert check(windows=[row | {"printed": (4201 - 10) // 5 + 1}])["agrees"]
    assert not check(windows=[row | {"printed": 840}])["agrees"]


@given(st.integers(0, 10))
def test_a_mean_of_two_lengths_is_one(k):
    row = {"source": "a", "what": "w", "n": 10, "lengths": [1, 200], "printed": round((200 * k + 10 - k) / 10)}
    assert check(mean_lengths=[row])["agrees"]
    assert not check(mean_lengths=[row | {"printed": row["printed"] + 5}])["agrees"]


def check(**rows) -> dict:
    source = dict.fromkeys(published.Source.model_fields, "x")
    (found,) = published.checks(published.Published(version=1, sources={"a": source}, **rows))
    return found


def test_a_decoders_least_is_torchs_own_count_without_its_feed_forward_block():
    torch = pytest.importorskip("torch")
    layer = torch.nn.TransformerDecoderLayer(d_model=512, nhead=8, dim_feedforward=2048)
    feed_forward = [*layer.linear1.parameters(), *layer.linear2.parameters()]
    whole = sum(p.numel() for p in layer.parameters()) - sum(p.numel() for p in feed_forward)
    assert published.attention_parameters(4, 512) == 4 * whole


# --- the file ---


def test_every_claim_of_the_document_is_there_and_its_arms_are_those_of_its_profile():
    from flashtrail.experiment import config

    file = claims.load(FILE)
    assert [claim.id for claim in file.claims] == [*(f"L{n}" for n in range(1, 10)), *(f"T{n}" for n in range(1, 8))]
    assert file.published == "documents"
    experiment = config.load(ROOT / "config.yaml", ROOT / "profiles/lift/overlay.yaml")
    assert experiment.claims == FILE.name
    arms = {getattr(claim, of) for claim in file.claims for of in ("arm", "control") if hasattr(claim, of)}
    assert arms <= set(experiment.arms)


def test_figures_of_another_name_than_a_files_are_refused(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(FILE.read_text().replace("published: documents", "published: ../documents"))
    with pytest.raises(UserError, match="published"):
        claims.load(path)


def test_an_arm_that_no_server_answers_has_no_times_and_a_summary(tmp_path):
    """The simulator's expert: its rounds have no policy time, and a mean of none is no number."""
    rounds = pd.DataFrame({"route": ["full", "full"], "policy_ms": [None, None]}, dtype=object)
    assert summaries.mixture(rounds) == {"mean_ms": None, "implied_ms": None}
    part = pd.DataFrame({"route": ["full", "draft", "full"], "policy_ms": [10.0, 2.0, None]})
    assert summaries.mixture(part) == {"mean_ms": 6.0, "implied_ms": 6.0}


def test_a_file_of_claims_may_give_its_report_a_title():
    judged = verdicts.evaluate(FILE, {"published": str(DOCUMENTS)})
    assert judged["title"] == claims.load(FILE).title != ""
    assert "title" not in verdicts.evaluate(ROOT / "claims.yaml", {}), "older bundles are judged as they were"
