"""Forms of checkpoint trees, made up by hypothesis: what comes out is a record and a line, never a traceback."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from trees import ALOHA, LEAVES, LIBERO, PI05, STATS, fast, metadata, orbax_tree, safetensors

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, facts, fetch, identity, probe

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
WHOLE = [
    metadata(LEAVES),
    metadata(PI05),
    metadata(fast()),
    LIBERO,
    ALOHA,
    safetensors("state_proj.weight"),
    safetensors("state_proj.weight", "action_time_mlp_in.weight", "normalize_inputs.buffer_observation_state.mean"),
    b'{"steps": [{"registry_name": "normalizer_processor", "state_file": "a.safetensors", "config": {}}]}',
    b"",
    b"{}",
]
CUT = st.builds(lambda content, n: content[:n], st.sampled_from(WHOLE), st.integers(0, 400))
ODD = JSON.map(lambda value: json.dumps(value).encode()) | CUT | st.binary(max_size=40) | st.sampled_from(WHOLE)
KEYED = st.fixed_dictionaries({"tree_metadata": JSON}).map(lambda value: json.dumps(value).encode())
NAMES = st.sampled_from([
    "params/_METADATA", "params/manifest.ocdbt", "params/d/aa", "params/params.state_proj.kernel/.zarray", STATS,
    "assets/b/norm_stats.json", facts.MODEL_JSON, "model.safetensors", "config.json", "_METADATA", "checkpoint",
    "x/params/_METADATA", "draft.pt",
    "policy_preprocessor.json", "a.safetensors", "meta/stats.json", "stats.json",
    "params/d/b.incomplete", "assets/norm_stats.json",
])  # fmt: skip
DECLARED = st.fixed_dictionaries(
    {}, optional={"horizon": st.integers(1, 60), "views": st.just(2), "asset": st.sampled_from(["b", "../..", ""])}
)
SAID = {"delta_actions": True, "steps": 10, "max_token_len": 48}
FAMILIES = {identity.PI0, identity.PI05, identity.FAST, identity.SMOLVLA, identity.ACT, identity.UNKNOWN}


@settings(max_examples=120, deadline=None)
@given(whole=st.booleans(), changes=st.dictionaries(NAMES, ODD | KEYED | st.none(), max_size=4), declared=DECLARED)
def test_any_tree_ends_in_a_record_or_a_line(
    whole: bool, changes: dict[str, bytes | None], declared: dict[str, Any]
) -> None:
    files = {**(orbax_tree() if whole else {}), **changes}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "tree"
        root.mkdir()
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)  # without content: an empty folder
            if content is not None:
                (root / name).write_bytes(content)
        record = probe.probe([str(root)], SAID | declared, "mine")
        (found,) = record["candidates"]
        json.dumps(record)
        assert found["family"] in FAMILIES and found["reason"] and "\n" not in found["reason"]
        assert (record["selected"] is None) == (not found["usable"])
        assert found["class"] in probe.SELECTABLE or not found["usable"]
        (root.parent / "tok").write_bytes(b"no tokenizer")
        try:
            candidate = probe.select(record)
            fetched = fetch.fetch(candidate, root.parent / "out", str(root.parent / "tok"), None, lambda line: None)
            artifact.convert_base(root.parent / "out/source", root.parent / "base", "float32", fetched)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            raise AssertionError("a tree without weights was converted")
