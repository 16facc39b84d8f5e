"""Wrong language models."""

import functools

import jax.numpy as jnp

from tests.mutants import tiny

JIT = False  # a bug of which one mutant has is only there under jit


def model(
    tokens,
    *,
    see=tiny.causal,
    count=tiny.counted,
    place=tiny.placed,
    norm=tiny.norm,
    softmax=tiny.softmax,
    shift=lambda tokens: tokens,
    logits=tiny.logits_of,
):
    valid = jnp.ones_like(tokens, bool)
    x = place(tiny.EMBED[shift(tokens)], count(valid))
    return logits(tiny.layer(x, see(valid), norm, softmax))


def part(**parts):
    return functools.partial(model, **parts)


def everything(valid):
    return jnp.ones((*valid.shape, valid.shape[1]), bool)


def diagonal(k):
    return lambda valid: jnp.tri(valid.shape[1], k=k, dtype=bool)[None] & valid[:, None]


def documents_of_one_token(valid):
    segments = jnp.cumsum(valid, 1)
    return tiny.causal(valid) & (segments[:, :, None] == segments[:, None])


def only_where_it_is_known(tokens):
    return model(tokens, see=everything if tiny.is_traced(tokens) else tiny.causal)


RIGHT = model
MUTANTS = {
    "no causal mask": (part(see=everything), ["causality", "prefix"]),
    "the causal mask shows the next token": (part(see=diagonal(1)), ["causality", "prefix"]),
    "a closed logit is small, but not nothing": (part(softmax=tiny.nearly_closed), ["causality"]),
    "inputs are shifted twice": (
        part(shift=lambda tokens: jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)))),
        ["itself"],
    ),
    "every token is a document": (part(see=documents_of_one_token), ["context", "order_matters"]),
    "no positions": (part(place=tiny.nowhere), ["order_matters"]),
    "positions count from the end": (part(count=lambda valid: tiny.counted(valid)[:, ::-1]), ["prefix"]),
    "a batch norm in the place of the layer norm": (
        part(norm=tiny.over_rows_and_tokens),
        ["rows_of_a_batch", "causality", "prefix"],
    ),
    "positions are those of all rows, one after the other": (
        part(count=lambda valid: jnp.arange(valid.size).reshape(valid.shape)),
        ["rows_of_a_batch"],
    ),
    "dropout stays on": (part(norm=tiny.left_on), ["same_twice"]),
    "the logits are bfloat16": (
        part(logits=lambda x: tiny.logits_of(x).astype(jnp.bfloat16)),
        ["logits"],
    ),
    "the mask is forgotten under jit": (only_where_it_is_known, ["compiled_is_eager"]),
}
