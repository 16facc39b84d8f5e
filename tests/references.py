"""Reference implementations in NumPy float64: slow, plain, and independent of the tested code."""

import itertools

import numpy as np

# --- attention and masks ---


def softmax(x):
    """Softmax over the last axis; a fully masked row gives zeros."""
    x = np.asarray(x, np.float64)
    out = np.zeros_like(x)
    for row in np.ndindex(x.shape[:-1]):
        finite = np.isfinite(x[row])
        if finite.any():
            e = np.exp(x[row][finite] - x[row][finite].max())
            out[row][finite] = e / e.sum()
    return out


def attention(q, k, v, allowed=None, bias=None, *, scale=None, soft_cap=None):
    """Output [..., T, N, Hv] and weights [..., N, T, S], one query of one head at a time.

    `allowed` (bool) and `bias` broadcast to [..., N, T, S]. Key/value head n // (N // K) serves query head n.
    """
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    (*batch, T, N, H), (S, K), Hv = q.shape, k.shape[-3:-1], v.shape[-1]
    allowed = np.broadcast_to(True if allowed is None else np.asarray(allowed), (*batch, N, T, S))
    bias = np.broadcast_to(0.0 if bias is None else np.asarray(bias, np.float64), (*batch, N, T, S))
    out, weights = np.zeros((*batch, T, N, Hv)), np.zeros((*batch, N, T, S))
    for b in np.ndindex(*batch):
        for n, t in itertools.product(range(N), range(T)):
            head = n // (N // K)
            logits = np.full(S, -np.inf)
            for s in range(S):
                if allowed[(*b, n, t, s)]:
                    x = q[(*b, t, n)] @ k[(*b, s, head)] * (1 / np.sqrt(H) if scale is None else scale)
                    x = x if soft_cap is None else soft_cap * np.tanh(x / soft_cap)
                    logits[s] = x + bias[(*b, n, t, s)]
            weights[(*b, n, t)] = softmax(logits)
            for s in range(S):
                if weights[(*b, n, t, s)] > 0:
                    out[(*b, t, n)] += weights[(*b, n, t, s)] * v[(*b, s, head)]
    return out, weights


def table(T, S, may_attend):
    """The bool matrix [T, S] of a predicate of (query index, key index)."""
    return np.array([[bool(may_attend(i, j)) for j in range(S)] for i in range(T)]).reshape(T, S)
