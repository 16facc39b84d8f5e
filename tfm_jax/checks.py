"""Checks of the arguments of public functions; each error names the function and the argument."""

import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.types import Array, Key

__all__ = ["as_array", "as_key", "as_texts", "iter_texts"]

_INT32 = np.iinfo(np.int32)


def as_array(function: str, name: str, x: Any) -> Array:
    """Converts a NumPy or JAX array to a JAX array; anything else is an error.

    Equivalent to::

        jnp.asarray(x)

    Args:
      function: name of the public function, such as "layer_norm".
      name: of the argument.
      x: the argument. A tracer and a ``jax.ShapeDtypeStruct`` are returned as they are.

    Returns:
      The array. 64-bit integers become int32, unless ``jax_enable_x64`` is set.

    Raises:
      ValueError: x is not an array, such as a list; its dtype is not numeric; or an integer overflows int32.
    """
    if isinstance(x, jax.Array | jax.ShapeDtypeStruct):
        return x
    if hasattr(x, "__jax_array__"):  # such as an nnx.Param
        return x.__jax_array__()
    if not isinstance(x, np.ndarray | np.generic):
        raise ValueError(
            f"{function}: got {name}={reprlib.repr(x)}, a {type(x).__name__}; wanted an array. "
            f"Convert it with jnp.asarray({name})."
        )
    try:
        array = jnp.asarray(x)
    except TypeError as error:
        raise ValueError(
            f"{function}: got {name} of dtype {x.dtype}; wanted an array of numbers. Convert it first."
        ) from error
    if x.dtype != array.dtype and x.dtype.kind in "iu" and x.size:
        low, high = int(x.min()), int(x.max())
        if low < _INT32.min or high > _INT32.max:
            raise ValueError(
                f"{function}: got {name} with {low if low < _INT32.min else high}; wanted integers within "
                "int32, the integer type of JAX."
            )
    return array


def as_key(function: str, key: Any, *, batched: bool = False, name: str = "key") -> Key:
    """Converts a PRNG key to the typed form of ``jax.random.key``.

    Equivalent to::

        key                                     # from jax.random.key(0)
        jax.random.wrap_key_data(key)           # from jax.random.PRNGKey(0), uint32 [2]

    Args:
      function: name of the public function, such as "dropout".
      key: either form. The last axis of uint32 is the data of one key, so uint32 [B, 2] holds B keys.
      batched: whether leading dims are allowed, for one key per sequence.
      name: of the argument.

    Returns:
      The key, or the keys [...]. Both forms give the same random numbers.

    Raises:
      ValueError: it is not a key, or is a batch of keys where one is wanted.
    """
    dtype, keys = getattr(key, "dtype", None), key
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        try:
            keys = jax.random.wrap_key_data(jnp.asarray(key)) if dtype == np.uint32 else None
        except (TypeError, ValueError):  # not the key size of the default implementation
            keys = None
    if keys is None:
        got = reprlib.repr(key) if dtype is None else f"{dtype}{list(key.shape)}"
        raise ValueError(f"{function}: got {name}={got}; wanted a PRNG key. Make one with jax.random.key(0).")
    if keys.ndim and not batched:
        raise ValueError(
            f"{function}: got {name} with keys of shape {list(keys.shape)}; wanted one key. Index it, or map "
            "over it with jax.vmap."
        )
    return keys


def iter_texts(function: str, name: str, texts: Iterable[Any], *, pairs: bool = False) -> Iterator[Any]:
    """Iterates over texts, and checks each when it is reached.

    Equivalent to::

        iter(texts)

    Args:
      function: name of the public function, such as "translate".
      name: of the argument.
      texts: an iterable of strings, but not a single string.
      pairs: whether an element may also be a pair of strings.

    Returns:
      The iterator.

    Raises:
      ValueError: ``texts`` is a single string; or an element is not a string, when it is reached. The message
        gives its index.
    """
    if isinstance(texts, str | bytes):
        raise ValueError(
            f"{function}: got {name}={reprlib.repr(texts)}, one string; wanted a list of strings. "
            "Pass [text]."
        )

    def is_pair(x: Any) -> bool:
        return pairs and isinstance(x, tuple | list) and len(x) == 2 and all(isinstance(s, str) for s in x)

    def checked() -> Iterator[Any]:
        for i, text in enumerate(texts):
            if not isinstance(text, str) and not is_pair(text):
                wanted = "a string or a pair of strings" if pairs else "a string"
                raise ValueError(
                    f"{function}: got {name}[{i}]={reprlib.repr(text)}; wanted {wanted}. Convert it, or "
                    "leave it out."
                )
            yield text

    return checked()


def as_texts(function: str, name: str, texts: Iterable[Any], *, pairs: bool = False) -> list[Any]:
    """A list of checked texts.

    Equivalent to::

        list(iter_texts(function, name, texts))

    Args:
      function, name, texts, pairs: as for ``iter_texts``.

    Returns:
      The list.

    Raises:
      ValueError: as for ``iter_texts``.
    """
    return list(iter_texts(function, name, texts, pairs=pairs))
