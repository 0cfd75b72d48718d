"""Lists and reads files at a location, whether gs://, hf:// or local, as names, sizes, hashes and byte ranges.

Anonymous access only: the checkpoints are public. ``STORAGE_EMULATOR_HOST`` and ``HF_ENDPOINT`` move the two
services elsewhere (tests do). Knows nothing of checkpoints. Tells apart "it is not there" (`FileNotFoundError`) and
"it could not be asked" (`StoreUnreachable`): a lost network must never read as a missing checkpoint.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flashtrail.errors import UserError

BLOCK_BYTES = 32 * 2**20
MAX_FILES = 20_000
T = TypeVar("T")


class StoreUnreachable(UserError):
    """The location could not be asked: network, permission or service trouble, not absence."""


@dataclass(frozen=True)
class Entry:
    """One file below a location: its relative name, its size and the hashes that the store vouches for."""

    name: str
    bytes: int
    md5: str | None = None  # base64, as Cloud Storage gives it
    crc32c: str | None = None  # base64, big endian
    sha256: str | None = None  # hex, Hugging Face's LFS files


@dataclass(frozen=True)
class Location:
    """A place that holds files: one URI and the file system behind it."""

    uri: str
    scheme: str
    root: str
    _fs: Any

    def entries(self) -> list[Entry]:
        """Return every file at or below the location, sorted by name; metadata only, no content is read.

        Raises FileNotFoundError if nothing is there, StoreUnreachable if that cannot be told.
        """
        prefix = self.root.rstrip("/")
        found = self._ask("list", lambda: self._fs.find(self.root, detail=True))
        if not set(found) - {prefix}:  # one file, or nothing
            options = {"expand_info": True} if self.scheme == "hf" else {}  # else the hub leaves the hash out
            found = {prefix: self._ask("look up", lambda: self._fs.info(self.root, **options))}
        found = {p: i for p, i in found.items() if i.get("type") == "file" and not str(p).endswith("/")}
        if not found:
            raise FileNotFoundError(self.uri)
        if len(found) > MAX_FILES:
            raise StoreUnreachable(f"{self.uri} holds more than {MAX_FILES} files: name the checkpoint's own directory")
        return sorted((_entry(str(p), info, prefix) for p, info in found.items()), key=lambda entry: entry.name)

    def blocks(self, entry: Entry, start: int, size: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Yield the bytes of one file from `start` to its end, in blocks; raises StoreUnreachable."""
        path = self.root if entry.name == "" else f"{self.root.rstrip('/')}/{entry.name}"
        while start < entry.bytes:
            stop = min(start + size, entry.bytes)
            block = self._ask("read", lambda a=start, b=stop: self._fs.cat_file(path, start=a, end=b))  # type: ignore[misc]
            if not block:
                raise StoreUnreachable(f"{self.uri}: {entry.name or 'the file'} ends at byte {start} of {entry.bytes}")
            yield block
            start += len(block)

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except FileNotFoundError:
            raise FileNotFoundError(self.uri) from None
        except Exception as error:  # every backend has its own family of network errors
            if _means_missing(error):
                raise FileNotFoundError(self.uri) from None
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise StoreUnreachable(f"cannot {what} {self.uri} ({line}): check the network and run again") from error


def open_location(uri: str) -> Location:
    """Return the location of a URI; nothing is asked yet. Raises UserError for an unknown scheme."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _local(uri, uri)
    if scheme == "file":
        return _local(uri, rest)
    if scheme == "gs":
        from gcsfs.core import GCSFileSystem

        logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # its tracebacks would bury our one line
        endpoint = os.environ.get("STORAGE_EMULATOR_HOST") or None
        options = {"token": "anon", "endpoint_url": endpoint, "use_listings_cache": False}
        return Location(uri, scheme, rest.strip("/"), GCSFileSystem(skip_instance_cache=True, **options))
    if scheme == "hf":
        from huggingface_hub import HfFileSystem

        endpoint = os.environ.get("HF_ENDPOINT") or None
        return Location(
            uri, scheme, rest.strip("/"), HfFileSystem(endpoint=endpoint, token=False, skip_instance_cache=True)
        )
    if scheme == "memory":
        import fsspec

        return Location(uri, scheme, "/" + rest.strip("/"), fsspec.filesystem("memory"))
    raise UserError(f"{uri}: unknown scheme {scheme}://; use gs://, hf:// or a path")


def _local(uri: str, path: str) -> Location:
    from fsspec.implementations.local import LocalFileSystem

    return Location(uri, "", str(Path(path).expanduser().absolute()), LocalFileSystem(skip_instance_cache=True))


def _entry(path: str, info: dict[str, Any], root: str) -> Entry:
    name = path.removeprefix(root).lstrip("/")
    lfs = info.get("lfs")
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return Entry(name, int(info["size"]), info.get("md5Hash"), info.get("crc32c"), sha256)


def _means_missing(error: Exception) -> bool:
    """Tell a 404 from other trouble where a backend does not raise FileNotFoundError for it."""
    code = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return str(code) == "404"
