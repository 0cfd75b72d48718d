"""Everything that only a GPU can say, in one command of at most nine minutes: `make gpu-day`.

    make gpu-day                                   # an H100 or H200, nothing to fetch: docs/gpu/DEVICE-DATE.{json,md}
    make gpu-day DRY=1                             # no GPU: tiny sizes on the CPU and in Triton's interpreter
    PYTHONPATH=src python benchmarks/gpu_day.py --out DIR    # an environment of your own

Each stage is a process with a time limit, most valuable first. One that crashes, hangs or lacks something is a row that
says so, and the others go on; the files are written after every stage, with what there is. Random weights at
pi0_libero's dims are made on the spot.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flashtrail.base import commands, provenance
from flashtrail.base.errors import UserError
from flashtrail.base.names import file_name

ROOT = Path(__file__).resolve().parents[1]
TOTAL_S, LEAST_S = 520.0, 5.0  # of all stages; below the second a stage is not begun
DRY_DIMS = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 4, "num_kv_heads": 1, "head_dim": 8}
NO_GPU = 3  # exit code of the first stage
Note = Callable[..., None]  # adds facts to a stage's record on disk: what a crash leaves
Row = list[Any]


class Day:
    """Sizes, device and directory of this run."""

    def __init__(self, dry: bool, work: Path) -> None:
        self.dry, self.work = dry, work
        self.device, self.dtype = ("cpu", "float32") if dry else ("cuda", "bfloat16")
        self.rounds, self.most = (1, 2) if dry else (600, 8)  # p99 needs 500 rounds

    def dims(self) -> Any:
        """pi0_libero's, or tiny ones."""
        from flashtrail.policies.pi0.dims import PI0_LIBERO, GemmaDims, Pi0Dims, VisionDims

        if not self.dry:
            return PI0_LIBERO
        stack, vision = GemmaDims(**DRY_DIMS), VisionDims(16, 1, 24, 2, 8, patch=112)
        sizes = {"action_horizon": 6, "num_steps": 2, "max_token_len": 4, "num_views": 1}
        return Pi0Dims(vision, stack, stack, vocab_size=64, **sizes)

    def workload(self) -> Any:
        """Two views and 20 tokens, or what the tiny policy takes."""
        from flashtrail.benchmark.workload import Workload
        from flashtrail.policies.pi0.dims import DraftDims

        dims = self.dims()
        return Workload(dims, DraftDims.like(dims), dims.num_views, min(20, dims.max_token_len))


# --- the stages: each imports what it needs, so that a missing package costs one row ---


def device(day: Day, note: Note) -> None:
    """The device's name and ceilings, then whether the model environment can work there."""
    import torch

    from flashtrail import environment
    from flashtrail.benchmark import device as measured

    if not day.dry and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA device", file=sys.stderr)
        sys.exit(NO_GPU)
    about, ceiling = measured.about(day.device), measured.measured_ceiling(day.device, day.dtype, 0.1 if day.dry else 1)
    rows: list[Row] = [["large copy, GB/s", ceiling.bytes_per_s / 1e9]]
    rows += [[f"large {day.dtype} product, TFLOP/s", ceiling.flops_per_s / 1e12], *measured.clocks(day.device).items()]
    summary = f"{about['name']}, torch {torch.__version__}, triton {about['versions'].get('triton')}"
    note(about=about, summary=summary, columns=["measured", "value"], rows=rows)
    note(environment=environment.check_model_env([day.device]))


def kernels(day: Day, note: Note) -> None:
    """check_kernels on random artifacts: each kernel by itself, then whole rounds, times, late captures."""
    from safetensors.torch import save_file

    from flashtrail.benchmark import examine
    from flashtrail.checkpoints.artifact import MODEL
    from flashtrail.policies.pi0 import weights

    work, paths = day.workload(), []
    for kind, dims, init in (("base", work.dims, weights.init_base), ("draft", work.draft, weights.init_draft)):
        directory = day.work / kind
        directory.mkdir()
        save_file({k: v.cpu() for k, v in init(dims, len(paths), day.device, day.dtype).items()}, directory / MODEL)
        about = {
            "format": "flashtrail-artifact",
            "version": 1,
            "kind": kind,
            "dtype": day.dtype,
            "dims": dims.to_dict(),
        }
        provenance.json_dump(about, directory / "manifest.json")
        paths.append(directory)
    found = examine.check(paths[0], paths[1], day.device, day.dtype, 1 if day.dry else 2)
    rows = [[name, share, "right" if share <= 1 else "WRONG"] for name, share in found["kernels"].items()]
    rows += [[f"rounds: {name}", share, ""] for name, share in found["worst_share_of_leeway"].items()]
    columns, wrong = ["kernel", "error / tolerance", ""], [row[0] for row in rows if row[2] == "WRONG"]
    note(summary=f"backend {found['backend']}: {found['why']}", record=found, columns=columns, rows=rows, wrong=wrong)


