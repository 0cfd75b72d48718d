"""Each output of a stage that Snakemake's own report shows has a caption. The report itself: test_reruns.py."""

from __future__ import annotations

import re

from workflow.checkouts import ROOT


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
