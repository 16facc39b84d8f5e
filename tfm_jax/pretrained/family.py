"""What a family of checkpoints is: a config, the names of its tensors, and its architectures."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import Reading, check_common, check_sizes, warn_unknown
from tfm_jax.pretrained.weights.tensor_map import WeightMapping

__all__ = ["Architecture", "Config", "Family", "Settings"]

Settings = Mapping[str, Any]  # of theirs, a config.json
# What a config.json does not say: how a model is run, not which it is.
_RUNNING = ("dtype", "param_dtype", "attention_implementation", "remat", "unroll")


@dataclasses.dataclass(frozen=True)
class Config:
    """A model by the name that transformers has for it.

    Args:
      architecture: such as ``"LlamaForCausalLM"``.
      model: what it is in our terms.
      settings: their ``config.json``. ``save`` keeps what it says of other things than the model, such as the
        ids of special tokens, and writes the rest from ``model``. Of a classifier ``id2label`` (or
        ``num_labels``) says how many classes there are.
      generation: their ``generation_config.json``, kept as it is.
      files: others of the checkpoint, by their paths: a tokenizer's, chat templates, the modules of a
        sentence model, a processor's settings. ``save`` writes them; configs that differ in them alone are
        equal.
    """

    architecture: str
    model: nn.Config
    settings: Settings = dataclasses.field(default_factory=dict)
    generation: Settings = dataclasses.field(default_factory=dict)
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict, repr=False, compare=False)


class Architecture(NamedTuple):
    """One of the models of a family.

    Args:
      module: of ``tfm_jax.nn``.
      names: the entries of all parameters that a model of this config can have.
      options: what the module takes beside the config.
      fields: of our config that their settings say in this architecture only, from those settings.
      by_file: fields of our config that are None where the file has no tensors below that name.
      bare: the body alone, whose tensors are saved without the family's prefix.
    """

    module: Callable[..., nnx.Module]
    names: Callable[[nn.Config], Sequence[WeightMapping]]
    options: Callable[[Config], dict[str, Any]] = lambda config: {}
    fields: Callable[[Settings], dict[str, Any]] = lambda settings: {}
    by_file: tuple[str, ...] = ()
    bare: bool = False


class Family(NamedTuple):
    """Checkpoints of one ``model_type``.

    Args:
      model_type: their name of it.
      architectures: by name.
      config_of: their settings as ours; a ValueError for what the blocks cannot do.
      settings_of: the inverse.
      prefix: that the names of the body's tensors begin with, or not: checkpoints are found with and without.
      skipped: regular expressions of tensors that are no parameters, or those of another head.
      copies: regular expressions of tensors that are there twice, and what they must be equal to.
      constants: regular expressions of tensors that are no parameters, and their values for a config and a
        shape: a file may have them, and no others.
      renamed: regular expressions and replacements, for the names of old checkpoints.
      tied_by_file: whether the output projection is the embedding, the file says, and not the settings: it is
        where the file has no other.
      aliases: other names of settings, and the settings: where both are there the alias counts, as in
        transformers.
      sizes: settings that are whole numbers, at least 1, where they are there.
      unread: settings of this family that change no output, beside those of all families.
    """

    model_type: str
    architectures: Mapping[str, Architecture]
    config_of: Callable[[Reading], nn.Config]
    settings_of: Callable[[nn.Config], dict[str, Any]]
    prefix: str = ""
    skipped: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    constants: tuple[tuple[str, Callable[[nn.Config, tuple[int, ...]], np.ndarray]], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    tied_by_file: bool = False
    aliases: Mapping[str, str] = MappingProxyType({})
    sizes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    def read_config(self, settings: Settings, source: object) -> nn.Config:
        """``config_of``, and what the architecture adds, with errors that say whence they come."""
        return self._read(settings, source)[0]

    def warn_unknown(self, settings: Settings, source: object) -> None:
        """Logs the names of settings that nothing here reads."""
        model, read = self._read(settings, source)
        warn_unknown(settings, {*read, *self.settings_of(model), *self.aliases, *self.unread}, source)

    def _read(self, settings: Settings, source: object) -> tuple[nn.Config, set[str]]:
        """The model, and the names of the settings that it was read from."""
        reading = Reading(settings, self.aliases)
        named = settings.get("architectures") or list(self.architectures)
        architecture = self.architectures[named[0]]
        try:
            check_common(reading)
            check_sizes(reading, self.sizes)
            model = dataclasses.replace(self.config_of(reading), **architecture.fields(reading))
        except KeyError as error:
            raise ValueError(f"{source} lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{source}: {error}") from error
        return model, reading.read

    def write_config(self, config: Config) -> dict[str, Any]:
        """The whole ``config.json`` of a config.

        Raises:
          ValueError: for a model that this family cannot express, by field.
        """
        absent = {
            x for x in self.architectures[config.architecture].by_file if getattr(config.model, x) is None
        }
        unsaid = {*_RUNNING, *(("tie_embeddings",) if self.tied_by_file else ()), *absent}
        named = {"architectures": [config.architecture], "model_type": self.model_type}
        as_read = {**config.settings, **named}
        whole = config.settings.get("model_type") == self.model_type  # and not a few of one's own
        if whole and not self._differences(as_read, config.model, unsaid):
            return as_read
        others = {name: value for name, value in config.settings.items() if name not in self.aliases}
        settings = {**others, **self.settings_of(config.model), **named}
        if differ := self._differences(settings, config.model, unsaid):
            raise ValueError(f"no {config.architecture} is such a model:\n" + "\n".join(differ))
        return settings

    def _differences(self, settings: Settings, model: nn.Config, unsaid: set[str]) -> list[str]:
        """What would come back otherwise, of a model saved with these settings."""
        said = _fields(_resolved(self.read_config(settings, "what would be saved")))
        wanted = _fields(_resolved(model))
        return [
            f"  {name}: {wanted[name]!r}, which would come back as {said[name]!r}"
            for name in wanted
            if name not in unsaid and wanted[name] != said[name]
        ]


def _fields(model: nn.Config) -> dict[str, Any]:
    """Its values by name. Not ``asdict``: of two variants with the same fields it makes the same dict."""
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}


def _resolved(model: nn.Config) -> nn.Config:
    """The same model without a None that stands for another field's value."""
    output_bias, embedding_dropout = model.attention_output_bias, model.embedding_dropout_rate
    return dataclasses.replace(
        model,
        head_dim=model.H,
        n_kv_heads=model.K,
        n_decoder_layers=model.n_decoder_layers or model.n_layers,
        attention_output_bias=model.attention_bias if output_bias is None else output_bias,
        embedding_dropout_rate=model.dropout_rate if embedding_dropout is None else embedding_dropout,
    )
