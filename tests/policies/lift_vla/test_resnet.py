"""The backbone under torchvision's names: its count, its arithmetic with foreign weights, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flashtrail.policies.lift_vla.dims import Vision
from flashtrail.policies.lift_vla.errors import ArtifactError
from flashtrail.policies.lift_vla.resnet import ResNet18, load_torchvision


def torchvision_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's resnet18, from its paper's table: written out apart from the module."""
    out: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            out[f"{name}.{part}"] = (channels,)
        out[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    before = 64
    for layer, channels in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            out[f"{name}.conv1.weight"] = (channels, before, 3, 3)
            out[f"{name}.conv2.weight"] = (channels, channels, 3, 3)
            norm(f"{name}.bn1", channels)
            norm(f"{name}.bn2", channels)
            if before != channels:
                out[f"{name}.downsample.0.weight"] = (channels, before, 1, 1)
                norm(f"{name}.downsample.1", channels)
            before = channels
    return out | {"fc.weight": (1000, 512), "fc.bias": (1000,)}


def checkpoint() -> dict[str, torch.Tensor]:
    """Random values under those names, variances positive."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, shape in torchvision_shapes().items():
        value = (torch.rand(shape, generator=generator) - 0.5) * 0.1
        tensors[name] = value + 0.5 if name.endswith("running_var") else value
    return tensors


def reference(t: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """resnet18's features by functions alone."""

    def norm(x, name):
        scale = t[f"{name}.weight"] / (t[f"{name}.running_var"] + 1e-5).sqrt()
        return x * scale[:, None, None] + (t[f"{name}.bias"] - t[f"{name}.running_mean"] * scale)[:, None, None]

    x = F.max_pool2d(norm(F.conv2d(x, t["conv1.weight"], None, 2, 3), "bn1").relu(), 3, 2, 1)
    for layer in range(1, 5):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = norm(F.conv2d(x, t[f"{name}.conv1.weight"], None, stride, 1), f"{name}.bn1").relu()
            y = norm(F.conv2d(y, t[f"{name}.conv2.weight"], None, 1, 1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in t:
                x = norm(F.conv2d(x, t[f"{name}.downsample.0.weight"], None, stride), f"{name}.downsample.1")
            x = (x + y).relu()
    return x


def test_imagenet_weights_load_by_name_and_compute_what_they_computed() -> None:
    model, tensors = ResNet18(Vision(norm="frozen_batch")), checkpoint()
    load_torchvision(model, tensors, "resnet18")
    pictures = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model(pictures), reference(tensors, pictures), rtol=1e-4, atol=1e-4)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(pictures)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # statistics are frozen


def test_parameters_are_those_of_resnet18_without_its_classifier() -> None:
    assert sum(p.numel() for p in ResNet18(Vision()).parameters()) == 11_176_512


def test_a_backbone_of_two_stages_takes_what_it_has() -> None:
    model, tensors = ResNet18(Vision(norm="frozen_batch", stages=2)), checkpoint()
    load_torchvision(model, tensors, "resnet18")
    assert torch.equal(model.state_dict()["layer2.1.conv2.weight"], tensors["layer2.1.conv2.weight"])
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 128, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layer3.0.conv1.weight"), r"lacks layer3\.0\.conv1\.weight \(1 missing\)"),
        (
            lambda t: t.update({"layer1.2.conv1.weight": torch.zeros(1)}),
            r"has layer1\.2\.conv1\.weight, which resnet18",
        ),
        (lambda t: t.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}), r"conv1\.weight is \(64, 3, 3, 3\), not"),
    ],
)
def test_another_network_is_one_line(change, message) -> None:
    tensors = checkpoint()
    change(tensors)
    with pytest.raises(ArtifactError, match=message):
        load_torchvision(ResNet18(Vision(norm="frozen_batch")), tensors, "resnet34")
