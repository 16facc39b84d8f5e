"""Axis letters and type aliases of the library.

One letter per axis, everywhere: in comments of signatures (``# [..., T, N, H]``), in docstrings and in einsum
strings.

======  =============================================================
B       batch
T       query or target length
S       key or source length; T in self-attention
N       query heads
K       key/value heads; K divides N
H       head dimension
D       model dimension (``d_model``)
F       feed-forward dimension (``d_ff``)
V       vocabulary
L       layers
E       experts
P       pixels of a patch, or of one of its sides
R       buckets of relative positions
Y       token types
C       classes of a classifier, channels of an image
======  =============================================================

A letter may have a small suffix: ``Hv`` is the head dimension of the values. ``...`` is any number of leading
axes, often B: ops index from the right and accept any.
"""

from collections.abc import Mapping
from typing import Any

import jax

Array = jax.Array
Key = jax.Array
"""A PRNG key from ``jax.random.key``, or the old form from ``jax.random.PRNGKey``. Use each key once."""
Params = dict[str, Any]
"""Model parameters: a plain, nested dict of arrays."""
Batch = Mapping[str, Array]
"""Arrays by name, each with the batch axis first."""
SumWeight = tuple[Array, Array]
"""A loss or metric as ``(sum, weight)``, float32 scalars; both add over microbatches, devices and hosts."""
