"""Eight-bit products against the precision page: what is rounded, and that the verdict follows the errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flashtrail.benchmark import fp8
from flashtrail.checkpoints import artifact

ROOT = Path(__file__).parents[2]
ORIGIN = {"uri": "resources/pi0_nano", "class": "MATCH_FLASH_PI0_LIBERO_JAX", "digest": "d" * 16}


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root, source = tmp_path_factory.mktemp("nano"), ROOT / "resources/pi0_nano"
    artifact.convert_base(source, root / "base", "float32", ORIGIN)
    artifact.convert_draft(source / "draft.pt", root / "draft", "float32", root / "base", ORIGIN)
    return root / "base", root / "draft"


def test_e4m3_keeps_four_significant_bits_under_each_rows_scale() -> None:
    x = (
        torch.from_numpy(np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32))
        * torch.logspace(-6, 6, 64)[:, None]
    )
    rounded = fp8.to_e4m3(x, -1)
    largest = x.abs().amax(-1, keepdim=True)
    torch.testing.assert_close(rounded.abs().amax(-1, keepdim=True), largest)  # the largest of a row is exact
    normal = x.abs() > largest * 2.0**-14
    relative = ((rounded - x).abs() / x.abs())[normal]
    assert 0.05 < relative.max() <= 2.0**-4 + 1e-6
    assert (fp8.to_bfloat16(x) - x).abs().div(x.abs()).max() <= 2.0**-8
    assert not fp8.to_e4m3(torch.zeros(2, 2), 0).any()


def test_only_large_products_are_rounded() -> None:
    rows, large, small = torch.randn(5, 96), torch.randn(96, 64), torch.randn(96, 32)
    with fp8.Rounded(fp8.FORMATS[-1]) as mode:
        wrong, right, between_rows = rows @ large, rows @ small, rows[None] @ large[None]
    assert mode.count == 1
    torch.testing.assert_close(wrong, fp8.to_e4m3(rows, -1) @ fp8.to_e4m3(large, 0))
    assert not torch.allclose(wrong, rows @ large, rtol=1e-3)
    assert torch.equal(right, rows @ small) and torch.equal(between_rows[0], (rows[None] @ large[None])[0])


def test_bfloat16_stands_and_eight_bits_do_not(nano: tuple[Path, Path]) -> None:
    control, weights, both = fp8.judge(*nano)
    assert control.over == [] and control.same > 0.9 * control.cases
    assert len(weights.over) < len(both.over) and weights.over and both.over[0] == "vision/layer_0"
    assert control.products == both.products > 100
    printed = fp8.text([control, weights, both]).splitlines()
    assert printed[-3].endswith("stands") and "does not stand" in printed[-1] and "vision/layer_0" in printed[-1]


def test_no_artifact_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fp8.main(["--artifact", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "nowhere" in error
