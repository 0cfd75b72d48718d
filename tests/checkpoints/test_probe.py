"""The classes of checkpoint candidates: as rules, on local trees, and over Cloud Storage's and the hub's HTTP API."""

from __future__ import annotations

from pathlib import Path

import buckets
import hub
import pytest

from flashtrail.checkpoints import probe
from flashtrail.checkpoints.stores import Entry
from flashtrail.errors import UserError

STATS = "assets/physical-intelligence/libero/norm_stats.json"
# gs://openpi-assets/checkpoints/pi0_libero as listed: no _CHECKPOINT_METADATA, statistics two levels below assets/
RELEASED = {
    "params/_METADATA": 21156,
    "params/_sharding": 12457,
    "params/manifest.ocdbt": 117,
    **{f"params/d/{i:032x}": 64 for i in range(4)},
    "params/ocdbt.process_0/manifest.ocdbt": 117,
    **{f"params/ocdbt.process_0/d/{i:032x}": 64 for i in range(10)},
    STATS: 1534,
}
NANO = {**RELEASED, "assets/flashtrail/model.json": 90}
GS = "gs://openpi-assets/checkpoints/"


def without(files: dict[str, int], *prefixes: str) -> dict[str, int]:
    return {name: size for name, size in files.items() if not name.startswith(prefixes)}


# (uri, files, class, a word of the reason)
RULES = [
    (GS + "pi0_libero", RELEASED, probe.LIBERO_JAX, "19 files"),
    ("hf://someone/pi0_libero", RELEASED, probe.LIBERO_JAX, "pi0_libero"),
    (GS + "pi05_libero", RELEASED, probe.PI05_MISMATCH, "pi05"),
    (GS + "pi05_libero", {}, probe.PI05_MISMATCH, "pi05"),
    (GS + "pi0_base", RELEASED, probe.PI0_BASE, "pretrained"),
    ("/data/pi0_base/pi05_libero", RELEASED, probe.PI05_MISMATCH, "pi05"),
    ("/openpi-assets/checkpoints/pi0_libero", {}, probe.PLACEHOLDER, "placeholder"),
    ("/openpi-assets/checkpoints/pi0_libero", RELEASED, probe.LIBERO_JAX, "Orbax"),
    (GS + "pi0_libero_torch", {}, probe.NOT_FOUND, "nothing"),
    (GS + "pi0_libero_torch", {"model.safetensors": 9}, probe.TORCH_ONLY, "PyTorch"),
    (GS + "pi0_libero/params", RELEASED, probe.UNKNOWN, "ends in params"),
    (GS + "pi0_libero/params/", RELEASED, probe.UNKNOWN, "ends in params"),
    (GS + "pi0_libero", without(RELEASED, "assets"), probe.UNKNOWN, "lacks assets"),
    (GS + "pi0_libero", without(RELEASED, "params"), probe.UNKNOWN, "lacks params"),
    (GS + "pi0_libero", {"params/d/x": 1, STATS: 2}, probe.UNKNOWN, "marker"),
    (GS + "pi0_libero", {"params/d/x": 1, STATS: 2, "_CHECKPOINT_METADATA": 1}, probe.LIBERO_JAX, "marker"),
    (GS + "pi0_libero", {"params/d/x": 1, STATS: 2, "checkpoint": 1}, probe.LIBERO_JAX, "marker"),
    ("resources/pi0_nano", NANO, probe.NANO_JAX, "model.json"),
    ("resources/pi0_nano_dropout", NANO, probe.NANO_JAX, "model.json"),
    ("resources/pi0_nano", RELEASED, probe.UNKNOWN, "model.json"),
    ("resources/pi0_nano", without(NANO, "params"), probe.UNKNOWN, "lacks params"),
    ("resources/pi0_nano/params", NANO, probe.UNKNOWN, "ends in params"),
    ("somewhere/else", {"README.md": 5}, probe.UNKNOWN, "not a known checkpoint"),
    ("somewhere/else", {}, probe.NOT_FOUND, "nothing"),
]


@pytest.mark.parametrize(("uri", "files", "expected", "word"), RULES)
def test_the_first_rule_that_applies_decides(uri: str, files: dict[str, int], expected: str, word: str) -> None:
    entries = [Entry(name, size) for name, size in files.items()]
    verdict, reason = probe.classify(uri, entries)
    assert verdict == expected
    assert word in reason


def test_a_place_that_cannot_be_asked_is_not_called_missing() -> None:
    verdict, reason = probe.classify(GS + "pi0_libero", None, "connection refused")
    assert verdict == probe.UNKNOWN
    assert "connection refused" in reason


