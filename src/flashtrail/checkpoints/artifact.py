"""Writes and verifies artifacts: the directory of safetensors, statistics, tokenizer and manifest that is served.

Tensors stream from source to file a few rows at a time, so peak memory is a few blocks whatever the model's size, and a
second conversion gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from pydantic import BaseModel, Field, TypeAdapter

import flashtrail
from flashtrail.base import documents, provenance
from flashtrail.base.errors import UserError, nearest
from flashtrail.checkpoints import convert, facts, layouts, lerobot, orbax, torch_tree
from flashtrail.policies import registry
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.errors import ArtifactError

FORMAT, VERSION = "flashtrail-artifact", 1
MODEL, NORM_STATS, TOKENIZER, MANIFEST = "model.safetensors", "norm_stats.json", "tokenizer.model", "manifest.json"
DTYPES = {"float32": ("F32", np.dtype(np.float32)), "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16))}
LIBERO_DIMS = {"state": 8, "actions": 7}  # what the client sends and takes
PADDED_DIM = 32  # openpi's action_dim, to which some statistics are padded
OTHER_ROBOT, TUNED = "these are another robot's statistics", "give a pi0 checkpoint tuned on LIBERO"
_GIVE = "give the norm_stats.json of its training"
_BLOCK_BYTES = 64 * 2**20
_LARGEST = 1e300


@dataclass(frozen=True)
class Stream:
    """One tensor to be written: its shape, and blocks that follow one another along its leading axis."""

    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[np.ndarray]]


def convert_base(
    source: str | Path, target: str | Path, dtype: str = "float32", fetched: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Convert a fetched tree (params/ or safetensors, statistics, facts.json, tokenizer.model) into the base artifact.

    `fetched`: fetched.json's content, recorded as the artifact's source. Returns the manifest. The directory is
    made aside and renamed when whole. Raises UserError naming the leaf, file, length or fact that is wrong.
    """
    source = Path(source)
    extra = facts.of_source(source)
    leaves = torch_tree.open_tree(source, extra) if is_torch(source) else orbax.open_tree(source / "params")
    pieces, dims = convert.plan_base(leaves, extra)
    place, stats, tokenizer = *statistics_of(source, extra.get("asset")), source / TOKENIZER
    use_of_stats(json.loads(stats), place, dims["action_dim"])
    check_tokenizer(tokenizer, dims["vocab_size"])
    streams = {piece.rule.name: _stream(piece, leaves) for piece in pieces}
    files = {NORM_STATS: stats, TOKENIZER: tokenizer.read_bytes()}
    transforms = {"delta_actions": bool(extra["delta_actions"])}
    return write_artifact(Path(target), "base", dtype, dims, streams, files, fetched, transforms)


