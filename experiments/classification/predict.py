"""Predictions of a trained classifier, of texts or of the words of sentences."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import data, nn
from tfm_jax.types import Params, TextClassificationBatch

__all__ = ["Batches", "predict", "predict_words"]

Batches = data.Loader[TextClassificationBatch[np.ndarray]]


def predict(model: nn.Pure[nn.Classifier], params: Params, batches: Batches, n: int) -> np.ndarray:
    """Predicts the class of each text.

    Args:
      model: the classifier.
      params: its parameters.
      batches: one pass over the texts.
      n: number of texts.

    Returns:
      int [n], in the order of the texts.
    """
    predicted = np.zeros(n, np.int64)
    for i, found in _classes(model, params, batches):
        predicted[i] = found
    return predicted


def predict_words(
    model: nn.Pure[nn.Classifier],
    params: Params,
    batches: Batches,
    examples: data.TokenClassificationExamples,
) -> list[np.ndarray]:
    """Predicts the class of each word, by its first token.

    Args:
      model: the classifier of tokens.
      params: its parameters.
      batches: one pass over the sentences.
      examples: the sentences.

    Returns:
      int [words] for each sentence; -1 for a word without a token.
    """
    predicted = [np.full(len(positions), -1, np.int64) for positions in examples.positions]
    for i, found in _classes(model, params, batches):
        has_token = examples.positions[i] >= 0
        predicted[i][has_token] = found[examples.positions[i][has_token]]
    return predicted


def _classes(
    model: nn.Pure[nn.Classifier], params: Params, batches: Batches
) -> Iterator[tuple[int, np.ndarray]]:
    """The number of each example and its classes: int [], or of tokens [T]."""

    @jax.jit
    def classify(params: Params, batch: dict[str, np.ndarray]) -> jax.Array:
        types = batch.get("token_types")
        return jnp.argmax(model.apply(params, batch["tokens"], batch["valid"], token_types=types), axis=-1)

    for batch in batches:
        assert "index" in batch  # a pass in order
        inputs = {"tokens": batch["tokens"], "valid": batch["valid"]}
        if "token_types" in batch:
            inputs["token_types"] = batch["token_types"]
        found = np.asarray(classify(params, inputs))
        yield from ((int(i), found[row]) for row, i in enumerate(batch["index"]) if i >= 0)
