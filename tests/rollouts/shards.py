"""What tests of whole shards share: a spec, a shard in a process of its own, its tables, parts and server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

from flashtrail.experiment.shard import ShardSpec
from flashtrail.rollouts.shard import default_parts_dir, roll_out_shard
from flashtrail.tables import schemas

HERE = Path(__file__).parent
SERVER = [sys.executable, str(HERE / "scripted_server.py"), "{port}"]
WORKER = [sys.executable, str(HERE / "stub_worker.py")]
# Columns that two runs of the same episode need not share.
TIMING = {"encoder_ms", "policy_ms", "serve_ms", "roundtrip_ms", "wall_s", "started_at", "run_id"}


def spec(init_states=(0, 1, 2), server=SERVER, **more) -> ShardSpec:
    told = {
        "arm": "clean",
        "policy": "scripted",
        "suite": "libero_goal",
        "task_id": 2,
        "init_states": list(init_states),
        "seed": 7,
        "condition": {"kind": "zero", "every": 4},
        "guard": {"kind": "wrist_health"},
        "server": {"command": [*server]},
        "server_ready_timeout_s": 60,
    }
    return ShardSpec.model_validate(told | more)


def rows(directory: Path, timing: bool = False) -> dict[str, list[dict]]:
    """The three tables, without what the clock wrote."""
    read = {
        name: schemas.read_table(directory / f"{name}.parquet", s).to_pylist() for name, s in schemas.SCHEMAS.items()
    }
    return {
        name: [{k: v for k, v in row.items() if timing or k not in TIMING} for row in table]
        for name, table in read.items()
    }


def start(out: Path, told: ShardSpec, worker=WORKER) -> subprocess.Popen:
    """Start a shard in a process of its own."""
    code = (
        "import json, sys; from flashtrail.rollouts.shard import roll_out_shard; "
        "from flashtrail.experiment.shard import ShardSpec; "
        "spec = ShardSpec.model_validate_json(sys.argv[1]); "
        "roll_out_shard(spec, sys.argv[2], worker_command=json.loads(sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, told.model_dump_json(), str(out), json.dumps(list(worker))]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def roll_out(told: ShardSpec, out: Path, worker=WORKER, **more) -> str:
    """Roll out a shard here; return what it said."""
    log = io.StringIO()
    roll_out_shard(told, out, log=log, worker_command=worker, **more)
    return log.getvalue()


def children(pid: int) -> dict[int, str]:
    """Processes whose parent this is, zombies left out, with their command lines."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found[int(stat.parent.name)] = stat.with_name("cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def simulators(keeper: int) -> list[int]:
    """The simulator processes of a keeper."""
    return sorted(pid for pid, command in children(keeper).items() if "--kept" in command)


def servers(keeper: int) -> list[int]:
    """The policy servers of a keeper."""
    return sorted(children(keeper).keys() - simulators(keeper))


def parts(out: Path) -> list[str]:
    return sorted(path.name for path in default_parts_dir(out).glob("*/init_*"))


def servers_of(out: Path) -> list[int]:
    """Processes that still have this shard's output directory among their arguments or open files."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            targets = [str(f.readlink()) for f in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(target == str(out / "server.log") for target in targets):
            found.append(int(process.name))
    return found


def wait_until(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
