"""A finished run in small for the tests of the record: simulated tables, with the job files that a workflow leaves.

What the simulated tables leave out is filled in here: ledgers and pictures of shards, the end of each episode. The
bundle is built from it without Snakemake, which tests/record/test_engine.py runs for real.
"""

from __future__ import annotations

import atexit
import base64
import functools
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from claims import simulated

from flashtrail.base import provenance
from flashtrail.claims import checkup, looks, summaries, verdicts
from flashtrail.drills import bounds, diagnosis, logs
from flashtrail.experiment import config
from flashtrail.record import bundle
from flashtrail.tables import merge, schemas

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
    "drills": {
        **{"names": ["no_flip", "long_chunk"], "episodes": EPISODES, "first_init_state": 0},
        "reference": {"episodes": EPISODES},
    },
    "checkup": {"task": 1, "episodes": EPISODES, "seed": 7},
}
METADATA = simulated.METADATA | {"simulated": ""}  # held to the rules of real tables


def copy(root: Path, drilled: bool = False) -> Path:
    """Copy a finished run, written once per process, to `root`, an empty directory; return it."""
    return Path(shutil.copytree(_once(drilled), root, dirs_exist_ok=True))


@functools.cache
def _once(drilled: bool) -> Path:
    root = Path(tempfile.mkdtemp(prefix="flashtrail-campaign-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return write(root, drilled)


def write(root: Path, drilled: bool = False) -> Path:
    """Write a finished run below `root`, `drilled`: with drills and a checkup, and return it."""
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
    if drilled:
        _drills(root, experiment)
        _checkup(root, experiment)
    (root / "reports/final.html").write_text("<!doctype html><title>Report</title>")
    _engine(root)
    return root


def build(root: Path) -> Path:
    """Bundle the run and return the bundle."""
    bundle.build(root, root.parent / "bundle", bundle.Settings(profile=None))
    return root.parent / "bundle"


def _drills(root: Path, experiment: config.Experiment) -> None:
    for name in experiment.drill_arms:
        _arm(root, experiment.arm(name))
    names = [name for name in experiment.drill_arms if name != "drill_reference"]
    steps = {name: f"results/tables/{name}/steps.parquet" for name in experiment.drill_arms}
    (root / "results/drills").mkdir()
    found = logs.of_tables(root / "results/tables/drill_reference")
    output = {"bounds": "results/drills/bounds.json", "diagnosis": "results/drills/diagnosis.json"}
    bounds.save(bounds.derive([e.episode for e in found.episodes], logs.origin(found)), root / output["bounds"])
    runs = [logs.of_tables(root / "results/tables" / name) for name in names]
    provenance.json_dump(diagnosis.of_runs(bounds.load(root / output["bounds"]), runs), root / output["diagnosis"])
    _job(root, "derive_bounds", {"steps": [steps["drill_reference"]]}, output, {})
    _job(root, "diagnose_drills", {"steps": [steps[name] for name in names]}, output, {"arms": names})
    (root / "reports/drills.html").write_text("<!doctype html><title>Drills</title>")
    tables = {table: [f"results/tables/{name}/{table}.parquet" for name in names] for table in schemas.SCHEMAS}
    _job(root, "render_drills", {**tables, **output}, {"html": "reports/drills.html"}, {"arms": names, "grids": {}})


def _checkup(root: Path, experiment: config.Experiment) -> None:
    _arm(root, experiment.arm("checkup"), experiment.tasks_of("checkup"))
    files = {
        "episodes": "results/tables/checkup/episodes.parquet",
        "published": [f"resources/published/{name}.yaml" for name in ("published", "pi0_nano")],
    }
    params = {"key": "pi0_nano/FLASH", "scene_seed": "episode"}
    figures = [root / file for file in files["published"]]
    found = checkup.judge(root / files["episodes"], figures, params["key"], params["scene_seed"])
    provenance.json_dump(found, root / "results/checkup/checkup.json")
    _job(root, "judge_checkup", files, {"checkup": "results/checkup/checkup.json"}, params)
    (root / "reports/checkup.html").write_text("<!doctype html><title>Checkup</title>")
    shown = {table: f"results/tables/checkup/{table}.parquet" for table in schemas.SCHEMAS}
    shown |= {"summaries": "results/summaries/checkup.json", "checkup": "results/checkup/checkup.json"}
    _job(root, "render_checkup", shown, {"html": "reports/checkup.html"}, {"arms": ["checkup"], "grids": {}})


def _shard(arm: dict[str, Any], task: int) -> dict[str, list[dict[str, Any]]]:
    """Return a simulated shard's rows; those of a drill or checkup are the clean arm's under its name and states."""
    known = arm["arm"] in ARMS
    shard = simulated.shard(arm["arm"] if known else "clean", task, EPISODES)
    for row in [] if known else [row for rows in shard.values() for row in rows]:
        row |= {"arm": arm["arm"], "init_state": row["init_state"] + arm["init_states"][0]}
    _end(shard)
    return shard


def _arm(root: Path, arm: dict[str, Any], tasks: Sequence[int] = tuple(simulated.TASKS)) -> None:
    name, results, directories = arm["arm"], root / "results", []
    for task in tasks:
        directory = results / "rollouts" / name / f"task_{task}"
        shard = _shard(arm, task)
        for table, rows in shard.items():
            schemas.write_table(directory / f"{table}.parquet", rows, schemas.SCHEMAS[table], METADATA)
        first = shard["episodes"][0]
        sheet = {key: first[key] for key in (*schemas.EPISODE_KEY, "outcome")} | {"jpeg": b"a picture"}
        schemas.write_table(directory / "sheets.parquet", [sheet], schemas.SHEETS, METADATA)
        outcomes = {f"init_{e['init_state']:03d}_repeat_0": e["outcome"] for e in shard["episodes"]}
        provenance.json_dump({"outcomes": outcomes, "expected": list(outcomes)}, directory / "ledger.json")
        handles = {kind: f"results/artifacts/pi0_nano/{kind}/manifest.json" for kind in ("base", "draft")}
        output = {"ledger": f"results/rollouts/{name}/task_{task}/ledger.json"}
        params = {"arm": arm, "task": task, "code": "0"}
        _job(root, f"roll_out_shard/{name}/task_{task}", handles, output, params)
        directories.append(directory)
    expected = {key: arm[key] for key in ("arm", "policy", "suite", "seed", "init_states", "repeats")}
    expected |= {"tasks": list(tasks)}
    merge.write_merged(merge.merge_shards(directories, expected), results / "tables" / name)
    files = {table: results / "tables" / name / f"{table}.parquet" for table in schemas.SCHEMAS}
    if not name.startswith("drill_"):
        provenance.json_dump(summaries.summarize_arm(**files), results / "summaries" / f"{name}.json")
    output = {table: f"results/tables/{name}/{table}.parquet" for table in schemas.SCHEMAS}
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
    relative = json.loads(json.dumps(absolute, ensure_ascii=False).replace(f"{root}/", ""))
    arms = {"arms": relative.pop("arms")}
    found = verdicts.evaluate(root / "claims.yaml", absolute)
    looks.append(root / looks.FILE, found["claims"], "report", now="2026-01-01T00:00:00+00:00")
    provenance.json_dump(found, results / "claims/claims.json")
    output = {"claims": "results/claims/claims.json"}
    _job(root, "evaluate_claims", {**relative, "claims": "claims.yaml"}, output, arms)
    _job(root, "render_final", {**relative, **output}, {"html": "reports/final.html"}, {**arms, "grids": {}})


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
