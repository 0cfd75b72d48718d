"""A network in another number format: half precision, or 8-bit weights with or without 8-bit products."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from flashtrail.policies.parts.errors import OptionError

Network = TypeVar("Network", bound=nn.Module)
_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_LEVELS = 127  # of 8 bits, each side of zero


def dtype_of(precision: str) -> torch.dtype:
    """Return the number format of what such a network is given."""
    return _HALVES.get(precision, torch.float32)


def lowered(model: Network, precision: str) -> Network:
    """Return a network in one of `formats.PRECISIONS`; for float32 it is the one that was given.

    int8_dynamic: PyTorch's, of each nn.Linear: weights are rounded once, by output channel, rows at each product;
    convolutions and attention's own projections stay float32. int8_weight: all of these are rounded to 8 bits by output
    channel and multiplied out again, which has the error of 8-bit weights and the speed of float32.
    """
    if precision == "float32":
        return model
    model = copy.deepcopy(model)
    if precision in _HALVES:
        return model.to(dtype_of(precision))
    if precision == "int8_weight":
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight.data = rounded(module.weight.data, range(1, module.weight.dim()))
            elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
                module.in_proj_weight.data = rounded(module.in_proj_weight.data, [1])
        return model
    if any(weight.device.type != "cpu" for weight in model.parameters()):
        raise OptionError("precision int8_dynamic: PyTorch multiplies in 8 bits on a CPU only; use --device cpu")
    with warnings.catch_warnings():  # deprecated in favour of torchao (docs/precision.md)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        each = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
        torch.ao.quantization.quantize_dynamic(model, each, inplace=True)
    return model


def rounded(weight: Tensor, over: Sequence[int]) -> Tensor:
    """Round weights to 8 bits, symmetric, one scale for all that lie along the dims `over`, and multiply them out."""
    scale = weight.abs().amax(tuple(over), keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny) / _LEVELS
    return (weight / scale).round().clamp(-_LEVELS, _LEVELS) * scale
