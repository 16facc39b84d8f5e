"""Cost of a call of ops that is not jitted, on tiny arrays: the checks of arguments weigh most there.

Usage: ``python benchmarks/eager_call.py [--repeats 9]``. Prints the median of the repeats, in microseconds.
"""

import argparse
import statistics
import timeit

import jax
import jax.numpy as jnp

from tfm_jax import ops

X = jnp.ones((2, 3, 4))
HEADS = jnp.ones((2, 3, 2, 4))
CALLS = {
    "layer_norm": lambda: ops.layer_norm(X, X[0, 0], X[0, 0]),
    "rotary": lambda: ops.rotary(HEADS, jnp.arange(3)),
    "attention": lambda: ops.attention(HEADS, HEADS, HEADS),
    "cross_entropy": lambda: ops.cross_entropy(X, jnp.zeros((2, 3), jnp.int32)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--number", type=int, default=100, help="calls in a repeat")
    options = parser.parse_args()
    for name, call in CALLS.items():
        jax.block_until_ready(call())
        times = timeit.repeat(call, repeat=options.repeats, number=options.number)
        print(f"{name:>14}  {statistics.median(times) / options.number * 1e6:8.1f} us")


if __name__ == "__main__":
    main()
