"""Names from outside as file names: one component, injective, unchanged where plain."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashtrail.base.names import file_name


@pytest.mark.parametrize("name", ["clean", "wrist_zero_every4", "late_0ms_20hz", "a-b.c+d", "7"])
def test_a_plain_name_stays_as_it_is(name) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../x", "=2E.=2F..=2Fx"),
        ("/etc/x", "=2Fetc=2Fx"),
        ("", "="),
        (".", "=2E"),
        ("-rf", "=2Drf"),
        ("ü", "=C3=BC"),
    ],
)
def test_what_a_path_or_an_option_would_be_is_spelled_out(name, expected) -> None:
    assert file_name(name) == expected


@given(st.text(st.characters(), max_size=300))
def test_any_text_is_one_component(name) -> None:
    made = file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_+=][A-Za-z0-9_.+=-]{0,99}", made)


@given(st.lists(st.text(st.characters(), max_size=150), min_size=2, unique=True))
def test_different_names_never_share_a_file(names) -> None:
    assert len({file_name(name) for name in names}) == len(names)


def test_long_names_that_begin_alike_differ() -> None:
    assert file_name("a" * 300 + "b") != file_name("a" * 300 + "c")
