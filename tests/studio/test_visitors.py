"""Whose turn it is, and a process behind the page that is lost, left or ended."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from flashtrail.studio.visitors import Backstage, Turns

ROOT = Path(__file__).parents[2]


def test_first_come_first_served_and_the_second_waits():
    turns = Turns()
    assert [turns.before(ticket) for ticket in ("a:0", "b:1", "a:2", "a:0")] == [0, 1, 2, 0]
    assert turns.has("a") and not turns.has("b")
    turns.leave("a:0")
    assert turns.has("b") and turns.before("b:1") == 0 and turns.before("a:2") == 1


def test_whoever_says_nothing_has_left():
    turns = Turns(patience_s=0.2)
    assert turns.before("gone:0") == 0
    deadline = time.monotonic() + 10
    while turns.before("next:1"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert turns.has("next") and turns.before("gone:0") == 1  # back, he is behind


def test_a_name_that_begins_as_another_is_another_visitor():
    turns = Turns()
    turns.before("ab:0")
    assert not turns.has("a")


@pytest.fixture
def backstage(tmp_path):
    made = Backstage(Path(sys.executable), ROOT, tmp_path)
    yield made
    made.close()


def test_a_lost_process_is_one_line_and_the_next_order_has_a_new_one(backstage):
    *_, told = backstage.ask({"do": "describe"})
    assert "lift_nano" in told["policies"]
    first = backstage._process.pid
    os.kill(first, 9)
    *_, lost = backstage.ask({"do": "describe"})
    assert lost["failed"].startswith("the process behind the page ended (exit code -9); see ") and lost["last"]
    *_, again = backstage.ask({"do": "describe"})
    assert again["policies"] == told["policies"] and backstage._process.pid != first


def test_an_order_of_no_kind_is_one_line_and_the_process_is_not_used_again(backstage):
    *_, told = backstage.ask({"do": "__class__", "suite": "robosuite_lift", "task": 0, "seed": 7})
    assert "__class__" in told["failed"] and told["lost"]
    assert backstage._process is None


def test_it_ends_with_its_parent_even_when_that_is_killed(backstage):
    list(backstage.ask({"do": "describe"}))
    process = psutil.Process(backstage._process.pid)
    backstage._process.stdin.close()  # what is left of a parent that was killed
    assert process.wait(30) is not None or not process.is_running()