def routes(day: Day, note: Note, compiled: bool = False) -> None:
    """Both routes of the kernels and of eager PyTorch in turns; `compiled`: of torch.compile too."""
    from flashtrail.benchmark import __main__ as benchmark
    from flashtrail.benchmark import record

    flags = ["--device", day.device, "--backend", "triton", "--eager"]
    flags += [
        "--rounds",
        str(day.rounds if compiled else min(day.rounds, 200)),
        "--seconds",
        "100" if compiled else "30",
    ]
    flags += ["--warmup", "0" if day.dry else "20"]
    flags += ["--compiler", "eager" if day.dry else "inductor"] if compiled else ["--no-compiled"]
    given = benchmark.parser().parse_args(flags)
    found = benchmark.measure(given, None if not day.dry else day.workload())
    rows = [
        [f"{name}, {route}", stages["round"]["n"], *(_value(stages["round"][p]) for p in ("p50", "p95", "p99"))]
        for name, of_route in found["rounds"].items()
        for route, stages in of_route.items()
    ]
    rows += [
        [what, "", _value(value), *(value["interval"] or ["", ""])] for what, value in found["comparisons"].items()
    ]
    rows += [[f"target {t['target']}, {t['bound']:g}", "", t["verdict"], "", ""] for t in found["targets"]]
    late = ", ".join(f"{n} {what}" for what, n in found["late"].items()) or "not counted here"
    print(record.text(found))
    columns = ["round, ms", "n", "p50, or value", "p95, or lower bound", "p99, or upper bound"]
    note(summary=f"late: {late}", record=found, columns=columns, rows=rows)


def routes_compiled(day: Day, note: Note) -> None:
    """The same beside torch.compile, whose compilation takes minutes."""
    routes(day, note, compiled=True)


def conformance(day: Day, note: Note) -> None:
    """The golden data through both backends on the device."""
    sys.path.insert(0, str(ROOT / "tests"))
    from conformance import device as golden_device
    from conformance.golden import DIRECTORY, Golden

    golden, rows = Golden(DIRECTORY), list[Row]()
    for backend, dtype in (("torch", "bfloat16"), ("triton", "bfloat16"), ("torch", "float32"), ("triton", "float32")):
        if day.dry and (backend, dtype) == ("triton", "bfloat16"):
            continue  # the interpreter is wrong in bfloat16
        run = golden_device.runtime_of(golden, backend, day.device, dtype)
        for row in golden_device.rows(golden, run, dtype, estimates_only=day.dry):
            rows.append(
                [row.name, f"{row.error:.1e}", f"{row.tolerance or 0:.1e}", "ok" if row.ok else "FAIL", row.note]
            )
            wrong = [row[0] for row in rows if row[3] == "FAIL"]
            note(
                summary=f"{len(rows)} comparisons, {len(wrong)} failed",
                columns=["golden data", "worst", "tolerance", "", ""],
                rows=rows,
                wrong=wrong,
            )


def batches(day: Day, note: Note) -> None:
    """Rounds of 1 to 8 sessions in a pass, kernels beside PyTorch."""
    from flashtrail.benchmark.workload import random_runtime
    from flashtrail.policies.pi0.engine import Call, Engine
    from flashtrail.policies.pi0.settings import FlashSettings

    work, rows = day.workload(), list[Row]()
    settings = FlashSettings(tau_radius=1e6, enable_gripper_verify=False, enable_gripper_post_verify=False)
    seen, noises, turns = work.inputs(), work.noises(), 1 if day.dry else 30
    for backend in ("triton", "torch"):
        runtime = random_runtime(work, day.device, day.dtype, backend, settings)
        engine = Engine(runtime, settings)
        for count in range(1, day.most + 1):
            sessions, ms = [engine.new_session() for _ in range(count)], dict[str, list[float]](full=[], draft=[])
            for turn in range(2 * turns):
                pairs = [(s, (turn + n) % len(seen)) for n, s in enumerate(sessions)]
                calls = [Call(s, seen[at], noises[at], reset=turn % 2 == 0) for s, at in pairs]
                results = [result for _, result in engine.infer_many(calls, count)]
                if errors := [result for result in results if isinstance(result, Exception)]:
                    raise errors[0]
                ms[results[0].route].append(results[0].wall_ms)  # type: ignore[union-attr]
            rows += [[backend, count, r, m := statistics.median(t[1:] or t), 1e3 * count / m] for r, t in ms.items()]
            columns = ["backend", "sessions", "route", "median ms of a pass", "rounds per second"]
            note(
                summary=f"1 to {day.most} sessions in a pass; the first pass of each size records and is left out",
                columns=columns,
                rows=rows,
            )
        del runtime, engine


