"""Dataclass fields checked against their annotations."""

import dataclasses
import functools
import numbers
import types
import typing
from typing import Annotated, Literal, Union

from tfm_jax.ranges import Range
from tfm_jax.registry import Variant, is_kind, problem, registered

__all__ = ["check_field", "check_fields", "option_name", "range_of"]


def check_fields(value: object) -> None:
    """Checks that every field of a dataclass instance has the type and range of its annotation.

    Supported annotations: numbers (with the `Range` of ``Annotated[float, range]``), bool, str, ``Literal``,
    None, dataclasses, kinds of variants, tuples, and unions of these. Any other class accepts its instances.
    A kind, such as ``nn.Norm``, accepts every frozen, hashable dataclass that subclasses it. A subclass of an
    annotated dataclass is an error, because code that reads the field would treat it as the base class.

    Args:
      value: an instance of a dataclass, such as ``self`` in its ``__post_init__``.

    Raises:
      ValueError: names the first field that does not fit, and what was wanted.
    """
    for name in _hints(type(value)):
        check_field(type(value), name, getattr(value, name))


def check_field(cls: type, name: str, value: object) -> None:
    """Checks that a value has the type and range of one field's annotation, as `check_fields` does.

    Args:
      cls: the dataclass.
      name: of its field.
      value: for that field.

    Raises:
      ValueError: names the field, and what was wanted.
    """
    hint = _hints(cls)[name]
    if not _fits(hint, value):
        raise ValueError(
            f"{cls.__name__}: got {name}={value!r:.80}; wanted {_description(hint)}.{_fix(hint, value)}"
        )


@functools.cache
def _hints(cls: type) -> dict[str, object]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _members(hint: object) -> tuple[object, ...]:
    """The members of a union; any other annotation by itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def range_of(hint: object) -> Range | None:
    """The `Range` in an annotation, also in a member of a union; None if it has none."""
    if (found := _range(hint)) is not None:
        return found
    inner = typing.get_args(hint)[:1] if typing.get_origin(hint) is Annotated else _members(hint)
    return next(filter(None, map(range_of, inner)), None) if inner != (hint,) else None


def _range(hint: object) -> Range | None:
    if typing.get_origin(hint) is not Annotated:
        return None
    return next((x for x in typing.get_args(hint)[1:] if isinstance(x, Range)), None)


_UNBOUNDED = {
    int: Range("an integer", lambda x: True, integral=True),
    float: Range("a number", lambda x: True),
}
_DESCRIPTIONS = {bool: "True or False", str: "a string", types.NoneType: "None"}


def _fits(hint: object, value: object) -> bool:
    if (allowed := _range(hint) or _unbounded(hint)) is not None:
        # Not an array: a field is compared, hashed and written to files.
        return isinstance(value, numbers.Number) and value in allowed
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(member, value) for member in args)
    if origin is Annotated:
        return _fits(args[0], value)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin is tuple:
        return isinstance(value, tuple) and _items_fit(args, value)
    if is_kind(hint):
        return isinstance(value, hint) and problem(value) is None
    if dataclasses.is_dataclass(hint):
        return type(value) is hint
    cls = origin or hint
    if not isinstance(cls, type) or getattr(cls, "_is_protocol", False):
        return True
    return isinstance(value, cls)


def _unbounded(hint: object) -> Range | None:
    return _UNBOUNDED.get(hint) if isinstance(hint, type) else None


def _items_fit(hints: tuple[object, ...], value: tuple[object, ...]) -> bool:
    hints = (hints[0],) * len(value) if hints[-1:] == (Ellipsis,) else hints
    return len(hints) == len(value) and all(map(_fits, hints, value))


def _description(hint: object) -> str:
    """An annotation in words, for error messages."""
    if (allowed := _range(hint) or _unbounded(hint)) is not None:
        return allowed.wanted
    members = _members(hint)
    classes = [cls.__name__ for cls in _dataclasses(members)]
    choices = [repr(arg) for member in members for arg in _literals(member)]
    others = [member for member in members if not dataclasses.is_dataclass(member) and not _literals(member)]
    if choices and others == [types.NoneType]:
        return _either([*choices, "None"])
    parts = [f"an instance of {_either(classes)}"] if classes else []
    parts += [_either(choices)] if choices else []
    parts += [_description_of_one(member) for member in others]
    return ", or ".join(parts)


def _description_of_one(hint: object) -> str:
    """The description of an annotation that is not a union, a dataclass or a ``Literal``."""
    if (allowed := _range(hint) or _unbounded(hint)) is not None:
        return allowed.wanted
    if typing.get_origin(hint) is tuple:
        items = (_description(item) for item in typing.get_args(hint) if item is not Ellipsis)
        return f"a tuple of {' and '.join(items)}"
    if typing.get_origin(hint) is Annotated:
        return _description(typing.get_args(hint)[0])
    if is_kind(hint):
        names = list(registered(hint))
        return f"an instance of {hint.__name__}" + (f", such as {_either(names)}" if names else "")
    return _DESCRIPTIONS.get(hint) or f"an instance of {getattr(hint, '__name__', hint)}"


def _literals(hint: object) -> tuple[object, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _fix(hint: object, value: object) -> str:
    """How to fix the call, if the intent can be guessed."""
    members = _members(hint)
    for cls in _dataclasses(members):
        if value is cls or _names(value, cls):
            return f" Pass {cls.__name__}(...), an instance."
        if isinstance(value, cls):
            return f" A subclass of {cls.__name__} is not supported."
        if isinstance(value, Variant) and (name := _field_of(cls, value)):
            return f" Pass {cls.__name__}({name}={value!r:.80})."
    for kind in filter(is_kind, members):
        classes = registered(kind).values()
        if found := next((cls for cls in classes if value is cls or _names(value, cls)), None):
            return f" Pass {found.__name__}(...), an instance."
        if isinstance(value, type) and issubclass(value, kind):
            return problem(value) or f" Pass {value.__name__}(...), an instance."
        if isinstance(value, kind):
            return problem(value) or ""
        cls = value if isinstance(value, type) else type(value)
        if dataclasses.is_dataclass(cls) and not issubclass(cls, Variant):
            return f" {cls.__name__} does not subclass {kind.__name__}."
        if callable(value) and "__call__" in vars(kind):
            return f" Subclass {kind.__name__}, with the function as __call__."
    return ""


def _field_of(cls: type, value: object) -> str | None:
    """The first field of a dataclass that a value fits."""
    return next((name for name, hint in _hints(cls).items() if _fits(hint, value)), None)


def _dataclasses(members: tuple[object, ...]) -> list[type]:
    return [member for member in members if isinstance(member, type) and dataclasses.is_dataclass(member)]


def _names(value: object, cls: type) -> bool:
    """Whether a value is the name of a class, in upper or lower case."""
    return isinstance(value, str) and value.lower() == cls.__name__.lower()


def option_name(field: str) -> str:
    """The option of a command that sets a field: "--train.batch-size" for "train.batch_size".

    Args:
      field: the path of the field.

    Returns:
      The option.
    """
    return f"--{field.replace('_', '-')}"
