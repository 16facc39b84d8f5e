"""Tokens that must or must not stand at some place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import generate
from tfm_jax.generate import BadWords, Context, ForceFirst, ForceLast, Renormalize, Suppress, SuppressFirst

V, ROOM = 7, 6
# Two rows of four tokens so far, the first with two holes: a prompt of one and of three, then one written.
TOKENS = jnp.array([[-1, -1, 5, 3, -1, -1], [5, 6, 4, 3, -1, -1]], jnp.int32)
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(2, V)), jnp.float32)


def after(processor, tokens=TOKENS, length=4, step=1, logits=LOGITS):
    context = Context(tokens, jnp.int32(length), jnp.int32(step))
    got = jax.jit(processor)(logits, context)
    np.testing.assert_array_equal(got, processor(logits, context))
    return np.asarray(got)


def closed(got):
    """Of each row, which tokens are closed; the others are unchanged."""
    shut = np.isneginf(got)
    np.testing.assert_array_equal(np.where(shut, 0, got), np.where(shut, 0, LOGITS))
    return [set(np.flatnonzero(row).tolist()) for row in shut]


def test_suppress():
    assert closed(after(Suppress((1, 6)))) == [{1, 6}, {1, 6}]
    assert closed(after(Suppress(()))) == [set(), set()]


def test_suppress_first_is_of_the_first_step():
    first = {"length": 3, "step": 0, "tokens": TOKENS.at[:, 3].set(-1)}
    assert closed(after(SuppressFirst((2,)), **first)) == [{2}, {2}]
    assert closed(after(SuppressFirst((2,)))) == [set(), set()]
    # After a forced token it is the second, where that was forced: after a prompt of one token.
    assert closed(after(SuppressFirst((2,), after_forced=True), **first)) == [set(), {2}]
    assert closed(after(SuppressFirst((2,), after_forced=True))) == [{2}, set()]


def test_force_first_is_of_rows_of_one_token():
    got = after(ForceFirst(3), tokens=TOKENS.at[:, 3].set(-1), length=3, step=0)
    np.testing.assert_array_equal(got[0], np.where(np.arange(V) == 3, 0, -np.inf))
    np.testing.assert_array_equal(got[1], LOGITS[1])


def test_force_last_is_of_the_last_place():
    np.testing.assert_array_equal(after(ForceLast((2, 4))), LOGITS)
    got = after(ForceLast((2, 4)), tokens=TOKENS.at[:, 4].set(1), length=ROOM - 1, step=2)
    np.testing.assert_array_equal(got, np.where(np.isin(np.arange(V), (2, 4)), 0, -np.inf)[None].repeat(2, 0))


def test_bad_words():
    words = BadWords(((1,), (3, 2), (4, 3, 6), (5, 3, 0), (3, 3, 5)))
    # The first row has two tokens: it has had no room yet for a word of three.
    assert closed(after(words)) == [{1, 2}, {1, 2, 6}]


def test_bad_words_are_never_written():
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
    open_ = after(Suppress((1, 6)))
    got = after(Renormalize(), logits=jnp.asarray(open_))
    np.testing.assert_allclose(np.exp(got).sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(open_))


def test_beams_have_an_axis_more():
    tokens, logits = jnp.stack([TOKENS, TOKENS[::-1]]), jnp.stack([LOGITS, LOGITS[::-1]])
    context = Context(tokens, jnp.int32(4), jnp.int32(1))
    for processor in (BadWords(((3, 2), (4, 3, 6))), SuppressFirst((2,), after_forced=True), ForceLast((1,))):
        got = processor(logits, context)
        for i in range(2):
            np.testing.assert_array_equal(got[i], after(processor, tokens=tokens[i], logits=logits[i]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Suppress([1]), r"Suppress: got ids=\[1\]; wanted a tuple"),
        (lambda: Suppress((-1,)), "Suppress: got an id=-1"),
        (lambda: ForceFirst(1.5), "ForceFirst: got id=1.5"),
        (lambda: BadWords(((),)), r"BadWords: got words=\(\(\),\); wanted"),
        (lambda: BadWords(((1.0,),)), "BadWords: got an id=1.0"),
        (lambda: after(Suppress((V,))), r"got the ids \(7,\); wanted ids below V = 7"),
    ],
)
def test_what_does_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_recipe_counts_as_it_was_told():
    recipe = generate.GenerationConfig(max_length=9, max_total=12, min_total=8)
    assert [recipe.limits(n) for n in (1, 5, 10)] == [(9, 8), (7, 4), (2, 0)]
    assert recipe.told(max_length=30).limits(10) == (30, 0) and recipe.told().limits(1) == (9, 8)
    assert generate.GenerationConfig(min_length=4).limits(3) == (None, 4)
