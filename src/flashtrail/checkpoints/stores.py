"""Lists and reads files at a location, whether gs://, hf:// or local, as names, sizes, hashes and byte ranges.

Access is anonymous unless the environment holds credentials: ``HF_TOKEN`` (or the hub's own login) for hf://,
``GOOGLE_APPLICATION_CREDENTIALS`` for gs://; proxies are those of ``HTTP(S)_PROXY`` and ``NO_PROXY``.
``STORAGE_EMULATOR_HOST`` and ``HF_ENDPOINT`` move the two services elsewhere (tests do). Links of local trees are
followed. Three failures are kept apart: the location does not exist (`FileNotFoundError`), cannot be reached
(`StoreUnreachable`), or refuses access (`AccessDenied`).
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from flashtrail.base.errors import UserError

BLOCK_BYTES = 32 * 2**20
MAX_FILES = 20_000
GOOGLE_KEY = "GOOGLE_APPLICATION_CREDENTIALS"
T = TypeVar("T")


class StoreUnreachable(UserError):
    """The location cannot be reached: network, permission or service trouble, not absence."""


class AccessDenied(StoreUnreachable):
    """The location refuses access: a retry will not help; the message says what will."""


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
    """A directory or file: one URI and the file system behind it."""

    uri: str
    scheme: str
    root: str
    _fs: Any

    def entries(self) -> list[Entry]:
        """Return every file at or below the location, sorted by name; metadata only, no content is read.

        Raises FileNotFoundError if nothing is there, StoreUnreachable if it cannot be listed.
        """
        prefix = self.root.rstrip("/")
        if not self.scheme:
            return local_entries(Path(self.root))
        entries = self._ask("list", lambda: self._fs.find(self.root, detail=True))
        if not set(entries) - {prefix}:  # one file, or nothing
            options = {"expand_info": True} if self.scheme == "hf" else {}  # else the hub leaves the hash out
            entries = {prefix: self._ask("look up", lambda: self._fs.info(self.root, **options))}
        entries = {p: i for p, i in entries.items() if i.get("type") == "file" and not str(p).endswith("/")}
        if not entries:
            raise FileNotFoundError(self.uri)
        if len(entries) > MAX_FILES:
            raise StoreUnreachable(f"{self.uri} holds more than {MAX_FILES} files: name the checkpoint's own directory")
        return sorted((_entry(str(p), info, prefix) for p, info in entries.items()), key=lambda entry: entry.name)

    def head(self, entry: Entry, size: int, start: int = 0) -> bytes:
        """Return `size` bytes of one file from `start` on, fewer where it is shorter; raises StoreUnreachable."""
        return b"".join(self.blocks(replace(entry, bytes=min(start + size, entry.bytes)), start))

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
        except Exception as error:  # every backend has its own family of network errors
            if (denied := denial(error, self.uri, self.scheme)) is not None:
                raise denied from None
            if isinstance(error, FileNotFoundError) or _status(error) == 404:
                raise FileNotFoundError(self.uri) from None
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise StoreUnreachable(f"cannot {what} {self.uri} ({line}): check the network and run again") from error


def open_location(uri: str) -> Location:
    """Return the location of a URI; no request is made yet.

    Raises UserError for an unknown scheme, and for credentials in the environment that cannot be read.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _local(uri, uri)
    if scheme == "file":
        return _local(uri, rest)
    if scheme == "gs":
        return Location(uri, scheme, rest.strip("/"), _cloud_storage())
    if scheme == "hf":
        from huggingface_hub import HfFileSystem, get_token

        endpoint, token = os.environ.get("HF_ENDPOINT") or None, get_token() or False
        return Location(
            uri, scheme, rest.strip("/"), HfFileSystem(endpoint=endpoint, token=token, skip_instance_cache=True)
        )
    if scheme == "memory":
        import fsspec

        return Location(uri, scheme, "/" + rest.strip("/"), fsspec.filesystem("memory"))
    raise UserError(f"{uri}: unknown scheme {scheme}://; use gs://, hf:// or a path")


def _cloud_storage() -> Any:
    """gcsfs's file system: anonymous, or with the credentials that GOOGLE_APPLICATION_CREDENTIALS names."""
    from gcsfs.core import GCSFileSystem
    from google.auth.exceptions import GoogleAuthError

    logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # its tracebacks would bury our one line
    key = os.environ.get(GOOGLE_KEY) or None
    options = {
        "token": "google_default" if key else "anon",
        "endpoint_url": os.environ.get("STORAGE_EMULATOR_HOST") or None,
        "use_listings_cache": False,
        "session_kwargs": {"trust_env": True},  # aiohttp asks the environment for its proxies only then
    }
    try:
        return GCSFileSystem(skip_instance_cache=True, **options)
    except (GoogleAuthError, OSError, ValueError) as error:
        line = " ".join(str(error).split())[:160]
        raise AccessDenied(
            f"{GOOGLE_KEY} names {key}, which cannot be used ({line}): name a Google credentials file, or unset it"
        ) from None


