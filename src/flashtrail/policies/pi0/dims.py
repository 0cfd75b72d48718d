"""The sizes of a pi0 policy and of its draft head: the only thing that tells pi0_nano from pi0_libero.

Frozen dataclasses that read and write the `dims` part of an artifact's manifest.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from flashtrail.policies.pi0.errors import ArtifactError

T = TypeVar("T")


def _build(cls: type[T], values: Any, where: str) -> T:
    """Build dataclass `cls` from a mapping, naming missing and unknown keys."""
    if not isinstance(values, dict):
        raise ArtifactError(f"{where} must be a mapping, not {type(values).__name__}; convert the checkpoint again")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        raise ArtifactError(f"{where} has unknown keys {unknown}; known: {sorted(fields)}")
    required = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
    if missing := sorted(required - set(values)):
        raise ArtifactError(f"{where} lacks {missing}; convert the checkpoint again")
    for name, value in values.items():
        count = fields[name].type == "int" or (fields[name].type == "int | None" and value is not None)
        if count and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ArtifactError(f"{where}.{name} must be a positive integer, not {value!r}")
    return cls(**values)


@dataclass(frozen=True)
class StemLayer:
    """One convolution of the stem: square kernel, padding kernel // 2."""

    kernel: int
    stride: int
    channels: int


@dataclass(frozen=True)
class Stem:
    """A convolutional stem in place of the patch embedding: average pool, then convolutions."""

    layers: tuple[StemLayer, ...]
    pool: int = 1
    act: str = "relu"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Stem:
        stem = _build(cls, values, "dims.vision.stem")
        if stem.act != "relu":
            raise ArtifactError(f"dims.vision.stem.act {stem.act!r} is not known; only 'relu' is")
        if not isinstance(stem.layers, list | tuple):
            raise ArtifactError("dims.vision.stem.layers must be a list of layers; convert the checkpoint again")
        layers = tuple(
            layer if isinstance(layer, StemLayer) else _build(StemLayer, layer, f"dims.vision.stem.layers[{i}]")
            for i, layer in enumerate(stem.layers)
        )
        if not layers:
            raise ArtifactError("dims.vision.stem.layers is empty; leave the stem out to embed patches")
        return dataclasses.replace(stem, layers=layers)


