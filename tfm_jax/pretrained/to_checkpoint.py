"""A model as a checkpoint of transformers: the architecture that holds it, and its parameters there."""

import dataclasses
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, NamedTuple

from flax import nnx

from tfm_jax import nn
from tfm_jax.nn import Pure
from tfm_jax.nn.functional import skeleton_of
from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.equivalent import Equivalent, equivalents
from tfm_jax.pretrained.families import FAMILIES
from tfm_jax.pretrained.family import CheckpointConfig, Family, Misfit
from tfm_jax.pretrained.load import model_of
from tfm_jax.types import Params

__all__ = ["NoFamilyError", "to_checkpoint"]

_NO_SETTINGS: Settings = MappingProxyType({})
_SHOWN = 6
"""Fields that an error names at most."""
_UNUSED: dict[type[nnx.Module], tuple[str, ...]] = {
    nn.Decoder: ("share_embeddings", "n_decoder_layers"),
    nn.EncoderDecoder: (),
    nn.Encoder: ("tie_embeddings", "share_embeddings", "n_decoder_layers"),
    nn.MaskedLanguageModel: ("share_embeddings", "n_decoder_layers"),
    nn.Classifier: ("tie_embeddings", "share_embeddings", "n_decoder_layers"),
}
"""Fields of ``nn.Config`` that a class of models ignores."""


class NoFamilyError(ValueError):
    """No architecture of transformers holds a model.

    Args:
      architecture: the nearest one.
      misfits: the fields that differ from it.
    """

    def __init__(self, architecture: str, misfits: tuple[Misfit, ...]):
        self.architecture, self.misfits = architecture, misfits
        super().__init__(
            "to_checkpoint: got a model that no family of transformers holds; wanted one that fits. The "
            f"nearest is {architecture}, {_describe(misfits)}."
        )


class _Candidate(NamedTuple):
    """An architecture, a model that equals ours and is as close to it as can be, and what still differs."""

    family: Family
    config: CheckpointConfig
    steps: tuple[Equivalent, ...]
    misfits: tuple[Misfit, ...]

    @property
    def cost(self) -> tuple[bool, int, int]:
        """Whether the format has no such size, how many fields do not fit, and how many parameters change."""
        has_no_size = any(not misfit.field for misfit in self.misfits)
        return has_no_size, len(self.misfits), sum(step.changes_params for step in self.steps)


def to_checkpoint(
    model: Pure[nnx.Module],
    params: Params,
    settings: Settings = _NO_SETTINGS,
    *,
    max_length: int | None = None,
) -> tuple[Params, CheckpointConfig]:
    """Finds the architecture of transformers that holds a model, for ``save``.

    The architectures of the model's class are tried in the order of ``families.FAMILIES``, the most common
    of a kind first. The first that has every field of the config is taken; else the one that holds an equal
    model with the fewest changes: biases that are zeros, a scaled embedding table, another pairing of rotated
    elements, learned positions with the values of sinusoidal ones. Dropout rates that it lacks are left out.

    Args:
      model: from ``nn.functionalize``: a ``Decoder``, ``EncoderDecoder``, ``Encoder``,
        ``MaskedLanguageModel`` or ``Classifier``.
      params: its parameters.
      settings: further keys of ``config.json``, such as ids of special tokens, and ``id2label`` of a
        classifier.
      max_length: most tokens of an input. Only sinusoidal positions that become learned ones need it.

    Returns:
      ``(params, config)``: ``save(directory, params, config, tokenizer)`` writes what transformers loads with
      the same logits, but for rounding. A float32 model whose config fits has its own parameters.

    Raises:
      NoFamilyError: a ValueError: no architecture holds the model. The message names the nearest, and the
        fields that differ.
      ValueError: for a model of another class, and ``id2label`` with another number of classes.
    """
    every = [_candidate(model, *each, settings, max_length) for each in _architectures(model)]
    found = [candidate for candidate in every if candidate is not None]
    if not found:
        known = ", ".join(sorted(f"nn.{kind.__name__}" for kind in _UNUSED))
        raise ValueError(f"to_checkpoint: got {model}; wanted one of {known}, which transformers has.")
    best = min(found, key=lambda candidate: candidate.cost)
    if best.misfits:
        raise NoFamilyError(best.config.architecture, best.misfits)
    return _converted(model, params, best), best.config


def _architectures(model: Pure[nnx.Module]) -> Iterator[tuple[Family, str]]:
    """The architectures of the model's class and input."""
    if model.module not in _UNUSED:
        return
    of_images = model.config.patches is not None
    for family in FAMILIES:
        for name, architecture in family.architectures.items():
            has_patches = nn.Patches in family.fields_of(name).variants()["patches"]
            if architecture.module is model.module and has_patches == of_images:
                yield family, name


