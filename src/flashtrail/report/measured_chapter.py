"""Figures that no episode has: every measurement of the run, each figure with its interval."""

from __future__ import annotations

from flashtrail.claims.campaign import Campaign
from flashtrail.report import page
from flashtrail.report.page import Html
from flashtrail.statistics.wording import DASH
from flashtrail.tables.measurements import Measurement, written


def section(run: Campaign) -> Html:
    """Return every measurement, in the order of the config; empty without any."""
    return page.join(*(_one(name, measurement) for name, measurement in run.measured.items()))


def _one(name: str, measurement: Measurement) -> Html:
    rows = [
        {"figure": f.title, "value": written(f.value), "interval": f.interval or DASH, "n": f"{f.n} {f.of}"}
        for f in measurement.figures
    ]
    heads = {"figure": measurement.title, "value": "Value", "interval": "95 % interval", "n": "Over"}
    return page.table(rows, heads, ("value",), caption=measurement.method, stacked=True, name=f"measured-{name}")
