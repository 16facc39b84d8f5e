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


# --- mixture of experts ---


def top_k_routing(logits, k, *, normalize=True):
    """Experts [..., k] and gates [..., k]: the k largest logits, of equal ones the lower index first."""
    logits = np.asarray(logits, np.float64)
    experts = np.zeros((*logits.shape[:-1], k), np.int32)
    gates = np.zeros(experts.shape)
    for token in np.ndindex(logits.shape[:-1]):
        order = sorted(range(logits.shape[-1]), key=lambda e, token=token: (-logits[token][e], e))[:k]
        p = softmax(logits[token])[order]
        experts[token], gates[token] = order, p / p.sum() if normalize else p
    return experts, gates


def mixture_of_experts(x, experts, gates, weights, activation, *, capacity=None, valid=None):
    """Output [G, T, D] and the number of dropped choices, of G sequences; weights are (w_in, w_out, w_gate).

    `capacity` is the tokens that an expert takes of a sequence: all first choices, then all second ones.
    """
    x, gates = np.asarray(x, np.float64), np.asarray(gates, np.float64)
    w_in, w_out, w_gate = (None if w is None else np.asarray(w, np.float64) for w in weights)
    y, dropped = np.zeros_like(x), 0
    for g in range(len(x)):
        taken = np.zeros(len(w_in), int)
        for j, t in itertools.product(range(experts.shape[-1]), range(x.shape[1])):
            e = experts[g, t, j]
            if valid is not None and not valid[g, t]:
                continue
            taken[e] += 1
            if capacity is not None and taken[e] > capacity:
                dropped += 1
                continue
            hidden = x[g, t] @ w_in[e]
            hidden = activation(hidden) if w_gate is None else activation(x[g, t] @ w_gate[e]) * hidden
            y[g, t] += gates[g, t, j] * (hidden @ w_out[e])
    return y, dropped


def load_balance_loss(logits, experts, weights):
    """(sum, weight) of the balance of each of G sequences; logits [G, T, E], weights [G, T]."""
    total, E = 0.0, np.shape(logits)[-1]
    for sequence, choices, w in zip(logits, experts, weights, strict=True):
        probabilities = np.array([softmax(token) for token in sequence])
        if np.sum(w) == 0:
            continue
        loss = 0.0
        for e in range(E):
            use = sum(wt * np.mean(c == e) for wt, c in zip(w, choices, strict=True)) / np.sum(w)
            loss += E * use * (w @ probabilities[:, e]) / np.sum(w)
        total += np.sum(w) * loss
    return total, np.sum(weights)
