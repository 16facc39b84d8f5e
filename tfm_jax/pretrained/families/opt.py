"""OPT: decoder with learned positions, biases and norm placement by settings; no dropout of embeddings."""

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import TrackedSettings
from tfm_jax.pretrained.families._common import ACTIVATION
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.field_map import Field, FieldMap, Fields, Group, Same
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, attention, mlp, norm, skip_rows, transpose

__all__ = ["OPT"]


def _read_norms(settings: TrackedSettings) -> Fields:
    before = settings.get("do_layer_norm_before", True)
    final = before and not settings.get("_remove_final_layer_norm", False)
    return {"norm_placement": "pre" if before else "post", "final_norm": final}


def _write_norms(model: nn.Config) -> dict[str, object]:
    before = model.norm_placement == "pre"
    return {"do_layer_norm_before": before, "_remove_final_layer_norm": before and not model.final_norm}


FIELDS = FieldMap(
    (
        Field("vocab_size"),
        Field("hidden_size", "d_model"),
        Same("word_embed_proj_dim", "hidden_size", "d_model", unset=(None,)),
        Field("num_hidden_layers", "n_layers"),
        Field("num_attention_heads", "n_heads"),
        Field("ffn_dim", "d_ff"),
        Group(_read_norms, _write_norms),
        Field("max_position_embeddings", "positions.max_length", 2048),
        Field("activation_function", "feed_forward.activation", "relu", ACTIVATION),
        Field("enable_bias", ("attention_bias", "feed_forward.bias"), True),
        Field("tie_word_embeddings", "tie_embeddings", True),
        Field("dropout", "dropout_rate", 0.1),
        Field("attention_dropout", "attention_dropout_rate", 0.0),
    ),
    model={
        "norm": nn.LayerNorm(1e-5),  # OPT has no setting for it
        "positions": nn.Learned,
        "count_padding": False,
        "feed_forward": nn.Mlp,
        "scale_embeddings": False,
        "embedding_dropout_rate": 0.0,
    },
    only={"layer_norm_elementwise_affine": True},
)


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``OPTForCausalLM``."""
    param, tensor = "stack/layers", "model.decoder.layers.{layer}"
    projections = [f"{tensor}.self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
    return [
        *attention(f"{param}/attention", *projections),
        *mlp(f"{param}/feed_forward", w_in=f"{tensor}.fc1", w_out=f"{tensor}.fc2"),
        *norm(f"{param}/attention_norm", f"{tensor}.self_attn_layer_norm"),
        *norm(f"{param}/feed_forward_norm", f"{tensor}.final_layer_norm"),
        *norm("stack/norm", "model.decoder.final_layer_norm"),
        WeightMapping("embedding/table", "model.decoder.embed_tokens.weight"),
        # No position reads the first two rows of the table.
        WeightMapping("stack/position_embedding/table", "model.decoder.embed_positions.weight", skip_rows(2)),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
    ]


OPT = Family(
    "opt",
    {"OPTForCausalLM": Architecture(nn.Decoder, names)},
    FIELDS,
    prefix="model.",
    unread=("activation_dropout",),
)
