"""BLOOM: a decoder with ALiBi and a norm on its embeddings; heads hold query, key and value side by side."""

from collections.abc import Mapping
from typing import Any

from tfm_jax import nn
from tfm_jax.pretrained.families._common import wanted
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, dense, fused_qkv, mlp, norm, transpose

__all__ = ["BLOOM"]


def config_of(settings: Mapping[str, Any]) -> nn.Config:
    """Their settings as ours."""
    wanted(settings, apply_residual_connection_post_layernorm=False)
    older, D = settings.get("n_embed"), settings.get("hidden_size", 64)
    D = D if older is None else older
    return nn.Config(
        vocab_size=settings["vocab_size"],
        d_model=D,
        n_layers=settings["n_layer"],
        n_heads=settings["n_head"],
        d_ff=4 * D,
        norm=nn.LayerNorm(settings.get("layer_norm_epsilon", 1e-5)),
        embedding_norm=True,
        positions=nn.Alibi(),
        count_padding=False,
        feed_forward=nn.Mlp("gelu_tanh"),
        attention_bias=True,
        scale_embeddings=False,
        tie_embeddings=settings.get("tie_word_embeddings", True),
        dropout_rate=settings.get("hidden_dropout", 0.0),
        embedding_dropout_rate=0.0,
        attention_dropout_rate=settings.get("attention_dropout", 0.0),
    )


def settings_of(config: nn.Config) -> dict[str, Any]:
    """Our config as their settings."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "n_embed": None,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "layer_norm_epsilon": config.norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_dropout": config.dropout_rate,
        "attention_dropout": config.attention_dropout_rate,
    }


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``BloomForCausalLM``."""
    ours, theirs = "stack/layers", "transformer.h.{layer}"
    return [
        *fused_qkv(f"{ours}/attention", f"{theirs}.self_attention.query_key_value"),
        *dense(f"{ours}/attention/output", f"{theirs}.self_attention.dense"),
        *mlp(f"{ours}/feed_forward", w_in=f"{theirs}.mlp.dense_h_to_4h", w_out=f"{theirs}.mlp.dense_4h_to_h"),
        *norm(f"{ours}/attention_norm", f"{theirs}.input_layernorm"),
        *norm(f"{ours}/feed_forward_norm", f"{theirs}.post_attention_layernorm"),
        *norm("stack/embedding_norm", "transformer.word_embeddings_layernorm"),
        *norm("stack/norm", "transformer.ln_f"),
        WeightMapping("embedding/table", "transformer.word_embeddings.weight"),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
    ]


BLOOM = Family(
    "bloom",
    {"BloomForCausalLM": Architecture(nn.Decoder, names)},
    config_of,
    settings_of,
    prefix="transformer.",
    aliases={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    sizes=("vocab_size", "hidden_size", "n_layer", "n_head"),
    unread=(
        *("attention_softmax_in_fp32", "masked_softmax_fusion", "bias_dropout_fusion", "offset_alibi"),
        *("n_inner", "seq_length", "skip_bias_add", "skip_bias_add_qkv"),
    ),
)
