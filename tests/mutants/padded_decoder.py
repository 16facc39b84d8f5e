"""Wrong decoders of prompts that are padded on the left."""

import functools

import jax.numpy as jnp

from tests.mutants import tiny

JIT = False


def model(tokens, valid, *, see=tiny.causal, count=tiny.counted, norm=tiny.norm, softmax=tiny.softmax):
    x = tiny.placed(tiny.EMBED[tokens], count(valid))
    return tiny.logits_of(tiny.layer(x, see(valid), norm, softmax))


def part(**parts):
    return functools.partial(model, **parts)


def from_the_left(valid):
    return jnp.broadcast_to(jnp.arange(valid.shape[1])[None], valid.shape)


def only_where_it_is_known(tokens, valid):
    return model(tokens, valid, count=from_the_left if tiny.is_traced(valid) else tiny.counted)


RIGHT = model
MUTANTS = {
    "padding counts as positions": (part(count=from_the_left), ["more_padding"]),
    "padding is attended to": (
        part(see=lambda valid: tiny.causal(jnp.ones_like(valid))),
        ["padding_is_not_read", "more_padding"],
    ),
    "the mask closes queries instead of keys": (
        part(see=lambda valid: tiny.causal(jnp.ones_like(valid)) & valid[:, :, None]),
        ["padding_is_not_read"],
    ),
    "token 0 is taken for padding": (
        lambda tokens, valid: model(tokens, tokens != 0),
        ["padding_is_not_read"],
    ),
    "positions of the first row serve all": (
        part(count=lambda valid: jnp.broadcast_to(tiny.counted(valid[:1]), valid.shape)),
        ["rows_of_a_batch"],
    ),
    "padding attended to a little": (part(softmax=tiny.nearly_closed), ["padding_is_not_read"]),
    "dropout stays on": (part(norm=tiny.left_on), ["same_twice"]),
    "valid is not read under jit": (only_where_it_is_known, ["compiled_is_eager"]),
}