def make(root: Path, files: dict[str, int]) -> Path:
    for name, size in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return root


def test_local_trees(tmp_path: Path) -> None:
    make(tmp_path / "pi0_nano", NANO)
    make(tmp_path / "pi05_libero", RELEASED)
    (tmp_path / "empty").mkdir()
    names = ["pi0_nano", "pi05_libero", "empty", "absent"]
    record = probe.probe([str(tmp_path / name) for name in names])
    classes = [c["class"] for c in record["candidates"]]
    assert classes == [probe.NANO_JAX, probe.PI05_MISMATCH, probe.NOT_FOUND, probe.NOT_FOUND]
    chosen = probe.select(record)
    assert record["selected"] == chosen["uri"] == str(tmp_path / "pi0_nano")
    assert chosen["norm_stats"] == [STATS]
    assert chosen["files"] == NANO
    assert chosen["total_bytes"] == sum(NANO.values())


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> object:
    """gs://openpi-assets as found, served by an emulator."""
    objects = {f"checkpoints/pi0_libero/{name}": b"x" * size for name, size in RELEASED.items()}
    objects |= {"checkpoints/pi0_base/params/_METADATA": b"x", "checkpoints/pi05_libero/params/_METADATA": b"x"}
    with buckets.serve({"openpi-assets": objects}) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        yield


@pytest.mark.usefixtures("bucket")
def test_cloud_storage_is_listed_at_the_right_depth() -> None:
    uris = [GS + n for n in ("pi0_libero", "pi0_libero_torch", "pi0_base", "pi05_libero", "pi0_libero/params")]
    record = probe.probe([*uris, "gs://no-such-bucket/pi0_libero"])
    assert [c["class"] for c in record["candidates"]] == [
        probe.LIBERO_JAX, probe.NOT_FOUND, probe.PI0_BASE, probe.PI05_MISMATCH, probe.UNKNOWN, probe.NOT_FOUND,
    ]  # fmt: skip
    chosen = probe.select(record)
    assert chosen["uri"] == GS + "pi0_libero"
    assert chosen["norm_stats"] == [STATS]
    assert chosen["files"] == dict(sorted(RELEASED.items()))


def test_the_hub_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"pi0_libero/{name}": b"x" * size for name, size in RELEASED.items()}
    with hub.serve({"someone/checkpoints": {**files, "README.md": b"#"}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        record = probe.probe(["hf://someone/checkpoints/pi0_libero", "hf://someone/nothing/pi0_libero"])
        assert not any("resolve" in call for call in server.calls), "a probe reads no content"
    assert [c["class"] for c in record["candidates"]] == [probe.LIBERO_JAX, probe.NOT_FOUND]
    assert record["candidates"][0]["files"] == dict(sorted(RELEASED.items()))


def test_a_network_that_is_away_is_told_apart_from_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("refused by test")

    monkeypatch.setattr("gcsfs.core.GCSFileSystem.find", refuse)
    record = probe.probe([GS + "pi0_libero", GS + "pi0_base"])
    assert [c["class"] for c in record["candidates"]] == [probe.UNKNOWN, probe.PI0_BASE]
    assert not record["candidates"][0]["listed"]
    with pytest.raises(UserError, match="check the network") as caught:
        probe.select(record)
    assert probe.NOT_FOUND not in str(caught.value)
    assert "refused by test" in str(caught.value)


def test_no_match_says_what_was_found(tmp_path: Path) -> None:
    record = probe.probe([str(tmp_path / "pi0_libero"), GS.replace("gs://", "/") + "pi0_libero"])
    assert record["selected"] is None
    with pytest.raises(UserError, match=r"pi0_libero: NOT_FOUND .* LOCAL_PLACEHOLDER_ONLY") as caught:
        probe.select(record)
    assert "\n" not in str(caught.value)


def test_two_matches_are_not_chosen_between(tmp_path: Path) -> None:
    paths = [str(make(tmp_path / name, NANO)) for name in ("a", "b")]
    record = probe.probe(paths)
    assert record["selected"] is None
    with pytest.raises(UserError, match="2 checkpoint candidates match") as caught:
        probe.select(record)
    assert all(path in str(caught.value) for path in paths)


def test_a_match_without_statistics_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "pi0_nano", {**without(NANO, STATS), "assets/other.json": 3})
    with pytest.raises(UserError, match=r"norm_stats\.json below assets/; found: none"):
        probe.select(probe.probe([str(tmp_path / "pi0_nano")]))


@pytest.mark.parametrize(("uris", "said"), [([], "no checkpoint candidates"), (["s3://bucket/x"], "unknown scheme s3")])
def test_candidates_that_cannot_be_probed(uris: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        probe.probe(uris)
