"""Arguments checked where they come in: one error that names the function and the argument."""

import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.types import Array, Key

__all__ = ["as_array", "as_key", "each_text", "listed_texts"]

_INT32 = np.iinfo(np.int32)


def as_array(function: str, name: str, x: Any) -> Array:
    """An argument as an array of JAX.

    Equivalent to::

        jnp.asarray(x)                          # of an array, NumPy's or JAX's, and of nothing else

    Args:
      function: who is called, such as "layer_norm".
      name: of the argument.
      x: the argument. A tracer and a ``jax.ShapeDtypeStruct`` stay as they are.

    Returns:
      The array. Integers of 64 bits become int32, unless ``jax_enable_x64`` is set.

    Raises:
      ValueError: x is no array, such as a list; is not of numbers; or has integers that int32 cannot hold.
    """
    if isinstance(x, jax.Array | jax.ShapeDtypeStruct):
        return x
    if hasattr(x, "__jax_array__"):  # a parameter of a module
        return x.__jax_array__()
    if not isinstance(x, np.ndarray | np.generic):
        raise ValueError(
            f"{function}: got {name} = {reprlib.repr(x)}, a {type(x).__name__}; wanted an array. "
            f"Make it one by jnp.asarray({name})."
        )
    try:
        array = jnp.asarray(x)
    except TypeError as error:
        raise ValueError(
            f"{function}: got {name} of dtype {x.dtype}; wanted an array of numbers. Convert it."
        ) from error
    if x.dtype != array.dtype and x.dtype.kind in "iu" and x.size:
        low, high = int(x.min()), int(x.max())
        if low < _INT32.min or high > _INT32.max:
            raise ValueError(
                f"{function}: got {name} with {low if low < _INT32.min else high}; wanted integers within "
                "int32, which JAX computes in."
            )
    return array


def as_key(function: str, key: Any, *, several: bool = False, name: str = "key") -> Key:
    """A PRNG key in the typed form of ``jax.random.key``.

    Equivalent to::

        key                                     # of jax.random.key(0)
        jax.random.wrap_key_data(key)           # of jax.random.PRNGKey(0), uint32 [2]

    Args:
      function: who is called, such as "dropout".
      key: either form. The last axis of uint32 is always the one key's data, so uint32 [B, 2] are B keys.
      several: whether there may be leading dims, for one key a sequence.
      name: of the argument.

    Returns:
      The key, or the keys [...]. Both forms draw the same numbers.

    Raises:
      ValueError: it is no key; or several where one is wanted.
    """
    dtype, keys = getattr(key, "dtype", None), key
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        try:
            keys = jax.random.wrap_key_data(jnp.asarray(key)) if dtype == np.uint32 else None
        except (TypeError, ValueError):  # not as many numbers as the default implementation wants
            keys = None
    if keys is None:
        got = reprlib.repr(key) if dtype is None else f"{dtype}{list(key.shape)}"
        raise ValueError(f"{function}: got {name} = {got}; wanted a PRNG key. Make one by jax.random.key(0).")
    if keys.ndim and not several:
        raise ValueError(
            f"{function}: got {name} with keys of shape {list(keys.shape)}; wanted one key. Take one of "
            "them, or map over them by jax.vmap."
        )
    return keys


def each_text(function: str, name: str, texts: Iterable[Any], *, pairs: bool = False) -> Iterator[Any]:
    """The texts of a list, each of them checked when it is taken.

    Equivalent to::

        iter(texts)

    Args:
      function: who is called, such as "translate".
      name: of the argument.
      texts: a list of texts, or any iterable but one text.
      pairs: whether an element may also be a pair of texts.

    Returns:
      The iterator.

    Raises:
      ValueError: ``texts`` is one text, or, when it is taken, an element is none; names its index.
    """
    if isinstance(texts, str | bytes):
        raise ValueError(
            f"{function}: got {name} = {reprlib.repr(texts)}, one text; wanted a list of texts. Pass [text]."
        )

    def is_pair(x: Any) -> bool:
        return pairs and isinstance(x, tuple | list) and len(x) == 2 and all(isinstance(s, str) for s in x)

    def each() -> Iterator[Any]:
        for i, text in enumerate(texts):
            if not isinstance(text, str) and not is_pair(text):
                wanted = "a text or a pair of texts" if pairs else "a text"
                raise ValueError(
                    f"{function}: got {name}[{i}] = {reprlib.repr(text)}; wanted {wanted}. Correct it, or "
                    "leave it out."
                )
            yield text

    return each()


def listed_texts(function: str, name: str, texts: Iterable[Any], *, pairs: bool = False) -> list[Any]:
    """The texts as a list, all of them checked.

    Equivalent to::

        list(each_text(function, name, texts))

    Args:
      function, name, texts, pairs: as ``each_text`` takes them.

    Returns:
      The list.

    Raises:
      ValueError: as ``each_text``.
    """
    return list(each_text(function, name, texts, pairs=pairs))
