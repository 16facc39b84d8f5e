"""Bugs of penalties on the tokens that a row has already, whichever it is."""

import jax.numpy as jnp


def counts(tokens, V):
    return (tokens[..., None] == jnp.arange(V, dtype=tokens.dtype)[None, None]).sum(1)


def counts_from_the_end(tokens, V):
    """A hole, -1, counts for the last of the vocabulary."""
    return counts(tokens % V, V)


def of_the_batch(tokens, V):
    every = counts(tokens, V)
    return jnp.broadcast_to(every.sum(0, keepdims=True), every.shape)


def the_last(tokens, V):
    return counts(tokens[:, -1:], V)


def mutants(penalised):
    """By name the wrong ones of a right one, ``penalised(logits, tokens, penalty, counts=counts)``."""
    return {
        "a hole is the last token of the vocabulary": (
            lambda *args: penalised(*args, counts=counts_from_the_end),
            ["holes_are_no_tokens"],
        ),
        "the tokens of other rows": (
            lambda *args: penalised(*args, counts=of_the_batch),
            ["others_stay"],
        ),
        "the last token alone": (
            lambda *args: penalised(*args, counts=the_last),
            ["order_does_not_matter"],
        ),
        "another dtype comes out": (
            lambda logits, *rest: penalised(logits.astype(jnp.float32), *rest),
            ["dtype_is_kept"],
        ),
        "what is closed is opened": (
            lambda *args: jnp.nan_to_num(penalised(*args), neginf=-1e4),
            ["no_penalty"],
        ),
    }
