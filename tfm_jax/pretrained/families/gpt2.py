"""GPT-2: pre-norm, learned positions, one matrix for queries, keys and values."""

from collections.abc import Mapping
from typing import Any

from tfm_jax import nn
from tfm_jax.pretrained.families._common import activation_of, activation_setting, wanted
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.weights.tensor_map import FLATTEN, WeightMapping, conv1d, norm, transpose

__all__ = ["GPT2"]


def config_of(settings: Mapping[str, Any]) -> nn.Config:
    """Their settings as ours."""
    wanted(
        settings,
        add_cross_attention=False,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
    )
    D = settings["n_embd"]
    return nn.Config(
        vocab_size=settings["vocab_size"],
        d_model=D,
        n_layers=settings["n_layer"],
        n_heads=settings["n_head"],
        d_ff=settings.get("n_inner") or 4 * D,
        norm=nn.LayerNorm(settings.get("layer_norm_epsilon", 1e-5)),
        positions=nn.Learned(settings.get("n_positions", 1024)),
        feed_forward=nn.Mlp(activation_of(settings.get("activation_function", "gelu_new"))),
        attention_bias=True,
        scale_embeddings=False,
        tie_embeddings=settings.get("tie_word_embeddings", True),
        dropout_rate=settings.get("resid_pdrop", 0.1),
        embedding_dropout_rate=settings.get("embd_pdrop", 0.1),
        attention_dropout_rate=settings.get("attn_pdrop", 0.1),
    )


def settings_of(config: nn.Config) -> dict[str, Any]:
    """Our config as their settings."""
    embedding = config.embedding_dropout_rate
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": None if config.d_ff == 4 * config.d_model else config.d_ff,
        "layer_norm_epsilon": config.norm.eps,
        "n_positions": getattr(config.positions, "max_length", 1024),
        "activation_function": activation_setting(config.feed_forward.activation),
        "tie_word_embeddings": config.tie_embeddings,
        "resid_pdrop": config.dropout_rate,
        "embd_pdrop": config.dropout_rate if embedding is None else embedding,
        "attn_pdrop": config.attention_dropout_rate,
    }


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``GPT2LMHeadModel``."""
    ours, theirs = "stack/layers", "transformer.h.{layer}"
    fused = [
        entry
        for name in ("query", "key", "value")
        for entry in (
            WeightMapping(
                f"{ours}/attention/{name}/kernel", f"{theirs}.attn.c_attn.weight", conv1d(2), concat_axis=1
            ),
            WeightMapping(
                f"{ours}/attention/{name}/bias", f"{theirs}.attn.c_attn.bias", FLATTEN, concat_axis=0
            ),
        )
    ]
    plain = [
        entry
        for kernel, bias, name in (
            ("attention/output/kernel", "attention/output/bias", "attn.c_proj"),
            ("feed_forward/w_in", "feed_forward/b_in", "mlp.c_fc"),
            ("feed_forward/w_out", "feed_forward/b_out", "mlp.c_proj"),
        )
        for entry in (
            WeightMapping(f"{ours}/{kernel}", f"{theirs}.{name}.weight", conv1d(1)),
            WeightMapping(f"{ours}/{bias}", f"{theirs}.{name}.bias"),
        )
    ]
    return [
        *fused,
        *plain,
        *norm(f"{ours}/attention_norm", f"{theirs}.ln_1"),
        *norm(f"{ours}/feed_forward_norm", f"{theirs}.ln_2"),
        *norm("stack/norm", "transformer.ln_f"),
        WeightMapping("embedding/table", "transformer.wte.weight"),
        WeightMapping("stack/position_embedding/table", "transformer.wpe.weight"),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
    ]


GPT2 = Family(
    "gpt2",
    {"GPT2LMHeadModel": Architecture(nn.Decoder, names)},
    config_of,
    settings_of,
    prefix="transformer.",
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    sizes=("vocab_size", "n_embd", "n_layer", "n_head", "n_positions"),
    unread=(
        *("reorder_and_upcast_attn", "n_special", "predict_special_tokens"),
        *("summary_type", "summary_use_proj", "summary_activation"),
        *("summary_proj_to_labels", "summary_first_dropout", "summary_hidden_size"),
    ),
)
