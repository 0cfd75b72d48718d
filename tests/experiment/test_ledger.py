"""The ledger: what the experiment asks for against what lies on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from rollouts.scripted import DRAFT, FULL, Simulator, run

from flashtrail import cli
from flashtrail.experiment import config, ledger
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.shard import config_digest
from flashtrail.rollouts.episode import error_record
from flashtrail.rollouts.recorder import Recorder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A small experiment of one arm and two tasks, in a directory of its own."""
    data = yaml.safe_load((ROOT / "config.yaml").read_text())
    data |= {"tasks": "0,2", "arms": {"clean": data["arms"]["clean"] | {"episodes": 3}}}
    data |= {"grids": {}, "sweeps": {}, "drills": None, "checkup": None}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def play(
    results: Path, task: int, init_state: int, outcome: str, digest: str = "d", arm: str = "clean", **metadata: str
) -> Recorder:
    recorder = Recorder(
        results / f"rollouts/{arm}/task_{task}/parts",
        digest,
        {"arm": arm, "policy": "pi0_nano", "seed": 7, "run_id": "r"},
        metadata,
    )
    if outcome == "error":
        record = error_record("a task", "server: gone", "2026-01-01T00:00:00+00:00", 1.0)
    else:
        record, *_ = run([(12, FULL), (9, DRAFT)], Simulator(20 if outcome == "success" else None))
    recorder.record(EpisodeKey("libero_goal", task, init_state, 0), record)
    return recorder


def counted(results: Path) -> list[tuple[int, ...]]:
    entries = ledger.read(config.load("config.yaml"), results)
    return [(e.task_id, e.expected, e.success, e.horizon, e.error, len(e.missing)) for e in entries]


def test_nothing_is_there(written):
    assert counted(written) == [(0, 3, 0, 0, 0, 3), (2, 3, 0, 0, 0, 3)]


def test_a_shard_that_runs_a_shard_that_is_done_and_an_episode_nobody_asked_for(written):
    play(written, 0, 1, "success")
    play(written, 0, 9, "success")
    for init_state, outcome in enumerate(("success", "horizon", "error")):
        recorder = play(written, 2, init_state, outcome)
    keys = [EpisodeKey("libero_goal", 2, init_state, 0) for init_state in range(3)]
    recorder.assemble(keys, written / "rollouts/clean/task_2")
    shutil.rmtree(recorder.directory)
    assert counted(written) == [(0, 3, 1, 0, 0, 2), (2, 3, 1, 1, 1, 0)]
    assert ledger.read(config.load("config.yaml"), written)[0].missing == ["init_000_repeat_0", "init_002_repeat_0"]


def test_parts_of_a_spec_that_was_given_up_do_not_count(written):
    play(written, 0, 0, "success", "old")
    play(written, 0, 1, "horizon", "new")
    assert counted(written)[0] == (0, 3, 0, 1, 0, 2)


def test_episodes_of_another_setting_do_not_count(written):
    play(written, 0, 0, "success", "old", config_digest=config_digest(config.load("config.yaml").arm("clean")))
    recorder = play(written, 0, 1, "horizon", "new", config_digest="of another seed")
    assert counted(written)[0] == (0, 3, 1, 0, 0, 2), "those of the setting that is asked for"
    recorder.assemble([EpisodeKey("libero_goal", 0, 1, 0)], written / "rollouts/clean/task_0")
    assert counted(written)[0] == (0, 3, 1, 0, 0, 2)
    shutil.rmtree(written / "rollouts/clean/task_0/parts")
    assert counted(written)[0] == (0, 3, 0, 0, 0, 3), "the table is the other setting's"


def test_a_shard_that_grows_shows_what_it_has_by_now(written):
    recorder = play(written, 0, 0, "success")
    recorder.assemble([EpisodeKey("libero_goal", 0, 0, 0)], written / "rollouts/clean/task_0")
    play(written, 0, 1, "horizon")
    assert counted(written)[0] == (0, 3, 1, 1, 0, 1), "its ledger has one episode"
    (written / "rollouts/clean/task_0/parts/new").mkdir()
    assert counted(written)[0] == (0, 3, 0, 0, 0, 3), "another spec has begun"


def test_a_part_that_cannot_be_read_is_missing_and_left_alone(written):
    part = play(written, 0, 0, "success").directory / "init_000_repeat_0"
    (part / "episodes.parquet").write_bytes(b"PAR1")
    assert counted(written)[0] == (0, 3, 0, 0, 0, 3)
    assert part.is_dir()


