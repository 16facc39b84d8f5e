"""The fields of a dataclass, checked against their annotations."""

import dataclasses
import functools
import numbers
import types
import typing
from typing import Annotated, Any, Literal, Union

from tfm_jax.ranges import Range

__all__ = ["check_fields", "range_of"]


def check_fields(value: object) -> None:
    """Raises where a field is not what its annotation declares.

    Checked are numbers (with the `Range` of ``Annotated[float, range]``), flags, texts, ``Literal``, None,
    dataclasses, tuples and unions of these. Of every other annotation that is a class, an instance is wanted.
    A subclass of a dataclass is refused: code that reads the field would take it for its base.

    Args:
      value: an instance of a dataclass, such as ``self`` in its ``__post_init__``.

    Raises:
      ValueError: by name, with what was wanted.
    """
    kind = type(value)
    for name, hint in _hints(kind).items():
        got = getattr(value, name)
        if not _fits(hint, got):
            fix = _fix(hint, got)
            raise ValueError(f"{kind.__name__}: got {name}={got!r:.80}; wanted {_words(hint)}.{fix}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _members(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of any other annotation, itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def range_of(hint: Any) -> Range | None:
    """The range that an annotation declares, also one beside None or other marks; None where it has none."""
    if (found := _range(hint)) is not None:
        return found
    inner = typing.get_args(hint)[:1] if typing.get_origin(hint) is Annotated else _members(hint)
    return next(filter(None, map(range_of, inner)), None) if inner != (hint,) else None


def _range(hint: Any) -> Range | None:
    if typing.get_origin(hint) is not Annotated:
        return None
    return next((x for x in hint.__metadata__ if isinstance(x, Range)), None)


_PLAIN = {
    int: Range("a whole number", lambda x: True, whole=True),
    float: Range("a number", lambda x: True),
}
_WORDS = {bool: "True or False", str: "a text", types.NoneType: "None"}


def _fits(hint: Any, value: object) -> bool:
    if (allowed := _range(hint) or _plain(hint)) is not None:
        # Not an array: a field is compared, hashed and written into files.
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
    if dataclasses.is_dataclass(hint):
        return type(value) is hint
    kind = origin or hint
    known = isinstance(kind, type) and not getattr(kind, "_is_protocol", False)
    return not known or isinstance(value, kind)


def _plain(hint: Any) -> Range | None:
    return _PLAIN.get(hint) if isinstance(hint, type) else None


def _items_fit(kinds: tuple[Any, ...], value: tuple[Any, ...]) -> bool:
    kinds = (kinds[0],) * len(value) if kinds[-1:] == (Ellipsis,) else kinds
    return len(kinds) == len(value) and all(map(_fits, kinds, value))


def _words(hint: Any) -> str:
    """What is wanted, as a message says it."""
    if (allowed := _range(hint) or _plain(hint)) is not None:
        return allowed.wanted
    members = _members(hint)
    classes = [member.__name__ for member in members if dataclasses.is_dataclass(member)]
    parts = [f"an instance of {_listed(classes)}"] if classes else []
    for member in members:
        if dataclasses.is_dataclass(member):
            continue
        origin, args = typing.get_origin(member), typing.get_args(member)
        if origin is Literal:
            parts.append(_listed(list(map(repr, args))))
        elif origin is tuple:
            parts.append(f"a tuple of {' and '.join(_words(x) for x in args if x is not Ellipsis)}")
        elif origin is Annotated and _range(member) is None:
            parts.append(_words(args[0]))
        elif member is not hint:
            parts.append(_words(member))
        else:
            parts.append(_WORDS.get(member) or f"an instance of {getattr(member, '__name__', member)}")
    return (", or " if classes else " or ").join(parts)


def _listed(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _fix(hint: Any, value: object) -> str:
    """The way out, where what was meant can be guessed."""
    classes = [member for member in _members(hint) if dataclasses.is_dataclass(member)]
    for kind in classes:
        if value is kind or (isinstance(value, str) and value.lower() == kind.__name__.lower()):
            return f" Pass {kind.__name__}(...), an instance."
        if isinstance(value, kind):
            return f" A subclass of {kind.__name__} is not supported."
    return ""
