"""Downloads the one matching checkpoint, its tokenizer and its draft head: resumable, checked, whole or not at all.

Files arrive in `source.partial`, each as `NAME.part` until its size and hashes are right; the directory becomes
`source` when all are there. A run that was cut off continues at the byte where it stopped.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.checkpoints import facts, identity, lerobot
from flashtrail.checkpoints.stores import AccessDenied, Entry, Location, StoreUnreachable, open_location

TOKENIZER, DRAFT = "tokenizer.model", "draft.pt"
WANTED_TOPS = ("params", "assets")
ATTEMPTS = 5
_FIRST_WAIT_S = 1.0
_DISK_MARGIN = 256 * 2**20
_READ = 4 * 2**20
Report = Callable[[str], None]


@dataclass(frozen=True)
class Item:
    """One file to fetch: where it is and its path below source/."""

    location: Location
    entry: Entry
    path: str  # below source/


def fetch(
    candidate: Mapping[str, Any],
    directory: str | Path,
    tokenizer: str,
    draft: str | None = None,
    report: Report = print,
) -> dict[str, Any]:
    """Fetch a probed candidate (`probe.select`) into `directory`/source and return what fetched.json then holds.

    fetched.json: uri, class, family, facts, tokenizer and draft URIs, files {path: {bytes, sha256}}, digest over them.
    The facts that the tree itself does not hold are written beside it, as facts.json. If source/ already holds exactly
    that, nothing is downloaded. Raises UserError for a full disk, a missing or changed file, a wrong hash, a Git LFS
    pointer instead of a file, or a network that stays down.
    """
    directory = Path(directory)
    source, partial = directory / "source", directory / "source.partial"
    items = _items(candidate["uri"], tokenizer, draft, candidate.get("format"))
    origin = {key: candidate[key] for key in ("uri", "class", "family", "facts", "dims_used")}
    origin |= {"tokenizer": tokenizer, "draft": draft}
    if (kept := _already_there(directory, origin, items)) is not None:
        report(f"{source} is whole already: nothing to download")
        return kept
    partial.mkdir(parents=True, exist_ok=True)
    _clear_strangers(partial, {item.path for item in items})
    _check_disk(partial, items)
    files, progress = {}, _Progress(sum(item.entry.bytes for item in items), report)
    for item in items:
        files[item.path] = fetch_file(item, partial / item.path, progress.add)
    provenance.json_dump(candidate["model"], partial / facts.FACTS)
    files[facts.FACTS] = _described(partial / facts.FACTS)
    fetched = {"version": 1, **origin, "files": files, "digest": provenance.digest_json(files)}
    if source.exists():
        shutil.rmtree(source)
    partial.replace(source)
    provenance.json_dump(fetched, directory / "fetched.json")
    report(f"fetched {len(files)} files, {progress.total / 1e6:,.1f} MB into {source}")
    return fetched


def _items(uri: str, tokenizer: str, draft: str | None, form: str | None) -> list[Item]:
    tree = _list(open_location(uri), "checkpoint")
    location, paths = open_location(uri), {entry.name: entry.name or "model.safetensors" for entry in tree}
    items = [Item(location, entry, paths[entry.name]) for entry in tree if _is_wanted(paths[entry.name], form)]
    for what, address, path in (("tokenizer", tokenizer, TOKENIZER), ("draft", draft, DRAFT)):
        if address is None:
            continue
        entries = _list(open_location(address), what)
        if len(entries) != 1 or entries[0].name:
            raise UserError(f"{what} {address} is a directory of {len(entries)} files: name the file itself")
        items.append(Item(open_location(address), entries[0], path))
    return items


def _is_wanted(name: str, form: str | None) -> bool:
    """Whether a checkpoint's file is fetched: of a PyTorch format the folder's own tensors and what describes them."""
    beside = "/" not in name and name.endswith((".safetensors", ".json"))
    return name.split("/")[0] in WANTED_TOPS or (form in identity.TORCH and (beside or name in lerobot.STATS_JSON))


def _list(location: Location, what: str) -> list[Entry]:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return location.entries()
        except FileNotFoundError:
            raise UserError(f"{what} {location.uri} does not exist: correct the policy in the config") from None
        except StoreUnreachable as error:
            if attempt == ATTEMPTS or isinstance(error, AccessDenied):
                raise
            _wait(attempt)
    raise AssertionError("unreachable")


def _already_there(directory: Path, origin: Mapping[str, Any], items: list[Item]) -> dict[str, Any] | None:
    """Return fetched.json if it describes these items and source/ still holds them, byte for byte."""
    record = directory / "fetched.json"
    if not record.is_file() or not (directory / "source").is_dir():
        return None
    kept = provenance.json_load(record)
    if any(kept.get(key) != value for key, value in origin.items()):
        return None
    files = kept.get("files", {})
    own = directory / "source" / facts.FACTS
    if not own.is_file() or files.get(facts.FACTS) != _described(own):
        return None
    expected = {item.path: item.entry.bytes for item in items} | {facts.FACTS: own.stat().st_size}
    if expected != {name: f["bytes"] for name, f in files.items()}:
        return None
    for item in items:
        path = directory / "source" / item.path
        if not path.is_file() or path.stat().st_size != item.entry.bytes:
            return None
        hashes = _hashes(path)
        if hashes["sha256"] != files[item.path]["sha256"] or _mismatch(item.entry, hashes):
            return None
        if not _vouched(item.entry) and hashes["sha256"] != _local_sha256(item):
            return None
    return kept


def _vouched(entry: Entry) -> bool:
    """Tell whether the store gives a hash, so that a kept part can be trusted to be of the same version."""
    return any((entry.crc32c, entry.md5, entry.sha256))


def _local_sha256(item: Item) -> str | None:
    """Return the hash of a source file on this machine; None for another store, which then is read again."""
    if item.location.scheme:
        return None
    return provenance.sha256_file(Path(item.location.root) / item.entry.name)


def fetch_file(item: Item, target: Path, progress: Callable[[int], None] = lambda n: None) -> dict[str, Any]:
    """Fetch one file to `target`, continuing a `.part` that is there; return its bytes and sha256.

    A wrong hash discards what came and starts once more from nothing (the part may stem from an older version);
    where the store gives no hash (local paths, the hub's small files) nothing that is there is trusted.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if not _vouched(item.entry):
        target.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    if target.is_file() and target.stat().st_size == item.entry.bytes:
        hashes = _hashes(target)
        if not _mismatch(item.entry, hashes):
            progress(item.entry.bytes)
            return {"bytes": item.entry.bytes, "sha256": hashes["sha256"]}
    target.unlink(missing_ok=True)
    for fresh in (False, True):
        if fresh:
            part.unlink(missing_ok=True)
        _download(item, part, progress)
        hashes = _hashes(part)
        wrong = _mismatch(item.entry, hashes)
        if not wrong:
            _refuse_pointer(part, item)
            part.replace(target)
            return {"bytes": item.entry.bytes, "sha256": hashes["sha256"]}
        progress(-item.entry.bytes)
    part.unlink(missing_ok=True)
    raise UserError(
        f"{item.location.uri}: {item.path} arrived twice with a wrong {wrong}: the source is damaged or "
        "changing, run again later"
    )


def _download(item: Item, part: Path, progress: Callable[[int], None]) -> None:
    """Append to `part` until it has the expected size; network trouble is retried, progress resets the count."""
    if part.is_file() and part.stat().st_size > item.entry.bytes:
        part.unlink()
    part.touch()
    have = part.stat().st_size
    progress(have)
    attempt = 1
    while have < item.entry.bytes:
        before = have
        try:
            with part.open("ab") as stream:
                for block in item.location.blocks(item.entry, have):
                    stream.write(block)
                    have += len(block)
                    progress(len(block))
        except FileNotFoundError:
            raise UserError(f"{item.location.uri}: {item.path} disappeared during the download: run again") from None
        except StoreUnreachable as error:
            attempt = attempt + 1 if have == before else 1
            if attempt > ATTEMPTS or isinstance(error, AccessDenied):
                raise UserError(f"{error}; {have} of {item.entry.bytes} bytes of {item.path} are kept") from None
            _wait(attempt)
        except OSError as error:
            raise UserError(f"cannot write {part}: {error.strerror}; free some space and run again") from None


def _refuse_pointer(path: Path, item: Item) -> None:
    with path.open("rb") as stream:
        if stream.read(len(identity.LFS_POINTER)) == identity.LFS_POINTER:
            raise UserError(f"{item.location.uri}: {identity.pointer(item.entry.name or 'it')}")


def _described(path: Path) -> dict[str, Any]:
    """What fetched.json says of a file."""
    return {"bytes": path.stat().st_size, "sha256": provenance.sha256_file(path)}


def _wait(attempt: int) -> None:
    time.sleep(_FIRST_WAIT_S * 2 ** (attempt - 1))


def _hashes(path: Path) -> dict[str, str]:
    """Return sha256 (hex), md5 and crc32c (base64, as Cloud Storage writes them) in one reading."""
    import google_crc32c

    sha256, md5, crc32c = hashlib.sha256(), hashlib.md5(usedforsecurity=False), google_crc32c.Checksum()
    with path.open("rb") as stream:
        while block := stream.read(_READ):
            sha256.update(block)
            md5.update(block)
            crc32c.update(block)
    return {
        "sha256": sha256.hexdigest(),
        "md5": base64.b64encode(md5.digest()).decode(),
        "crc32c": base64.b64encode(crc32c.digest()).decode(),
    }


def _mismatch(entry: Entry, hashes: Mapping[str, str]) -> str | None:
    """Return the name of the first hash that differs from the one the store vouches for."""
    for name in ("crc32c", "md5", "sha256"):
        expected = getattr(entry, name)
        if expected is not None and expected != hashes[name]:
            return name
    return None


def _clear_strangers(partial: Path, wanted: set[str]) -> None:
    """Remove what an earlier, different download left behind."""
    for path in sorted(partial.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(partial).as_posix().removesuffix(".part") not in wanted:
            path.unlink()


def _check_disk(partial: Path, items: list[Item]) -> None:
    have = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    need = sum(item.entry.bytes for item in items) - have
    free = shutil.disk_usage(partial).free
    if need + min(_DISK_MARGIN, need) > free:
        raise UserError(
            f"{partial.parent} has {free / 1e9:.1f} GB free, the checkpoint needs {need / 1e9:.1f} GB more: "
            "free some space"
        )


class _Progress:
    """Says how far the download is: at most once per 5 s and tenth of the whole."""

    def __init__(self, total: int, report: Report) -> None:
        self.total, self._report = total, report
        self._done = 0
        self._started = self._said = time.monotonic()

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._said >= 5:
            self._said = now
            rate = self._done / 1e6 / (now - self._started)
            self._report(f"fetched {self._done / 1e6:,.0f} of {self.total / 1e6:,.0f} MB ({rate:.0f} MB/s)")
