"""What a candidate is, told from its content; over local trees, Cloud Storage's and the hub's HTTP API."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import buckets
import hub
import pytest
from checkpoints.conftest import G1
from trees import ALOHA, LEAVES, LIBERO, PI05, STATS, fast, orbax_tree, safetensors

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import facts, identity, probe, stores

GS = "gs://openpi-assets/checkpoints/"
SAID = {"horizon": 10, "delta_actions": False, "views": 2, "steps": 10, "max_token_len": 48}


def make(root: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def look(root: Path, files: dict[str, bytes], **declared: Any) -> dict[str, Any]:
    return probe.probe_candidate(make(root, files), {**SAID, **declared}, "mine")


def one_remedy(found: dict[str, Any]) -> str:
    """The refusal's line, which names the location, is short and ends with one remedy."""
    with pytest.raises(UserError, match="no checkpoint candidate can be used: ") as caught:
        probe.select({"candidates": [found]})
    line = str(caught.value).replace(found["uri"], "URI")
    assert len(line) < 300 and line.count("URI") == 1
    assert "correct the policy's candidates" not in line or found["class"] in (probe.NOT_FOUND, probe.PLACEHOLDER)
    return line


def partly(mark: str) -> bytes:
    """params/_METADATA of a tree whose picture tower alone has Orbax's root, or the /value of an older save."""
    parts = [(leaf, leaf.startswith("PaliGemma/img")) for leaf in LEAVES]
    paths = [f"params/{p}" if odd and mark == "params" else f"{p}/{mark}" if odd else p for p, odd in parts]
    return json.dumps({"tree_metadata": {str(tuple(path.split("/"))): {} for path in paths}}).encode()


# (folder, files, class, family, a word of the reason)
FORMS = [
    ("franka_pick/19999", orbax_tree(), probe.LIBERO_JAX, identity.PI0, "state_proj/kernel"),
    ("pi0_base/pi0_libero/29999", orbax_tree(), probe.LIBERO_JAX, identity.PI0, "state dims 0-7 of 8"),
    ("pi05_libero", orbax_tree(), probe.LIBERO_JAX, identity.PI0, "state_proj"),
    ("pi0_libero", orbax_tree(PI05), probe.PI05_MISMATCH, identity.PI05, "time_mlp_in/kernel"),
    ("pi0_libero", orbax_tree(PI05, stats={"assets/t/norm_stats.json": ALOHA}), probe.PI05_MISMATCH, identity.PI05,
     "pi0.5"),
    ("pi0_libero", orbax_tree(fast()), probe.UNKNOWN, identity.FAST, "pi0-FAST"),
    ("x", orbax_tree(["a/b"]), probe.UNKNOWN, identity.UNKNOWN, "match no known model family"),
    ("x", orbax_tree(stats={"assets/t/norm_stats.json": ALOHA}), probe.PI0_BASE, identity.PI0, "another robot"),
    ("x", orbax_tree(stats={f"assets/{n}/norm_stats.json": ALOHA for n in "ab"}), probe.PI0_BASE, identity.PI0,
     "2 robots"),
    ("x", orbax_tree(stats={}), probe.UNKNOWN, identity.PI0, "copy the checkpoint's assets"),
    ("x", {"model.safetensors": safetensors("state_proj.weight", "action_time_mlp_in.weight")}, probe.TORCH_ONLY,
     identity.PI0, "has no statistics, looked for in assets/*/norm_stats.json, policy_preprocessor.json"),
    ("x", {"model.safetensors": safetensors("model.vlm_with_expert.x")}, probe.UNKNOWN, identity.SMOLVLA, "SmolVLA"),
    ("x", {"model.safetensors": safetensors("a"), "config.json": b'{"type": "act"}'}, probe.UNKNOWN, identity.ACT,
     "LeRobot"),
    ("x", {"model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, probe.UNKNOWN, identity.UNKNOWN,
     "git lfs pull"),
    ("x", {"model.safetensors": b"\x00\x01"}, probe.UNKNOWN, identity.UNKNOWN, "cut off in its header"),
    ("x", {"weights.pt": b"PK"}, probe.UNKNOWN, identity.UNKNOWN, "import-pickle"),
    ("x", {"README.md": b"#"}, probe.UNKNOWN, identity.UNKNOWN, "no params directory"),
    ("x", {f"19999/{n}": c for n, c in orbax_tree().items()}, probe.UNKNOWN, identity.UNKNOWN, "give 19999 below it"),
    ("x", {n.removeprefix("params/"): c for n, c in orbax_tree().items()}, probe.UNKNOWN, identity.UNKNOWN,
     "a params directory itself"),
    ("x", {**orbax_tree(), "params/d/aa.incomplete": b""}, probe.UNKNOWN, identity.UNKNOWN, "did not finish"),
    ("x", {**orbax_tree(), "params/_METADATA": b"{"}, probe.UNKNOWN, identity.UNKNOWN, "cut off or not JSON"),
    ("x", {**orbax_tree(), "params/_METADATA": b"[]"}, probe.UNKNOWN, identity.UNKNOWN, "names no leaves"),
    ("x", {**orbax_tree(), STATS: b"[1]"}, probe.UNKNOWN, identity.PI0, "no norm_stats object"),
    ("x", {**orbax_tree(), "params/d/aa": b"version https://git-lfs.github.com/spec/v1\n"}, probe.UNKNOWN,
     identity.UNKNOWN, "git lfs pull"),
    ("x", {"params/params.a.b/.zarray": b"{}", **orbax_tree(ocdbt=False)}, probe.LIBERO_JAX, identity.PI0,
     "a directory a leaf"),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "files", "expected", "family", "word"), FORMS)
