"""The arrays in masks: their dtypes and shapes checked, and laid out to meet."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.types import Array

__all__ = ["Sizes", "at_hand", "booleans", "brackets", "place"]


class Sizes(NamedTuple):
    """What a mask is read for: ``batch`` is q's leading dims [...]; N, T and S as in ``tfm_jax.types``."""

    batch: tuple[int, ...]
    N: int
    T: int
    S: int


def place(mask: Any, name: str, letters: str, sizes: Sizes) -> Array:  # -> [..., 1|N, 1|T, 1|S]
    """The array ``name`` of a part, every dim checked, laid out to broadcast against the other parts."""
    array = jnp.asarray(getattr(mask, name))
    cut = max(0, array.ndim - len(letters))
    lead, tail = array.shape[:cut], array.shape[cut:]
    fits = len(tail) == len(letters) and len(lead) in (0, len(sizes.batch))
    fits = fits and all(n in (1, wanted) for n, wanted in zip(lead, sizes.batch, strict=False))
    found = dict(zip(letters, tail, strict=False))
    wanted = {letter: getattr(sizes, letter) for letter in letters}
    if not fits or any(n != wanted[letter] and (letter, n) != ("N", 1) for letter, n in found.items()):
        known = [f"[...] = {brackets(sizes.batch)}", *(f"{letter} = {n}" for letter, n in wanted.items())]
        raise ValueError(
            f"{mask.expression()}: got {name} of shape {brackets(array.shape)}; wanted "
            f"[{', '.join(letters)}] or [{', '.join(['...', *letters])}], where {', '.join(known)} "
            "(1 may stand for a size of [...] or N)."
        )
    return array.reshape(*(lead or (1,) * len(sizes.batch)), *(found.get(letter, 1) for letter in "NTS"))


def brackets(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def booleans(where: str, x: Any) -> Any:
    """``x``, which must be a boolean array; else a ValueError that says how to make it one."""
    x = x if hasattr(x, "dtype") else np.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        mend = "An additive mask (0 and -inf) is a bias: pass it as bias=..., or its `x == 0` as the mask."
    else:
        mend = "If nonzero means may attend, pass `x != 0` or `x.astype(bool)`."
    if not jnp.issubdtype(x.dtype, jnp.bool_):
        raise ValueError(f"{where}: got dtype {x.dtype}; wanted bool, where True means may attend. {mend}")
    return x


def at_hand(leaf: Any) -> bool:
    """Whether the values of a leaf can be read here and now."""
    if isinstance(leaf, jax.Array):
        return not isinstance(leaf, jax.core.Tracer) and leaf.is_fully_addressable and not leaf.is_deleted()
    return isinstance(leaf, int | np.ndarray | np.generic)