@contextlib.contextmanager
def served(day: Day) -> Iterator[Any]:
    """pi0_nano's server on the device, from the weights in resources/."""
    from flashtrail.checkpoints import artifact
    from flashtrail.serving.handles import serve_command
    from flashtrail.serving.launch import PolicyServerProcess, free_port

    source, base, draft, port = ROOT / "resources/pi0_nano", day.work / "nano", day.work / "nano-draft", free_port()
    if not base.exists():
        artifact.convert_base(source, base)
        artifact.convert_draft(source / "draft.pt", draft, base=base)
    backend = "torch" if day.dry else "triton"
    command = serve_command(base, port=port, draft=draft, device=day.device, backend=backend, max_batch=2)
    with PolicyServerProcess(command, day.work / "server.log", port, 120) as server:
        yield server


def server(day: Day, note: Note) -> None:
    """Rounds over a socket from pi0_nano's server on the device; the first chunk beside the CPU's."""
    import numpy as np

    from flashtrail.policies.pi0.policy import FlashPolicy
    from flashtrail.serving.client import PolicyClient

    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    request = {"observation/image": image, "observation/wrist_image": image, "observation/state": np.zeros(8)}
    request["prompt"] = "put the bowl on the plate"
    with served(day) as process, PolicyClient(process.url) as client:
        first = client.infer(request, reset=True, noise_seed=[0])
        times = [client.infer(request, executed_steps=12, noise_seed=[n]) for n in range(1, 3 if day.dry else 200)]
        about = dict(client.metadata)
    own = FlashPolicy.load(day.work / "nano", day.work / "nano-draft")
    expected = own.infer(own.new_session(), request, reset=True, noise_seed=[0])["actions"]
    gap = float(np.abs(first.actions - expected).max())
    rows = [
        [route, len(ms), statistics.median(ms), max(ms)]
        for route in ("full", "draft")
        if (ms := [reply.roundtrip_ms for reply in times if reply.policy_timing["route_type"] == route])
    ]
    summary = (
        f"backend {about['backend']}, first chunk {gap:.1e} from the CPU's, {about.get('captures', 0)} late captures"
    )
    note(summary=summary, metadata=about, columns=["route", "n", "median round trip, ms", "max"], rows=rows)


def rollout(day: Day, note: Note) -> None:
    """Two episodes against that server, rendered through EGL on the device."""
    from flashtrail import environment
    from flashtrail.experiment import shard
    from flashtrail.rollouts.shard import roll_out_shard
    from flashtrail.simulators.robosuite import opengl
    from flashtrail.tables import schemas

    if not day.dry:
        if missing := opengl.missing_libraries():
            note(summary=f"not run: no EGL here ({', '.join(missing)} not found)")
            return
        note(environment=environment.check_libero_env())
    spec = {"arm": "gpu-day", "policy": "pi0_nano", "suite": "reach" if day.dry else "libero_goal", "task_id": 0}
    spec |= {"init_states": [0, 1], "seed": 7, "simulators": 2}
    began = time.monotonic()
    with served(day) as process:
        roll_out_shard(shard.read({**spec, "server": {"url": process.url}}), day.work / "shard").check()
    seconds = time.monotonic() - began
    episodes = schemas.read_table(day.work / "shard/episodes.parquet", schemas.EPISODES).to_pylist()
    rows = [[e["init_state"], e["outcome"], e["steps"], e["rounds"], e["wall_s"]] for e in episodes]
    done, backend = sum(e["success"] for e in episodes), os.environ.get("MUJOCO_GL")
    summary = f"{done}/{len(episodes)} successes, MUJOCO_GL={backend}, {seconds:.0f} s with the server's start"
    note(summary=summary, columns=["init state", "outcome", "steps", "rounds", "seconds"], rows=rows)


# Most valuable first: name, seconds at most. Those of one run share TOTAL_S.
STAGES: dict[str, tuple[Callable[[Day, Note], None], float]] = {
    "device": (device, 60),
    "kernels": (kernels, 150),
    "routes": (routes, 120),
    "conformance": (conformance, 90),
    "routes-compiled": (routes_compiled, 240),
    "batches": (batches, 120),
    "server": (server, 120),
    "rollout": (rollout, 90),
}


def _value(quantile: dict[str, Any] | None) -> Any:
    return "" if quantile is None else quantile["value"]


# --- one stage, in a process of its own ---


def run_stage(name: str, dry: bool, work: Path) -> None:
    """Run a stage; its record lies in `work` after each note."""
    record: dict[str, Any] = {}

    def note(**facts: Any) -> None:
        record.update(facts)
        provenance.json_dump(record, work / f"{name}.json")

    STAGES[name][0](Day(dry, work), note)


