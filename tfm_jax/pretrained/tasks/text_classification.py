"""Texts into labels, by a classifier of sequences or of tokens."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tokenizers
from jax.sharding import Mesh

from tfm_jax import nn
from tfm_jax.checks import as_texts
from tfm_jax.nn import Pure
from tfm_jax.pretrained.families import known
from tfm_jax.pretrained.families._common import labels_of
from tfm_jax.pretrained.family import Settings
from tfm_jax.pretrained.hub import directory_of
from tfm_jax.pretrained.load import load
from tfm_jax.pretrained.tasks.batch_runner import (
    BatchRunner,
    Text,
    length_of,
    on_all_of,
    over_slices,
    tokenizer_in,
)
from tfm_jax.pretrained.tokenizers.special_tokens import declared, truncation_side
from tfm_jax.types import Array, Params

__all__ = ["Label", "TextClassifier", "TokenClassifier", "TokenLabel", "load_text_classifier"]

Scoring = Literal["softmax", "sigmoid", "none"]
_SCORING = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid, "none": lambda logits: logits}


class Label(NamedTuple):
    """What a text is.

    Args:
      label: that with the highest score.
      score: of it.
      scores: of all, float32 [n_classes], in the order of the classifier's ``labels``.
    """

    label: str
    score: float
    scores: np.ndarray


class TokenLabel(NamedTuple):
    """What a token is, and where it stands: ``text[start:end]``; the rest is as of ``Label``."""

    start: int
    end: int
    label: str
    score: float
    scores: np.ndarray


@dataclass(frozen=True, eq=False)
class TextClassifier:
    """A classifier of sequences, its tokenizer, and the names of its labels.

    Equivalent to::

        scores = softmax(model.apply(params, tokens, valid))        # or sigmoid, or the logits themselves
        Label(labels[scores.argmax()], scores.max(), scores)

    Args:
      model, params, tokenizer: from ``load``.
      labels: one a logit.
      scoring: ``"softmax"`` where one label is right, ``"sigmoid"`` where any number may be, ``"none"`` for
        numbers that are no probabilities (regression).
      max_length: in tokens, to which texts are cut.
      mesh: whose devices share each batch, where the parameters are on all of them; None is one device.
      truncation_side: from which a longer text is cut: ``"right"`` or ``"left"``.
      reads_types: whether the model reads which of a pair a token is of, if it can.
    """

    model: Pure
    params: Params
    tokenizer: tokenizers.Tokenizer
    labels: tuple[str, ...]
    scoring: Scoring = "softmax"
    max_length: int = 512
    mesh: Mesh | None = None
    truncation_side: str = "right"
    reads_types: bool = True

    @functools.cached_property
    def _in_batches(self) -> BatchRunner:
        V = self.params["encoder"]["embedding"]["table"].shape[0]
        side = self.truncation_side
        return BatchRunner(self.tokenizer, self.max_length, self.mesh, side=side, vocab_size=V)

    @functools.cached_property
    def _run(self):
        typed = self.reads_types and "token_types" in self.params["encoder"]["embedding"]
        run = functools.partial(_scores, self.model, _SCORING[self.scoring], typed)
        return functools.partial(jax.jit(functools.partial(over_slices, run)), self.params)

    def __call__(self, texts: Sequence[Text], *, batch_size: int = 32) -> list[Label]:
        """The label of each text, or pair of texts, in their order.

        One text that is no list, a None in it, a ``batch_size`` below 1 and an unknown token are ValueErrors.
        """
        texts = as_texts("TextClassifier", "texts", texts, pairs=True)
        found = self._in_batches(texts, batch_size, self._run)
        return [Label(*_best(self.labels, scores)) for _, scores in found]


class TokenClassifier(TextClassifier):
    """A classifier of tokens; all else is as of ``TextClassifier``."""

    def __call__(self, texts: Sequence[Text], *, batch_size: int = 32) -> list[list[TokenLabel]]:
        """The labels of each text's tokens, without the special ones such as [CLS], in their order.

        One text that is no list, a None in it, a ``batch_size`` below 1 and an unknown token are ValueErrors.
        """
        texts = as_texts("TokenClassifier", "texts", texts, pairs=True)
        found = self._in_batches(texts, batch_size, self._run)
        return [
            [
                TokenLabel(*encoding.offsets[i], *_best(self.labels, scores[i]))
                for i, special in enumerate(encoding.special_tokens_mask)
                if not special
            ]
            for encoding, scores in found
        ]


def _scores(
    model: Pure,
    scoring: Any,
    typed: bool,
    params: Params,
    tokens: Array,
    types: Array,
    valid: Array | None,
):
    return scoring(model.apply(params, tokens, valid, token_types=types if typed else None))


def _best(labels: tuple[str, ...], scores: np.ndarray) -> tuple[str, float, np.ndarray]:
    best = int(scores.argmax())
    return labels[best], float(scores[best]), scores


def load_text_classifier(
    path_or_repo_id: str | Path,
    dtype: Literal["float32", "bfloat16"] = "float32",
    mesh: Mesh | None = None,
    *,
    allow_pickle: bool = False,
) -> TextClassifier:
    """Loads a classifier of sequences or of tokens, such as a ``BertForSequenceClassification``.

    Args:
      path_or_repo_id: as ``load`` takes it.
      dtype: of the parameters and the activations; the scores are float32.
      mesh: of devices that share each batch, as ``load_sentence_encoder`` takes it.
      allow_pickle: as ``load`` takes it.

    Returns:
      The ``TextClassifier``; a ``TokenClassifier`` for ``...ForTokenClassification``. ``problem_type`` says
      how logits become scores: "multi_label_classification" (or a single label) by the sigmoid, "regression"
      not at all, everything else, and all tokens, by the softmax.

    Raises:
      FileNotFoundError: where there is no tokenizer.
      ValueError: for a model that is no classifier of texts, another ``problem_type``; for a mesh whose axes
        are not all of type Auto; as ``load``.
    """
    sharding = on_all_of(mesh)
    directory = directory_of(path_or_repo_id, allow_pickle=allow_pickle)
    model, params, config, tokenizer = load(directory, dtype, sharding=sharding, allow_pickle=allow_pickle)
    module = known(config.architecture).architectures[config.architecture].module
    if module is not nn.Classifier or config.model.patches is not None:
        raise ValueError(
            f"{directory} is a {config.architecture}, wanted a classifier of texts, such as "
            "BertForSequenceClassification or BertForTokenClassification"
        )
    tokenizer = tokenizer_in(directory, tokenizer)
    said = declared(directory)
    of_tokens = config.architecture.endswith("ForTokenClassification")
    kind = TokenClassifier if of_tokens else TextClassifier
    return kind(
        model,
        params,
        tokenizer,
        labels_of(config.settings),
        scoring="softmax" if of_tokens else _scoring(config.settings),
        max_length=length_of(said.get("model_max_length"), tokenizer, config.model, directory),
        mesh=mesh,
        truncation_side=truncation_side(directory, said),
        reads_types="token_type_ids" in said.get("model_input_names", ("token_type_ids",)),
    )


def _scoring(settings: Settings) -> Scoring:
    by_problem = {
        None: "sigmoid" if len(labels_of(settings)) == 1 else "softmax",
        "regression": "none",
        "multi_label_classification": "sigmoid",
        "single_label_classification": "softmax",
    }
    problem = settings.get("problem_type")
    if problem not in by_problem:
        raise ValueError(f"problem_type={problem!r} is not known; known are {list(by_problem)}")
    return by_problem[problem]
