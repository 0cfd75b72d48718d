"""What a running clock did, from tables that the real loop filled: counted by hand, shown, or said not to have run."""

from __future__ import annotations

import json

import pytest
from claims.simulated import METADATA, TASKS, write_campaign
from rollouts.scripted import DRAFT, FULL, run

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import running, summaries
from flashtrail.claims.campaign import Campaign
from flashtrail.experiment import clocks
from flashtrail.report import headline, running_chapter, sweep_figures
from flashtrail.rollouts import latency
from flashtrail.rollouts.episode import Running
from flashtrail.tables import schemas

SCRIPT = [(12, FULL), (12, DRAFT), (0, DRAFT)]
FILES = ("episodes", "rounds", "steps")


def arm(root, name, ms, episodes=6, script=SCRIPT, metadata=True, **more):
    """Write an arm of identical scripted episodes, as a merge would leave it; return its files."""
    spec = {"kind": "running", "source": {"constant_ms": ms}, **more}
    made = clocks.read(spec)
    record, *_ = run(script, running=Running(made, latency.load(made.source)))
    rows = {name: [] for name in FILES}
    for init_state in range(episodes):
        key = {"arm": name, "suite": "libero_goal", "task_id": 0, "init_state": init_state, "repeat": 0}
        own = {"run_id": "r", "policy": "pi0_nano", "seed": 7, **record.episode, "task": TASKS[0]}
        own |= {"success": init_state % 2 == 0, "outcome": "success" if init_state % 2 == 0 else "horizon"}
        rows["episodes"].append(key | own)
        rows["rounds"] += [key | row for row in record.rounds]
        rows["steps"] += [key | row for row in record.steps]
    origin = METADATA | ({"clock": json.dumps(made.model_dump())} if metadata else {})
    files = {table: root / "tables" / name / f"{table}.parquet" for table in FILES}
    for table, path in files.items():
        schemas.write_table(path, rows[table], schemas.SCHEMAS[table], origin)
    return files


def summarized(root, name, ms, **more):
    files = arm(root, name, ms, **more)
    summary = summaries.summarize_arm(**files)
    provenance.json_dump(summary, root / "summaries" / f"{name}.json")
    return summary, {
        **{table: [str(path)] for table, path in files.items()},
        "summaries": [str(root / "summaries" / f"{name}.json")],
    }


def joined(*inputs):
    kinds = {kind for one in inputs for kind in one if isinstance(one[kind], list)}
    return {kind: [path for one in inputs for path in one.get(kind, [])] for kind in kinds}


def test_steps_rounds_and_rates_are_those_of_the_rows(tmp_path):
    # 200 ms at 20 Hz, 4 steps. Full: 4 held, 8 fresh. Draft: 4 stale, 8 fresh. Rejected drafts: 4 held each, to 40.
    summary, _ = summarized(tmp_path, "late", 200)
    found = summary["clock"]
    assert found["steps"] == 6 * 40 and found["rounds"] == 6 * 6 and found["waited_steps_mean"] == 4
    assert {kind: entry["n"] for kind, entry in found["shares"].items()} == {
        "fresh": 6 * 16,
        "stale": 6 * 4,
        "held": 6 * 20,
    }
    assert sum(entry["share"] for entry in found["shares"].values()) == pytest.approx(1)
    assert found["fresh_hz"] == pytest.approx(20 * 16 / 40) and found["rounds_per_s"] == pytest.approx(6 / 2)
    assert found["latency_ms"]["full"]["p50"]["value"] == found["mean_ms"] == 200
    assert found["stale_dropped_mean"] == pytest.approx(8 / 6) and found["rounds_too_late"] == 0
    assert summary["bookkeeping"] == {"episodes": 6, "episodes_at_odds": 0}
    assert found["settings"]["while_waiting"] == "chunk"


def test_rounds_that_came_wholly_too_late_are_counted(tmp_path):
    summary, _ = summarized(tmp_path, "late", 600, script=[(12, FULL)])
    assert summary["clock"]["rounds_too_late"] == summary["clock"]["rounds"] == 6 * 4
    assert summary["clock"]["fresh_hz"] == 0 and summary["clock"]["shares"]["fresh"]["share"] == 0


def test_an_arm_whose_clock_was_paused_has_no_such_part(tmp_path):
    inputs = write_campaign(tmp_path, ["clean"], episodes=2)
    run_ = Campaign(inputs)
    assert run_.summaries["clean"]["clock"] is None and run_.running == {}
    assert "Not run" in running_chapter.section(run_) and "<figure" not in running_chapter.section(run_)
    assert "clock: paused" in headline.section(run_)
    assert "Not run" in running_chapter.section(Campaign({}))


def test_settings_that_are_lost_are_asked_for(tmp_path):
    with pytest.raises(UserError, match="not its settings"):
        summaries.summarize_arm(**arm(tmp_path, "late", 50, metadata=False))


def test_the_section_shows_each_arm_with_its_interval_and_the_headline_names_it(tmp_path):
    clean = write_campaign(tmp_path, ["clean"], episodes=2)
    inputs = joined(clean, *(summarized(tmp_path, f"late_{ms}ms_20hz", ms, script=SCRIPT[:2])[1] for ms in (0, 200)))
    run_ = Campaign(inputs)
    text = running_chapter.section(run_)
    assert text.count("<figure>") == 2 and "3/6" in text and "Not run" not in text
    assert text.replace("<wbr>", "").count("late_200ms_20hz") >= 2 and "Fresh actions /s" in text
    first = headline.section(run_).replace("<wbr>", "")
    assert "Clock running" in first and "in 2\u00a0arms" in first
    assert list(run_.plain_summaries) == ["clean"]


def test_lines_of_the_figure_are_told_apart_by_what_differs(tmp_path):
    made = {
        "a": summarized(tmp_path, "a", 100)[0],
        "b": summarized(tmp_path, "b", 100, hz=100)[0],
        "c": summarized(tmp_path, "c", 100, while_waiting="hold")[0],
        "d": summarized(tmp_path, "d", 100, script=[(12, FULL)])[0],
    }
    assert sweep_figures.labels({"a": made["a"], "b": made["b"]}) == {"a": "20 Hz", "b": "100 Hz"}
    assert sweep_figures.labels(made) == {
        "a": "20 Hz, drafting, while waiting: chunk",
        "b": "100 Hz, drafting, while waiting: chunk",
        "c": "20 Hz, drafting, while waiting: hold",
        "d": "20 Hz, every round full, while waiting: chunk",
    }
    drawing = sweep_figures.clock(made)
    assert len(drawing.legends[0].get_texts()) == 4


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("measured", "measured here"),
        ({"constant_ms": {"full": 58.0, "draft": 58.0}}, "given"),
        ({"constant_ms": {"full": 58.0, "draft": None}, "published": "paper/Torch-pi0"}, "published, paper/Torch-pi0"),
        ({"replay": "a.parquet", "time": "policy_ms"}, "replayed from a.parquet (policy_ms)"),
    ],
)
def test_where_latencies_come_from_is_said(source, words):
    assert running_chapter.source_words({"source": source}) == words


def test_a_step_is_fresh_stale_or_held(tmp_path):
    kinds = running.kinds_of_steps(running.read_steps(arm(tmp_path, "late", 200, episodes=1)["steps"]))["kind"]
    assert list(kinds) == [*["held"] * 4, *["fresh"] * 8, *["stale"] * 4, *["fresh"] * 8, *["held"] * 16]
