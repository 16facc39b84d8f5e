"""The library's variants satisfy the laws of their kinds; a value of another kind is an error."""

import jax.numpy as jnp
import pytest
from hypothesis import settings

from tests.marks import slow
from tfm_jax import laws, nn, ops

# Each case runs some twenty small programs.
EXAMPLES = settings().max_examples // 3


def assert_holds(suite, variant):
    report = laws.check(variant, suite, examples=EXAMPLES)
    assert report.ok, report


@pytest.mark.parametrize("variant", [nn.LayerNorm(), nn.RMSNorm], ids=["LayerNorm()", "RMSNorm"])
def test_norms(variant):
    assert_holds(laws.norm, variant)


@pytest.mark.parametrize("name", ["gelu", *slow("relu_squared", "mish", "silu", "tanh")])
def test_activations(name):
    assert_holds(laws.activation, ops.activation(name))


@pytest.mark.parametrize("variant", [nn.Glu(), *slow(nn.Mlp(), nn.Mlp("gelu", bias=False))], ids=str)
def test_feed_forwards(variant):
    assert_holds(laws.feed_forward_variant, variant)


@pytest.mark.parametrize(
    "variant",
    [
        nn.Rope(),
        nn.Learned(5),
        *slow(
            nn.Sinusoidal(), nn.Alibi(), nn.RelativeBias(6, 8), nn.Rope(pairing="interleaved", fraction=0.5)
        ),
    ],
    ids=str,
)
def test_position_schemes(variant):
    assert_holds(laws.position_scheme, variant)


@pytest.mark.slow
def test_a_decoder_does_not_support_a_scheme_that_counts_only_some_tokens():
    report = laws.check(nn.Learned(9, padding_id=1), laws.position_scheme, examples=2)
    assert not report.violated and report.unsupported == ("cached_matches_full",)


@pytest.mark.parametrize("variant", [nn.GlorotUniform(), nn.Normal, *slow(nn.LecunNormal())], ids=str)
def test_initializers(variant):
    assert_holds(laws.initializer, variant)


def test_a_zero_initializer_has_a_scale_of_0():
    assert_holds(laws.initializer, lambda key, shape, *, in_axes, out_axes: jnp.zeros(shape))


def test_another_kind_is_an_error():
    with pytest.raises(ValueError, match=r"laws: got Rope\(.*\); wanted a .* instance of nn\.Norm\."):
        laws.check(nn.Rope(), laws.norm)
