"""Which backend a server gets: the one that is named, or what the kernels' examination came to."""

from __future__ import annotations

import sys

import pytest

from flashtrail.base import provenance
from flashtrail.serving import handles

ENGINE = {"device": "cuda", "dtype": "bfloat16", "threads": 1, "backend": "auto"}


def test_the_verdict_decides_only_what_was_left_open(tmp_path) -> None:
    provenance.json_dump({"backend": "triton"}, tmp_path / "backend.json")
    examined = {"kernels": str(tmp_path / "backend.json")}
    assert handles.backend_of(examined, ENGINE) == "triton"
    assert handles.backend_of({}, ENGINE) == "auto"
    assert handles.backend_of(examined, ENGINE | {"backend": "torch"}) == "torch"


@pytest.mark.parametrize(("verdict", "flag"), [("triton", ["--backend", "triton"]), ("torch", ["--backend", "torch"])])
def test_a_server_is_started_with_the_verdict(tmp_path, verdict, flag) -> None:
    for name, record in {"model": {"python": sys.executable}, "base": {}, "kernels": {"backend": verdict}}.items():
        provenance.json_dump(record, tmp_path / f"{name}.json")
    paths = {name: str(tmp_path / f"{name}.json") for name in ("model", "base", "kernels")}
    command = handles.server_command(paths, ENGINE, {}, 8000)
    at = command.index("--backend")
    assert command[at : at + 2] == flag
