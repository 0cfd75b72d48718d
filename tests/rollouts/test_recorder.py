"""Parts and their assembly; test_crash_points.py kills in between."""

from __future__ import annotations

import json
import os

import pyarrow.parquet as pq
import pytest
from rollouts.scripted import DRAFT, FULL, Simulator, run

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.rollouts.episode import EpisodeRecord, error_record
from flashtrail.rollouts.recorder import Recorder, unfilmed
from flashtrail.tables import schemas

LOAD = {"cores": 2, "load_begin": 0.5, "load_max": 1.0, "others": 0.1}
LOAD |= {"governor": None, "cpu_mhz": [2400.0, 2500.0], "gpu_mhz": None}
KEYS = [EpisodeKey("libero_goal", 2, init_state, 0) for init_state in range(3)]
COMMON = {"arm": "clean", "policy": "p", "seed": 7, "run_id": "r"}


def new(path, digest="d") -> Recorder:
    return Recorder(path, digest, COMMON, {"artifact_digest": "abc", "device": "cpu"})


def an_episode(success_at=None) -> EpisodeRecord:
    record, *_ = run([(12, FULL), (0, DRAFT), (12, FULL), (9, DRAFT)], Simulator(success_at))
    return record


def test_parts_are_put_together_in_the_order_expected(tmp_path):
    recorder = new(tmp_path / "parts")
    for key in reversed(KEYS):
        recorder.record(key, an_episode(20 if key.init_state == 1 else None))
    outcomes = recorder.assemble(KEYS, tmp_path / "out")
    assert outcomes == dict(zip([k.name for k in KEYS], ["horizon", "success", "horizon"], strict=True))
    episodes = schemas.read_table(tmp_path / "out/episodes.parquet", schemas.EPISODES).to_pylist()
    assert [row["init_state"] for row in episodes] == [0, 1, 2]
    assert {(row["arm"], row["policy"], row["seed"], row["task_id"]) for row in episodes} == {("clean", "p", 7, 2)}
    steps = schemas.read_table(tmp_path / "out/steps.parquet", schemas.STEPS).to_pylist()
    rounds = schemas.read_table(tmp_path / "out/rounds.parquet", schemas.ROUNDS).to_pylist()
    assert [len([s for s in steps if s["init_state"] == i]) for i in range(3)] == [40, 20, 40]
    assert sum(row["executed"] for row in rounds) == len(steps) == 100
    assert schemas.read_metadata(tmp_path / "out/steps.parquet")["artifact_digest"] == "abc"
    ledger = provenance.json_load(tmp_path / "out/ledger.json")
    assert ledger["expected"] == [key.name for key in KEYS]
    assert ledger["outcomes"] == outcomes and ledger["errors"] == {}


def test_the_load_of_a_shard_is_that_of_all_its_episodes_whichever_process_ran_them(tmp_path):
    for key, load in zip(KEYS, (1.0, 7.5, 2.0), strict=True):
        recorder = new(tmp_path / "parts")  # as after a kill
        recorder.metadata["machine"] = json.dumps(LOAD | {"load_max": load})
        recorder.record(key, an_episode())
    recorder.assemble(KEYS, tmp_path / "out")
    stored = schemas.read_metadata(tmp_path / "out/rounds.parquet")["machine"]
    assert json.loads(stored) == LOAD | {"load_max": 7.5}


