"""Each drill's episodes explained and replayed: a real server with a tiny policy, a simulator of arithmetic."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from policies.pi0.conftest import tokenizer_model, write_policy  # noqa: F401  (a fixture)
from rollouts.shards import WORKER

from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment import config
from flashtrail.experiment.arms import DRILL_CLEAN, DRILL_REFERENCE
from flashtrail.experiment.shard import Server, ShardSpec
from flashtrail.record import replay
from flashtrail.record.run import Run
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.rollouts.spec import shard_spec
from flashtrail.serving.launch import PolicyServerProcess, free_port

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = config.load(ROOT / "config.yaml")
STATISTICS = "resources/drills/bridge_like.json"
DRILLED = [arm for arm in EXPERIMENT.drill_arms if arm != DRILL_REFERENCE]
STATE = 5
SIMULATED = functools.partial(roll_out_shard, worker_command=[*WORKER, "long", "-"])


@pytest.fixture(scope="module")
def on_a_running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """SIMULATED on a server that runs already, where one was started with the same words: half of it is the start."""
    log, urls = tmp_path_factory.mktemp("servers") / "server.log", dict[str, str]()
    with contextlib.ExitStack() as servers:

        def roll_out(spec: ShardSpec, out: Path, **named: Any) -> Any:
            command = [word.replace("{simulators}", "1") for word in spec.server.command or ()]
            if str(command) not in urls:
                port = free_port()
                words = [word.replace("{port}", str(port)) for word in command]
                server = PolicyServerProcess(words, log, port, spec.server_ready_timeout_s)
                urls[str(command)] = servers.enter_context(server).url
            url = Server(url=urls[str(command)])
            return SIMULATED(spec.model_copy(update={"server": url}), out, **named)

        yield roll_out


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_model: bytes,  # noqa: F811
    on_a_running_server: Callable[..., Any],
) -> Path:
    """A directory in which the drills were run, one episode each, and nothing else."""
    root = tmp_path_factory.mktemp("run")
    base, _ = write_policy(root / "results/artifacts/pi0_nano", tokenizer_model)
    (root / STATISTICS).parent.mkdir(parents=True)
    shutil.copy(ROOT / STATISTICS, root / STATISTICS)
    handles = {"base": base / "manifest.json", "model": root / "results/environments/handle.json"}
    provenance.json_dump({"python": sys.executable}, handles["model"])
    for arm in DRILLED:
        told = EXPERIMENT.arm(arm) | {"init_states": [STATE], "video": "none"}
        _rolled_out(root, told, handles, on_a_running_server)
    reference = f"results/tables/{DRILL_REFERENCE}/steps.parquet"
    _job(root, "derive_bounds", {"steps": [reference]}, {}, {})
    _job(root, "diagnose_drills", {}, {}, {"arms": DRILLED})
    provenance.json_dump({}, root / "results/drills/diagnosis.json")
    return root


def _rolled_out(root: Path, arm: dict[str, Any], handles: dict[str, Path], play: Callable[..., Any]) -> None:
    file = arm.get("execution", {}).get("action_stats")
    own = handles | ({"action_stats": root / file} if file else {})
    place = f"results/rollouts/{arm['arm']}/task_0"
    spec = shard_spec(arm, 0, own, "c0de", root / place / "server.log")
    play(spec, root / place, log=io.StringIO()).check()
    relative = {kind: str(path.relative_to(root)) for kind, path in own.items()}
    told = {"arm": arm, "task": 0, "code": "c0de"}
    _job(root, f"roll_out_shard/{arm['arm']}/task_0", relative, {"ledger": f"{place}/ledger.json"}, told)
    expected = {key: arm[key] for key in ("arm", "policy", "suite", "seed", "init_states", "repeats")} | {"tasks": [0]}
    _job(root, f"merge_shards/{arm['arm']}", {}, {}, {"expected": expected})


def _job(root: Path, name: str, files: dict[str, Any], output: dict[str, Any], params: dict[str, Any]) -> None:
    job = {"rule": name.split("/")[0], "input": files, "output": output, "params": params}
    provenance.json_dump(job, root / "results/logs" / f"{name}.json")


@pytest.fixture
def simulated(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, on_a_running_server: Callable[..., Any]
) -> None:
    """No replay has a real simulator; that of the clean run, and of other statistics, starts the server it names."""
    own = DRILL_CLEAN in request.node.name or "by_itself" in request.node.name
    monkeypatch.setattr(replay, "roll_out_shard", SIMULATED if own else on_a_running_server)


@pytest.mark.slow
@pytest.mark.parametrize("arm", DRILLED)
@pytest.mark.usefixtures("simulated")
def test_a_replay_gives_the_recorded_rows(run: Path, arm: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", f"{arm}/0/{STATE}", "--from", str(run), "--replay"]) == 0
    assert "the replay gave the recorded rows" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["drill_bad_unnorm", "drill_long_chunk", "drill_short_horizon"])
@pytest.mark.usefixtures("simulated")
def test_a_replay_without_the_mistake_contradicts_the_record(run: Path, arm: str) -> None:
    """The three that no condition names: their settings are of execution, and a replay must not forget them."""
    explained = explain(run, arm)
    clean = explain(run, DRILL_CLEAN)
    clean |= {"episode": explained["episode"], "rows": explained["rows"]}
    assert replay.replay(clean, replay.Here(run)).differences


def explain(run: Path, arm: str) -> dict[str, Any]:
    bundle = Run(run)
    return replay.explain(bundle, replay.parse(bundle, f"{arm}/0/{STATE}"))


@pytest.mark.slow
@pytest.mark.usefixtures("simulated")
def test_an_episode_by_itself_finds_the_statistics_that_this_package_has(run: Path, tmp_path: Path) -> None:
    file, artifacts = tmp_path / "episode.json", run / "results/artifacts"
    provenance.json_dump(explain(run, "drill_bad_unnorm"), file)
    words = ["explain", str(file), "--from", str(tmp_path), "--replay", "--artifacts", str(artifacts)]
    assert cli.main(words) == 0


@pytest.mark.slow
def test_other_statistics_than_those_of_the_record_are_refused(run: Path, tmp_path: Path) -> None:
    explained = explain(run, "drill_bad_unnorm")
    other = tmp_path / STATISTICS
    other.parent.mkdir(parents=True)
    other.write_text((ROOT / STATISTICS).read_text().replace("1.6", "1.5"))
    here = replay.Here(tmp_path, run / "results/artifacts")
    with pytest.raises(UserError, match=f"{STATISTICS} here is not the file of the record"):
        replay.replay(explained, here)
    lost = json.loads(json.dumps(explained).replace(STATISTICS, "elsewhere/stats.json"))
    with pytest.raises(UserError, match="does not exist: give --from"):
        replay.replay(lost, here)
