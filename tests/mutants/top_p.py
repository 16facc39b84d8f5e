"""Wrong nucleus sampling."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants import keepers
from tests.mutants.keepers import shut
from tests.mutants.mutant import Mutant


def share(ordered):
    return jax.nn.softmax(ordered)


def before(share):
    """The probability of what is likelier."""
    return jnp.cumsum(share, -1) - share


def needed(share, p):
    return (before(share) < p) | (p >= 1)


def keep(logits, p, *, share=share, needed=needed):
    ordered = jnp.sort(logits.astype(jnp.float32), descending=True)
    border = jnp.where(needed(share(ordered), p), ordered, jnp.inf).min(-1, keepdims=True)
    return shut(logits, logits >= border.astype(logits.dtype))


def part(**parts):
    return functools.partial(keep, **parts)


def up_to_p(share, p):
    return jnp.cumsum(share, -1) <= p


def and_one_more(share, p):
    first = jnp.ones_like(share[..., :1], bool)
    return jnp.concatenate([first, needed(share, p)[..., :-1]], -1)


def from_the_other_end(share, p):
    """The tail that may be closed is summed up from the least likely on, and p of it is closed."""
    tail = jnp.cumsum(share[..., ::-1], -1)[..., ::-1]
    return tail > 1 - p


RIGHT = keep
MUTANTS = {
    "the token that crosses p is dropped": Mutant(
        part(needed=lambda share, p: up_to_p(share, p).at[..., 0].set(True)),
        ["reaches_p"],
        "rasbt/reasoning-from-scratch#164",
    ),
    "the token that crosses p is dropped, the first too": Mutant(
        part(needed=up_to_p), ["reaches_p", "one_stays", "the_likeliest"], "fishaudio/fish-speech#1171"
    ),
    "one token more than is needed": (part(needed=and_one_more), ["no_more_than_needed"]),
    "1 - p is rounded to 1, and all are closed": Mutant(
        part(needed=from_the_other_end), ["one_stays"], "ml-explore/mlx-lm#1912"
    ),
    "with p = 1 the likeliest alone": Mutant(
        part(
            needed=lambda share, p: jnp.where(
                p >= 1, share >= share.max(-1, keepdims=True), before(share) < p
            )
        ),
        ["at_1_nothing_changes"],
        "BlinkDL/ChatRWKV#170",
    ),
    "each token that is likelier than 1 - p": (
        part(needed=lambda share, p: (share >= 1 - p).at[..., 0].set(True)),
        ["reaches_p"],
    ),
    "1 - p is taken for p": (
        part(needed=lambda share, p: needed(share, 1 - p)),
        ["wider", "one_stays"],
    ),
    "the mass is not divided by its sum": (
        part(share=lambda ordered: jnp.exp(ordered - ordered.max(-1, keepdims=True))),
        ["reaches_p"],
    ),
    "exp without the largest taken off": (
        part(share=lambda ordered: jnp.exp(ordered) / jnp.exp(ordered).sum(-1, keepdims=True)),
        ["large_logits"],
    ),
    "probability of all rows together": (
        part(share=lambda ordered: share(ordered) / len(ordered)),
        ["no_more_than_needed"],
    ),
    **keepers.mutants(keep),
}
