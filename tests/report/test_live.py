"""What a run says of itself while it goes on: lines for a person, and a page where the report will be."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment import progress
from flashtrail.experiment.outlook import Shard
from flashtrail.report import early, layout, live, rendering

NAMES = ("init_000_repeat_0", "init_001_repeat_0", "init_002_repeat_0")


class Run:
    """A run of shards that are folders, whose jobs end when the test says so, watched by a clock of its own."""

    def __init__(self, root: Path, arms=("clean", "blind"), tasks=(0, 1)):
        self.shards = [Shard(arm, task, root / arm / f"task_{task}", NAMES) for arm in arms for task in tasks]
        self.records: dict[Shard, progress.Record] = {}
        self.done: set[Shard] = set()
        self.rules = ["check_parity"]
        self.page, self.now, self.said = root / "reports" / "final.html", 0.0, list[str]()
        self.expected = 0

    def watched(self) -> live.Watch:
        graph = live.Graph(
            self.shards,
            self.done.__contains__,
            lambda: self.rules,
            self.page,
            lambda: setattr(self, "expected", self.expected + 1),
        )
        return live.Watch(graph, self.said.append, lambda: self.now)

    def begin(self, *numbers: int) -> None:
        self.rules = ["roll_out_shard"]
        for number in numbers:
            shard = self.shards[number]
            self.records[shard] = progress.Record(shard.directory, NAMES, {})

    def play(self, number: int, *outcomes: str, seconds: float = 9.0) -> None:
        shard = self.shards[number]
        record = self.records[shard]
        for outcome in outcomes:
            name = NAMES[len(progress.read(shard.directory)["outcomes"])]
            record.add(name, outcome, seconds, 75, 12)

    def finish(self, number: int) -> None:
        shard = self.shards[number]
        outcomes = progress.read(shard.directory)["outcomes"]
        provenance.json_dump({"outcomes": outcomes}, shard.directory / progress.LEDGER)
        self.done.add(shard)


def test_the_lines_of_a_run(tmp_path):
    run = Run(tmp_path)
    watch = run.watched()

    def look(now: float) -> list[str]:
        run.now, before = now, len(run.said)
        watch.look()
        return run.said[before:]

    assert look(3) == ["3 s: 0 of 12 episodes; setting up (check parity)"], "the first minutes are not silent"
    assert look(6) == [] and look(64) == ["64 s: 0 of 12 episodes; setting up (check parity)"]
    run.begin(0, 1)
    assert look(70) == []
    run.play(0, "success")
    first = "80 s: 1 of 12 episodes; roll out shard; clean task 0: success 1/1"
    assert look(80) == [first], "the first episode at once"
    run.play(1, "horizon", seconds=11.0)
    assert look(100) == [], "once a minute"
    left = "about 50 s of episodes left (10.0 s each, 2 at a time)"
    assert look(141) == [f"2 min: 2 of 12 episodes; {left}; clean task 1: success 0/1"]
    run.play(0, "success", "horizon")
    run.play(1, "error")
    run.finish(0)
    assert look(150) == [], "an arm with an episode that could not be run is not complete"
    run.play(1, "horizon")
    run.records[run.shards[1]].add(NAMES[1], "success", 10.0, 70, 12)
    run.finish(1)
    run.begin(2)
    (line,) = look(155)
    assert line.startswith("3 min: 6 of 12 episodes; ") and line.endswith("; clean complete: 3/6")
    assert "of episodes left (9.5 s each, 2 at a time)" in line, "one waits: two cores are still in use"


def test_an_episode_left_by_an_earlier_run_counts_once_its_shard_says_so(tmp_path):
    run = Run(tmp_path, arms=["clean"], tasks=[0])
    run.begin(0)
    run.play(0, "success", "success")
    watch = run.watched()
    watch.look()
    assert run.said == ["1 s: 0 of 3 episodes; roll out shard"]
    kept = progress.read(run.shards[0].directory)["outcomes"]
    run.records[run.shards[0]] = progress.Record(run.shards[0].directory, NAMES, kept)
    watch.look()
    assert run.said[1].startswith("1 s: 2 of 3 episodes; about 9 s of episodes left")


def test_the_page_comes_with_the_first_episode_and_again_each_minute(tmp_path):
    run = Run(tmp_path)
    watch = run.watched()
    run.begin(0)
    watch.look()
    assert not run.page.exists()
    run.play(0, "success")
    watch.look()
    text = run.page.read_text()
    assert early.is_early(run.page) and "<h1>1 of 12 episodes</h1>" in text and run.expected == 1
    assert "1/1 [21–100 %], 2 missing" in text.replace("\u00a0", " ").replace('<span class="kept">', "").replace(
        "</span>", ""
    )
    assert "No verdict is computed before" in text and '<meta http-equiv="refresh" content="60">' in text
    assert rendering.external_references(text) == [] and layout.content_policy() in text
    run.play(0, "success")
    run.now = 59
    watch.look()
    assert run.page.read_text() == text, "each minute"
    run.now = 60
    watch.look()
    assert "<h1>2 of 12 episodes</h1>" in run.page.read_text()
    run.page.unlink()  # as Snakemake does before it renders
    run.now = 62
    watch.look()
    assert early.is_early(run.page), "a browser that reads it again finds it"
    watch.look(ended=True)
    stopped = run.page.read_text()
    assert "the run has stopped" in stopped and 'http-equiv="refresh"' not in stopped and 'id="again"' not in stopped
    assert sorted(path.name for path in run.page.parent.iterdir()) == ["final.html"]


def test_without_an_episode_the_page_comes_after_a_minute(tmp_path):
    run = Run(tmp_path)
    watch = run.watched()
    run.now = 60
    watch.look()
    assert run.page.stat().st_mtime < time.time() - 1e8, "older than any input: to Snakemake it is no report"
    assert "<h1>0 of 12 episodes</h1>" in run.page.read_text() and "setting up (check parity)" in run.page.read_text()


def test_a_finished_page_is_never_replaced(tmp_path, monkeypatch):
    page = tmp_path / "final.html"
    page.write_text("the report")
    early.write(page, early.MARK)
    assert page.read_text() == "the report"
    early.refuse(page)
    early.remove(page)
    assert page.is_file()

    def ends_meanwhile(path: Path) -> bool:
        """Between the look and the writing the report's job ends."""
        found = early.MARK in path.read_text()
        if found:
            path.with_name("rendered").write_text("the report")
            path.with_name("rendered").replace(path)
        return found

    page.write_text(early.MARK)
    with pytest.raises(UserError, match="a run that has not ended: finish it"):
        early.refuse(page)
    monkeypatch.setattr(early, "is_early", ends_meanwhile)
    early.write(page, f"{early.MARK} 2")
    assert page.read_text() == "the report" and sorted(p.name for p in tmp_path.iterdir()) == ["final.html"]


