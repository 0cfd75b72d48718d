"""Reads pickles of PyTorch tensors without running them and without holding them.

A tensor is an offset in the file, read on demand; nothing that the file names is called. Only tensors and plain
containers are accepted, anything else is refused by its name.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from flashtrail.base.errors import UserError

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch's storages inside a plain pickle
_HEADER_BYTES = 16 * 1024
_STORAGES = {
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "HalfStorage": np.dtype(np.float16),
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "BoolStorage": np.dtype(np.bool_),
}
_PLAIN = (str, int, float, bool, type(None))


class _Refused(Exception):
    """The file names something that is neither a tensor nor a plain container."""


@dataclass(frozen=True)
class Blob:
    """Bytes of a pickle that were left in their file."""

    path: Path
    start: int
    size: int

    def read(self, offset: int, count: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start + offset)
            return file.read(count)


@dataclass(frozen=True)
class _Storage:
    number: np.dtype
    count: int
    start: int  # of the values, within the blob
    blob: Blob | bytes

    def values(self, first: int, count: int) -> np.ndarray:
        start, size = self.start + first * self.number.itemsize, count * self.number.itemsize
        data = self.blob[start : start + size] if isinstance(self.blob, bytes) else self.blob.read(start, size)
        return np.frombuffer(data, self.number)


@dataclass(frozen=True)
class Tensor:
    """A tensor in the file: its shape and dtype, values on demand."""

    shape: tuple[int, ...]
    dtype: np.dtype
    _storage: _Storage
    _offset: int
    _strides: tuple[int, ...]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop of the first axis."""
        shape = (stop - start, *self.shape[1:])
        first = self._offset + start * self._strides[0]
        if self._strides == _contiguous(self.shape):
            return self._storage.values(first, math.prod(shape)).reshape(shape)
        span = 1 + sum((n - 1) * s for n, s in zip(shape, self._strides, strict=True))
        flat = self._storage.values(first, span)
        size = self.dtype.itemsize
        return np.lib.stride_tricks.as_strided(flat, shape, [s * size for s in self._strides]).copy()

    def read(self) -> np.ndarray:
        """Return the whole tensor."""
        return self.rows(0, self.shape[0]) if self.shape else self._storage.values(self._offset, 1).reshape(())


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def load(path: str | Path) -> Any:
    """Read a pickle of plain containers, numbers, text and torch tensors; tensors come as `Tensor`.

    Raises UserError naming what else the file holds, or that it is truncated or not a pickle.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _Reader(file, path).load()
        _check_plain(content)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except _Refused as refused:
        raise UserError(f"{path} holds {refused}, not only tensors and plain containers: it is not loaded") from None
    except Exception as error:  # opcodes in a wrong order raise nearly anything
        line = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UserError(f"{path} is truncated or not a pickle of tensors ({line}): fetch it again") from None
    return content


def _check_plain(content: Any) -> None:
    """Refuse what the grammar of pickle lets through: our own callables, blobs and storages as values.

    Each container is looked at once, however often it is referred to: a few bytes can refer to one a billion times.
    """
    seen: set[int] = set()
    left = [content]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            inside = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            inside = list(value)
        elif isinstance(value, (Tensor, *_PLAIN)):
            continue
        else:
            raise _Refused(f"a value of type {type(value).__name__}")
        left += inside


class _Reader(pickle._Unpickler):
    """The pure-Python unpickler (so that opcodes can be overridden), with large bytes left in the file."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        super().__init__(file)
        self._source, self._path, self._size = file, path, path.stat().st_size
        self._file_read = self._bounded  # a damaged length must not reserve memory

    def _bounded(self, count: int) -> bytes:
        if count > self._size - self._source.tell():
            raise EOFError(f"{count} bytes announced at {self._source.tell()} of {self._size}")
        return self._source.read(count)

    def find_class(self, module: str, name: str) -> Any:
        """Return our own stand-in for what a tensor's pickle names; refuse every other name."""
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch.storage", "_load_from_bytes"): _storage,
            ("collections", "OrderedDict"): OrderedDict,
            ("builtins", "set"): set,
            ("builtins", "frozenset"): frozenset,
            ("torch", "Size"): tuple,
        }
        if (module, name) not in allowed:
            raise _Refused(f"{module}.{name}")
        return allowed[module, name]

    def get_extension(self, code: int) -> Any:
        raise _Refused(f"extension {code}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a persistent id")

    def load_bytearray8(self) -> None:
        raise _Refused("a bytearray")

    def load_build(self) -> None:
        raise _Refused("the state of an object")

    def _load_bytes(self, length: str) -> None:
        (count,) = struct.unpack(length, self.read(struct.calcsize(length)))  # type: ignore[attr-defined]
        if self._unframer.current_frame is not None:  # type: ignore[attr-defined]
            self.append(self.read(count))  # type: ignore[attr-defined]
            return
        start = self._source.tell()
        if start + count > self._size:
            raise EOFError(f"{count} bytes announced at {start} of {self._size}")
        self._source.seek(count, os.SEEK_CUR)
        self.append(Blob(self._path, start, count))  # type: ignore[attr-defined]

    def load_binbytes(self) -> None:
        self._load_bytes("<I")

    def load_binbytes8(self) -> None:
        self._load_bytes("<Q")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.BINBYTES[0]] = load_binbytes
    dispatch[pickle.BINBYTES8[0]] = load_binbytes8


class _StorageHeader(pickle.Unpickler):
    """The pickles that precede a storage's values: numbers, a dict and the storage's type, number and place."""

    def find_class(self, module: str, name: str) -> Any:
        if module != "torch" or name not in _STORAGES:
            raise _Refused(f"{module}.{name}")
        return _STORAGES[name]

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _storage(blob: Any) -> _Storage:
    if not isinstance(blob, Blob | bytes):
        raise _Refused("a storage that is not bytes")
    head = blob[:_HEADER_BYTES] if isinstance(blob, bytes) else blob.read(0, min(blob.size, _HEADER_BYTES))
    stream = io.BytesIO(head)
    magic, protocol, machine, described, keys = (_StorageHeader(stream).load() for _ in range(5))
    kind, number, key, _, count, view = described
    if (magic, protocol, kind, keys) != (_MAGIC, _PROTOCOL, "storage", [key]) or view is not None:
        raise _Refused("a storage of unknown layout")
    if not machine["little_endian"] or int.from_bytes(stream.read(8), "little") != count:
        raise _Refused("a storage of unknown layout")
    size = len(blob) if isinstance(blob, bytes) else blob.size
    if count < 0 or stream.tell() + count * number.itemsize > size:
        raise EOFError("a storage ends too early")
    return _Storage(number, count, stream.tell(), blob)


def _tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, _Storage):
        raise _Refused("a tensor that is not stored")
    shape, strides = tuple(map(int, shape)), tuple(map(int, strides))
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or (0 not in shape and last >= storage.count):
        raise EOFError("a tensor reaches beyond its storage")
    return Tensor(shape, storage.number, storage, offset, strides)
