"""Draft .pt files as trainers leave them: read, or refused in one line; nothing of them is run."""

from __future__ import annotations

import functools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.conftest import G4
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import convert

BIAS, QUERIES = "_action_head.bias", "_action_queries.weight"


@functools.cache
def good() -> dict[str, Any]:
    return torch.load(G4 / "draft.pt", weights_only=True)


def saved(path: Path, head: Any = None, meta: Any = None, **more: Any) -> Path:
    content = {"draft_head": good()["draft_head"] if head is None else head}
    content["meta"] = good()["meta"] if meta is None else meta
    torch.save(content | more, path / "draft.pt")
    return path / "draft.pt"


def changed(name: str, value: Any) -> dict[str, Any]:
    return {**good()["draft_head"], name: value}


def every(function: Any) -> dict[str, Any]:
    return {name: function(value) for name, value in good()["draft_head"].items()}


@pytest.mark.parametrize(
    "content",
    [
        {"head": lambda: every(lambda v: torch.nn.Parameter(v, requires_grad=True))},
        {"head": lambda: OrderedDict(good()["draft_head"])},
        {"head": lambda: every(lambda v: v.double())},
        *(
            {"head": lambda p=p: {p + n: v for n, v in good()["draft_head"].items()}}
            for p in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")
        ),
        {"optimizer": lambda: {"state": {}, "param_groups": [{"lr": 1e-4}]}},
        {"meta": lambda: {**good()["meta"], "draft_num_heads": "4"}},
        {"meta": lambda: {**good()["meta"], "draft_num_heads": 4.0}},
    ],
    ids=[
        "parameters",
        "ordered",
        "double",
        "ddp",
        "compiled",
        "both",
        "both_turned",
        "optimizer",
        "number_as_text",
        "whole_float",
    ],
)
def test_what_trainers_save_beside_or_around_the_tensors_does_not_matter(tmp_path, content) -> None:
    path = saved(tmp_path, **{key: make() for key, make in content.items()})
    tensors, dims = convert.draft_tensors(path)
    expected, own = convert.draft_tensors(G4 / "draft.pt")
    assert dims == own and all(np.array_equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"meta": [1, 2]}, "its meta is a list, not names with numbers"),
        ({"meta": "x"}, "its meta is a str"),
        ({"meta": torch.zeros(3)}, "its meta is a Tensor, not names with numbers"),
        ({"meta": []}, "its meta is a list"),
        *(({"meta": {"draft_num_heads": x}}, "draft_num_heads is ") for x in ("4x", "", -4, 0, True, 4.5, [4], 10**9)),
        ({"meta": {"draft_num_heads": float("nan")}}, "draft_num_heads is nan, not a number of at least 1"),
        ({"meta": {"draft_num_kv_heads": 100}}, "draft_head_dim is 0"),
        ({"head": {}}, "missing"),
        ({"head": {"state_dict": {BIAS: torch.zeros(7)}}}, "holds no draft_head of tensors"),
        ({"head": {1: torch.zeros(7)}}, "is not a draft of the known layout: missing"),
        ({"head": {1: torch.zeros(7)}}, "unexpected 1"),
        ({"head": {f"{3 * 'module.'}{BIAS}": torch.zeros(7)}}, f"unexpected module.{BIAS}"),
        ({"head": {BIAS: torch.zeros(7)}}, "missing"),
        ({"head": {BIAS: np.zeros(7).tolist()}}, "holds no draft_head of tensors"),
    ],
)
def test_what_is_no_draft_is_one_line(tmp_path, content, words) -> None:
    with pytest.raises(UserError) as caught:
        convert.draft_tensors(saved(tmp_path, **content))
    assert words in str(caught.value) and str(tmp_path / "draft.pt") in str(caught.value)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_draft_of_which_only_some_names_have_a_prefix_is_named_as_that(tmp_path, prefix) -> None:
    """Two state_dicts in one; it is a draft, and never was a pi0 tree."""
    head = {prefix * (name != BIAS) + name: value for name, value in good()["draft_head"].items()}
    with pytest.raises(UserError) as caught:
        convert.draft_tensors(saved(tmp_path, head))
    said, first = str(caught.value), prefix.partition(".")[0]
    assert f"{len(head) - 1} of its {len(head)} tensors have the prefix {first}. ({prefix}" in said
    assert f"the others do not ({BIAS}): save draft_head from one state_dict" in said and "pi0" not in said


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(7, dtype=torch.int64), "holds int64: save it as float32"),
        (torch.zeros(7, dtype=torch.complex64), "holds complex64"),
        (torch.zeros(7, dtype=torch.bool), "holds bool"),
        (torch.zeros(7).to_sparse(), "has a sparse_coo layout: save a dense tensor"),
        (torch.zeros(7, device="meta"), "has no values"),
        (torch.zeros(1).expand(7), "has more values than the file holds for it"),
        (torch.zeros(1).expand(2**50), "has more values than the file holds for it"),
        (torch.zeros(()), "expected 1 axes"),
        (torch.zeros(0), "the other tensors and the meta imply"),
        (torch.zeros(7, 7), "expected 1 axes"),
    ],
)
def test_a_tensor_that_is_no_weight_is_named(tmp_path, value, words) -> None:
    with pytest.raises(UserError, match=BIAS) as caught:
        convert.draft_tensors(saved(tmp_path, changed(BIAS, value)))
    assert words in str(caught.value)


def test_a_reader_of_a_damaged_pickle_may_fail_as_it_likes(tmp_path) -> None:
    whole = (G4 / "draft.pt").read_bytes()
    path = tmp_path / "draft.pt"
    for content in (
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n",
        b"\x80\x04.",
        whole[:-1],
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"draft\.pt"):
            convert.draft_tensors(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n")
    with pytest.raises(UserError, match=r"is a Git LFS pointer, not the file itself"):
        convert.draft_tensors(path)
    with pytest.raises(UserError, match=r"truncated or not a PyTorch file"):
        convert.draft_tensors(tmp_path)


_ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=3),
    st.sampled_from([torch.float16, torch.int8, torch.complex64]).map(lambda dtype: torch.zeros(3, dtype=dtype)),
    st.lists(st.integers(0, 4), max_size=3).map(torch.zeros),
)  # fmt: skip
_KEYS = ["draft_num_heads", "draft_num_kv_heads", "draft_head_dim"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_trainer_saved_it_is_read_or_one_line(tmp_path, data) -> None:
    head, meta = dict(good()["draft_head"]), dict(good()["meta"])
    content = {"draft_head": head, "meta": meta}
    for _ in range(data.draw(st.integers(1, 3))):
        place = {"content": content, "head": head, "meta": meta}[
            data.draw(st.sampled_from(["content", "head", "meta"]))
        ]
        key = data.draw(st.sampled_from([*sorted(place), *_KEYS, "other"]))
        if data.draw(st.booleans()):
            place.pop(key, None)
        else:
            place[key] = data.draw(_ODD)
    torch.save(content, tmp_path / "draft.pt")
    raw = bytearray((tmp_path / "draft.pt").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=2)):
        raw[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "draft.pt").write_bytes(raw)
    try:
        convert.draft_tensors(tmp_path / "draft.pt")
    except UserError as error:
        assert "\n" not in str(error)