def _local(uri: str, path: str) -> Location:
    from fsspec.implementations.local import LocalFileSystem

    return Location(uri, "", str(Path(path).expanduser().absolute()), LocalFileSystem(skip_instance_cache=True))


def _entry(path: str, info: dict[str, Any], root: str) -> Entry:
    name = path.removeprefix(root).lstrip("/")
    lfs = info.get("lfs")
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return Entry(name, int(info["size"]), info.get("md5Hash"), info.get("crc32c"), sha256)


# --- local trees ---


def local_entries(root: Path) -> list[Entry]:
    """Return the files at or below a local path, links followed: names as below `root`, sizes of what links lead to.

    Raises FileNotFoundError if nothing is there; StoreUnreachable naming a link that leads nowhere or round in a
    circle, or an entry that this user may not read.
    """
    if not os.path.lexists(root):
        raise FileNotFoundError(str(root))
    entries: list[Entry] = []
    _walk(root, "", (), entries)
    if not entries:
        raise FileNotFoundError(str(root))
    return sorted(entries, key=lambda entry: entry.name)


def _walk(path: Path, name: str, above: tuple[tuple[int, int], ...], entries: list[Entry]) -> None:
    """Add the files at or below `path`; `above`: device and inode of the directories that lead here."""
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            if not os.access(path, os.R_OK):
                raise PermissionError
            if stat.S_ISREG(status.st_mode):
                entries.append(Entry(name, status.st_size))
            return
        names = sorted(child.name for child in path.iterdir())
    except FileNotFoundError:
        target = f" ({path.readlink()})" if path.is_symlink() else ""
        raise StoreUnreachable(f"{path} is a link that leads nowhere{target}: complete the copy or the cache") from None
    except PermissionError:
        raise AccessDenied(f"{path} may not be read by this user: change its permissions, or copy the tree") from None
    except OSError as error:
        raise StoreUnreachable(f"{path} cannot be read ({error.strerror}): repair it, or copy the tree") from None
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise StoreUnreachable(f"{path} is a link to a directory that holds it, a circle: remove the link")
    if len(entries) > MAX_FILES:
        raise StoreUnreachable(f"{path} is in a tree of over {MAX_FILES} files: name the checkpoint's own directory")
    for child in names:
        _walk(path / child, f"{name}/{child}".lstrip("/"), (*above, here), entries)


# --- what a refusal means ---


def denial(error: BaseException, uri: str, scheme: str) -> StoreUnreachable | None:
    """Return the sentence for a service, or a proxy before it, that answers and refuses; None for anything else.

    The hub's client reports a private or gated repository as a missing file: the refusal is in the cause.
    """
    chain = list(_chain(error))
    text = " ".join(f"{type(e).__name__} {e}" for e in chain)
    status = next((code for code in map(_status, chain) if code is not None), None)
    if status == 407 or any("proxy" in type(e).__name__.lower() for e in chain):
        line = " ".join(f"{type(chain[-1]).__name__}: {chain[-1]}".split())[:120]
        return StoreUnreachable(
            f"the proxy refuses or fails on the way to {uri} ({line}): correct HTTP_PROXY, HTTPS_PROXY or NO_PROXY"
        )
    if scheme == "hf":
        return _hub_denial(uri, status, text)
    if scheme == "gs":
        return _bucket_denial(uri, status, text)
    return None


def _hub_denial(uri: str, status: int | None, text: str) -> StoreUnreachable | None:
    from huggingface_hub import get_token

    token = get_token()
    if "GatedRepoError" in text:
        more = "with the account of HF_TOKEN" if token else "and set HF_TOKEN"
        return AccessDenied(f"{uri} is in a gated repository: accept its terms on its page {more}, then run again")
    if status == 401 and token:
        return AccessDenied(f"the hub refuses the token for {uri} (HTTP 401): renew HF_TOKEN, or unset it")
    if status == 401:
        return AccessDenied(
            f"{uri} is in a private repository, or in none (the hub says HTTP 401 for both): set HF_TOKEN to a token "
            "that may read it, or correct the name"
        )
    if status == 403:
        return AccessDenied(
            f"the token in HF_TOKEN may not read {uri} (HTTP 403): give it read access to the repository"
        )
    return None


def _bucket_denial(uri: str, status: int | None, text: str) -> StoreUnreachable | None:
    if "RefreshError" in text or "TransportError" in text:
        return AccessDenied(f"Google gives no access for the credentials in {GOOGLE_KEY} to read {uri}: renew them")
    if status not in (401, 403) and "Forbidden" not in text:
        return None
    if os.environ.get(GOOGLE_KEY):
        return AccessDenied(
            f"{uri} is closed to the account in {GOOGLE_KEY}: give it the role Storage Object Viewer on the bucket"
        )
    return AccessDenied(
        f"{uri} is in a private bucket: set {GOOGLE_KEY} to the key file of an account that may read it"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of a backend carries, under any of the names they give it."""
    for value in (
        getattr(getattr(error, "response", None), "status_code", None),
        getattr(error, "code", None),
        getattr(error, "status", None),
    ):
        if isinstance(value, int | str) and str(value).isdecimal():
            return int(value)
    return None
