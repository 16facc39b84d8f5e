"""Wrong encoders."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants import tiny

JIT = False


def keys(valid):
    return jnp.broadcast_to(valid[:, None, :], (*valid.shape, valid.shape[1]))


def encode(
    tokens,
    valid,
    *,
    see=keys,
    count=tiny.counted,
    place=tiny.placed,
    norm=tiny.norm,
    softmax=tiny.softmax,
):
    x = place(tiny.EMBED[tokens], count(valid))
    return tiny.norm(tiny.layer(x, see(valid), norm, softmax))


def keys_unless_traced(valid):
    return keys(jnp.ones_like(valid)) if tiny.is_traced(valid) else keys(valid)


def closed_by_infinity(logits, opened):
    return jax.nn.softmax(jnp.where(opened, logits, -jnp.inf), axis=-1)


RIGHT = encode
# name: (the parts that are wrong, laws that must break): of every encoder, with positions or without
PARTS = {
    "padding is attended to": (
        {"see": lambda valid: keys(jnp.ones_like(valid))},
        ["padding_is_not_read", "more_padding"],
    ),
    "the mask closes queries instead of keys": (
        {"see": lambda valid: jnp.swapaxes(keys(valid), 1, 2)},
        ["padding_is_not_read", "more_padding"],
    ),
    "padding attended to a little": ({"softmax": tiny.nearly_closed}, ["padding_is_not_read"]),
    "the decoder's mask in the encoder": ({"see": tiny.causal}, ["context"]),
    "nobody looks at the others": (
        {"see": lambda valid: jnp.eye(valid.shape[1], dtype=bool)[None]},
        ["context"],
    ),
    "an empty row is nan": ({"softmax": closed_by_infinity}, ["a_row_of_padding"]),
    "a batch norm in the place of the layer norm": (
        {"norm": tiny.over_rows_and_tokens},
        ["rows_of_a_batch", "padding_is_not_read"],
    ),
    "the mask of the first row serves all": (
        {"see": lambda valid: keys(jnp.broadcast_to(valid[:1], valid.shape))},
        ["rows_of_a_batch", "a_row_of_padding"],
    ),
    "dropout stays on": ({"norm": tiny.left_on}, ["same_twice"]),
    "valid is not read under jit": ({"see": keys_unless_traced}, ["compiled_is_eager"]),
}


def mutants(**parts):
    return {
        name: (functools.partial(encode, **parts, **wrong), laws) for name, (wrong, laws) in PARTS.items()
    }


MUTANTS = {
    **mutants(),
    "no positions": (functools.partial(encode, place=tiny.nowhere), ["positions_matter"]),
    "positions count from the end of the padding": (
        functools.partial(encode, count=lambda valid: tiny.counted(jnp.ones_like(valid))[:, ::-1]),
        ["more_padding"],
    ),
}
