"""Constraints on decoding: suppressed, forced and banned tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax.generate import BadWords, Context, ForceFirst, ForceLast, Renormalize, Suppress, SuppressFirst
from tfm_jax.generate.constraints import SuppressFrom

V, ROOM = 7, 6
# Two sequences with 1 and 3 prompt tokens, the first left-padded, and one generated token each.
TOKENS = jnp.array([[-1, -1, 5, 3, -1, -1], [5, 6, 4, 3, -1, -1]], jnp.int32)
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(2, V)), jnp.float32)


def apply(processor, tokens=TOKENS, length=4, step=1, logits=LOGITS):
    context = Context(tokens, jnp.int32(length), jnp.int32(step))
    got = jax.jit(processor)(logits, context)
    np.testing.assert_array_equal(got, processor(logits, context))
    return np.asarray(got)


def masked(got):
    """The masked tokens of each sequence; the other logits must be unchanged."""
    is_masked = np.isneginf(got)
    np.testing.assert_array_equal(np.where(is_masked, 0, got), np.where(is_masked, 0, LOGITS))
    return [set(np.flatnonzero(row).tolist()) for row in is_masked]


def test_suppress():
    assert masked(apply(Suppress((1, 6)))) == [{1, 6}, {1, 6}]
    assert masked(apply(Suppress(()))) == [set(), set()]


def test_suppress_from():
    assert masked(apply(SuppressFrom(5))) == [{5, 6}, {5, 6}]
    assert masked(apply(SuppressFrom(V))) == [set(), set()]


def test_suppress_first():
    first = {"length": 3, "step": 0, "tokens": TOKENS.at[:, 3].set(-1)}
    assert masked(apply(SuppressFirst((2,)), **first)) == [{2}, {2}]
    assert masked(apply(SuppressFirst((2,)))) == [set(), set()]
    # After a forced token, the second step counts: only the first sequence has a prompt of one token.
    assert masked(apply(SuppressFirst((2,), after_forced=True), **first)) == [set(), {2}]
    assert masked(apply(SuppressFirst((2,), after_forced=True))) == [{2}, set()]


def test_force_first():
    got = apply(ForceFirst(3), tokens=TOKENS.at[:, 3].set(-1), length=3, step=0)
    np.testing.assert_array_equal(got[0], np.where(np.arange(V) == 3, 0, -np.inf))
    np.testing.assert_array_equal(got[1], LOGITS[1])


def test_force_last():
    np.testing.assert_array_equal(apply(ForceLast((2, 4))), LOGITS)
    got = apply(ForceLast((2, 4)), tokens=TOKENS.at[:, 4].set(1), length=ROOM - 1, step=2)
    np.testing.assert_array_equal(got, np.where(np.isin(np.arange(V), (2, 4)), 0, -np.inf)[None].repeat(2, 0))


def test_bad_words():
    words = BadWords(((1,), (3, 2), (4, 3, 6), (5, 3, 0), (3, 3, 5)))
    # The first sequence has two tokens: words of three do not apply.
    assert masked(apply(words)) == [{1, 2}, {1, 2, 6}]


def test_bad_words_are_never_generated():
    words = ((2,), (3, 1), (1, 4, 5))
    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.normal(size=(40, 1, V)), jnp.float32)
    tokens = jnp.full((1, 41), -1, jnp.int32).at[0, 0].set(0)
    for step in range(40):
        context = Context(tokens, jnp.int32(1 + step), jnp.int32(step))
        token = jnp.argmax(BadWords(words)(logits[step], context), -1)
        tokens = tokens.at[:, 1 + step].set(token.astype(jnp.int32))
    text = " ".join(map(str, np.asarray(tokens[0])))
    assert not any(" ".join(map(str, word)) in text for word in words)
    free = " ".join(map(str, np.asarray(jnp.argmax(logits[:, 0], -1))))
    assert any(" ".join(map(str, word)) in free for word in words)


def test_renormalize():
    suppressed = apply(Suppress((1, 6)))
    got = apply(Renormalize(), logits=jnp.asarray(suppressed))
    np.testing.assert_allclose(np.exp(got).sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(suppressed))


def test_constraints_with_a_beam_axis():
    tokens, logits = jnp.stack([TOKENS, TOKENS[::-1]]), jnp.stack([LOGITS, LOGITS[::-1]])
    context = Context(tokens, jnp.int32(4), jnp.int32(1))
    for processor in (BadWords(((3, 2), (4, 3, 6))), SuppressFirst((2,), after_forced=True), ForceLast((1,))):
        got = processor(logits, context)
        for i in range(2):
            np.testing.assert_array_equal(got[i], apply(processor, tokens=tokens[i], logits=logits[i]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Suppress([1]), r"Suppress: got ids=\[1\]; wanted a tuple"),
        (lambda: Suppress((-1,)), "Suppress: got an id=-1"),
        (lambda: ForceFirst(1.5), "ForceFirst: got id=1.5"),
        (lambda: BadWords(((),)), r"BadWords: got words=\(\(\),\); wanted"),
        (lambda: BadWords(((1.0,),)), "BadWords: got an id=1.0"),
        (lambda: apply(Suppress((V,))), r"got the ids \(7,\); wanted ids below V = 7"),
    ],
)
def test_invalid_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
