"""Our caches keep their laws, whatever tells positions, and however many tokens a window keeps."""

import functools

import jax
import jax.numpy as jnp
import pytest
from hypothesis import settings

from tests.laws.test_language_model import FLOAT32, VARIANTS, build
from tests.marks import slow_but
from tfm_jax import laws, nn

EXAMPLES = settings().max_examples


def functions(jitted=True, **fields):
    model, params = build(**fields)
    extend = functools.partial(model.apply, params, method="extend")
    extend = jax.jit(extend) if jitted else extend

    def read(tokens, pieces):
        cache = model.apply(params, len(tokens), laws.CAPACITY, method="init_cache")
        out = []
        for piece in jnp.split(tokens, [sum(pieces[:i]) for i in range(1, len(pieces))], axis=1):
            logits, cache = extend(piece, cache)
            out.append(logits)
        return jnp.concatenate(out, axis=1)

    return read, jax.jit(functools.partial(model.apply, params))


@pytest.mark.parametrize("name", slow_but(["window, two layers"], FLOAT32))
def test_caches(name):
    read, whole = functions(**VARIANTS[name])
    report = laws.check(read, laws.cached_decoder, examples=EXAMPLES, whole=whole)
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"positions": nn.Learned(5)}], ids=["sinusoidal", "learned"])
def test_outside_of_jit_too_much_is_an_error(fields):
    read, whole = functions(jitted=False, **fields)
    with pytest.raises(ValueError, match="got T = 3 tokens for a cache of S = 5 slots, 3 of them in use"):
        read(jnp.zeros((1, 6), jnp.int32), (3, 3))
    assert laws.check(read, laws.cached_decoder.only("overflow"), examples=3, whole=whole).ok


def test_a_counter_example_says_which_pieces():
    read, _ = functions()
    first = lambda tokens, pieces: read(tokens, pieces) * len(pieces)
    (found,) = laws.check(first, laws.cached_decoder.only("any_split"), examples=20).findings
    assert found.counter_example.startswith("tokens = [[") and "in pieces of 1, 1\n" in found.counter_example
    bad = lambda tokens, pieces: read(tokens, pieces)[:, -1]
    assert "wanted [B, T, V]" in str(laws.check(bad, laws.cached_decoder.only("any_split"), examples=3))