def test_a_missing_episode_stops_the_assembly_by_name_and_writes_nothing(tmp_path):
    recorder = new(tmp_path / "parts")
    recorder.record(KEYS[0], an_episode())
    with pytest.raises(UserError, match="init_001_repeat_0"):
        recorder.assemble(KEYS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_error_is_a_row_of_its_own_kind_until_the_episode_is_run(tmp_path):
    recorder = new(tmp_path / "parts")
    recorder.record(KEYS[0], error_record("task 2", "server: gone", "2026-01-01T00:00:00+00:00", 1.5))
    recorder.assemble(KEYS[:1], tmp_path / "out")
    (row,) = schemas.read_table(tmp_path / "out/episodes.parquet", schemas.EPISODES).to_pylist()
    assert (row["outcome"], row["error"], row["steps"], row["rounds"]) == ("error", "server: gone", 0, 0)
    assert provenance.json_load(tmp_path / "out/ledger.json")["errors"] == {KEYS[0].name: "server: gone"}
    recorder.record(KEYS[0], an_episode(20))
    assert recorder.outcomes() == {KEYS[0].name: "success"}


def test_another_digest_sees_none_of_it(tmp_path):
    new(tmp_path, "one").record(KEYS[0], an_episode())
    assert new(tmp_path, "two").outcomes() == {}
    assert list(new(tmp_path, "one").outcomes()) == [KEYS[0].name]


def test_a_damaged_part_is_run_again(tmp_path):
    recorder = new(tmp_path)
    recorder.record(KEYS[0], an_episode())
    (tmp_path / "d" / KEYS[0].name / "steps.parquet").write_bytes(b"PAR1 and then nothing")
    assert recorder.outcomes() == {}


def test_a_part_without_the_film_that_it_names_is_run_again(tmp_path):
    recorder = new(tmp_path)
    recorder.films().joinpath("film").write_bytes(b"a film")
    recorder.record(KEYS[0], an_episode(), recorder.films() / "film")
    assert list(recorder.outcomes()) == [KEYS[0].name]
    (tmp_path / "d" / KEYS[0].name / "video.mp4").unlink()
    assert recorder.outcomes() == {}


def test_two_processes_do_not_share_a_shard(tmp_path):
    with (
        new(tmp_path).exclusive(),
        pytest.raises(UserError, match="another process is rolling out"),
        new(tmp_path).exclusive(),
    ):
        pass
    with new(tmp_path).exclusive():
        pass


def test_a_place_that_cannot_be_written_gets_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), new(tmp_path / "file" / "parts").exclusive():
        pass


def test_a_full_disk_gets_one_line_and_leaves_earlier_parts(tmp_path, monkeypatch):
    recorder = new(tmp_path)
    recorder.record(KEYS[0], an_episode())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(UserError, match="disk full"):
        recorder.record(KEYS[1], an_episode())
    monkeypatch.undo()
    assert list(recorder.outcomes()) == [KEYS[0].name]


@pytest.mark.parametrize("keep", [True, False])
def test_a_complete_shard_keeps_its_own_parts_and_those_of_the_spec_before_or_none(tmp_path, keep):
    for at, digest in enumerate(("one", "two", "three")):
        new(tmp_path, digest).record(KEYS[0], an_episode())
        os.utime(tmp_path / digest, (at, at))
    new(tmp_path, "one").tidy(keep)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == ({"one", "three"} if keep else set())


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [
        ("none", "none", []),
        ("none", "failures", [0, 3]),  # 0 failed; 3 is a success that was not verified
        ("none", "examples", [0, 1, 3]),  # and of the successes the first
        ("none", "all", [0, 1, 2, 3]),
        ("failures", "none", []),
        ("failures", "examples", [1]),
        ("failures", "all", [1, 2]),
        ("examples", "all", []),
        ("all", "failures", []),
    ],
)
def test_another_choice_of_films_runs_the_episodes_that_lack_theirs(tmp_path, before, after, again):
    recorder = Recorder(tmp_path / "parts", "d", COMMON, {schemas.FILMS: before})
    keys = [EpisodeKey("libero_goal", 2, init_state, 0) for init_state in range(4)]
    for key, success, verified in zip(keys, (None, 20, 20, 20), (None, True, None, False), strict=True):
        record = an_episode(success)
        record.episode["verified_success"] = verified
        filmed = before in ("examples", "all") or (before == "failures" and key.init_state in (0, 3))
        film = tmp_path / f"{key.name}.mp4"
        film.write_bytes(b"film")
        recorder.record(key, record, film if filmed else None)
    assert unfilmed(recorder.parts(), keys, after) == {keys[i].name for i in again}


def test_the_film_of_a_success_that_is_not_verified_is_kept(tmp_path):
    recorder = new(tmp_path / "parts")
    for key, verified in zip(KEYS, (True, True, False), strict=True):
        film = tmp_path / f"{key.name}.mp4"
        film.write_bytes(b"film")
        record = an_episode(20)
        record.episode["verified_success"] = verified
        recorder.record(key, record, film)
    recorder.assemble(KEYS, tmp_path / "out", "examples")
    kept = [row["video"] for row in schemas.read_table(tmp_path / "out/episodes.parquet", schemas.EPISODES).to_pylist()]
    assert kept == ["videos/init_000_repeat_0.mp4", None, "videos/init_002_repeat_0.mp4"]