@dataclass(frozen=True)
class VisionDims:
    """SigLIP encoder of one view. `patch` is unused when there is a stem."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    head_dim: int
    patch: int | None = 14
    image_size: int = 224
    stem: Stem | None = None

    @property
    def side(self) -> int:
        """Tokens along one edge of a view."""
        if self.stem is None:
            return self.image_size // int(self.patch or 1)
        side = self.image_size // self.stem.pool
        for layer in self.stem.layers:
            side = (side + 2 * (layer.kernel // 2) - layer.kernel) // layer.stride + 1
        return side

    @property
    def tokens(self) -> int:
        """Tokens per view."""
        return self.side**2


@dataclass(frozen=True)
class GemmaDims:
    """One Gemma stack: prefix or expert."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Pi0Dims:
    """A whole pi0 policy. Prefix and expert share depth, heads and head_dim, since they share attention."""

    vision: VisionDims
    prefix: GemmaDims
    expert: GemmaDims
    vocab_size: int
    action_dim: int = 32
    action_horizon: int = 50
    max_token_len: int = 48
    num_views: int = 2
    num_steps: int = 10
    state_dim: int = 8
    env_action_dim: int = 7

    def __post_init__(self) -> None:
        for name in ("depth", "num_heads", "num_kv_heads", "head_dim"):
            if getattr(self.prefix, name) != getattr(self.expert, name):
                raise ArtifactError(
                    f"dims: prefix and expert differ in {name}; the expert attends prefix K/V per layer"
                )
        if self.prefix.num_heads % self.prefix.num_kv_heads or self.prefix.head_dim % 2:
            raise ArtifactError("dims: num_heads must be a multiple of num_kv_heads, and head_dim even")
        if self.expert.width % 2:
            raise ArtifactError("dims: the expert's width must be even (sine and cosine halves of the time embedding)")
        stem = self.vision.stem
        if stem is not None and stem.layers[-1].channels != self.vision.width:
            raise ArtifactError("dims: the last stem layer's channels must equal vision.width")
        if stem is None and (not self.vision.patch or self.vision.image_size % self.vision.patch):
            raise ArtifactError(f"dims: patch {self.vision.patch} does not divide image_size {self.vision.image_size}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Pi0Dims:
        """From a base manifest's `dims`."""
        if not isinstance(values, dict):
            raise ArtifactError("dims must be a mapping; convert the checkpoint again")
        parts = dict(values)
        if isinstance(vision := parts.get("vision"), dict) and vision.get("stem") is not None:
            parts["vision"] = {**vision, "stem": Stem.from_dict(vision["stem"])}
        for name, cls_of_part in (("vision", VisionDims), ("prefix", GemmaDims), ("expert", GemmaDims)):
            if name in parts:
                parts[name] = _build(cls_of_part, parts[name], f"dims.{name}")
        return _build(cls, parts, "dims")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        out = dataclasses.asdict(self)
        if out["vision"]["stem"] is not None:
            out["vision"]["stem"]["layers"] = list(out["vision"]["stem"]["layers"])
        return out

    @property
    def kv_width(self) -> int:
        """Columns of one layer's key (or value) projection."""
        return self.prefix.num_kv_heads * self.prefix.head_dim


@dataclass(frozen=True)
class DraftDims:
    """The draft head: one Gemma block over the prefix embeddings, a state token and `chunk` queries."""

    width: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    chunk: int = 50
    state_dim: int = 32
    out_dim: int = 7

    @classmethod
    def like(cls, base: Pi0Dims) -> DraftDims:
        """A block of the prefix transformer's sizes, so that a head can start from its layer 0."""
        g = base.prefix
        ends = base.action_horizon, base.action_dim, base.env_action_dim
        return cls(g.width, g.mlp_dim, g.num_heads, g.num_kv_heads, g.head_dim, *ends)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DraftDims:
        """From a draft manifest's `dims`."""
        return _build(cls, values, "dims (draft)")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return dataclasses.asdict(self)

    def check_fits(self, base: Pi0Dims) -> None:
        """Raise ArtifactError unless this head reads the prefix embeddings of `base`."""
        pairs = {
            "width": (self.width, base.prefix.width),
            "chunk": (self.chunk, base.action_horizon),
            "state_dim": (self.state_dim, base.action_dim),
            "out_dim": (self.out_dim, base.env_action_dim),
        }
        for name, (ours, theirs) in pairs.items():
            if ours != theirs:
                raise ArtifactError(
                    f"the draft head was made for other dims: its {name} is {ours}, the base policy needs {theirs}; "
                    "use the draft trained for this policy, or serve without --draft"
                )


# --- known policies ---

PI0_LIBERO = Pi0Dims(
    vision=VisionDims(width=1152, depth=27, mlp_dim=4304, num_heads=16, head_dim=72, patch=14),
    prefix=GemmaDims(width=2048, depth=18, mlp_dim=16384, num_heads=8, num_kv_heads=1, head_dim=256),
    expert=GemmaDims(width=1024, depth=18, mlp_dim=4096, num_heads=8, num_kv_heads=1, head_dim=256),
    vocab_size=257152,
)


def nano_dims(vocab_size: int, stem: bool = True) -> Pi0Dims:
    """The dims of pi0_nano: pi0's structure, smaller; `stem=False` is the patch encoder (patch 32)."""
    layers = (StemLayer(5, 2, 16), StemLayer(3, 2, 32), StemLayer(3, 2, 64), StemLayer(3, 2, 128))
    vision = VisionDims(
        width=128,
        depth=1 if stem else 3,
        mlp_dim=256,
        num_heads=4,
        head_dim=32,
        patch=None if stem else 32,
        stem=Stem(layers, pool=2) if stem else None,
    )
    prefix = GemmaDims(width=128, depth=3, mlp_dim=256, num_heads=4, num_kv_heads=1, head_dim=32)
    expert = GemmaDims(width=96, depth=3, mlp_dim=256, num_heads=4, num_kv_heads=1, head_dim=32)
    return Pi0Dims(vision=vision, prefix=prefix, expert=expert, vocab_size=vocab_size)


PRESETS = {"pi0_libero": PI0_LIBERO, "pi0_nano": nano_dims(vocab_size=64)}