def test_the_command(written, capsys):
    for init_state in range(3):
        play(written / "results", 0, init_state, "success")
    assert cli.main(["ledger", "--cores", "2"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "arm    task  expected  present  success  horizon  error  missing",
        "clean     0         3        3        3        0      0        0",
        "clean     2         3        0        0        0      0        3",
        "all                 6        3        3        0      0        3",
        "",
        "to run, on 2 cores (an episode at the mean of its arm here, else of all)",
        "report: 3 episodes: about 1 s",
    ]
    for init_state, outcome in enumerate(("success", "error", "horizon")):
        play(written / "results", 2, init_state, outcome)
    assert cli.main(["ledger", "--json"]) == 1, "an infrastructure error is no result"
    counts = json.loads(capsys.readouterr().out)["entries"][1]
    assert [counts[k] for k in ("expected", "present", "success", "horizon", "error", "missing")] == [3, 2, 1, 1, 1, []]
    play(written / "results", 2, 1, "horizon")
    assert cli.main(["ledger"]) == 0


@pytest.fixture
def with_others(written):
    """The small experiment with one drill and a checkup of two episodes each."""
    data = yaml.safe_load((written / "config.yaml").read_text()) | {
        "drills": {
            **{"policy": "pi0_nano", "names": ["no_flip"], "episodes": 1},
            "reference": {"first_init_state": 10, "episodes": 1},
        },
        "checkup": {"policy": "pi0_nano", "task": 2, "episodes": 2},
    }
    (written / "config.yaml").write_text(yaml.safe_dump(data))
    for task in (0, 2):
        for init_state in range(3):
            play(written / "results", task, init_state, "success")
    return written


def test_drills_and_checkup_are_tables_of_their_own(with_others, capsys):
    play(with_others / "results", 0, 10, "success", arm="drill_reference")
    play(with_others / "results", 2, 0, "horizon", arm="drill_no_flip")
    assert cli.main(["ledger"]) == 1, "drills were begun"
    report, drills, checkup, due = capsys.readouterr().out.strip().split("\n\n")
    assert [line.split(":")[0] for line in due.splitlines()[1:]] == ["drills", "checkup"]
    assert report.splitlines()[-1].split() == ["all", "6", "6", "6", "0", "0", "0"]
    assert [line.split() for line in drills.splitlines()] == [
        ["drills"],
        ["arm", "task", "expected", "present", "success", "horizon", "error", "missing"],
        ["drill_reference", "0", "1", "1", "1", "0", "0", "0"],
        ["drill_reference", "2", "1", "0", "0", "0", "0", "1"],
        ["drill_clean", "0", "1", "0", "0", "0", "0", "1"],
        ["drill_clean", "2", "1", "0", "0", "0", "0", "1"],
        ["drill_no_flip", "0", "1", "0", "0", "0", "0", "1"],
        ["drill_no_flip", "2", "1", "1", "0", "1", "0", "0"],
        ["all", "6", "2", "1", "1", "0", "4"],
    ]
    assert checkup == "checkup: 0 of 2 episodes (make checkup)"


def test_nobody_has_to_run_drills_or_a_checkup(with_others, capsys):
    assert cli.main(["ledger"]) == 0
    assert "drills: 0 of 6 episodes (make drills)" in capsys.readouterr().out
    play(with_others / "results", 2, 0, "error", arm="checkup")
    assert cli.main(["ledger"]) == 1, "a checkup was begun"
    play(with_others / "results", 2, 0, "success", arm="checkup")
    play(with_others / "results", 2, 1, "horizon", arm="checkup")
    capsys.readouterr()
    assert cli.main(["ledger", "--json"]) == 0
    (own,) = [one for one in json.loads(capsys.readouterr().out)["entries"] if one["part"] == "checkup"]
    assert (own["arm"], own["task_id"], own["expected"], own["present"]) == ("checkup", 2, 2, 2)


def benchmark(results: Path, name: str, seconds: float) -> None:
    path = results / f"benchmarks/{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:10\t100.0\n")


def test_what_is_missing_takes_as_long_as_what_was_run(with_others, capsys, monkeypatch):
    """Each arm at its own mean, an arm of which nothing was run at that of all; with the start of each shard."""
    results = with_others / "results"
    times = {0: [10.0, 20.0, 30.0], 2: [40.0]}
    monkeypatch.setattr(ledger, "timed", lambda shard: times.get(int(shard.name[-1]), []) * ("clean/" in str(shard)))
    shutil.rmtree(results / "rollouts/clean/task_2")
    for task, seconds in ((0, 66.0), (2, 50.0)):
        benchmark(results, f"roll_out_shard/clean/task_{task}", seconds)
    benchmark(results, "check_parity/pi0_nano", 30.0)
    assert cli.main(["ledger", "--cores", "2", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    report, drills, checkup = said["to_run"]
    assert (report["episodes"], report["seconds"], report["measured"], report["start_s"]) == (3, 75.0, True, 8.0)
    assert report["wall_s"] == 75 + 8 and said["other_jobs_s"] == [30.0]
    assert (drills["episodes"], drills["seconds"], checkup["seconds"]) == (6, 150.0, 50.0)
    cli.main(["ledger", "--cores", "2"])
    assert capsys.readouterr().out.split("to run, ")[1].splitlines() == [
        "on 2 cores (an episode at the mean of its arm here, else of all)",
        "report: 3 episodes, 1 shard to start, 8 s each: about 83 s",
        "drills: 6 episodes, 6 shards to start, 8 s each: about 2 min",
        "checkup: 2 episodes, 1 shard to start, 8 s each: about 58 s",
        "other jobs: at most 15 s (1 took 30 s here; those whose inputs stay the same do not run)",
    ]


def test_seconds_are_those_of_tables_and_parts_without_infrastructure(written):
    for init_state, outcome in enumerate(("success", "error", "horizon")):
        recorder = play(written, 0, init_state, outcome)
    shard = written / "rollouts/clean/task_0"
    from_parts = ledger.timed(shard)
    recorder.assemble([EpisodeKey("libero_goal", 0, init_state, 0) for init_state in range(3)], shard)
    assert len(from_parts) == 2 and ledger.timed(shard) == from_parts and min(from_parts) > 0


def test_before_anything_was_timed_it_says_where_its_figure_is_from(written, capsys):
    assert cli.main(["ledger", "--cores", "1"]) == 1
    due = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert due[0].endswith("about 9 s each on a 2.5 GHz core, docs/rollouts.md)")
    assert due[1] == "report: 6 episodes: about 54 s"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--results", "nope"], "nope is not a directory: give the results of a run"),
        (["config.yaml", "empty.yaml"], "empty.yaml holds no keys: give it some"),
        (["--cores", "0"], "expected a number of cores, got '0'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(written, capsys, words, message):
    (written / "empty.yaml").write_text("# nothing yet\n")
    assert cli.main(["ledger", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
