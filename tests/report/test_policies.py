"""Policies against each other: what the table counts, by imported episodes and by published counts alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from report.rendered import unlinked

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.claims import published
from flashtrail.claims.campaign import Campaign
from flashtrail.report import policies_chapter
from flashtrail.report.command import prepare, write_pages
from flashtrail.report.count_links import apart
from flashtrail.statistics import intervals, stratified
from flashtrail.statistics.stratified import Stratum

TASKS = [f"do {number}" for number in range(6)]
FAILED = {"x": {(0, 1), (1, 2), (2, 0)}, "y": {(0, 1)}, "z": {(3, 0), (4, 4)}}  # task, initial state
LATE = {("z", 5, 4)}  # an error


def result(policy: str, suite: str) -> str:
    """Return a result file of vla-eval with five episodes a task."""
    tasks = []
    for task, text in enumerate(TASKS):
        episodes = [
            {"episode_id": state, "metrics": {"success": (task, state) not in FAILED[policy]}, "task_id": task}
            | ({"failure_reason": "timeout"} if (policy, task, state) in LATE else {})
            for state in range(5)
        ]
        tasks.append({"task": text, "episodes": episodes})
    return json.dumps({"benchmark": "B", "tasks": tasks, "config": {"params": {"suite": suite, "seed": 7}}}, indent=1)


@pytest.fixture
def run(tmp_path: Path) -> Campaign:
    for policy in FAILED:
        for suite in ("one", "two") if policy != "z" else ("one",):
            (tmp_path / "files" / policy).mkdir(parents=True, exist_ok=True)
            (tmp_path / "files" / policy / f"{suite}.json").write_text(result(policy, suite))
        words = [str(tmp_path / "files" / policy), "--arm", policy, "--policy", policy]
        assert cli.main(["import-run", *words, "--out", str(tmp_path / "mine")]) == 0
    inputs = prepare([tmp_path / "mine"], tmp_path / "mine")
    return Campaign(inputs | write_pages(inputs, tmp_path / "mine"))


def test_every_two_policies_are_compared_within_suites_and_over_common_ones(run: Campaign) -> None:
    assert policies_chapter.says(run) and len(policies_chapter.arms(run)) == 5
    (table,) = policies_chapter.section(run).tables
    rows = [{key: re.sub(r"<[^>]+>", "", str(cell)) for key, cell in row.items()} for row in table.rows]
    assert [row["suite"] for row in rows] == ["one", "two", "all 2", "one", "one"]
    assert [(row["a"], row["b"]) for row in rows[:3]] == [("x 27/30", "y 29/30")] * 2 + [("x 54/60", "y 58/60")]
    assert rows[0]["same"] == "30" and rows[0]["discordant"] == "0 / 2" and rows[2]["discordant"] == "0 / 4"
    assert rows[3]["b"] == "z 27/29" and rows[3]["same"] == "29"  # the error is in no count
    pairs = intervals.mcnemar(0, 4)
    assert rows[2]["mcnemar"].endswith(f"{pairs:.2g}") and rows[2]["holm"].endswith(f"{5 * pairs:.2g}")


def test_a_page_of_imported_policies_leads_with_them_and_judges_no_claim_of_others(
    tmp_path: Path, run: Campaign
) -> None:
    assert cli.main(["report-run", str(tmp_path / "mine")]) == 0
    text = (tmp_path / "mine/report.html").read_text()
    assert "<h1>Policies compared</h1>" in text and "Every two policies" in text and 'class="verdict ' not in text
    assert text.index('id="policies"') < text.index('id="claims"')
    assert unlinked(tmp_path / "mine/report.html") == []


def test_episodes_without_known_starts_are_compared_unpaired(tmp_path: Path) -> None:
    info = Path(__file__).parents[1] / "imports/foreign/lerobot_044_eval_info.json"
    for arm in "ab":
        words = [str(info), "--arm", arm, "--policy", arm, "--seed", "7", "--out", str(tmp_path)]
        assert cli.main(["import-run", *words]) == 0
    inputs = prepare([tmp_path], tmp_path)
    (table,) = policies_chapter.section(Campaign(inputs)).tables
    assert "same" not in table.columns and len(list(table.rows)) == 1
    write_pages(inputs, tmp_path)  # nor does the page of all episodes show two of them as one start
    starts = re.findall(r'data-start="([^"]+)"', (tmp_path / "episodes/index.html").read_text())
    assert len(starts) == len(set(starts)) == 20


def test_the_interval_over_tasks_is_the_t_interval_of_their_differences() -> None:
    strata = [Stratum(9, 10, 5, 10), Stratum(8, 10, 8, 10), Stratum(7, 10, 5, 10), Stratum(10, 10, 9, 10)]
    assert stratified.over_tasks(strata) is None  # fewer than five
    found = stratified.over_tasks([*strata, Stratum(6, 10, 4, 10)])
    assert found is not None  # differences 0.4, 0, 0.2, 0.1, 0.2: mean 0.18, s 0.1483, t(4) 2.776
    assert (found.low, found.high) == pytest.approx((0.18 - 2.7764 * 0.148324 / 5**0.5, 0.18 + 0.184170), abs=1e-4)
    assert stratified.over_tasks([Stratum(5, 10, 4, 10)] * 6) is None  # all alike


# --- published counts ---


def test_the_page_of_published_counts_says_what_the_file_counts(tmp_path: Path) -> None:
    assert cli.main(["report-run", "--published", "vla_eval_libero", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    assert unlinked(tmp_path / "report.html") == []  # every count is marked as published
    file = published.load(published.named("vla_eval_libero"))
    assert all(re.search(r"commit [0-9a-f]{40}$", source.where) for source in file.sources.values())
    goal = [(row.source, row.k) for row in file.success if row.suite == "libero_goal"]
    sums = {name: sum(k or 0 for source, k in goal if source == name) for name in file.sources}
    assert sums == {"vla_eval_pi05": 491, "vla_eval_oft": 489, "vla_eval_xvla": 492}
    assert {(row.n or 0) + row.errors for row in file.success} == {50} and len(file.success) == 120
    assert str(apart("463/470", "published")).replace("463/470", "").split(">")[0] in text and "463/500" in text


def test_what_cannot_be_shown_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--published", "vla_eval_liber"], "did you mean 'vla_eval_libero'"),
        (["--published", "../x"], "has no such file"),
        (["--published", "published"], "it has no counts by task"),
        (["--published", "vla_eval_libero", str(tmp_path)], "give either directories"),
        ([], "give either directories"),
    ):
        assert cli.main(["report-run", *words, "--out", str(tmp_path / "no")]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "no").exists()
    with pytest.raises(UserError):
        published.named("/etc/passwd")
