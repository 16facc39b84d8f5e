"""The implementations of attention by name, one file each; "auto" takes the first.

Every backend is a function ``(q, k, v, mask, bias, *, scale, soft_cap, dropout_rate, key)`` that gives
[..., T, N, Hv] of arguments which ``ops.attention`` has checked: the mask still as a ``Mask`` (or None),
``scale`` never None. It honours all of them or raises a ValueError that says what it cannot do; it never
ignores one. A backend that cannot do everything says so here, beside its name, so that "auto" can pass over
it.
"""

from collections.abc import Callable

from tfm_jax.ops.backends import reference
from tfm_jax.types import Array

__all__ = ["BACKENDS"]

BACKENDS: dict[str, Callable[..., Array]] = {"reference": reference.attention}
