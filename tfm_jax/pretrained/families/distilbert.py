"""DistilBERT: BERT without token types, with half the layers and other names."""

from tfm_jax import nn
from tfm_jax.pretrained.families._common import ACTIVATION, classifier
from tfm_jax.pretrained.family import Architecture, CheckpointConfig, Family
from tfm_jax.pretrained.field_map import Field, FieldMap, expect
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, attention, dense, mlp, norm, transpose

__all__ = ["DISTILBERT"]

FIELDS = FieldMap(
    (
        Field("vocab_size"),
        Field("dim", "d_model"),
        Field("n_layers"),
        Field("n_heads"),
        Field("hidden_dim", "d_ff"),
        Field("max_position_embeddings", "positions.max_length", 512),
        Field("activation", "feed_forward.activation", "gelu", ACTIVATION),
        Field("tie_word_embeddings", "tie_embeddings", True),
        Field("dropout", "dropout_rate", 0.1),
        Field("attention_dropout", "attention_dropout_rate", 0.1),
    ),
    model={
        "norm": nn.LayerNorm(1e-12),  # DistilBERT has no setting for it
        "norm_placement": "post",
        "final_norm": False,
        "embedding_norm": True,
        "positions": nn.Learned,
        "feed_forward": nn.Mlp,
        "attention_bias": True,
        "scale_embeddings": False,
    },
)


def encoder_names(config: nn.Config, param: str = "") -> list[WeightMapping]:
    """The tensors of the encoder; our paths start with ``param``."""
    layers, tensor = f"{param}stack/layers", "distilbert.transformer.layer.{layer}"
    projections = [f"{tensor}.attention.{name}_lin" for name in ("q", "k", "v", "out")]
    embeddings = "distilbert.embeddings"
    return [
        *attention(f"{layers}/attention", *projections),
        *mlp(f"{layers}/feed_forward", w_in=f"{tensor}.ffn.lin1", w_out=f"{tensor}.ffn.lin2"),
        *norm(f"{layers}/attention_norm", f"{tensor}.sa_layer_norm"),
        *norm(f"{layers}/feed_forward_norm", f"{tensor}.output_layer_norm"),
        *norm(f"{param}stack/embedding_norm", f"{embeddings}.LayerNorm"),
        WeightMapping(f"{param}embedding/table", f"{embeddings}.word_embeddings.weight"),
        WeightMapping(f"{param}stack/position_embedding/table", f"{embeddings}.position_embeddings.weight"),
    ]


def masked_names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``DistilBertForMaskedLM``."""
    return [
        *encoder_names(config, "encoder/"),
        *dense("dense", "vocab_transform"),
        *norm("norm", "vocab_layer_norm"),
        WeightMapping("head/projection/kernel", "vocab_projector.weight", transpose(1)),
        WeightMapping("bias", "vocab_projector.bias"),
    ]


def _activation(config: CheckpointConfig) -> dict[str, object]:
    return {"activation": expect(config.model.feed_forward, nn.Mlp).activation}


_RATE = "seq_classif_dropout"


def _sequence_dropout(config: CheckpointConfig) -> float:
    return config.settings.get(_RATE, 0.2)


def _token_dropout(config: CheckpointConfig) -> float:
    return config.model.dropout_rate


_POOLER = FieldMap((), model={"pooler": nn.Pooler("relu")})
DISTILBERT = Family(
    "distilbert",
    {
        "DistilBertModel": Architecture(nn.Encoder, encoder_names, bare=True),
        "DistilBertForMaskedLM": Architecture(nn.MaskedLanguageModel, masked_names, _activation),
        "DistilBertForSequenceClassification": classifier(
            encoder_names, "first", _sequence_dropout, _RATE, pooler="pre_classifier", fields=_POOLER
        ),
        "DistilBertForTokenClassification": classifier(encoder_names, None, _token_dropout),
    },
    FIELDS,
    prefix="distilbert.",
    aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    unread=("sinusoidal_pos_embds", "qa_dropout", "seq_classif_dropout", "tie_weights_"),
)
