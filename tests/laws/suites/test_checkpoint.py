"""``train.Checkpoints`` satisfies the laws."""

import itertools

import jax
import optax
import pytest
from hypothesis import settings

from tests.marks import slow
from tfm_jax import laws, nn, train

# Few, because each case writes two directories.
EXAMPLES = min(settings().max_examples, 5)


@pytest.mark.parametrize("tied", [True, *slow(False)], ids=["tied", "untied"])
def test_checkpoints(tied, tmp_path):
    config = nn.Config(vocab_size=9, d_model=8, n_heads=2, d_ff=6, n_layers=2, tie_embeddings=tied)
    model = nn.functionalize(nn.Decoder, config)
    init, apply = jax.jit(model.init), jax.jit(model.apply)
    numbers = itertools.count()

    def state_of(key):
        return train.init_state(init(key), optax.sgd(1.0), jax.random.key(0))

    def save_and_load(key, tokens):
        before = state_of(key)
        with train.Checkpoints(tmp_path / str(next(numbers))) as checkpoints:
            checkpoints.save(1, before)
            after, _ = checkpoints.restore(train.Jit().abstract(state_of(jax.random.key(1))))
        return apply(before.params, tokens), apply(after.params, tokens)

    report = laws.check(save_and_load, laws.checkpoint, examples=EXAMPLES)
    assert report.ok, str(report)


def test_counterexample_shows_the_key():
    report = laws.check(lambda key, tokens: (tokens, tokens + 1), laws.checkpoint.only("round_trip_is_exact"))
    assert report.findings[0].counterexample.startswith("key = jax.random.key(0), tokens = [[")
