"""Bugs of any penalty on tokens that have occurred."""

import jax.numpy as jnp

from tests.mutants._mutant import Mutant


def counts(tokens, V):
    return (tokens[..., None] == jnp.arange(V, dtype=tokens.dtype)[None, None]).sum(1)


def counts_modulo_vocabulary(tokens, V):
    """Padding, -1, counts as the last token of the vocabulary."""
    return counts(tokens % V, V)


def counts_of_batch(tokens, V):
    per_example = counts(tokens, V)
    return jnp.broadcast_to(per_example.sum(0, keepdims=True), per_example.shape)


def counts_of_last_token(tokens, V):
    return counts(tokens[:, -1:], V)


def mutants(penalize):
    """Mutants of a correct penalty ``penalize(logits, tokens, penalty, counts=counts)``."""
    return {
        "padding is the last token of the vocabulary": Mutant(
            lambda *args: penalize(*args, counts=counts_modulo_vocabulary),
            ["padding_is_ignored"],
        ),
        "the tokens of other examples count": Mutant(
            lambda *args: penalize(*args, counts=counts_of_batch),
            ["unseen_tokens_are_unchanged"],
        ),
        "only the last token counts": Mutant(
            lambda *args: penalize(*args, counts=counts_of_last_token),
            ["permutation_invariance"],
        ),
        "the output is float32": Mutant(
            lambda logits, *rest: penalize(logits.astype(jnp.float32), *rest),
            ["dtype_is_preserved"],
        ),
        "masked tokens are unmasked": Mutant(
            lambda *args: jnp.nan_to_num(penalize(*args), neginf=-1e4),
            ["neutral_penalty_is_identity"],
        ),
    }
