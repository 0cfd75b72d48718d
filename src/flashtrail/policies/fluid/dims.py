"""The sizes of a policy of this family: the `dims` of its manifest, checked as they are read.

`nano` is what is trained on two cores; `document` is the source document's encoder at its literal size (C 128, three
layers of twelve steps, patch 16 at 224 px, four frames of one camera, no language).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError, model_validator

from flashtrail.policies.fluid.settings import MOST_STEPS
from flashtrail.policies.parts.errors import ArtifactError
from flashtrail.policies.parts.pictures import WIRE_PIXELS

Size = Annotated[StrictInt, Field(ge=1, le=100_000)]
Core = Literal["ours", "document", "none", "cnn", "vit"]
CORES: tuple[Core, ...] = ("ours", "document", "none", "cnn", "vit")
STEPPED = ("ours", "document", "none")  # those that take steps and can stop


class _Dims(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prompt(_Dims):
    """A frozen random row for each word of the training's instructions, row 0 for any other; their mean is read."""

    rows: Size
    width: Size = 64


class FluidDims(_Dims):
    """A whole policy.

    `core`: ours | document (the source's form) | none (ours without diffusion) | cnn | vit; the last three are the
    controls, of the same width, depth and about the same parameters. `dilations`: of the stencil, in patches; `lags`:
    of the difference over time, in frames; the controls have neither. `frames` of a camera, a query apart each; in
    training `frame_gap` control steps. `skip`: the head sees the patch embedding beside the evolved field. `blind`:
    every picture is one grey, in training and when served. `absolute`: the leading dims are answered as positions, an
    action moves them by so much (`positions.py`; the document's first version); none: as the actions themselves.
    """

    core: Core = "ours"
    attention: Literal["plain", "fused"] = "fused"
    heads: Size = 4
    views: Literal[1, 2] = 2
    frames: Annotated[StrictInt, Field(ge=1, le=32)] = 1
    frame_gap: Size = 12
    pixels: Size = 112
    patch: Size = 16
    blind: StrictBool = False
    width: Size = 128
    layers: Annotated[StrictInt, Field(ge=1, le=100)] = 2
    steps: Annotated[StrictInt, Field(ge=1, le=MOST_STEPS)] = 6
    dilations: tuple[Size, ...] = (1, 2, 3)
    lags: tuple[Size, ...] = ()
    pool: Size = 4
    skip: StrictBool = True
    head_width: Annotated[StrictInt, Field(ge=2, le=100_000)] = 128
    prompt: Prompt | None
    state_dim: Size = 8
    action_dim: Size = 7
    action_horizon: Annotated[StrictInt, Field(ge=1, le=1000)] = 12
    absolute: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()

    @property
    def grid(self) -> int:
        """Patches along a side of a picture."""
        return self.pixels // self.patch

    @property
    def stencils(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The dilations and lags that its core has."""
        return (self.dilations, self.lags) if self.core in ("ours", "document") else ((), ())

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if WIRE_PIXELS % self.pixels or self.pixels % self.patch:
            raise ValueError(f"patch {self.patch} must divide pixels {self.pixels}, and that the wire's {WIRE_PIXELS}")
        if self.pool > self.grid:
            raise ValueError(f"pool {self.pool} is finer than the grid of {self.grid} patches")
        if self.core == "vit" and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of its {self.heads} heads")
        if len(self.absolute) > min(self.state_dim, self.action_dim):
            raise ValueError(f"absolute has {len(self.absolute)} dims, more than the state or the action")
        if self.core == "ours":  # the document's 16 on a 14 x 14 grid sees nothing but the border, and stays its form
            if self.dilations and 2 * max(self.dilations) >= self.grid:
                raise ValueError(f"dilation {max(self.dilations)} does not fit a grid of {self.grid}: below half of it")
            if self.lags and max(self.lags) >= self.frames:
                raise ValueError(f"lag {max(self.lags)} does not fit {self.frames} frames")
        return self

    @classmethod
    def read(cls, values: Any, where: str) -> FluidDims:
        """From a manifest's `dims`; ArtifactError with the first thing that is wrong, `where` in front."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(("dims", *(str(part) for part in first["loc"])))
            raise ArtifactError(f"{where}: {place}: {first['msg']}; not dims of a fluid policy") from None


def nano(rows: int, core: Core = "ours", **changes: Any) -> FluidDims:
    """The policy that is shipped and its controls, for a vocabulary of `rows` rows."""
    return FluidDims(core=core, prompt=Prompt(rows=rows), **changes)


def document(**changes: Any) -> FluidDims:
    """The source document's encoder with its second head; `pool=1` is its first one's."""
    sizes: dict[str, Any] = {
        **{"core": "document", "views": 1, "frames": 4, "frame_gap": 1, "pixels": 224, "patch": 16, "width": 128},
        **{"layers": 3, "steps": 12, "dilations": (1, 4, 16), "lags": (1, 2), "skip": False, "head_width": 512},
        **{"prompt": None, "state_dim": 6, "action_dim": 6, "action_horizon": 4},
    }
    return FluidDims(**sizes | changes)
