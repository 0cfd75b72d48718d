"""A stranger's zip: what is not unpacked, in one line, and that nothing of it lies outside the target."""

import os
import random
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.record import archive

SMALL = archive.Bounds(files=20, file_bytes=100_000, total_bytes=150_000, directory_bytes=2000, ratio=10, free=50_000)
Entry = tuple[str, bytes, int]


def packed(place: Path, *entries: Entry, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip of (name, content, mode) and return it."""
    with zipfile.ZipFile(place, "w", method) as made:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, method
            made.writestr(info, content)
    return place


def noise(size: int) -> bytes:
    return random.Random(0).randbytes(size)


def refused(place: Path, tmp_path: Path, said: str, bounds: archive.Bounds = SMALL) -> None:
    """Unpacking it is one line, and leaves nothing outside of the target."""
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    before = {p for p in tmp_path.rglob("*") if target not in p.parents}
    with pytest.raises(UserError, match=said) as error:
        archive.unpack(place, target, bounds)
    assert "\n" not in str(error.value)
    assert {p for p in tmp_path.rglob("*") if target not in p.parents} == before
    assert sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) <= bounds.total_bytes


def test_a_folder_of_files_is_unpacked(tmp_path: Path) -> None:
    place = packed(tmp_path / "b.zip", ("b/", b"", 0o40755), ("b/a.txt", b"one", 0o100644), ("b/c/d.bin", b"", 0))
    (tmp_path / "out").mkdir()
    inside = archive.unpack(place, tmp_path / "out", SMALL)
    assert inside == tmp_path / "out/b" and (inside / "a.txt").read_bytes() == b"one"
    assert {p.name for p in inside.rglob("*")} == {"a.txt", "c", "d.bin"}


@pytest.mark.parametrize(
    "name",
    ["../x", "b/../../x", "/x", "b//x", "./x", "b/./x", "b\\..\\x", "b/a\nb", "b/\x1b[2J", "", "/"],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    refused(
        packed(tmp_path / "b.zip", ("b/a", b"1", 0), (name, b"2", 0)), tmp_path, "not a relative path below one folder"
    )


def test_an_absolute_name_of_a_file_that_is_there_leaves_it_alone(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    refused(packed(tmp_path / "b.zip", (str(victim), b"theirs", 0)), tmp_path, "not a relative path")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    refused(packed(tmp_path / "b.zip", ("b/a", b"/etc/passwd", kind | 0o777)), tmp_path, "as a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("b/a", "b/a"), ("b/a", "b/a/")])
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    refused(packed(tmp_path / "b.zip", *((name, b"", 0) for name in names)), tmp_path, "duplicate name")


@pytest.mark.parametrize("names", [("b/a", "b/a/c"), ("b/a/c", "b/a")])
def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    refused(packed(tmp_path / "b.zip", *((name, b"x", 0) for name in names)), tmp_path, "a file and a folder")


def test_too_many_files_are_refused_before_any_is_written(tmp_path: Path) -> None:
    place = packed(tmp_path / "b.zip", *((f"b/{i}", b"", 0) for i in range(21)))
    refused(place, tmp_path, "at most 20 are unpacked")
    assert not list((tmp_path / "deep/target").iterdir())


def test_a_list_of_contents_that_is_too_long_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = packed(tmp_path / "b.zip", *((f"b/{i}{'x' * 200}", b"", 0) for i in range(15)))
    monkeypatch.setattr(archive.zipfile, "ZipFile", lambda *_: pytest.fail("its list was read"))
    refused(place, tmp_path, "lists 15 files")


def test_one_large_file_is_refused(tmp_path: Path) -> None:
    place = packed(tmp_path / "b.zip", ("b/a", noise(100_001), 0), method=zipfile.ZIP_STORED)
    refused(place, tmp_path, "'b/a' .* unpacks to more")


def test_many_files_that_are_large_together_are_refused(tmp_path: Path) -> None:
    place = packed(tmp_path / "b.zip", *((f"b/{i}", noise(40_000), 0) for i in range(5)), method=zipfile.ZIP_STORED)
    refused(place, tmp_path, "b.zip unpacks to more")


def test_much_out_of_nothing_is_refused(tmp_path: Path) -> None:
    refused(packed(tmp_path / "b.zip", ("b/a", bytes(60_000), 0)), tmp_path, "unpacks to more")


def test_sizes_are_counted_and_not_believed(tmp_path: Path) -> None:
    """The headers say 10 bytes; what comes out is a million."""
    place = packed(tmp_path / "b.zip", ("b/a", bytes(1_000_000), 0))
    said = place.read_bytes().replace(struct.pack("<I", 1_000_000), struct.pack("<I", 10))
    place.write_bytes(said)
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(UserError):
        archive.unpack(place, target, SMALL)
    assert sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) <= SMALL.total_bytes


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_packing_is_refused(tmp_path: Path, method: int) -> None:
    refused(packed(tmp_path / "b.zip", ("b/a", b"x", 0), method=method), tmp_path, "only stored and deflated")


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = data.index(b"b/a") + 200
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped, lambda _: b"", lambda _: b"PK\5\6" + bytes(17), lambda _: b"no zip"])
def test_a_damaged_zip_is_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    place = packed(tmp_path / "b.zip", ("b/a", noise(5000), 0))
    place.write_bytes(damage(place.read_bytes()))
    refused(place, tmp_path, "neither a directory nor a whole zip")


@pytest.mark.parametrize("names", [("a/x", "b/x"), ("x",), ()])
def test_what_is_not_one_folder_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    refused(packed(tmp_path / "b.zip", *((name, b"", 0) for name in names)), tmp_path, "a bundle is one folder")


def test_an_audit_of_a_bomb_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    place = packed(tmp_path / "b.zip", ("b/a", bytes(archive.BOUNDS.free + 1), 0))
    assert cli.main(["audit", str(place)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list((tmp_path / "tmp").iterdir())


def test_a_folder_with_a_link_or_a_pipe_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for make in (lambda p: p.symlink_to("/etc"), lambda p: p.symlink_to("/dev/zero"), os.mkfifo):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        (tmp_path / "b").mkdir()
        (tmp_path / "b/manifest-sha256.txt").touch()
        make(tmp_path / "b/a")
        assert cli.main(["audit", str(tmp_path / "b")]) == 2
        assert "a bundle has no links, pipes or devices" in capsys.readouterr().err
