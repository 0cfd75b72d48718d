"""Fetching: whole, resumed, checked; from a Cloud Storage emulator, an imitation of the hub, and a local path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import buckets
import hub
import pytest
from trees import orbax_tree

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.checkpoints import fetch, probe, stores

BIG = bytes(range(256)) * 400  # 102,400 bytes
TREE = {**orbax_tree(), "params/d/aa": BIG}
EXTRA = {"train_state/d/bb": b"not wanted", "README.md": b"#"}
URI, TOKENIZER = "gs://openpi-assets/checkpoints/pi0_libero", "gs://big_vision/paligemma_tokenizer.model"
DRAFT = "hf://Dexmal/RealtimeVLA-Flash/draft_libero_goal.pt"


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Both services on loopback; yields the hub's server and the storage endpoint."""
    objects = {f"checkpoints/pi0_libero/{name}": content for name, content in {**TREE, **EXTRA}.items()}
    with (
        buckets.serve({"openpi-assets": objects, "big_vision": {"paligemma_tokenizer.model": b"tok"}}) as url,
        hub.serve({"Dexmal/RealtimeVLA-Flash": {"draft_libero_goal.pt": BIG[::-1]}}) as server,
    ):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(fetch, "_FIRST_WAIT_S", 0.0)
        monkeypatch.setattr(stores.Location.blocks, "__defaults__", (10_000,))
        server.storage = url
        yield server


def run(directory: Path, candidate: dict[str, Any] | None = None) -> dict[str, Any]:
    candidate = candidate or probe.select(probe.probe([URI]))
    return fetch.fetch(candidate, directory, TOKENIZER, DRAFT, report=lambda line: None)


