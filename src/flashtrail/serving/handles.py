"""From the workflow's handles to a server's command line: which interpreter, which artifact, which settings.

A handle is a small file that stands for something big or distant: results/environments/handle.json for the model
environment's interpreter, manifest.json for an artifact directory, results/kernels/*/backend.json for what the kernels
showed on the device.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.policies import registry


def server_command(
    handles: Mapping[str, Any],
    engine: Mapping[str, Any],
    flash: Mapping[str, Any],
    port: int | str = "{port}",
    clients: int | str = 1,
    settings: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return the command of a policy server that runs in the model environment.

    `handles`: paths ``model`` (where the model environment is), ``base`` and, where the policy has one, ``draft``
    (both manifests); ``action_stats`` where the server is to unnormalise by foreign statistics; ``kernels`` where
    they were examined.
    `engine`: device, dtype, threads and perhaps backend. `flash`: settings by name; a family is given those that it
    has. `settings`: those of the artifact's own family; UserError for one that it has not. `clients`: how many will ask
    at a time; the server prepares for passes of so many rounds. Port and clients may be a field such as ``{port}``,
    which the starter fills in.
    """
    python = provenance.json_load(handles["model"]).get("python")
    if not python or not Path(python).exists():
        raise UserError(f"{handles['model']}: its interpreter {python} is gone; remove that file and run again")
    draft, artifact = handles.get("draft"), Path(handles["base"]).parent
    family = registry.family_of(artifact)
    own = registry.settings_of(family)
    if strange := sorted(set(settings or {}) - own):
        raise UserError(f"settings: {strange[0]}: the family {family} of {artifact} has no such setting: leave it out")
    return serve_command(
        artifact,
        port=port,
        draft=Path(draft).parent if draft else None,
        python=str(Path(python).absolute()),
        device=engine["device"],
        dtype=engine["dtype"],
        backend=backend_of(handles, engine),
        threads=engine["threads"],
        workers=1,  # a shard's other cores are for its simulators
        settings={name: value for name, value in flash.items() if name in own} | dict(settings or {}),
        action_stats=handles.get("action_stats"),
        max_batch=clients,
    )


def backend_of(handles: Mapping[str, Any], engine: Mapping[str, Any]) -> str:
    """The backend that an engine's settings name; for ``auto``, the result of the kernels' examination, if any."""
    named = str(engine.get("backend", "auto"))
    if named == "auto" and handles.get("kernels"):
        return str(provenance.json_load(handles["kernels"])["backend"])
    return named


def digests(handles: Mapping[str, Any]) -> dict[str, str]:
    """Return the artifact's digest by kind, for the tables that come from it."""
    kinds = [kind for kind in ("base", "draft") if handles.get(kind)]
    return {kind: str(provenance.json_load(handles[kind])["digest"]) for kind in kinds}


def serve_command(
    artifact: str | Path,
    *,
    port: int | str = "{port}",
    draft: str | Path | None = None,
    python: str = sys.executable,
    device: str = "cpu",
    dtype: str = "float32",
    backend: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    settings: Mapping[str, Any] | None = None,
    action_stats: str | Path | None = None,
    max_batch: int | str | None = None,
) -> list[str]:
    """Return the command line of a policy server that leaves with its parent.

    `python` is the interpreter of the environment that can run the model; `settings` are FlashSettings by field
    name, from which the flags are derived. `port` and `max_batch` may be placeholders such as ``{port}``, filled in
    when the server starts. The interpreter must find this package (PYTHONPATH, or installed).
    """
    # -P: modules are never imported from the current directory, which may be an unpacked bundle.
    command = [python, "-P", "-m", "flashtrail", "serve", "--exit-with-parent"]
    command += ["--artifact", str(artifact), "--port", str(port), "--device", device, "--dtype", dtype]
    options = {
        "--backend": None if backend == "auto" else backend,
        "--draft": draft,
        "--action-stats": action_stats,
        "--threads": threads,
        "--workers": workers,
        "--max-batch": max_batch,
    }
    for option, value in options.items():
        if value is not None:
            command += [option, str(value)]
    for name, value in (settings or {}).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            command += [f"--{flag}", *(str(item) for item in value)]
        else:
            command += [f"--{flag}={value}"]  # one word, so that a negative number is not read as a flag
    return command
