"""A number of config.yaml, claims.yaml or a file of published figures is a number: `true` is not read as 1."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flashtrail import sections
from flashtrail.checkup_arm import Checkup
from flashtrail.evidence import claims, published


@pytest.mark.parametrize("field", [{"max_exec_steps": True}, {"tau_radius": True}, {"t_list": [True, 0.05]}])
def test_true_is_no_number(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="true or false stands where a number is wanted"):
        sections.Flash(**field)


def test_a_switch_still_takes_true() -> None:
    assert sections.Flash(official_time_bias=True).official_time_bias


def test_true_is_no_number_of_the_checkup_either() -> None:
    with pytest.raises(ValidationError, match="true or false stands where a number is wanted"):
        Checkup(policy="pi0", episodes=True)


def test_true_is_no_number_of_a_claim() -> None:
    with pytest.raises(ValidationError, match="true or false stands where a number is wanted"):
        claims.ClaimsFile.model_validate({"alpha": True, "claims": []})


def test_true_is_no_published_figure() -> None:
    with pytest.raises(ValidationError, match="true or false stands where a number is wanted"):
        published.Starts(seed=True, init_states=[0])
    with pytest.raises(ValidationError, match="true or false stands where a number is wanted"):
        published.Starts(seed=7, init_states=[0, True])
