"""The network: views -> ResNet18 -> attention over the instruction -> decoder over action queries -> a chunk.

Query i predicts the action i steps after the picture, from that picture alone: what is executed first belongs to what
is seen now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashtrail.policies.lift_vla.clip import TextTower
from flashtrail.policies.lift_vla.dims import Embodiment, LiftDims, Vision
from flashtrail.policies.lift_vla.resnet import ResNet18
from flashtrail.policies.parts.words import WordTable

VIEWS = ("agent", "wrist")
PROPRIOCEPTION = 10  # position, two columns of the hand's rotation, finger opening
# ImageNet's channel statistics, by which torchvision's weights were trained.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Queries (B, horizon, width), what they attend to (B, V to V + 2, width), and what of it is not to be looked at.
Recalled = tuple[Tensor, Tensor, Tensor | None]


class View(nn.Module):
    """Pictures of one camera -> one vector each."""

    def __init__(self, dims: Vision, width: int) -> None:
        super().__init__()
        self.backbone = ResNet18(dims)
        points = dims.keypoints if dims.pool == "keypoints" else 0
        self.maps = nn.Conv2d(dims.channels, points, 1) if points else None
        self.out = nn.Linear(dims.channels + 2 * points, width)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> vectors (B, width)."""
        features = self.backbone(pictures)
        parts = [features.mean((2, 3))]
        if self.maps is not None:
            parts.append(keypoints(self.maps(features)))
        out: Tensor = self.out(torch.cat(parts, -1))
        return out


def keypoints(maps: Tensor) -> Tensor:
    """Maps (B, K, H, W) -> the mean position of each one's softmax, (B, 2 K), edges at -1 and 1 (spatial softmax)."""
    height, width = maps.shape[2:]
    weights = maps.flatten(2).softmax(-1).unflatten(-1, (height, width))
    across = torch.linspace(-1, 1, width, device=maps.device, dtype=maps.dtype)
    down = torch.linspace(-1, 1, height, device=maps.device, dtype=maps.dtype)
    return torch.cat(((weights.sum(2) * across).sum(-1), (weights.sum(3) * down).sum(-1)), -1)


class Robot(nn.Module):
    """What an embodiment has of its own: a token that the decoder attends to, an adapter of the state, a head."""

    def __init__(self, dims: LiftDims, robot: Embodiment) -> None:
        super().__init__()
        self._idle = dims.action_dim - robot.action_dim
        self.token = nn.Parameter(torch.randn(dims.width) / dims.width**0.5)
        self.hand: nn.Module = nn.Linear(PROPRIOCEPTION, dims.width)
        self.out: nn.Module = nn.Linear(dims.width, robot.action_dim)

    def answer(self, decoded: Tensor) -> Tensor:
        """Decoded (B, horizon, width) -> (B, horizon, the wire's action_dim): 0 where the robot takes no motion."""
        own = self.out(decoded)
        return torch.cat((F.pad(own[..., :-1], (0, self._idle)), own[..., -1:]), -1)


