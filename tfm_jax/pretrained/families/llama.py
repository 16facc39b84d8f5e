"""Llama, Mistral, Qwen2 and Qwen3: RMS norm, rotated queries and keys, grouped heads, a gate."""

import functools
from collections.abc import Mapping
from typing import Any

from tfm_jax import nn
from tfm_jax.pretrained.families._common import (
    activation_of,
    activation_setting,
    inverse_frequencies,
    rope_of,
    rope_settings,
    wanted,
)
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, attention, mlp, norm, transpose

__all__ = ["FAMILIES"]


def _config_of(settings: Mapping[str, Any], **fields: Any) -> nn.Config:
    D, N = settings["hidden_size"], settings["num_attention_heads"]
    return nn.Config(
        vocab_size=settings["vocab_size"],
        d_model=D,
        n_layers=settings["num_hidden_layers"],
        n_heads=N,
        n_kv_heads=settings.get("num_key_value_heads") or N,
        head_dim=settings.get("head_dim") or D // N,
        d_ff=settings["intermediate_size"],
        norm=nn.RMSNorm(settings.get("rms_norm_eps", 1e-6)),
        positions=rope_of(settings),
        feed_forward=nn.Glu(activation_of(settings.get("hidden_act", "silu"))),
        scale_embeddings=False,
        tie_embeddings=settings.get("tie_word_embeddings", False),
        attention_dropout_rate=settings.get("attention_dropout", 0.0),
        **fields,
    )


def _settings_of(config: nn.Config) -> dict[str, Any]:
    rope = config.positions if isinstance(config.positions, nn.Rope) else nn.Rope()
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.K,
        "head_dim": config.H,
        "intermediate_size": config.d_ff,
        "rms_norm_eps": config.norm.eps,
        "hidden_act": activation_setting(config.feed_forward.activation),
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": config.attention_dropout_rate,
        **rope_settings(rope),
    }


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of all four."""
    ours, theirs = "stack/layers", "model.layers.{layer}"
    projections = [f"{theirs}.self_attn.{letter}_proj" for letter in "qkvo"]
    return [
        *attention(f"{ours}/attention", *projections),
        *norm(f"{ours}/attention/query_norm", f"{theirs}.self_attn.q_norm"),
        *norm(f"{ours}/attention/key_norm", f"{theirs}.self_attn.k_norm"),
        *mlp(
            f"{ours}/feed_forward",
            w_gate=f"{theirs}.mlp.gate_proj",
            w_in=f"{theirs}.mlp.up_proj",
            w_out=f"{theirs}.mlp.down_proj",
        ),
        *norm(f"{ours}/attention_norm", f"{theirs}.input_layernorm"),
        *norm(f"{ours}/feed_forward_norm", f"{theirs}.post_attention_layernorm"),
        *norm("stack/norm", "model.norm"),
        WeightMapping("embedding/table", "model.embed_tokens.weight"),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
    ]


WINDOW = 4096
"""Of files that do not say one; those that mean none say null."""


def _llama(settings: Mapping[str, Any]) -> nn.Config:
    wanted(settings, mlp_bias=False)
    return _config_of(settings, attention_bias=settings.get("attention_bias", False))


def _llama_settings(config: nn.Config) -> dict[str, Any]:
    return {**_settings_of(config), "attention_bias": config.attention_bias, "mlp_bias": False}


def _mistral(settings: Mapping[str, Any]) -> nn.Config:
    return _config_of(settings, window=settings.get("sliding_window", WINDOW))


def _mistral_settings(config: nn.Config) -> dict[str, Any]:
    return {**_settings_of(config), "sliding_window": config.window}


def _window(settings: Mapping[str, Any]) -> int | None:
    """Qwen's layers look back by a window or not, from some layer on; ours are all alike."""
    if not settings.get("use_sliding_window", False):
        return None
    L, window = settings["num_hidden_layers"], settings.get("sliding_window", WINDOW)
    first = settings.get("max_window_layers", 28)
    default = ["sliding_attention" if i >= first else "full_attention" for i in range(L)]
    kinds = set(settings.get("layer_types") or default)
    if window is None or kinds == {"full_attention"}:
        return None
    if kinds != {"sliding_attention"}:
        raise ValueError(f"layers of several kinds are not supported: {sorted(kinds)}")
    return window


def _window_settings(config: nn.Config) -> dict[str, Any]:
    kind = "full_attention" if config.window is None else "sliding_attention"
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": 0 if config.window is not None else config.n_layers,
        "layer_types": [kind] * config.n_layers,
    }


def _qwen2(settings: Mapping[str, Any]) -> nn.Config:
    return _config_of(settings, attention_bias=True, attention_output_bias=False, window=_window(settings))


def _qwen2_settings(config: nn.Config) -> dict[str, Any]:
    return {**_settings_of(config), **_window_settings(config)}


def _qwen3(settings: Mapping[str, Any]) -> nn.Config:
    bias = settings.get("attention_bias", False)
    return _config_of(settings, attention_bias=bias, qk_norm=True, window=_window(settings))


def _qwen3_settings(config: nn.Config) -> dict[str, Any]:
    return {**_qwen2_settings(config), "attention_bias": config.attention_bias}


_family = functools.partial(
    Family,
    prefix="model.",
    constants=((r".*rotary_emb\.inv_freq", inverse_frequencies),),
    sizes=("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    unread=("max_window_layers", "sliding_window", "layer_types", "use_sliding_window", "use_mrope"),
)
FAMILIES = (
    _family("llama", {"LlamaForCausalLM": Architecture(nn.Decoder, names)}, _llama, _llama_settings),
    _family("mistral", {"MistralForCausalLM": Architecture(nn.Decoder, names)}, _mistral, _mistral_settings),
    _family("qwen2", {"Qwen2ForCausalLM": Architecture(nn.Decoder, names)}, _qwen2, _qwen2_settings),
    _family("qwen3", {"Qwen3ForCausalLM": Architecture(nn.Decoder, names)}, _qwen3, _qwen3_settings),
)
