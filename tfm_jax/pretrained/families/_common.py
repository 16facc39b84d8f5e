"""Settings that several families share: activations, rotary positions, labels, classifiers."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from tfm_jax import nn, ops
from tfm_jax.nn import Rope
from tfm_jax.pretrained.config_keys import Settings, TrackedSettings
from tfm_jax.pretrained.family import Architecture, CheckpointConfig
from tfm_jax.pretrained.field_map import NO_FIELDS, Converter, FieldMap, Fields, Group, expect
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, dense

__all__ = [
    "ACTIVATION",
    "ROPE",
    "activation_of",
    "activation_setting",
    "classifier",
    "inverse_frequencies",
    "labels_of",
    "partial_rope_of",
    "placement",
    "rope_of",
    "rope_settings",
]

# Our names and those of transformers, where they differ.
_ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh", "relu_squared": "relu2", "identity": "linear"}


def activation_of(name: str) -> str:
    """Our name of an activation of transformers; a ValueError for an unknown one."""
    name = next((key for key, value in _ACTIVATIONS.items() if value == name), name)
    ops.activation(name)
    return name


def activation_setting(activation: str | nn.Activation) -> str:
    """The name in transformers of our activation; a ValueError for one without a name."""
    if not isinstance(activation, str):
        raise ValueError(f"got {activation!r:.200}; wanted the name of an activation.")
    return _ACTIVATIONS.get(activation, activation)


ACTIVATION = Converter(activation_of, activation_setting)


def placement(when_true: str, when_false: str) -> Converter:
    """A flag that chooses between two values of ``norm_placement``."""
    return Converter(lambda flag: when_true if flag else when_false, lambda value: value == when_true)


def rope_of(settings: Settings) -> Rope:
    """Rotary positions of complete heads, from ``rope_scaling``, else ``rope_parameters``, else older keys.

    Raises:
      ValueError: for a type other than "default", a partial rotation, and a theta that is not a number.
    """
    key, found = _rope_parameters(settings)
    fraction = found.get("partial_rotary_factor", settings.get("partial_rotary_factor"))
    if fraction not in (None, 1.0):
        raise ValueError(
            f"got {key}.partial_rotary_factor={fraction!r}; wanted 1.0, the only supported value."
        )
    return Rope(_theta(settings, key, found, "rope_theta"), pairing="half")


def partial_rope_of(settings: Settings) -> Rope:
    """Rotary positions of a fraction of each head, with GPT-NeoX's older keys; otherwise as ``rope_of``."""
    key, found = _rope_parameters(settings)
    fraction = found.get("partial_rotary_factor", settings.get("rotary_pct", 0.25))
    return Rope(_theta(settings, key, found, "rotary_emb_base"), pairing="half", fraction=fraction)


def _rope_parameters(settings: Settings) -> tuple[str, Settings]:
    """The key that counts, ``rope_scaling`` unless it is empty, and its object."""
    key = "rope_scaling" if settings.get("rope_scaling") else "rope_parameters"
    found = settings.get(key) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"got {key}={found!r}; wanted an object.")
    for name in ("rope_type", "type"):
        if (kind := found.get(name, "default")) != "default":
            raise ValueError(f"got {key} of type {kind!r}; wanted 'default', the only supported type.")
    if nested := sorted(name for name, value in found.items() if isinstance(value, Mapping | list)):
        raise ValueError(f"got {key} with {nested}; wanted the same rotation in every layer.")
    return key, found


def _theta(settings: Settings, key: str, found: Settings, older: str) -> float:
    """Theta from the object, else from the older key."""
    base = found.get("rope_theta", settings.get(older, 10_000.0))
    if isinstance(base, bool) or not isinstance(base, int | float):
        raise ValueError(f"got {base!r} for {older} or {key}.rope_theta; wanted a number.")
    return float(base)


def inverse_frequencies(config: nn.Config, shape: tuple[int, ...]) -> np.ndarray:
    """The ``inv_freq`` buffer of old checkpoints: theta ** -(2 i / H) of each pair i of elements."""
    return expect(config.positions, Rope).theta ** (-np.arange(shape[0]) / shape[0])


def rope_settings(model: nn.Config) -> dict[str, object]:
    """The inverse of ``rope_of``, in the keys of transformers 5 and of older versions."""
    rope = expect(model.positions, Rope)
    return {
        "rope_parameters": {"rope_type": "default", "rope_theta": rope.theta},
        "rope_theta": rope.theta,
        "rope_scaling": None,
    }


def _read_rope(settings: TrackedSettings) -> Fields:
    return {"positions": rope_of(settings)}


ROPE = Group(_read_rope, rope_settings, variants={"positions": (Rope,)})


def labels_of(settings: Settings) -> tuple[str, ...]:
    """The labels of the logits in order, from ``id2label`` or ``num_labels``; two where neither is present.

    Raises:
      ValueError: for ids other than 0, 1, ..., and a ``num_labels`` that disagrees with ``id2label``.
    """
    count, names = settings.get("num_labels"), settings.get("id2label")
    if names is None:
        count = 2 if count is None else count
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"config.json: got num_labels={count!r}; wanted an integer of at least 1.")
        return tuple(f"LABEL_{i}" for i in range(count))
    try:
        by_id = {int(i): str(name) for i, name in names.items()}
    except (AttributeError, TypeError, ValueError):
        by_id = {}
    if not by_id or sorted(by_id) != list(range(len(names))):
        raise ValueError(f"config.json: got id2label={names!r}; wanted a name for each logit 0, 1, ....")
    if count not in (None, len(by_id)):
        raise ValueError(
            f"config.json: got num_labels={count!r} beside id2label={names!r}; wanted {len(by_id)}, or no "
            "num_labels."
        )
    return tuple(by_id[i] for i in range(len(by_id)))


def classifier(
    encoder: Callable[..., list[WeightMapping]],
    pooling: Literal["first"] | None,
    dropout: Callable[[CheckpointConfig], float],
    dropout_setting: str = "",
    *,
    head: str = "classifier",
    pooler: str | None = None,
    fields: FieldMap = NO_FIELDS,
) -> Architecture:
    """The architecture of a classifier of sequences, or of tokens.

    Args:
      encoder: ``encoder(config, param="encoder/")``, the tensors of the encoder.
      pooling: as in ``nn.Classifier``.
      dropout: the rate before the head.
      dropout_setting: as in ``Architecture``.
      head, pooler: the names of the two dense layers in the checkpoint; None is no pooler.
      fields: as in ``Architecture``.

    Returns:
      The Architecture.
    """

    def names(config: nn.Config) -> list[WeightMapping]:
        pooled = [] if pooler is None else dense("encoder/pooler/dense", pooler)
        return [*encoder(config, param="encoder/"), *pooled, *dense("head/dense", head)]

    def options(config: CheckpointConfig) -> dict[str, object]:
        n = len(labels_of(config.settings))
        return {"n_classes": n, "pooling": pooling, "dropout_rate": dropout(config)}

    return Architecture(nn.Classifier, names, options, fields, dropout_setting=dropout_setting)
