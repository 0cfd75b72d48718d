"""Identifies the model in a tree by its content: Orbax's leaf names, a safetensors header's keys, config.json.

Paths and folder names are ignored: people name a tree as they like. Reads metadata only, of bounded size, and
recognises a family by the leaves that only it has.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import orbax

PI0, PI05, FAST, SMOLVLA, ACT, UNKNOWN = "pi0", "pi0.5", "pi0-FAST", "SmolVLA", "ACT", "unknown"
OCDBT, ZARR = "Orbax (OCDBT)", "Orbax (a directory a leaf)"
SAFETENSORS, LEROBOT, PICKLE, NO_FORMAT = (
    "PyTorch (safetensors)",
    "LeRobot (safetensors)",
    "PyTorch (pickle)",
    "unknown",
)
METADATA_BYTES = 32 * 2**20  # of the largest metadata that is read; a released tree's are 21 kB
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_TYPES = {
    "pi0": PI0, "pi05": PI05, "pi0.5": PI05, "pi0fast": FAST, "pi0_fast": FAST, "smolvla": SMOLVLA, "act": ACT
}  # fmt: skip
_ARRAYS = ("/.zarray", "/zarr.json")
_PI0_TOPS = {
    "PaliGemma",
    "state_proj",
    "action_in_proj",
    "action_time_mlp_in",
    "action_time_mlp_out",
    "action_out_proj",
}
_TELLING = ("state_proj.weight", "action_time_mlp_in.weight", "time_mlp_in.weight")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_UNFINISHED = (".part", ".incomplete", ".gstmp", ".crdownload", ".aria2", ".tmp")
TORCH = (SAFETENSORS, LEROBOT)
Read = Callable[..., bytes]  # name, at most so many bytes, from which one on (0)


@dataclass(frozen=True)
class Identity:
    """What a tree is: `family` and `format` from the lists above, the leaves or keys that show it, any problem."""

    family: str
    format: str
    told_by: tuple[str, ...] = ()
    problem: str | None = None


NOTHING = Identity(UNKNOWN, NO_FORMAT)


def _unreadable(problem: str) -> Identity:
    return Identity(UNKNOWN, NO_FORMAT, problem=problem)


def identify(files: Mapping[str, int], read: Read) -> Identity:
    """Return the identity of a listing (name -> bytes); `read` is asked for metadata only."""
    if problem := _unfinished(files):
        return _unreadable(problem)
    try:
        if any(name.startswith("params/") for name in files):
            return _of_orbax(files, read)
        if tensors := weights_of(files):
            return _of_safetensors(files, tensors, read)
    except UserError as error:
        return _unreadable(str(error))
    if pickles := [name for name in files if name.endswith(_PICKLES)]:
        return Identity(UNKNOWN, PICKLE, (pickles[0],), "pickles are not opened")
    if deeper := [folder for name in files if (folder := _holder(name))]:
        return _unreadable(f"the checkpoint is in a subdirectory: give {max(deeper, key=_steps)} below it")
    if "_METADATA" in files or "manifest.ocdbt" in files:
        return _unreadable("this is a params directory itself: give the directory that holds it")
    return _unreadable("no params directory, no safetensors file: give openpi's checkpoint directory")


def weights_of(files: Iterable[str]) -> list[str]:
    """Return the names that hold a PyTorch model's weights: the folder's own safetensors, less processors' states."""
    return sorted(n for n in files if n.endswith(".safetensors") and "/" not in n and not n.startswith("policy_p"))


def _holder(name: str) -> str:
    """The folder below which a file makes a checkpoint, or nothing."""
    if "/params/" in name:
        return name.partition("/params/")[0]
    return name.removesuffix("/model.safetensors") if name.endswith("/model.safetensors") else ""


def _steps(folder: str) -> list[tuple[int, str]]:
    """Sorts folders by step where they are numbered: 10000 after 9999."""
    return [(int(part) if part.isdecimal() else -1, part) for part in folder.split("/")]


