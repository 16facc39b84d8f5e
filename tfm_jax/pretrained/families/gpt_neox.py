"""GPT-NeoX, such as Pythia: sublayers side by side, a part of each head rotated, heads as BLOOM's."""

from collections.abc import Mapping
from typing import Any

from tfm_jax import nn
from tfm_jax.pretrained.families._common import (
    activation_of,
    activation_setting,
    inverse_frequencies,
    partial_rope_of,
    rope_settings,
    wanted,
)
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, dense, fused_qkv, mlp, norm, transpose

__all__ = ["GPT_NEOX"]


def config_of(settings: Mapping[str, Any]) -> nn.Config:
    """Their settings as ours."""
    D, N = settings["hidden_size"], settings["num_attention_heads"]
    rope = partial_rope_of(settings)
    if isinstance(rope.fraction, float) and (rotated := int(D // N * rope.fraction)) % 2:
        raise ValueError(
            f"num_attention_heads={N} and rotary_pct={rope.fraction} would rotate {rotated} of the {D // N} "
            "elements of a head, wanted an even number of them"
        )
    if settings.get("head_dim"):  # by which theirs rotates, and does not attend
        wanted(settings, head_dim=D // N)
    return nn.Config(
        vocab_size=settings["vocab_size"],
        d_model=D,
        n_layers=settings["num_hidden_layers"],
        n_heads=N,
        d_ff=settings["intermediate_size"],
        norm=nn.LayerNorm(settings.get("layer_norm_eps", 1e-5)),
        norm_placement="parallel" if settings.get("use_parallel_residual", True) else "pre",
        positions=rope,
        feed_forward=nn.Mlp(activation_of(settings.get("hidden_act", "gelu"))),
        attention_bias=settings.get("attention_bias", True),
        scale_embeddings=False,
        tie_embeddings=settings.get("tie_word_embeddings", False),
        dropout_rate=settings.get("hidden_dropout", 0.0),
        attention_dropout_rate=settings.get("attention_dropout", 0.0),
    )


def settings_of(config: nn.Config) -> dict[str, Any]:
    """Our config as their settings."""
    rope = config.positions if isinstance(config.positions, nn.Rope) else nn.Rope()
    parameters = rope_settings(rope)["rope_parameters"]
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_ff,
        "layer_norm_eps": config.norm.eps,
        "use_parallel_residual": config.norm_placement == "parallel",
        "hidden_act": activation_setting(config.feed_forward.activation),
        "attention_bias": config.attention_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_dropout": config.dropout_rate,
        "attention_dropout": config.attention_dropout_rate,
        "rope_parameters": {**parameters, "partial_rotary_factor": rope.fraction},
        "rotary_emb_base": rope.theta,
        "rotary_pct": rope.fraction,
        "rope_scaling": None,
    }


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``GPTNeoXForCausalLM``."""
    ours, theirs = "stack/layers", "gpt_neox.layers.{layer}"
    return [
        *fused_qkv(f"{ours}/attention", f"{theirs}.attention.query_key_value"),
        *dense(f"{ours}/attention/output", f"{theirs}.attention.dense"),
        *mlp(f"{ours}/feed_forward", w_in=f"{theirs}.mlp.dense_h_to_4h", w_out=f"{theirs}.mlp.dense_4h_to_h"),
        *norm(f"{ours}/attention_norm", f"{theirs}.input_layernorm"),
        *norm(f"{ours}/feed_forward_norm", f"{theirs}.post_attention_layernorm"),
        *norm("stack/norm", "gpt_neox.final_layer_norm"),
        WeightMapping("embedding/table", "gpt_neox.embed_in.weight"),
        WeightMapping("head/projection/kernel", "embed_out.weight", transpose(1)),
    ]


GPT_NEOX = Family(
    "gpt_neox",
    {"GPTNeoXForCausalLM": Architecture(nn.Decoder, names)},
    config_of,
    settings_of,
    prefix="gpt_neox.",
    constants=((r".*rotary_emb\.inv_freq", inverse_frequencies),),
    sizes=("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    unread=("rope_theta", "partial_rotary_factor"),
    renamed=((r"^lm_head\.", "embed_out."),),
)
