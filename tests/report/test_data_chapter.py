"""The chapter on sets of demonstrations: every number is the record's, what a stranger wrote is text."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from flashtrail.base import provenance
from flashtrail.claims.campaign import Campaign
from flashtrail.report import data_chapter, data_figures, rendering, thumbnails
from flashtrail.report.table_formats import FORMATS

ROOT = Path(__file__).parents[2]


def dim(name: str, **odd: Any) -> dict[str, Any]:
    usual = {"min": -1.0, "max": 1.0, "mean": 0.25, "std": 0.5, "q01": -0.9, "q99": 0.95, "moves": 0.9}
    return {
        "name": name,
        "note": "",
        "saturates": [],
        "histogram": [3, 0, 7],
        **usual,
        "at_min": 0.0,
        "at_max": 0.0,
        **odd,
    }


def about(**other: Any) -> dict[str, Any]:
    """A record as datasets/survey.py writes it: three episodes of two tasks, the first and last of them pictured."""
    rows = [("task0/ep0000", 0, "push", 40, 2), ("task0/ep0016", 16, "push", 90, 3), ("task1/ep0000", 0, "pick", 60, 2)]
    each = [
        {"name": name, "number": n, "task": task, "steps": steps, "switches": turns, "held_out": n == 16, "static": 0.1}
        for name, n, task, steps, turns in rows
    ]
    return {
        **{"path": "demos", "cameras": ["agent", "wrist"], "episodes": 3, "steps": 190, "fps": 20.0, "static": 0.1},
        **{"tasks": ["push", "pick"], "each": each, "odd": [["shortest", 0], ["longest", 1]], "refused": []},
        "state": [dim("x"), dim("fixed", note="constant", min=2.0, max=2.0)],
        "action": [
            dim("x", saturates=["max"], at_max=0.34),
            dim("yaw", note="hardly moves", moves=0.01),
            dim("gripper"),
        ],
        "grippers": ["gripper"],
        "limits": {"still": 0.002, "hardly": 0.05, "bound": 0.001, "saturates": 0.05},
        "pictured": [{"episode": 0, "box": [0, 0, 224, 224]}, {"episode": 2, "box": [224, 0, 448, 224]}],
        **other,
    }


def sheet() -> bytes:
    """Two episodes' pictures, black and white."""
    buffer, image = io.BytesIO(), np.zeros((224, 448, 3), np.uint8)
    image[:, 224:] = 255
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


def given(place: Path, jpeg: bytes | None = None, **other: Any) -> Campaign:
    provenance.json_dump(about(**other), place / "demos.json")
    (place / "demos.jpg").write_bytes(sheet() if jpeg is None else jpeg)
    return Campaign({"datasets": [str(place / "demos.json")], "dataset_sheets": [str(place / "demos.jpg")]})


def words(part: Any) -> str:
    return " ".join(BeautifulSoup(str(part), "html.parser").get_text(" ").replace("\u00a0", " ").split())


def test_facts_findings_and_tables_are_the_records(tmp_path: Path) -> None:
    text = words(made := data_chapter.section(given(tmp_path)))
    assert "Episodes 3 Steps 190 Duration 9.5 s at 20 Hz Tasks 2 Steps without motion 10.0 %" in text
    assert "Gripper switches per episode 2\u20133, median 2 Held out by training 1 of 3" in text
    assert "Constant: state fixed." in text and "Hardly move (in less than 5 % of the steps): action yaw." in text
    assert "Saturate (at a bound in 5 % of the steps or more): action x (34 % at max)." in text
    assert "Shortest: task0/ep0000 (40 steps); longest: task0/ep0016 (90 steps)." in text
    tasks, dims = made.tables
    assert [[words(row[key]) for key in ("task", "episodes", "steps", "length", "held")] for row in tasks.rows] == [
        ["push", "2", "130", "40\u201390, median 65", "16"],
        ["pick", "1", "60", "60", "\u2013"],
    ]
    assert [words(row["dim"]) for row in dims.rows] == [
        "state x",
        "state fixed",
        "action x",
        "action yaw",
        "action gripper",
    ]
    assert words(dims.rows[2]["note"]) == "saturates: 34 % at max" and dims.rows[2]["at_max"] == "34.0\u00a0%"
    for write in FORMATS.values():
        assert "gripper" in write(dims)


