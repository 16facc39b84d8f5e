"""BLOOM: decoder with ALiBi and a norm on the embeddings; query, key and value of each head are fused."""

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import TrackedSettings
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.field_map import Field, FieldMap, Fields, Group
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, dense, fused_qkv, mlp, norm, transpose

__all__ = ["BLOOM"]


def _read_widths(settings: TrackedSettings) -> Fields:
    older, D = settings.get("n_embed"), settings.get("hidden_size", 64)
    D = D if older is None else older
    return {"d_model": D, "d_ff": 4 * D}


def _write_widths(model: nn.Config) -> dict[str, object]:
    return {"hidden_size": model.d_model, "n_embed": None}


FIELDS = FieldMap(
    (
        Field("vocab_size"),
        Group(_read_widths, _write_widths, sizes=("hidden_size",)),
        Field("n_layer", "n_layers"),
        Field("n_head", "n_heads"),
        Field("layer_norm_epsilon", "norm.eps", 1e-5),
        Field("tie_word_embeddings", "tie_embeddings", True),
        Field("hidden_dropout", "dropout_rate", 0.0),
        Field("attention_dropout", "attention_dropout_rate", 0.0),
    ),
    model={
        "norm": nn.LayerNorm,
        "embedding_norm": True,
        "positions": nn.Alibi(),
        "count_padding": False,
        "feed_forward": nn.Mlp("gelu_tanh"),
        "attention_bias": True,
        "scale_embeddings": False,
        "embedding_dropout_rate": 0.0,
    },
    only={"apply_residual_connection_post_layernorm": False},
)


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``BloomForCausalLM``."""
    param, tensor = "stack/layers", "transformer.h.{layer}"
    return [
        *fused_qkv(f"{param}/attention", f"{tensor}.self_attention.query_key_value"),
        *dense(f"{param}/attention/output", f"{tensor}.self_attention.dense"),
        *mlp(
            f"{param}/feed_forward", w_in=f"{tensor}.mlp.dense_h_to_4h", w_out=f"{tensor}.mlp.dense_4h_to_h"
        ),
        *norm(f"{param}/attention_norm", f"{tensor}.input_layernorm"),
        *norm(f"{param}/feed_forward_norm", f"{tensor}.post_attention_layernorm"),
        *norm("stack/embedding_norm", "transformer.word_embeddings_layernorm"),
        *norm("stack/norm", "transformer.ln_f"),
        WeightMapping("embedding/table", "transformer.word_embeddings.weight"),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
    ]


BLOOM = Family(
    "bloom",
    {"BloomForCausalLM": Architecture(nn.Decoder, names)},
    FIELDS,
    prefix="transformer.",
    aliases={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    unread=(
        *("attention_softmax_in_fp32", "masked_softmax_fusion", "bias_dropout_fusion", "offset_alibi"),
        *("n_inner", "seq_length", "skip_bias_add", "skip_bias_add_qkv"),
    ),
)
