"""Episodes by name, what a replay must reproduce, how it is compared, and which ones an audit draws."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from record import campaign

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.record import replay, sample
from flashtrail.record.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run."""
    return Run(campaign.copy(tmp_path_factory.mktemp("run") / "here"))


@pytest.fixture
def explained(run: Run) -> dict[str, Any]:
    """Return what explain says of one episode."""
    return replay.explain(run, replay.parse(run, "wrist_zero_every4/1/2"))


@pytest.mark.parametrize(
    "text", ["clean/1/2", "clean/1/2/0", "clean/libero_goal/1/2/0", "clean/libero_goal/task 1/init 2/repeat 0"]
)
def test_an_episode_has_the_names_that_reports_and_audits_print(run: Run, text: str) -> None:
    assert str(replay.parse(run, text)) == "clean/libero_goal/1/2/0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dirty/1/2", "no arm 'dirty'"),
        ("clean/9/2", "the run has tasks"),
        ("clean/1/99", "the run has tasks"),
        ("clean/1/2/1", "the run has tasks"),
        ("clean/1", "name an episode as"),
        ("clean/one/2", "name an episode as"),
        ("../../etc/passwd", "malformed, name an episode as"),
        ("a/b/c/d/e/f", "malformed, name an episode as"),
        ("../1/2", "malformed"),
    ],
)
def test_a_name_of_nothing_is_refused_in_one_line(run: Run, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        replay.parse(run, text)


def test_it_says_all_that_the_episode_depended_on(explained: dict[str, Any]) -> None:
    assert explained["condition"]["every"] == 4 and explained["guard"]["kind"] == "none"
    assert explained["seed_words"]["noise"] == [7, 2, 1, 2, 0, 2]
    assert explained["artifact_digest"] == campaign.METADATA["artifact_digest"]
    assert {"C8", "F2"} <= {look["claim"] for look in explained["looks"] if look["rests_on"] == "fixed-n"}
    assert len(explained["rows"]["steps"]) == explained["outcome"]["steps"]
    assert "bit for bit" in explained["equality"]


def test_the_file_it_writes_stands_for_itself(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "episode.json"
    assert cli.main(["explain", "clean/0/1", "--from", str(run.root), "--out", str(file)]) == 0
    assert cli.main(["explain", str(file), "--from", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["episode"] == "clean/libero_goal/0/1/0"


def test_a_replay_without_the_weights_says_so(run: Run, explained: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="has no weights: give --artifacts"):
        replay.replay(explained, replay.Here(run.root))


def test_what_cannot_be_repeated_is_not_tried(run: Run, explained: dict[str, Any]) -> None:
    explained["arm"] = {**explained["arm"], "server": "ws://elsewhere:8000"}
    with pytest.raises(UserError, match="cannot be replayed: the policy was served by ws://elsewhere"):
        replay.replay(explained, replay.Here(run.root))
    measured = {"clock": {"kind": "running", "source": "measured"}}
    assert "measured latencies" in replay.unrepeatable(measured)
    assert not replay.unrepeatable({"clock": {"kind": "running", "source": {"constant_ms": 100}}})


# --- the comparison ---


def again(explained: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return explained["rows"], copy.deepcopy(explained["rows"])


def test_times_may_differ_and_nothing_else(explained: dict[str, Any]) -> None:
    recorded, found = again(explained)
    found["rounds"][0]["policy_ms"] += 5
    found["episodes"][0]["started_at"] = "2001"
    assert replay.compare("e", recorded, found) == replay.Outcome("e")
    for table, column in (("rounds", "radius"), ("steps", "eef_pos"), ("episodes", "success")):
        recorded, found = again(explained)
        row = next(i for i, r in enumerate(found[table]) if r[column] is not None)
        found[table][row][column] = "other"
        (odd,) = replay.compare("e", recorded, found).differences
        assert odd.startswith(table) and column in odd


def test_a_replay_that_ends_earlier_is_a_difference(explained: dict[str, Any]) -> None:
    recorded, found = again(explained)
    del found["steps"][-1]
    assert "in the replay" in replay.compare("e", recorded, found).differences[0]


@pytest.mark.parametrize(("size", "batch", "excused"), [(2e-5, 2, True), (2e-5, 1, False), (1e-2, 2, False)])
def test_only_a_shared_pass_excuses_and_only_last_digits(
    explained: dict[str, Any], size: float, batch: int, excused: bool
) -> None:
    recorded, found = again(explained)
    recorded["rounds"][1]["batch_size"] = batch
    found["steps"][20]["action"][0] += size
    found["steps"][30]["action"][0] += 1  # what follows from it may be large
    outcome = replay.compare("e", recorded, found)
    assert outcome.differences and bool(outcome.excused) == excused


def test_a_shared_pass_does_not_excuse_another_state_under_the_same_actions(explained: dict[str, Any]) -> None:
    recorded, found = again(explained)
    recorded["rounds"][1]["batch_size"] = 2
    found["steps"][20]["eef_pos"][0] += 0.01
    assert not replay.compare("e", recorded, found).excused


# --- the sample ---


@pytest.mark.parametrize(
    ("asked", "of", "size"), [("5%", 100, 5), ("5%", 27, 2), ("1%", 3, 1), ("3", 27, 3), ("9", 4, 4)]
)
def test_a_share_or_a_number_of_episodes(asked: str, of: int, size: int) -> None:
    assert sample.size(asked, of) == size


@pytest.mark.parametrize("asked", ["0", "-1", "2.5", "101%", "some", "nan"])
def test_a_sample_that_is_none_is_refused(asked: str) -> None:
    with pytest.raises(UserError, match="give a share"):
        sample.size(asked, 10)


def test_the_seed_decides_the_sample(run: Run) -> None:
    names = replay.expected_names(run)
    assert len(names) == 27
    assert sample.draw(names, "5", 1) == sample.draw(list(names), "5", 1)
    assert len({tuple(map(str, sample.draw(names, "5", seed))) for seed in range(10)}) > 5


def test_a_rerun_that_cannot_be_done_fails_the_audit(run: Run) -> None:
    (check,) = sample.rerun(run, "1", 0)
    assert "has no weights" in check.problems[0]
