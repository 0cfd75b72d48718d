"""The model card's success for machines: counts by task with their starts, and nothing from a hole."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import published
from flashtrail.training import card, evaluate, pipeline


def evaluated(place: pipeline.Workplace, file: str, rows: list[dict[str, object]]) -> None:
    provenance.json_dump({"summary": {}, "episodes": rows}, place.variant("pi0_nano") / f"{file}.json")


def episodes(tasks: range, states: range, scenes: range) -> list[dict[str, object]]:
    """Init state 0 fails in scene 1."""
    return [
        {"task": task, "init_state": state, "scene": scene, "success": (state, scene) != (0, 1)}
        for task in tasks
        for state in states
        for scene in scenes
    ]


@pytest.fixture
def place(tmp_path: Path) -> pipeline.Workplace:
    return pipeline.Workplace(tmp_path / "work", tmp_path / "resources")


def test_counts_by_task_are_read_back_as_published_figures(place):
    evaluated(place, "evaluation_flash", episodes(range(2), range(5), range(2)))
    path = card.publish(place, "pi0_nano")
    figures = published.load(path)
    assert path == place.resources / "published" / "pi0_nano.yaml"
    for task in range(2):
        found = published.success_of(figures, "pi0_nano/FLASH", evaluate.SUITE, task)
        assert (found.k, found.n) == (9, 10)
        assert found.starts == published.Starts(seed=evaluate.SEED, init_states=[0, 1, 2, 3, 4], repeats=2)


def test_an_evaluation_with_a_hole_is_named(place):
    evaluated(place, "evaluation_full", episodes(range(1), range(5), range(2))[:-1])
    with pytest.raises(UserError, match=r"evaluation_full\.json: task 0 was not evaluated at every init state"):
        card.publish(place, "pi0_nano")


def test_without_an_evaluation_nothing_is_published(place):
    assert card.publish(place, "pi0_nano") is None and not place.resources.exists()
