"""The engine against reference data of the official code, tests/golden or that of --golden: `make conformance`."""

from __future__ import annotations

import pytest
from conformance.checks import run
from conformance.golden import SETS

pytestmark = pytest.mark.conformance


@pytest.mark.parametrize("name", SETS)
def test_the_golden_data_agree(golden, name, record_property):
    rows = run(golden, name)
    for row in rows:
        record_property("row", (str(row), row.ok))
    failed = [str(row) for row in rows if not row.ok]
    assert rows and not failed, "\n".join(failed)
