"""A fetched source tree made of golden data (G1's Orbax tree, G4's draft) and a tokenizer trained on three prompts."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
import sentencepiece

sys.path.insert(0, str(Path(__file__).parent))  # hub.py and buckets.py beside the tests

from flashtrail.checkpoints import artifact

GOLDEN = Path(__file__).parents[1] / "golden"
G1, G4 = GOLDEN / "G1_pi0_jax", GOLDEN / "G4_draft_head"
PROMPTS = ["open the middle drawer of the cabinet", "put the bowl on the stove", "put the wine bottle on the cabinet"]
FACTS = {"action_horizon": 50, "delta_actions": True, "num_views": 2, "num_steps": 10, "max_token_len": 48}
ORIGIN = {"uri": "gs://bucket/pi0_libero", "class": "MATCH_FLASH_PI0_LIBERO_JAX", "digest": "d" * 16}


@pytest.fixture(scope="session")
def tokenizer_bytes() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROMPTS * 5), model_writer=model, vocab_size=60, model_type="bpe", minloglevel=2
    )
    return model.getvalue()


@pytest.fixture(scope="session")
def whole_source(tmp_path_factory: pytest.TempPathFactory, tokenizer_bytes: bytes) -> Path:
    """A fetched tree that tests must not write to."""
    source = tmp_path_factory.mktemp("fetched") / "source"
    shutil.copytree(G1 / "checkpoint", source)
    shutil.copy(G4 / "draft.pt", source / "draft.pt")
    (source / "tokenizer.model").write_bytes(tokenizer_bytes)
    (source / "facts.json").write_text(json.dumps(FACTS))
    return source


@pytest.fixture
def source(tmp_path: Path, whole_source: Path) -> Path:
    """A fetched tree of the test's own."""
    return Path(shutil.copytree(whole_source, tmp_path / "source"))


@pytest.fixture(scope="session", params=["float32", "bfloat16"])
def artifacts(request: Any, tmp_path_factory: pytest.TempPathFactory, whole_source: Path) -> Path:
    """A directory with base/ and draft/ in one dtype; tests must not write to it."""
    root = tmp_path_factory.mktemp(f"artifacts_{request.param}")
    artifact.convert_base(whole_source, root / "base", request.param, ORIGIN)
    artifact.convert_draft(whole_source / "draft.pt", root / "draft", request.param, root / "base", ORIGIN)
    return root


def save_tree(source: Path, tree: dict[str, np.ndarray]) -> None:
    """Replace the tree below `source`/params, as Orbax saves it."""
    nested: dict[str, Any] = {}
    for path, values in tree.items():
        *parents, last = path.split("/")
        at = nested
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = values
    shutil.rmtree(source / "params", ignore_errors=True)
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save((source / "params").resolve(), {"params": nested})
