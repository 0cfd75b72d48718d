"""The small SentencePiece model of pi0_nano, in PaliGemma's format: BOS, no dummy prefix, a newline piece.

Trained on the instructions of the LIBERO suites, so that an unseen instruction still splits into pieces.
"""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece

from flashtrail.base.provenance import write_atomic
from flashtrail.experiment.suites import SUITES

VOCAB_SIZE = 384


def instructions() -> list[str]:
    """Every task language of the five LIBERO suites, in suite order."""
    suites = [name for name, suite in SUITES.items() if suite.simulator == "libero"]
    return [language for suite in suites for language in task_languages(suite)]


def train(path: Path, lines: list[str]) -> None:
    """Write a BPE model of VOCAB_SIZE pieces; the same lines give the same bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sorted(set(lines))),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=["\n"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        num_threads=1,
        minloglevel=2,
    )
    with write_atomic(path) as temporary:
        temporary.write_bytes(model.getvalue())


def size(path: Path) -> int:
    """Pieces in the model."""
    return int(sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size())


def task_languages(suite: str) -> list[str]:
    """The task languages of one LIBERO suite."""
    from libero.libero import benchmark

    return [task.language for task in benchmark.get_benchmark_dict()[suite]().tasks]
