"""A method with its weights: drawn, pretrained now or before, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from benchmark import published, repro, weights
from benchmark.checkpoints import checkpoint_file
from benchmark.context import Context
from benchmark.data.text import REPORT, train_tokenizer
from benchmark.errors import Unsupported, UserError
from benchmark.hub import read_tokenizer, read_vocabulary
from benchmark.plan import Entrant
from benchmark.pretrain import Pretrained, pretrain, read_pretrained
from benchmark.store import Store, alone
from benchmark.training.batches import training_rows
from benchmark.types import Scalar, reads_reports


def prepare(entrant: Entrant, store: Store, context: Context) -> tuple[Any, Pretrained | None, dict[str, Scalar]]:
    """Builds a method and gives it its weights.

    Returns:
        The method, frozen, on the device and in eval mode; the record of its pretraining; notes for every result.

    Raises:
        Unavailable: weights that cannot be had. Unsupported: no report to learn a vocabulary from.
        UserError: a checkpoint that does not fit, or a loss that is not finite.
    """
    folder = store.pretrained_folder(entrant.pretraining.key) if entrant.pretraining else None
    stored = _stored_folder(entrant, folder)
    state = weights.load(checkpoint_file(entrant.checkpoint)) if entrant.checkpoint is not None else {}
    tokenizer = _tokenizer(entrant, stored, state) if reads_reports(entrant.method) else None
    if tokenizer is not None and stored is not None and entrant.layout is None:
        _require_words(tokenizer, state, stored / "tokenizer.json")
    with repro.seeded(entrant.seed, "init"):
        method = entrant.method.build(_without_downloads(entrant.config) if stored else entrant.config, tokenizer)
    record, notes = None, dict[str, Scalar]()
    if entrant.checkpoint is not None:
        file = checkpoint_file(entrant.checkpoint)
        if entrant.layout is not None:
            notes |= published.apply(method, entrant.layout, state, f"checkpoint {file}")
        else:
            weights.apply(method, state, f"checkpoint {file}")
            if tokenizer is not None:
                _require_vocabulary(method, tokenizer, file)
    elif entrant.pretraining is not None and folder is not None:
        with alone(folder):
            record = pretrain(method, entrant.corpus, entrant.pretraining, entrant.recipe, folder, context)
    method.to(context.device).eval().requires_grad_(False)
    notes["weights_sha256"] = record.sha256 if record else weights.state_sha256(method)
    if record:
        notes["pretraining_rows_skipped"] = record.rows_skipped
        notes["pretraining_texts_truncated"] = record.texts_truncated
        notes["pretraining_data"] = f"{record.spec['dataset']} {record.spec['dataset_version']}"
    return method, record, notes


def _stored_folder(entrant: Entrant, folder: Path | None) -> Path | None:
    """The folder of complete weights that will be loaded, so that nothing else needs to be."""
    if entrant.checkpoint is not None:
        return checkpoint_file(entrant.checkpoint).parent
    return folder if folder is not None and read_pretrained(folder) is not None else None


def _without_downloads(config: Any) -> Any:
    """The configuration with towers drawn at random: every weight will be replaced."""
    drawn = {item.name: "none" for item in fields(config) if item.name in ("image_weights", "text_weights")}
    return replace(config, **drawn)


def _tokenizer(entrant: Entrant, stored: Path | None, state: Mapping[str, Tensor]) -> Tokenizer | None:
    """That of the stored weights, the one asked for, or one learned here; None where published weights read no text."""
    if entrant.layout is not None and entrant.checkpoint is not None:
        layout, file = entrant.layout, checkpoint_file(entrant.checkpoint)
        return published.tokenizer_of(layout, state, file) if layout.vocabulary else None
    if stored is not None and (stored / "tokenizer.json").is_file():
        return read_tokenizer(stored / "tokenizer.json")
    if entrant.vocabulary:
        return read_vocabulary(entrant.vocabulary)
    corpus = entrant.corpus
    texts = corpus.texts(training_rows(corpus, with_text=True), REPORT)
    if not texts:
        raise Unsupported(
            f"{entrant.name} reads text, and {corpus.name} has no training reports to learn a vocabulary from; name a set with "
            "reports by --pretrain-data, or give trained weights by --checkpoint"
        )
    return train_tokenizer(texts)


def _require_words(tokenizer: Tokenizer, state: Mapping[str, Tensor], file: Path) -> None:
    """Raises UserError where a vocabulary has another number of words than the weights, or lacks BERT's special ones."""
    words = [len(item) for name, item in state.items() if name.endswith("embeddings.word_embeddings.weight")]
    lacking = [name for name in ("[PAD]", "[SEP]", "[MASK]") if tokenizer.token_to_id(name) is None]
    if words and file.is_file() and (lacking or words[0] != tokenizer.get_vocab_size()):
        reason = f"has no {lacking[0]}" if lacking else f"has {tokenizer.get_vocab_size()} words, the weights {words[0]}"
        raise UserError(f"{file} is not the vocabulary of the weights beside it: it {reason}; copy both from one folder")


def _require_vocabulary(method: Any, tokenizer: Tokenizer, file: Path) -> None:
    """Raises UserError where a checkpoint would read text by a vocabulary learned here: other words under its numbers."""
    if not file.with_name("tokenizer.json").is_file() and method.tokenizer.get_vocab() == tokenizer.get_vocab():
        raise UserError(f"checkpoint {file} has no tokenizer.json beside it, the vocabulary it was trained with; copy both")
