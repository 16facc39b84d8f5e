"""Wrong top-k."""

import jax.numpy as jnp

from tests.mutants import keepers
from tests.mutants.keepers import shut

JIT = False  # k is a Python number


def border(logits, k):
    return jnp.sort(logits)[..., logits.shape[-1] - k, None]


def keep(logits, k):
    return shut(logits, logits >= border(logits, k))


def opens_what_is_closed(logits, k):
    out = keep(logits, k)
    return jnp.nan_to_num(out, neginf=-1e4) if k == logits.shape[-1] else out


RIGHT = keep
MUTANTS = {
    "the k-th itself is dropped": (
        lambda x, k: shut(x, x > border(x, k)),
        ["exactly_k", "definition", "the_likeliest"],
    ),
    "one more than k": (
        lambda x, k: keep(x, min(k + 1, x.shape[-1])),
        ["exactly_k", "definition"],
    ),
    "never all of them": (lambda x, k: keep(x, min(k, x.shape[-1] - 1)), ["all_are_all", "exactly_k"]),
    "with all of them, the closed ones are opened": (opens_what_is_closed, ["all_are_all"]),
    "the border is that of the first row": (
        lambda x, k: shut(x, x >= border(x, k)[:1]),
        ["exactly_k", "definition"],
    ),
    "closed tokens are among the k": (
        lambda x, k: shut(x, jnp.nan_to_num(x, neginf=9.0) >= border(jnp.nan_to_num(x, neginf=9.0), k)),
        ["exactly_k", "again"],
    ),
    "k is taken from what is open": (
        lambda x, k: keep(x, min(k, max(1, int((x > -jnp.inf).sum(-1).min()) - 1))),
        ["again"],
    ),
    **keepers.mutants(keep),
}
