"""The shortcuts against the official client's loop, in small; ``make fidelity`` does it in full."""

from __future__ import annotations

import json

import fidelity
import pytest

TASK = 3  # a drawer and a bowl: hard resets add samplers here, and an episode could depend on those before it


@pytest.fixture(scope="module")
def checked() -> list[fidelity.Row]:
    return fidelity.check([TASK], steps=20)


@pytest.mark.simulator
@pytest.mark.slow
@pytest.mark.parametrize("scene_seed", fidelity.SCENES)
def test_states_and_pictures_are_those_of_the_clients_loop(scene_seed, checked):
    rows = [row for row in checked if row.scene_seed == scene_seed]
    print(fidelity.table(rows))
    assert [(row.init_state, row.after) for row in rows] == [(0, None), (1, 0), (1, None), (0, 1)]
    assert all(row.equal and row.states == 21 and row.pictures == 5 for row in rows), fidelity.table(rows)


TRACE = {"states": ["a", "b", "c"], "pictures": ["p", "q"]}
RUN = fidelity.Run("ours", "episode", 3, (0, 1), 2)


@pytest.mark.parametrize(
    "found, difference",
    [
        (TRACE, ""),
        (TRACE | {"states": ["a", "x", "c"]}, "states from number 1"),
        (TRACE | {"pictures": ["p", "x"]}, "pictures from number 1"),
        (TRACE | {"states": ["a", "b"]}, "states: 2 against 3"),
        (TRACE | {"pictures": []}, "pictures: 0 against 2"),
    ],
)
def test_a_difference_is_found_and_named(found, difference):
    row = fidelity._row(RUN, 0, None, found, TRACE)
    assert (row.equal, row.difference) == (not difference, difference)


def test_the_table_and_the_exit_code_tell(monkeypatch, tmp_path, capsys):
    rows = [fidelity.Row(3, "episode", 0, None, 121, 13, True, ""), fidelity.Row(3, "official", 1, 0, 9, 2, False, "x")]
    monkeypatch.setattr(fidelity, "check", lambda *_, **__: rows)
    assert fidelity.main(["--out", str(tmp_path / "fidelity.json")]) == 1
    printed = capsys.readouterr().out
    assert "DIFFERENT (x)" in printed and "1/2 checks identical" in printed
    assert [check["equal"] for check in json.loads((tmp_path / "fidelity.json").read_text())["checks"]] == [True, False]
    monkeypatch.setattr(fidelity, "check", lambda *_, **__: rows[:1])
    assert fidelity.main(["--out", str(tmp_path / "fidelity.json")]) == 0
