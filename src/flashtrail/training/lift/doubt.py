"""The step `doubt`: an artifact's like with a doubt.safetensors: heads on bootstrap samples, and what is normal to see.

The chunks are the artifact's own, bit for bit; it is another artifact since the files that it is served from differ.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from flashtrail.base.errors import UserError
from flashtrail.policies.lift_vla import doubt
from flashtrail.policies.lift_vla.artifact import FAMILY
from flashtrail.policies.lift_vla.dims import LiftDims
from flashtrail.policies.lift_vla.errors import LiftError
from flashtrail.training import artifact, loop
from flashtrail.training.lift import data as material
from flashtrail.training.lift.data import Material
from flashtrail.training.lift.refit import Parent, Refit, RefitRecipe, parent_of, see_all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("--artifact", type=Path, required=True, metavar="DIR", help="the artifact that is to doubt")
    add("--data", type=Path, required=True, help="the demonstrations that it was trained on, or their folder")
    loop.add_arguments(parser, RefitRecipe)


def run(arguments: argparse.Namespace) -> int:
    """Train the heads (OUT/heads), fit the distance, write OUT/artifact."""
    data = material.load(arguments.data)
    recipe = loop.recipe_of(RefitRecipe, arguments)
    try:
        parent = parent_of(arguments.artifact, data)
    except LiftError as error:  # a family cannot import UserError
        raise UserError(str(error)) from None
    dims = parent.start.policy.dims
    if dims.blind:
        raise UserError(f"{arguments.artifact} is blind: to it no picture is new; give one that sees")
    own = {name: tensor.clone() for name, tensor in parent.start.policy.state_dict().items()}
    seen = see_all(parent.start.policy, data)
    heads = []
    for number in range(1, doubt.HEADS + 1):
        parent.start.policy.load_state_dict(own)
        head = _trained(
            arguments.out / "heads" / str(number), data, parent, replace(recipe, seed=number), seen, arguments.seconds
        )
        if head is None:
            return 0
        heads.append(head)
    tensors = file_of(dims, heads, seen["train"].flatten(1).double().numpy())
    stats, files = parent.content, parent.start.files | {doubt.FILE: save(tensors)}
    manifest = artifact.write(arguments.out / "artifact", FAMILY, dims, own, stats, files, parent.digest)
    size = manifest["files"][doubt.FILE]["bytes"]
    print(f"{arguments.out / 'artifact'}: {len(heads)} heads, {size / 1e6:.1f} MB, digest {manifest['digest'][:16]}")
    return 0


def _trained(
    directory: Path,
    data: Material,
    parent: Parent,
    recipe: RefitRecipe,
    seen: dict[str, Tensor],
    until_s: float | None,
) -> dict[str, Tensor] | None:
    """Return the tensors of a head trained on the bootstrap sample of its seed; None where it is to go on later."""
    last = (f"decoder.layers.{parent.start.policy.dims.layers - 1}.", "decoder.norm.", "out.")
    recipe = replace(recipe, parent=parent.digest, resample=recipe.seed)
    trainer = Refit(directory, data, parent, recipe, trained=last, seen=seen)
    if not trainer.complete(until_s):
        return None
    return doubt.Head.of(trainer.average.policy).state_dict()


def file_of(dims: LiftDims, heads: list[dict[str, Tensor]], features: NDArray[Any]) -> dict[str, Tensor]:
    """Return doubt.safetensors's tensors; heads in half precision, which is exact to 0.05 % of a weight."""
    module = doubt.Doubt(dims)
    for head, tensors in zip(module.heads, heads, strict=True):
        head.load_state_dict(tensors)
    mean, whitening = whitened(features)
    module.mean.copy_(torch.from_numpy(mean))
    module.whitening.copy_(torch.from_numpy(whitening))
    halved = {name: t.half() if name.startswith("heads.") else t for name, t in module.state_dict().items()}
    return {name: tensor.contiguous() for name, tensor in halved.items()}


def whitened(features: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features (F, D) -> mean (D,), and the inverse root (D, D) of their covariance, shrunk as Ledoit and Wolf do.

    Ledoit and Wolf 2004, https://doi.org/10.1016/S0047-259X(03)00096-4: towards a multiple of the identity, by the
    share of the covariance's spread that is noise. Scaled so that the features' own mean squared distance is D, which
    it would not be where they fill fewer dimensions.
    """
    mean = features.mean(0)
    x = features - mean
    count, size = x.shape
    covariance = x.T @ x / count
    scale = np.trace(covariance) / size
    spread = ((covariance - scale * np.eye(size)) ** 2).sum()
    noise = ((x**2).sum(1) ** 2).mean() - (covariance**2).sum()
    share = min(1.0, noise / count / spread)
    values, vectors = np.linalg.eigh((1 - share) * covariance + share * scale * np.eye(size))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    return mean, root / np.sqrt(np.mean((x @ root) ** 2))
