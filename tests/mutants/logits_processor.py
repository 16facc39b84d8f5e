"""Wrong processors of logits: penalties on the tokens that a row has already."""

import functools
import itertools

import jax
import jax.numpy as jnp

from tests.mutants import penalties
from tests.mutants.mutant import Mutant
from tests.mutants.tiny import is_traced

JIT = False  # some bugs show under jit alone, some without it
CALLS = itertools.count()


def there(tokens, length):
    """The tokens so far, and holes behind them."""
    so_far = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] < length
    return jnp.where(so_far, tokens, -1)


def less(logits, seen):
    return jnp.where(seen, logits - 2, logits)


def process(logits, tokens, length, step, *, there=there, counts=penalties.counts, less=less):
    del step
    return less(logits, counts(there(tokens, length), logits.shape[-1]) > 0)


def part(**parts):
    return functools.partial(process, **parts)


def after(change):
    """With something done to what comes out."""
    return lambda *args: change(process(*args))


def of_the_likeliest_in_the_batch(logits):
    return jnp.where(logits < logits.max() - 2, -jnp.inf, logits)


RIGHT = process
MUTANTS = {
    "another dtype comes out": (after(lambda out: out.astype(jnp.float32)), ["dtype_is_kept"]),
    "what is closed gets a low logit": (
        after(lambda out: jnp.maximum(out, jnp.asarray(-1e4, out.dtype))),
        ["closed_stays_closed"],
    ),
    "closed by a product, of which -inf and 0 make nan": (
        part(less=lambda logits, seen: logits * jnp.where(seen, 0, 1).astype(logits.dtype)),
        ["closed_stays_closed"],
    ),
    "all that was seen is closed, were it all": (
        part(less=lambda logits, seen: jnp.where(seen, -jnp.inf, logits)),
        ["something_stays_open"],
    ),
    "the tokens of the first row": (
        lambda logits, tokens, *rest: process(logits, jnp.broadcast_to(tokens[:1], tokens.shape), *rest),
        ["rows_of_a_batch"],
    ),
    "beside the likeliest of all rows": (
        after(of_the_likeliest_in_the_batch),
        ["rows_of_a_batch", "something_stays_open"],
    ),
    "centred over all rows": (after(lambda out: out - out.mean()), ["a_nan_poisons_its_row_alone"]),
    "a nan becomes 0": (after(lambda out: jnp.nan_to_num(out, neginf=-jnp.inf)), ["a_nan_is_not_hidden"]),
    "a nan is closed": (after(lambda out: jnp.where(out > -9, out, -jnp.inf)), ["a_nan_is_not_hidden"]),
    "the whole buffer is read": Mutant(
        part(there=lambda tokens, length: tokens), ["behind_the_length"], "facebookresearch/fairseq#5206"
    ),
    "a token behind the length is read": (
        part(there=lambda tokens, length: there(tokens, length + 1)),
        ["behind_the_length"],
    ),
    "padding is penalised": Mutant(
        part(counts=lambda tokens, V: penalties.counts(jnp.maximum(tokens, 0), V)),
        ["padding"],
        "huggingface/text-generation-inference#1765",
    ),
    "the first place alone is read": (
        part(there=lambda tokens, length: there(tokens, 1)),
        ["padding"],
    ),
    "more with each call": (
        lambda logits, *rest: process(logits, *rest) - jnp.asarray(next(CALLS), logits.dtype),
        ["same_again"],
    ),
    "nothing is done under jit": (
        lambda logits, *rest: logits if is_traced(logits) else process(logits, *rest),
        ["compiled_is_eager"],
    ),
    "normalised over the first axis": (
        after(lambda out: jax.nn.log_softmax(out, axis=0)),
        ["rows_of_a_batch", "compiled_is_eager"],
    ),
}
