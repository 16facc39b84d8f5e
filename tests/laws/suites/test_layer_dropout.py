"""The dropout of ``nn.EncoderStack`` and ``nn.DecoderStack`` satisfies the laws."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import settings

from tests.marks import slow_rows
from tfm_jax import laws, nn, ops

EXAMPLES = settings().max_examples
L, T, D, RATE = 3, 40, 8, 0.2
CONFIG = {"vocab_size": 9, "d_model": D, "n_heads": 2, "d_ff": 6, "n_layers": L, "positions": None}
UNROLLED = {"unroll": True, "remat": "full"}


@pytest.mark.parametrize(
    "stack, fields",
    [
        (nn.EncoderStack, {}),
        (nn.DecoderStack, UNROLLED),
        *slow_rows([(nn.DecoderStack, {}), (nn.EncoderStack, UNROLLED)]),
    ],
)
def test_layers(stack, fields):
    options = {} if stack is nn.EncoderStack else {"cross_attention": False}
    config = nn.Config(**CONFIG, dropout_rate=RATE, final_norm=False, **fields)
    model = nn.functionalize(stack, config, **options)
    zeros = jax.tree.map(jnp.zeros_like, jax.jit(model.init)(jax.random.key(0)))

    @jax.jit
    def kept(key):
        def of_layer(one_hot):  # this layer adds its dropout of ones, the others add 0
            bias = jnp.broadcast_to(one_hot[:, None], (L, D))
            layers = zeros["layers"]
            layers = layers | {"feed_forward": layers["feed_forward"] | {"b_out": bias}}
            return model.apply({"layers": layers}, jnp.zeros((T, D)), key=key)[0].ravel()

        return jax.vmap(of_layer)(jnp.eye(L))

    report = laws.check(kept, laws.layer_dropout, examples=EXAMPLES, rate=RATE)
    assert report.ok, str(report)


@laws.holds(laws.layer_dropout, examples=EXAMPLES)
def test_ops_dropout():
    drop = jax.vmap(lambda key: ops.dropout(jnp.ones(300), 0.1, key))
    return jax.jit(lambda key: drop(jax.random.split(key, 4)))


def test_rate_option_and_minimal_number_of_elements():
    def kept(key):
        return ops.dropout(jnp.ones((2, 300)), 0.3, key)

    suite = laws.layer_dropout.only("dropped_fraction_is_the_rate")
    assert laws.check(kept, suite, examples=3).violated
    assert laws.check(kept, suite, examples=3, rate=0.3).ok
    few = laws.check(lambda key: jnp.ones((2, 3)), suite, examples=3)
    assert "key = jax.random.key(0)\nshape: got [2, 3]; wanted [L, n], n at least 256" in (
        few.findings[0].counterexample
    )
