"""Field maps: settings of a ``config.json`` and fields of ``nn.Config``, written once and read both ways."""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import TrackedSettings, check_common, check_only, check_sizes

__all__ = [
    "AS_IS",
    "Converter",
    "Field",
    "FieldMap",
    "Group",
    "Row",
    "Same",
    "Settings",
    "check_only",
    "resolved",
]

Settings = Mapping[str, Any]
"""A parsed ``config.json``."""
_REQUIRED = object()
_SIZES = {
    "vocab_size",
    "d_model",
    "n_layers",
    "n_decoder_layers",
    "n_heads",
    "n_kv_heads",
    "head_dim",
    "d_ff",
}
_SIZES |= {"positions.max_length"}


class Converter(NamedTuple):
    """How a value in ``config.json`` becomes a value of ``nn.Config``, and its inverse."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


AS_IS = Converter(lambda value: value, lambda value: value)


class Row(Protocol):
    """One row of a field map: a ``Field``, a ``Same`` or a ``Group``."""

    def read(self, settings: TrackedSettings, /) -> dict[str, Any]:
        """Values of ``nn.Config`` by their paths."""
        ...

    def write(self, model: nn.Config, /) -> dict[str, Any]:
        """Settings by their keys."""
        ...


@dataclasses.dataclass(frozen=True)
class Field:
    """A setting and the field of ``nn.Config`` that holds it.

    Args:
      setting: the key in ``config.json``.
      path: the field of ``nn.Config``, such as ``"d_model"``, or an argument of a field's class, such as
        ``"norm.eps"``. A tuple of paths gets one value; the first is written. Empty is the setting's name.
      default: the value of transformers where the key is absent. A function of the settings computes the
        default. Without a default the key is required.
      convert: between the two values.
      unset: values that mean a computed default.
    """

    setting: str
    path: str | tuple[str, ...] = ""
    default: Any = _REQUIRED
    convert: Converter = AS_IS
    unset: tuple[Any, ...] = (None,)

    @property
    def paths(self) -> tuple[str, ...]:
        """All fields that get the value."""
        return self.path if isinstance(self.path, tuple) else (self.path or self.setting,)

    def read(self, settings: TrackedSettings) -> dict[str, Any]:
        """The value, by each of its paths."""
        if self.default is _REQUIRED:
            value = settings[self.setting]
        elif callable(self.default):
            value = settings.get(self.setting)
            value = self.default(settings) if value in self.unset else value
        else:
            value = settings.get(self.setting, self.default)
        return dict.fromkeys(self.paths, self.convert.read(value))

    def write(self, model: nn.Config) -> dict[str, Any]:
        """The setting; its default where the model's variant has no such argument."""
        field, _, argument = self.paths[0].partition(".")
        value = getattr(model, field)
        if argument and not hasattr(value, argument):
            return {self.setting: self.default}
        return {self.setting: self.convert.write(getattr(value, argument) if argument else value)}


@dataclasses.dataclass(frozen=True)
class Same:
    """A setting that must equal another setting: two sizes that are one in our blocks.

    Args:
      setting: the key in ``config.json``.
      other: the key that it must equal.
      path: the field of ``nn.Config`` that holds the value of both.
      unset: values that mean the other setting.
    """

    setting: str
    other: str
    path: str
    unset: tuple[Any, ...] = ()

    def read(self, settings: TrackedSettings) -> dict[str, Any]:
        """Nothing: the other setting has the value."""
        return {}

    def write(self, model: nn.Config) -> dict[str, Any]:
        """The value of the other setting."""
        return {self.setting: getattr(model, self.path)}

    def problems(self, settings: TrackedSettings) -> list[str]:
        """A message where the two differ."""
        if self.other not in settings:
            return []
        value, wanted = settings.get(self.setting, settings[self.other]), settings[self.other]
        if value == wanted or value in self.unset:
            return []
        other = settings.name_of(self.other)
        return [f"got {self.setting}={value!r}; wanted {wanted!r}, the value of {other}."]


