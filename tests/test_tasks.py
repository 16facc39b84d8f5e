"""Copy, reverse and sort: a small Transformer learns each task to 100 % on unseen sequences."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tfm_jax import generate, nn, ops, train

BOS, EOS, FIRST, V, S = 1, 2, 3, 11, 6
TASKS = {
    "copy": lambda x: x,
    "reverse": lambda x: x[:, ::-1],
    "sort": lambda x: np.sort(x, axis=1),
}


@pytest.fixture(scope="module")
def compiled():
    """One initial state, one compiled step and one compiled decoder for all tasks."""
    config = nn.Config(
        vocab_size=V,
        d_model=32,
        n_heads=4,
        d_ff=64,
        n_layers=2,
        norm_placement="pre",
        positions=nn.Sinusoidal(),
    )
    model = nn.functionalize(nn.EncoderDecoder, config)
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(1e-4, 4e-3, 50, 1000), weight_decay=1e-4)

    def loss_fn(params, batch, key):
        logits = model.apply(params, batch["source"], batch["target"], key=key)
        return ops.cross_entropy(logits, batch["labels"]), {}

    params = jax.jit(model.init)(jax.random.key(0))
    # Runs often enough for full optimization; the flags of conftest.py would make that compilation slow.
    jax.config.update("jax_disable_most_optimizations", False)
    emitters = "xla_cpu_use_fusion_emitters"
    options = {emitters: True} if emitters in os.environ["XLA_FLAGS"] else None
    step = jax.jit(train.make_train_step(loss_fn, optimizer), donate_argnums=0, compiler_options=options)
    greedy = generate.GenerationConfig((2,), pad_id=0, start_id=1, max_length=S + 1)
    decode = jax.jit(lambda params, source: generate.greedy(model, params, source, greedy).tokens)
    # A copy for each task: the step donates its state.
    yield lambda: train.init_state(jax.tree.map(jnp.copy, params), optimizer, jax.random.key(1)), step, decode
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_small_transformer_learns(task, compiled):
    start, step, decode = compiled
    rng = np.random.default_rng(0)

    def examples(n):
        source = rng.integers(FIRST, V, (n, S), dtype=np.int32)
        target = TASKS[task](source)
        column = np.ones((n, 1), np.int32)
        return {
            "source": source,
            "target": np.concatenate([BOS * column, target], axis=1),
            "labels": np.concatenate([target, EOS * column], axis=1),
        }

    state = start()
    for _ in range(1000):
        state, _ = step(state, examples(64))
    # There are 8 ** 6 sequences, and training uses 64,000: at least three quarters of the test are unseen.
    test = examples(512)
    got = np.asarray(decode(state.params, jnp.asarray(test["source"])))
    np.testing.assert_array_equal(got, test["labels"])
