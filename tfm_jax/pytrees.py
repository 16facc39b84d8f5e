"""Dataclasses as pytrees whose structures differ by their class, also in exported functions."""

import ast
import contextlib
import dataclasses
from typing import Any, TypeVar

import jax
import jax.export

__all__ = ["register", "register_named_tuple", "static"]

T = TypeVar("T")


def static(**kwargs) -> dataclasses.Field:
    """A field of a pytree that is part of what is compiled, not a leaf: sizes, ids, names.

    Equivalent to::

        dataclasses.field(metadata={"static": True}, **kwargs)

    Args:
      kwargs: of ``dataclasses.field``, such as ``default``; not its ``metadata``.

    Returns:
      The field. Its values must be hashable and compare to one bool: arrays are not.
    """
    return dataclasses.field(metadata={"static": True}, **kwargs)


def register(cls: type[T]) -> type[T]:
    """Makes a dataclass a pytree: its fields are children, those made by ``static`` are not.

    In the place of ``jax.tree_util.register_dataclass``, which gives two classes with as many children and
    the same static values structures that are equal, whatever their names, although their hashes differ (as
    of jax 0.10 and 0.12). ``jit`` looks programs up by structure: now and then, as their hashes fall, it runs
    one class's program on the other.

    Equivalent to::

        jax.tree_util.register_dataclass(cls)      # but for the structures

    Args:
      cls: a dataclass whose constructor takes each of its fields.

    Returns:
      ``cls`` itself, for use as a decorator. Two instances have equal structures only where their classes are
      the same, their static fields equal and the structures of their children equal. As an argument or a
      result of a function that ``jax.export`` serializes it is written by the names of its package and its
      class, with its static fields where they are literals (numbers, texts, None, tuples of them); a second
      class of a name, such as a notebook's cell run again, is not.

    Raises:
      TypeError: ``cls`` is not a dataclass.
      ValueError: ``cls`` is a pytree already.
    """
    fields = dataclasses.fields(cls)
    statics = tuple(f.name for f in fields if f.metadata.get("static"))
    children = tuple(f.name for f in fields if not f.metadata.get("static"))
    keys = tuple(map(jax.tree_util.GetAttrKey, children))

    def read(names, x):
        return tuple(getattr(x, name) for name in names)

    def flatten(x):
        return read(children, x), read(statics, x)

    def flatten_with_keys(x):
        return tuple(zip(keys, read(children, x), strict=True)), read(statics, x)

    def unflatten(values, leaves):
        # Not by the constructor: JAX also puts in leaves that its checks of a user's values would refuse.
        x = object.__new__(cls)
        for name, value in (*zip(children, leaves, strict=True), *zip(statics, values, strict=True)):
            object.__setattr__(x, name, value)
        return x

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    with contextlib.suppress(ValueError):  # where the name is taken, JAX refuses to serialize this class
        jax.export.register_pytree_node_serialization(
            cls,
            serialized_name=_exported_name(cls),
            serialize_auxdata=lambda values: _literals(cls, values),
            deserialize_auxdata=lambda text: ast.literal_eval(text.decode()),
        )
    return cls


def register_named_tuple(cls: type[T]) -> type[T]:
    """Lets ``jax.export`` serialize functions that take or give a NamedTuple.

    Equivalent to::

        jax.export.register_namedtuple_serialization(cls, serialized_name="package.Name")

    Args:
      cls: a NamedTuple.

    Returns:
      ``cls`` itself, for use as a decorator.
    """
    jax.export.register_namedtuple_serialization(cls, serialized_name=_exported_name(cls))
    return cls


def _exported_name(cls: type) -> str:
    # Without the module, which may move between versions.
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"


def _literals(cls: type, values: tuple[Any, ...]) -> bytes:
    text = repr(values)
    try:
        same = ast.literal_eval(text) == values
    except (SyntaxError, ValueError):
        same = False
    if not same:
        raise ValueError(
            f"{cls.__name__}: got static fields {text}; wanted numbers, texts, None or tuples of them, "
            "which an exported function can be written with."
        )
    return text.encode()