def contents(directory: Path) -> dict[str, bytes]:
    """What was fetched, without the facts that are written beside it."""
    files = {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    assert json.loads(files.pop("facts.json"))["action_horizon"] == 50
    return files


EXPECTED = {**TREE, "tokenizer.model": b"tok", "draft.pt": BIG[::-1]}


def test_tree_tokenizer_and_draft_arrive_with_their_hashes(services: Any, tmp_path: Path) -> None:
    fetched = run(tmp_path)
    assert contents(tmp_path / "source") == EXPECTED
    assert json.loads((tmp_path / "fetched.json").read_text()) == fetched
    assert (fetched["uri"], fetched["class"]) == (URI, probe.LIBERO_JAX)
    assert {name: entry for name, entry in fetched["files"].items() if name != "facts.json"} == {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in EXPECTED.items()
    }
    assert fetched["facts"]["horizon"] == {"value": 50, "said_by": "resources/checkpoints/known.yaml"}
    assert not (tmp_path / "source.partial").exists()


def cut_after(monkeypatch: pytest.MonkeyPatch, name: str, blocks: int) -> list[int]:
    """Make the store fail for `name` after some blocks; returns the list of starts that it was asked for."""
    real, starts = stores.Location.blocks, []

    def limited(self: stores.Location, entry: stores.Entry, start: int, size: int = 10_000) -> Iterator[bytes]:
        if entry.name != name:
            yield from real(self, entry, start, size)
            return
        starts.append(start)
        for count, block in enumerate(real(self, entry, start, size)):
            if blocks <= count:
                raise stores.StoreUnreachable("the cable is out: check the network and run again")
            yield block

    monkeypatch.setattr(stores.Location, "blocks", limited)
    return starts


def test_an_interrupted_fetch_continues_where_it_stopped(
    services: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stores.Location.blocks

    def cut_for_good(self: stores.Location, entry: stores.Entry, start: int) -> Iterator[bytes]:
        for block in real(self, entry, start):
            if entry.name == "params/d/aa" and start >= 30_000:
                raise stores.StoreUnreachable("the cable is out: check the network and run again")
            yield block
            start += len(block)

    with monkeypatch.context() as patch:
        patch.setattr(stores.Location, "blocks", cut_for_good)
        with pytest.raises(UserError, match=r"30000 of 102400 bytes of params/d/aa are kept"):
            run(tmp_path)
    assert not (tmp_path / "source").exists()
    assert not (tmp_path / "fetched.json").exists()
    assert (tmp_path / "source.partial/params/d/aa.part").stat().st_size == 30_000
    with monkeypatch.context() as patch:
        starts = cut_after(patch, "params/d/aa", 1000)
        run(tmp_path)
    assert starts == [30_000], "only the rest is asked for"
    assert contents(tmp_path / "source") == EXPECTED


def test_a_shaky_network_is_retried(services: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = cut_after(monkeypatch, "params/d/aa", 3)
    run(tmp_path)
    assert starts == [0, 30_000, 60_000, 90_000]
    assert contents(tmp_path / "source") == EXPECTED


def test_a_kept_part_of_an_older_version_is_thrown_away(services: Any, tmp_path: Path) -> None:
    part = tmp_path / "source.partial/params/d/aa.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"older" * 100)
    (tmp_path / "source.partial/params/d/stranger").write_bytes(b"from another checkpoint")
    run(tmp_path)
    assert contents(tmp_path / "source") == EXPECTED


def test_bytes_that_do_not_match_the_stores_hash_are_refused(
    services: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stores.Location.blocks

    def flipped(self: stores.Location, entry: stores.Entry, start: int, size: int = 10_000) -> Iterator[bytes]:
        for block in real(self, entry, start, size):
            yield block[:-1] + bytes([block[-1] ^ 1]) if entry.name == "params/d/aa" else block

    monkeypatch.setattr(stores.Location, "blocks", flipped)
    with pytest.raises(UserError, match="params/d/aa arrived twice with a wrong crc32c"):
        run(tmp_path)
    assert not (tmp_path / "source").exists()


def test_a_second_fetch_downloads_nothing(services: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, candidate = run(tmp_path), probe.select(probe.probe([URI]))
    monkeypatch.setattr(stores.Location, "blocks", lambda *args: pytest.fail("something was downloaded"))
    assert run(tmp_path, candidate) == first


def test_a_changed_object_is_fetched_again(services: Any, tmp_path: Path) -> None:
    first = run(tmp_path)
    changed = BIG[1:] + b"!"
    buckets.put(services.storage, "openpi-assets", "checkpoints/pi0_libero/params/d/aa", changed)
    assert run(tmp_path)["digest"] != first["digest"]
    assert (tmp_path / "source/params/d/aa").read_bytes() == changed


def test_missing_parts_are_named(services: Any, tmp_path: Path) -> None:
    candidate = probe.select(probe.probe([URI]))
    for tokenizer, draft, said in (
        ("gs://big_vision/nope.model", None, "tokenizer gs://big_vision/nope.model does not exist"),
        (TOKENIZER, DRAFT + "x", "draft .*ptx does not exist"),
        (URI, None, "is a directory of 6 files"),
    ):
        with pytest.raises(UserError, match=said):
            fetch.fetch(candidate, tmp_path, tokenizer, draft)
    assert not (tmp_path / "source").exists()


def test_a_full_disk_is_found_before_the_download(
    services: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = probe.select(probe.probe([URI]))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("U", (), {"free": 1000})())
    monkeypatch.setattr(stores.Location, "blocks", lambda *args: pytest.fail("something was downloaded"))
    with pytest.raises(UserError, match="GB free"):
        run(tmp_path, candidate)


SAID = {"horizon": 50, "delta_actions": True, "views": 2, "steps": 10, "max_token_len": 48}


def local_policy(root: Path, content: bytes, **declared: Any) -> dict[str, Any]:
    for name, data in {**TREE, "params/d/aa": content}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return probe.select(probe.probe([str(root)], {**SAID, **declared}, "mine"))


def test_a_local_tree_that_changed_in_place_is_copied_again(tmp_path: Path) -> None:
    tree, target = tmp_path / "pi0_nano", tmp_path / "results"
    (tmp_path / "tok").write_bytes(b"tok")
    arguments = (target, str(tmp_path / "tok"), None, lambda line: None)
    first = fetch.fetch(local_policy(tree, BIG), *arguments)
    assert fetch.fetch(local_policy(tree, BIG), *arguments) == first
    same_size = bytes(len(BIG))
    second = fetch.fetch(local_policy(tree, same_size), *arguments)
    assert (target / "source/params/d/aa").read_bytes() == same_size
    assert second["files"]["params/d/aa"]["sha256"] == provenance.sha256_file(tree / "params/d/aa")
    assert second["digest"] != first["digest"]
    assert "draft.pt" not in second["files"]


def test_another_fact_is_another_source(tmp_path: Path) -> None:
    tree, target = tmp_path / "tree", tmp_path / "results"
    (tmp_path / "tok").write_bytes(b"tok")
    arguments = (target, str(tmp_path / "tok"), None, lambda line: None)
    first = fetch.fetch(local_policy(tree, BIG), *arguments)
    second = fetch.fetch(local_policy(tree, BIG, horizon=10), *arguments)
    assert second["digest"] != first["digest"]
    assert json.loads((target / "source/facts.json").read_text())["action_horizon"] == 10


def test_a_linked_tree_arrives_whole(tmp_path: Path) -> None:
    candidate = local_policy(tmp_path / "real", BIG)
    (tmp_path / "linked").mkdir()
    for name in ("params", "assets"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "tok").write_bytes(b"tok")
    linked = probe.select(probe.probe([str(tmp_path / "linked")], SAID, "mine"))
    one, two = (
        fetch.fetch(c, tmp_path / str(i), str(tmp_path / "tok"), None, lambda line: None)
        for i, c in enumerate((candidate, linked))
    )
    assert one["files"] == two["files"]
    assert not any(path.is_symlink() for path in (tmp_path / "1/source").rglob("*"))


def test_a_git_lfs_pointer_is_not_taken_for_the_file(tmp_path: Path) -> None:
    candidate = local_policy(tmp_path / "tree", BIG)
    (tmp_path / "tok").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(UserError, match=r"tok: it is a Git LFS pointer, .*git lfs pull"):
        fetch.fetch(candidate, tmp_path / "out", str(tmp_path / "tok"), None, lambda line: None)
