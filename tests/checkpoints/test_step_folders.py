"""Step folders as openpi's trainer has Orbax save them: with LoRA, as a directory a leaf, with and without hints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoints.conftest import G1
from test_lora import with_lora

from flashtrail.checkpoints import artifact, fetch, identity, orbax, parity, probe

SAID = {"horizon": 50, "delta_actions": True, "views": 2, "steps": 10, "max_token_len": 48}
HINTS = ("_CHECKPOINT_METADATA", "params/_CHECKPOINT_METADATA", "params/_sharding", "params/array_metadatas")


def save(run: Path, leaves: dict[str, np.ndarray], step: int, ocdbt: bool, wrapped: bool) -> Path:
    """A step of openpi's checkpoints.py: items params and train_state by a CheckpointManager, assets beside them."""
    nested: dict[str, Any] = {}
    for path, values in leaves.items():
        *parents, last = [*path.split("/"), "value"] if wrapped else path.split("/")
        at = nested
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = values
    handlers = {name: ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt) for name in ("params", "train_state")}
    with ocp.CheckpointManager(run.resolve(), item_handlers=handlers) as manager:
        items = {"params": {"params": nested}, "train_state": {"step": np.array(step), "opt_state": {"mu": nested}}}
        manager.save(step, args=ocp.args.Composite(**{n: ocp.args.PyTreeSave(tree) for n, tree in items.items()}))
    shutil.copytree(G1 / "checkpoint/assets", run / str(step) / "assets")
    return run / str(step)


FORMS = {  # LoRA, OCDBT, an nnx.State's leaves, hints
    "plain": (False, True, False, True),
    "without hints": (False, True, True, False),
    "a directory a leaf": (False, False, True, True),
    "a directory a leaf, without hints": (False, False, False, False),
    "LoRA": (True, True, True, False),
    "LoRA, a directory a leaf": (True, False, False, False),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_step_gives_the_model_whatever_else_lies_there(
    tmp_path: Path, tokenizer_bytes: bytes, whole_source: Path, form: str
) -> None:
    lora, ocdbt, wrapped, hints = FORMS[form]
    leaves = orbax.read_tree(G1 / "checkpoint/params")
    step = save(tmp_path / "run", with_lora(leaves) if lora else leaves, 19_999, ocdbt, wrapped)
    assert (step / "params/manifest.ocdbt").exists() == ocdbt and (step / "train_state").is_dir()
    assert (step / HINTS[0]).exists()
    for name in () if hints else HINTS:
        path = step / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (tmp_path / "tok").write_bytes(tokenizer_bytes)
    found = probe.probe_candidate(str(step), SAID, "mine")
    assert (found["class"], found["format"]) == (probe.LIBERO_JAX, identity.OCDBT if ocdbt else identity.ZARR)
    fetched = fetch.fetch(found, tmp_path / "out", str(tmp_path / "tok"), None, lambda line: None)
    assert not any(name.startswith("train_state") for name in fetched["files"])
    manifest = artifact.convert_base(tmp_path / "out/source", tmp_path / "out/base", "float32", fetched)
    if not lora:
        assert manifest["digest"] == artifact.convert_base(whole_source, tmp_path / "base")["digest"]
    assert parity.check_parity(tmp_path / "out/source", tmp_path / "out/base")["passed"]


def test_the_run_s_folder_names_the_last_step(tmp_path: Path) -> None:
    for step in (9_999, 10_000):
        save(tmp_path / "run", {"a/b": np.zeros(2)}, step, ocdbt=True, wrapped=False)
    found = probe.probe_candidate(str(tmp_path / "run"), SAID, "mine")
    assert not found["usable"] and "the checkpoint is in a subdirectory: give 10000 below it" in found["reason"]
