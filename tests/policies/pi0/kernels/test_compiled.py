"""The kernels compiled for cards that are not here, and what no captured program may do; no device and no timing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest
import torch

from flashtrail.base.errors import UserError
from flashtrail.benchmark import compilation
from flashtrail.benchmark.compilation import CARDS, Resources, StandIn, Watched, launches_of
from flashtrail.policies.pi0.dims import PRESETS
from flashtrail.policies.pi0.kernels import attention, decide, products, rows

L40S, H200 = CARDS["L40S"], CARDS["H200"]


def command(tmp_path, *words):
    """The command in a process of its own, where Triton does not interpret -> its record and what it printed."""
    record = tmp_path / "kernels.json"
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    words = [*words, "--policy", "pi0_libero", "--views", "1", "--together", "1", "--json", str(record)]
    ran = subprocess.run(
        [sys.executable, "-m", "flashtrail.benchmark", "compile", *words], env=clean, capture_output=True, text=True
    )
    assert record.exists(), ran.stderr
    return ran.returncode, json.loads(record.read_text())["compiled"][0]["kernels"], ran.stdout


@pytest.mark.slow
def test_the_hot_kernels_compile_for_an_h200_in_bfloat16(tmp_path):
    names = ("norm_gated", "linear_residual", "norm_qkv_rope")
    code, kernels, printed = command(
        tmp_path, "--card", "H200", "--dtype", "bfloat16", *(w for n in names for w in ("--kernel", n))
    )
    assert code == 0 and "0 faults" in printed
    assert {one["kernel"] for one in kernels} == set(names)
    for one in kernels:
        found = one["resources"]
        assert found["spilled"] == 0 and found["shared"] <= H200.shared
        assert any(name.startswith("HGMMA") for name in found["instructions"]), one
        # Weights and rows go to shared memory 16 bytes a thread, and nothing narrower is copied.
        copies = {name: n for name, n in found["instructions"].items() if name.startswith("LDGSTS")}
        assert sum(copies.values()) >= 16 and all(".128" in name for name in copies), one


@pytest.mark.slow
def test_float32_compiles_for_an_l40s_without_tf32(tmp_path):
    """The tightest case: numbers of twice the size in less than half the memory, no matrix instructions."""
    names = ("two_part", "linear_residual", "embed_actions")
    code, kernels, printed = command(
        tmp_path, "--card", "L40S", "--dtype", "float32", *(w for n in names for w in ("--kernel", n))
    )
    assert code == 0 and "0 faults" in printed, printed
    for one in kernels:
        found = one["resources"]
        assert found["spilled"] == 0 and found["shared"] <= L40S.shared, one
        assert not any(name.startswith(compilation.MATRIX) for name in found["instructions"]), one
        assert found["dots"] and set(found["dots"]) == {"f32 ieee"}


@pytest.mark.parametrize("name", ["pi0_libero", "pi0_nano"])
def test_no_program_does_what_a_capture_refuses(name):
    """Every body of warm-up, over meta tensors: no host memory, no wait for a number, no random draw."""
    script = f"""
from flashtrail.benchmark.compilation import CARDS, launches_of, thin
from flashtrail.policies.pi0.dims import PRESETS
dims = PRESETS[{name!r}]
launches, forbidden = launches_of(CARDS["H200"], thin(dims), "bfloat16", 2)
assert not forbidden, forbidden
print(*sorted({{one.kernel for one in launches.values()}}))
if {name!r} == "pi0_nano":  # two layers and two steps stand for all
    assert set(launches_of(CARDS["H200"], dims, "bfloat16", 2)[0]) == set(launches)
"""
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", script], env=clean, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    if name == "pi0_libero":  # every kernel there is
        names = [n for module in (attention, decide, products, rows) for n in vars(module)]
        assert set(ran.stdout.split()) == {n.removesuffix("_kernel") for n in names if n.endswith("_kernel")}


@pytest.mark.parametrize(("body", "why"), [
    (lambda x: x.nonzero(), "shape the host must wait for"),
    (lambda x: x.sum().item(), "waits for a number"),
    (lambda x: x[x > 0], "shape the host must wait for"),
    (lambda x: x.repeat_interleave(torch.ones(3, dtype=torch.int64, device="meta")), "the host must wait for"),
    (lambda x: torch.randn(3, device="meta"), "random"),
    (lambda x: x.copy_(torch.ones(3)), "host memory"),
    (lambda x: torch.add(x, torch.tensor([1.0, 2.0, 3.0]).to("meta")), "host memory"),
])  # fmt: skip
@torch.inference_mode()
def test_what_a_capture_refuses_is_found(body, why):
    recorder = Watched()
    with contextlib.suppress(NotImplementedError, RuntimeError):  # some have no answer without data
        recorder.record(lambda: body(torch.ones(3, device="meta")))()
    assert any(why in found for found in recorder.forbidden), recorder.forbidden


@torch.inference_mode()
def test_what_a_capture_takes_is_not_found():
    recorder = Watched()
    x, at = torch.ones(3, 4, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta")
    recorder.record(lambda: x[at] @ x.T * 2.0 + torch.tensor(1.0))()
    assert not recorder.forbidden


def test_the_interpreter_has_nothing_to_compile(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(UserError, match="TRITON_INTERPRET=1 is set"):
        launches_of(L40S, PRESETS["pi0_nano"], "float32")


def test_a_stand_in_lies_where_its_view_lies():
    whole = torch.empty(4, 10, dtype=torch.bfloat16, device="meta")
    assert [StandIn(whole[i]).data_ptr() % 16 for i in range(3)] == [0, 4, 8]
    assert compilation.ALIGNED % 16 == 0


def resources(**changed):
    plain = {"registers": 96, "spilled": 0, "shared": 64 << 10, "scratch": 0, "dots": ["bf16 ieee"]}
    return Resources(**plain | {"instructions": {"HMMA.16816.F32.BF16": 8, "LDGSTS.E.128": 8}} | changed)


def test_faults_are_named():
    assert resources().faults(L40S) == []
    assert "120 KiB of shared memory, L40S has 99" in resources(shared=120 << 10).faults(L40S)[0]
    assert resources(shared=120 << 10).faults(H200) == []
    assert resources(spilled=16).faults(L40S) == ["spills 16 bytes"]
    assert "without matrix instructions" in resources(instructions={"LDGSTS.E.128": 8}).faults(L40S)[0]
    assert resources(instructions={"LDGSTS.E.128": 8}, dots=["f32 ieee"]).faults(L40S) == []
    assert "tf32" in resources(instructions={"LDGSTS.E.128": 8}, dots=["f32 tf32"]).faults(L40S)[0]
    assert "types could not be read" in resources(dots=["bf16 ieee", "? ieee"]).faults(L40S)[0]
    assert "scratch memory" in resources(scratch=128).faults(L40S)[0]


def test_the_compilers_text_is_read_rightly():
    dots = """
      %a = tt.dot %b, %c, %d, inputPrecision = tf32 : tensor<64x32xf32, #x> * tensor<32x16xf32, #y> -> tensor<64x16xf32>
      %e = ttng.warp_group_dot %f, %g, %h : !ttg.memdesc<64x128xbf16, #s, #smem> * !ttg.memdesc<128x16xbf16, #s>
      %i = ttng.warp_group_dot_wait %e {pendings = 0 : i32} : tensor<64x16xf32, #mma>
    """
    assert compilation.products(dots) == ["f32 tf32", "bf16 ieee"]
