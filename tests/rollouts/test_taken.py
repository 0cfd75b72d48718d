"""Finished episodes as rows of tables: of a run that the user names, whoever made it. test_growth.py runs the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rollouts.scripted import DRAFT, FULL, Simulator, run
from rollouts.shards import spec

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.rollouts import taken
from flashtrail.rollouts.recorder import SENT, SHEET, VIDEO, Recorder
from flashtrail.rollouts.shard import episodes_of
from flashtrail.tables import schemas

TWO, THREE = spec(init_states=(0, 1), server=["no", "{port}"]), spec(init_states=(0, 1, 2), server=["no", "{port}"])
SHARD = "results/rollouts/clean/task_2"


def recorder(parts: Path, told=TWO, **more) -> Recorder:
    common = {"arm": told.arm, "policy": told.policy, "seed": told.seed, "run_id": "r"}
    return Recorder(parts, told.digest, common, {**told.metadata, schemas.FILMS: "all", "device": "theirs"} | more)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Somebody's run of two episodes, the second filmed; its parts are not there."""
    own = recorder(tmp_path / "parts")
    for key in episodes_of(TWO):
        record, *_ = run([(12, FULL), (0, DRAFT), (12, FULL), (9, DRAFT)], Simulator(20 if key.init_state else None))
        own.films().joinpath("film.mp4").write_bytes(b"film")
        own.films().joinpath("film.jpg").write_bytes(b"sheet")
        own.films().joinpath("film.npz").write_bytes(b"sent")
        own.record(key, record, own.films() / "film.mp4" if key.init_state else None)
    own.assemble(episodes_of(TWO), tmp_path / "theirs" / SHARD)
    return tmp_path / "theirs"


def take(theirs: Path, told=THREE) -> tuple[Recorder, list[str]]:
    ours = recorder(theirs.parent / "ours", told, device="ours")
    return ours, taken.take(told, ours, theirs.parent / "nowhere", [theirs])


def test_equal_episodes_become_parts_and_say_where_they_are_from(theirs):
    ours, said = take(theirs)
    assert said == [f"2 episodes are taken from {theirs}"]
    assert {name: (part.outcome, part.filmed) for name, part in ours.parts().items()} == {
        "init_000_repeat_0": ("horizon", False),
        "init_001_repeat_0": ("success", True),
    }
    part = ours.directory / "init_001_repeat_0"
    assert (
        (part / VIDEO).read_bytes() == b"film"
        and (part / SHEET).read_bytes() == b"sheet"
        and (part / SENT).read_bytes() == b"sent"
    )
    ours.assemble(episodes_of(TWO), theirs.parent / "out")
    assert (theirs.parent / "out/videos/init_001_repeat_0.npz").read_bytes() == b"sent"
    for name, schema in schemas.SCHEMAS.items():
        again, before = (
            schemas.read_table(d / f"{name}.parquet", schema) for d in (theirs.parent / "out", theirs / SHARD)
        )
        assert again.to_pylist() == before.to_pylist()
    about = schemas.read_metadata(theirs.parent / "out/rounds.parquet")
    source = provenance.sha256_file(theirs / SHARD / "episodes.parquet")
    assert json.loads(about[schemas.TAKEN]) == {source: ["2/0/0", "2/1/0"]} and about["device"] == "theirs"


def test_what_was_run_with_anything_else_is_not_taken(theirs):
    ours, said = take(theirs, THREE.model_copy(update={"replan_steps": 6}))
    assert ours.outcomes() == {} and said == [f"nothing is taken from {theirs}: its spec_digest is another"]


def test_the_films_left_out_of_a_bundle_are_not_made_again(theirs):
    (theirs / SHARD / "videos/init_001_repeat_0.mp4").unlink()
    ours, _ = take(theirs)
    part = ours.parts()["init_001_repeat_0"]
    assert (part.filmed, part.films) == (False, "all")
    ours.assemble(episodes_of(TWO), theirs.parent / "out")
    assert schemas.read_table(theirs.parent / "out/sheets.parquet", schemas.SHEETS)["jpeg"].to_pylist() == [b"sheet"]


def rewritten(theirs: Path, table: str, change) -> None:
    path = theirs / SHARD / f"{table}.parquet"
    rows = schemas.read_table(path, schemas.SCHEMAS[table]).to_pylist()
    schemas.write_table(path, change(rows), schemas.SCHEMAS[table], schemas.read_metadata(path))


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("rounds", lambda rows: rows[1:], "init_000_repeat_0 contradicts its rounds or steps"),
        ("steps", lambda rows: [*rows, rows[-1]], "init_001_repeat_0 contradicts its rounds or steps"),
        ("episodes", lambda rows: [rows[0], *rows], "init_000_repeat_0 contradicts"),
        ("episodes", lambda rows: [row | {"success": True} for row in rows], "contradicts"),
        ("episodes", lambda rows: [row | {"arm": "../../x"} for row in rows], "a row's arm is '../../x', not 'clean'"),
        ("episodes", lambda rows: [row | {"init_state": -1} for row in rows[:1]], "contradicts"),
    ],
)
def test_rows_that_contradict_themselves_are_refused_and_none_is_taken(theirs, table, change, message):
    rewritten(theirs, table, change)
    with pytest.raises(UserError, match=message):
        take(theirs)
    assert recorder(theirs.parent / "ours", THREE).outcomes() == {}


def test_a_damaged_or_missing_table_and_a_link_are_refused(theirs, monkeypatch):
    path = theirs / SHARD / "steps.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(UserError, match=r"steps\.parquet is damaged"):
        take(theirs)
    path.unlink()
    with pytest.raises(UserError, match=r"steps\.parquet is missing"):
        take(theirs)
    elsewhere = theirs.parent / "secret.parquet"
    elsewhere.write_bytes(content)
    path.symlink_to(elsewhere)
    with pytest.raises(UserError, match="is a link that leads out of"):
        take(theirs)
    path.unlink()
    path.write_bytes(content)
    assert pq.read_metadata(path).num_rows > 10
    monkeypatch.setattr(taken, "MOST_ROWS", 10)
    with pytest.raises(UserError, match="larger than the table of a shard"):
        take(theirs)


def test_the_shards_own_tables_in_pieces_are_run_again(theirs):
    """A kill while tables were written: no error, nothing taken."""
    own = theirs / SHARD
    (own / "rounds.parquet").unlink()
    ours = recorder(theirs.parent / "ours", THREE)
    assert taken.take(THREE, ours, own, []) == [] and ours.outcomes() == {}
