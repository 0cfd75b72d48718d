"""A finished run grown, shrunk and changed: which episodes each change runs, by the table in docs/workflow.md.

Real episodes of the real workflow, of a policy that holds still and a simulator that is a point.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from workflow.checkouts import ROOT, Checkout, copy_checkout

from flashtrail.base import provenance
from flashtrail.tables import schemas

GROWN = "grown.yaml"
EXPERIMENT = """
suite: reach
tasks: "0"
policies: {__only__: true, still: {artifact: resources/still}}
arms:
  __only__: true
  clean: {policy: still, episodes: 2, video: none}
  guarded: {policy: still, episodes: 1, video: none, condition: wrist_zero_all, guard: wrist_health}
sweeps: {__only__: true}
drills: {policy: still}
profile: {policy: still}
checkup: {policy: still}
smoke: {episodes: 1}
"""
DOCUMENTED = re.compile(r"^\| (.+?) \| (.+?) \|$", re.M)


def grow(checkout: Checkout, old: str = "", new: str = "", arms: tuple[str, ...] = ("clean", "guarded")) -> list[str]:
    """Change the config, run the arms to their tables, and return the episodes that were run, as ARM/TASK/NAME."""
    checkout.edit(GROWN, old, new)
    targets = [f"results/tables/{arm}/episodes.parquet" for arm in arms]
    return episodes_run(checkout, ["snakemake", "--profile", "profiles/local", "--configfile", GROWN, "--", *targets])


def episodes_run(checkout: Checkout, command: list[str]) -> list[str]:
    """Run a command, after which nothing is left to do, and return the episodes that were run, as ARM/TASK/NAME."""
    logs = checkout.path / "results/logs/roll_out_shard"
    shutil.rmtree(logs, ignore_errors=True)
    checkout.run(*command)
    assert "Nothing to be done" in checkout.run(*command).stdout
    return sorted(
        f"{log.parent.name}/{log.stem.removeprefix('task_')}/{name}"
        for log in logs.rglob("*.log")
        for name in re.findall(r"^\S+ task \d+: \d+/\d+ (init\S+) \w+, ", log.read_text(), re.M)
    )


def episodes(checkout: Checkout, arm: str = "clean") -> list[dict]:
    return schemas.read_table(checkout.path / f"results/tables/{arm}/episodes.parquet", schemas.EPISODES).to_pylist()


def names(arm: str, task: int, init_states: range | list[int], repeat: int = 0) -> list[str]:
    return [f"{arm}/{task}/init_{i:03d}_repeat_{repeat}" for i in init_states]


def place(target: Path) -> Checkout:
    checkout = copy_checkout(target)
    shutil.copytree(ROOT / "resources/still", checkout.path / "resources/still")
    (checkout.path / GROWN).write_text(EXPERIMENT)
    # An experiment refuses the suite, which says nothing about a policy; what runs when can be told by it all the same.
    checkout.edit("src/flashtrail/experiment/suites.py", "evidence=False", "evidence=True")
    return checkout


@pytest.fixture(scope="module")
def run_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two episodes and one; do not change it."""
    checkout = place(tmp_path_factory.mktemp("run") / "checkout")
    assert grow(checkout) == [*names("clean", 0, range(2)), *names("guarded", 0, range(1))]
    return checkout.path


@pytest.fixture
def finished(run_tree: Path, tmp_path: Path) -> Checkout:
    """A copy of it, in another place."""
    shutil.copytree(run_tree, tmp_path / "checkout", symlinks=True)
    return Checkout(tmp_path / "checkout")


def test_episodes_up_down_and_up_again_then_repeats_and_a_task(finished):
    before = episodes(finished)
    assert grow(finished, "episodes: 2", "episodes: 3") == names("clean", 0, [2])
    assert episodes(finished)[:2] == before, "the rows that were there"
    assert grow(finished, "episodes: 3", "episodes: 2") == []
    assert episodes(finished) == before
    assert grow(finished, "episodes: 2", "episodes: 3") == []
    assert len(episodes(finished)) == 3
    assert grow(finished, "episodes: 3", "episodes: 3, repeats: 2") == names("clean", 0, range(3), repeat=1)
    assert grow(finished, "episodes: 3, repeats: 2", "first_init_state: 1, episodes: 2") == []
    assert [row["init_state"] for row in episodes(finished)] == [1, 2]
    added = [*names("clean", 1, [1, 2]), *names("guarded", 1, range(1))]
    assert grow(finished, 'tasks: "0"', 'tasks: "0,1"') == added
    assert "taken" not in schemas.read_metadata(finished.path / "results/tables/clean/episodes.parquet")


def test_films_a_guard_and_a_name(finished):
    assert grow(finished, "episodes: 2, video: none", "episodes: 2, video: failures") == names("clean", 0, range(2))
    films = (finished.path / "results/rollouts/clean/task_0/videos").iterdir()
    assert sorted(file.suffix for file in films) == [".mp4", ".mp4", ".npz", ".npz"]
    assert grow(finished, "video: failures", "video: none") == []
    assert not list((finished.path / "results/rollouts/clean/task_0").glob("videos/*"))
    assert grow(finished, "guard: wrist_health", "guard: oracle") == names("guarded", 0, range(1))
    renamed = grow(finished, "  clean:", "  plain:", arms=("plain", "guarded"))
    assert renamed == names("plain", 0, range(2)), "an arm's name is part of its episodes' key"


def test_another_run_s_episodes_are_taken_where_key_and_digest_are_the_same(run_tree, tmp_path):
    checkout = place(tmp_path / "elsewhere")
    checkout.edit(GROWN, "episodes: 2", "episodes: 3")
    checkout.edit(GROWN, "guard: wrist_health", "guard: oracle")
    assert grow(checkout, "smoke:", f"reuse: [{run_tree}]\nsmoke:") == [
        *names("clean", 0, [2]),
        *names("guarded", 0, range(1)),
    ]
    theirs = run_tree / "results/rollouts/clean/task_0/episodes.parquet"
    about = schemas.read_metadata(checkout.path / "results/tables/clean/rounds.parquet")
    assert json.loads(about["taken"]) == {provenance.sha256_file(theirs): ["0/0/0", "0/1/0"]}
    assert grow(checkout, f"reuse: [{run_tree}]\n", "") == [], "they are this run's now"
    checkout.edit(GROWN, "smoke:", "reuse: [resources]\nsmoke:")
    said = checkout.run("snakemake", "--profile", "profiles/local", "--configfile", GROWN, "-n", check=False).stdout
    assert "error: reuse: resources has no results/rollouts" in said


def test_in_an_unpacked_bundle_only_what_is_new_is_run(run_tree, tmp_path):
    """What a bundle leaves behind: finished parts, films, the interpreter's path."""
    left, inside = {"parts", "videos", "handle.json"}, f"{run_tree / 'results'}"
    left_out = lambda folder, names: left & {*names} if folder.startswith(inside) else set()  # noqa: E731
    shutil.copytree(run_tree, tmp_path / "bundle", symlinks=True, ignore=left_out)
    bundle = Checkout(tmp_path / "bundle")
    theirs = provenance.sha256_file(bundle.path / "results/rollouts/clean/task_0/episodes.parquet")
    assert grow(bundle, "episodes: 2", "episodes: 1") == []
    assert grow(bundle, "episodes: 1, video: none}", "episodes: 3, video: none}") == names("clean", 0, [2])
    about = schemas.read_metadata(bundle.path / "results/tables/clean/episodes.parquet")
    assert json.loads(about["taken"]) == {theirs: ["0/0/0", "0/1/0"]}
