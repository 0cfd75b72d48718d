"""Stage `encoder`: views in, prefix tokens out (SigLIP and its projection, or a convolutional stem before it).

Differentiable and batch-first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from flashtrail.policies.pi0.dims import Pi0Dims, Stem
from flashtrail.policies.pi0.gemma import gelu

LAYER_NORM_EPS = 1e-6  # the JAX reference; upstream's Triton kernels use 1e-5, which float32 tolerances catch


def embed_patches(w: Mapping[str, Tensor], patch: int, images: Tensor) -> Tensor:
    """Images [N, H, W, 3] -> patch tokens [N, (H/P)*(W/P), Wv], row-major."""
    n, height, width, channels = images.shape
    grid = images.reshape(n, height // patch, patch, width // patch, patch, channels).transpose(2, 3)
    flat = grid.reshape(n, (height // patch) * (width // patch), patch * patch * channels)
    return flat @ w["vision.patch_embed.weight"] + w["vision.patch_embed.bias"]


def embed_stem(w: Mapping[str, Tensor], stem: Stem, image_size: int, images: Tensor) -> Tensor:
    """Images [N, H, W, 3] -> stem tokens [N, tokens, Wv], row-major.

    Images of side image_size are average-pooled first; images of side image_size // pool were pooled before.
    """
    x = images.permute(0, 3, 1, 2)
    if stem.pool > 1 and x.shape[-1] == image_size:
        x = F.avg_pool2d(x, stem.pool)
    for i, layer in enumerate(stem.layers):
        kernel = w[f"vision.stem.{i}.weight"].permute(3, 2, 0, 1)
        x = F.conv2d(x, kernel, w[f"vision.stem.{i}.bias"], stride=layer.stride, padding=layer.kernel // 2)
        if i + 1 < len(stem.layers):
            x = F.relu(x)
    return x.flatten(2).transpose(1, 2)


def encode_images(w: Mapping[str, Tensor], dims: Pi0Dims, images: Tensor) -> Tensor:
    """Views [B, V, H, W, 3], float in [-1, 1] -> prefix embeddings [B, V * tokens, W], unscaled."""
    d = dims.vision
    batch, views = images.shape[:2]
    pixels = images.flatten(0, 1)
    if d.stem is None:
        x = embed_patches(w, int(d.patch or 1), pixels)
    else:
        x = embed_stem(w, d.stem, d.image_size, pixels)
    x = x + w["vision.pos_embed"]
    shape = (*x.shape[:2], d.num_heads, d.head_dim)
    for i in range(d.depth):

        def project(name: str, y: Tensor, layer: int = i) -> Tensor:
            return y @ w[f"vision.layers.{name}.weight"][layer] + w[f"vision.layers.{name}.bias"][layer]

        y = F.layer_norm(x, (d.width,), w["vision.layers.ln1.scale"][i], w["vision.layers.ln1.bias"][i], LAYER_NORM_EPS)
        q, k, v = (project(name, y).view(shape).transpose(1, 2) for name in ("q", "k", "v"))
        x = x + project("o", F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = F.layer_norm(x, (d.width,), w["vision.layers.ln2.scale"][i], w["vision.layers.ln2.bias"][i], LAYER_NORM_EPS)
        x = x + project("fc2", gelu(project("fc1", y)))
    x = F.layer_norm(x, (d.width,), w["vision.norm.scale"], w["vision.norm.bias"], LAYER_NORM_EPS)
    x = x @ w["vision.head.weight"] + w["vision.head.bias"]
    return x.view(batch, views * d.tokens, dims.prefix.width)
