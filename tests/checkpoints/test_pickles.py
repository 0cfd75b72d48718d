"""Pickles of tensors: what torch writes is read, and nothing else gets in."""

from __future__ import annotations

import datetime
import os
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import pickles


def written(path: Path, content: Any, protocol: int = 4) -> Path:
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=protocol)
    return path


def as_numpy(x: torch.Tensor) -> np.ndarray:
    return x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


base = torch.randn(60, 700, generator=torch.Generator().manual_seed(0))
TENSORS = {
    "large": base,
    "bfloat16": base.bfloat16(),
    "small": torch.arange(6.0).reshape(2, 3),
    "number": torch.tensor(3, dtype=torch.int64),
    "half": torch.ones(3, dtype=torch.float16),
    "rows of another": base[7:9],
    "transposed": base.T,
    "every other": base[::2, 1::3],
    "spread": torch.ones(1, 5).expand(4, 5),
    "empty": torch.zeros(0, 4),
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_what_torch_pickles_is_read(tmp_path: Path, protocol: int) -> None:
    content = {**TENSORS, "meta": {"a": [1, 2.5, None, "x", True], "b": (1, {"c": set()})}}
    found = pickles.load(written(tmp_path / "a.pkl", content, protocol))
    assert found["meta"] == content["meta"]
    for name, tensor in TENSORS.items():
        assert found[name].shape == tuple(tensor.shape)
        assert np.array_equal(found[name].read(), as_numpy(tensor.contiguous())), name
    assert np.array_equal(found["transposed"].rows(3, 5), base.T[3:5].numpy())


def test_large_tensors_stay_in_the_file(tmp_path: Path) -> None:
    found = pickles.load(written(tmp_path / "a.pkl", {"x": base}))["x"]
    assert isinstance(found._storage.blob, pickles.Blob)
    (tmp_path / "a.pkl").unlink()
    with pytest.raises(FileNotFoundError):
        found.read()


class Calls:
    """Unpickling this would make a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (np.ones(3), r"numpy\.\S+"),
        (torch.nn.Parameter(torch.ones(2)), r"torch\._utils\._rebuild_parameter"),
        (torch.float32, r"torch\.float32"),
        (torch.device("cpu"), r"torch\.device"),
        (PurePosixPath("a"), r"pathlib\.PurePosixPath"),
        (datetime.date(2024, 1, 1), r"datetime\.date"),
        (print, r"\S+\.print"),
        (torch._utils._rebuild_tensor_v2, "a value of type function"),
        (base.untyped_storage(), r"torch\.\S+"),
        (b"bytes", "a value of type bytes"),
        (b"b" * 100_000, "a value of type Blob"),
        (1j, r"builtins\.complex"),
    ],
)
@pytest.mark.parametrize("place", ["value", "list"])
def test_anything_else_is_refused_by_its_name(tmp_path: Path, content: Any, name: str, place: str) -> None:
    path = written(tmp_path / "a.pkl", {"x": base, "y": content if place == "value" else [content]})
    with pytest.raises(UserError, match=rf"a\.pkl holds {name}, not only tensors") as caught:
        pickles.load(path)
    assert "\n" not in str(caught.value)


def test_nothing_is_called(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pkl", {"x": Calls(tmp_path / "made")})
    with pytest.raises(UserError, match=r"holds (posix|nt)\.mkdir"):
        pickles.load(path)
    assert not (tmp_path / "made").exists()


def test_a_storage_that_hides_a_call_is_refused(tmp_path: Path) -> None:
    """torch's own loader of storages is a full unpickler; a call inside the inner pickle must not run either."""
    inner = pickle.dumps(Calls(tmp_path / "made"), protocol=2)

    class Hidden:
        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (inner,)

    with pytest.raises(UserError, match=r"holds (posix|nt)\.mkdir"):
        pickles.load(written(tmp_path / "a.pkl", {"x": Hidden()}))
    assert not (tmp_path / "made").exists()


def test_containers_that_refer_to_one_another_are_looked_at_once(tmp_path: Path) -> None:
    """Forty levels of two references to the level below: a trillion visits for one who follows each."""
    laughs: Any = ["a"]
    for _ in range(40):
        laughs = [laughs, laughs]
    assert pickles.load(written(tmp_path / "a.pkl", laughs))[0][1][0] is not None
    ring: dict[str, Any] = {"x": base}
    ring["itself"] = ring
    assert pickles.load(written(tmp_path / "b.pkl", ring))["itself"]["x"].shape == tuple(base.shape)
    with pytest.raises(UserError, match="holds a value of type bytes"):
        pickles.load(written(tmp_path / "c.pkl", [laughs, {"deep": (1, [b"bytes"])}]))


def test_every_truncation_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pkl", {"large": base, "small": torch.ones(3)})
    whole = path.read_bytes()
    cuts = sorted({*range(0, 400, 7), *range(len(whole) - 700, len(whole), 7), len(whole) // 2})
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="truncated or not a pickle") as caught:
            pickles.load(path)
        assert "\n" not in str(caught.value)


def test_bytes_changed_anywhere_never_do_worse(tmp_path: Path) -> None:
    """A changed byte gives values, or a UserError; no other exception leaves the reader."""
    path = written(tmp_path / "a.pkl", {"x": torch.ones(3), "meta": {"a": [1, "b"]}})
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(600):
        changed = bytearray(whole)
        changed[int(rng.integers(len(whole)))] = int(rng.integers(256))
        path.write_bytes(bytes(changed))
        try:
            pickles.load(path)
        except UserError:
            continue


def test_a_container_is_looked_into_once_however_wide_the_references() -> None:
    class Looked(list):  # type: ignore[type-arg]
        times = 0

        def __iter__(self):
            Looked.times += 1
            return super().__iter__()

    shared = Looked([1.0, 2.0])
    pickles._check_plain([shared] * 50 + [[shared, shared], {"again": shared}])
    assert Looked.times == 1
