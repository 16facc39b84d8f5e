"""Settings as JSON and as text: dataclasses, and fields that take one of several dataclasses.

Such a field, as the positions of a model, is one value in the JSON of a run: ``"Rope(theta=10000.0)"``.
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

__all__ = ["from_dict", "from_text", "plain", "to_dict", "to_text", "variants"]


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON can hold it: ``dataclasses.asdict``; paths and values of several kinds are text."""
    return _to_json(type(config), config)


def from_dict(kind: Any, value: Any) -> Any:
    """The inverse of `to_dict`.

    Args:
        kind: what the value is annotated with: a dataclass, a union of them, a tuple, a scalar.
        value: what JSON made of it.

    Returns:
        The value; fields of a dataclass that the JSON lacks have their defaults.

    Raises:
        ValueError: for fields that the dataclass has not, and values that it does not take, by name.
    """
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ValueError(f"{kind.__name__} is read from a JSON object, got {value!r}")
        hints = typing.get_type_hints(kind)
        names = {field.name for field in dataclasses.fields(kind)}
        if unknown := value.keys() - names:
            raise ValueError(f"{kind.__name__} has no fields {sorted(unknown)}; it has {sorted(names)}")
        return kind(**{name: _field(hints[name], inner, name) for name, inner in value.items()})
    if kinds := variants(kind):
        return from_text(kinds, str(value))
    inner = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return None if value is None else from_dict(next(k for k in inner if k is not types.NoneType), value)
    if typing.get_origin(kind) is tuple:
        return tuple(from_dict(k, item) for k, item in zip(_items(kind, value), value, strict=True))
    if kind is float and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"got {value!r:.80}; wanted a number")
    return kind(value) if kind in (Path, float) else value


def _field(kind: Any, value: Any, name: str) -> Any:
    """A field of a dataclass from JSON; an error names it."""
    try:
        return from_dict(kind, value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error


def _to_json(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {f.name: _to_json(hints[f.name], getattr(value, f.name)) for f in dataclasses.fields(kind)}
    if variants(kind):
        return None if value is None else to_text(value)
    if typing.get_origin(kind) is tuple:
        return [_to_json(k, item) for k, item in zip(_items(kind, value), value, strict=True)]
    return plain(value)


def _items(kind: Any, value: Sequence[Any]) -> Sequence[Any]:
    """The kinds of a tuple's items: ``tuple[int, float]``, ``tuple[int, ...]``."""
    kinds = typing.get_args(kind)
    return [kinds[0]] * len(value) if kinds[-1] is Ellipsis else kinds


def variants(kind: Any) -> dict[str, Any]:
    """The members of a union by name, where some are dataclasses; of any other kind none."""
    members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else ()
    if not any(dataclasses.is_dataclass(member) for member in members):
        return {}
    return {"None" if member is types.NoneType else member.__name__: member for member in members}


def to_text(value: Any) -> str:
    """``Rope(theta=10000.0, pairing="half")``: the value as Python writes it, easy to quote in a shell."""
    if value is None:
        return "None"
    show = lambda item: json.dumps(item, ensure_ascii=False) if isinstance(item, str) else repr(item)
    fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    return f"{type(value).__name__}({', '.join(f'{name}={show(item)}' for name, item in fields)})"


def from_text(kinds: dict[str, Any], text: str) -> Any:
    """The inverse of `to_text`, for one of the ``variants`` of a kind.

    Args:
        kinds: what `variants` gave.
        text: such as ``Rope(theta=1e6)``; a field left out has its default, ``Rope`` alone is ``Rope()``.

    Returns:
        The value.

    Raises:
        ValueError: for the text of no such value; nothing but literals is read.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) and not node.args else ast.Call(node, [], [])
        name, fields = ast.unparse(call.func), {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        if name not in kinds:
            raise ValueError("none of these")
        return None if name == "None" else from_dict(kinds[name], fields)
    except (SyntaxError, TypeError, ValueError) as error:
        wanted = f"wanted one of {', '.join(kinds)}, with fields by name as in 'Name(field=1)'"
        raise ValueError(f"got {text!r}, {wanted}: {error}") from error


def plain(value: Any) -> Any:
    """What JSON can hold: tuples become lists, paths text, numpy and JAX scalars numbers, nan and inf None.

    Equivalent to::

        json.loads(json.dumps(value))       # if JSON knew them

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