class LiftVLA(nn.Module):
    """A policy's tensors; random until they are loaded or trained.

    With embodiments `decode`, `recall` and `conclude` are told each row's: `robots` (B,) says whose adapter and head,
    `tokens` (B,) whose token, which is another's in a control only. Robots without a row get no gradient.
    """

    def __init__(self, dims: LiftDims) -> None:
        super().__init__()
        self.dims = dims
        self.views = nn.ModuleDict({name: View(dims.vision, dims.width) for name in VIEWS[: dims.views]})
        text = dims.text
        self.text: nn.Module = WordTable(text.rows, text.width) if text.kind == "words" else TextTower(text)
        self.text_in = nn.Linear(dims.text.width, dims.width)
        self.fusion = nn.MultiheadAttention(dims.width, dims.heads, batch_first=True)
        self.fused = nn.LayerNorm(dims.width)
        alone = not dims.embodiments
        self.hand = nn.Linear(PROPRIOCEPTION, dims.width) if dims.proprioception and alone else None
        self.queries = nn.Parameter(torch.randn(dims.action_horizon, dims.width) / dims.width**0.5)
        self.decoder = nn.TransformerDecoder(decoder_layer(dims), dims.layers, nn.LayerNorm(dims.width))
        self.out = nn.Linear(dims.width, dims.action_dim) if alone else None
        self.robots = nn.ModuleList(Robot(dims, robot) for robot in dims.embodiments)

    def see(self, pictures: Sequence[Tensor]) -> Tensor:
        """Pictures of each view (B, 3, H, W), see `normalised` -> tokens (B, V, width)."""
        count = len(pictures[0])
        if self.dims.blind:  # all are one picture
            pictures = [picture[:1] for picture in pictures]
        seen = torch.stack([net(p) for net, p in zip(self.views.values(), pictures, strict=True)], 1)
        return seen.expand(count, -1, -1)

    def fuse(self, seen: Tensor, text: Tensor, absent: Tensor | None = None) -> Tensor:
        """Let views (B, V, width) attend to the instruction (B, L, text width); `absent` (B, L): no token there."""
        words = self.text_in(text)
        said, _ = self.fusion(seen, words, words, key_padding_mask=absent, need_weights=False)
        out: Tensor = self.fused(seen + said)
        return out

    def decode(
        self,
        fused: Tensor,
        hand: Tensor,
        missing: Tensor | None = None,
        robots: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """Fused views, proprioception (B, 10) -> normalised chunk (B, horizon, action_dim), the last dim a logit.

        `missing` (B, V): views that are not to be looked at. `tokens`: None: the robots' own.
        """
        return self.conclude(*self.recall(fused, hand, missing, robots, tokens), robots)

    def recall(
        self,
        fused: Tensor,
        hand: Tensor,
        missing: Tensor | None = None,
        robots: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> Recalled:
        """All of `decode` below the decoder's last layer."""
        memory, beside = fused, [] if self.hand is None else [self.hand(hand)]
        if robots is not None:
            whose = robots if tokens is None else tokens
            adapted = self._of_each(robots, hand, lambda robot, rows: robot.hand(rows))
            beside = [adapted, self._of_each(whose, hand, lambda robot, rows: robot.token.expand(len(rows), -1))]
        if beside:
            memory = torch.cat((memory, torch.stack(beside, 1)), 1)
            if missing is not None:
                missing = F.pad(missing, (0, len(beside)), value=False)
        queries = self.queries.expand(len(fused), -1, -1)
        for layer in self.decoder.layers[:-1]:
            queries = layer(queries, memory, memory_key_padding_mask=missing)
        return queries, memory, missing

    def conclude(self, queries: Tensor, memory: Tensor, missing: Tensor | None, robots: Tensor | None = None) -> Tensor:
        """The last layer of `decode`, and the answer."""
        assert self.decoder.norm is not None
        last = self.decoder.norm(self.decoder.layers[-1](queries, memory, memory_key_padding_mask=missing))
        if robots is not None:
            return self._of_each(robots, last, lambda robot, rows: robot.answer(rows))
        assert self.out is not None
        out: Tensor = self.out(last)
        return out

    def _of_each(self, robots: Tensor, x: Tensor, part: Callable[[Robot, Tensor], Tensor]) -> Tensor:
        """Return what `part` makes of the rows of `x` by each row's own robot, in the order of the rows."""
        places, made = [], []
        for number, robot in enumerate(self.robots):
            rows = (robots == number).nonzero()[:, 0]
            if len(rows):
                assert isinstance(robot, Robot)
                places.append(rows)
                made.append(part(robot, x[rows]))
        return torch.cat(made)[torch.cat(places).argsort()]


def decoder_layer(dims: LiftDims) -> nn.TransformerDecoderLayer:
    """One layer of the decoder."""
    return nn.TransformerDecoderLayer(
        dims.width, dims.heads, dims.feedforward, dropout=0.0, batch_first=True, norm_first=True
    )


def normalised(pictures: Tensor, dims: LiftDims, offsets: Tensor | None = None) -> list[Tensor]:
    """Shrunk views (B, V, P, P, 3) in 0..255 -> what each view's net takes, (B, 3, H, W), cropped or pooled.

    `offsets` (B, 2) shifts each crop by so many pixels down and right (augmentation); it must stay within the view.
    """
    scaled = pictures.float() / 255.0
    if dims.blind:
        scaled = torch.zeros_like(scaled)
    scaled = (scaled - scaled.new_tensor(MEAN)) / scaled.new_tensor(STD)
    out = []
    for view in range(dims.views):
        x = scaled[:, view].permute(0, 3, 1, 2)
        if view == 0 and (crop := dims.crop):
            shifts = [(0, 0)] * len(x) if offsets is None else offsets.tolist()
            rows, columns = crop.height, crop.width
            x = torch.stack(
                [
                    row[:, crop.top + down : crop.top + down + rows, crop.left + right : crop.left + right + columns]
                    for row, (down, right) in zip(x, shifts, strict=True)
                ]
            )
        if view == 1 and dims.wrist_pool > 1:
            x = F.avg_pool2d(x, dims.wrist_pool)
        out.append(x.contiguous())
    return out


def parts(model: LiftVLA) -> dict[str, int]:
    """Count a policy's parameters by part, the frozen ones of the text apart."""

    def count(*modules: nn.Module | None) -> int:
        return sum(p.numel() for m in modules if m is not None for p in m.parameters())

    frozen = sum(t.numel() for t in model.text.state_dict().values())
    vision, fusion = count(model.views), count(model.text_in, model.fusion, model.fused)
    decoder = count(model.decoder, model.hand, model.out, model.robots) + model.queries.numel()
    return {"vision": vision, "fusion": fusion, "decoder": decoder, "text_frozen": frozen}
