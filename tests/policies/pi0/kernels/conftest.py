"""Kernels run in Triton's interpreter on the CPU, or compiled where there is a CUDA device.

The variable is read when a kernel is defined, so it is set before any test module imports one.
"""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest.importorskip("triton", reason="the kernels need Triton; it comes with torch's CUDA build and envs/dev.yaml")

# The interpreter is wrong in bfloat16 (docs/kernels.md).
DTYPES = [torch.float32, torch.bfloat16] if torch.cuda.is_available() else [torch.float32, torch.float16]
