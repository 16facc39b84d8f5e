"""The functions of ops with small arguments, for tests that hold for each of them."""

import numpy as np

from tfm_jax import ops
from tfm_jax.ops import kv_cache

X, W, WIDE, LABELS = (
    np.ones((3, 4), np.float32),
    np.ones((4, 5), np.float32),
    np.ones(4, np.float32),
    np.arange(3),
)
HEADS = np.ones((3, 2, 4), np.float32)
LOGITS, COUNTS = np.ones((3, 4), np.float32), np.ones((3, 4), np.int32)
EXPERTS = np.array([[0, 1], [2, 0], [1, 2]], np.int32)
NEW, SLOTS = np.ones((2, 1, 4), np.float32), kv_cache.init_slots((), 3)

# A function, and its array arguments by name.
FUNCTIONS = {
    "layer_norm": (ops.layer_norm, {"x": X, "scale": WIDE, "bias": WIDE}),
    "rms_norm": (ops.rms_norm, {"x": X, "scale": WIDE}),
    "sinusoidal": (lambda positions: ops.sinusoidal(positions, 4), {"positions": LABELS}),
    "rotary": (ops.rotary, {"x": HEADS, "positions": LABELS}),
    "alibi": (
        lambda **positions: ops.alibi(2, **positions),
        {"query_positions": LABELS, "key_positions": LABELS},
    ),
    "relative_buckets": (ops.relative_buckets, {"query_positions": LABELS, "key_positions": LABELS}),
    "feed_forward": (
        ops.feed_forward,
        {"x": X, "w_in": W, "w_out": W.T, "b_in": np.ones(5, np.float32), "b_out": WIDE},
    ),
    "gated_feed_forward": (ops.gated_feed_forward, {"x": X, "w_gate": W, "w_in": W, "w_out": W.T}),
    "top_k_routing": (lambda logits: ops.top_k_routing(logits, 2), {"logits": LOGITS}),
    "mixture_of_experts": (
        ops.mixture_of_experts,
        {
            "x": X,
            "experts": EXPERTS,
            "gates": X[:, :2],
            "w_in": np.stack([W] * 3),
            "w_out": np.stack([W.T] * 3),
            "w_gate": np.stack([W] * 3),
        },
    ),
    "load_balance_loss": (
        ops.load_balance_loss,
        {"logits": LOGITS, "experts": EXPERTS, "weights": X[:, 0]},
    ),
    "router_z_loss": (ops.router_z_loss, {"logits": LOGITS, "weights": X[:, 0]}),
    "dropout": (lambda x: ops.dropout(x, 0.5, None), {"x": X}),
    "attention": (
        ops.attention,
        {"q": HEADS, "k": HEADS, "v": HEADS, "bias": np.ones((2, 3, 3), np.float32)},
    ),
    "cross_entropy": (ops.cross_entropy, {"logits": LOGITS, "labels": LABELS, "weights": X[:, 0]}),
    "linear_cross_entropy": (
        ops.linear_cross_entropy,
        {"hidden": X, "kernel": W, "labels": LABELS, "weights": X[:, 0], "bias": np.ones(5, np.float32)},
    ),
    "temperature": (lambda logits: ops.temperature(logits, 0.5), {"logits": LOGITS}),
    "top_k": (lambda logits: ops.top_k(logits, 2), {"logits": LOGITS}),
    "top_p": (lambda logits: ops.top_p(logits, 0.5), {"logits": LOGITS}),
    "min_p": (lambda logits: ops.min_p(logits, 0.5), {"logits": LOGITS}),
    "repetition_penalty": (
        lambda **arrays: ops.repetition_penalty(**arrays, penalty=2.0),
        {"logits": LOGITS, "seen": COUNTS > 0},
    ),
    "frequency_penalty": (
        lambda **arrays: ops.frequency_penalty(**arrays, penalty=2.0),
        {"logits": LOGITS, "counts": COUNTS},
    ),
    "no_repeat_ngram": (
        lambda **arrays: ops.no_repeat_ngram(**arrays, length=2, n=2),
        {"logits": LOGITS, "tokens": COUNTS},
    ),
    "token_counts": (lambda tokens: ops.token_counts(tokens, 4), {"tokens": COUNTS}),
    "kv_cache.append": (
        lambda buffer, new: kv_cache.append(buffer, new, SLOTS),
        {"buffer": np.zeros((2, 3, 4), np.float32), "new": NEW},
    ),
    "kv_cache.advance": (
        lambda positions: kv_cache.advance(SLOTS, positions),
        {"positions": np.zeros(1, np.int32)},
    ),
}
