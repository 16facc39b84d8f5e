"""Mutants of a logits processor, which lowers the logits of tokens that have occurred."""

import functools
import itertools

import jax
import jax.numpy as jnp

from tests.mutants import _penalties as penalties
from tests.mutants._mutant import Mutant
from tests.mutants._tiny import is_traced

JIT = False  # some bugs show only under jit, some only without it
CALLS = itertools.count()


def so_far(tokens, length):
    """The tokens before the length, and padding after it."""
    before = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] < length
    return jnp.where(before, tokens, -1)


def lower(logits, seen):
    return jnp.where(seen, logits - 2, logits)


def process(logits, tokens, length, step, *, so_far=so_far, counts=penalties.counts, lower=lower):
    del step
    return lower(logits, counts(so_far(tokens, length), logits.shape[-1]) > 0)


def variant(**parts):
    return functools.partial(process, **parts)


def followed_by(change):
    return lambda *args: change(process(*args))


RIGHT = process
MUTANTS = {
    "the output is float32": Mutant(followed_by(lambda out: out.astype(jnp.float32)), ["dtype_is_preserved"]),
    "masked tokens get a low logit": Mutant(
        followed_by(lambda out: jnp.maximum(out, jnp.asarray(-1e4, out.dtype))),
        ["masked_tokens_stay_masked"],
    ),
    "-inf * 0 is NaN": Mutant(
        variant(lower=lambda logits, seen: logits * jnp.where(seen, 0, 1).astype(logits.dtype)),
        ["masked_tokens_stay_masked"],
    ),
    "all seen tokens are masked": Mutant(
        variant(lower=lambda logits, seen: jnp.where(seen, -jnp.inf, logits)),
        ["at_least_one_token"],
    ),
    "the tokens of the first example serve all": Mutant(
        lambda logits, tokens, *rest: process(logits, jnp.broadcast_to(tokens[:1], tokens.shape), *rest),
        ["examples_are_independent"],
    ),
    "relative to the most likely token of the batch": Mutant(
        followed_by(lambda out: jnp.where(out < out.max() - 2, -jnp.inf, out)),
        ["examples_are_independent", "at_least_one_token"],
    ),
    "centered over the batch": Mutant(
        followed_by(lambda out: out - out.mean()), ["nan_stays_in_its_example"]
    ),
    "NaN becomes 0": Mutant(
        followed_by(lambda out: jnp.nan_to_num(out, neginf=-jnp.inf)), ["nan_is_not_hidden"]
    ),
    "NaN is masked": Mutant(
        followed_by(lambda out: jnp.where(out > -9, out, -jnp.inf)), ["nan_is_not_hidden"]
    ),
    "the whole buffer is read": Mutant(
        variant(so_far=lambda tokens, length: tokens),
        ["tokens_after_length_are_ignored"],
        "facebookresearch/fairseq#5206",
    ),
    "one token past the length is read": Mutant(
        variant(so_far=lambda tokens, length: so_far(tokens, length + 1)),
        ["tokens_after_length_are_ignored"],
    ),
    "padding is penalized": Mutant(
        variant(counts=lambda tokens, V: penalties.counts(jnp.maximum(tokens, 0), V)),
        ["padding_is_ignored"],
        "huggingface/text-generation-inference#1765",
    ),
    "only the first position is read": Mutant(
        variant(so_far=lambda tokens, length: so_far(tokens, 1)), ["padding_is_ignored"]
    ),
    "the penalty grows with each call": Mutant(
        lambda logits, *rest: process(logits, *rest) - jnp.asarray(next(CALLS), logits.dtype),
        ["deterministic"],
    ),
    "nothing is done under jit": Mutant(
        lambda logits, *rest: logits if is_traced(logits) else process(logits, *rest),
        ["compiled_matches_eager"],
    ),
    "normalized over the batch": Mutant(
        followed_by(lambda out: jax.nn.log_softmax(out, axis=0)),
        ["examples_are_independent", "compiled_matches_eager"],
    ),
}