def test_content_decides_and_names_what_told(
    tmp_path: Path, folder: str, files: dict[str, bytes], expected: str, family: str, word: str
) -> None:
    found = look(tmp_path / folder, files)
    assert (found["class"], found["family"]) == (expected, family)
    assert word in found["reason"] and found["usable"] == (expected in (probe.LIBERO_JAX, probe.NANO_JAX))
    if not found["usable"]:
        one_remedy(found)


MADE_OF_TWO = [
    (orbax_tree([leaf if leaf.startswith("state_proj") else leaf.replace("PaliGemma/img", "module/PaliGemma/img")
                 for leaf in LEAVES]), identity.OCDBT,
     "its leaves match no known model family (module/PaliGemma/img/embedding/kernel, "),
    ({**orbax_tree(), "params/_METADATA": partly("params")}, identity.OCDBT,
     "only some of its leaves have the same prefix or suffix (params/PaliGemma/img/embedding/kernel, "),
    ({**orbax_tree(), "params/_METADATA": partly("value")}, identity.OCDBT,
     "(PaliGemma/img/embedding/kernel/value, "),
    ({"model.safetensors": safetensors("model.state_proj.weight", "action_time_mlp_in.weight")}, identity.SAFETENSORS,
     "(action_time_mlp_in.weight, model.state_proj.weight; model.safetensors)"),
    ({"model.safetensors": safetensors("model.state_proj.weight", "time_mlp_in.weight")}, identity.SAFETENSORS,
     "its keys match no known model family (model.state_proj.weight, time_mlp_in.weight; "),
    ({"model.safetensors": safetensors("_action_head.bias", "module._state_token.weight")}, identity.SAFETENSORS,
     "its keys match no known model family (_action_head.bias, module._state_token.weight; "),
    (orbax_tree(["_action_head/bias", "a/" * 40 + "b"]), identity.OCDBT,
     "no known model family (_action_head/bias, a/a/a/a/a/a/a/a/a/...a/a/a/a/a/a/a/a/a/b; params/_METADATA): give"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "form", "words"), MADE_OF_TWO)
def test_a_tree_of_which_only_some_names_have_a_prefix_is_unknown_by_its_odd_leaves(
    tmp_path: Path, files: dict[str, bytes], form: str, words: str
) -> None:
    """The leaves that would tell pi0 may all be there: what the others are of cannot be known."""
    found = look(tmp_path, files)
    assert (found["class"], found["family"], found["format"]) == (probe.UNKNOWN, identity.UNKNOWN, form)
    assert words in one_remedy(found) and len(found["told_by"]) == 2


def test_a_lone_safetensors_file_is_named(tmp_path: Path) -> None:
    make(tmp_path, {"model.safetensors": safetensors("state_proj.weight", "action_time_mlp_in.weight")})
    found = probe.probe_candidate(str(tmp_path / "model.safetensors"))
    assert (found["class"], found["family"], found["format"]) == (probe.TORCH_ONLY, "pi0", identity.SAFETENSORS)


def test_the_golden_tree_is_pi0() -> None:
    """As Orbax wrote it, and with a /value at the end of each leaf."""
    for name in ("checkpoint", "checkpoint_value_suffix"):
        found = probe.probe_candidate(str(G1 / name), SAID, "mine")
        assert (found["class"], found["family"]) == (probe.LIBERO_JAX, "pi0")
    for name in ("pi0_nano", "pi0_nano_dropout"):
        assert probe.probe_candidate(str(G1.parents[2] / "resources" / name))["class"] == probe.NANO_JAX


