"""From the workflow's handles to a server's command line: which interpreter, which artifact, which settings.

A handle is a small file that stands for something big or distant: results/environments/handle.json for the model
environment's interpreter, manifest.json for an artifact directory, results/kernels/*/backend.json for what the kernels
showed on the device. Knows no process and no socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.serving.launch import serve_command


def server_command(
    handles: Mapping[str, Any],
    engine: Mapping[str, Any],
    flash: Mapping[str, Any],
    port: int | str = "{port}",
    clients: int | str = 1,
) -> list[str]:
    """Return the command of a policy server that runs in the model environment.

    `handles`: paths ``model`` (where the model environment is), ``base`` and, where the policy has one, ``draft``
    (both manifests); ``action_stats`` where the server is to unnormalise by foreign statistics; ``kernels`` where
    they were examined.
    `engine`: device, dtype, threads and perhaps backend. `flash`: FLASH settings by name. `clients`: how many will
    ask at a time; the server prepares for passes of so many rounds. Either may be a word such as
    ``{port}`` for the one who starts it to fill in.
    """
    python = provenance.json_load(handles["model"]).get("python")
    if not python or not Path(python).exists():
        raise UserError(f"{handles['model']}: its interpreter {python} is gone; remove that file and run again")
    draft = handles.get("draft")
    return serve_command(
        Path(handles["base"]).parent,
        port=port,
        draft=Path(draft).parent if draft else None,
        python=str(Path(python).absolute()),
        device=engine["device"],
        dtype=engine["dtype"],
        backend=backend_of(handles, engine),
        threads=engine["threads"],
        lanes=1,  # a shard's other cores are for its simulators
        settings=flash,
        action_stats=handles.get("action_stats"),
        max_batch=clients,
    )


def backend_of(handles: Mapping[str, Any], engine: Mapping[str, Any]) -> str:
    """The backend that an engine's settings name; for ``auto``, what the kernels' examination came to, if any."""
    named = str(engine.get("backend", "auto"))
    if named == "auto" and handles.get("kernels"):
        return str(provenance.json_load(handles["kernels"])["backend"])
    return named


def digests(handles: Mapping[str, Any]) -> dict[str, str]:
    """Return the artifact's digest by kind, for the tables that come from it."""
    kinds = [kind for kind in ("base", "draft") if handles.get(kind)]
    return {kind: str(provenance.json_load(handles[kind])["digest"]) for kind in kinds}
