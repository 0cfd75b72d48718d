"""Every simulator that a suite can name has what the episode loop asks of one."""

from __future__ import annotations

import importlib
import inspect

import pytest

from flashtrail.simulators import registry
from flashtrail.simulators.protocol import Simulator

ASKED = {name: asked for name, asked in vars(Simulator).items() if inspect.isfunction(asked) and name[0] != "_"}


@pytest.mark.parametrize("place", registry.SIMULATORS.values())
def test_a_simulator_has_every_method_of_the_protocol(place: str) -> None:
    module, _, name = place.partition(":")
    made = getattr(importlib.import_module(module), name)
    assert "sense" in ASKED and ASKED.keys() <= vars(made).keys()
    for method, asked in ASKED.items():
        assert inspect.signature(vars(made)[method]).parameters.keys() == inspect.signature(asked).parameters.keys()
