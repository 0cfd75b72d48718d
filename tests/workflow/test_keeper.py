"""A run of the real Snakefile keeps simulators, servers and imports from one job to the next, and none at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from workflow.test_growth import GROWN, place

SAID = [f"a {kind} of an earlier shard is at hand" for kind in ("simulator", "policy server")]


@pytest.mark.slow
def test_a_run_keeps_its_simulators_and_servers_and_leaves_none(tmp_path):
    """The smoke test's are of the same task and settings: a shard has them. The path has a space in it."""
    checkout = place(tmp_path / "a checkout")
    tell = "print('a fork:', 'flashtrail.base.forkserver' in Path(f'/proc/{os.getppid()}/cmdline').read_text())"
    checkout.edit("scripts/merge_shards.py", "    shards = ", f"    {tell}\n    shards = ")
    checkout.edit("scripts/merge_shards.py", "from pathlib import Path", "import os\nfrom pathlib import Path")
    targets = [f"results/tables/{arm}/episodes.parquet" for arm in ("clean", "guarded")]
    checkout.run("snakemake", "--profile", "profiles/local", "--configfile", GROWN, "--", *targets)
    logs = {log.parent.name: log.read_text() for log in (checkout.path / "results/logs/roll_out_shard").rglob("*.log")}
    assert set(logs) == {"clean", "guarded"} and not any("keeper" in text for text in logs.values()), logs
    assert all(any(said in text for text in logs.values()) for said in SAID), logs
    for arm in logs:
        assert "a fork: True" in (checkout.path / f"results/logs/merge_shards/{arm}.log").read_text()
    left = [process for process in Path("/proc").glob("[0-9]*") if _works_in(process, checkout.path)]
    assert not left, "fork server, keeper, simulators and servers leave with the run"


def _works_in(process: Path, place: Path) -> bool:
    try:
        return (process / "cwd").readlink() == place
    except OSError:
        return False
