"""Cost of a call of ops that is not jitted, on tiny arrays: the checks of arguments weigh most there.

Usage: ``python benchmarks/eager_call.py [--repeats 9]``. Prints the least of the repeats, in
microseconds of processor time, which other programs change little.
"""

import argparse
import time
import timeit

import jax
import jax.numpy as jnp

from tfm_jax import ops

X, SCALE, LABELS, POSITIONS = jnp.ones((2, 3, 4)), jnp.ones(4), jnp.zeros((2, 3), jnp.int32), jnp.arange(3)
HEADS = jnp.ones((2, 3, 2, 4))
CALLS = {
    "layer_norm": lambda: ops.layer_norm(X, SCALE, SCALE),
    "rotary": lambda: ops.rotary(HEADS, POSITIONS),
    "attention": lambda: ops.attention(HEADS, HEADS, HEADS),
    "cross_entropy": lambda: ops.cross_entropy(X, LABELS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--number", type=int, default=100, help="calls in a repeat")
    options = parser.parse_args()
    for name, call in CALLS.items():
        jax.block_until_ready(call())
        times = timeit.repeat(call, timer=time.process_time, repeat=options.repeats, number=options.number)
        print(f"{name:>14}  {min(times) / options.number * 1e6:8.1f} us")


if __name__ == "__main__":
    main()
