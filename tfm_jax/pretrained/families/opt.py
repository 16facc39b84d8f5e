"""OPT: a decoder with learned positions, as GPT-2 in separate matrices; without dropout of the embeddings."""

from collections.abc import Mapping
from typing import Any

from tfm_jax import nn
from tfm_jax.pretrained.families._common import activation_of, activation_setting, wanted
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, attention, mlp, norm, skip_rows, transpose

__all__ = ["OPT"]

_EPS = 1e-5  # their settings do not say it


def config_of(settings: Mapping[str, Any]) -> nn.Config:
    """Their settings as ours."""
    D, before = settings["hidden_size"], settings.get("do_layer_norm_before", True)
    width = settings.get("word_embed_proj_dim")
    wanted({"word_embed_proj_dim": D if width is None else width}, word_embed_proj_dim=D)
    wanted(settings, layer_norm_elementwise_affine=True)
    bias = settings.get("enable_bias", True)
    return nn.Config(
        vocab_size=settings["vocab_size"],
        d_model=D,
        n_layers=settings["num_hidden_layers"],
        n_heads=settings["num_attention_heads"],
        d_ff=settings["ffn_dim"],
        norm=nn.LayerNorm(_EPS),
        norm_placement="pre" if before else "post",
        final_norm=before and not settings.get("_remove_final_layer_norm", False),
        positions=nn.Learned(settings.get("max_position_embeddings", 2048)),
        count_padding=False,
        feed_forward=nn.Mlp(activation_of(settings.get("activation_function", "relu")), bias),
        attention_bias=bias,
        scale_embeddings=False,
        tie_embeddings=settings.get("tie_word_embeddings", True),
        dropout_rate=settings.get("dropout", 0.1),
        embedding_dropout_rate=0.0,
        attention_dropout_rate=settings.get("attention_dropout", 0.0),
    )


def settings_of(config: nn.Config) -> dict[str, Any]:
    """Our config as their settings."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "word_embed_proj_dim": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "ffn_dim": config.d_ff,
        "do_layer_norm_before": config.norm_placement == "pre",
        "_remove_final_layer_norm": config.norm_placement == "pre" and not config.final_norm,
        "max_position_embeddings": getattr(config.positions, "max_length", 2048),
        "activation_function": activation_setting(config.feed_forward.activation),
        "enable_bias": config.attention_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "dropout": config.dropout_rate,
        "attention_dropout": config.attention_dropout_rate,
    }


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``OPTForCausalLM``."""
    ours, theirs = "stack/layers", "model.decoder.layers.{layer}"
    projections = [f"{theirs}.self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
    return [
        *attention(f"{ours}/attention", *projections),
        *mlp(f"{ours}/feed_forward", w_in=f"{theirs}.fc1", w_out=f"{theirs}.fc2"),
        *norm(f"{ours}/attention_norm", f"{theirs}.self_attn_layer_norm"),
        *norm(f"{ours}/feed_forward_norm", f"{theirs}.final_layer_norm"),
        *norm("stack/norm", "model.decoder.final_layer_norm"),
        WeightMapping("embedding/table", "model.decoder.embed_tokens.weight"),
        # Nobody reads the two rows before their first position.
        WeightMapping("stack/position_embedding/table", "model.decoder.embed_positions.weight", skip_rows(2)),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
    ]


OPT = Family(
    "opt",
    {"OPTForCausalLM": Architecture(nn.Decoder, names)},
    config_of,
    settings_of,
    prefix="model.",
    sizes=("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim"),
    unread=("activation_dropout",),
)
