"""GPT-2: pre-norm decoder with learned positions; one matrix for queries, keys and values."""

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import TrackedSettings
from tfm_jax.pretrained.families._common import ACTIVATION
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.field_map import Field, FieldMap, Fields, Group
from tfm_jax.pretrained.weights.tensor_map import FLATTEN, WeightMapping, conv1d, norm, transpose

__all__ = ["GPT2"]


def _read_width(settings: TrackedSettings) -> Fields:
    return {"d_ff": settings.get("n_inner") or 4 * settings["n_embd"]}


def _write_width(model: nn.Config) -> dict[str, object]:
    return {"n_inner": None if model.d_ff == 4 * model.d_model else model.d_ff}


FIELDS = FieldMap(
    (
        Field("vocab_size"),
        Field("n_embd", "d_model"),
        Field("n_layer", "n_layers"),
        Field("n_head", "n_heads"),
        Group(_read_width, _write_width),
        Field("layer_norm_epsilon", "norm.eps", 1e-5),
        Field("n_positions", "positions.max_length", 1024),
        Field("activation_function", "feed_forward.activation", "gelu_new", ACTIVATION),
        Field("tie_word_embeddings", "tie_embeddings", True),
        Field("resid_pdrop", "dropout_rate", 0.1),
        Field("embd_pdrop", "embedding_dropout_rate", 0.1),
        Field("attn_pdrop", "attention_dropout_rate", 0.1),
    ),
    model={
        "norm": nn.LayerNorm,
        "positions": nn.Learned,
        "feed_forward": nn.Mlp,
        "attention_bias": True,
        "scale_embeddings": False,
    },
    only={"add_cross_attention": False, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
)


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``GPT2LMHeadModel``."""
    param, tensor = "stack/layers", "transformer.h.{layer}"
    fused = [
        entry
        for name in ("query", "key", "value")
        for entry in (
            WeightMapping(
                f"{param}/attention/{name}/kernel", f"{tensor}.attn.c_attn.weight", conv1d(2), concat_axis=1
            ),
            WeightMapping(
                f"{param}/attention/{name}/bias", f"{tensor}.attn.c_attn.bias", FLATTEN, concat_axis=0
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
            WeightMapping(f"{param}/{kernel}", f"{tensor}.{name}.weight", conv1d(1)),
            WeightMapping(f"{param}/{bias}", f"{tensor}.{name}.bias"),
        )
    ]
    return [
        *fused,
        *plain,
        *norm(f"{param}/attention_norm", f"{tensor}.ln_1"),
        *norm(f"{param}/feed_forward_norm", f"{tensor}.ln_2"),
        *norm("stack/norm", "transformer.ln_f"),
        WeightMapping("embedding/table", "transformer.wte.weight"),
        WeightMapping("stack/position_embedding/table", "transformer.wpe.weight"),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
    ]


GPT2 = Family(
    "gpt2",
    {"GPT2LMHeadModel": Architecture(nn.Decoder, names)},
    FIELDS,
    prefix="transformer.",
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    unread=(
        *("reorder_and_upcast_attn", "n_special", "predict_special_tokens"),
        *("summary_type", "summary_use_proj", "summary_activation"),
        *("summary_proj_to_labels", "summary_first_dropout", "summary_hidden_size"),
    ),
)
