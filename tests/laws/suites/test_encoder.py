"""``nn.Encoder`` and ``nn.Classifier`` satisfy the laws."""

import functools

import jax
import pytest
from hypothesis import settings

from tests.marks import slow_but
from tfm_jax import laws, nn
from tfm_jax.ops import masks

EXAMPLES = settings().max_examples
CONFIG = {"vocab_size": 9, "d_model": 8, "n_heads": 2, "d_ff": 6, "n_layers": 1}
VARIANTS = {
    "sinusoidal, post-norm": {"norm_placement": "post", "final_norm": False},
    "learned, two layers": {"positions": nn.Learned(5), "n_layers": 2},
    "rope, grouped": {"positions": nn.Rope(), "n_kv_heads": 1},
    "alibi, rms": {"positions": nn.Alibi(), "norm": nn.RMSNorm()},
    "relative": {"positions": nn.RelativeBias(6, 8)},
}


def build(module, *args, **fields):
    model = nn.functionalize(module, nn.Config(**{**CONFIG, **fields}), *args)
    return model, jax.jit(model.init)(jax.random.key(4))


def encoder(**fields):
    model, params = build(nn.Encoder, **fields)
    return jax.jit(lambda tokens, valid: model.apply(params, tokens, masks.padding(valid)))


@pytest.mark.parametrize("name", slow_but(["rope, grouped"], VARIANTS))
def test_encoders(name):
    report = laws.check(encoder(**VARIANTS[name]), laws.encoder, examples=EXAMPLES)
    assert report.ok, str(report)


def test_encoder_without_positions():
    function = encoder(positions=None, n_layers=2)
    report = laws.check(function, laws.encoder_without_positions, examples=EXAMPLES)
    assert report.ok, str(report)
    assert laws.check(function, laws.encoder.only("positions_matter"), examples=3).violated


@laws.holds(laws.classifier, examples=EXAMPLES)
def test_classifier():
    model, params = build(nn.Classifier, 3)
    return jax.jit(functools.partial(model.apply, params))
