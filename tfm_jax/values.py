"""Configs as JSON and as text: dataclasses whose fields may hold one of several variants.

A variant is a small dataclass, such as the positions of a model. It is one string in JSON and on the command
line: ``"Rope(theta=10000.0)"``. The registry of `tfm_jax.registry` finds its class by the name; nothing is
imported because a file names it.
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
from tfm_jax.registry import Variant, is_kind, register_variant, registered, unregistered

__all__ = ["Variant", "from_dict", "from_text", "plain", "register_variant", "to_dict", "to_text", "variants"]


def to_dict(config: object, variants: Sequence[type] = ()) -> dict[str, Any]:
    """Converts a config to JSON values: ``dataclasses.asdict``, with paths and variants as strings.

    Args:
      config: a dataclass.
      variants: classes of variants that are not registered, and that the reader will know.

    Returns:
      JSON values.

    Raises:
      ValueError: a value that `from_dict` could not read: of a class of variants that is neither registered
        nor passed, or one that JSON does not hold.
    """
    return _to_json(type(config), config, variants)


def from_dict(annotation: object, value: object, variants: Sequence[type] = ()) -> Any:
    """Reads a config from JSON values; the inverse of `to_dict`.

    Args:
      annotation: of the value: a dataclass, a kind of variants, a tuple, a scalar, or a union with None.
      value: as parsed from JSON.
      variants: classes that this call knows beside the registered ones.

    Returns:
      The value. Fields of a dataclass that the JSON lacks have their defaults.

    Raises:
      ValueError: unknown fields, an unknown variant, or a value that does not fit its annotation. The
        message starts with the names of the fields on the way.
    """
    if isinstance(value, Variant):
        return value
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return _dataclass_from_dict(annotation, value, variants)
    if _holds_variants(annotation):
        return from_text(annotation, str(value), variants)
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [a for a in args if a is not types.NoneType]
        tuples = [a for a in kinds if typing.get_origin(a) is tuple]
        member = (tuples if isinstance(value, list | tuple) and tuples else kinds)[0]
        return None if value is None else from_dict(member, value, variants)
    if typing.get_origin(annotation) is tuple:
        if not isinstance(value, list | tuple) or len(_item_annotations(annotation, value)) != len(value):
            raise ValueError(f"got {value!r}; wanted a list as long as {annotation}.")
        pairs = zip(_item_annotations(annotation, value), value, strict=True)
        return tuple(from_dict(inner, item, variants) for inner, item in pairs)
    if annotation is Path:
        if not isinstance(value, str | Path):
            raise ValueError(f"got {value!r}; wanted a path.")
        return Path(value)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _dataclass_from_dict(cls: type, value: object, known: Sequence[type]) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{cls.__name__}: got {value!r}; wanted a JSON object.")
    hints = typing.get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls)}
    if unknown := value.keys() - fields:
        raise ValueError(
            f"{cls.__name__}: got unknown fields {sorted(unknown)}; wanted some of {sorted(fields)}."
        )
    read = {name: _field_from_dict(cls, name, hints[name], x, known) for name, x in value.items()}
    config = cls(**read)
    check_fields(config)
    return config


def _field_from_dict(
    cls: type, name: str, annotation: object, value: object, known: Sequence[type]
) -> object:
    """Reads a field; an error starts with its name."""
    try:
        return from_dict(annotation, value, known)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{cls.__name__}.{name}: {error}") from error


def _to_json(annotation: object, value: object, known: Sequence[type]) -> Any:
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation)
        found = {}
        for field in dataclasses.fields(annotation):
            try:
                found[field.name] = _to_json(hints[field.name], getattr(value, field.name), known)
            except ValueError as error:
                raise ValueError(f"{type(value).__name__}.{field.name}: {error}") from error
        return found
    if _holds_variants(annotation):
        return None if value is None else to_text(value, known)
    if typing.get_origin(annotation) is tuple and isinstance(value, tuple):
        pairs = zip(_item_annotations(annotation, value), value, strict=True)
        return [_to_json(inner, item, known) for inner, item in pairs]
    found = plain(value)
    if not isinstance(found, None | bool | int | float | str | list | dict):
        raise ValueError(
            f"got {value!r:.80}; wanted a value that JSON holds, such as the name of a registered one."
        )
    return found


def _item_annotations(annotation: object, value: Sequence[object]) -> Sequence[object]:
    """The annotations of a tuple's items: of ``tuple[int, float]`` or ``tuple[int, ...]``."""
    args = typing.get_args(annotation)
    return [args[0]] * len(value) if args[-1] is Ellipsis else args