def _cpu_s() -> float:
    """CPU seconds of the processes that have ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start(name: str, dry: bool, work: Path, limit_s: float) -> dict[str, Any]:
    """Run a stage as a process -> its record, with `ended` (`done`, or what went wrong) and `seconds`."""
    command = [sys.executable, __file__, "--stage", name, "--work", str(work), *(["--dry"] if dry else [])]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    env |= {"TRITON_INTERPRET": "1"} if dry else {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl"}
    began, used, log = time.monotonic(), _cpu_s(), work / f"{name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
            ended = "done" if code == 0 else f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, ended = -signal.SIGKILL, f"stopped after {limit_s:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    path = work / f"{name}.json"
    record = provenance.json_load(path) if path.exists() else {}
    record |= {
        "ended": ended,
        "code": code,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_s": round(_cpu_s() - used, 1),
    }
    return record if code == 0 else record | {"log": lines[-20:]}


# --- the whole ---


def markdown(day: dict[str, Any]) -> str:
    """The record as one page: a row for each stage, then each stage's table."""
    title = "DRY RUN on a CPU, tiny sizes: says nothing about a GPU" if day["dry"] else day["device"]
    lines = [f"# {title}, {day['date']}", "", f"`make gpu-day`, commit {day['commit']}, {day['seconds']:.0f} s.", ""]
    rows = []
    for name, stage in day["stages"].items():
        last = (stage.get("log") or [""])[-1]
        rows.append(
            [name, stage["ended"], stage.get("seconds", ""), stage.get("cpu_s", ""), stage.get("summary", last)]
        )
    lines += _table(["stage", "ended", "s", "CPU s", "result"], rows)
    for name, stage in day["stages"].items():
        if stage.get("rows"):
            lines += ["", f"## {name}", "", *_table(stage["columns"], stage["rows"])]
    return "\n".join(lines) + "\n"


def _table(columns: list[str], rows: list[Row]) -> list[str]:
    def cell(value: Any) -> str:
        text = f"{value:,.4g}" if isinstance(value, float) else str(value)
        return text.replace("|", "/")

    body = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell(value) for value in row) + " |" for row in body]


def main() -> int:
    """Run the stages and write both files; 1 where a stage did not end well or a result is wrong."""
    parser = commands.Parser(prog="benchmarks/gpu_day.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU and in Triton's interpreter")
    parser.add_argument("--out", type=Path, help="directory of the two files (default: docs/gpu; dry: results/gpu-dry)")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=list(STAGES), help="default: all")
    parser.add_argument("--stage", choices=tuple(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        run_stage(given.stage, given.dry, given.work)
        return 0
    with tempfile.TemporaryDirectory(prefix="gpu-day-") as work:
        return run_all(given.dry, given.out, given.stages, Path(work))


def run_all(dry: bool, out: Path | None, names: list[str], work: Path) -> int:
    """Run stage after stage until TOTAL_S is used, writing what there is after each."""
    out = out or ROOT / ("results/gpu-dry" if dry else "docs/gpu")
    if dry and out.resolve().is_relative_to(ROOT / "docs"):
        raise UserError(f"{out}: a dry run is not evidence about a GPU; give another --out")
    began, today = time.monotonic(), datetime.datetime.now(datetime.UTC).date().isoformat()
    day: dict[str, Any] = {"dry": dry, "date": today, "device": "unknown device", "stages": {}}
    day["commit"] = provenance.git_commit(ROOT)
    for name in names:
        slower = 4 if dry else 1  # a CPU has other work
        left = slower * TOTAL_S - (time.monotonic() - began)
        stage = {"ended": "not begun: the time was used up", "code": 1}
        if left > LEAST_S:
            stage = start(name, dry, work, min(slower * STAGES[name][1], left))
        if stage["code"] == NO_GPU:
            raise UserError(f"{stage['log'][-1]}; `make gpu-day DRY=1` runs the same stages without one")
        day["device"] = stage.get("about", {}).get("name", day["device"])
        day["stages"][name], day["seconds"] = stage, time.monotonic() - began
        print(f"{name}: {stage['ended']}, {stage.get('seconds', 0)} s: {stage.get('summary', '')}", flush=True)
        device = "dry" if dry else file_name("-".join(day["device"].lower().split()))
        provenance.json_dump(day, out / f"{device}-{today}.json")
        (out / f"{device}-{today}.md").write_text(markdown(day), encoding="utf-8")
    print(f"{out / f'{device}-{today}.md'}")
    for name, stage in day["stages"].items():
        if stage.get("wrong"):
            print(f"{name}: wrong: {', '.join(stage['wrong'])}", file=sys.stderr)
    return int(any(stage["code"] or stage.get("wrong") for stage in day["stages"].values()))


if __name__ == "__main__":
    sys.exit(commands.run(main, "gpu-day"))