def test_whatever_goes_wrong_ends_the_thread_with_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(live, "LOOK_S", 0.01)
    run = Run(tmp_path)
    thread = live.watch(lambda: live.Graph(run.shards, run.done.__contains__, lambda: [][1]))
    thread.join(60)
    assert not thread.is_alive()
    words = "stopped (IndexError: list index out of range); the run goes on"
    assert capsys.readouterr().err == f"progress: {words}\n"
    assert live.watch(lambda: [][1]) is None and capsys.readouterr().err == f"progress: {words}\n"
    assert live.watch(lambda: live.Graph([], run.done.__contains__, list)) is None and not capsys.readouterr().err


NEEDED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"numpy", "pandas", "scipy", "statsmodels", "pyarrow", "matplotlib", "nbconvert"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from pathlib import Path
from flashtrail.experiment.outlook import Shard, State
from flashtrail.report import early, live
states = {Shard("clean", 0, Path("x"), ("a", "b")): State({"a": "success"}, [9.0])}
print(early.text(states, {"Now": "roll out shard"}))
"""


def test_it_needs_nothing_that_the_environment_of_snakemake_lacks():
    """envs/workflow.yaml has neither scipy nor pyarrow."""
    environment = os.environ | {"PYTHONPATH": str(Path(live.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", NEEDED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<h1>1 of 2 episodes</h1>" in done.stdout
