"""``nn.Decoder`` satisfies the laws of language models, for every position scheme."""

import functools

import jax
import jax.numpy as jnp
import pytest
from hypothesis import settings

from tests.marks import slow, slow_but
from tfm_jax import laws, nn
from tfm_jax.ops import masks

EXAMPLES = settings().max_examples
CONFIG = {"vocab_size": 9, "d_model": 8, "n_heads": 2, "d_ff": 6, "n_layers": 1}
VARIANTS = {
    "sinusoidal, post-norm": {"norm_placement": "post", "final_norm": False},
    "learned, untied": {"positions": nn.Learned(5), "tie_embeddings": False},
    "rope, grouped, glu": {"positions": nn.Rope(), "n_kv_heads": 1, "feed_forward": nn.Glu()},
    "alibi, rms": {"positions": nn.Alibi(), "norm": nn.RMSNorm()},
    "relative": {"positions": nn.RelativeBias(6, 8)},
    "window, two layers": {"window": 3, "n_layers": 2},
    "bfloat16": {"dtype": "bfloat16"},
}


@functools.cache
def build(**fields):
    model = nn.functionalize(nn.Decoder, nn.Config(**{**CONFIG, **fields}))
    return model, jax.jit(model.init)(jax.random.key(4))


FLOAT32 = [name for name in VARIANTS if name != "bfloat16"]


@pytest.mark.parametrize("name", slow_but(["rope, grouped, glu"], FLOAT32))
def test_decoders(name):
    model, params = build(**VARIANTS[name])
    apply = jax.jit(functools.partial(model.apply, params))
    report = laws.check(apply, laws.language_model, examples=EXAMPLES)
    assert report.ok, str(report)


def test_one_layer_without_positions_violates_only_order_matters():
    model, params = build(positions=None)
    apply = jax.jit(functools.partial(model.apply, params))
    assert laws.check(apply, laws.language_model, examples=EXAMPLES).violated == ("order_matters",)


@laws.holds(laws.language_model.only("logits_are_finite_float32", "causality"), examples=EXAMPLES)
def test_bfloat16_satisfies_exact_laws():
    model, params = build(**VARIANTS["bfloat16"])
    return jax.jit(functools.partial(model.apply, params))


@pytest.mark.parametrize(
    "name", ["learned, untied", *slow("rope, grouped, glu", "relative"), "window, two layers"]
)
def test_left_padded_prompts(name):
    model, params = build(**VARIANTS[name])

    @jax.jit
    def read(tokens, valid):
        positions = jnp.maximum(jnp.cumsum(valid, 1) - 1, 0)
        return model.apply(params, tokens, masks.padding(valid), positions=positions)

    report = laws.check(read, laws.padded_decoder, examples=EXAMPLES)
    assert report.ok, str(report)


def test_tokens_option_maps_ids():
    model, params = build()
    apply, seen = jax.jit(model.apply), set()

    def read(tokens):
        seen.update(tokens.ravel().tolist())
        return apply(params, tokens)

    suite = laws.language_model.only("logits_are_finite_float32")
    assert laws.check(read, suite, examples=10, tokens=lambda ids: ids + 2).ok
    assert min(seen) == 2 and max(seen) <= 8


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (
            lambda tokens: jnp.zeros((*tokens.shape, 3)),
            "got float32 [..., 3]; wanted finite float32 [..., V]",
        ),
        (lambda tokens: jnp.zeros((2, 1, 9)), "shape: got [2, 1, 9] for [1, 1] tokens; wanted [B, T, ...]"),
    ],
)
def test_invalid_logits_violate_a_law(read, message):
    report = laws.check(read, laws.language_model.only("logits_are_finite_float32"), examples=3)
    assert message in str(report)
