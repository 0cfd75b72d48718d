"""`make bench-dag` on made runs: each core-second is in one row, sessions are told apart, what is taken is no work."""

import base64
import importlib.util
import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from flashtrail.base.errors import UserError
from flashtrail.experiment.episodes import EpisodeKey

ROOT = Path(__file__).resolve().parents[1]
_found = importlib.util.spec_from_file_location("dag", ROOT / "benchmarks/dag.py")
dag = importlib.util.module_from_spec(_found)
_found.loader.exec_module(dag)
DAY = 1.8e9


def job(rule, start, end, name="x", threads=1):
    log = f"results/logs/{rule}/{name}.log"
    return dag.Job(rule, log, dag.Span(DAY + start, DAY + end), threads, f"scripts/{rule}.py")


def episode(start, end, arm="clean", task=0, policy="nano"):
    key = EpisodeKey("libero_goal", task, 0, 0)
    return dag.Episode(arm, key, policy, dag.Span(DAY + start, DAY + end), 70, 6, Counter(full=2, draft=5))


SHARDS = [job("roll_out_shard", 10, 40, "clean/task_0"), job("roll_out_shard", 12, 50, "other/task_0")]
REST = [job("check_parity", 0, 10), job("profile_routes", 52, 60, threads=2), job("render_final", 60, 70)]
RAN = [episode(20, 28), episode(27, 35), episode(15, 45, "other")]


def test_each_core_second_is_in_one_row():
    known, seen = sorted(SHARDS + REST, key=lambda j: j.span), [dag.Span(DAY - 5, DAY + 70)]
    rows = dag.account(known, RAN, seen, 2)
    assert rows == {
        dag.BEYOND: 15 + 30,  # overlapping episodes of two simulators count once; arms beside each other do not mix
        dag.START: 10 + 3,
        dag.AROUND: 5 + 5,
        "parity and kernels (compilation is theirs)": 10,
        "profile": 16,
        "notebooks": 10,
        dag.SCHEDULING: 2 * (5 + 2),
        dag.IDLE: 10 + 2 + 10 + 10,
    }
    assert sum(rows.values()) == 2 * 75
    assert sum(dag.account(known, RAN, seen, 4).values()) == 4 * 75
    with pytest.raises(UserError, match="2 threads ran at once on 1 cores: say --cores"):
        dag.account(known, RAN, seen, 1)


def test_a_stopped_shard_is_work_and_time_of_its_session_and_a_taken_episode_is_neither(tmp_path):
    logs = tmp_path / ".snakemake/log"
    logs.mkdir(parents=True)
    for begin in (-300, -5, 500):  # the last one ran nothing
        name = datetime.fromtimestamp(DAY + begin).strftime("%Y-%m-%dT%H%M%S.%f")
        (logs / f"{name}.snakemake.log").write_text("Provided cores: 2\n")
    known = sorted(SHARDS + REST, key=lambda j: j.span)
    played = [*RAN, episode(-290, -250), episode(-9000, -8990)]
    seen, cores = dag.sessions(tmp_path, known, played)
    assert [(s.start - DAY, s.end - DAY) for s in seen] == [(-300, -250), (-5, 70)] and cores == {2}
    ran = [e for e in played if any(s.start <= e.span.start <= s.end for s in seen)]
    assert len(ran) == 4
    stopped = dag.stopped(known, ran, seen)
    assert [(j.log, j.span.length) for j in stopped] == [("clean/task_0.log", 40)]
    rows = dag.account([*known, *stopped], ran, seen, 2)
    assert sum(rows.values()) == 2 * (50 + 75) and rows[dag.BEYOND] == 15 + 30 + 40


def test_necessary_work_is_each_kind_at_its_cost_and_an_unmeasured_task_costs_the_others_median():
    def cost(reset, step, shown):
        return {k: {"median": v} for k, v in {"reset": reset, "step": step, "step with pictures": shown}.items()}

    simulators = {("libero_goal", 0): cost(1.0, 0.01, 0.1), ("libero_goal", 1): cost(3.0, 0.03, 0.3)}
    rounds = {"nano": {"full": {"median": 0.02}, "draft": {"median": 0.01}}}
    found = dag.necessary([episode(0, 1), episode(0, 1, task=1), episode(0, 1, task=2)], simulators, rounds)
    assert found == pytest.approx(
        {"reset": 6.0, "step": 64 * 0.06, "step with pictures": 6 * 0.6, "rounds": 3 * (2 * 0.02 + 5 * 0.01)}
    )


def test_jobs_come_from_snakemakes_record_once_each_and_an_unfinished_report_is_refused(tmp_path):
    def record(output, rule, log, start, end):
        place = tmp_path / ".snakemake/metadata" / base64.b64encode(output.encode()).decode()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"rule": rule, "log": [log], "starttime": start, "endtime": end}))

    record("results/a", "convert_base", "results/logs/convert_base/p.log", 5.0, 9.0)
    record("results/b", "convert_base", "results/logs/convert_base/p.log", 5.0, 9.0)
    with pytest.raises(UserError, match=r"has no finished reports/final\.html .*run make report first"):
        dag.jobs(tmp_path)
    record("reports/final.html", "render_final", "results/logs/render_final.log", 1.0, 2.0)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/final.html").write_text("")
    left = tmp_path / "results/logs/convert_base/p.json"
    left.parent.mkdir(parents=True)
    left.write_text(json.dumps({"threads": 2, "params": {"code": {"digest": "d", "of": ["scripts/convert_base.py"]}}}))
    assert [(j.rule, j.span, j.threads, j.script) for j in dag.jobs(tmp_path)] == [
        ("render_final", (1.0, 2.0), 1, ""),
        ("convert_base", (5.0, 9.0), 2, "scripts/convert_base.py"),
    ]
