"""The experiment in whatever form it comes: it is read, or refused in one line, at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashtrail.base import documents
from flashtrail.base.errors import UserError
from flashtrail.experiment import config

ROOT = Path(__file__).parents[2]
SHIPPED = documents.mapping(ROOT / "config.yaml") | {
    "grids": {"g": {"policy": "pi0_nano", "fault": "zero", "severity": {"every": [2, 4]}, "guards": ["none"]}}
}


def places(data: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key and index of the data, as a path."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path for key, value in inner for path in ((*place, key), *places(value, (*place, key)))]


PLACES = places(SHIPPED)
_WORDS = ["", " ", "a/b c", "..", "0-999999999", "clean", "none", "running", "Zürich", "\0", "\ud800", "{x}", "9" * 30]
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 1e20, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")]),
    st.floats(),
    st.sampled_from(_WORDS),
    st.text(max_size=8),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(["kind", "policy", "every", *_WORDS]), _SCALARS), inner, max_size=3),
    ),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_config_with_a_few_values_changed_is_an_experiment_or_one_line(data):
    changed = copy.deepcopy(SHIPPED)
    for path in data.draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
        *parents, last = path
        place: Any = changed
        try:
            for key in parents:
                place = place[key]
            place[last]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
        if isinstance(place, str):
            continue
        match data.draw(st.sampled_from(["replace", "delete", "rename", "deepen"])):
            case "replace":
                place[last] = data.draw(_VALUES)
            case "delete":
                del place[last]
            case "rename" if isinstance(place, dict):
                key = data.draw(_SCALARS)
                place[key] = place.pop(last)
            case _:
                place[last] = [[place[last]]]
    try:
        experiment = config.parse(changed)
        for arm in experiment.all_arms:
            experiment.arm(arm)
            experiment.tasks_of(arm)
    except UserError as error:
        assert "\n" not in str(error)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_file_with_lines_doubled_lost_or_broken_is_an_experiment_or_one_line(tmp_path, data):
    lines = (ROOT / "config.yaml").read_text().splitlines()
    for place in data.draw(st.lists(st.integers(0, len(lines) - 1), min_size=1, max_size=3)):
        line = lines[place]
        lines[place] = {
            "doubled": f"{line}\n{line}",
            "lost": "",
            "tab": f"\t{line}",
            "cut": line[: len(line) // 2],
            "odd": line.replace(
                ":", data.draw(st.sampled_from([": &x", ": *x", ": !!int", ": |", "::", ": [", ": {"]))
            ),
        }[data.draw(st.sampled_from(["doubled", "lost", "tab", "cut", "odd"]))]
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(lines))
    try:
        config.load(path)
    except UserError as error:
        assert "\n" not in str(error)


def test_the_shipped_files_are_read_as_pyyaml_reads_them():
    for file in [*ROOT.glob("*.yaml"), *ROOT.glob("profiles/*/*.yaml"), *ROOT.glob("resources/published/*.yaml")]:
        assert documents.mapping(file) == (yaml.safe_load(file.read_text()) or {})