def _candidate(
    model: Pure[nnx.Module], family: Family, name: str, settings: Settings, max_length: int | None
) -> _Candidate | None:
    """The closest model of an architecture; None where one of the two classifies tokens, the other texts."""
    unused = {field: getattr(nn.Config(), field) for field in _UNUSED[_class(model)]}
    fields, misfits = dataclasses.replace(model.config, **unused), []
    architecture = family.architectures[name]
    if architecture.module is nn.Classifier:
        head = _skeleton(model).head
        pooling = "first" if model.config.pooler is not None else head.pooling
        n_classes = head.dense.kernel.shape[-1]
        known = {"num_labels": n_classes} if "id2label" not in settings else {}
        rate = {architecture.dropout_setting: head.dropout_rate} if architecture.dropout_setting else {}
        settings = {**known, **rate, **settings}
        wanted = architecture.options(CheckpointConfig(name, fields, settings))
        if wanted["n_classes"] != n_classes:
            raise ValueError(
                f"to_checkpoint: got settings for {wanted['n_classes']} labels; wanted {n_classes}, one per "
                "class. Correct id2label, or leave it and num_labels out."
            )
        if (wanted["pooling"] is None) != (pooling is None):
            return None
        if wanted["pooling"] != pooling:
            misfits.append(Misfit("pooling", pooling, wanted["pooling"], repr(wanted["pooling"])))
    if architecture.module is nn.MaskedLanguageModel:
        wanted = architecture.options(CheckpointConfig(name, fields)).get("activation", "gelu")
        if (activation := _skeleton(model).activation) != wanted:
            misfits.append(Misfit("activation", activation, wanted, repr(wanted)))
    config, steps, others = _closest(family, CheckpointConfig(name, fields, settings), unused, max_length)
    return _Candidate(family, config, steps, (*misfits, *others))


def _closest(
    family: Family, config: CheckpointConfig, unused: dict[str, Any], max_length: int | None
) -> tuple[CheckpointConfig, tuple[Equivalent, ...], list[Misfit]]:
    """The equal model that is closest to a family's, the steps to it, and what still differs."""
    steps: list[Equivalent] = []
    while True:
        misfits = _misfits(family, config)
        step = next((s for x in misfits for s in _steps(config.model, x, max_length)), None)
        if step is None:
            return config, tuple(steps), misfits
        steps.append(step)
        config = dataclasses.replace(config, model=dataclasses.replace(step.model, **unused))


def _steps(model: nn.Config, misfit: Misfit, max_length: int | None) -> Iterator[Equivalent]:
    wanted = misfit.wanted
    if isinstance(wanted, nn.Learned) and isinstance(model.positions, nn.Sinusoidal):
        if max_length is None:
            return
        wanted = dataclasses.replace(wanted, max_length=max_length)
    yield from equivalents(model, misfit.field, wanted)


def _misfits(family: Family, config: CheckpointConfig) -> list[Misfit]:
    try:
        return family.misfits(config)
    except ValueError as error:  # a size that the format cannot have
        return [Misfit("", None, None, str(error))]


def _describe(misfits: tuple[Misfit, ...]) -> str:
    """``with pooling 'first' (not 'mean'), ...``"""
    parts = [f"{x.field} {x.description} (not {x.got!r:.100})" if x.field else x.description for x in misfits]
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return f"with {', '.join(parts[:_SHOWN])}{more}"


def _converted(model: Pure[nnx.Module], params: Params, found: _Candidate) -> Params:
    before, architecture = model, found.family.architectures[found.config.architecture]
    for step in found.steps:
        if step.changes_params:
            after = _with_config(model, step.model)
            params, before = step.convert(before, after, params), after
    assert model_of(found.config, found.family).module is architecture.module
    return params


def _with_config(model: Pure[nnx.Module], config: nn.Config) -> Pure[nnx.Module]:
    """The same model with another config."""
    skeleton = _skeleton(model)
    if isinstance(skeleton, nn.Classifier):
        head = skeleton.head
        pooling = "first" if config.pooler is not None else head.pooling
        return nn.functionalize(nn.Classifier, config, head.dense.kernel.shape[-1], pooling)
    if isinstance(skeleton, nn.MaskedLanguageModel):
        return nn.functionalize(nn.MaskedLanguageModel, config, skeleton.activation)
    return nn.functionalize(_class(model), config)


def _skeleton(model: Pure[nnx.Module]) -> Any:
    """The module with shapes as parameters."""
    return skeleton_of(model)


def _class(model: Pure[nnx.Module]) -> type[nnx.Module]:
    """The class of the model's module."""
    assert isinstance(model.module, type)
    return model.module
