"""One claim, one number of episodes that would settle it: claims.json, page, headline, ledger."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import yaml
from claims.test_claims import write

from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.claims import verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.report import claims_chapter, verdict
from flashtrail.statistics import power

ROOT = Path(__file__).resolve().parents[2]
FAULT, GUARD = "wrist_zero_all", "guard_wrist_zero_all"


def judge(root: Path) -> Path:
    """Judge the shipped claim about the guard and a dead camera: nine pairs, none of them discordant."""
    shipped = yaml.safe_load((ROOT / "claims.yaml").read_text())
    chosen = [c for c in shipped["claims"] if (c.get("arm"), c.get("control")) == (GUARD, FAULT)]
    assert len(chosen) == 1
    (root / "claims.yaml").write_text(yaml.safe_dump(shipped | {"claims": chosen}))
    found = verdicts.evaluate(root / "claims.yaml", write(root, {FAULT: [False] * 9, GUARD: [False] * 9}))
    path = root / "results/claims/claims.json"
    provenance.json_dump(found, path)
    return path


def test_page_headline_ledger_and_sentence_have_one_number(tmp_path, monkeypatch, capsys):
    path = judge(tmp_path)
    claim = provenance.json_load(path)["claims"][0]
    plan = claim["settle"]
    assert plan["n"] == power.paired_plan(0, 0, 9, claim["margin"], 0.05).n
    shutil.copy(ROOT / "config.yaml", tmp_path / "config.yaml")
    monkeypatch.chdir(tmp_path)
    cli.main(["ledger", "config.yaml"])
    run = Campaign({"claims": str(path)})
    arms = {FAULT: verdict.Arm("fault", "a fault"), GUARD: verdict.Arm("remedy", "a fault", "guard")}
    shown = {
        "ledger": capsys.readouterr().out.split("open claims", 1)[1],
        "page": claims_chapter.unsettled(run),
        "headline": " ".join(said.text for said in verdict.too_few([claim], arms)),
        "sentence": claim["sentence"],
    }
    for where, text in shown.items():
        text = re.sub("<[^>]*>", " ", text).replace("\u00a0", " ")
        numbers = re.findall(r"([\d,]+)\s+paired episodes", text)
        assert numbers == [str(plan["n"])], where
    for what in ("80", "alpha 0.05", "+10 points in the direction claimed"):
        assert what in shown["ledger"] and what in shown["sentence"]


def test_a_ledger_without_judged_claims_says_nothing_of_them(tmp_path, monkeypatch, capsys):
    shutil.copy(ROOT / "config.yaml", tmp_path / "config.yaml")
    monkeypatch.chdir(tmp_path)
    cli.main(["ledger", "config.yaml"])
    assert "open claims" not in capsys.readouterr().out
