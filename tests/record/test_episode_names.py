"""`flashtrail explain ARM/TASK/INIT_STATE` where the arm's own name holds slashes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flashtrail.base.errors import UserError
from flashtrail.record import replay

EXPECTED = {"suite": "libero_goal", "tasks": [0], "init_states": [0, 1], "repeats": 1}
RUN: Any = SimpleNamespace(arms=["a", "a/b c", "clean"], expected=lambda arm: EXPECTED)


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("clean/0/1", "clean"),
        ("a/0/1", "a"),
        ("a/b c/0/1", "a/b c"),
        ("a/b c/libero_goal/0/1/0", "a/b c"),
        ("a/b c/libero_goal/task 0/init 1/repeat 0", "a/b c"),
    ],
)
def test_of_two_arms_that_fit_it_is_the_longer_one(text, arm):
    assert str(replay.parse(RUN, text)) == f"{arm}/libero_goal/0/1/0"


def test_an_arm_that_was_not_run_is_named_with_those_that_were():
    with pytest.raises(UserError, match="zzz/0/1: the run has no arm 'zzz'; it has a, a/b c, clean"):
        replay.parse(RUN, "zzz/0/1")
