"""Field maps: settings of a ``config.json`` and fields of ``nn.Config``, written once and read both ways."""

import collections
import dataclasses
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

from tfm_jax import nn, values
from tfm_jax.pretrained.config_keys import Settings, TrackedSettings, check_common, check_only, check_sizes
from tfm_jax.registry import Variant

__all__ = [
    "NO_FIELDS",
    "RUNTIME",
    "SIZES",
    "Converter",
    "Field",
    "FieldMap",
    "Fields",
    "Group",
    "Same",
    "expect",
    "resolved",
]

Fields = dict[str, Any]
"""Values of ``nn.Config`` by field, or by path such as ``"norm.eps"``."""
Value = TypeVar("Value")
RUNTIME = (
    "dtype",
    "param_dtype",
    "matmul_precision",
    "attention_implementation",
    "remat",
    "unroll",
    "initializers",
)
"""Fields of ``nn.Config`` that change no output of given parameters: how a model is run and initialized. No
``config.json`` has them."""
_REQUIRED = object()
SIZES = (
    *("vocab_size", "d_model", "n_layers", "n_decoder_layers", "n_heads", "n_kv_heads"),
    *("head_dim", "d_ff", "positions.max_length"),
)
"""Fields of ``nn.Config`` whose settings are integers of at least 1."""


class Converter(NamedTuple):
    """How a value in ``config.json`` becomes a value of ``nn.Config``, and its inverse."""

    read: Callable[[Any], object]
    write: Callable[[Any], object]


_UNCHANGED = Converter(lambda value: value, lambda value: value)


class _Row(Protocol):
    """One row of a field map: a ``Field``, a ``Same`` or a ``Group``."""

    def problems(self, settings: TrackedSettings, /) -> list[str]:
        """A message for each setting that is absent or not supported; ``read`` is called without any."""
        ...

    def read(self, settings: TrackedSettings, /) -> Fields:
        """Values of ``nn.Config`` by their paths."""
        ...

    def write(self, model: nn.Config, /) -> dict[str, object]:
        """Settings by their keys."""
        ...


