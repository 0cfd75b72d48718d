"""Tables are written whole, carry their origin, and refuse what is not theirs by name."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flashtrail.errors import UserError
from flashtrail.evidence import tables

STEP = {
    "arm": "clean",
    "suite": "libero_goal",
    "task_id": 0,
    "init_state": 3,
    "repeat": 0,
    "step": 5,
    "action": [0.0, 0.5, -0.25, 0.0, 0.0, 0.0, -1.0],
    "reward": 0.0,
    "done": False,
    "gripper_closed": False,
    "eef_pos": [0.5, 0.0, 1.0],
    "img_mean": float("nan"),
    "img_mean_sent": 91.5,
    "round": 0,
    "offset_in_chunk": 5,
    "stale": None,
}


def test_a_table_comes_back_as_written_with_its_origin(tmp_path):
    path = tmp_path / "arm=x" / "steps.parquet"
    path.parent.mkdir()
    tables.write_table(path, [STEP], tables.STEPS, {"config_digest": "abc", "flashtrail.device": "cpu"})
    table = tables.read_table(path, tables.STEPS)
    assert table.to_pylist() == [{**STEP, "img_mean": None}]
    assert table.schema.equals(tables.STEPS, check_metadata=False)
    assert tables.read_metadata(path) == {
        "config_digest": "abc",
        "artifact_digest": "",
        "code_digest": "",
        "device": "cpu",
    }
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert [p.name for p in path.parent.iterdir()] == ["steps.parquet"]


def test_no_rows_are_a_table_too(tmp_path):
    tables.write_table(tmp_path / "t.parquet", [], tables.ROUNDS, {})
    assert tables.read_table(tmp_path / "t.parquet", tables.ROUNDS).num_rows == 0


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
        tables.write_table(tmp_path / "t.parquet", [{**STEP, **change}], tables.STEPS, {})
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"arm": ["clean"]}), path)
    with pytest.raises(UserError, match=r"t\.parquet: column 'action' is missing"):
        tables.read_table(path, tables.STEPS)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        tables.read_table(path, tables.STEPS)
    with pytest.raises(UserError, match="does not exist"):
        tables.read_table(tmp_path / "none.parquet", tables.STEPS)
