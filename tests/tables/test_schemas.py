"""Tables are written whole, carry their origin, and refuse what is not theirs by name."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flashtrail.base import parquet
from flashtrail.base.errors import UserError
from flashtrail.tables import schemas

STEP = {
    "arm": "clean",
    "suite": "libero_goal",
    "task_id": 0,
    "init_state": 3,
    "repeat": 0,
    "step": 5,
    "action": [0.0, 0.5, -0.25, 0.0, 0.0, 0.0, -1.0],
    "executed": [0.0, 0.25, -0.125, 0.0, 0.0, 0.0, -1.0],
    "limited": "step box",
    "force_n": 5.5,
    "reward": 0.0,
    "done": False,
    "gripper_closed": False,
    "eef_pos": [0.5, 0.0, 1.0],
    "img_mean": float("nan"),
    "img_mean_sent": 91.5,
    "round": 0,
    "offset_in_chunk": 5,
    "stale": None,
    "who": None,
}


def test_a_table_comes_back_as_written_with_its_origin(tmp_path):
    path = tmp_path / "arm=x" / "steps.parquet"
    path.parent.mkdir()
    schemas.write_table(path, [STEP], schemas.STEPS, {"config_digest": "abc", "flashtrail.device": "cpu"})
    table = schemas.read_table(path, schemas.STEPS)
    assert table.to_pylist() == [{**STEP, "img_mean": None}]
    assert table.schema.equals(schemas.STEPS, check_metadata=False)
    assert schemas.read_metadata(path) == {
        "config_digest": "abc",
        "artifact_digest": "",
        "code_digest": "",
        "device": "cpu",
    }
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert [p.name for p in path.parent.iterdir()] == ["steps.parquet"]


def test_no_rows_are_a_table_too(tmp_path):
    schemas.write_table(tmp_path / "t.parquet", [], schemas.ROUNDS, {})
    assert schemas.read_table(tmp_path / "t.parquet", schemas.ROUNDS).num_rows == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "unknown column 'extra'"),
        ({"reward": None}, "column 'reward' is empty in row 0"),
        ({"action": [0.0] * 6}, "7"),
    ],
)
def test_a_wrong_row_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises((ValueError, pa.ArrowInvalid), match=message):
        schemas.write_table(tmp_path / "t.parquet", [{**STEP, **change}], schemas.STEPS, {})
    assert not list(tmp_path.iterdir())


def test_steps_of_an_arm_without_limits_stand_beside_those_of_one_with(tmp_path):
    plain = {**STEP, "step": 6, **dict.fromkeys(schemas.LIMITED_STEP), "img_mean": None}
    schemas.write_table(tmp_path / "t.parquet", [STEP, plain], schemas.STEPS, {})
    assert schemas.read_table(tmp_path / "t.parquet", schemas.STEPS).to_pylist()[1] == plain
    earlier = schemas.to_table([plain], schemas.STEPS).drop_columns([*schemas.LIMITED_STEP, "who"])
    parquet.write(earlier, tmp_path / "earlier.parquet")
    assert schemas.read_table(tmp_path / "earlier.parquet", schemas.STEPS).to_pylist() == [plain]


def test_a_table_of_an_earlier_version_is_read_with_its_later_columns_empty(tmp_path):
    """As written before Lift's metrics were columns: every column but those."""
    row = {
        f.name: None if f.nullable else {pa.string(): "x", pa.bool_(): True}.get(f.type, 1) for f in schemas.EPISODES
    }
    earlier = schemas.to_table([row], schemas.EPISODES).drop_columns([*schemas.METRICS, *schemas.HANDED])
    parquet.write(earlier, tmp_path / "t.parquet")
    assert schemas.read_table(tmp_path / "t.parquet", schemas.EPISODES).to_pylist() == [row]
    some = schemas.read_table(tmp_path / "t.parquet", schemas.EPISODES, ["naive_success", "steps"])
    assert some.to_pylist() == [{"naive_success": None, "steps": 1}]
    parquet.write(earlier.drop_columns(["lifts"]), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="column 'lifts' is missing"):
        schemas.read_table(tmp_path / "t.parquet", schemas.EPISODES)


def test_rounds_of_before_steps_used_are_read_with_it_empty(tmp_path):
    row = {f.name: None if f.nullable else {pa.string(): "x", pa.bool_(): True}.get(f.type, 1) for f in schemas.ROUNDS}
    parquet.write(schemas.to_table([row], schemas.ROUNDS).drop_columns(["steps_used"]), tmp_path / "t.parquet")
    assert schemas.read_table(tmp_path / "t.parquet", schemas.ROUNDS).to_pylist() == [row]
    schemas.write_table(tmp_path / "t.parquet", [row | {"steps_used": 9}], schemas.ROUNDS, {})
    assert schemas.read_table(tmp_path / "t.parquet", schemas.ROUNDS, ["steps_used"]).to_pylist() == [{"steps_used": 9}]


def test_a_wrong_file_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"arm": ["clean"]}), path)
    with pytest.raises(UserError, match=r"t\.parquet: column 'action' is missing"):
        schemas.read_table(path, schemas.STEPS)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        schemas.read_table(path, schemas.STEPS)
    with pytest.raises(UserError, match="does not exist"):
        schemas.read_table(tmp_path / "none.parquet", schemas.STEPS)


def test_every_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    """Pages, headers, statistics, footer, origin: whatever a disk flips, no other value and no other origin is read."""
    path, schema = tmp_path / "t.parquet", schemas.SHEETS
    key = {name: STEP[name] for name in schemas.EPISODE_KEY}
    rows = [{**key, "task_id": task, "outcome": "success", "jpeg": bytes([task] * 9)} for task in range(6)]
    schemas.write_table(path, rows, schema, {"config_digest": "abc", "device": "cpu"})
    whole, right, origin, refused = path.read_bytes(), schemas.read_table(path, schema), schemas.read_metadata(path), 0
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            assert schemas.read_table(path, schema) == right, f"byte {place} of {len(whole)}"
            assert schemas.read_metadata(path) == origin, f"byte {place} of {len(whole)}"
        except UserError as error:
            assert str(path) in str(error) and str(error).endswith("remove it and run again")
            refused += 1
    assert refused >= len(whole) - len(parquet.KEY), "only the name of the checksum may be flipped unseen"


def test_a_table_without_a_checksum_is_read_as_before(tmp_path):
    path = tmp_path / "t.parquet"
    schemas.write_table(path, [STEP], schemas.STEPS, {"device": "cpu"})
    table = parquet.read(path)
    pq.write_table(table, tmp_path / "old.parquet", compression="zstd")
    assert parquet.KEY not in (tmp_path / "old.parquet").read_bytes()
    assert schemas.read_table(tmp_path / "old.parquet", schemas.STEPS) == schemas.read_table(path, schemas.STEPS)
    assert schemas.read_metadata(tmp_path / "old.parquet")["device"] == "cpu"