def test_each_picture_is_its_episodes(tmp_path: Path) -> None:
    page = BeautifulSoup(str(data_chapter.section(given(tmp_path))), "html.parser")
    shown = page.select(".gallery figure")
    assert [figure.figcaption.get_text().replace("\u00a0", " ") for figure in shown] == [
        "task0/ep0000, 40 steps, shortest",
        "task1/ep0000, 60 steps",
    ]
    for figure, grey in zip(shown, (0, 255), strict=True):
        data = base64.b64decode(figure.img["src"].partition(",")[2])
        assert abs(int(np.asarray(Image.open(io.BytesIO(data)))[100, 100, 0]) - grey) < 3


def test_a_sheet_that_is_damaged_or_missing_leaves_the_numbers(tmp_path: Path) -> None:
    assert thumbnails.cut(b"no", [[0, 0, 1, 1]]) == [] and thumbnails.cut(sheet(), [["a", 0, 1, 1]]) == []
    page = data_chapter.section(given(tmp_path, b"no"))
    assert "<img" not in page and "Episodes" in page


def test_what_a_set_calls_itself_is_text(tmp_path: Path) -> None:
    odd = "<script>alert(1)</script>"
    own = about()
    for episode in own["each"]:
        episode["task"] = odd
    own["action"][0]["name"] = odd
    more = {
        "tasks": [odd],
        "each": own["each"],
        "action": own["action"],
        "cameras": [odd],
        "refused": [f"/home/me/{odd}"],
    }
    page = str(data_chapter.section(given(tmp_path, path="/home/me/demos", **more)))
    assert "<script" not in page and "/home/me" not in page and ".../demos" in page
    assert "What loaders refuse: 1\u00a0line" in page.replace("&nbsp;", "\u00a0")


@pytest.mark.parametrize(("count", "head"), [(10, "10 lines"), (12, "12 lines, the first 10")])
def test_a_head_says_how_many_of_the_refusals_are_shown(tmp_path: Path, count: int, head: str) -> None:
    page = data_chapter.section(given(tmp_path, refused=[f"refusal {number}." for number in range(count)]))
    folded = next(part for part in BeautifulSoup(str(page), "html.parser").select("details") if "refuse" in str(part))
    assert words(folded.summary) == f"What loaders refuse: {head}" and len(folded.select("p")) == 10


def test_few_tasks_have_a_row_each_and_many_share_one(tmp_path: Path) -> None:
    tasks = [f"task {number}" for number in range(data_figures.MOST_TASKS + 1)]
    each = [about()["each"][0] | {"task": task, "steps": 50} for task in tasks]
    texts = {}
    for count in (data_figures.MOST_TASKS, data_figures.MOST_TASKS + 1):
        drawn = data_figures.lengths(about(tasks=tasks[:count], each=each[:count]))
        texts[count] = [text.get_text() for text in drawn.axes[0].texts]
    assert "task 0" in texts[data_figures.MOST_TASKS] and "task 0" not in texts[data_figures.MOST_TASKS + 1]
    assert "9\u00a0tasks" in texts[data_figures.MOST_TASKS + 1]


def test_the_report_has_the_chapter_only_where_sets_are_named(tmp_path: Path) -> None:
    source = json.loads((ROOT / "notebooks/final.ipynb").read_text())
    cells = [
        cell for cell in source["cells"] if re.search("data_chapter.section|import|inputs = ", "".join(cell["source"]))
    ]
    (tmp_path / "data.ipynb").write_text(json.dumps(source | {"cells": cells}))
    given(tmp_path)
    named = {"datasets": [str(tmp_path / "demos.json")], "dataset_sheets": [str(tmp_path / "demos.jpg")]}
    for inputs in (named, {}):
        rendering.render(tmp_path / "data.ipynb", tmp_path / "out.ipynb", tmp_path / "out.html", inputs)
        page = (tmp_path / "out.html").read_text()
        assert ('<h2 id="data">Data</h2>' in page) is ("task0/ep0016" in page) is bool(inputs)


@pytest.mark.parametrize("count", [1, 7, 40])
def test_any_number_of_dims_is_drawn_up_to_the_most(count: int) -> None:
    drawn = data_figures.actions(about(action=[dim(f"dim {number}") for number in range(count)]))
    assert sum(axes.get_visible() for axes in drawn.axes) == min(count, data_figures.MOST_DIMS)
