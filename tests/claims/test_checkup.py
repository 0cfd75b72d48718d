"""The checkup: its rule and error rates, what it compares with, what it says of starts, closings and power."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import calibration
import numpy as np
import pytest
import yaml
from matplotlib import pyplot as plt
from scipy import stats

from flashtrail.base.errors import UserError
from flashtrail.claims import checkup, published
from flashtrail.claims.checkup import Reference
from flashtrail.report import checkup_figures
from flashtrail.statistics import intervals
from flashtrail.tables import schemas

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted((REPOSITORY / "resources" / "published").glob("*.yaml"))
CARD = Reference(0.9, 18, 20)


# --- the rule ---


@pytest.mark.parametrize(
    ("low", "high", "left"),
    [
        (-0.03, 0.10, ["healthy"]),
        (-0.031, 0.10, ["healthy", "suspicious"]),
        (-0.051, 0.10, ["healthy", "suspicious", "broken"]),
        (-0.05, -0.031, ["suspicious"]),
        (-0.20, -0.04, ["suspicious", "broken"]),
        (-0.20, -0.05, ["suspicious", "broken"]),
        (-0.20, -0.051, ["broken"]),
        (0.08, 0.20, ["healthy"]),
    ],
)
def test_a_verdict_is_one_word_only_where_the_whole_interval_is(low, high, left):
    assert checkup.words(low, high) == left
    assert checkup.verdict(low, high) == (left[0] if len(left) == 1 else "open")


def test_three_points_are_three_points_in_binary_too():
    assert checkup.zone(47 / 50 - 0.97) == "healthy" and checkup.zone(45 / 50 - 0.95) == "suspicious"


def test_the_interval_is_the_one_of_two_counts():
    for k in (0, 31, 47, 50):
        low, high = checkup.interval(k, 50, CARD)
        known = intervals.unpaired(k, 50, 18, 20).interval
        assert (low, high) == pytest.approx((known.low, known.high))


def test_a_rate_without_its_n_is_exact_and_its_interval_ours_alone():
    for k in (0, 47, 50):
        low, high = checkup.interval(k, 50, Reference(0.9))
        known = intervals.rate(k, 50).exact
        assert (low + 0.9, high + 0.9) == pytest.approx((known.low, known.high))


# --- error rates: every campaign that can happen, weighted by its probability ---


def called(word: str, n: int, n_published: int | None, rate: float, truth: float) -> float:
    """How often n episodes of a policy of that truth are called that; the published count is drawn, too."""
    if n_published is None:
        return checkup.chances(n, Reference(rate), truth)[word]
    weight = stats.binom.pmf(np.arange(n_published + 1), n_published, rate)
    counts = [int(k) for k in np.flatnonzero(weight > 1e-9)]
    return sum(weight[k] * checkup.chances(n, Reference(k / n_published, k, n_published), truth)[word] for k in counts)


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("n_published", [20, 60, 500, None])
def test_a_healthy_policy_is_called_broken_and_a_broken_one_healthy_in_at_most_one_of_forty(n_published, rate):
    for n in (50, 200):
        assert called("broken", n, n_published, rate, rate) <= 0.025
        assert called("broken", n, n_published, rate, rate - 0.03) <= 0.025
        assert called("healthy", n, n_published, rate, rate - 0.05) <= 0.025
        assert called("healthy", n, n_published, rate, rate - 0.10) <= 0.025
        # On the very edge of a word, where either neighbour is nearly right.
        assert called("broken", n, n_published, rate, rate - 0.05) <= 0.05
        assert called("healthy", n, n_published, rate, rate - 0.0301) <= 0.06


def test_the_eye_errs_far_more_often():
    """What the interval is for: the same policy, judged by its point estimate."""
    fair = checkup.chances(50, Reference(0.9), 0.9)
    assert fair["by_eye_broken"] > 0.1 > 0.025 > fair["broken"]


def test_simulated_campaigns_are_called_what_was_predicted():
    generator, truth = np.random.default_rng(5), 0.65
    runs = [checkup.verdict(*map(float, checkup.interval(k, 50, CARD))) for k in generator.binomial(50, truth, 2000)]
    predicted = checkup.chances(50, CARD, truth)
    assert sum(predicted[word] for word in (*checkup.ZONES, "open")) == pytest.approx(1)
    for word in (*checkup.ZONES, "open"):
        assert runs.count(word) / 2000 == pytest.approx(predicted[word], abs=4 * np.sqrt(0.25 / 2000))
    assert 0.1 < predicted["broken"] < 0.9


# --- what would settle it ---


def test_so_many_episodes_settle_it_and_fewer_do_not():
    reference = Reference(0.944, 472, 500)
    same, observed, worse = checkup.settle(40, 50, reference)
    assert (same.verdict, observed.verdict, worse.verdict) == ("healthy", "broken", "broken")
    for plan, truth in ((same, 0.944), (observed, 0.8), (worse, 0.844)):
        assert checkup.chances(plan.n, reference, truth)[plan.verdict] >= 0.8
        assert checkup.chances(plan.n // 2, reference, truth)[plan.verdict] < 0.8
    assert observed.n < worse.n


def test_few_published_episodes_are_not_mended_by_many_of_ours():
    (same, _) = checkup.settle(18, 20, CARD)
    assert same.unit == "episode a side" and 1000 < same.n < 3000
    n = same.n
    both = called("healthy", n, n, 0.9, 0.9)
    assert both == pytest.approx(0.8, abs=0.05)


# --- published figures ---


def test_the_published_figure_is_the_tasks_own_else_the_suites():
    everything = published.load_all(FILES)
    card = published.success_of(everything, "pi0_nano/FLASH", "libero_goal", 1)
    assert (card.k, card.n, card.task) == (18, 20, 1)
    paper = published.success_of(everything, "paper/FLASH+Triton", "libero_goal", 1)
    assert (paper.count, paper.n, paper.task) == (472, 500, None)
    clean = published.success_of(everything, "reproduction/FLASH+Triton", "libero_goal", 0)
    assert (clean.k, clean.n) == (27, 30)


def test_a_key_that_is_not_there_names_the_nearest():
    with pytest.raises(UserError, match="'pi0_nano/Flash'; did you mean 'pi0_nano/full'"):
        published.success_of(published.load_all(FILES), "pi0_nano/Flash", "libero_goal", 1)
    with pytest.raises(
        UserError, match="has no success on libero_goal task 7; it has libero_goal task 0, libero_goal task 1"
    ):
        published.success_of(published.load_all(FILES), "pi0_nano/FLASH", "libero_goal", 7)


def test_two_files_may_not_describe_one_source():
    with pytest.raises(UserError, match="source 'pi0_nano' is described in another file, too"):
        published.load_all([next(file for file in FILES if Path(file).stem == "pi0_nano")] * 2)


def test_a_count_needs_its_n():
    with pytest.raises(ValueError, match="k needs n"):
        published.Success(source="s", method="m", suite="x", k=3)


@pytest.mark.parametrize("policy", ["pi0_nano", "pi0_nano_dropout"])
def test_the_machines_figures_are_those_of_the_model_card(policy):
    text = (REPOSITORY / "resources" / policy / "README.md").read_text()
    everything = published.load_all(FILES)
    for method, label in (("full", "full route"), ("FLASH", "FLASH, official defaults")):
        (line,) = re.findall(rf"^\| {re.escape(label)} \|(.*)$", text, re.M)
        printed = [tuple(map(int, pair)) for pair in re.findall(r"(\d+)/(\d+) \[", line)][:3]
        own = [published.success_of(everything, f"{policy}/{method}", "libero_goal", task) for task in range(3)]
        assert [(row.k, row.n) for row in own] == printed


# --- a run ---


def written(directory: Path, won: list[bool], **columns: Any) -> Path:
    """Episodes of one task as a table; `columns` override those of a policy that nobody looked at."""
    rows = calibration.episodes_table("checkup", won).to_pylist()
    rows = [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(rows)]
    path = directory / "episodes.parquet"
    schemas.write_table(path, rows, schemas.EPISODES, {})
    return path


def figures(directory: Path, **figure: Any) -> list[Path]:
    """A file with one published figure, `card/FLASH`."""
    source = dict.fromkeys(("title", "where", "policy", "hardware", "setting"), "x")
    source |= {"success_scope": "all episodes", "latency_scope": "none"}
    row = {"source": "card", "method": "FLASH", "suite": "simulated", "task": 0, **figure}
    path = directory / "card.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "sources": {"card": source}, "success": [row]}))
    return [path]


def judged(directory: Path, won: list[bool], figure: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return checkup.judge(written(directory, won, **columns), figures(directory, **figure), "card/FLASH")


def test_a_run_is_judged_with_its_counts_and_standard_error(tmp_path):
    found = judged(tmp_path, [True] * 20 + [False] * 30, {"k": 18, "n": 20})
    assert found["verdict"] == "broken" and found["words"] == ["broken"] and found["by_eye"] == "broken"
    assert (found["success"]["k"], found["success"]["n"]) == (20, 50)
    assert found["success"]["standard_error"] == pytest.approx(np.sqrt(0.4 * 0.6 / 50))
    assert found["difference"] == pytest.approx(-0.5) and found["published"]["count"]["k"] == 18
    text = found["sentence"].replace("\u00a0", " ")
    assert text.startswith("Broken: the whole interval lies there; a shortfall of less than ")
    assert "Ours 20/50 (40 %, standard error 6.9 points, 95 % interval 28\u201354 %); published 18/20" in text


def test_a_run_that_cannot_tell_says_what_it_excludes(tmp_path):
    found = judged(tmp_path, [True] * 45 + [False] * 5, {"k": 18, "n": 20})
    assert found["verdict"] == "open" and found["by_eye"] == "healthy"
    assert "healthy, suspicious or broken: 50\u00a0episodes cannot tell" in found["sentence"]
    excluded = -100 * found["interval"]["low"]
    assert f"a shortfall of more than {excluded:.1f}\u00a0points is excluded" in found["sentence"]


def test_a_policy_far_above_the_published_is_healthy_and_asks_for_the_setting(tmp_path):
    found = judged(tmp_path, [True] * 50, {"k": 250, "n": 500})
    assert found["verdict"] == "healthy" and found["above"]
    assert "look for a setting that differs" in found["sentence"]


def test_a_percentage_without_n_is_said_to_be_taken_as_exact(tmp_path):
    found = judged(tmp_path, [True] * 45 + [False] * 5, {"percent": 94.4})
    assert found["published"]["count"] is None and "so taken as exact" in found["sentence"]


def test_no_published_figure_is_no_verdict(tmp_path):
    found = checkup.judge(written(tmp_path, [True] * 9 + [False]), [], None)
    assert found["verdict"] is None and found["sentence"].startswith(
        "No verdict: no published figure is named. Ours 9/10"
    )


def test_episodes_of_two_tasks_are_no_checkup(tmp_path):
    path = written(tmp_path, [True] * 4, task_id=[0, 0, 1, 1])
    with pytest.raises(UserError, match="a checkup is of one task; the table has tasks 0 and 1"):
        checkup.judge(path, [], None)


def test_starts_of_the_published_evaluation_are_told_apart(tmp_path):
    starts = {"seed": 7, "init_states": list(range(10)), "repeats": 2}
    won = [True] * 8 + [False] * 2 + [True] * 40
    figure = {"k": 18, "n": 20, "starts": starts}
    found = judged(tmp_path, won, figure)["starts"]
    assert found["same"] == 10  # the tables of these tests have seed 7, repeat 0
    assert (found["shared"]["k"], found["shared"]["n"]) == (8, 10)
    assert (found["others"]["k"], found["others"]["n"]) == (40, 40) and found["others"]["init_states"][0] == 10
    assert judged(tmp_path, won, figure, seed=[11] * 50)["starts"]["same"] == 0
    assert judged(tmp_path, won, figure, repeat=[2] * 50)["starts"]["same"] == 0
    path, files = written(tmp_path, won), figures(tmp_path, **figure)
    assert checkup.judge(path, files, "card/FLASH", scene_seed="official")["starts"]["same"] == 0


# --- the first closing ---

CLOSED = [12, 14, None, 40, None, 41]
WON = [True, True, True, False, False, True]
SEEN = [True, False, False, False, False, None]


def test_success_without_a_closing_is_counted(tmp_path):
    found = judged(tmp_path, WON, {"k": 18, "n": 20}, first_close_step=CLOSED, verified_success=[*SEEN[:5], True])
    assert found["closing"] == {"median_step": 27.0, "never": 2, "never_and_success": 1}
    assert found["disagreements"] == [f"checkup/simulated/task 0/init {i}/repeat 0" for i in (1, 2)]
    assert found["verified"]["k"] == 2 and found["success"]["k"] == 4


def test_verified_success_is_not_given_where_an_episode_was_not_looked_at(tmp_path):
    found = judged(tmp_path, WON, {"k": 18, "n": 20}, verified_success=SEEN)
    assert found["verified"] is None and found["disagreements"] is None


def test_every_episode_is_one_block_of_its_outcome_and_never_stands_apart(tmp_path):
    path = written(tmp_path, WON, first_close_step=CLOSED, verified_success=SEEN)
    drawing = checkup_figures.closing(schemas.read_table(path, schemas.EPISODES).to_pandas())
    axes = drawing.axes[0]
    blocks = [patch for patch in axes.patches if patch.get_height()]
    assert len(blocks) == 6 and all(patch.get_height() == 1 for patch in blocks)
    (never,) = [
        t for t, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True) if label.get_text() == "never"
    ]
    apart = [patch for patch in blocks if abs(patch.get_x() + patch.get_width() / 2 - never) < 1e-6]
    assert sorted(patch.get_y() for patch in apart) == [0, 1]
    assert min(patch.get_x() for patch in apart) > max(p.get_x() + p.get_width() for p in blocks if p not in apart)
    found = [entry.get_text() for entry in drawing.legends[0].get_texts()]
    assert found == [
        "success, verified, n = 1",
        "success, n = 1",
        "success, not verified, n = 2",
        "time ran out, n = 2",
    ]
    plt.close(drawing)


@pytest.mark.parametrize("closed", [[None] * 3, [0, 0, 0], [5, 299, 150]])
def test_any_closings_can_be_drawn(tmp_path, closed):
    path = written(tmp_path, [True] * 3, first_close_step=closed)
    drawing = checkup_figures.closing(schemas.read_table(path, schemas.EPISODES).to_pandas())
    assert sum(patch.get_height() for patch in drawing.axes[0].patches) == 3
    plt.close(drawing)


def test_there_are_at_most_thirty_bins():
    assert [checkup_figures.bin_width(last) for last in (0, 29, 30, 51, 200, 299, 520)] == [1, 1, 2, 2, 10, 10, 20]
