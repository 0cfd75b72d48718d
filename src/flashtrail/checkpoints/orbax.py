"""Reads an openpi Orbax parameter tree leaf by leaf, in pieces, without restoring it whole.

Goes through tensorstore's OCDBT key-value store, so neither `_CHECKPOINT_METADATA` (absent from the released
checkpoint) nor a device mesh is needed. Knows leaf paths and arrays; deliberately not what any leaf means.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.errors import UserError

_ROOT = "params"
_VALUE = "/value"
_BUFFER_BYTES = 4 * 2**20
_ARRAY_FILES = {".zarray": "zarr", "zarr.json": "zarr3"}


@dataclass(frozen=True)
class Leaf:
    """One stored array: shape and dtype at hand, its values read only on demand.

    `chunk_rows` is the extent of a stored chunk along the first axis.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunk_rows: int
    _store: Any

    def read(self) -> np.ndarray:
        """Return the whole array."""
        return self._values(self._store)

    def row_blocks(self, step: int) -> Iterator[np.ndarray]:
        """Yield successive blocks of `step` rows along the first axis.

        Where stored chunks span the other axes (as unsharded saves do), they are decoded as a stream: memory is a
        block and a buffer. Else a chunk is decoded once and kept until its rows are through: memory peaks at one band
        of chunks, as stored and decoded.
        """
        streams = self._chunk_streams()
        if streams is None:
            yield from self._cached_blocks(step)
            return
        row_shape, start = self.shape[1:], 0
        row_bytes = math.prod(row_shape) * self.dtype.itemsize
        for stream in streams:
            band = min(self.chunk_rows, self.shape[0] - start)
            for first in range(0, band, step):
                count = min(step, band - first)
                data = stream.read(count * row_bytes)
                if len(data) != count * row_bytes:
                    raise UserError(f"checkpoint leaf {self.path} ends too early: fetch it again")
                yield np.frombuffer(data, self.dtype).reshape(count, *row_shape)
            start += band

    def _chunk_streams(self) -> Iterator[Any] | None:
        """Return a decoding stream for each chunk in order; None where chunks are cut or coded in another way."""
        spec = self._store.spec().to_json()
        meta = spec["metadata"]
        chunks = meta.get("chunks", ())
        plain = (
            (meta.get("compressor") or {}).get("id") == "zstd" and not meta.get("filters") and meta.get("order") == "C"
        )
        if spec["driver"] != "zarr" or not plain or tuple(chunks[1:]) != self.shape[1:] or str(meta["dtype"])[0] == ">":
            return None
        try:
            import pyarrow
        except ImportError:  # it decodes zstd as a stream, tensorstore only whole; slower to fail than to do without
            return None
        store = self._store.kvstore
        names = [".".join([str(i)] + ["0"] * (len(chunks) - 1)) for i in range(-(-self.shape[0] // chunks[0]))]
        if any(store.read(name, byte_range=slice(0, 1)).result().state == "missing" for name in names):
            return None  # a chunk of nothing but the fill value may be left out
        return (_decoded(pyarrow, store, name, self.path) for name in names)

    def _cached_blocks(self, step: int) -> Iterator[np.ndarray]:
        import tensorstore

        band = self.chunk_rows * max(1, math.prod(self.shape[1:])) * self.dtype.itemsize
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": band + band // 8 + 2**20}})
        try:
            store = tensorstore.open(self._store.spec(), context=context, read=True, open=True).result()
        except ValueError as error:
            raise UserError(f"checkpoint leaf {self.path} cannot be opened ({_first(error)}): fetch it again") from None
        for start in range(0, self.shape[0], step):
            yield self._values(store[start : min(start + step, self.shape[0])])

    def _values(self, view: Any) -> np.ndarray:
        try:
            return np.asarray(view.read().result())
        except ValueError as error:
            raise UserError(f"checkpoint leaf {self.path} cannot be read ({_first(error)}): fetch it again") from None


def open_tree(params_dir: str | Path) -> dict[str, Leaf]:
    """List a `params` directory: leaf path such as ``PaliGemma/img/head/kernel`` -> `Leaf`, sorted, nothing read.

    The root key ``params`` is stripped, and a trailing ``/value`` only if every leaf has it (SigLIP attention has
    a module of that name). Raises UserError if the directory holds no Orbax OCDBT tree.
    """
    import tensorstore

    directory = Path(params_dir).resolve()
    if not (directory / "manifest.ocdbt").is_file():
        raise UserError(f"{directory} holds no Orbax tree (no manifest.ocdbt): give the checkpoint's params directory")
    store = {"driver": "ocdbt", "base": f"file://{directory}/"}
    try:
        stored = [key.decode() for key in tensorstore.KvStore.open(store).result().list().result()]
    except ValueError as error:
        raise UserError(f"{directory} is damaged ({_first(error)}): fetch the checkpoint again") from None
    leaves = {}
    for key in sorted(stored):
        place, _, last = key.rpartition("/")
        if last not in _ARRAY_FILES:
            continue
        spec = {"driver": _ARRAY_FILES[last], "kvstore": {**store, "path": place + "/"}}
        try:
            array = tensorstore.open(spec, read=True, open=True).result()
        except ValueError as error:
            raise UserError(f"leaf {place} of {directory} cannot be opened ({_first(error)})") from None
        chunk = array.chunk_layout.read_chunk.shape
        rows = int(chunk[0] or 1) if chunk else 1
        path = place.replace(".", "/")
        leaves[path] = Leaf(path, tuple(array.shape), array.dtype.numpy_dtype, rows, array)
    if not leaves:
        raise UserError(f"{directory} is an Orbax tree without arrays: fetch the checkpoint again")
    return dict(zip(leaf_paths(leaves), leaves.values(), strict=True))


def leaf_paths(stored: Mapping[str, Any]) -> list[str]:
    """Return the canonical leaf paths for stored ones, in the same order (see `open_tree`)."""
    paths = list(stored)
    if all(path.startswith(_ROOT + "/") for path in paths):
        paths = [path.removeprefix(_ROOT + "/") for path in paths]
    if all(path.endswith(_VALUE) for path in paths):
        paths = [path.removesuffix(_VALUE) for path in paths]
    return paths


def iter_leaves(params_dir: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ``(path, array)`` in sorted order, holding one array at a time."""
    for path, leaf in open_tree(params_dir).items():
        yield path, leaf.read()


def read_tree(params_dir: str | Path) -> dict[str, np.ndarray]:
    """Return the whole tree in memory: for small checkpoints and tests."""
    return dict(iter_leaves(params_dir))


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:160]


class _StoredBytes(io.RawIOBase):
    """One stored value as a file that is read in ranges, never whole."""

    def __init__(self, store: Any, key: str, path: str) -> None:
        self._store, self._key, self._path, self._at = store, key, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the value; the store refuses a range beyond the end and does not say where that is."""
        count = len(buffer)
        while count:
            try:
                span = slice(self._at, self._at + count)
                data = self._store.read(self._key, byte_range=span).result().value
            except ValueError as error:
                if "OUT_OF_RANGE" not in str(error):
                    raise UserError(f"checkpoint leaf {self._path} cannot be read ({_first(error)})") from None
                count //= 2
                continue
            buffer[: len(data)] = data
            self._at += len(data)
            return len(data)
        return 0


def _decoded(pyarrow: Any, store: Any, key: str, path: str) -> Any:
    raw = io.BufferedReader(_StoredBytes(store, key, path), _BUFFER_BYTES)
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")
