"""A bundle of a report of another name than `final`: found by the config, audited, explained and shown by that name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from record import campaign

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.record import audit, bundle, reports
from flashtrail.record.run import ABOUT, Run

MOVED = {
    "results/claims/claims.json": "results/claims/lift.json",
    "results/claims/looks.parquet": "results/claims/lift-looks.parquet",
    "results/logs/evaluate_claims.json": "results/logs/evaluate_claims/lift.json",
    "results/logs/render_final.json": "results/logs/render_final/lift.json",
    "reports/final.html": "reports/lift.html",
}


@pytest.fixture(scope="module")
def lift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose report is called lift."""
    root = campaign.copy(tmp_path_factory.mktemp("lift") / "here")
    for old, new in MOVED.items():
        (root / new).parent.mkdir(exist_ok=True)
        (root / old).rename(root / new)
    for job in (root / "results/logs").glob("*/lift.json"):
        text = job.read_text()
        for old, new in MOVED.items():
            text = text.replace(old, new)
        job.write_text(text)
    settings = yaml.safe_load((root / "config.yaml").read_text())
    (root / "config.yaml").write_text(yaml.safe_dump(settings | {"report": "lift"}, sort_keys=False))
    return root


def test_it_is_bundled_audited_and_shown_by_its_name(lift):
    made = campaign.build(lift)
    assert provenance.json_load(made / ABOUT)["report"] == "lift" == Run(made).outputs.report
    assert {check.name for check in audit.checks(Run(made)) if check.problems} == set()
    assert (made / "reports/lift.html").is_file() and (made / "results/claims/lift-looks.parquet").is_file()
    for root in (lift, made):
        with reports.opened([root]) as found:
            assert list(found) == ["lift"] and found["lift"].arms == campaign.ARMS
        assert Run.of_each_report(root)[0].arms == campaign.ARMS


def test_without_that_report_there_is_nothing_to_bundle(lift, tmp_path):
    (lift / "config.yaml").write_text((lift / "config.yaml").read_text().replace("report: lift", "report: other"))
    with pytest.raises(UserError, match=r"evaluate_claims/other\.json is missing: this run is not finished"):
        bundle.build(lift, tmp_path / "bundle", bundle.Settings(profile=None))
