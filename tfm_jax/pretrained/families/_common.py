"""Settings that several families say in the same words."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from tfm_jax import nn, ops
from tfm_jax.nn import Rope
from tfm_jax.pretrained.family import Architecture, Config, Settings
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, dense

__all__ = [
    "activation_of",
    "activation_setting",
    "classifier",
    "inverse_frequencies",
    "labels_of",
    "partial_rope_of",
    "rope_of",
    "rope_settings",
    "wanted",
]

# Ours and theirs, where they differ.
_ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh", "relu_squared": "relu2", "identity": "linear"}


def activation_of(name: str) -> str:
    """Our name of their activation; a ValueError where there is none."""
    name = next((ours for ours, theirs in _ACTIVATIONS.items() if theirs == name), name)
    ops.activation(name)
    return name


def activation_setting(name: str) -> str:
    """Their name of our activation."""
    return _ACTIVATIONS.get(name, name)


def wanted(settings: Mapping[str, Any], **values: Any) -> None:
    """Raises a ValueError for each setting that has another value than the only one that we can do."""
    wrong = [
        f"{name}={settings[name]!r} is not supported, only {value!r}"
        for name, value in values.items()
        if settings.get(name, value) != value
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def rope_of(settings: Mapping[str, Any]) -> Rope:
    """Rotary positions of whole heads from ``rope_scaling``, else ``rope_parameters``, else an older key.

    Raises:
      ValueError: for another type than "default", a part of each head, and a theta that is no number.
    """
    where, found = _rope_parameters(settings)
    part = found.get("partial_rotary_factor", settings.get("partial_rotary_factor"))
    if part not in (None, 1.0):
        raise ValueError(f"{where}: partial_rotary_factor={part!r} is not supported, only 1.0")
    return Rope(_theta(settings, where, found, "rope_theta"), pairing="half")


def partial_rope_of(settings: Mapping[str, Any]) -> Rope:
    """Rotary positions of a part of each head, whose older keys GPT-NeoX has; else as ``rope_of``."""
    where, found = _rope_parameters(settings)
    part = found.get("partial_rotary_factor", settings.get("rotary_pct", 0.25))
    return Rope(_theta(settings, where, found, "rotary_emb_base"), pairing="half", fraction=part)


def _rope_parameters(settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The key that counts, ``rope_scaling`` where it has anything, and its object."""
    where = "rope_scaling" if settings.get("rope_scaling") else "rope_parameters"
    found = settings.get(where) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} must be an object, got {found!r}")
    for name in ("rope_type", "type"):
        if (kind := found.get(name, "default")) != "default":
            raise ValueError(f"{where} of the type {kind!r} is not supported, only 'default'")
    if nested := sorted(name for name, value in found.items() if isinstance(value, Mapping | list)):
        raise ValueError(f"{where} has parameters of a kind that is not supported: {nested}")
    return where, found


def _theta(settings: Mapping[str, Any], where: str, found: Mapping[str, Any], older: str) -> float:
    """Theta from the object, else from the older key, which is thereby known too."""
    base = found.get("rope_theta", settings.get(older, 10_000.0))
    if isinstance(base, bool) or not isinstance(base, int | float):
        raise ValueError(f"{older} or {where}.rope_theta must be a number, got {base!r}")
    return float(base)


def inverse_frequencies(config: nn.Config, shape: tuple[int, ...]) -> np.ndarray:
    """The buffer of old checkpoints with rotary positions: one over each pair's wavelength in radians."""
    return config.positions.theta ** (-np.arange(shape[0]) / shape[0])


def rope_settings(rope: Rope) -> dict[str, Any]:
    """The inverse of ``rope_of``, for readers of both."""
    return {
        "rope_parameters": {"rope_type": "default", "rope_theta": rope.theta},
        "rope_theta": rope.theta,
        "rope_scaling": None,
    }


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
    body: Callable[..., list[WeightMapping]],
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

    def names(config: nn.Config) -> list[WeightMapping]:
        pooled = [] if pooler is None else dense("encoder/pooler/dense", pooler)
        return [*body(config, ours="encoder/"), *pooled, *dense("head/dense", head)]

    def options(config: Config) -> dict[str, Any]:
        n = len(labels_of(config.settings))
        return {"n_classes": n, "pooling": pooling, "dropout_rate": dropout(config)}

    return Architecture(nn.Classifier, names, options, fields=fields)
