"""Reads an openpi Orbax parameter tree leaf by leaf, in pieces, without restoring it whole.

Goes through tensorstore's OCDBT key-value store, so neither `_CHECKPOINT_METADATA` (absent from the released
checkpoint) nor a device mesh is needed. Knows leaf paths and arrays; deliberately not what any leaf means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.errors import UserError

_ROOT = "params"
_VALUE = "/value"
_ARRAY_FILES = {".zarray": "zarr", "zarr.json": "zarr3"}


@dataclass(frozen=True)
class Leaf:
    """One stored array: shape and dtype at hand, its values read only on demand.

    `chunk_rows` is the extent of a stored chunk along the first axis: reading fewer rows at a time would decode
    the same chunk again.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunk_rows: int
    _store: Any

    def read(self) -> np.ndarray:
        """Return the whole array."""
        return self._values(self._store)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return ``[start:stop]`` along the first axis."""
        return self._values(self._store[start:stop])

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
