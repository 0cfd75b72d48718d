"""The sizes of a policy of this family: the `dims` of its manifest, checked as they are read.

`nano` is what is trained on one core; `document` is the network of the report that the family rebuilds, whose sizes it
states where its parameter table and its text agree (ResNet18 at 224 px, 512 wide, 4 decoder layers of 8 heads, CLIP's
text tower, 10 actions). The report gives no feed-forward width: 2048 is PyTorch's default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    ValidationError,
    model_serializer,
    model_validator,
)

from flashtrail.policies.lift_vla.errors import ArtifactError
from flashtrail.policies.parts.pictures import WIRE_PIXELS

Layers = Annotated[StrictInt, Field(ge=1, le=100)]  # each is built before a tensor is read
Size = Annotated[StrictInt, Field(ge=1, le=100_000)]


class _Dims(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Crop(_Dims):
    """A rectangle of the agent view, px of the shrunk picture."""

    top: Annotated[StrictInt, Field(ge=0)]
    left: Annotated[StrictInt, Field(ge=0)]
    height: Size
    width: Size


class Vision(_Dims):
    """A ResNet18 for each view, cut after `stages` of its four.

    `norm`: `group` to train from scratch; `frozen_batch` with ImageNet's weights and statistics. `pool`: `mean` (one
    vector), or `keypoints` (positions by spatial softmax of `keypoints` maps, beside the mean).
    """

    width: Size = 64
    stages: Annotated[StrictInt, Field(ge=1, le=4)] = 4
    norm: Literal["group", "frozen_batch"] = "group"
    pool: Literal["mean", "keypoints"] = "mean"
    keypoints: Size = 32

    @property
    def channels(self) -> int:
        """Channels of the last feature map."""
        return self.width << (self.stages - 1)

    @model_validator(mode="after")
    def _groups(self) -> Self:
        if self.width % 8:
            raise ValueError(f"vision.width {self.width} is not a multiple of 8")
        return self


class Words(_Dims):
    """A frozen random row for each word of the training's instructions, row 0 for any other word."""

    kind: Literal["words"] = "words"
    rows: Size
    width: Size = 64


class Clip(_Dims):
    """CLIP's text tower, frozen; the defaults are openai/clip-vit-base-patch32's. Its sentence vector is one token."""

    kind: Literal["clip"] = "clip"
    vocabulary: Size = 49_408
    context: Size = 77
    hidden: Size = 512
    layers: Layers = 12
    heads: Size = 8
    feedforward: Size = 2048
    width: Size = 512

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"text.hidden {self.hidden} is not a multiple of its {self.heads} heads")
        return self


class Embodiment(_Dims):
    """A robot for which a policy has a token, an adapter of the state and an action head of its own.

    `task`: the one of robosuite_lift whose demonstrations it has. `action_dim`: what its controller takes: the wire's
    first motions, and the gripper; the wire's other motions are 0.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    task: Annotated[StrictInt, Field(ge=0, le=1000)]
    state_dim: Literal[8] = 8
    action_dim: Annotated[StrictInt, Field(ge=2, le=100)] = 7


class LiftDims(_Dims):
    """A whole policy. `blind`: every picture is taken as black, in training and when served (the control).

    `crop`: of the agent view; `wrist_pool`: the wrist view is averaged over squares of so many pixels. `embodiments`:
    of a policy that knows its robots apart; without them it is of one robot, and no manifest mentions them.
    """

    views: Literal[1, 2] = 2
    pixels: Size = 112
    crop: Crop | None = None
    wrist_pool: Literal[1, 2, 4] = 1
    blind: StrictBool = False
    proprioception: StrictBool = True
    vision: Vision
    text: Annotated[Words | Clip, Field(discriminator="kind")]
    width: Size = 512
    heads: Size = 8
    layers: Layers = 4
    feedforward: Size = 2048
    action_horizon: Annotated[StrictInt, Field(ge=1, le=1000)] = 10
    action_dim: Annotated[StrictInt, Field(ge=2, le=100)] = 7
    state_dim: Literal[8] = 8
    embodiments: Annotated[tuple[Embodiment, ...], Field(max_length=100)] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `embodiments` out where there is none: artifacts of one robot keep their digests."""
        values: dict[str, Any] = write(self)
        return values if self.embodiments else {k: v for k, v in values.items() if k != "embodiments"}

    @model_validator(mode="after")
    def _robots(self) -> Self:
        for key in ("name", "task"):
            if len({getattr(robot, key) for robot in self.embodiments}) < len(self.embodiments):
                raise ValueError(f"embodiments: two have one {key}")
        if any(robot.action_dim > self.action_dim for robot in self.embodiments):
            raise ValueError(f"embodiments: action_dim beyond the wire's {self.action_dim}")
        if self.embodiments and not self.proprioception:
            raise ValueError("embodiments: their adapters need proprioception")
        return self

    @property
    def robots(self) -> list[str]:
        """The embodiments' names."""
        return [robot.name for robot in self.embodiments]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if WIRE_PIXELS % self.pixels:
            raise ValueError(f"pixels {self.pixels} does not divide the wire's {WIRE_PIXELS}")
        if self.pixels < self.wrist_pool:
            raise ValueError(f"pixels {self.pixels} are fewer than wrist_pool {self.wrist_pool} takes for one")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of its {self.heads} heads")
        crop = self.crop
        if crop and (crop.top + crop.height > self.pixels or crop.left + crop.width > self.pixels):
            raise ValueError(f"crop reaches beyond the {self.pixels} pixels of a view")
        return self

    @classmethod
    def read(cls, values: Any, where: str) -> LiftDims:
        """From a manifest's `dims`; ArtifactError with the first thing that is wrong, `where` in front."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(("dims", *(str(part) for part in first["loc"])))
            raise ArtifactError(f"{where}: {place}: {first['msg']}; not dims of a lift_vla policy") from None


def nano(rows: int, *, blind: bool = False) -> LiftDims:
    """The policy that is shipped, for a vocabulary of `rows` rows: sized to be trained on one CPU core."""
    return LiftDims(
        crop=Crop(top=1, left=14, height=96, width=80),  # holds the hand and wherever the cube may come to lie
        wrist_pool=2,  # what lies between the fingers is near: half the pixels show it
        blind=blind,
        vision=Vision(width=32, stages=2, pool="keypoints"),
        text=Words(rows=rows),
        width=128,
        layers=2,
        feedforward=512,
    )


def document() -> LiftDims:
    """The report's network, at its literal size: one view of 224 px, no proprioception."""
    return LiftDims(views=1, pixels=224, proprioception=False, vision=Vision(), text=Clip())