# --- facts ---


def test_facts_that_nobody_states_are_asked_for_by_key(tmp_path: Path) -> None:
    found = probe.probe_candidate(make(tmp_path / "pi0_libero", orbax_tree()), {"views": 2}, "mine")
    assert (found["class"], found["usable"]) == (probe.LIBERO_JAX, False)  # nothing kept us from reading it
    assert "write its training's values under policies.mine" in one_remedy(found)
    one_remedy(probe.probe_candidate(found["uri"], {}, "mine"))
    assert "does not hold horizon, delta_actions, steps, max_token_len" in found["reason"]
    assert "under policies.mine" in found["reason"]


def test_facts_are_printed_back_with_who_said_them(tmp_path: Path) -> None:
    own = {facts.MODEL_JSON: b'{"action_horizon": 10}'}
    found = look(tmp_path, {**orbax_tree(), **own})
    assert found["facts"]["horizon"] == {"value": 10, "said_by": facts.MODEL_JSON}
    assert "delta_actions false (policies.mine.delta_actions)" in found["reason"]
    assert found["model"] == {
        "action_horizon": 10, "delta_actions": False, "num_views": 2, "num_steps": 10, "max_token_len": 48
    }  # fmt: skip


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (b'{"action_horizon": 50}', "policies.mine.horizon says 10, the checkpoint's own .* says 50"),
        (b'{"action_horizon": "ten"}', "action_horizon is 'ten'"),
        (b'{"delta_actions": 1}', "delta_actions is 1"),
        (b'{"horizon": 10}', "unknown key 'horizon'; did you mean 'action_horizon'"),
        (b"[]", "must hold an object"),
    ],
)
def test_a_description_that_contradicts_or_does_not_fit_is_refused(tmp_path: Path, own: bytes, said: str) -> None:
    found = look(tmp_path, {**orbax_tree(), facts.MODEL_JSON: own})
    assert (found["class"], found["family"], found["usable"]) == (probe.LIBERO_JAX, identity.PI0, False)
    line = one_remedy(found)
    assert re.search(said, line) and "could not be read" not in line and "not known" not in line


def test_of_several_assets_the_declared_one_counts(tmp_path: Path) -> None:
    files = orbax_tree(stats={"assets/a/norm_stats.json": LIBERO, "assets/b/norm_stats.json": LIBERO})
    found = look(tmp_path, files)
    assert found["class"] == probe.LIBERO_JAX and "policies.mine.asset, e.g. a" in one_remedy(found)
    chosen = look(tmp_path, files, asset="b")
    assert (chosen["class"], chosen["norm_stats"]) == (probe.LIBERO_JAX, ["assets/b/norm_stats.json"])
    assert "assets/../c/norm_stats.json does not exist" in look(tmp_path, files, asset="../c")["reason"]


def test_padded_statistics_say_which_dims_are_used(tmp_path: Path) -> None:
    padded = json.dumps({"norm_stats": {k: {"mean": [0.0] * 32, "std": [1.0] * 32} for k in ("state", "actions")}})
    found = look(tmp_path, orbax_tree(stats={"assets/droid/norm_stats.json": padded.encode()}))
    assert found["dims_used"] == {"state": "0-7 of 32", "actions": "0-6 of 32"}


# --- local trees ---


def test_links_are_followed(tmp_path: Path) -> None:
    real = Path(make(tmp_path / "real", orbax_tree()))
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("params", "assets"):
        (linked / name).symlink_to(real / name)
    snapshot = Path(make(tmp_path / "snapshot", orbax_tree()))
    (tmp_path / "blob").write_bytes(b"y" * 700)
    (snapshot / "params/d/aa").unlink()
    (snapshot / "params/d/aa").symlink_to(tmp_path / "blob")
    (tmp_path / "latest").symlink_to(snapshot)
    assert look(linked, {})["files"] == look(real, {})["files"]
    assert look(tmp_path / "latest", {})["files"]["params/d/aa"] == 700
    assert look(tmp_path / "latest", {})["class"] == probe.LIBERO_JAX


