"""`flashtrail doctor` on every kind of run: what it says, what it cannot say, and that a tag changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from drills import made
from drills.written import write_log, write_tables
from imports import official

from flashtrail import cli
from flashtrail.base import parquet, provenance
from flashtrail.base.errors import UserError
from flashtrail.drills import bounds, logs, verdicts
from flashtrail.drills.predicates import NAMES
from flashtrail.tables import step_log

NEEDING_PICTURES = ["swapped_cameras", "long_chunk", "stale_frame", "state_antipode"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Results with bounds, a clean arm and an arm of each failure."""
    root = tmp_path_factory.mktemp("results")
    bounds.save(
        bounds.Reference(**{**vars(made.reference()), "origin": {"policies": ["p"]}}), root / "drills/bounds.json"
    )
    write_tables(root / "tables/drill_clean", "drill_clean", [made.episode(i) for i in range(6)])
    for name, failure in made.FAILURES.items():
        arm = f"drill_{name}"
        write_tables(root / "tables" / arm, arm, [made.episode(50 + i, **failure) for i in range(5)])
    return root


def doctor(capsys, *words: object) -> tuple[int, str, str]:
    code = cli.main(["doctor", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("name", NAMES)
def test_each_failure_is_named_from_one_arm_s_tables_with_counts_and_what_to_check(capsys, root, name):
    code, out, _ = doctor(capsys, root / "tables" / f"drill_{name}")
    assert code == 1 and f"likely: {name}, in 5/5 episodes" in out and "check: " in out and "note:" not in out


def test_a_clean_arm_has_nothing_and_exit_code_0(capsys, root):
    code, out, _ = doctor(capsys, root / "tables/drill_clean")
    assert code == 0 and "nothing found" in out and "rewarded 6/6" in out and "likely" not in out


def test_a_whole_run_is_diagnosed_arm_by_arm(capsys, root):
    code, out, _ = doctor(capsys, root, "--json")
    found = json.loads(out)
    assert code == 1 and {arm: e["cause"] for arm, e in found["arms"].items()} == {
        "drill_clean": None,
        **{f"drill_{name}": name for name in NAMES},
    }
    entry = found["arms"]["drill_bad_unnorm"]
    assert entry["predicates"]["bad_unnorm"]["k"] == 5 and len(entry["flagged"]["bad_unnorm"]) == 5
    assert entry["sentence"].startswith("If ") and 0 < entry["predicates"]["bad_unnorm"]["clean_run_at_most"] < 0.01


def test_an_imported_run_of_the_official_client_is_judged_but_for_what_needs_pictures(capsys, root, tmp_path):
    """Its trace has no pictures: the predicates that need one are named as such. All its actions are alike: 0.1."""
    source = tmp_path / "run"
    official.write_run(source)
    assert cli.main(["import-run", str(source), "--out", str(tmp_path / "imported")]) == 0
    capsys.readouterr()
    code, out, _ = doctor(capsys, tmp_path / "imported", "--bounds", root / "drills/bounds.json")
    assert code == 1 and "bad_prompt, in 10/10 episodes" in out
    (line,) = [line for line in out.splitlines() if "cannot be judged" in line and "picture_step" in line]
    assert "swapped_cameras" in line
    assert all(any(n in row for row in out.splitlines() if "cannot be judged" in row) for n in NEEDING_PICTURES)
    assert "whether the bounds are of this run's policy is not recorded" in out
    direct = doctor(capsys, source, "--bounds", root / "drills/bounds.json", "--json")
    imported = doctor(capsys, tmp_path / "imported", "--bounds", root / "drills/bounds.json", "--json")
    assert direct[0] == imported[0] == 1
    (one,), (other,) = (json.loads(found[1])["arms"].values() for found in (direct, imported))
    assert one == other


def test_bounds_can_be_taken_from_a_clean_imported_run(capsys, tmp_path):
    official.write_run(tmp_path / "run")
    code, out, _ = doctor(capsys, tmp_path / "run", "--write-bounds", tmp_path / "own.json")
    assert code == 0 and "bounds of " in out
    assert "picture_step" not in bounds.load(tmp_path / "own.json").bounds
    code, out, _ = doctor(capsys, tmp_path / "run", "--bounds", tmp_path / "own.json")
    assert code in (0, 1) and "bad_prompt, in" not in out and "cannot be judged" in out


@pytest.mark.parametrize("heading", [False, True])
def test_the_tag_is_not_read(capsys, root, tmp_path, heading):
    """Logs with their tags shuffled, lying or missing give the same words."""
    episodes = [made.episode(i, **made.FAILURES["swapped_cameras"]) for i in range(3)] + [
        made.episode(7),
        made.episode(8),
    ]
    said = []
    for tags in (["swapped_cameras"] * 3 + ["clean"] * 2, ["clean"] * 3 + ["swapped_cameras"] * 2, ["no_flip"] * 5):
        path = write_log(tmp_path / "log.jsonl", episodes, tags, heading)
        said.append(doctor(capsys, path, "--bounds", root / "drills/bounds.json", "--json"))
    assert said[0] == said[1] == said[2] and said[0][0] == 1
    (entry,) = json.loads(said[0][1])["arms"].values()
    assert entry["episodes"] == 5 and entry["predicates"]["swapped_cameras"]["k"] == 3


def test_names_of_arms_are_not_read(root, tmp_path):
    """The tables of a drill under another drill's name get the same flags."""
    reference = made.reference().bounds
    episodes = [made.episode(i, **made.FAILURES["long_chunk"]) for i in range(4)]
    flags = []
    for arm in ("drill_long_chunk", "drill_clean", "bad_unnorm"):
        found = logs.of_tables(write_tables(tmp_path / arm, arm, episodes)).episodes
        flags.append([verdicts.judge(logged.episode, reference) for logged in found])
    assert flags[0] == flags[1] == flags[2] and all(row["long_chunk"] for row in flags[0])


def test_a_directory_of_logs_is_read_and_says_what_the_tables_say(root, tmp_path):
    reference = made.reference().bounds
    episodes = [made.episode(i, **made.FAILURES["stale_frame"]) for i in range(4)]
    for task in range(2):
        write_log(tmp_path / f"rollouts/arm/task_{task}/steps.jsonl", episodes[2 * task : 2 * task + 2], ["x"] * 2)
    found = logs.read(tmp_path / "rollouts")
    assert list(found.arms) == ["arm"] and len({logged.name for logged in found.episodes}) == 4
    flags = [verdicts.judge(logged.episode, reference) for logged in found.episodes]
    assert flags == [verdicts.judge(episode, reference) for episode in episodes]


def test_the_workflow_s_own_step_log_says_what_its_tables_say(tmp_path):
    """Through the log's rounding to four places, and with the tag that it carries."""
    reference = made.reference().bounds
    for name, failure in made.FAILURES.items():
        played = [made.episode(60 + i, **failure) for i in range(3)]
        arm = write_tables(tmp_path / name / "tables", name, played)
        lines = step_log.of_tables(arm / "episodes.parquet", arm / "steps.parquet", "tag of another")
        step_log.write(tmp_path / name / "task_0/steps.jsonl", lines)
        flags = [
            sorted(str(verdicts.judge(logged.episode, reference)) for logged in logs.read(place).episodes)
            for place in (arm, tmp_path / name / "task_0")
        ]
        assert flags[0] == flags[1] and len(flags[0]) == 3


def test_infrastructure_is_no_failure_of_the_policy(capsys, root, tmp_path):
    episodes = [made.episode(i) for i in range(4)] + [made.episode(i, steps=20, reward=False) for i in range(5)]
    write_tables(tmp_path / "arm", "arm", episodes, outcomes=dict.fromkeys(range(4, 9), "error"))
    code, out, _ = doctor(capsys, tmp_path / "arm", "--bounds", root / "drills/bounds.json")
    assert code == 0 and "5\u00a0episodes ended by infrastructure left out" in out and "rewarded 4/4" in out


def test_bounds_of_another_policy_are_named_as_such(capsys, root, tmp_path):
    write_tables(tmp_path / "arm", "arm", [made.episode(i) for i in range(4)], policy="q")
    _, out, _ = doctor(capsys, tmp_path / "arm", "--bounds", root / "drills/bounds.json")
    assert "note: the bounds are of p, not of q" in out


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda d: d / "nowhere", "does not exist"),
        (lambda d: d, "is not a run: give a directory with steps.parquet"),
        (lambda d: _text(d / "a.jsonl", "{"), "a.jsonl:1: not JSON"),
        (lambda d: _text(d / "a.jsonl", "[]"), "a.jsonl:1: a list, not an object"),
        (lambda d: _text(d / "a.jsonl", '{"action": [1], "step": 0, "reward": 0}'), "action is not a list of 7"),
        (lambda d: _text(d / "a.jsonl", '{"action": [0,0,0,0,0,0,0], "reward": 0}'), "step is None, not a number"),
        (lambda d: _text(d / "a.jsonl", '{"action": [0,0,0,0,0,0,0], "step": 0}'), "reward is None, not a number"),
        (lambda d: _text(d / "a.jsonl", ""), "no episode with steps to judge"),
        (lambda d: _text(d / "steps.parquet", "no"), "not a readable Parquet file"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(capsys, root, tmp_path, make, said):
    code, out, err = doctor(capsys, make(tmp_path), "--bounds", root / "drills/bounds.json")
    assert code == 2 and out == "" and said in err and err.count("\n") == 1


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_without_bounds_it_says_how_to_get_them(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path / "arm", "arm", [made.episode(i) for i in range(4)])
    code, _, err = doctor(capsys, tmp_path / "arm")
    assert code == 2 and "make drills" in err and "--write-bounds" in err


def test_tables_from_before_pictures_as_sent_were_recorded_are_read(tmp_path):
    write_tables(tmp_path / "arm", "arm", [made.episode(i) for i in range(2)])
    path = tmp_path / "arm/steps.parquet"
    whole = parquet.read(path)
    old = whole.drop_columns([name for name in whole.column_names if name == logs.SENT])
    pq.write_table(old, path)
    assert len(logs.read(tmp_path / "arm").episodes) == 2


def test_stored_bounds_name_what_they_come_from(tmp_path):
    write_tables(tmp_path / "arm", "arm", [made.episode(i) for i in range(4)])
    assert cli.main(["doctor", str(tmp_path / "arm"), "--write-bounds", str(tmp_path / "b.json")]) == 0
    origin = provenance.json_load(tmp_path / "b.json")["origin"]
    assert origin["policies"] == ["p"] and origin["metadata"]["config_digest"] == "c"
    assert origin["sources"]["arm/steps.parquet"] == provenance.sha256_file(tmp_path / "arm/steps.parquet")


def test_a_log_with_an_action_that_is_not_finite_is_refused(tmp_path):
    line = json.dumps({"step": 0, "action": [0, 0, 0, 0, 0, 0, 1], "reward": 0}).replace("[0,", "[NaN,")
    with pytest.raises(UserError, match="not finite"):
        logs.read(_text(tmp_path / "a.jsonl", line))
