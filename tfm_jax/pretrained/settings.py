"""Settings that several families say in the same words."""

from collections.abc import Mapping
from typing import Any

from tfm_jax import ops
from tfm_jax.nn import Rope

__all__ = ["activation_of", "activation_setting", "rope_of", "rope_settings", "wanted"]

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
    """The rotation that settings of version 5 (``rope_parameters``) or older ask for."""
    new, old = settings.get("rope_parameters") or {}, settings.get("rope_scaling") or {}
    for where, said in (("rope_parameters", new), ("rope_scaling", old)):
        for kind in {said.get("rope_type", "default"), said.get("type", "default")} - {"default"}:
            raise ValueError(f"{where} of the type {kind!r} is not supported, only 'default'")
        if unknown := said.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}:
            raise ValueError(f"what rotary positions are told is not supported: {sorted(unknown)}")
    for said in (settings, new, old):
        wanted(said, partial_rotary_factor=1.0)
    return Rope(float(new.get("rope_theta") or settings.get("rope_theta") or 10_000.0), pairing="half")


def rope_settings(rope: Rope) -> dict[str, Any]:
    """The inverse of ``rope_of``, for readers of both."""
    return {
        "rope_parameters": {"rope_type": "default", "rope_theta": rope.theta},
        "rope_theta": rope.theta,
        "rope_scaling": None,
    }