def test_links_that_lead_nowhere_or_round_are_named(tmp_path: Path) -> None:
    root = Path(make(tmp_path / "tree", orbax_tree()))
    (root / "params/d/bb").symlink_to("../../blobs/gone")
    assert "params/d/bb is a link that leads nowhere (../../blobs/gone)" in look(root, {})["reason"]
    (root / "params/d/bb").unlink()
    (root / "params/d/up").symlink_to(root)
    found = look(root, {})
    assert (found["class"], found["listed"]) == (probe.UNKNOWN, False)
    assert "params/d/up is a link to a directory that holds it" in found["reason"]


def test_an_entry_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything: for it the system's answer is imitated."""
    root = Path(make(tmp_path / "tree", orbax_tree()))
    (root / "params/d/aa").chmod(0)
    monkeypatch.setattr("os.access", lambda path, mode: path != root / "params/d/aa")
    assert "params/d/aa may not be read by this user" in look(root, {})["reason"]


def test_nothing_there(tmp_path: Path) -> None:
    assert probe.probe_candidate(str(tmp_path / "pi0_base"))["class"] == probe.NOT_FOUND
    placeholder = probe.probe_candidate("/openpi-assets/checkpoints/pi0_libero")
    assert placeholder["class"] == probe.PLACEHOLDER and one_remedy(placeholder).count("correct the policy's") == 1
    (tmp_path / "empty").mkdir()
    assert probe.probe_candidate(str(tmp_path / "empty"))["class"] == probe.NOT_FOUND
    with pytest.raises(UserError, match="no checkpoint candidates"):
        probe.probe([])
    with pytest.raises(UserError, match="unknown scheme s3"):
        probe.probe(["s3://bucket/x"])


def test_two_matches_are_not_chosen_between(tmp_path: Path) -> None:
    record = probe.probe([make(tmp_path / n, orbax_tree()) for n in "ab"], SAID, "mine")
    assert record["selected"] is None
    with pytest.raises(UserError, match="2 checkpoint candidates match"):
        probe.select(record)


# --- stores ---


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """gs://openpi-assets with weights of 1 MB each; yields (path, bytes) of what was read."""
    big = {"params/d/aa": b"w" * 2**20, "params/ocdbt.process_0/d/bb": b"w" * 2**20}
    trees = {"pi0_libero": LEAVES, "pi0_base": LEAVES, "pi05_libero": PI05}
    objects = {
        f"checkpoints/{n}/{f}": c for n, leaves in trees.items() for f, c in {**orbax_tree(leaves), **big}.items()
    }
    read: list[tuple[str, int]] = []
    real = stores.Location.blocks

    def counted(self: stores.Location, entry: stores.Entry, *args: Any) -> Iterator[bytes]:
        for block in real(self, entry, *args):
            read.append((entry.name, len(block)))
            yield block

    monkeypatch.setattr(stores.Location, "blocks", counted)
    with buckets.serve({"openpi-assets": objects}) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        yield read


def test_cloud_storage_is_probed_without_a_byte_of_weights(served: list[tuple[str, int]]) -> None:
    uris = [GS + n for n in ("pi0_libero", "pi0_base", "pi05_libero", "pi0_libero_torch")]
    record = probe.probe([*uris, "gs://no-such-bucket/pi0_libero"])
    classes = [c["class"] for c in record["candidates"]]
    assert classes == [probe.LIBERO_JAX, probe.PI0_BASE, probe.PI05_MISMATCH, probe.NOT_FOUND, probe.NOT_FOUND]
    assert record["candidates"][0]["facts"]["horizon"] == {"value": 50, "said_by": "resources/checkpoints/known.yaml"}
    assert {name for name, _ in served} == {"params/_METADATA", STATS}
    assert sum(size for _, size in served) < 40_000


def test_the_hub_is_probed_without_a_byte_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"pi0_libero/{name}": c for name, c in {**orbax_tree(), "params/d/aa": b"w" * 10**6}.items()}
    with hub.serve({"someone/checkpoints": files}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        record = probe.probe(["hf://someone/checkpoints/pi0_libero", "hf://someone/nothing/x"], SAID, "mine")
        assert not any("/d/aa" in call and "resolve" in call for call in server.calls)
    assert [c["class"] for c in record["candidates"]] == [probe.LIBERO_JAX, probe.NOT_FOUND]


def test_a_network_that_is_away_is_told_apart_from_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("refused by test")

    monkeypatch.setattr("gcsfs.core.GCSFileSystem.find", refuse)
    record = probe.probe([GS + "pi0_libero"])
    assert not record["candidates"][0]["listed"]
    with pytest.raises(UserError, match=r"refused by test.*check the network") as caught:
        probe.select(record)
    assert probe.NOT_FOUND not in str(caught.value)
