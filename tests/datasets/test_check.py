"""check-dataset says what each loader would refuse, or what a set holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import sets

from flashtrail import cli


def checked(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, list[str], list[str]]:
    code = cli.main(["check-dataset", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err.splitlines()


def test_a_set_that_both_read_is_summarised(v3, capsys) -> None:
    code, out, err = checked(capsys, v3)
    assert (code, err) == (0, [])
    assert out[0] == "3 episodes, 35 steps at 30 a second (1 s); 9 to 14 each, median 12"
    assert "task 'pick the cube': 2 episodes" in out
    assert "shortest: episode 1 (9 steps)" in out and "held out by training: episode 1" in out
    kinds = [line.split()[0] for line in out]
    assert kinds[kinds.index("state") :] == ["state", *sets.JOINTS, "action", *sets.JOINTS]


def test_an_older_set_is_refused_by_lerobot_alone(v21, capsys) -> None:
    code, out, err = checked(capsys, v21)
    assert code == 1 and out[0].startswith("3 episodes")
    (line,) = err
    assert line.startswith(f"{v21}: LeRobot 0.4.4: codebase_version v2.1, it reads v3.0")


def test_every_episode_that_cannot_be_read_is_named(copies, capsys) -> None:
    root = copies["v21"]
    (root / f"videos/chunk-000/{sets.CAMERAS[0]}/episode_000000.mp4").write_bytes(b"no")
    states, actions = sets.numbers(2)
    sets.table(sets.data_file(root, 2), 2, states[:, :5], actions, 1)
    code, out, err = checked(capsys, root)
    assert code == 1 and out[0].startswith("1 episodes")
    assert len(err) == 3 and "episode_000000.mp4 is not an MP4 video" in err[1]
    assert "episode 2: observation.state has 5 dims, meta/info.json says 6" in err[2]


def test_times_off_their_frames_are_refused_by_lerobot(copies, capsys) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = copies["v3"] / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    late = np.asarray(table["timestamp"]) + np.float32(0.004)
    place = table.column_names.index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", pa.array(late)), path)
    code, _, err = checked(capsys, copies["v3"])
    assert code == 1 and len(err) == 3
    assert err[0].endswith("LeRobot 0.4.4: episode 0: a timestamp is 0.004 s from frame_index / fps")


def test_what_only_our_training_refuses_is_said_so(tmp_path, capsys) -> None:
    root = sets.v21(tmp_path / "set", cameras=(*sets.CAMERAS, "observation.images.top"))
    _, _, err = checked(capsys, root)
    assert len(err) == 2 and err[1].startswith(f"{root}: our training: it has 3 cameras")


def test_a_set_that_cannot_be_opened_is_one_line(copies, capsys) -> None:
    sets.change(copies["v3"], codebase_version="v9")
    code, out, err = checked(capsys, copies["v3"])
    assert (code, out) == (1, []) and len(err) == 1 and "LeRobot 0.4.4 and our training: " in err[0]


def test_a_training_set_is_summarised_and_a_damaged_one_named(v3, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert cli.main(["import-dataset", str(v3), "--out", str(out)]) == 0
    capsys.readouterr()
    code, lines, err = checked(capsys, out)
    assert (code, err) == (0, []) and lines[0].startswith("3 episodes, 35 steps at 30 a second")
    path = out / "task0/ep0001.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"state": arrays["state"][:, :4]})
    code, _, (line,) = checked(capsys, out)
    assert code == 1 and "ep0001.npz: state has other dims than in the set's first episode" in line
    path.write_bytes(path.read_bytes()[:300])
    code, _, (line,) = checked(capsys, out)
    assert code == 1 and "ep0001.npz is damaged, or no demonstration" in line


def test_a_directory_that_is_no_set_is_one_line(tmp_path, capsys) -> None:
    code, _, (line,) = checked(capsys, tmp_path)
    assert code == 1 and "is no set: it has neither meta/info.json (LeRobot) nor" in line
