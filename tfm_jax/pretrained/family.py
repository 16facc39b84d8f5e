"""Families of checkpoints: architectures, settings and tensor names of one ``model_type``."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from flax import nnx

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import Settings, TrackedSettings, warn_unknown
from tfm_jax.pretrained.field_map import NO_FIELDS, RUNTIME, FieldMap, resolved
from tfm_jax.pretrained.weights.tensor_map import WeightMapping

__all__ = ["Architecture", "CheckpointConfig", "Family", "Misfit"]


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """The configuration of a checkpoint: the class name in transformers, our ``nn.Config``, and the files.

    Args:
      architecture: such as ``"LlamaForCausalLM"``.
      model: the ``nn.Config``.
      settings: the parsed ``config.json``. ``save`` keeps the keys that do not describe the model, such as
        the ids of special tokens, and writes the others from ``model``. A classifier has as many classes as
        ``id2label`` (or ``num_labels``) says.
      generation: the parsed ``generation_config.json``, unchanged.
      files: other files of the checkpoint, by path: of the tokenizer, chat templates, the modules of a
        sentence model, settings of a processor. ``save`` writes them. They do not count for equality.
    """

    architecture: str
    model: nn.Config
    settings: Settings = dataclasses.field(default_factory=dict)
    generation: Settings = dataclasses.field(default_factory=dict)
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict, repr=False, compare=False)


def _no_options(config: CheckpointConfig) -> dict[str, object]:
    return {}


class Misfit(NamedTuple):
    """A field of a model that a format does not have, or has with another value.

    Args:
      field: of ``nn.Config``; empty for a size that the format cannot have, which ``description`` says.
      got: the model's value.
      wanted: a value of the format.
      description: what the format has, in words.
    """

    field: str
    got: object
    wanted: object
    description: str


class Architecture(NamedTuple):
    """One model class of a family.

    Args:
      module: the class in ``tfm_jax.nn``.
      names: ``names(model)``, the tensor-map entries of all parameters that such a model can have.
      options: arguments of the module beside the ``nn.Config``.
      fields: settings of this architecture alone, beside the family's.
      by_file: fields of ``nn.Config`` that become None where the file has no tensors below that name.
      bare: whether this is the body alone, whose tensors are saved without the family's prefix.
      dropout_setting: the setting with the dropout rate before the head of a classifier, if there is one.
    """

    module: type[nnx.Module]
    names: Callable[[nn.Config], Sequence[WeightMapping]]
    options: Callable[[CheckpointConfig], dict[str, object]] = _no_options
    fields: FieldMap = NO_FIELDS
    by_file: tuple[str, ...] = ()
    bare: bool = False
    dropout_setting: str = ""


class Family(NamedTuple):
    """The checkpoints of one ``model_type``.

    Args:
      model_type: as in ``config.json``.
      architectures: by class name.
      fields: the settings and fields of ``nn.Config``, for reading and writing.
      prefix: of the names of the body's tensors; files with and without it are read.
      skipped: regular expressions of tensors that are not parameters, or belong to another head.
      copies: regular expressions of duplicate tensors, and the name of the tensor that they must equal.
      constants: regular expressions of buffers, and their values for a model and a shape: a file may have
        them with these values only.
      tables: tensors that transformers computes but expects in a file, from the complete ``config.json``.
      renamed: regular expressions and replacements for the tensor names of old checkpoints.
      tied_by_file: whether the file, not ``config.json``, decides about weight tying: the output projection
        is tied where the file has no tensor for it.
      aliases: other names of settings; where a file has both, the alias counts, as in transformers.
      unread: settings of this family that change no output, beside those of every family.
    """

    model_type: str
    architectures: Mapping[str, Architecture]
    fields: FieldMap
    prefix: str = ""
    skipped: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    constants: tuple[tuple[str, Callable[[nn.Config, tuple[int, ...]], np.ndarray]], ...] = ()
    tables: Callable[[Settings], Mapping[str, np.ndarray]] = lambda settings: {}
    renamed: tuple[tuple[str, str], ...] = ()
    tied_by_file: bool = False
    aliases: Mapping[str, str] = MappingProxyType({})
    unread: tuple[str, ...] = ()

    def fields_of(self, architecture: str) -> FieldMap:
        """The field map of one architecture: the family's and its own."""
        more = self.architectures[architecture].fields
        return self.fields.extended(*more.rows, model=more.model, only=more.only, written=more.written)

    def read_config(self, settings: Settings, source: object) -> nn.Config:
        """The ``nn.Config`` of a ``config.json``.

        Args:
          settings: the parsed file; its first architecture counts, or the family's first.
          source: the file, for messages.

        Returns:
          The config.

        Raises:
          ValueError: for settings that are not supported, by key.
        """
        return self.read_tracked(settings, source)[0]

    def warn_unknown(self, config: CheckpointConfig, read: set[str], source: object) -> None:
        """Logs a warning with the keys of a ``config.json`` that have no effect.

        Args:
          config: of the checkpoint.
          read: the keys that ``read_tracked`` read.
          source: the file, for the message.
        """
        written = self.fields_of(config.architecture).write(config.model)
        warn_unknown(config.settings, {*read, *written, *self.aliases, *self.unread}, source)

    def _first_architecture(self, settings: Settings) -> str:
        return (settings.get("architectures") or list(self.architectures))[0]

    def read_tracked(self, settings: Settings, source: object) -> tuple[nn.Config, set[str]]:
        """``read_config``, and the keys that were read."""
        tracked = TrackedSettings(settings, self.aliases)
        try:
            return self.fields_of(self._first_architecture(settings)).read(tracked), tracked.read
        except KeyError as error:
            raise ValueError(f"{source}: got no {error.args[0]}; wanted a value for it.") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{source}: {error}") from error

    def write_config(self, config: CheckpointConfig) -> dict[str, object]:
        """The complete ``config.json`` of a checkpoint.

        Raises:
          ValueError: for a model that this family cannot express, by field.
        """
        if found := self._unsupported(config):
            got = ", ".join(f"{path}={value!r:.200}" for path, (value, _) in found.items())
            wanted = ", ".join(f"{known} as {path}" for path, (_, known) in found.items())
            raise ValueError(
                f"save: got {got}; wanted {wanted}: {config.architecture}, of the {self.model_type} format, "
                "has no other. Keep the parameters of such a model in a checkpoint of train.Checkpoints."
            )
        settings, misfits = self._written(config)
        if misfits:
            lines = [f"  {x.field}: {x.got!r}, which would come back as {x.wanted!r}" for x in misfits]
            raise ValueError(
                f"save: got a model that {config.architecture} cannot express; wanted the values below.\n"
                + "\n".join(lines)
            )
        return settings

    def misfits(self, config: CheckpointConfig) -> list[Misfit]:
        """The fields of a model that this family cannot express; none where ``write_config`` can.

        Args:
          config: of the checkpoint, as for ``write_config``.

        Returns:
          One per field. Where the model has other inputs, such as images, only the fields of variants.

        Raises:
          ValueError: for a value that the format has no name or place for, such as an odd size.
        """
        found, fields = [], self.fields_of(config.architecture)
        model, example = config.model, fields.example_variants()
        for path, (value, known) in self._unsupported(config).items():
            field, _, argument = path.partition(".")
            wanted = example[field]
            if argument:  # a variant inside a variant, such as an activation, which has a name in a format
                value = getattr(model, field)
                wanted = dataclasses.replace(value, **{argument: "gelu"})
                known = repr(wanted)
            found.append(Misfit(field, value, wanted, known))
            if field != "patches":  # its positions must fit: no part of a config of texts
                model = dataclasses.replace(model, **{field: wanted})
        if any(x.field == "patches" for x in found):
            return found
        _, others = self._written(dataclasses.replace(config, model=model))
        known_fields = {x.field for x in found}
        return found + [x for x in others if x.field not in known_fields]

    def _unsupported(self, config: CheckpointConfig) -> dict[str, tuple[object, str]]:
        """The variants that the format lacks, by path: each with what the format has."""
        found = self.fields_of(config.architecture).unsupported_variants(config.model)
        for name in self.architectures[config.architecture].by_file:
            if getattr(config.model, name) is None:
                found.pop(name, None)
        return found

    def _written(self, config: CheckpointConfig) -> tuple[dict[str, object], list[Misfit]]:
        """The ``config.json`` of a model whose variants this family has, and what it would not give back."""
        architecture = self.architectures[config.architecture]
        absent = {field for field in architecture.by_file if getattr(config.model, field) is None}
        ignored = {*RUNTIME, *(("tie_embeddings",) if self.tied_by_file else ()), *absent}
        identity = {"architectures": [config.architecture], "model_type": self.model_type}
        as_read = {**config.settings, **identity}
        complete = config.settings.get("model_type") == self.model_type  # not a few keys of a user
        if complete and not self._differences(as_read, config.model, ignored):
            return as_read, []
        others = {name: value for name, value in config.settings.items() if name not in self.aliases}
        settings = {**others, **self.fields_of(config.architecture).write(config.model), **identity}
        return settings, self._differences(settings, config.model, ignored)

    def _differences(self, settings: Settings, model: nn.Config, ignored: set[str]) -> list[Misfit]:
        """The fields that would be read back with another value."""
        read_back = _fields(resolved(self.read_config(settings, "config.json")))
        wanted = _fields(resolved(model))
        return [
            Misfit(name, wanted[name], read_back[name], repr(read_back[name]))
            for name in wanted
            if name not in ignored and wanted[name] != read_back[name]
        ]


def _fields(model: nn.Config) -> dict[str, object]:
    """The fields by name. Not ``asdict``: it makes the same dict of two variants with the same fields."""
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
