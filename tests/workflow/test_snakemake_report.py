"""Snakemake's own report: every output in it, with caption and category; the flags for it run nothing again."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from workflow.checkouts import ROOT

from flashtrail.record.snakemake_record import _REMOTE

CATEGORIES = ("Reports", "Evidence", "Rollouts", "Profile")


def test_flags_and_captions_run_nothing_again(finished):
    """A run that was made without them (or with others) stays finished: what is recorded of a job has no flags."""
    finished.edit("rules/common.smk", "{name: report(file, labels={**labels,", "{name: (file, dict(labels={**labels,")
    finished.edit("rules/common.smk", '"file": name}, **kept) for name', '"file": name}, **kept))[0] for name')
    assert finished.plan() == set()
    (finished.path / "rules/captions/final.rst").write_text("Other words.\n")
    assert finished.plan() == set()


def test_the_report_holds_each_output_with_caption_and_category(finished):
    finished.snakemake("--report", "r.zip", "--", "reports/final.html")
    with zipfile.ZipFile(finished.path / "r.zip") as packed:
        page = next(packed.read(name).decode() for name in packed.namelist() if name.endswith("report.html"))
        held = {Path(name).name for name in packed.namelist()}
    assert not _REMOTE.search(page)
    captions = " ".join(page.replace("\\n", " ").split())  # within JSON
    for category in CATEGORIES:
        assert f'"{category}"' in page, category
    for name in ("shard", "merged", "claims", "observations", "profile", "episodes", "index", "chapter", "final"):
        words = (ROOT / "rules/captions" / f"{name}.rst").read_text(encoding="utf-8").split("{{")[0].split("*")[0]
        assert " ".join(words.split()) in captions, name
    assert {"claims.json", "final.html", "episodes.parquet", "ledger.json", "control.json"} <= held
    assert "arm <em>wrist_zero_every4</em>" in page  # a caption's own wildcards


def test_every_output_of_the_shown_stages_has_a_caption_and_no_caption_is_left_over():
    named = set()
    for stage in ("evidence", "reports", "profile", "rollouts", "drills", "checkup"):
        text = (ROOT / "rules" / f"{stage}.smk").read_text(encoding="utf-8")
        outputs = re.findall(r"\n    output:\n(.*?)\n    log:", text, re.S)
        assert len(outputs) == len(re.findall(r"^rule ", text, re.M))
        for output in outputs:
            assert output.count("**reported(") == 1 and re.search(r"\*\*reported\(.*\)", output, re.S), output
            named.add(re.search(r'\},\s*"(\w+)",\s*"\w+"', output)[1])
    assert named == {path.stem for path in (ROOT / "rules/captions").glob("*.rst")}
