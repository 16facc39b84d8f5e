"""Extras: attention weights and auxiliary sums of every model, by flag."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import parameters
from tests.nn.models import TINY, B, L, S, T, tokens
from tfm_jax import nn
from tfm_jax.nn.extras import add_auxiliary, model_extras, with_extras


@dataclasses.dataclass(frozen=True)
class Scaled(nn.FeedForward):
    """A feed-forward from outside the library, with the mean square of its output as an auxiliary sum."""

    def build(self, config, *, rngs):
        return ScaledLayer(config.d_model, rngs=rngs)


class ScaledLayer(nnx.Module):
    def __init__(self, size, *, rngs):
        self.scale = nnx.Param(jnp.ones((1, size)))

    def axes(self):
        return {"scale": "T D"}

    def __call__(self, x, *, key=None):
        y = x * jnp.broadcast_to(self.scale[...], x.shape)
        return y, {"square": (jnp.square(y).sum(), jnp.float32(y.size))}


CONFIG = dataclasses.replace(TINY, feed_forward=Scaled())
SOURCE, TARGET = tokens(B, S), tokens(B, T, seed=1)
BOTH = {"return_weights": True, "return_auxiliary": True}


def make(module, *args):
    model = nn.functionalize(module, CONFIG, *args)
    return model, parameters.draw(model)


@pytest.mark.parametrize(
    ("module", "inputs", "stacks"),
    [
        (nn.Encoder, (SOURCE,), {"encoder": S}),
        (nn.Classifier, (SOURCE,), {"encoder": S}),
        (nn.MaskedLanguageModel, (SOURCE,), {"encoder": S}),
        (nn.Decoder, (TARGET,), {"decoder": T}),
        (nn.EncoderDecoder, (SOURCE, TARGET), {"encoder": S, "decoder": T}),
    ],
)
def test_a_key_for_each_flag(module, inputs, stacks):
    model, params = make(module)
    output = model.apply(params, *inputs)
    for flags in ({"return_weights": True}, {"return_auxiliary": True}, BOTH):
        same, extras = jax.jit(lambda *x, flags=flags: model.apply(*x, **flags))(params, *inputs)
        chex.assert_trees_all_close(same, output, rtol=1e-5, atol=1e-6)
        assert {f"return_{name}" for name in extras} == set(flags)
    names = {*stacks, "cross"} if len(stacks) == 2 else set(stacks)
    assert set(extras["weights"]) == names
    total, weight = extras["auxiliary"]["square"]
    assert float(weight) == L * B * sum(stacks.values()) * CONFIG.d_model
    assert total.shape == () and float(total) > 0


def test_auxiliary_sums_add_over_layers_and_stacks():
    model, params = make(nn.EncoderDecoder)
    bound = model.bind(params)
    memory, of_encoder = bound.encode(SOURCE, return_auxiliary=True)
    hidden, of_decoder = bound.hidden(TARGET, memory, return_auxiliary=True)
    logits, extras = model.apply(params, SOURCE, TARGET, return_auxiliary=True)
    np.testing.assert_allclose(bound.unembed(hidden), logits, rtol=1e-5, atol=1e-6)
    both = add_auxiliary([of_encoder["auxiliary"], of_decoder["auxiliary"]])
    chex.assert_trees_all_close(extras["auxiliary"], both, rtol=1e-5)
    x = bound.embedding(SOURCE)
    positions = jnp.arange(S)[None]
    x, sums = bound.encoder.embed_positions(x, positions), []
    for block in bound.encoder.unstack():
        x, block_extras = block(x, positions=positions, return_auxiliary=True)
        sums.append(block_extras["auxiliary"])
    chex.assert_trees_all_close(of_encoder["auxiliary"], add_auxiliary(sums), rtol=1e-5)


def test_a_decoder_trains_on_its_hidden_states_and_auxiliary_sums():
    model, params = make(nn.Decoder)

    def loss(params):
        hidden, extras = model.bind(params).hidden(TARGET, return_auxiliary=True)
        total, weight = extras["auxiliary"]["square"]
        return 0.0 * hidden.sum() + total / weight

    gradient = jax.grad(loss)(params)["stack"]["layers"]["feed_forward"]["scale"]
    assert np.abs(np.asarray(gradient)).min() > 0


def test_feed_forwards_without_auxiliary_sums():
    model = nn.functionalize(nn.Decoder, TINY)
    params = parameters.draw(model)
    assert model.apply(params, TARGET, return_auxiliary=True)[1] == {"auxiliary": {}}


def test_add_auxiliary_by_name():
    terms = [{"a": (1.0, 2.0)}, {"b": (3.0, 4.0), "a": (5.0, 6.0)}, {}]
    assert add_auxiliary(terms) == {"a": (6.0, 8.0), "b": (3.0, 4.0)}
    assert add_auxiliary([]) == {}
    total = add_auxiliary([{"a": nn.Metric(1.0, 2.0)}] * 2)["a"]
    assert isinstance(total, nn.Metric) and total == (2.0, 4.0)


def test_output_alone_without_a_flag():
    assert with_extras(1, {}) == 1
    assert with_extras(1, {"auxiliary": {}}) == (1, {"auxiliary": {}})
    assert model_extras(encoder={}, decoder={}) == {}
