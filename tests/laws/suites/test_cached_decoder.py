"""``nn.Decoder`` with a KV cache satisfies the laws, for every position scheme and window."""

import functools

import jax
import jax.numpy as jnp
import pytest
from hypothesis import settings

from tests.laws.suites.test_language_model import FLOAT32, VARIANTS, build
from tests.marks import slow_but
from tfm_jax import laws, nn
from tfm_jax.laws.suites.cached_decoder import CAPACITY

EXAMPLES = settings().max_examples


def read_and_full(jitted=True, **fields):
    model, params = build(**fields)
    extend = functools.partial(nn.decode_step, model, params)
    extend = jax.jit(extend) if jitted else extend

    def read(tokens, chunks):
        cache = nn.init_cache(model, params, len(tokens), CAPACITY)
        out = []
        for chunk in jnp.split(tokens, [sum(chunks[:i]) for i in range(1, len(chunks))], axis=1):
            logits, cache = extend(chunk, cache)
            out.append(logits)
        return jnp.concatenate(out, axis=1)

    return read, jax.jit(functools.partial(model.apply, params))


@pytest.mark.parametrize("name", slow_but(["window, two layers"], FLOAT32))
def test_caches(name):
    read, full = read_and_full(**VARIANTS[name])
    report = laws.check(read, laws.cached_decoder, examples=EXAMPLES, full=full)
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"positions": nn.Learned(5)}], ids=["sinusoidal", "learned"])
def test_eager_overflow_raises(fields):
    read, full = read_and_full(jitted=False, **fields)
    with pytest.raises(ValueError, match="got T = 3 tokens for a cache of S = 5 slots, 3 of them in use"):
        read(jnp.zeros((1, 6), jnp.int32), (3, 3))
    assert laws.check(read, laws.cached_decoder.only("overflow"), examples=3, full=full).ok


def test_counterexample_shows_the_chunks():
    read, _ = read_and_full()

    def scaled(tokens, chunks):
        return read(tokens, chunks) * len(chunks)

    (found,) = laws.check(scaled, laws.cached_decoder.only("chunked_matches_full"), examples=20).findings
    assert found.counterexample.startswith("tokens = [[") and "in chunks of 1, 1\n" in found.counterexample

    def last_logits(tokens, chunks):
        return read(tokens, chunks)[:, -1]

    assert "wanted [B, T, V]" in str(
        laws.check(last_logits, laws.cached_decoder.only("chunked_matches_full"), examples=3)
    )
