"""A small simulated campaign in the exact schemas: fixed rates, fixed latencies, marked as simulated in every file.

For tests and for looking at the report before real tables are there. Nothing of it is evidence.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base import provenance
from flashtrail.claims import published, summaries, verdicts
from flashtrail.report import episode_browser, episode_pages, rendering
from flashtrail.tables import merge, schemas

REPOSITORY = Path(__file__).resolve().parents[2]
SUITE = "libero_goal"
TASKS = {0: "open the middle drawer of the cabinet", 1: "put the bowl on the stove", 2: "put the wine bottle on top"}
# arm: (policy, episodes, success rate, condition period, guard, every round full)
ARMS: dict[str, tuple[str, int, float, int, bool, bool]] = {
    "clean": ("pi0_nano", 10, 0.87, 0, False, False),
    "full_only": ("pi0_nano", 10, 0.90, 0, False, True),
    "wrist_zero_every4": ("pi0_nano", 5, 0.35, 4, False, False),
    "wrist_zero_all": ("pi0_nano", 5, 0.02, 1, False, False),
    "guard_wrist_zero_every4": ("pi0_nano", 5, 0.60, 4, True, False),
    "guard_wrist_zero_all": ("pi0_nano", 3, 0.02, 1, True, False),
    "dropout_trained_wrist_zero_every4": ("pi0_nano_dropout", 5, 0.75, 4, False, False),
}
CONTROL = {
    "policy": "pi0_nano",
    "queries": 7,
    "tau": 0.3,
    "share_within_tau": 4 / 7,
    "median_distance": 0.28,
    "histogram": [2, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 3],
}
METADATA = {
    "config_digest": "simulated0000000",
    "artifact_digest": "simulated1111111",
    "code_digest": "simulated2222222",
    "device": "none (simulated)",
    "simulated": "true",
}


def expected(arm: str, episodes: int | None = None) -> dict[str, Any]:
    """Return the spec by which the merge knows what the arm must have."""
    policy, count, *_ = ARMS[arm]
    return {
        "arm": arm,
        "policy": policy,
        "suite": SUITE,
        "seed": 7,
        "tasks": list(TASKS),
        "init_states": list(range(episodes or count)),
        "repeats": 1,
    }


def shard(arm: str, task: int, episodes: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of one shard: episodes, rounds, steps."""
    policy, count, rate, period, guard, full_only = ARMS[arm]
    rows: dict[str, list[dict[str, Any]]] = {"episodes": [], "rounds": [], "steps": []}
    for init_state in range(episodes or count):
        key = {"arm": arm, "suite": SUITE, "task_id": task, "init_state": init_state, "repeat": 0}
        generator = np.random.default_rng([task, init_state, sorted(ARMS).index(arm)])
        # The same draw decides in every arm, so that arms are paired as in the real experiment.
        luck = np.random.default_rng([task, init_state]).random()
        success = bool(luck < rate)
        horizon = int(generator.integers(80, 110)) if success else 300
        rounds, steps = _episode(key, generator, horizon, period, guard, full_only)
        drafts = [r["accepted_prefix"] for r in rounds if r["route"] == "draft"]
        rows["rounds"] += rounds
        rows["steps"] += steps
        rows["episodes"].append(
            {
                **key,
                "run_id": f"simulated-{arm}-{task}",
                "policy": policy,
                "task": TASKS[task],
                "seed": 7,
                "success": success,
                **schemas.UNVERIFIED,
                "outcome": "success" if success else "horizon",
                "error": None,
                "steps": horizon,
                "rounds": len(rounds),
                "full_rounds": len(rounds) - len(drafts),
                "draft_rounds": len(drafts),
                "executed_actions": len(steps),
                "accepted_prefix_mean": float(np.mean(drafts)) if drafts else None,
                "wall_s": horizon * 0.05,
                "video": None,
                "started_at": "2000-01-01T00:00:00Z",
            }
        )
    return rows


