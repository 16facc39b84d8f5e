"""Mask expressions for hypothesis, each with the table of booleans that it stands for, made by loops."""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.ops import masks


def leading(rng, batch):
    """Leading dims that a mask's array may have beside `batch`: none, or each size equal or 1."""
    if rng.random() < 0.3:
        return ()
    return tuple(n if rng.random() < 0.7 else 1 for n in batch)


def row(array, lead, b):
    """What `array` with leading dims `lead` holds for the batch index `b`."""
    return (
        np.asarray(array)[tuple(0 if n == 1 else i for n, i in zip(lead, b, strict=True))] if lead else array
    )


def part(kind, rng, batch, N, T, S):
    """(mask or plain array, predicate of (batch index, head, query, key))."""
    lead = leading(rng, batch)
    offset = rng.integers(-1, max(0, S - T) + 1, lead) if lead or T != S else None
    o = lambda b: 0 if offset is None else int(row(offset, lead, b))
    match kind:
        case "causal":
            return masks.causal(offset), lambda b, n, i, j: j <= o(b) + i
        case "window":
            left, right = (None if x == 3 else int(x) for x in rng.integers(0, 4, 2))
            low = lambda b, i: -100 if left is None else o(b) + i - left
            high = lambda b, i: 100 if right is None else o(b) + i + right
            return masks.window(left, right, offset), lambda b, n, i, j: low(b, i) <= j <= high(b, i)
        case "prefix":
            n_keys = rng.integers(0, S + 2, lead)
            return masks.prefix(n_keys if lead else int(n_keys)), lambda b, n, i, j: j < row(n_keys, lead, b)
        case "padding":
            valid = rng.random((*lead, S)) < 0.6
            return masks.padding(jnp.asarray(valid)), lambda b, n, i, j: row(valid, lead, b)[j]
        case "segments":
            ids = rng.integers(0, 3, (*lead, T))
            other = leading(rng, batch)
            keys = rng.integers(0, 3, (*other, S)).astype(np.int32)
            if T == S and rng.random() < 0.5:
                return masks.segments(ids), lambda b, n, i, j: row(ids, lead, b)[i] == row(ids, lead, b)[j]
            return masks.segments(
                ids, keys
            ), lambda b, n, i, j: row(ids, lead, b)[i] == row(keys, other, b)[j]
        case "dense":
            table = rng.random((*lead, T, S)) < 0.5
            return masks.dense(table), lambda b, n, i, j: row(table, lead, b)[i, j]
        case "heads":
            heads = rng.random((*lead, 1 if rng.random() < 0.3 else N, T, S)) < 0.5
            pick = lambda b, n: row(heads, lead, b)[n % heads.shape[len(lead)]]
            return masks.dense(heads, per_head=True), lambda b, n, i, j: pick(b, n)[i, j]
    assert kind == "array"
    lead = batch if rng.random() < 0.5 else ()
    plain = rng.random((*lead, T, S)) < 0.5
    return (plain if rng.random() < 0.5 else jnp.asarray(plain)), lambda b, n, i, j: row(plain, lead, b)[i, j]


KINDS = ["causal", "window", "prefix", "padding", "segments", "dense", "heads"]


@st.composite
def expressions(draw, batch, N, T, S):
    """(mask, bool array [*batch, N, T, S]): a random expression and its table."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    mask, holds = part(draw(st.sampled_from(KINDS)), rng, batch, N, T, S)
    for _ in range(draw(st.integers(0, 3))):
        other, also = part(draw(st.sampled_from([*KINDS, "array"])), rng, batch, N, T, S)
        operator, first = draw(st.sampled_from("&|~")), holds
        match operator:
            case "&":
                mask = mask & other if rng.random() < 0.5 else other & mask
                holds = lambda *x, a=first, b=also: a(*x) and b(*x)
            case "|":
                mask = mask | other if rng.random() < 0.5 else other | mask
                holds = lambda *x, a=first, b=also: a(*x) or b(*x)
            case "~":
                mask, holds = ~mask, lambda *x, a=first: not a(*x)
    table = np.zeros((*batch, N, T, S), bool)
    for index in np.ndindex(*table.shape):
        *b, n, i, j = index
        table[index] = holds(tuple(b), n, i, j)
    return mask, table