def _members(annotation: object) -> tuple[object, ...]:
    """The members of a union; any other annotation by itself."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _holds_variants(annotation: object) -> bool:
    """Whether an annotation is a kind of variants, or a union with one."""
    return any(map(is_kind, _members(annotation)))


def variants(annotation: object, variants: Sequence[type] = ()) -> dict[str, type] | None:
    """The classes of variants that fit an annotation.

    Args:
      annotation: such as ``nn.Norm`` or ``nn.Positions | None``.
      variants: classes that this call knows beside the registered ones.

    Returns:
      The registered classes of its kinds by name, with ``"None"`` where it is allowed; None for an annotation
      without a kind.
    """
    if not _holds_variants(annotation):
        return None
    members = _members(annotation)
    found = {name: cls for x in members if is_kind(x) for name, cls in registered(x, variants).items()}
    return found | ({"None": types.NoneType} if types.NoneType in members else {})


def to_text(value: object, variants: Sequence[type] = ()) -> str:
    """A variant as a Python expression, easy to quote in a shell: ``Rope(theta=10000.0, pairing="half")``.

    Args:
      value: a variant, None, or a string, which stays as it is.
      variants: as for `to_dict`.

    Returns:
      The text. Fields that are None by default and by value are left out.

    Raises:
      ValueError: `from_text` could not read it: the class is not registered, or a field holds other than
        literals, tuples and variants.
    """
    if value is None or isinstance(value, str):
        return str(value)
    cls = type(value)
    if issubclass(cls, Variant) and registered(cls, variants).get(cls.__name__) is not cls:
        raise ValueError(f"got {value!r:.80}; wanted a registered variant. {unregistered(cls.__name__)}")
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise ValueError(f"got {value!r:.80}; wanted a variant, None or a string.")
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    # A None that is the default is left out.
    defaults = {field.name: field.default for field in dataclasses.fields(value)}
    fields = {name: x for name, x in fields.items() if x is not None or defaults[name] is not None}
    return f"{cls.__name__}({', '.join(f'{name}={_literal(x, variants)}' for name, x in fields.items())})"


def _literal(value: object, known: Sequence[type]) -> str:
    if isinstance(value, Variant):
        return to_text(value, known)
    if isinstance(value, tuple):
        return f"({', '.join(_literal(x, known) for x in value)}{',' * (len(value) == 1)})"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    value = _python_number(value)  # NumPy's repr is np.float64(...)
    is_finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(value, None | bool | int | float | bytes) or not is_finite:
        raise ValueError(
            f"got {value!r:.80}; wanted finite numbers, strings, tuples and variants in a variant."
        )
    return repr(value)


def from_text(annotation: object, text: str, variants: Sequence[type] = ()) -> Any:
    """Parses a variant; the inverse of `to_text`.

    Args:
      annotation: such as ``nn.Positions | None``.
      text: such as ``Rope(theta=1e6)``. A field left out has its default; ``Rope`` alone is ``Rope()``. A
        field may hold a variant: ``Mlp(activation=Swish(beta=2.0))``.
      variants: classes that this call knows beside the registered ones.

    Returns:
      The variant, or None for "None". Where the annotation allows strings, text that is no call, such as
      ``gelu``, is itself.

    Raises:
      ValueError: an unknown variant, a field that does not fit, or anything but literals and variants.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if str in _members(annotation) and not isinstance(node, ast.Call):
            return text
        return _from_node(annotation, node, variants)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:
        if str in _members(annotation) and isinstance(error, SyntaxError):
            return text
        known = ", ".join(_known(annotation, variants)) or "the registered variants"
        wanted = f"wanted one of {known}, with fields by name as in 'Name(field=1)'"
        raise ValueError(f"got {text!r:.200}; {wanted}. {error}") from error


def _known(annotation: object, also: Sequence[type]) -> dict[str, type]:
    return variants(annotation, also) or {}


def _from_node(annotation: object, node: ast.expr, known: Sequence[type]) -> object:
    """The value of an expression: a literal, a tuple, or a variant where the annotation allows one."""
    if isinstance(node, ast.Tuple):
        hint = next((x for x in _members(annotation) if typing.get_origin(x) is tuple), tuple[object, ...])
        hints = _item_annotations(hint, node.elts)
        if len(hints) != len(node.elts):
            raise ValueError(f"got {ast.unparse(node)}; wanted a tuple as long as {hint}.")
        return tuple(_from_node(inner, item, known) for inner, item in zip(hints, node.elts, strict=True))
    if not _holds_variants(annotation):
        return ast.literal_eval(node)
    if not isinstance(node, ast.Call | ast.Name):
        if str in _members(annotation):
            return ast.literal_eval(node)
        node = ast.Name(ast.unparse(node))  # such as None
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    name, classes = ast.unparse(call.func), _known(annotation, known)
    if name not in classes:
        if str in _members(annotation) and isinstance(node, ast.Name):
            raise ValueError(f"Quote a string: {name!r}. {unregistered(name)}")
        # A name such as None, or what is no name, cannot be registered.
        can_be = name.isidentifier() and name != "None" and name not in registered(Variant, known)
        raise ValueError(unregistered(name) if can_be else f"{name!r} is none of these.")
    if call.args:
        raise ValueError(f"got {ast.unparse(node)}; wanted fields by name.")
    if name == "None":
        return None
    hints = typing.get_type_hints(classes[name])
    # An unknown field is an error of the next call, whatever its value.
    fields = {x.arg: _from_node(hints[x.arg], x.value, known) if x.arg in hints else x for x in call.keywords}
    return _dataclass_from_dict(classes[name], fields, known)


def plain(value: object) -> Any:
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
    value = _python_number(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _python_number(value: object) -> object:
    """A NumPy or JAX scalar as Python's; any other value as it is."""
    item = getattr(value, "item", None)
    return item() if callable(item) else value
