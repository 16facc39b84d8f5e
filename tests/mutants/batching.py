"""A wrong rule of batching, for mutants that are right alone and wrong under vmap."""

import jax


def first_row_serves_all(function, argument):
    """The function, whose batching rule takes an argument of row 0 for all rows."""
    wrong = jax.custom_batching.custom_vmap(function)

    @wrong.def_vmap
    def rule(size, batched, *inputs):
        inputs = [x[0] if n == argument else x for n, x in enumerate(inputs)]
        axes = [0 if b and n != argument else None for n, b in enumerate(batched)]
        return jax.vmap(function, axes, axis_size=size)(*inputs), True

    return wrong
