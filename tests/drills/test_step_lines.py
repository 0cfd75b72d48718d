"""JSON lines as people log them: read into episodes, or refused by file and row."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drills import made
from drills.written import write_log
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.drills import bounds, logs, step_lines

LENGTHS = (70, 84, 91)


def rows() -> list[dict[str, Any]]:
    """Three rewarded episodes as one log; the number of each is under ``number``, which nobody reads."""
    found = []
    for number, steps in enumerate(LENGTHS):
        episode = made.episode(number, steps=steps)
        for step, (action, mean, reward) in enumerate(
            zip(episode.actions, episode.img_mean, episode.reward, strict=True)
        ):
            picture = None if np.isnan(mean) else float(mean)
            found.append({"step": step, "img_mean": picture, "action": action.tolist(), "reward": float(reward)})
            found[-1]["number"] = number
    return found


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def lengths(path: Path) -> tuple[int, ...]:
    return tuple(len(episode) for episode in step_lines.read(path))


def whole_run(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with `step` counted over the whole run."""
    return [{**row, "step": place} for place, row in enumerate(lines)]


def test_a_counter_may_begin_at_0_or_1_or_anywhere_and_again(tmp_path):
    for first in (0, 1, 10):
        path = written(tmp_path / "a.jsonl", [{**row, "step": row["step"] + first} for row in rows()])
        assert lengths(path) == LENGTHS


def test_a_counter_over_the_whole_run_is_refused_by_row(tmp_path):
    path = written(tmp_path / "a.jsonl", whole_run(rows()))
    with pytest.raises(UserError, match=r"a\.jsonl:71: step 70 goes on after the reward of step 69: .* from 0 in each"):
        step_lines.read(path)
    failures = [{**row, "reward": 0.0} for row in rows()] * 5
    with pytest.raises(UserError, match=r"1225 steps in a row, and no episode of LIBERO takes more than 520"):
        step_lines.read(written(path, whole_run(failures)))


@pytest.mark.parametrize("mark", ["episode", "done", "heading"])
def test_it_is_split_where_the_log_tells_the_episodes_apart(tmp_path, mark):
    lines = whole_run(rows())
    if mark == "episode":
        lines = [{**row, "episode": f"e{row['number']}"} for row in lines]
    elif mark == "done":
        lines = [{**row, "done": row["reward"] > 0} for row in lines]
    else:
        starts = {0, LENGTHS[0], LENGTHS[0] + LENGTHS[1]}
        lines = [line for place, row in enumerate(lines) for line in ([{"task": 1}] if place in starts else []) + [row]]
    assert lengths(written(tmp_path / "a.jsonl", lines)) == LENGTHS


def test_episodes_that_are_mixed_are_put_together_by_their_name(tmp_path):
    mixed = sorted(({**row, "episode": row["number"]} for row in rows()), key=lambda row: row["step"])
    assert sorted(lengths(written(tmp_path / "a.jsonl", mixed))) == sorted(LENGTHS)
    with pytest.raises(UserError, match=r":2: duplicate step 0 \(line 1\): .* give each line its `episode`"):
        step_lines.read(written(tmp_path / "a.jsonl", [{**row, "episode": None} for row in mixed]))


def test_a_client_that_goes_on_after_its_success_is_read(tmp_path):
    longer = [line for row in rows() for line in ([row] if not row["reward"] else [row, {**row, "reward": 0.0}])]
    for before, row in itertools.pairwise(longer):
        row["step"] += row["step"] == before["step"]
    assert lengths(written(tmp_path / "a.jsonl", longer)) == tuple(n + 1 for n in LENGTHS)


def test_rows_that_are_doubled_or_out_of_order_are_refused_by_row(tmp_path):
    lines = rows()
    with pytest.raises(UserError, match=r"a\.jsonl:2: duplicate step 0 \(line 1\)"):
        step_lines.read(written(tmp_path / "a.jsonl", [line for row in lines for line in (row, row)]))
    lines[30], lines[31] = lines[31], lines[30]
    with pytest.raises(UserError, match=r"a\.jsonl:32: step 30 comes after step 31: rows are out of order"):
        step_lines.read(written(tmp_path / "a.jsonl", lines))


@pytest.mark.parametrize("name", [{}, {"episode": "a"}, {"done": False}])
def test_steps_that_are_missing_within_an_episode_are_refused_by_row(tmp_path, name):
    lines = [{**row, **name} for row in rows()[: LENGTHS[0]]]
    with pytest.raises(UserError, match=r"a\.jsonl:4: step 7 comes after step 2 \(line 3\): lines are missing"):
        step_lines.read(written(tmp_path / "a.jsonl", lines[:3] + lines[7:]))