def _episode(
    key: dict[str, Any], generator: np.random.Generator, horizon: int, period: int, guard: bool, full_only: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rounds: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    position, step, cause, age = np.array([0.0, 0.0, 1.0]), 0, "first", None
    while step < horizon:
        index = len(rounds)
        full = full_only or cause is not None
        accepted = 12 if full else int(generator.choice([0, 3, 6, 9, 12], p=[0.2, 0.1, 0.1, 0.2, 0.4]))
        executed = min(accepted, horizon - step)
        hit = period > 0 and index % period == 0
        std = 0.0 if hit else float(generator.normal(52, 4))
        healthy = std >= 1.0
        replaced = guard and not healthy and age is not None and age <= 8
        rounds.append(
            {
                **key,
                "round": index,
                "env_step": step,
                "route": "full" if full else "draft",
                "accepted_prefix": accepted,
                "executed": executed,
                "radius": None if full else float(generator.gamma(4, 0.07)),
                "fallback_cause": ("forced" if full_only else cause) if full else None,
                **_times(generator, full),
                "synchronized": True,
                "batch_size": 1,
                "condition_applied": hit,
                "health_std": std if guard else None,
                "health_range": (0.0 if hit else 240.0) if guard else None,
                "healthy": healthy if guard else None,
                "cache_hit": replaced if guard else None,
                "cache_age": age if guard and age is not None else None,
                "replaced": replaced if guard else None,
                "masked": False if guard else None,
                "noise_seed": f"7,{key['task_id']},{key['init_state']},{index}",
                **dict.fromkeys(("latency_ms", "waited_steps", "stale_dropped", "steps_used", *schemas.DOUBT)),
            }
        )
        age = 0 if healthy else (None if age is None else age + 1)
        cause = "zero_accept" if not full and accepted == 0 else None
        for offset in range(executed):
            action = generator.normal(0, 0.3, 7)
            position = position + action[:3] * 0.02
            steps.append(
                {
                    **key,
                    "step": step,
                    "action": action.tolist(),
                    "reward": 0.0,
                    "done": False,
                    **dict.fromkeys((*schemas.LIMITED_STEP, "who")),
                    "gripper_closed": bool(action[6] > 0),
                    "eef_pos": position.tolist(),
                    "img_mean": 120.0,
                    "img_mean_sent": 120.0,
                    "round": index,
                    "offset_in_chunk": offset,
                    "stale": None,
                }
            )
            step += 1
    return rounds, steps


def _times(generator: np.random.Generator, full: bool) -> dict[str, float | None]:
    noise = generator.lognormal(0, 0.06, 5)
    encoder = 2.1 * noise[0]
    stages: dict[str, float | None] = {
        "encoder_ms": encoder,
        "prefill_ms": 2.4 * noise[1] if full else None,
        "denoise_ms": 14.0 * noise[2] if full else None,
        "draft_ms": None if full else 1.1 * noise[1],
        "verify_ms": None if full else 2.8 * noise[2],
    }
    policy = sum(v for v in stages.values() if v is not None) + 0.2
    return {**stages, "policy_ms": policy, "serve_ms": policy + 0.9 * noise[3], "roundtrip_ms": policy + 2.2 * noise[4]}


def profile(samples: int = 40) -> list[dict[str, Any]]:
    """Return rows of the latency profile of pi0_nano."""
    generator = np.random.default_rng(3)
    rows = []
    for prompt in TASKS.values():
        for route in schemas.ROUTES:
            for sample in range(samples + 5):
                times = _times(generator, route == "full")
                rows.append(
                    {
                        "policy": "pi0_nano",
                        "route": route,
                        "sample": sample,
                        **{k: v for k, v in times.items() if k not in ("serve_ms", "roundtrip_ms")},
                        "roundtrip_ms": None,
                        "synchronized": True,
                        "warmup": sample < 5,
                        "prompt": prompt,
                        "device": "none (simulated)",
                    }
                )
    return rows


def write_campaign(
    root: Path, arms: list[str] | None = None, episodes: int | None = None, told: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write a whole campaign below `root`, laid out as results/, and return the inputs of the final report.

    `told`: by arm, what its tables' metadata say beyond METADATA.
    """
    chosen = list(ARMS) if arms is None else arms
    for arm in chosen:
        directories, about = [], METADATA | (told or {}).get(arm, {})
        for task in TASKS:
            directory = root / "rollouts" / arm / f"task_{task}"
            for name, rows in shard(arm, task, episodes).items():
                schemas.write_table(directory / f"{name}.parquet", rows, schemas.SCHEMAS[name], about)
            directories.append(directory)
        merge.write_merged(merge.merge_shards(directories, expected(arm, episodes)), root / "tables" / arm)
        files = {name: root / "tables" / arm / f"{name}.parquet" for name in ("episodes", "rounds", "steps")}
        provenance.json_dump(summaries.summarize_arm(**files), root / "summaries" / f"{arm}.json")
    schemas.write_table(root / "profile" / "pi0_nano" / "rounds.parquet", profile(), schemas.PROFILE, METADATA)
    _write_records(root, sorted({ARMS[arm][0] for arm in chosen}))
    return inputs(root, chosen)


def inputs(root: Path, arms: list[str]) -> dict[str, Any]:
    """Return the files of a campaign under the names that the workflow gives them."""
    policies = sorted({ARMS[arm][0] for arm in arms})
    return {
        **{name: [str(root / "tables" / arm / f"{name}.parquet") for arm in arms] for name in schemas.SCHEMAS},
        "summaries": [str(root / "summaries" / f"{arm}.json") for arm in arms],
        "profile": str(root / "profile" / "pi0_nano" / "rounds.parquet"),
        "records": [str(root / "checkpoints" / p / "record.json") for p in policies],
        "parity": [str(root / "parity" / f"{p}.json") for p in policies],
        "boots": [str(root / "smoke" / p / "boot.json") for p in policies],
        "smokes": [str(root / "smoke" / p / "ledger.json") for p in policies],
        "environments": [str(root / "environments" / f"{e}.json") for e in ("model", "libero")],
        "arms": arms,
    }


def write_reports(root: Path, arms: list[str], chapters: list[str], episodes: int = 2) -> Path:
    """Write a campaign, its verdicts, the pages of all episodes and `chapters` through their real notebooks.

    Each chapter is given the whole campaign; final.html is told of those before it. Returns the reports' directory.
    """
    found = write_campaign(root, arms, episodes)
    directory = root / "reports"
    judged = root / "claims.json"
    provenance.json_dump(verdicts.evaluate(REPOSITORY / "claims.yaml", found), judged)
    for arm in arms:
        files = {name: root / "tables" / arm / f"{name}.parquet" for name in schemas.SCHEMAS}
        sheets = sorted((root / "rollouts" / arm).glob("task_*/sheets.parquet"))
        episode_pages.write_arm(directory / "episodes" / arm, files, sheets)
    sheets = sorted((root / "rollouts").glob("*/task_*/sheets.parquet"))
    episode_browser.write_index(directory / "episodes" / "index.html", found, arms, sheets=sheets)
    provenance.json_dump(CONTROL, root / "control.json")
    found |= {"claims": str(judged), "control": str(root / "control.json"), "published": str(published.DEFAULT)}
    found |= {"page_index": "reports/episodes/index.html"}
    found |= {"pages": [f"reports/episodes/{arm}/index.html" for arm in arms]}
    for chapter in chapters:
        before = {"chapters": [f"reports/{name}.html" for name in chapters[:-1]]} if chapter == "final" else {}
        target = directory / chapter
        notebook = REPOSITORY / "notebooks" / f"{chapter}.ipynb"
        rendering.render(notebook, target.with_suffix(".ipynb"), target.with_suffix(".html"), found | before)
    return directory


def _write_records(root: Path, policies: list[str]) -> None:
    for policy in policies:
        source = f"resources/{policy}"
        candidate = {"uri": source, "class": "MATCH_FLASH_PI0_LIBERO_JAX", "reason": "simulated"}
        record = {"version": 1, "candidates": [candidate], "selected": source}
        provenance.json_dump(record, root / "checkpoints" / policy / "record.json")
        names = ("norm_stats", "tokenizer", "vision", "denoise/9", "draft")
        stages = [{"stage": name, "peak": 1e-6, "mean": 1e-7, "passed": True} for name in names]
        parity = {"version": 1, "passed": True, "first_divergence": None, "dtype": "float32", "base": "simulated"}
        parity["draft"] = "simulated"
        provenance.json_dump(parity | {"stages": stages}, root / "parity" / f"{policy}.json")
        boot = {"ready_s": 3.2, "ready_timeout_s": 180, "first_round_ms": 31.0, "route": "full", "metadata": {}}
        provenance.json_dump(boot, root / "smoke" / policy / "boot.json")
        provenance.json_dump({"simulated": True}, root / "smoke" / policy / "ledger.json")
        smoke = [{**row, "arm": "smoke", "policy": policy} for row in shard("clean", 0, 2)["episodes"]]
        schemas.write_table(root / "smoke" / policy / "episodes.parquet", smoke, schemas.EPISODES, METADATA)
    for name in ("model", "libero"):
        environment = {
            "python": "python3.11",
            "versions": {"python": "3.11", "numpy": "1.26.4"},
            "device": {"cpu": "none (simulated)"},
            "checks": {"simulated": True},
        }
        provenance.json_dump(environment, root / "environments" / f"{name}.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    provenance.json_dump(write_campaign(parser.parse_args().root), parser.parse_args().root / "inputs.json")
