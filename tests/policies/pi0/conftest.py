"""The tiny policy as artifact directories."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import sentencepiece
from policies.pi0.tiny import DIMS, DRAFT_DIMS, PROMPTS, write_artifact, write_stats

from flashtrail.policies.pi0.weights import init_base, init_draft


@pytest.fixture(scope="session")
def tokenizer_model() -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROMPTS * 4),
        model_writer=out,
        vocab_size=DIMS.vocab_size,
        model_type="bpe",
        hard_vocab_limit=False,
        user_defined_symbols=["\n"],
        minloglevel=2,
    )
    return out.getvalue()


@pytest.fixture
def artifact(tmp_path: Path, tokenizer_model: bytes) -> tuple[Path, Path]:
    """(base directory, draft directory)."""
    return write_policy(tmp_path, tokenizer_model)


def write_policy(directory: Path, tokenizer_model: bytes) -> tuple[Path, Path]:
    """Write the tiny policy below `directory` and return (base directory, draft directory)."""
    base, draft = directory / "base", directory / "draft"
    write_artifact(base, "base", init_base(DIMS, 0), DIMS.to_dict())
    write_stats(base / "norm_stats.json")
    (base / "tokenizer.model").write_bytes(tokenizer_model)
    write_artifact(draft, "draft", init_draft(DRAFT_DIMS, 1), DRAFT_DIMS.to_dict())
    return base, draft
