"""Pure functions of arrays: attention, masks, norms, positions, losses, sampling, the KV cache."""

from tfm_jax.ops import kv_cache, masks
from tfm_jax.ops.attention import Explanation, attention, attention_weights, explain_attention
from tfm_jax.ops.dropout import dropout
from tfm_jax.ops.feed_forward import activation, feed_forward, gated_feed_forward
from tfm_jax.ops.losses import cross_entropy, linear_cross_entropy
from tfm_jax.ops.mixture_of_experts import (
    load_balance_loss,
    mixture_of_experts,
    router_z_loss,
    top_k_routing,
)
from tfm_jax.ops.normalization import layer_norm, rms_norm
from tfm_jax.ops.positions import alibi, relative_buckets, rotary, sinusoidal
from tfm_jax.ops.sampling import (
    frequency_penalty,
    min_p,
    no_repeat_ngram,
    repetition_penalty,
    temperature,
    token_counts,
    top_k,
    top_p,
)

__all__ = [
    "Explanation",
    "activation",
    "alibi",
    "attention",
    "attention_weights",
    "cross_entropy",
    "dropout",
    "explain_attention",
    "feed_forward",
    "frequency_penalty",
    "gated_feed_forward",
    "kv_cache",
    "layer_norm",
    "linear_cross_entropy",
    "load_balance_loss",
    "masks",
    "min_p",
    "mixture_of_experts",
    "no_repeat_ngram",
    "relative_buckets",
    "repetition_penalty",
    "rms_norm",
    "rotary",
    "router_z_loss",
    "sinusoidal",
    "temperature",
    "token_counts",
    "top_k",
    "top_k_routing",
    "top_p",
]