@dataclasses.dataclass(frozen=True)
class Field:
    """A setting and the field of ``nn.Config`` that holds it.

    Args:
      setting: the key in ``config.json``.
      path: the field of ``nn.Config``, such as ``"d_model"``, or an argument of a field's class, such as
        ``"norm.eps"``. A tuple of paths gets one value; the first is written. Empty is the setting's name.
      default: the value of transformers where the key is absent. A function computes it from the settings,
        also where the key is ``unset``. Without a default the key is required.
      convert: between the two values.
      unset: the values that mean a computed default.
    """

    setting: str
    path: str | tuple[str, ...] = ""
    default: object = _REQUIRED
    convert: Converter = _UNCHANGED
    unset: tuple[object, ...] = (None,)

    @property
    def paths(self) -> tuple[str, ...]:
        """All fields that get the value."""
        return self.path if isinstance(self.path, tuple) else (self.path or self.setting,)

    def problems(self, settings: TrackedSettings) -> list[str]:
        """A message where the setting is required and absent, or an invalid size."""
        if self.setting not in settings:
            return [f"got no {self.setting}; wanted a value for it."] if self.default is _REQUIRED else []
        computed = callable(self.default) and settings[self.setting] in self.unset
        return check_sizes(settings, [self.setting]) if self.paths[0] in SIZES and not computed else []

    def read(self, settings: TrackedSettings) -> Fields:
        """The value, by each of its paths."""
        if self.default is _REQUIRED:
            value = settings[self.setting]
        elif callable(self.default):
            value = settings.get(self.setting)
            value = self.default(settings) if value in self.unset else value
        else:
            value = settings.get(self.setting, self.default)
        return dict.fromkeys(self.paths, self.convert.read(value))

    def write(self, model: nn.Config) -> dict[str, object]:
        """The setting, of a model whose variants this format has; its default where a variant is None."""
        field, _, argument = self.paths[0].partition(".")
        value = getattr(model, field)
        if argument and value is None:  # a file without its tensors, such as a pooler's
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
    unset: tuple[object, ...] = ()

    def problems(self, settings: TrackedSettings) -> list[str]:
        """A message where the two differ, or the setting is an invalid size."""
        if self.other not in settings or self.setting not in settings:
            return []
        value, wanted = settings[self.setting], settings[self.other]
        if value in self.unset:
            return []
        if value == wanted:
            return [] if self.unset else check_sizes(settings, [self.setting])
        other = settings.name_of(self.other)
        return [f"got {self.setting}={value!r}; wanted {wanted!r}, the value of {other}."]

    def read(self, settings: TrackedSettings) -> Fields:
        """Nothing: the other setting has the value."""
        return {}

    def write(self, model: nn.Config) -> dict[str, object]:
        """The value of the other setting."""
        return {self.setting: getattr(model, self.path)}


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings and fields that depend on each other, as two functions.

    Args:
      read: settings to values of ``nn.Config`` by their paths.
      write: an ``nn.Config`` to settings.
      sizes: settings that are integers of at least 1.
      variants: the classes of the variants that ``read`` gives, by field of ``nn.Config``.
    """

    read: Callable[[TrackedSettings], Fields]
    write: Callable[[nn.Config], dict[str, object]]
    sizes: tuple[str, ...] = ()
    variants: Mapping[str, tuple[type[Variant], ...]] = dataclasses.field(default_factory=dict)

    def problems(self, settings: TrackedSettings) -> list[str]:
        """A message for each invalid size; ``read`` raises for other settings that are not supported."""
        return check_sizes(settings, self.sizes)


class FieldMap(NamedTuple):
    """The settings of a family and the fields of ``nn.Config``, readable in both directions.

    Args:
      rows: fields that settings determine.
      model: fields of ``nn.Config`` that are fixed. A class (or function) is called with the arguments that
        rows give, such as ``norm=nn.LayerNorm`` with the row ``"norm.eps"``.
      only: settings with one supported value.
      written: settings that are written, and not read.
    """

    rows: tuple[_Row, ...]
    model: Fields = {}  # noqa: RUF012  - nobody changes it
    only: Settings = MappingProxyType({})
    written: Settings = MappingProxyType({})

    def extended(
        self,
        *rows: _Row,
        model: Settings = MappingProxyType({}),
        only: Settings = MappingProxyType({}),
        written: Settings = MappingProxyType({}),
    ) -> "FieldMap":
        """This map with more rows and values."""
        return self._replace(
            rows=(*self.rows, *rows),
            model={**self.model, **model},
            only={**self.only, **only},
            written={**self.written, **written},
        )

    def read(self, settings: TrackedSettings) -> nn.Config:
        """The ``nn.Config`` that settings describe.

        Raises:
          ValueError: for required keys that are absent and values that are not supported, all of them
            together, by key.
        """
        problems = [*check_common(settings), *check_only(settings, **self.only)]
        problems += [problem for row in self.rows for problem in row.problems(settings)]
        if problems:
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

    def variants(self) -> dict[str, tuple[type, ...]]:
        """The classes that each variant of an ``nn.Config`` has in this format, by field."""
        found: dict[str, tuple[type, ...]] = {name: (type(default),) for name, default in _VARIANTS.items()}
        given = {name: self.model[name] for name in found if name in self.model}
        found |= {name: (x if isinstance(x, type) else type(x),) for name, x in given.items()}
        for row in self.rows:
            if isinstance(row, Group):
                found |= row.variants
        return found

    def example_variants(self) -> dict[str, object]:
        """One variant that this format has, by field of an ``nn.Config``."""
        classes = {name: found[0] for name, found in self.variants().items()}
        return {name: _PATCHES if kind is nn.Patches else kind() for name, kind in classes.items()}

    def unsupported_variants(self, model: nn.Config) -> dict[str, tuple[object, str]]:
        """The variants of a model that this format lacks, by path: each with what the format has.

        A variant is of exactly one class: a subclass may compute something else. A format has no variants
        inside a variant, such as an ``nn.Activation``: it has their names.
        """
        found: dict[str, tuple[object, str]] = {}
        for name, classes in self.variants().items():
            value = getattr(model, name)
            if type(value) not in classes:
                known = ("None" if x is type(None) else x.__name__ for x in classes)
                found[name] = (value, " or ".join(known))
            elif dataclasses.is_dataclass(value):
                inner = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
                found |= {
                    f"{name}.{field}": (x, "a name") for field, x in inner.items() if isinstance(x, Variant)
                }
        return found

    def write(self, model: nn.Config) -> dict[str, object]:
        """The settings that describe an ``nn.Config`` whose variants this format has, as far as it can."""
        model, settings = resolved(model), {}
        for row in self.rows:
            settings |= row.write(model)
        return settings | dict(self.written)


NO_FIELDS = FieldMap(())
_PATCHES = nn.Patches(224, 224, 3, 16, class_token=True)
"""Patches as ViT has them: their sizes have no defaults."""


def _variants_of_config() -> dict[str, object]:
    """The fields of ``nn.Config`` that hold variants, and their defaults."""
    hints = typing.get_type_hints(nn.Config)
    fields = [field for field in dataclasses.fields(nn.Config) if field.name not in RUNTIME]
    return {field.name: field.default for field in fields if values.variants(hints[field.name]) is not None}


_VARIANTS = _variants_of_config()


def expect(value: object, *kinds: type[Value]) -> Value:
    """A variant of one of these classes; a ValueError for any other, subclasses included."""
    for kind in kinds:
        if type(value) is kind:
            return value
    wanted = " or ".join(kind.__name__ for kind in kinds)
    raise ValueError(f"got {value!r:.200}; wanted {wanted}, which this format has.")


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
