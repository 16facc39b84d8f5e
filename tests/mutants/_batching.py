"""A wrong vmap rule, for mutants that are correct without vmap."""

import jax


def first_example_serves_all(function, argument):
    """The function with a vmap rule that uses the first example of one argument for all examples."""
    wrong = jax.custom_batching.custom_vmap(function)

    @wrong.def_vmap
    def rule(size, batched, *inputs):
        inputs = [x[0] if n == argument else x for n, x in enumerate(inputs)]
        axes = [0 if b and n != argument else None for n, b in enumerate(batched)]
        return jax.vmap(function, axes, axis_size=size)(*inputs), True

    return wrong
