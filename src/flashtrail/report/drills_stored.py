"""The stored diagnosis and bounds as the page of the drills reads them, and how it prints their counts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims.campaign import Campaign
from flashtrail.drills.diagnosis import CLEAN, PREFIX
from flashtrail.drills.predicates import NAMES
from flashtrail.report.cells import rate_of
from flashtrail.report.count_links import behind
from flashtrail.statistics.wording import DASH, percent, percent_range


@lru_cache(maxsize=4)
def _load(path: str) -> dict[str, Any]:
    return {kind: ordered(value) for kind, value in provenance.json_load(path).items()}


def ordered(value: Any) -> Any:
    """Return a mapping by arm or predicate with the clean run first and the others in the order of evaluation."""
    if not isinstance(value, dict):
        return value
    order = [name for name in (CLEAN, *NAMES) if name in value]
    return {name: ordered(value[name]) for name in (*order, *(key for key in value if key not in order))}


def diagnosis(run: Campaign) -> dict[str, Any]:
    """Return the stored diagnosis; UserError where the page was given none."""
    return _file(run, "diagnosis")


def bounds(run: Campaign) -> dict[str, Any]:
    """Return the stored bounds with their origin and guarantee."""
    return _file(run, "bounds")


def _file(run: Campaign, kind: str) -> dict[str, Any]:
    files = run.files(kind)
    if not files:
        raise UserError(f"the page of drills has no {kind}: run `make drills`")
    return _load(str(files[0]))


def count(run: Campaign, drill: str, text: Any, anchor: str = "") -> Any:
    """Return a count as a link to the episodes of a drill's arm."""
    return behind(run, PREFIX + drill, text, anchor)


def with_intervals(entry: Mapping[str, Any]) -> str:
    """``0 % [Wilson 0-20 %, exact 0-22 %]``."""
    rate = rate_of(entry)
    if rate.wilson is None or rate.exact is None:
        return DASH
    return f"{percent(rate.rate)} [Wilson {percent_range(rate.wilson)}, exact {percent_range(rate.exact)}]"
