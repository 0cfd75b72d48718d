"""A number of config.yaml, claims.yaml or a file of published figures is a number: `true` is not read as 1."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flashtrail.claims import claims, published
from flashtrail.experiment import sections
from flashtrail.experiment.arms import Checkup, Grid


@pytest.mark.parametrize("field", [{"max_exec_steps": True}, {"tau_radius": True}, {"t_list": [True, 0.05]}])
def test_true_is_no_number(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="expected a number, not true or false"):
        sections.Flash(**field)


def test_a_switch_still_takes_true() -> None:
    assert sections.Flash(official_time_bias=True).official_time_bias


def test_true_is_no_number_of_the_checkup_either() -> None:
    with pytest.raises(ValidationError, match="expected a number, not true or false"):
        Checkup(policy="pi0", episodes=True)


def test_true_is_no_number_of_a_claim() -> None:
    with pytest.raises(ValidationError, match="expected a number, not true or false"):
        claims.ClaimsFile.model_validate({"alpha": True, "claims": []})


def test_true_is_no_published_figure() -> None:
    with pytest.raises(ValidationError, match="expected a number, not true or false"):
        published.Starts(seed=True, init_states=[0])
    with pytest.raises(ValidationError, match="expected a number, not true or false"):
        published.Starts(seed=7, init_states=[0, True])


@pytest.mark.parametrize("severity", [{"every": [2, True]}, {"sigma": True}])
def test_true_is_no_severity_of_a_grid(severity: dict[str, Any]) -> None:
    line = {"policy": "p", "episodes": 5, "fault": "zero", "view": "wrist", "severity": severity, "guards": ["none"]}
    with pytest.raises(ValidationError, match="severity: expected a number, not true or false"):
        Grid(**line)


@pytest.mark.parametrize("measured", [{10: True}, {True: 0.5}])
def test_true_is_no_number_within_a_published_table(measured: dict[Any, Any]) -> None:
    with pytest.raises(ValidationError, match="toy_dog: expected a number, not true or false"):
        published.Conveyor(toy_dog=measured, hairbrush={10: 0.5}, n=10)


def test_true_is_no_version() -> None:
    with pytest.raises(ValidationError, match="version: expected a number, not true or false"):
        claims.ClaimsFile(version=True, claims=[])