class Group(NamedTuple):
    """Settings and fields that depend on each other, as two functions.

    Args:
      read: settings to values of ``nn.Config`` by their paths.
      write: an ``nn.Config`` to settings.
    """

    read: Callable[[TrackedSettings], dict[str, Any]]
    write: Callable[[nn.Config], dict[str, Any]]


class FieldMap(NamedTuple):
    """The settings of a family and the fields of ``nn.Config``, readable in both directions.

    Args:
      rows: fields that settings determine.
      model: fields of ``nn.Config`` that are fixed. A class (or function) is called with the arguments that
        rows give, such as ``norm=nn.LayerNorm`` with the row ``"norm.eps"``.
      only: settings with one supported value.
      written: settings that are written, and not read.
      group_sizes: settings of groups that are integers of at least 1.
    """

    rows: tuple[Row, ...]
    model: Mapping[str, Any] = MappingProxyType({})
    only: Mapping[str, Any] = MappingProxyType({})
    written: Mapping[str, Any] = MappingProxyType({})
    group_sizes: tuple[str, ...] = ()

    def extended(
        self,
        *rows: Row,
        model: Mapping[str, Any] = MappingProxyType({}),
        only: Mapping[str, Any] = MappingProxyType({}),
        written: Mapping[str, Any] = MappingProxyType({}),
    ) -> "FieldMap":
        """This map with more rows and values."""
        return self._replace(
            rows=(*self.rows, *rows),
            model={**self.model, **model},
            only={**self.only, **only},
            written={**self.written, **written},
        )

    @property
    def sizes(self) -> tuple[str, ...]:
        """Settings that are integers of at least 1."""
        fields = [row for row in self.rows if isinstance(row, Field) and not callable(row.default)]
        same = [row.setting for row in self.rows if isinstance(row, Same) and not row.unset]
        return (*(row.setting for row in fields if row.paths[0] in _SIZES), *same, *self.group_sizes)

    def read(self, settings: TrackedSettings) -> nn.Config:
        """The ``nn.Config`` that settings describe.

        Raises:
          ValueError: for required keys that are absent and values that are not supported, all of them
            together, by key.
        """
        if problems := self._problems(settings):
            raise ValueError(" ".join(problems))
        values, arguments = dict(self.model), collections.defaultdict(dict)
        for row in self.rows:
            for path, value in row.read(settings).items():
                field, _, argument = path.partition(".")
                if argument:
                    arguments[field][argument] = value
                else:
                    values[field] = value
        values |= {field: self.model[field](**found) for field, found in arguments.items()}
        return nn.Config(**values)

    def write(self, model: nn.Config) -> dict[str, Any]:
        """The settings that describe an ``nn.Config``, as far as this family can."""
        model, settings = resolved(model), {}
        for row in self.rows:
            settings |= row.write(model)
        return settings | dict(self.written)

    def _problems(self, settings: TrackedSettings) -> list[str]:
        optional = [x for x in self.rows if isinstance(x, Field) and callable(x.default)]
        optional = [x for x in optional if x.paths[0] in _SIZES and settings.get(x.setting) not in x.unset]
        sizes = {*self.sizes, *(x.setting for x in optional)}
        required = [row.setting for row in self.rows if isinstance(row, Field) and row.default is _REQUIRED]
        missing = ", ".join(name for name in required if name not in settings)
        return [
            *([f"got no {missing}; wanted a value for each."] if missing else []),
            *check_common(settings),
            *check_sizes(settings, sorted(sizes)),
            *check_only(settings, **self.only),
            *(text for row in self.rows if isinstance(row, Same) for text in row.problems(settings)),
        ]


NO_FIELDS = FieldMap(())


def resolved(model: nn.Config) -> nn.Config:
    """The same model with the value of another field in place of each None that means it."""
    output_bias, embedding_dropout = model.attention_output_bias, model.embedding_dropout_rate
    return dataclasses.replace(
        model,
        head_dim=model.H,
        n_kv_heads=model.K,
        n_decoder_layers=model.n_decoder_layers or model.n_layers,
        attention_output_bias=model.attention_bias if output_bias is None else output_bias,
        embedding_dropout_rate=model.dropout_rate if embedding_dropout is None else embedding_dropout,
    )