def convert_draft(
    pt_path: str | Path,
    target: str | Path,
    dtype: str = "float32",
    base: str | Path | None = None,
    fetched: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Convert a draft `.pt` into the draft artifact directory `target`; returns the manifest.

    `base`: the base artifact it must fit; a head for other dims is refused before anything is written.
    """
    return write_draft(convert.draft_tensors(pt_path), target, dtype, base, fetched, pt_path)


def write_draft(
    draft: tuple[Mapping[str, np.ndarray], Mapping[str, int]],
    target: str | Path,
    dtype: str,
    base: str | Path | None,
    fetched: Mapping[str, Any] | None,
    source: str | Path,
) -> dict[str, Any]:
    """Write the draft artifact `target` of tensors and dims; see `convert_draft`. `source` is named in errors."""
    tensors, dims = draft
    if base is not None:
        _check_fits(dims, read_manifest(base, "base")["dims"], source)
    streams = {name: Stream(x.shape, _whole(x)) for name, x in sorted(tensors.items())}
    return write_artifact(Path(target), "draft", dtype, dims, streams, {}, fetched, {})


# --- streams ---


def _stream(piece: convert.Piece, leaves: Mapping[str, Any]) -> Stream:
    """Return the tensor's stream: whole if it cannot be cut, else in blocks of rows."""
    leaf, delta = leaves[piece.rule.leaf], piece.lora

    def whole() -> Iterator[np.ndarray]:
        yield piece.rule.arrange(leaf.read())

    def by_rows() -> Iterator[np.ndarray]:
        row_bytes = max(1, math.prod(leaf.shape[1:]) * leaf.dtype.itemsize)
        start = 0
        factors = None if delta is None else (leaves[delta.a].read(), leaves[delta.b].read())
        for rows in leaf.row_blocks(max(1, _BLOCK_BYTES // row_bytes)):
            if delta is not None and factors is not None:
                a, b = (factor[start : start + len(rows)] for factor in factors)
                rows = delta.merge(rows, a, b)
            yield piece.rule.arrange(rows)
            start += len(rows)

    return Stream(piece.shape, by_rows if piece.rule.by_rows else whole)


def _whole(x: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: iter([x])


def write_safetensors(path: Path, streams: Mapping[str, Stream], dtype: str) -> str:
    """Write a safetensors file, header first, then tensor by tensor in name order; return its sha256.

    The header's offsets follow from the shapes, so nothing needs to be held. Values are cast to `dtype` (round to
    nearest even). Raises UserError if a value is not finite.
    """
    code, number = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(streams):
        size = math.prod(streams[name].shape) * number.itemsize
        header[name] = {"dtype": code, "shape": list(streams[name].shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for data in _chunks(text, streams, number):
            digest.update(data)
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()


def _chunks(header: bytes, streams: Mapping[str, Stream], number: np.dtype) -> Iterator[bytes]:
    yield len(header).to_bytes(8, "little") + header
    for name in sorted(streams):
        written = 0
        for block in streams[name].blocks():
            if not np.isfinite(block).all():
                raise UserError(f"checkpoint tensor {name} has values that are not finite: fetch it again")
            values = np.ascontiguousarray(block.astype(number))
            written += values.size
            yield values.tobytes()
        if written != math.prod(streams[name].shape):
            raise UserError(f"checkpoint tensor {name} has {written} values for shape {streams[name].shape}")


# --- the directory ---


def write_artifact(
    target: Path,
    kind: str,
    dtype: str,
    dims: Mapping[str, Any],
    streams: Mapping[str, Stream],
    files: Mapping[str, bytes],
    fetched: Mapping[str, Any] | None,
    transforms: Mapping[str, Any],
    family: str | None = None,
) -> dict[str, Any]:
    """Write the artifact directory `target`, which appears when it is whole; returns the manifest.

    `family`: the word that the registry knows it by; None for pi0.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown artifact dtype {dtype!r}{nearest(dtype, DTYPES)}")
    with provenance.write_atomic(target) as directory:
        directory.mkdir(parents=True)
        _check_space(directory, streams, dtype)
        records = {MODEL: {"sha256": write_safetensors(directory / MODEL, streams, dtype)}}
        for name, content in files.items():
            (directory / name).write_bytes(content)
            records[name] = {"sha256": hashlib.sha256(content).hexdigest()}
        sized = {name: {**rec, "bytes": (directory / name).stat().st_size} for name, rec in records.items()}
        origin = fetched or {}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "kind": kind,
            **({} if family is None else {"family": family}),
            "dtype": dtype,
            "dims": dict(dims),
            "files": sized,
            "digest": artifact_digest(sized, dims),
            "source": {key: origin.get(key) for key in ("uri", "class", "digest")},
            "converter": {"package_version": flashtrail.__version__, "code_digest": provenance.code_digest(__file__)},
            "transforms": dict(transforms),
        }
        provenance.json_dump(manifest, directory / MANIFEST)
    return manifest


def artifact_digest(files: Mapping[str, Mapping[str, Any]], dims: Mapping[str, Any]) -> str:
    """Return the artifact's identity: SHA-256 over its files' digests, in name order, and its dims."""
    content = {"files": {name: files[name]["sha256"] for name in sorted(files)}, "dims": dims}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_space(directory: Path, streams: Mapping[str, Stream], dtype: str) -> None:
    need = sum(math.prod(s.shape) for s in streams.values()) * DTYPES[dtype][1].itemsize
    if need > (free := shutil.disk_usage(directory).free):
        raise UserError(f"{directory.parent} has {free / 1e9:.1f} GB free, the artifact needs {need / 1e9:.1f} GB")


# --- statistics and tokenizer ---


def is_torch(source: Path) -> bool:
    """Tell a fetched PyTorch checkpoint from an Orbax tree."""
    return not (source / "params").is_dir() and any(source.glob("*.safetensors"))


def statistics_of(source: Path, asset: str | None) -> tuple[str, bytes]:
    """Return where a fetched checkpoint's statistics are, and the norm_stats.json of them; UserError without any."""
    if is_torch(source) and not any(source.glob("assets/**/norm_stats.json")):
        if (found := lerobot.norm_stats(*torch_tree.local(source))) is None:
            raise UserError(
                f"{source} has no statistics, looked for in {lerobot.PLACES}: fetch those of its training too"
            )
        return f"{source / found[0]}", json.dumps(found[1], indent=2).encode()
    path = find_norm_stats(source, asset)
    provenance.json_load(path)
    return str(path), path.read_bytes()


def find_norm_stats(source: Path, asset: str | None = None) -> Path:
    """Return the norm_stats.json below assets/ (that of `asset`, where one is named); UserError if there is not one."""
    paths = sorted(source.glob("assets/**/norm_stats.json"))
    if asset is not None:
        paths = [path for path in paths if path == source / "assets" / asset / "norm_stats.json"]
    if len(paths) != 1:
        names = ", ".join(str(path.relative_to(source)) for path in paths) or "none"
        raise UserError(f"{source} needs exactly one norm_stats.json below assets/{asset or ''}; found: {names}")
    return paths[0]


def check_norm_stats(path: Path, action_dim: int) -> dict[str, str]:
    """Return which dims of state and actions are used, as ``0-7 of 32``; UserError unless the statistics fill them.

    `action_dim`: the dims of the model's state and actions. LIBERO's 8 and 7 must be there, alone or padded to
    `action_dim`; all finite; and the model must have room for both.
    """
    return use_of_stats(provenance.json_load(path), str(path), action_dim)


def use_of_stats(root: Any, path: str, action_dim: int | None = None) -> dict[str, str]:
    """The same from a file's content; without `action_dim` (before a leaf was read) any padding may be right."""
    stats = root.get("norm_stats") if isinstance(root, dict) else None
    if not isinstance(stats, dict):
        raise UserError(f"{path}: no norm_stats object at the root; give openpi's norm_stats.json")
    used = {}
    for key, size in LIBERO_DIMS.items():
        part = stats.get(key)
        if not isinstance(part, dict):
            raise UserError(f"{path}: norm_stats lacks {key!r}: {_GIVE}")
        if action_dim is not None and size > action_dim:
            raise UserError(
                f"{path}: LIBERO's {key} needs {size} dims, this model has {action_dim}: the statistics do not fit "
                "the model, and it cannot run on LIBERO"
            )
        padded = PADDED_DIM if action_dim is None else action_dim
        for field in ("mean", "std"):
            _check_vector(path, f"{key}.{field}", part.get(field), (size, padded))
        if len(part["mean"]) != len(part["std"]):
            raise UserError(
                f"{path}: {key} has {len(part['mean'])} means for {len(part['std'])} standard deviations: {_GIVE}"
            )
        if min(part["std"]) < 0:
            raise UserError(f"{path}: {key}.std has a negative entry: {_GIVE}")
        used[key] = f"0-{size - 1} of {len(part['mean'])}"
    return used


def _check_vector(path: str, name: str, values: Any, allowed: Sequence[int]) -> None:
    legal = " or ".join(map(str, dict.fromkeys(allowed)))
    if not isinstance(values, list) or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise UserError(f"{path}: {name} must be a list of {legal} numbers: {_GIVE}")
    if len(values) not in allowed:
        raise UserError(f"{path}: {name} has {len(values)} entries, not {legal}: {OTHER_ROBOT}; {TUNED}")
    if not all(abs(v) < _LARGEST for v in values):  # math.isfinite cannot take JSON's largest integers
        raise UserError(f"{path}: {name} has a value that is not finite: {_GIVE}")


def check_tokenizer(path: Path, vocab_size: int) -> None:
    """Raise UserError unless the file is a SentencePiece model whose ids all have an embedding row."""
    import sentencepiece

    if not path.is_file():
        raise UserError(f"{path} is missing: fetch the checkpoint with its tokenizer again")
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes()).get_piece_size()
    except (RuntimeError, ValueError):
        raise UserError(
            f"{path} is not a SentencePiece model: correct the policy's tokenizer and fetch again"
        ) from None
    if pieces > vocab_size:
        raise UserError(
            f"{path} has {pieces} pieces, the checkpoint embeds {vocab_size}: it is another model's tokenizer"
        )


# --- reading back ---


class _File(BaseModel):
    sha256: str
    bytes: int = Field(ge=0)


class _Manifest(BaseModel):
    """What every family's manifest has; a family may add to it."""

    kind: Literal["base", "draft"]
    files: dict[str, _File]
    dims: dict[str, Any]
    digest: str


def read_manifest(directory: str | Path, kind: str | None = None) -> dict[str, Any]:
    """Return an artifact's manifest; UserError if there is none, or it is of another format, version or kind."""
    path = Path(directory) / MANIFEST
    if not path.is_file():
        raise UserError(f"{directory} is not an artifact (no {MANIFEST}): convert a checkpoint first")
    manifest = provenance.json_load(path)
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise UserError(f"{path} is not a {FORMAT} manifest of version {VERSION}: convert the checkpoint again")
    documents.typed(TypeAdapter(_Manifest), manifest, str(path))
    if kind is not None and manifest["kind"] != kind:
        raise UserError(f"{directory} is a {manifest['kind']} artifact where a {kind} artifact is needed")
    return manifest


def take_artifact(source: str | Path, target: Path) -> dict[str, Any]:
    """Copy a finished base artifact, of any family, to the directory `target`, which appears when it is whole.

    Returns the manifest. UserError for a family that is not known, or files that are not those of the manifest.
    """
    source = Path(source)
    manifest = read_manifest(source, "base")
    if registry.family_of(source) == registry.PI0:
        verify_artifact(source)
    else:
        _verify_files(source, manifest)
    with provenance.write_atomic(target) as directory:
        directory.mkdir(parents=True)
        for name in (*manifest["files"], MANIFEST):
            shutil.copyfile(source / name, directory / name)
    return manifest


def verify_artifact(directory: str | Path) -> dict[str, Any]:
    """Check sizes, digests and the tensors' names, shapes and dtype against the manifest; return it.

    Raises UserError naming the first file or tensor that is missing, truncated, corrupted or of other dims.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    _verify_files(directory, manifest)
    _check_header(directory / MODEL, manifest)
    return manifest


_REPLACE = "convert the checkpoint again, or replace a copied artifact"


def _verify_files(directory: Path, manifest: Mapping[str, Any]) -> None:
    files = manifest["files"]
    for name in sorted(files):
        path = directory / name
        if Path(name).name != name:
            raise UserError(f"{directory / MANIFEST} names {name!r}, a file outside its directory: {_REPLACE}")
        if not path.is_file():
            raise UserError(f"{path} is missing: {_REPLACE}")
        size = path.stat().st_size
        if size != files[name]["bytes"]:
            raise UserError(f"{path} has {size} bytes, its manifest says {files[name]['bytes']}: {_REPLACE}")
        if provenance.sha256_file(path) != files[name]["sha256"]:
            raise UserError(f"{path} is corrupted (its SHA-256 is not the manifest's): {_REPLACE}")
    if manifest["digest"] != artifact_digest(files, manifest["dims"]):
        raise UserError(f"{directory / MANIFEST} was edited (its digest does not follow from its content): {_REPLACE}")


def read_header(path: Path) -> dict[str, Any]:
    """Return a safetensors file's header (name -> dtype, shape, data_offsets); UserError if it is not whole."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if 0 < length <= size - 8 else b""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max(entry["data_offsets"][1] for entry in header.values())
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{path} is not a safetensors file, or its header is cut off: convert the checkpoint again"
        ) from None
    if size != 8 + length + end:
        raise UserError(f"{path} is truncated: {size} bytes of {8 + length + end}; convert the checkpoint again")
    return header


def _check_header(path: Path, manifest: Mapping[str, Any]) -> None:
    if path.name not in manifest["files"]:
        raise UserError(f"{path.parent / MANIFEST} does not list {path.name}: convert the checkpoint again")
    header, dims = read_header(path), manifest["dims"]
    try:
        (Pi0Dims if manifest["kind"] == "base" else DraftDims).from_dict(dims)
        code = DTYPES[manifest["dtype"]][0]
    except (ArtifactError, KeyError, TypeError) as error:
        what = error if isinstance(error, ArtifactError) else f"dtype must be one of {', '.join(DTYPES)}"
        raise UserError(f"{path.parent / MANIFEST}: {what}") from None
    shapes = layouts.base_shapes(dims) if manifest["kind"] == "base" else layouts.draft_shapes(dims)
    for name in sorted(set(shapes) ^ set(header)):
        raise UserError(f"{path}: tensor {name} is {'missing' if name in shapes else 'not one of this model'}")
    for name, shape in shapes.items():
        if (tuple(header[name]["shape"]), header[name]["dtype"]) != (shape, code):
            raise UserError(f"{path}: {name} is {header[name]['dtype']} {header[name]['shape']}, not {code} {shape}")


def _check_fits(draft: Mapping[str, int], base: Mapping[str, Any], pt_path: str | Path) -> None:
    needed = {
        "width": base["prefix"]["width"],
        "state_dim": base["action_dim"],
        "chunk": base["action_horizon"],
        "out_dim": base["env_action_dim"],
    }
    for name, value in needed.items():
        if draft[name] != value:
            raise UserError(
                f"draft {pt_path} was trained for another model: its {name} is {draft[name]}, the base "
                f"artifact's is {value}"
            )
