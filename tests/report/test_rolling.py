"""Success as it comes in, on the page of a run under way: a planted drop is named, and its control is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from claims import simulated
from report.test_watch import DIGEST, plain

from flashtrail import cli
from flashtrail.experiment import outlook, progress
from flashtrail.experiment.outlook import Asked, Standing
from flashtrail.report import rolling, watch
from flashtrail.tables import schemas

NAMES = tuple(f"init_{number:03d}_repeat_0" for number in range(60))
FALLS = 30


def run(root: Path, *arms: str, tasks: int = 1) -> dict[tuple[str, int], progress.Record]:
    """A run of arms whose shards are folders, none with an episode yet."""
    results = root / "results"
    asked = [(arm, task) for arm in arms for task in range(tasks)]
    shards = [Asked(arm=arm, task_id=task, expected=NAMES, counts=True, finished=False) for arm, task in asked]
    Standing(started_at=0, written_at=0, ended=False, running="roll out shard", shards=shards).write(
        results / progress.FILE
    )
    return {one: progress.Record(outlook.directory_of(results, *one), NAMES, {}, DIGEST) for one in asked}


def play(record: progress.Record, outcomes: list[bool], names=NAMES) -> None:
    for name, won in zip(names, outcomes, strict=False):
        record.add(name, "success" if won else "horizon", 9.0, 75, 20)


def page(root: Path, **expected) -> str:
    found = watch.Site(root, rolling.Expected(**expected))("")[0]
    return plain(found).split("As it comes in")[1]


def good(count: int) -> list[bool]:
    return [bool(number % 10) for number in range(1, count + 1)]


@pytest.fixture
def fallen(tmp_path) -> Path:
    records = run(tmp_path, "falls", "holds")
    play(records["falls", 0], good(FALLS) + [False, False, True] * 6)
    play(records["holds", 0], good(48))
    return tmp_path


def test_a_drop_is_named_with_the_episode_that_decided_it_and_the_control_is_not(fallen):
    words = page(fallen, rates={"": 0.9})
    found = re.search(r"has dropped: by episode (\d+), from about (\d+) on; e = \S+ \(needs 20\)", words)
    assert FALLS < int(found[1]) <= FALLS + 18 and int(found[2]) == FALLS + 1
    assert words.count("has dropped: by") == 1 and words.count("not shown; e = 0.") == 1
    assert "90 %, less 10 %" in words and "44/48 [" in words and "--expect: the run" not in words
    assert re.search(r"falls7/20 \[", words), "the last twenty"


def test_once_says_it_in_a_line_and_by_the_exit_code(fallen, capsys):
    assert cli.main(["watch", str(fallen), "--once", "--expect", "0.9"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("falls: has dropped: by episode ") and said[2].startswith("holds: not shown; e = ")
    assert cli.main(["watch", str(fallen), "--once", "--expect", "holds=0.9"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert cli.main(["watch", str(fallen), "--once", "--expect", "0.9", "--margin", "0.8"]) == 0, "may fall so far"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--expect", "1.2"], "--expect 1.2 --margin 0.1: give 0 < margin < rate <= 1"),
        (["--expect", "a=0.1"], "--expect a=0.1 --margin 0.1: give"),
        (["--expect", "nan"], "--expect nan"),
        (["--expect", "often"], "'often' is neither a rate nor ARM=RATE"),
        (["--bounds", "x.json"], "--bounds is of a server"),
        (["--margin", "0"], "'0' is not a positive number"),
    ],
)
def test_what_cannot_be_expected_is_one_line(words, line, tmp_path, capsys):
    assert cli.main(["watch", str(tmp_path), "--once", *words]) == 2
    said = capsys.readouterr().err
    assert line in said and len(said.splitlines()) == 1


def test_the_finished_tasks_of_an_arm_judge_nothing_and_a_name_that_no_arm_has_is_said(tmp_path):
    records = run(tmp_path, "clean", tasks=2)
    play(records["clean", 0], [True] * 60)
    play(records["clean", 1], [False] * 20)
    words = page(tmp_path, rates={"cleam": 0.9})
    assert "its finished tasks: 60/60 [94–100 %]; not judged" in words and "Has it dropped?" not in words
    assert "0/20 [0–16 %]" in words and "--expect: the run has no arm cleam" in words


def test_limits_hand_overs_and_latency_are_those_of_the_episodes_own_tables(tmp_path):
    records, results = run(tmp_path, "clean", "limited"), tmp_path / "results"
    for arm in ("clean", "limited"):
        rows = simulated.shard("clean", 0, 6)
        for number, episode in enumerate(rows["episodes"]):
            state = {"init_state": episode["init_state"]}
            part = outlook.directory_of(results, arm, 0) / "parts" / DIGEST / NAMES[number]
            part.mkdir(parents=True)
            limits = {"limited_steps": number, "stops": number // 4} if arm == "limited" else {}
            episode |= {"steps": 100, **limits}
            rounds = [
                row | dict.fromkeys(schemas.DOUBT) | {"roundtrip_ms": 10.0 + 100 * (number == 2)}
                for row in rows["rounds"]
                if state.items() <= row.items()
            ]
            schemas.write_table(part / "episodes.parquet", [episode], schemas.EPISODES, simulated.METADATA)
            schemas.write_table(part / "rounds.parquet", rounds, schemas.ROUNDS, simulated.METADATA)
        play(records[arm, 0], [True] * 6)
    words = page(tmp_path, budget_ms=50.0)
    assert "15 of 600 steps [" in words and words.count(" steps [") == 1, "an arm without limits says nothing of them"
    assert "in 2/6 [10–70 %] episodes" in words
    over, whole = re.search(r"([\d,]+) of ([\d,]+) rounds \[", words).groups()
    asked = [row["init_state"] for row in rows["rounds"]]
    assert (int(over), int(whole.replace(",", ""))) == (asked.count(2), len(asked))
    (part / "episodes.parquet").write_bytes(b"not a table")
    assert "10 of 500 steps [" in page(tmp_path), "one that cannot be read is left out"


def test_a_run_of_which_it_would_say_no_more_than_its_counts_has_no_such_section(tmp_path):
    record = run(tmp_path, "clean")["clean", 0]
    assert "As it comes in" not in plain(watch.Site(tmp_path)("")[0])
    play(record, good(rolling.WINDOW))
    assert "As it comes in" not in plain(watch.Site(tmp_path)("")[0])
    play(record, good(rolling.WINDOW + 1))
    assert "clean18/20 [" in page(tmp_path)
