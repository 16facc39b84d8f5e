"""Compile time by depth: one AdamW step of a decoder with 6 and with 24 layers.

    python -m benchmarks.compile_time

Prints the median seconds of ``lower().compile()`` for each depth, from interleaved runs, and their ratio.
Layers are scanned, so the program has the same size at any depth and the ratio should be 1.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import optax

from tfm_jax import nn, ops, train

REPEATS = 5


def seconds(n_layers: int) -> float:
    config = nn.Config(vocab_size=1000, d_model=64, n_heads=4, d_ff=256, n_layers=n_layers)
    model, optimizer = nn.functionalize(nn.Decoder, config), optax.adamw(1e-3)

    def loss_fn(params, batch, key):
        return ops.cross_entropy(model.apply(params, batch["tokens"], key=key), batch["labels"]), {}

    step = train.make_train_step(loss_fn, optimizer)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda: train.init_state(model.init(key), optimizer, key))
    tokens = jax.ShapeDtypeStruct((8, 128), jnp.int32)
    start = time.perf_counter()
    jax.jit(step, donate_argnums=0).lower(state, {"tokens": tokens, "labels": tokens}).compile()
    return time.perf_counter() - start


def main() -> None:
    """Runs the benchmark and prints the results."""
    seconds(6)  # the first compilation includes one-time costs
    times = {depth: [] for depth in (6, 24)}
    for _ in range(REPEATS):
        for depth, found in times.items():
            found.append(seconds(depth))
    medians = {depth: statistics.median(found) for depth, found in times.items()}
    for depth, median in medians.items():
        low, high = min(times[depth]), max(times[depth])
        print(f"{depth:2d} layers: {median:.2f} s (from {low:.2f} to {high:.2f})")
    print(f"ratio: {medians[24] / medians[6]:.2f}")


if __name__ == "__main__":
    main()
