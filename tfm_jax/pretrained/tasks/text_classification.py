"""Classification of texts, or of their tokens, with a checkpoint."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
import tokenizers
from jax.sharding import Mesh

from tfm_jax import nn
from tfm_jax.checks import as_texts
from tfm_jax.nn import Pure
from tfm_jax.pretrained.checkpoint_files import CheckpointFiles
from tfm_jax.pretrained.families import find_architecture, labels_of
from tfm_jax.pretrained.load import load_files
from tfm_jax.pretrained.tasks.batch_runner import (
    BatchRunner,
    Text,
    map_slices,
    max_length_of,
    replicated,
    require_tokenizer,
)
from tfm_jax.pretrained.tasks.labels import SCORES, Label, Scoring, best, scoring_of
from tfm_jax.pretrained.tokenizers.tokenizer_config import truncation_side
from tfm_jax.types import Array, Params

__all__ = ["TextClassifier", "TokenClassifier", "TokenLabel", "load_text_classifier"]


class TokenLabel(NamedTuple):
    """The label of the token or the word at ``text[start:end]``; the other fields are as in ``Label``."""

    start: int
    end: int
    label: str
    score: float
    scores: np.ndarray


@dataclass(frozen=True, eq=False)
class TextClassifier:
    """A sequence classifier with its tokenizer and labels.

    Equivalent to::

        scores = softmax(model.apply(params, tokens, valid))        # or sigmoid, or the logits
        Label(labels[scores.argmax()], scores.max(), scores)

    Args:
      model, params, tokenizer: from ``load``.
      labels: one per logit.
      scoring: ``"softmax"`` for one label per text, ``"sigmoid"`` for any number of labels, ``"none"`` for
        regression.
      max_length: of texts, in tokens; longer ones are truncated.
      mesh: whose devices share each batch and each hold the parameters; None is one device.
      truncation_side: of a longer text that is removed: ``"right"`` or ``"left"``.
      use_token_types: pass token types, which tell the texts of a pair apart, to a model that has them.
    """

    model: Pure
    params: Params
    tokenizer: tokenizers.Tokenizer
    labels: tuple[str, ...]
    scoring: Scoring = "softmax"
    max_length: int = 512
    mesh: Mesh | None = None
    truncation_side: str = "right"
    use_token_types: bool = True

    @functools.cached_property
    def _in_batches(self) -> BatchRunner:
        V = self.params["encoder"]["embedding"]["table"].shape[0]
        side = self.truncation_side
        return BatchRunner(self.tokenizer, self.max_length, self.mesh, side=side, vocab_size=V)

    def _run(self, tokens: Array, types: Array, valid: Array | None) -> Array:
        use_types = self.use_token_types and "token_types" in self.params["encoder"]["embedding"]
        used = types if use_types else None
        return _scores(self.params, tokens, used, valid, model=self.model, scoring=self.scoring)

    def __call__(self, texts: Sequence[Text], *, batch_size: int = 32) -> list[Label]:
        """The label of each text, or pair of texts, in order.

        Raises a ValueError for one text instead of a list, a None in the list, a ``batch_size`` below 1 and
        an id outside the vocabulary.
        """
        texts = as_texts("TextClassifier", "texts", texts, pairs=True)
        found = self._in_batches(texts, batch_size, self._run)
        return [Label(*best(self.labels, scores)) for _, scores in found]


@dataclass(frozen=True, eq=False)
class TokenClassifier(TextClassifier):
    """A token classifier with its tokenizer and labels.

    Args:
      of_words: label the words between spaces, by the first token of each, instead of all tokens: for a model
        that ``data.token_classification_examples`` trained, which had no label for the others.
      model, params, tokenizer, labels, scoring, max_length, mesh, truncation_side, use_token_types: as of a
        ``TextClassifier``.
    """

    of_words: bool = False

    def __call__(self, texts: Sequence[Text], *, batch_size: int = 32) -> list[list[TokenLabel]]:
        """The labels of each text's tokens or words, in order.

        Special tokens such as [CLS] have no label, nor have words that are truncated or have no token. Raises
        a ValueError for one text instead of a list, a None in the list, a pair of texts with ``of_words``, a
        ``batch_size`` below 1 and an id outside the vocabulary.
        """
        texts = as_texts("TokenClassifier", "texts", texts, pairs=not self.of_words)
        found = self._in_batches(texts, batch_size, self._run)
        places = (
            _words(text, encoding) if self.of_words else _tokens(encoding)
            for text, (encoding, _) in zip(texts, found, strict=True)
        )
        return [
            [TokenLabel(*span, *best(self.labels, scores[i])) for i, span in of_text]
            for of_text, (_, scores) in zip(places, found, strict=True)
        ]


def _tokens(encoding: tokenizers.Encoding) -> list[tuple[int, tuple[int, int]]]:
    """The position of each token that is not special, with its characters in the text."""
    special = encoding.special_tokens_mask
    return [(i, span) for i, span in enumerate(encoding.offsets) if not special[i]]


def _words(text: Text, encoding: tokenizers.Encoding) -> list[tuple[int, tuple[int, int]]]:
    """The position of the first token of each word, with the characters of the word."""
    from tfm_jax.data.token_classification import first_tokens  # slow: not before it is needed

    spans = [word.span() for word in re.finditer(r"\S+", str(text))]
    return [(int(i), span) for i, span in zip(first_tokens(spans, encoding), spans, strict=True) if i >= 0]


# One program for all classifiers of a config, however often it is loaded.
@functools.partial(jax.jit, static_argnames=("model", "scoring"))
def _scores(
    params: Params,
    tokens: Array,
    types: Array | None,
    valid: Array | None,
    *,
    model: Pure[nn.Classifier],
    scoring: Scoring,
) -> Array:
    """The scores [slices, B, ...] of token ids int32 [slices, B, T]."""

    def run(params: Params, tokens: Array, types: Array | None, valid: Array | None) -> Array:
        return SCORES[scoring](model.apply(params, tokens, valid, token_types=types))

    return map_slices(run, params, tokens, types, valid)


def load_text_classifier(
    path_or_repo_id: str | Path,
    dtype: Literal["float32", "bfloat16"] = "float32",
    mesh: Mesh | None = None,
    *,
    allow_pickle: bool = False,
) -> TextClassifier:
    """Loads a sequence or token classifier, such as a ``BertForSequenceClassification``.

    Args:
      path_or_repo_id: as for ``load``.
      dtype: of the parameters and the activations; the scores are float32.
      mesh: of devices that share each batch, as for ``load_sentence_encoder``.
      allow_pickle: as for ``load``.

    Returns:
      The ``TextClassifier``; a ``TokenClassifier`` for ``...ForTokenClassification``. Its scores follow
      ``problem_type``: sigmoid for "multi_label_classification" (or a single label), the logits for
      "regression", softmax for everything else and for tokens.

    Raises:
      FileNotFoundError: where there is no tokenizer.
      ValueError: for a model that is not a text classifier, an unknown ``problem_type``, a mesh with axes
        that are not of type Auto, and as ``load``.
    """
    files = CheckpointFiles.find(path_or_repo_id, allow_pickle=allow_pickle)
    model, params, config, _ = load_files(files, dtype, sharding=replicated(mesh))
    module = find_architecture(config.architecture).module
    if module is not nn.Classifier or config.model.patches is not None:
        raise ValueError(
            f"load_text_classifier: got {files}, a {config.architecture}; wanted a text classifier, such as "
            "BertForSequenceClassification or BertForTokenClassification."
        )
    tokenizer, settings = require_tokenizer(files), files.tokenizer_config
    of_tokens = config.architecture.endswith("ForTokenClassification")
    kind = TokenClassifier if of_tokens else TextClassifier
    return kind(
        model,
        params,
        tokenizer,
        labels_of(config.settings),
        scoring="softmax" if of_tokens else scoring_of(config.settings),
        max_length=max_length_of(settings.get("model_max_length"), tokenizer, config.model, files),
        mesh=mesh,
        truncation_side=truncation_side(files, settings),
        use_token_types="token_type_ids" in settings.get("model_input_names", ("token_type_ids",)),
    )
