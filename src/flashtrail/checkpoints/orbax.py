"""Reads an openpi Orbax parameter tree leaf by leaf, in pieces, without restoring it whole.

Goes through tensorstore, OCDBT's key-value store or a directory a leaf (as Orbax saved before it), so neither
`_CHECKPOINT_METADATA` (absent from the released checkpoint) nor a device mesh is needed.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base.errors import UserError

AGAIN = "the source is damaged or incomplete: complete it and fetch it again"
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

        Chunks that are coded as Orbax codes them are decoded as streams, side by side where a leaf is cut across its
        other axes (sharded saves): memory is a block and a buffer. Else a chunk is decoded once and kept until its
        rows are through: memory peaks at one band of chunks, as stored and decoded.
        """
        grid = self._grid()
        if grid is None:
            yield from self._cached_blocks(step)
            return
        for band in range(0, self.shape[0], grid.shape[0]):
            streams = [(at, grid.open(at)) for at in grid.chunks_of(band // grid.shape[0], self.shape)]
            rows = min(grid.shape[0], self.shape[0] - band)
            for first in range(0, rows, step):
                yield self._gather(grid, streams, min(step, rows - first))

    def _gather(self, grid: _Grid, streams: list[tuple[tuple[int, ...], Any]], count: int) -> np.ndarray:
        """Read the next `count` rows of every chunk of a band and lay them side by side."""
        row = grid.shape[1:]
        size = count * math.prod(row) * self.dtype.itemsize
        out = None if row == self.shape[1:] else np.empty((count, *self.shape[1:]), self.dtype)
        for at, stream in streams:
            try:
                data = stream.read(size)
            except OSError as error:  # pyarrow's, for a zstd frame that is cut off or damaged
                raise UserError(f"checkpoint leaf {self.path} cannot be decoded ({_first(error)}): {AGAIN}") from None
            if len(data) != size:
                raise UserError(f"checkpoint leaf {self.path} ends too early: {AGAIN}")
            part = np.frombuffer(data, self.dtype).reshape(count, *row)
            if out is None:
                return part
            window = tuple(
                slice(i * n, min((i + 1) * n, end)) for i, n, end in zip(at[1:], row, out.shape[1:], strict=True)
            )
            out[:, *window] = part[:, *(slice(0, s.stop - s.start) for s in window)]  # edge chunks are padded
        assert out is not None
        return out

    def _grid(self) -> _Grid | None:
        """Return how the leaf is cut, if its chunks are plain zstd streams and all are there; else None."""
        spec = self._store.spec().to_json()
        layout = _layout_v2(spec["metadata"]) if spec["driver"] == "zarr" else _layout_v3(spec["metadata"])
        try:
            import pyarrow
        except ImportError:  # it decodes zstd as a stream, tensorstore only whole; slower to fail than to do without
            return None
        if layout is None or not layout[0] or self.dtype.byteorder == ">":
            return None
        shape, name = layout
        grid = _Grid(shape, name, self._store.kvstore, pyarrow, self.path)
        for band in range(-(-self.shape[0] // shape[0])):
            for at in grid.chunks_of(band, self.shape):
                if self._is_missing(grid, name(at)):
                    return None  # a chunk of nothing but the fill value may be left out
        return grid

    def _is_missing(self, grid: _Grid, key: str) -> bool:
        try:
            return bool(grid.store.read(key, byte_range=slice(0, 1)).result().state == "missing")
        except ValueError as error:
            raise UserError(f"checkpoint leaf {self.path} cannot be read ({_first(error)}): {AGAIN}") from None

    def _cached_blocks(self, step: int) -> Iterator[np.ndarray]:
        import tensorstore

        band = self.chunk_rows * max(1, math.prod(self.shape[1:])) * self.dtype.itemsize
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": band + band // 8 + 2**20}})
        try:
            store = tensorstore.open(self._store.spec(), context=context, read=True, open=True).result()
        except ValueError as error:
            raise UserError(f"checkpoint leaf {self.path} cannot be opened ({_first(error)}): {AGAIN}") from None
        for start in range(0, self.shape[0], step):
            yield self._values(store[start : min(start + step, self.shape[0])])

    def _values(self, view: Any) -> np.ndarray:
        try:
            return np.asarray(view.read().result())
        except ValueError as error:
            raise UserError(f"checkpoint leaf {self.path} cannot be read ({_first(error)}): {AGAIN}") from None


def open_tree(params_dir: str | Path) -> dict[str, Leaf]:
    """List a `params` directory: leaf path such as ``PaliGemma/img/head/kernel`` -> `Leaf`, sorted, nothing read.

    The root key ``params`` is stripped, and a trailing ``/value`` only if every leaf has it (SigLIP attention has
    a module of that name). Raises UserError if the directory holds no Orbax tree.
    """
    import tensorstore

    directory = Path(params_dir).resolve()
    ocdbt = (directory / "manifest.ocdbt").is_file()
    if not ocdbt and not any(path for name in _ARRAY_FILES for path in directory.glob("*/" + name)):
        raise UserError(f"{directory} holds no Orbax tree (no manifest.ocdbt): give the checkpoint's params directory")
    files: dict[str, Any] = {"driver": "file", "path": f"{directory}/"}
    store: dict[str, Any] = {"driver": "ocdbt", "base": files} if ocdbt else files
    try:
        stored = [key.decode() for key in tensorstore.KvStore.open(store).result().list().result()]
    except ValueError as error:
        raise UserError(f"{directory} is damaged ({_first(error)}): {AGAIN}") from None
    leaves = {}
    for key in sorted(stored):
        place, _, last = key.rpartition("/")
        if last not in _ARRAY_FILES:
            continue
        spec = {"driver": _ARRAY_FILES[last], "kvstore": {**store, "path": f"{store.get('path', '')}{place}/"}}
        try:
            array = tensorstore.open(spec, read=True, open=True).result()
        except ValueError as error:
            raise UserError(f"leaf {place} of {directory} cannot be opened ({_first(error)}): {AGAIN}") from None
        chunk = array.chunk_layout.read_chunk.shape
        rows = int(chunk[0] or 1) if chunk else 1
        path = place.replace(".", "/")
        leaves[path] = Leaf(path, tuple(array.shape), array.dtype.numpy_dtype, rows, array)
    if not leaves:
        raise UserError(f"{directory} is an Orbax tree without arrays: {AGAIN}")
    return dict(zip(leaf_paths(leaves), leaves.values(), strict=True))


def leaf_paths(stored: Mapping[str, Any]) -> list[str]:
    """Return the canonical leaf paths for stored ones, in the same order (see `open_tree`)."""
    paths = list(stored)
    if all(path.startswith(_ROOT + "/") for path in paths):
        paths = [path.removeprefix(_ROOT + "/") for path in paths]
    if all(path.endswith(_VALUE) for path in paths):
        paths = [path.removesuffix(_VALUE) for path in paths]
    return paths


def partly_marked(stored: Iterable[str]) -> tuple[str, ...]:
    """Return a leaf with and one without the root or the suffix that `leaf_paths` takes off, where only some have it.

    Such a tree is put together from two: what its leaves are called, and so what they tell, cannot be known.
    """
    paths = sorted(stored)
    for has in (lambda path: path.startswith(_ROOT + "/"), lambda path: path.endswith(_VALUE)):
        marked, plain = next(filter(has, paths), None), next((path for path in paths if not has(path)), None)
        if marked is not None and plain is not None:
            return marked, plain
    return ()


def read_tree(params_dir: str | Path) -> dict[str, np.ndarray]:
    """Return the whole tree in memory: for small checkpoints and tests."""
    return {path: leaf.read() for path, leaf in open_tree(params_dir).items()}


def _first(error: Exception) -> str:
    """Return the first line of what TensorStore says, without the places in its own source."""
    return str(error).splitlines()[0].partition(" [source locations")[0]


@dataclass(frozen=True)
class _Grid:
    """How a leaf is cut: the chunks' shape, the key of each, and where they are stored."""

    shape: tuple[int, ...]
    name: Callable[[tuple[int, ...]], str]
    store: Any
    pyarrow: Any
    path: str

    def chunks_of(self, band: int, whole: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Indices of the chunks that hold the same rows of an array of shape `whole`."""
        counts = [range(-(-n // c)) for n, c in zip(whole[1:], self.shape[1:], strict=True)]
        return [(band, *at) for at in itertools.product(*counts)]

    def open(self, at: tuple[int, ...]) -> Any:
        """Return one chunk's decoded bytes as a stream."""
        raw = io.BufferedReader(_StoredBytes(self.store, self.name(at), self.path), _BUFFER_BYTES)
        return self.pyarrow.CompressedInputStream(self.pyarrow.PythonFile(raw, mode="r"), "zstd")


_Layout = tuple[tuple[int, ...], Callable[[tuple[int, ...]], str]]


def _layout_v2(meta: Mapping[str, Any]) -> _Layout | None:
    """Chunk shape and keys of a zarr array whose chunks are rows of little-endian numbers in one zstd frame."""
    if (meta.get("compressor") or {}).get("id") != "zstd" or meta.get("filters") or meta.get("order") != "C":
        return None
    separator = meta.get("dimension_separator", ".")
    return tuple(meta["chunks"]), lambda at: separator.join(map(str, at))


def _layout_v3(meta: Mapping[str, Any]) -> _Layout | None:
    """The same for zarr 3: no sharding, and no codecs but bytes and zstd."""
    codecs = [(codec["name"], codec.get("configuration", {})) for codec in meta.get("codecs", ())]
    keys, grid = meta.get("chunk_key_encoding", {}), meta.get("chunk_grid", {})
    if [name for name, _ in codecs] != ["bytes", "zstd"] or codecs[0][1].get("endian", "little") != "little":
        return None
    if keys.get("name") != "default" or grid.get("name") != "regular":
        return None
    separator = keys.get("configuration", {}).get("separator", "/")
    return tuple(grid["configuration"]["chunk_shape"]), lambda at: separator.join(("c", *map(str, at)))


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
                    raise UserError(f"checkpoint leaf {self._path} cannot be read ({_first(error)}): {AGAIN}") from None
                count //= 2
                continue
            buffer[: len(data)] = data
            self._at += len(data)
            return len(data)
        return 0
