"""Dataclasses as pytrees whose structures are told apart by their class."""

import dataclasses
from typing import TypeVar

import jax

__all__ = ["register", "static"]

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
      the same, their static fields equal and the structures of their children equal.

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
    return cls
