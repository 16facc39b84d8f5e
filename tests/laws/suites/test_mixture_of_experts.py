"""The library's router and mixture of experts satisfy their laws; a layer with a capacity does not."""

import jax
import pytest
from hypothesis import settings

from tests.marks import slow
from tfm_jax import laws, nn, ops

EXAMPLES = max(3, settings().max_examples // 3)


@pytest.mark.parametrize("normalize", [True, False])
def test_routing(normalize):
    def route(logits, k):
        return ops.top_k_routing(logits, k, normalize=normalize)

    report = laws.check(route, laws.routing, normalize=normalize)
    assert report.ok, str(report)


@pytest.mark.parametrize("implementation", ["tiled", *slow("ragged")])
def test_mixture_of_experts(implementation):
    @jax.jit
    def f(*args):
        return ops.mixture_of_experts(*args, implementation=implementation)[0]

    report = laws.check(f, laws.mixture_of_experts, examples=EXAMPLES)
    assert report.ok, str(report)


@pytest.mark.usefixtures("unshrunk")
def test_a_capacity_violates_a_law():
    @jax.jit
    def f(*args):
        return ops.mixture_of_experts(*args, capacity_factor=0.5)[0]

    suite = laws.mixture_of_experts.only("tokens_are_independent", "renumbered_experts")
    assert laws.check(f, suite, examples=30).violated == ("tokens_are_independent",)


@pytest.mark.parametrize("experts", [nn.MixtureOfExperts(3, 2), *slow(nn.MixtureOfExperts(3, 1))], ids=str)
def test_the_variant_satisfies_the_laws_of_feed_forward_layers(experts):
    # The tolerance of dtype_is_preserved is 2^-5 of an element. bfloat16 rounds the weights and hidden units
    # of k experts: the error is a share of the largest element of a vector, and other elements are small
    # differences. That error, and that both dtypes choose the same experts, is tested in
    # tests/nn/test_mixture_of_experts.py.
    names = [law.name for law in laws.feed_forward_variant if law.name != "dtype_is_preserved"]
    report = laws.check(experts, laws.feed_forward_variant.only(*names), examples=EXAMPLES)
    assert report.ok, str(report)
