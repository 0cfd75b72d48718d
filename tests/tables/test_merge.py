"""The merge refuses every kind of hole and double, and names the episodes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claims.simulated import METADATA, expected, shard

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.tables import merge, schemas

Rows = dict[str, list[dict[str, Any]]]
SPEC = expected("guard_wrist_zero_all")


def write(
    root: Path, change: Callable[[Rows], None] | None = None, metadata: dict[str, str] | None = None
) -> list[Path]:
    """Write the three shards of the smallest arm, the second one changed."""
    directories = []
    for task in SPEC["tasks"]:
        rows = shard("guard_wrist_zero_all", task)
        if task == 1 and change:
            change(rows)
        directories.append(root / f"task_{task}")
        for name, schema in schemas.SCHEMAS.items():
            origin = {**METADATA, **((metadata or {}) if task == 1 else {})}
            schemas.write_table(directories[-1] / f"{name}.parquet", rows[name], schema, origin)
    return directories


def test_whole_shards_become_one_sorted_arm(tmp_path):
    directories = write(tmp_path / "rollouts")
    merged = merge.merge_shards(reversed(directories), SPEC)
    assert merged.episodes["task_id"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert merged.episodes["rounds"].to_pylist() == [
        sum(1 for row in merged.rounds.to_pylist() if (row["task_id"], row["init_state"]) == (task, init))
        for task in range(3)
        for init in range(3)
    ]
    merge.write_merged(merged, tmp_path / "tables")
    again = schemas.read_table(tmp_path / "tables" / "steps.parquet", schemas.STEPS)
    assert again.num_rows == merged.steps.num_rows
    assert (
        schemas.read_metadata(tmp_path / "tables" / "rounds.parquet")["artifact_digest"] == METADATA["artifact_digest"]
    )


def test_the_load_of_an_arm_is_that_of_its_busiest_shard(tmp_path):
    load = {"cores": 2, "load_begin": 0.5, "load_max": 1.0, "others": 0.1}
    load |= {"governor": None, "cpu_mhz": [2400.0, 2500.0], "gpu_mhz": None}
    busy = load | {"load_max": 9.0, "others": 0.4, "cpu_mhz": [1800.0, 2450.0]}
    assert "machine" not in merge.merge_shards(write(tmp_path / "silent"), SPEC).metadata
    directories = write(tmp_path / "rollouts", metadata={"machine": json.dumps(busy)})
    rows = shard("guard_wrist_zero_all", 0)
    for name, schema in schemas.SCHEMAS.items():
        told = METADATA | {"machine": json.dumps(load)}
        schemas.write_table(directories[0] / f"{name}.parquet", rows[name], schema, told)
    joined = json.loads(merge.merge_shards(directories, SPEC).metadata["machine"])
    assert joined == busy | {"cpu_mhz": [1800.0, 2500.0]}


def drop_episode(rows: Rows) -> None:
    for name in rows:
        rows[name] = [row for row in rows[name] if row["init_state"] != 2]


def drop_round(rows: Rows) -> None:
    rows["rounds"].pop()


def double_episode(rows: Rows) -> None:
    rows["episodes"].append(rows["episodes"][0])


def double_step(rows: Rows) -> None:
    rows["steps"].append(rows["steps"][0])


def error_row(rows: Rows) -> None:
    rows["episodes"][0] |= {"outcome": "error", "success": False, "error": "connection lost"}


def stray_episode(rows: Rows) -> None:
    rows["episodes"].append({**rows["episodes"][0], "init_state": 40})


def orphan_round(rows: Rows) -> None:
    rows["rounds"].append({**rows["rounds"][0], "init_state": 41})


def other_policy(rows: Rows) -> None:
    rows["episodes"][0]["policy"] = "pi0_other"


def contradiction(rows: Rows) -> None:
    rows["episodes"][0] |= {"outcome": "success", "success": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_episode, "1 episode is missing: task 1 init 2 repeat 0 of 9"),
        (drop_round, "without all their rounds: task 1 init 2"),
        (double_episode, "duplicated: task 1 init 0"),
        (double_step, "with a duplicate step: task 1 init 0"),
        (error_row, r"ended by infrastructure, not by the policy: task 1 init 0 repeat 0 \(connection lost\)"),
        (stray_episode, "not part of the experiment: task 1 init 40"),
        (orphan_round, "in rounds but not in episodes: task 1 init 41"),
        (other_policy, "episodes of policy 'pi0_other' among those of 'pi0_nano'"),
        (contradiction, r"inconsistent \(success and outcome disagree\): task 1 init 0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    directories = write(tmp_path, change)
    with pytest.raises(UserError, match=message) as caught:
        merge.merge_shards(directories, SPEC)
    assert str(caught.value).startswith("guard_wrist_zero_all: ")


def test_many_holes_are_counted(tmp_path):
    directories = write(tmp_path)
    spec = {**SPEC, "init_states": list(range(10))}
    with pytest.raises(UserError, match=r"21 episodes are missing: (task 0 init \d repeat 0, ){5}\.\.\. of 30"):
        merge.merge_shards(directories, spec)
    with pytest.raises(UserError, match=r"task_1/episodes\.parquet does not exist"):
        (directories[1] / "episodes.parquet").unlink()
        merge.merge_shards(directories, SPEC)


def test_two_artifacts_are_not_one_arm(tmp_path):
    directories = write(tmp_path, metadata={"artifact_digest": "another"})
    with pytest.raises(UserError, match="2 different artifacts"):
        merge.merge_shards(directories, SPEC)


PLANNED = {key: METADATA[key] for key in ("config_digest", "artifact_digest", "code_digest")}


@pytest.mark.parametrize("key", PLANNED)
@pytest.mark.parametrize("shards", [1, 3])
def test_rows_of_another_plan_are_refused_by_name(tmp_path, key, shards):
    """One shard of another plan, and all of them: the rows agree with each other then, and with no plan."""
    spec = {**SPEC, "planned": {**PLANNED, key: METADATA[key] if shards == 1 else "planned000000000"}}
    directories = write(tmp_path, metadata={key: "foreign000000000"} if shards == 1 else None)
    found = "foreign000000000, planned simulated" if shards == 1 else f"{METADATA[key]}, planned planned000000000"
    place = directories[1 if shards == 1 else 0] / "episodes.parquet"
    with pytest.raises(UserError, match=rf"{place} is of another plan \({key} {found}.*; remove that directory"):
        merge.merge_shards(directories, spec)


def test_one_table_of_another_plan_is_refused_and_the_plans_own_shards_are_not(tmp_path):
    spec = {**SPEC, "planned": PLANNED}
    directories = write(tmp_path)
    assert merge.merge_shards(directories, spec).metadata["config_digest"] == METADATA["config_digest"]
    rounds = directories[2] / "rounds.parquet"
    table = schemas.read_table(rounds, schemas.ROUNDS)
    schemas.write_table(rounds, table, schemas.ROUNDS, {**METADATA, "code_digest": "another"})
    with pytest.raises(UserError, match=r"task_2/rounds\.parquet is of another plan \(code_digest another"):
        merge.merge_shards(directories, spec)


def test_the_planned_artifact_is_that_of_the_manifests(tmp_path):
    """An arm with a server of its own has no manifests: its shards must name no artifact."""
    for kind in ("base", "draft"):
        provenance.json_dump({"digest": kind[0]}, tmp_path / f"{kind}.json")
    handles = {kind: str(tmp_path / f"{kind}.json") for kind in ("draft", "base")} | {"ledgers": ["x"]}
    spec = {**SPEC, "planned": {"config_digest": "c"}}
    assert merge.with_artifact(spec, handles)["planned"] == {"config_digest": "c", "artifact_digest": "b+d"}
    assert merge.with_artifact(spec, {})["planned"]["artifact_digest"] == ""
