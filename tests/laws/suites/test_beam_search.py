"""``generate.beam_search`` satisfies the laws, for a model that is a table of log-probabilities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import settings

from tests.mutants.beam_search import MUTANTS
from tests.mutants.beam_search import search as reference_search
from tfm_jax import generate, laws, nn
from tfm_jax.nn.decoding import Cache, CachedDecoder
from tfm_jax.ops.kv_cache import advance, init_slots

EXAMPLES = settings().max_examples


class Table(CachedDecoder):
    """A model whose next token depends only on the previous one and its position."""

    def __init__(self, T, V, *, rngs):
        self.log_probs = nnx.Param(jnp.zeros((T, V, V)))
        self.config = nn.Config(vocab_size=V, d_model=2, n_heads=1)

    def is_encoder_decoder(self):
        return False

    def decoder_stack(self):
        return self

    def unembed_function(self, batch_size):
        return lambda hidden: hidden

    def init_cache(self, inputs, capacity, *, source_mask=None, memory_mask=None, slots=None):
        return Cache((), init_slots((inputs,), slots or capacity))

    def cached_forward(self):
        def forward(tokens, cache, *, positions, mask=None):
            hidden = self.log_probs[...][jnp.maximum(positions, 0), tokens]
            return hidden, Cache((), advance(cache.slots, positions)[1])

        return forward


@functools.cache
def build(T, V):
    return nn.functionalize(Table, T, V)


def search(log_probs, beams, alpha):
    T, V, _ = log_probs.shape
    model = build(T, V)
    start = jnp.zeros((1, 1), jnp.int32)
    config = generate.GenerationConfig(
        (1,), pad_id=0, max_length=T, beams=beams, n_best=beams, length_penalty=alpha
    )
    found = generate.beam_search(model, {"log_probs": log_probs}, start, config)
    return found.tokens[0], found.scores[0]


@laws.holds(laws.beam_search, examples=EXAMPLES)
def test_beam_search():
    return search


def test_narrow_beam_matches_a_python_loop():
    for seed in range(3):
        logits = jax.random.normal(jax.random.key(seed), (3, 3, 3))
        log_probs = jax.nn.log_softmax(2 * logits)
        got, wanted = search(log_probs, 2, 0.6), reference_search(log_probs, 2, 0.6)
        np.testing.assert_array_equal(got[0], wanted[0])
        np.testing.assert_allclose(got[1], wanted[1], rtol=1e-5)


def test_counterexample_shows_probabilities():
    mutant = MUTANTS["scores are divided by the penalty twice"].function
    (found,) = laws.check(mutant, laws.beam_search.only("scores_match_outputs")).findings
    lines = found.counterexample.splitlines()
    assert lines[0].startswith("T = 2, V = 3, beams = 1, alpha = 0.6; next-token probabilities:")
    assert lines[1].startswith("  first: [") and lines[2].startswith("  at step 1 after 0: [")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            (jnp.zeros((2, 5), jnp.int32), jnp.zeros(2)),
            "shapes: got [2, 5] and [2]; wanted [n, T = 1] and [n]",
        ),
        ((jnp.full((1, 1), 7), jnp.zeros(1)), "got [[7]] with scores [0.]; wanted 1 to 1 outputs"),
        ((jnp.zeros((1, 1), jnp.int32), jnp.full(1, -jnp.inf)), "wanted 1 to 1 outputs"),
    ],
)
def test_invalid_outputs_violate_a_law(found, message):
    suite = laws.beam_search.only("width_1_is_greedy")
    assert message in str(laws.check(lambda *_: found, suite, examples=3))
