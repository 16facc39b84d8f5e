"""The one legend of axis letters, and the aliases that signatures use.

==  =====================================
B   batch
T   query or target length
S   key or source length
N   query heads
K   key/value heads (K divides N)
H   head dimension
D   model dimension (d_model)
F   feed-forward dimension (d_ff)
V   vocabulary
L   layers
==  =====================================

Shapes stand in signatures as comments (``# [..., T, N, H]``) and in einsum strings as the same capitals.
Ops take any leading dimensions ``...`` and index from the right.
"""

from collections.abc import Mapping
from typing import Any

import jax

Array = jax.Array
Key = jax.Array
"""A PRNG key of ``jax.random.key``; one of ``jax.random.PRNGKey`` draws the same. Functions consume it."""
Params = dict[str, Any]
"""A plain, nested dict of arrays."""
Batch = Mapping[str, Array]
"""Named arrays whose first axis is the batch."""
SumWeight = tuple[Array, Array]
"""A loss or metric as ``(sum, weight)``, two float32 scalars, so that microbatches, devices and hosts add."""
