"""`flashtrail import-pickle`: artifacts made of the official runtime's directories.

    base/base_weights.pkl  base/assets/physical-intelligence/libero/norm_stats.json  draft/draft_triton.pkl

The pickle holds neither dims nor transforms: they are pi0_libero's, or those of base/flashtrail.json where it is there.
The tokenizer is base/tokenizer.model or the file that the command names.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, convert, official, pickles
from flashtrail.policies.pi0.dims import PI0_LIBERO

SIDECAR = "flashtrail.json"


def import_base(
    pickle_path: str | Path, target: str | Path, dtype: str = "bfloat16", tokenizer: str | Path | None = None
) -> dict[str, Any]:
    """Make a base artifact of a `base_weights.pkl` and the files beside it; returns the manifest. Raises UserError."""
    path = Path(pickle_path)
    path = path / "base_weights.pkl" if path.is_dir() else path
    described = _described(path.parent)
    stats, model = artifact.find_norm_stats(path.parent), Path(tokenizer or path.parent / artifact.TOKENIZER)
    artifact.check_norm_stats(stats, described["dims"]["action_dim"])
    artifact.check_tokenizer(model, described["dims"]["vocab_size"])
    streams = official.base_streams(pickles.load(path), described["dims"], path)
    files = {artifact.NORM_STATS: stats.read_bytes(), artifact.TOKENIZER: model.read_bytes()}
    origin = {"uri": path.name, "class": "OFFICIAL_TRITON_PICKLE", "digest": provenance.sha256_file(path)}
    return artifact.write_artifact(
        Path(target), "base", dtype, described["dims"], streams, files, origin, described["transforms"]
    )


def import_draft(
    pickle_path: str | Path, target: str | Path, dtype: str = "bfloat16", base: str | Path | None = None
) -> dict[str, Any]:
    """Make a draft artifact of a `draft_triton.pkl`; returns the manifest. Raises UserError."""
    path = Path(pickle_path)
    path = path / "draft_triton.pkl" if path.is_dir() else path
    origin = {"uri": path.name, "class": "OFFICIAL_TRITON_PICKLE", "digest": provenance.sha256_file(path)}
    head, meta = official.draft_source(path)
    return artifact.write_draft(convert.draft_arranged(head, meta, path), target, dtype, base, origin, path)


def _described(directory: Path) -> Mapping[str, Any]:
    sidecar = directory / SIDECAR
    if not sidecar.is_file():
        return {"dims": PI0_LIBERO.to_dict(), "transforms": {"delta_actions": True}}
    described = provenance.json_load(sidecar)
    if not isinstance(described, dict) or not {"dims", "transforms"} <= set(described):
        raise UserError(f"{sidecar} needs dims and transforms, as manifest.json has them, or remove the file")
    return described


class Import:
    """``flashtrail import-pickle``."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--base", type=Path, required=True, metavar="DIR", help="the directory with base_weights.pkl and assets/")
        add("--draft", type=Path, metavar="FILE", help="draft_triton.pkl, or its directory")
        add("--tokenizer", type=Path, metavar="FILE", help="SentencePiece model (default: that of the base's DIR)")
        add("--dtype", choices=sorted(artifact.DTYPES), default="bfloat16", help="of the artifact (default: bfloat16)")
        add("--output", type=Path, required=True, metavar="DIR", help="where the artifacts base/ and draft/ go")

    @staticmethod
    def run(options: argparse.Namespace) -> None:
        base = options.output / "base"
        print(f"{base}: {import_base(options.base, base, options.dtype, options.tokenizer)['digest']}")
        if options.draft is not None:
            draft = options.output / "draft"
            print(f"{draft}: {import_draft(options.draft, draft, options.dtype, base)['digest']}")
