"""Configs as JSON and as text: dataclasses whose fields may hold one of several variants.

A variant is a small dataclass, such as the positions of a model. It is one string in JSON and on the command
line: ``"Rope(theta=10000.0)"``.
"""

import ast
import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfm_jax.fields import check_fields

__all__ = ["from_dict", "from_text", "plain", "to_dict", "to_text", "variants"]


def to_dict(config: Any) -> dict[str, Any]:
    """Converts a config to JSON values: ``dataclasses.asdict``, with paths and variants as strings."""
    return _to_json(type(config), config)


def from_dict(annotation: Any, value: Any) -> Any:
    """Reads a config from JSON values; the inverse of `to_dict`.

    Args:
      annotation: of the value: a dataclass, a union of dataclasses, a tuple, a scalar.
      value: as parsed from JSON.

    Returns:
      The value. Fields of a dataclass that the JSON lacks have their defaults.

    Raises:
      ValueError: unknown fields, an unknown variant, or a value that does not fit its annotation. The
        message starts with the names of the fields on the way.
    """
    if dataclasses.is_dataclass(annotation):
        return _dataclass_from_dict(annotation, value)
    if kinds := variants(annotation):
        return from_text(kinds, str(value))
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return None if value is None else from_dict(next(a for a in args if a is not types.NoneType), value)
    if typing.get_origin(annotation) is tuple:
        if not isinstance(value, list | tuple) or len(_item_annotations(annotation, value)) != len(value):
            raise ValueError(f"got {value!r}; wanted a list as long as {annotation}.")
        pairs = zip(_item_annotations(annotation, value), value, strict=True)
        return tuple(from_dict(inner, item) for inner, item in pairs)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return Path(value) if annotation is Path else value


def _dataclass_from_dict(cls: type, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{cls.__name__}: got {value!r}; wanted a JSON object.")
    hints = typing.get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls)}
    if unknown := value.keys() - fields:
        raise ValueError(
            f"{cls.__name__}: got unknown fields {sorted(unknown)}; wanted some of {sorted(fields)}."
        )
    read = {name: _field_from_dict(cls, name, hints[name], x) for name, x in value.items()}
    config = cls(**read)
    check_fields(config)
    return config


def _field_from_dict(cls: type, name: str, annotation: Any, value: Any) -> Any:
    """Reads a field; an error starts with its name."""
    try:
        return from_dict(annotation, value)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{cls.__name__}.{name}: {error}") from error


def _to_json(annotation: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation)
        return {
            f.name: _to_json(hints[f.name], getattr(value, f.name)) for f in dataclasses.fields(annotation)
        }
    if variants(annotation):
        return None if value is None else to_text(value)
    if typing.get_origin(annotation) is tuple:
        pairs = zip(_item_annotations(annotation, value), value, strict=True)
        return [_to_json(inner, item) for inner, item in pairs]
    return plain(value)


def _item_annotations(annotation: Any, value: Sequence[Any]) -> Sequence[Any]:
    """The annotations of a tuple's items: of ``tuple[int, float]`` or ``tuple[int, ...]``."""
    args = typing.get_args(annotation)
    return [args[0]] * len(value) if args[-1] is Ellipsis else args


def variants(annotation: Any) -> dict[str, Any]:
    """The members of a union by name, if at least one is a dataclass; else an empty dict."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = typing.get_args(annotation) if is_union else ()
    if not any(dataclasses.is_dataclass(member) for member in members):
        return {}
    return {"None" if member is types.NoneType else member.__name__: member for member in members}


def to_text(value: Any) -> str:
    """A variant as a Python expression, easy to quote in a shell: ``Rope(theta=10000.0, pairing="half")``."""
    if value is None:
        return "None"
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    # A None that is the default is left out.
    defaults = {field.name: field.default for field in dataclasses.fields(value)}
    fields = {name: x for name, x in fields.items() if x is not None or defaults[name] is not None}
    return f"{type(value).__name__}({', '.join(f'{name}={_literal(x)}' for name, x in fields.items())})"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value.item() if hasattr(value, "item") else value)  # NumPy's repr is np.float64(...)


def from_text(kinds: dict[str, Any], text: str) -> Any:
    """Parses a variant; the inverse of `to_text`.

    Args:
      kinds: the `variants` of an annotation.
      text: such as ``Rope(theta=1e6)``. A field left out has its default; ``Rope`` alone is ``Rope()``.

    Returns:
      The variant, or None for "None".

    Raises:
      ValueError: an unknown variant, a field that does not fit, or anything but literals.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) and not node.args else ast.Call(node, [], [])
        name, fields = ast.unparse(call.func), {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        if name not in kinds:
            raise ValueError(f"{name!r} is none of these.")
        return None if name == "None" else from_dict(kinds[name], fields)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:
        wanted = f"wanted one of {', '.join(kinds)}, with fields by name as in 'Name(field=1)'"
        raise ValueError(f"got {text!r}; {wanted}. {error}") from error


def plain(value: Any) -> Any:
    """Converts nested values to JSON values.

    Tuples become lists, paths strings, NumPy and JAX scalars numbers, NaN and Inf None.

    Equivalent to::

        json.loads(json.dumps(value))       # if JSON supported these types

    Args:
      value: nested dicts, lists, tuples and scalars.

    Returns:
      Nested dicts, lists, str, int, float, bool, None.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
