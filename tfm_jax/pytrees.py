"""Pytrees: dataclasses whose structure includes the class, also in exported functions; nested dicts."""

import ast
import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.export

__all__ = ["register", "register_named_tuple", "replace_leaves", "static"]

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """A static field of a pytree dataclass: part of its structure, not a leaf, such as a size or a name.

    Equivalent to::

        dataclasses.field(metadata={"static": True}, **kwargs)

    Args:
      kwargs: of ``dataclasses.field``, such as ``default``; not ``metadata``.

    Returns:
      The field. Its values must be hashable, and ``==`` must give one bool: no arrays.
    """
    return dataclasses.field(metadata={"static": True}, **kwargs)


def register(cls: type[T]) -> type[T]:
    """Registers a dataclass as a pytree; fields made by ``static`` are metadata, all others children.

    Use it instead of ``jax.tree_util.register_dataclass``. There (as of jax 0.10 and 0.12) two classes with
    equally many children and equal static values have equal structures but different hashes. ``jit`` looks
    compiled programs up by structure, so on a hash collision it runs one class's program on the other.

    Equivalent to::

        jax.tree_util.register_dataclass(cls)      # except for the structures

    Args:
      cls: a dataclass whose constructor takes each of its fields.

    Returns:
      ``cls`` itself, for use as a decorator. Two instances have equal structures only if their classes, their
      static fields and the structures of their children are equal. ``jax.export`` can serialize functions of
      it: the name there is package and class, and static fields must be literals (numbers, strings, None,
      tuples of them). A second class of the same name, as after rerunning a notebook cell, is not.

    Raises:
      TypeError: ``cls`` is not a dataclass.
      ValueError: ``cls`` is a pytree already.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(
            f"register: got {cls!r}; wanted a dataclass. Decorate it with dataclasses.dataclass first."
        )
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
        # Not the constructor: its checks would reject placeholder leaves that JAX puts in.
        x = object.__new__(cls)
        for name, value in (*zip(children, leaves, strict=True), *zip(statics, values, strict=True)):
            object.__setattr__(x, name, value)
        return x

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    with contextlib.suppress(ValueError):  # the name is taken: JAX will not serialize this class
        jax.export.register_pytree_node_serialization(
            cls,
            serialized_name=_exported_name(cls),
            serialize_auxdata=lambda values: _literals(cls, values),
            deserialize_auxdata=lambda text: ast.literal_eval(text.decode()),
        )
    return cls


def register_named_tuple(cls: type[T]) -> type[T]:
    """Lets ``jax.export`` serialize functions that take or return a NamedTuple.

    Equivalent to::

        jax.export.register_namedtuple_serialization(cls, serialized_name="package.Name")

    Args:
      cls: a NamedTuple.

    Returns:
      ``cls`` itself, for use as a decorator.
    """
    jax.export.register_namedtuple_serialization(cls, serialized_name=_exported_name(cls))
    return cls


def replace_leaves(tree: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dict with the leaves of another one in place of its own.

    Equivalent to::

        unflatten({**flatten(tree), **flatten(given)})    # by paths

    Args:
      tree: a nested dict.
      given: a nested dict with some of its paths, or with new ones.

    Returns:
      A new dict.
    """
    changed = {
        name: replace_leaves(tree[name], x) if isinstance(tree.get(name), Mapping) else x
        for name, x in given.items()
    }
    return {**tree, **changed}


def _exported_name(cls: type) -> str:
    # Without the module, which may change between versions.
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"


def _literals(cls: type, values: tuple[object, ...]) -> bytes:
    text = repr(values)
    try:
        same = ast.literal_eval(text) == values
    except (SyntaxError, ValueError):
        same = False
    if not same:
        raise ValueError(
            f"{cls.__name__}: got static fields {text}; wanted numbers, strings, None or tuples of them, "
            "the only values that an exported function can hold."
        )
    return text.encode()
