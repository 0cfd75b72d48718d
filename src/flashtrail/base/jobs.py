"""One job of the workflow as plain data, and the frame in which every script in scripts/ runs.

A script is a function of a `Job`; `run` builds the job from the object that Snakemake injects or, for debugging, from
the JSON file that each job leaves beside its log: ``python scripts/NAME.py results/logs/.../x.json``. It sends
everything the process prints both to the terminal and to the log, and turns a UserError into one line and exit code 2.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError

_TEE_GRACE_S = 2.0


@dataclass(frozen=True)
class Job:
    """Named files and settings of one job. A named input or output is one path, or a list of them."""

    rule: str
    input: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    wildcards: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    log: str | None = None

    @classmethod
    def from_snakemake(cls, snakemake: Any) -> Job:
        """Return the job that Snakemake injected; every input, output and parameter must have a name."""
        return cls(
            rule=snakemake.rule,
            input=_named(snakemake.input),
            output=_named(snakemake.output),
            params=_named(snakemake.params),
            wildcards=_named(snakemake.wildcards),
            threads=int(snakemake.threads),
            log=str(snakemake.log[0]) if snakemake.log else None,
        )

    @classmethod
    def from_json(cls, path: str | Path) -> Job:
        """Return the job of a JSON file, such as a job of the workflow left beside its log."""
        data = provenance.json_load(path)
        unknown = set(data) - {f for f in cls.__dataclass_fields__}
        if unknown:
            raise UserError(f"{path}: unknown key {sorted(unknown)[0]!r}")
        return cls(**data)

    @property
    def code(self) -> str:
        """The digest of the code that the job runs."""
        return str(self.params["code"]["digest"])

    def directory(self, name: str) -> Path:
        """Return the one directory in which the files of this input or output lie."""
        files = {**self.input, **self.output}[name]
        return Path(files[0] if isinstance(files, list) else files).parent


def run(main: Callable[[Job], None], snakemake: Any = None) -> None:
    """Run one script's `main` with its job; exit 2 after a UserError, with its line on stderr and in the log."""
    _own_paths_only()
    try:
        if snakemake is None:
            if len(sys.argv) != 2:
                raise UserError(f"usage: python {sys.argv[0]} JOB.json (each job leaves one beside its log)")
            job = _with_code_of_now(Job.from_json(sys.argv[1]))
            log = None
        else:
            job = Job.from_snakemake(snakemake)
            log = job.log
        with _logged(log):
            _leave_for_debugging(job)
            _guarded(main, job, planned=snakemake is not None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _code_of_now(job: Job) -> str | None:
    """Return the digest of the job's code as it lies there now; None for a job that names no code."""
    code = job.params.get("code")
    if not isinstance(code, Mapping):
        return None
    return provenance.code_digest(*(provenance.PACKAGE_ROOT.parents[1] / file for file in code["of"]))


def _check_code(job: Job) -> None:
    """Refuse to run other code than was planned: its rows would carry the planned digest."""
    current = _code_of_now(job)
    if current is not None and current != job.code:
        raise UserError(
            f"the code of {job.rule} changed after this run was planned (digest {current}, planned {job.code}): "
            "start the run again"
        )


def _with_code_of_now(job: Job) -> Job:
    """Return a job that is run by hand, perhaps with changed code: what it writes names that code."""
    current = _code_of_now(job)
    if current is None:
        return job
    return replace(job, params={**job.params, "code": {**job.params["code"], "digest": current}})


def _own_paths_only() -> None:
    """Take back what Snakemake appends to sys.path: the packages of its own environment.

    They would hide that this environment lacks one, and a duplicate directory breaks namespace packages
    (LIBERO's assets among them).
    """
    prefixes = tuple(str(Path(prefix).resolve()) for prefix in {sys.prefix, sys.base_prefix})

    def foreign(entry: str) -> bool:
        path = Path(entry).resolve()
        return "site-packages" in path.parts and not str(path).startswith(prefixes)

    sys.path[:] = [entry for entry in dict.fromkeys(sys.path) if not foreign(entry)]


def _guarded(main: Callable[[Job], None], job: Job, planned: bool) -> None:
    started = time.monotonic()
    try:
        if planned:
            _check_code(job)
        main(job)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except Exception:
        traceback.print_exc()  # here, while the log still listens
        sys.exit(1)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s, most = used.ru_utime + used.ru_stime, used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    print(f"{job.rule}: done in {time.monotonic() - started:.1f} s; {cpu_s:.1f} s of CPU, {most:.0f} MiB", flush=True)


def _leave_for_debugging(job: Job) -> None:
    if job.log is not None:
        provenance.json_dump(asdict(job), Path(job.log).with_suffix(".json"))


@contextlib.contextmanager
def _logged(path: str | None) -> Iterator[None]:
    """Send this process's output, native code's too, to the terminal and to the log at `path`."""
    if path is None:
        yield
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    for stream in (sys.stdout, sys.stderr):  # where the terminal knows ASCII only
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    saved = os.dup(1), os.dup(2)
    tee = subprocess.Popen(["tee", path], stdin=subprocess.PIPE, stdout=saved[1], start_new_session=True)
    assert tee.stdin is not None
    os.dup2(tee.stdin.fileno(), 1)
    os.dup2(tee.stdin.fileno(), 2)
    tee.stdin.close()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, target)
            os.close(descriptor)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a stray child may still hold the pipe
            tee.wait(_TEE_GRACE_S)


def _named(values: Any) -> dict[str, Any]:
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """Return Snakemake's own containers as dicts, lists and strings."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, str | os.PathLike):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    json.dumps(value)  # a parameter that is not plain data is a mistake in the rule: fail here
    return value
