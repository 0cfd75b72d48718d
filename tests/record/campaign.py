"""A finished run in small for the tests of the record: simulated tables, with the job files that a workflow leaves.

What the simulated tables leave out is filled in here: ledgers and pictures of shards, the end of each episode. The
bundle is built from it without Snakemake, which tests/record/test_engine.py runs for real.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from evidence import simulated

from flashtrail import config, provenance
from flashtrail.evidence import claims, merge, summaries, tables
from flashtrail.record import bundle

ROOT = Path(__file__).resolve().parents[2]
ARMS = ["clean", "wrist_zero_every4", "guard_wrist_zero_every4"]
EPISODES = 3
OVERLAY = {
    "tasks": "0-2",
    "arms": {
        "__only__": True,
        "clean": {"policy": "pi0_nano", "episodes": EPISODES},
        "wrist_zero_every4": {"policy": "pi0_nano", "episodes": EPISODES, "condition": "wrist_zero_every4"},
        "guard_wrist_zero_every4": {
            **{"policy": "pi0_nano", "episodes": EPISODES},
            **{"condition": "wrist_zero_every4", "guard": "wrist_health"},
        },
    },
}
METADATA = simulated.METADATA | {"simulated": ""}  # held to the rules of real tables


def write(root: Path) -> Path:
    """Write a finished run below `root` and return it."""
    for name in ("Snakefile", "Makefile", "pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "claims.yaml"):
        shutil.copy(ROOT / name, root / name)
    for name in ("envs", "resources/published"):
        shutil.copytree(ROOT / name, root / name)
    settings = config.merge(yaml.safe_load((ROOT / "config.yaml").read_text()), OVERLAY)
    for lines in ("grids", "sweeps"):  # arms from one line: not of this campaign
        settings.pop(lines, None)
    (root / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    experiment, results = config.load(root / "config.yaml"), root / "results"
    simulated.write_campaign(results, ARMS, EPISODES)
    for arm in ARMS:
        _arm(root, experiment.arm(arm))
    _verdicts(root)
    (root / "reports").mkdir()
    (root / "reports/final.html").write_text("<!doctype html><title>Report</title>")
    _engine(root)
    return root


def build(root: Path) -> Path:
    """Bundle the run and return the bundle."""
    bundle.build(root, root.parent / "bundle", bundle.Settings(profile=None))
    return root.parent / "bundle"


def _arm(root: Path, arm: dict[str, Any]) -> None:
    name, results, directories = arm["arm"], root / "results", []
    for task in simulated.TASKS:
        directory = results / "rollouts" / name / f"task_{task}"
        shard = simulated.shard(name, task, EPISODES)
        _end(shard)
        for table, rows in shard.items():
            tables.write_table(directory / f"{table}.parquet", rows, tables.SCHEMAS[table], METADATA)
        first = shard["episodes"][0]
        sheet = {key: first[key] for key in (*tables.EPISODE_KEY, "outcome")} | {"jpeg": b"a picture"}
        tables.write_table(directory / "sheets.parquet", [sheet], tables.SHEETS, METADATA)
        outcomes = {f"init_{e['init_state']:03d}_repeat_0": e["outcome"] for e in shard["episodes"]}
        provenance.json_dump({"outcomes": outcomes, "expected": list(outcomes)}, directory / "ledger.json")
        handles = {kind: f"results/artifacts/pi0_nano/{kind}/manifest.json" for kind in ("base", "draft")}
        output = {"ledger": f"results/rollouts/{name}/task_{task}/ledger.json"}
        params = {"arm": arm, "task": task, "code": "0"}
        _job(root, f"roll_out_shard/{name}/task_{task}", handles, output, params)
        directories.append(directory)
    expected = simulated.expected(name, EPISODES)
    merge.write_merged(merge.merge_shards(directories, expected), results / "tables" / name)
    files = {table: results / "tables" / name / f"{table}.parquet" for table in tables.SCHEMAS}
    provenance.json_dump(summaries.summarize_arm(**files), results / "summaries" / f"{name}.json")
    output = {table: f"results/tables/{name}/{table}.parquet" for table in tables.SCHEMAS}
    _job(root, f"merge_shards/{name}", {}, output, {"expected": expected})


def _end(shard: dict[str, list[dict[str, Any]]]) -> None:
    """Let the last step of each success end it, as the simulator does."""
    won = {e["init_state"]: e["steps"] - 1 for e in shard["episodes"] if e["success"]}
    for step in shard["steps"]:
        if won.get(step["init_state"]) == step["step"]:
            step["done"], step["reward"] = True, 1.0


def _verdicts(root: Path) -> None:
    results = root / "results"
    absolute = simulated.inputs(results, ARMS) | {"published": str(root / "resources/published/published.yaml")}
    absolute.pop("environments")
    relative = json.loads(json.dumps(absolute).replace(f"{root}/", ""))
    arms = {"arms": relative.pop("arms")}
    provenance.json_dump(claims.evaluate(root / "claims.yaml", absolute), results / "claims/claims.json")
    output = {"claims": "results/claims/claims.json"}
    _job(root, "evaluate_claims", {**relative, "claims": "claims.yaml"}, output, arms)


def _job(root: Path, name: str, files: dict[str, Any], output: dict[str, Any], params: dict[str, Any]) -> None:
    job = {"rule": name.split("/")[0], "input": files, "output": output, "params": params}
    provenance.json_dump(job, root / "results/logs" / f"{name}.json")


def _engine(root: Path) -> None:
    """Write what Snakemake would have noted of the claims: when, and the checksums of what went in."""
    files = sorted((root / "results/tables").rglob("*.parquet"))
    checksums = {f.relative_to(root).as_posix(): f"sha256:{provenance.sha256_file(f)}" for f in files}
    record = {"starttime": 1.0e9, "endtime": 1.0e9 + 60, "input_checksums": checksums}
    name = base64.b64encode(b"results/claims/claims.json").decode()
    provenance.json_dump(record, root / ".snakemake/metadata" / name)
