"""What the families' classifiers share: their labels, and a head on an encoder."""

from collections.abc import Callable
from typing import Any, Literal

from tfm_jax import nn
from tfm_jax.pretrained.config import Architecture, Config, Settings
from tfm_jax.pretrained.names import Entry, dense

__all__ = ["classifier", "labels_of"]


def labels_of(settings: Settings) -> tuple[str, ...]:
    """The labels by the number of their logit, from ``id2label`` or ``num_labels``; two where neither is.

    Raises:
      ValueError: for numbers that are not 0, 1, ..., and a ``num_labels`` that is another.
    """
    said, names = settings.get("num_labels"), settings.get("id2label")
    if names is None:
        n = 2 if said is None else said
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"num_labels must be a whole number, at least 1, got {n!r}")
        return tuple(f"LABEL_{i}" for i in range(n))
    try:
        by_number = {int(number): str(name) for number, name in names.items()}
    except (AttributeError, TypeError, ValueError):
        by_number = {}
    if not by_number or sorted(by_number) != list(range(len(names))):
        raise ValueError(f"id2label must name the labels 0, 1, ... of the logits, got {names!r}")
    if said not in (None, len(by_number)):
        raise ValueError(f"num_labels={said!r}, but id2label has {len(by_number)}: {names!r}")
    return tuple(by_number[i] for i in range(len(by_number)))


def classifier(
    body: Callable[..., list[Entry]],
    pooling: Literal["first"] | None,
    dropout: Callable[[Config], float],
    *,
    head: str = "classifier",
    pooler: str | None = None,
    fields: Callable[[Settings], dict[str, Any]] = lambda settings: {},
) -> Architecture:
    """The architecture of a classifier of sequences, or of tokens.

    Args:
      body: ``body(config, ours="encoder/")``, the entries of the encoder.
      pooling: as ``nn.Classifier`` takes it.
      dropout: the rate before the head.
      head, pooler: their names of the two dense layers; None where there is no pooler.
      fields: as ``Architecture`` takes it.

    Returns:
      The Architecture.
    """

    def names(config: nn.Config) -> list[Entry]:
        pooled = [] if pooler is None else dense("encoder/pooler/dense", pooler)
        return [*body(config, ours="encoder/"), *pooled, *dense("head/dense", head)]

    def options(config: Config) -> dict[str, Any]:
        n = len(labels_of(config.settings))
        return {"n_classes": n, "pooling": pooling, "dropout_rate": dropout(config)}

    return Architecture(nn.Classifier, names, options, fields=fields)
