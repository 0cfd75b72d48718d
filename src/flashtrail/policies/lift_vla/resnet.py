"""ResNet18 (He et al. 2016, arXiv:1512.03385) under torchvision's tensor names, without its classifier.

Written here because torchvision's wheels are built for one build of torch; the names let its ImageNet weights load.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashtrail.policies.lift_vla.dims import Vision
from flashtrail.policies.lift_vla.errors import ArtifactError

# What a classifier's checkpoint has beyond the backbone: nothing here reads it.
_UNREAD = {"fc.weight", "fc.bias"}


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by statistics that never change: (x - mean) / sqrt(var + 1e-5) * weight + bias."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False)


def _norm(kind: str, channels: int) -> nn.Module:
    """Groups of 8 channels: a batch of frames of few episodes is no sample to normalise by."""
    return nn.GroupNorm(channels // 8, channels) if kind == "group" else FrozenBatchNorm(channels)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and the way around them."""

    def __init__(self, before: int, channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = _norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = _norm(norm, channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != channels:
            self.downsample = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), _norm(norm, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H / stride, W / stride)."""
        around = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + around)


class ResNet18(nn.Module):
    """Stem and the first `stages` stages of two blocks each."""

    def __init__(self, dims: Vision) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, dims.width, 7, 2, 3, bias=False)
        self.bn1 = _norm(dims.norm, dims.width)
        before = dims.width
        for stage in range(dims.stages):
            channels = dims.width * 2**stage
            blocks = (
                BasicBlock(before, channels, 1 if stage == 0 else 2, dims.norm),
                BasicBlock(channels, channels, 1, dims.norm),
            )
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            before = channels
        self._stages = dims.stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, 3, H, W) -> features (B, channels, about H / 2^(stages + 1), W / the same)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(self._stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x


def load_torchvision(model: ResNet18, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill a backbone of frozen batch norms from a state dict of torchvision's resnet18.

    Stages that the backbone was cut of, the classifier and the counters of batches are left out. ArtifactError for
    another network or other sizes.
    """
    own = model.state_dict()
    if missing := sorted(set(own) - set(tensors)):
        raise ArtifactError(f"{where} lacks {missing[0]} ({len(missing)} missing): give torchvision's resnet18")
    with torch.device("meta"):
        whole = set(ResNet18(Vision(norm="frozen_batch")).state_dict()) | _UNREAD
    if strange := sorted(name for name in set(tensors) - whole if not name.endswith("num_batches_tracked")):
        raise ArtifactError(f"{where} has {strange[0]}, which resnet18 has not: give torchvision's resnet18")
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape:
            raise ArtifactError(f"{where}: {name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
    model.load_state_dict({name: tensors[name].float() for name in own})