ROW = '{"step": 0, "action": [0, 0, 0, 0, 0, 0, 0], "reward": 0, "img_mean": null}'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ROW.replace("[0,", "[NaN,"), ":1: action[0] is not finite"),
        (ROW.replace("[0,", "[true,"), ":1: action is not a list of 7 numbers"),
        (ROW.replace("[0,", "[0, 0,"), ":1: action is not a list of 7 numbers"),
        (ROW.replace("[0,", "[1" + "0" * 400 + ","), ":1: action[0] is not finite"),
        (ROW.replace('"reward": 0', '"reward": NaN'), ":1: reward is not finite"),
        (ROW.replace('"reward": 0', '"reward": "1"'), ":1: reward is '1', not a number"),
        (ROW.replace('"reward": 0, ', ""), ":1: reward is None, not a number"),
        (ROW.replace("null", '"dark"'), ":1: img_mean is 'dark', not a number"),
        (ROW.replace("null", "Infinity"), ":1: img_mean is not finite"),
        (ROW.replace('"step": 0', '"step": 0.5'), ":1: step is 0.5, not a whole number"),
        (ROW.replace('"step": 0', '"step": 1' + "0" * 400), ":1: step is not finite"),
        (ROW.replace('"step": 0', '"step": 1' + "0" * 5000), ":1: not a control step"),
        (ROW.replace('"step": 0', '"step": 99999999999999999999'), ":1: step is 1e+20, over 1,000,000"),
        (ROW.replace('"step": 0', '"step": 1000001'), ":1: step is 1000001, over 1,000,000"),
        (ROW.replace('"step": 0', '"step": -1'), ":1: step is -1: steps are counted from 0"),
        (ROW.replace("[0,", "[-1e300,"), ":1: action[0] is -1e+300, over 1,000,000"),
        (ROW.replace("null", "1e300"), ":1: img_mean is 1e+300, over 1,000,000"),
        (ROW.replace('"action"', '"actions"'), ":1: a line with `step` has no `action`"),
        (ROW + '\n{"img_mean": 3, "reward": 0}', ":2: a line with `reward` has no `action`"),
        (ROW.replace('"step"', '"reward"'), ":1: not a control step (duplicate 'reward')"),
        (ROW + "\n" + ROW[:20], ":2: not JSON"),
        (ROW + "\n[1]", ":2: a list, not an object"),
        (ROW + "\n" + "[" * 100_000, ":2: it is nested too deeply"),
        ('{"x": "' + "y" * (1 << 20) + '"}', ":1: a line of over 1 MiB"),
        (ROW.encode("utf-16"), ":1: not UTF-8"),
        ("é".encode("latin-1"), ":1: not UTF-8"),
        (b"\x1f\x8b\x08\x00\xff", ":1: packed with gzip: gunzip it"),
        (b"\x00\x01", ":1: not JSON"),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path, content, words):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        step_lines.read(path)
    assert str(caught.value).startswith(f"{path}{words}")


def test_a_byte_order_mark_crlf_and_empty_lines_are_no_matter_and_nan_is_no_picture(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{ROW}\r\n\r\n{ROW.replace('0,', '1,', 1).replace('null', 'NaN')}".encode())
    ((first, second),) = step_lines.read(path)
    assert (first.step, second.step) == (0, 1) and np.isnan(second.picture)


@pytest.mark.parametrize("name", ["log.jsonl.gz", "log.json", "log.csv", "log"])
def test_a_file_of_another_kind_is_one_line_and_its_neighbours_are_not_read(tmp_path, name):
    written(tmp_path / "other.jsonl", rows())
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(UserError, match="is not a step log"):
        logs.read(tmp_path / name)


def test_a_gripper_with_its_sign_turned_around_is_named(tmp_path, capsys):
    """A log that is clean but for action[6], rewards and all."""
    bounds.save(made.reference(), tmp_path / "bounds.json")
    for sign, code, words in ((1.0, 0, "nothing found"), (-1.0, 1, "likely: gripper_sign, in 5/5 episodes")):
        episodes = [made.episode(i, sign=sign) for i in range(5)]
        path = write_log(tmp_path / "log.jsonl", episodes, ["clean"] * 5)
        assert cli.main(["doctor", str(path), "--bounds", str(tmp_path / "bounds.json")]) == code
        assert words in capsys.readouterr().out


_VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.floats(), max_size=8)
)
_LINE = st.one_of(
    st.dictionaries(st.sampled_from(["step", "action", "reward", "img_mean", "episode", "done", "x"]), _VALUE),
    st.builds(
        lambda step, more: json.loads(ROW) | {"step": step} | more,
        st.integers(0, 5),
        st.dictionaries(st.sampled_from(["reward", "episode", "done", "img_mean"]), _VALUE, max_size=1),
    ),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.one_of(_LINE.map(json.dumps), st.text(max_size=10)), max_size=8), raw=st.binary(max_size=5))
def test_any_file_is_episodes_or_one_line(tmp_path, lines, raw):
    path = tmp_path / "a.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + raw)
    try:
        found = logs.read(path).episodes
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert sum(len(logged.episode.actions) for logged in found) <= len(lines) + 1
