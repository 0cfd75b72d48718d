"""The controls in the core's place: convolutions and attention, of the same width and about the same parameters.

A layer of the field has 7 C^2 weights (reaction 4, global memory 2, local memory 1), a block of attention 7, one of
convolution 6. They are pre-norm residual blocks (ConvNeXt's and ViT's forms), each applied once.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """A depthwise convolution over frames, rows and columns, and a reaction of 3 C: (B, V, T, H, W, C) -> the same."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        deep = 3 if frames > 1 else 1
        self.mix = nn.Conv3d(width, width, (deep, 5, 5), padding=(deep // 2, 2, 2), groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, u: Tensor) -> Tensor:
        """One block."""
        mixed = self.mix(u.flatten(0, 1).movedim(-1, 1)).movedim(1, -1).reshape(u.shape)
        out: Tensor = self.down(F.gelu(self.up(self.norm(mixed))))
        return u + out


class AttentionBlock(nn.Module):
    """Attention among all patches of all views and frames, and a reaction of 1.5 C.

    `fused`: PyTorch's kernel, which never holds the matrix of tokens by tokens; plain holds it. Both give one answer.
    """

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width // 2), nn.Linear(3 * width // 2, width)

    def forward(self, u: Tensor) -> Tensor:
        """One block: (B, V, T, H, W, C) -> the same."""
        x = u.flatten(1, 4)
        q, k, v = self.in_proj(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            said = F.scaled_dot_product_attention(q, k, v)
        else:
            said = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + self.out_proj(said.transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return out.reshape(u.shape)
