"""Mask expressions for hypothesis, each with its boolean table, made by loops."""

import functools

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.ops import masks


def leading(rng, batch):
    """Leading dims of a mask's array for a `batch`: none, or each size equal or 1."""
    if rng.random() < 0.3:
        return ()
    return tuple(n if rng.random() < 0.7 else 1 for n in batch)


def pick(array, lead, b):
    """The value of `array`, with leading dims `lead`, at batch index `b`."""
    if not lead:
        return array
    return np.asarray(array)[tuple(0 if n == 1 else i for n, i in zip(lead, b, strict=True))]


def leaf(kind, rng, batch, N, T, S):
    """(mask or plain array, predicate of (batch index, head, query, key))."""
    lead = leading(rng, batch)
    match kind:
        case "causal" | "window":
            offset = rng.integers(-1, max(0, S - T) + 1, lead) if lead or T != S else None
            return positional(kind, rng, offset, lead)
        case "prefix":
            n_keys = rng.integers(0, S + 2, lead)
            mask = masks.prefix(n_keys if lead else int(n_keys))
            return mask, lambda b, n, i, j: j < pick(n_keys, lead, b)
        case "padding":
            valid = rng.random((*lead, S)) < 0.6
            return masks.padding(jnp.asarray(valid)), lambda b, n, i, j: pick(valid, lead, b)[j]
        case "segments":
            return segments(rng, batch, lead, T, S)
        case "dense":
            table = rng.random((*lead, T, S)) < 0.5
            return masks.dense(table), lambda b, n, i, j: pick(table, lead, b)[i, j]
        case "heads":
            heads = rng.random((*lead, 1 if rng.random() < 0.3 else N, T, S)) < 0.5
            mask = masks.dense(heads, per_head=True)
            return mask, lambda b, n, i, j: pick(heads, lead, b)[n % heads.shape[len(lead)]][i, j]
    assert kind == "array"
    lead = batch if rng.random() < 0.5 else ()
    array = rng.random((*lead, T, S)) < 0.5
    mask = array if rng.random() < 0.5 else jnp.asarray(array)
    return mask, lambda b, n, i, j: pick(array, lead, b)[i, j]


def positional(kind, rng, offset, lead):
    def position(b, i):
        return i if offset is None else int(pick(offset, lead, b)) + i

    if kind == "causal":
        return masks.causal(offset), lambda b, n, i, j: j <= position(b, i)
    left, right = (None if x == 3 else int(x) for x in rng.integers(0, 4, 2))
    low = -100 if left is None else -left
    high = 100 if right is None else right
    return masks.window(left, right, offset), lambda b, n, i, j: low <= j - position(b, i) <= high


def segments(rng, batch, lead, T, S):
    ids = rng.integers(0, 3, (*lead, T))
    key_lead = leading(rng, batch)
    key_ids = rng.integers(0, 3, (*key_lead, S)).astype(np.int32)
    if T == S and rng.random() < 0.5:
        return masks.segments(ids), lambda b, n, i, j: pick(ids, lead, b)[i] == pick(ids, lead, b)[j]
    mask = masks.segments(ids, key_ids)
    return mask, lambda b, n, i, j: pick(ids, lead, b)[i] == pick(key_ids, key_lead, b)[j]


KINDS = ["causal", "window", "prefix", "padding", "segments", "dense", "heads"]


@st.composite
def expressions(draw, batch, N, T, S):
    """(mask, bool array [*batch, N, T, S]): a random expression and its table."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    mask, holds = leaf(draw(st.sampled_from(KINDS)), rng, batch, N, T, S)
    for _ in range(draw(st.integers(0, 3))):
        other, other_holds = leaf(draw(st.sampled_from([*KINDS, "array"])), rng, batch, N, T, S)
        match draw(st.sampled_from("&|~")):
            case "&":
                mask = mask & other if rng.random() < 0.5 else other & mask
                holds = functools.partial(both, holds, other_holds)
            case "|":
                mask = mask | other if rng.random() < 0.5 else other | mask
                holds = functools.partial(either, holds, other_holds)
            case "~":
                mask, holds = ~mask, functools.partial(neither, holds)
    return mask, table_of(holds, batch, N, T, S)


def both(first, second, *x):
    return first(*x) and second(*x)


def either(first, second, *x):
    return first(*x) or second(*x)


def neither(holds, *x):
    return not holds(*x)


def table_of(holds, batch, N, T, S):
    """The bool array [*batch, N, T, S] of a predicate of (batch index, head, query, key)."""
    table = np.zeros((*batch, N, T, S), bool)
    for index in np.ndindex(*table.shape):
        *b, n, i, j = index
        table[index] = holds(tuple(b), n, i, j)
    return table