def family_of_leaves(leaves: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Return the family of an openpi JAX tree's leaf paths, and the leaves that show it."""
    expert = next((leaf for leaf in sorted(leaves) if "/q_einsum_1/" in leaf), None)
    if "state_proj/kernel" in leaves and "action_time_mlp_in/kernel" in leaves and expert:
        if odd := sorted(leaf for leaf in leaves if leaf.partition("/")[0] not in _PI0_TOPS):
            return UNKNOWN, (odd[0], "state_proj/kernel")  # what the others are of cannot be known
        return PI0, ("state_proj/kernel", "action_time_mlp_in/kernel", expert)
    if "time_mlp_in/kernel" in leaves and "state_proj/kernel" not in leaves:
        return PI05, ("time_mlp_in/kernel", "no state_proj")
    language = next((leaf for leaf in sorted(leaves) if leaf.startswith("PaliGemma/llm/")), None)
    if language and not expert and "action_in_proj/kernel" not in leaves:
        return FAST, (language, "no action_in_proj", "no second stack")
    return UNKNOWN, tuple(sorted(leaves)[:3])


def family_of_keys(keys: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """The same for the keys of a PyTorch checkpoint (openpi's or LeRobot's)."""
    plain = {key.removeprefix("model."): key for key in sorted(keys)}
    telling = [key for short, key in plain.items() if short in _TELLING]
    if len({key.startswith("model.") for key in telling}) > 1:  # of two models, or of a save that was mended by hand
        return UNKNOWN, tuple(telling)
    if "state_proj.weight" in plain and "action_time_mlp_in.weight" in plain:
        return PI0, (plain["state_proj.weight"], plain["action_time_mlp_in.weight"])
    for family, start in ((SMOLVLA, "vlm_with_expert."), (ACT, "vae_encoder"), (ACT, "encoder_robot_state_input_proj")):
        if found := next((key for short, key in plain.items() if short.startswith(start)), None):
            return family, (found,)
    if "time_mlp_in.weight" in plain and "state_proj.weight" not in plain:
        return PI05, (plain["time_mlp_in.weight"], "no state_proj")
    return UNKNOWN, tuple(sorted(keys)[:3])


def read_json(read: Read, name: str, size: int) -> Any:
    """Return a small JSON file's content; UserError where it is too large, cut off, a Git LFS pointer or not JSON."""
    if size > METADATA_BYTES:
        raise UserError(f"{name} has {size} bytes: metadata is never this large; the tree is damaged")
    text = read(name, size)
    if text.startswith(LFS_POINTER):
        raise UserError(pointer(name))
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{name} is cut off or not JSON: complete the copy or the download") from None


def pointer(name: str) -> str:
    """The sentence for a Git LFS pointer instead of a file."""
    return f"{name} is a Git LFS pointer, not the file itself: run `git lfs pull` in the clone, then run again"


def _of_orbax(files: Mapping[str, int], read: Read) -> Identity:
    name = "params/_METADATA"
    arrays = [PurePosixPath(f).parts[1] for f in files if f.startswith("params/") and f.endswith(_ARRAYS)]
    ocdbt = "params/manifest.ocdbt" in files
    form = OCDBT if ocdbt else ZARR if arrays else NO_FORMAT
    if name in files:
        stored = _metadata_leaves(read_json(read, name, files[name]))
    elif arrays and not ocdbt:
        stored, name = [path.replace(".", "/") for path in arrays], "the directories below params"
    else:
        known = " (Flax's msgpack file)" if "params/checkpoint" in files or "checkpoint" in files else ""
        return Identity(
            UNKNOWN, form, problem=f"params/_METADATA is missing{known}, which names the leaves: complete the copy, or "
            "save the tree again with Orbax"
        )  # fmt: skip
    problem: str | None = None
    if odd := orbax.partly_marked(stored):
        family, evidence = UNKNOWN, odd
        problem = (
            f"only some of its leaves have the same prefix or suffix ({_shown(odd)}; {name}): save the parameters of "
            "one model, and nothing beside them"
        )
    else:
        family, evidence = family_of_leaves(set(orbax.leaf_paths(dict.fromkeys(stored))))
        if family == UNKNOWN:
            problem = f"{_none_known('leaves', evidence, name)}: give a pi0 tree"
    if form == NO_FORMAT:
        problem = "params has neither manifest.ocdbt nor one directory per leaf: complete the copy or the download"
    return Identity(family, form, evidence, problem)


def _metadata_leaves(content: Any) -> list[str]:
    """Leaf paths of Orbax's _METADATA: its tree_metadata's keys are the text of tuples of names."""
    tree = content.get("tree_metadata") if isinstance(content, dict) else None
    try:
        leaves = ["/".join(str(part) for part in ast.literal_eval(key)) for key in tree]  # type: ignore[union-attr]
    except (TypeError, ValueError, SyntaxError, RecursionError, MemoryError):
        leaves = []
    if not leaves:
        raise UserError("params/_METADATA names no leaves: complete the copy, or save the tree again with Orbax")
    return leaves


def _of_safetensors(files: Mapping[str, int], tensors: Sequence[str], read: Read) -> Identity:
    config = read_json(read, "config.json", files["config.json"]) if "config.json" in files else {}
    kind = config.get("type") if isinstance(config, dict) else None
    form = LEROBOT if isinstance(kind, str) or "train_config.json" in files else SAFETENSORS
    keys: set[str] = set()
    for name in tensors[:64]:
        keys |= set(header(name, files[name], read)[1])
    family, evidence = family_of_keys(keys)
    if family == UNKNOWN and isinstance(kind, str):
        family, evidence = _TYPES.get(kind.lower(), UNKNOWN), (f"config.json: type {kind}",)
    return Identity(family, form, evidence, _none_known("keys", evidence, tensors[0]) if family == UNKNOWN else None)


def _none_known(kind: str, evidence: Sequence[str], path: str) -> str:
    """The sentence for a tree of no known family, with some of what it holds."""
    return f"its {kind} match no known model family ({_shown(evidence)}; {path})"


def _shown(names: Sequence[str]) -> str:
    return ", ".join(name if len(name) <= 40 else f"{name[:18]}...{name[-19:]}" for name in names) or "none"


def header(name: str, size: int, read: Read) -> tuple[int, dict[str, Any]]:
    """Return a safetensors header's length and its entries by tensor name; UserError where it is not whole."""
    start = read(name, 8)
    if start and LFS_POINTER.startswith(start):
        raise UserError(pointer(name))
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 0 < length <= min(size - 8, METADATA_BYTES):
        raise UserError(f"{name} is cut off in its header, or not a safetensors file: complete the copy or download")
    try:
        entries = json.loads(read(name, 8 + length)[8:])
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict) or not all(key.isprintable() for key in entries):
        raise UserError(f"{name} has a damaged header: complete the copy or the download")
    entries.pop("__metadata__", None)
    return length, entries


def _unfinished(files: Mapping[str, int]) -> str | None:
    """The sentence for the remains of an interrupted download or save."""
    for name in sorted(files):
        if name.split("/")[0] not in ("params", "assets") and "/" in name:
            continue
        if ".orbax-checkpoint-tmp" in name:
            return f"{name} belongs to a save that Orbax did not finish: take an earlier step, or save again"
        if name.endswith(_UNFINISHED):
            return f"{name} belongs to a download that did not finish: finish it, or remove its files"
    return None
