"""A step of `python -m flashtrail.training.lift`, run in this process."""

import sys

import pytest

from flashtrail.training.lift import __main__ as steps


def run(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lift", *map(str, words)])
        return steps.main()
