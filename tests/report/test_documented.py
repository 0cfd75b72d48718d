"""docs/evidence.md against the code: which tests a claim may have."""

from __future__ import annotations

import re
import typing
from pathlib import Path

from flashtrail.claims import claims

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
_NAME = re.compile(r"`([a-z]\w*)`")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_each_test_of_a_claim_is_there() -> None:
    """Both ways; its keys are in claims.py alone."""
    kinds = typing.get_args(typing.get_args(claims.AnyClaim)[0])
    rows = [line.split("|") for line in section("Claims and verdicts").splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in _NAME.findall(row[1])} == {
        typing.get_args(kind.model_fields["test"].annotation)[0] for kind in kinds
    }
