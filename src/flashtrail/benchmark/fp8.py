"""`python -m flashtrail.benchmark.fp8 --artifact DIR --draft DIR`: would eight-bit products stand? On any CPU.

Large products take operands rounded as a device's e4m3 units do it best: weights scaled per output column,
activations per row, sums in float32. The same artifact in float32 is the reference, bfloat16 the control, the bounds
those that docs/precision.md grants a rounded artifact. Knows no kernel and no time: it says whether writing one pays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, parity
from flashtrail.policies.pi0.errors import FlashError
from flashtrail.policies.pi0.stages import Plain

LEAST_SIDE = 64  # of a weight: the 32-column ends (actions, state) are small and stay as they are
E4M3_MAX = 448.0

Rounding = Callable[[Tensor], Tensor]
_PRODUCTS = (torch.Tensor.__matmul__, torch.Tensor.matmul, torch.matmul)


def to_e4m3(x: Tensor, along: int) -> Tensor:
    """Round to float8 e4m3 under one scale for each slice along a dimension, and back."""
    scale = x.abs().amax(along, keepdim=True).clamp_min(1e-30) / E4M3_MAX
    return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale


def to_bfloat16(x: Tensor) -> Tensor:
    """Round to bfloat16 and back."""
    return x.to(torch.bfloat16).to(x.dtype)


@dataclass(frozen=True)
class Format:
    """How the operands of a large product are rounded."""

    name: str
    rows: Rounding
    weight: Rounding


FORMATS = (
    Format("bfloat16 (control)", to_bfloat16, to_bfloat16),
    Format("e4m3 weights", lambda x: x, lambda w: to_e4m3(w, 0)),
    Format("e4m3", lambda x: to_e4m3(x, -1), lambda w: to_e4m3(w, 0)),
)


class Rounded(TorchFunctionMode):
    """Inside it, products of rows with a large weight [in, out] take rounded operands; `count` of them did."""

    def __init__(self, how: Format) -> None:
        super().__init__()
        self.how, self.count = how, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and args[1].dim() == 2 and min(args[1].shape) >= LEAST_SIDE:
            self.count += 1
            return func(self.how.rows(args[0]), self.how.weight(args[1]))
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Finding:
    """One format against float32: rows as `parity.compare` gives them, and how many decisions were the same."""

    how: Format
    products: int
    stages: list[dict[str, Any]]
    same: int
    cases: int

    @property
    def over(self) -> list[str]:
        """Stages beyond their bounds."""
        return [row["stage"] for row in self.stages if not row["passed"]]


def judge(base: Path, draft: Path | None) -> list[Finding]:
    """Compare each format with float32, on the parity gate's inputs. UserError where the artifact is none."""
    inputs = parity.fixed_inputs(artifact.verify_artifact(base)["dims"])
    expected = _values(base, draft, inputs)
    points = parity.euler_points(expected, inputs.noise)
    cases = parity.decision_cases(expected) if draft is not None else []
    right = parity.our_decisions(expected, cases)
    found = []
    for how in FORMATS:
        with Rounded(how) as mode:
            values = _values(base, draft, inputs, points)
        stages = parity.compare(expected, values, parity.ROUNDING)
        same = int((parity.our_decisions(values, cases) == right).all(axis=-1).sum()) if cases else 0
        found.append(Finding(how, mode.count, stages, same, len(cases)))
    return found


def _values(base: Path, draft: Path | None, inputs: parity.Inputs, points: Any = None) -> parity.Values:
    """All of a round in the plain stages, whose products are the ones a device would take."""
    return parity.artifact_values(base, draft, inputs, points, lambda w, prepared, *rest: Plain(prepared, *rest))


def text(findings: Sequence[Finding]) -> str:
    """The worst error of each group of stages as a share of its bound, decisions, and a verdict for each format."""
    groups = list(dict.fromkeys(row["stage"].split("/")[0] for row in findings[0].stages))
    lines = [f"{'error / bound, worst of a stage':34}" + "".join(f"{f.how.name:>20}" for f in findings)]
    for group in groups:
        lines.append(f"{group:34}" + "".join(f"{_worst(f, group):20.2f}" for f in findings))
    if findings[0].cases:
        lines.append(f"{'decisions as in float32':34}" + "".join(f"{f'{f.same}/{f.cases}':>20}" for f in findings))
    for f in findings:
        verdict = f"does not stand: {len(f.over)} stages over, first {f.over[0]}" if f.over else "stands"
        lines.append(f"{f.how.name}: {f.products} products rounded; {verdict}")
    return "\n".join(lines)


def _worst(found: Finding, group: str) -> float:
    rows = [row for row in found.stages if row["stage"].split("/")[0] == group]
    shares = [
        (row[k] / row["tolerance"][k]) if row[k] is not None else np.inf for row in rows for k in ("peak", "mean")
    ]
    return float(max(shares))


def main(words: Sequence[str] | None = None) -> int:
    """Print the table; 2 and one line for a mistake."""
    parser = commands.Parser(
        prog="python -m flashtrail.benchmark.fp8", description="Would eight-bit products stand, by the precision page?"
    )
    parser.add_argument("--artifact", type=Path, required=True, metavar="DIR", help="a base artifact")
    parser.add_argument("--draft", type=Path, metavar="DIR", help="its draft artifact")
    found = parser.parse_args(words)
    try:
        print(text(judge(found.artifact, found.draft)))
    except (UserError, FlashError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(commands.run(main, "fp8"))
