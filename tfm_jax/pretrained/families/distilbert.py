"""DistilBERT: BERT without token types, half as deep, in names of its own."""

from collections.abc import Mapping
from typing import Any

from tfm_jax import nn
from tfm_jax.pretrained.families._common import activation_of, activation_setting, classifier
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, attention, dense, mlp, norm, transpose

__all__ = ["DISTILBERT"]

_EPS = 1e-12  # their settings do not say it


def config_of(settings: Mapping[str, Any]) -> nn.Config:
    """Their settings as ours."""
    return nn.Config(
        vocab_size=settings["vocab_size"],
        d_model=settings["dim"],
        n_layers=settings["n_layers"],
        n_heads=settings["n_heads"],
        d_ff=settings["hidden_dim"],
        norm=nn.LayerNorm(_EPS),
        norm_placement="post",
        final_norm=False,
        embedding_norm=True,
        positions=nn.Learned(settings.get("max_position_embeddings", 512)),
        feed_forward=nn.Mlp(activation_of(settings.get("activation", "gelu"))),
        attention_bias=True,
        scale_embeddings=False,
        tie_embeddings=settings.get("tie_word_embeddings", True),
        dropout_rate=settings.get("dropout", 0.1),
        attention_dropout_rate=settings.get("attention_dropout", 0.1),
    )


def settings_of(config: nn.Config) -> dict[str, Any]:
    """Our config as their settings."""
    return {
        "vocab_size": config.vocab_size,
        "dim": config.d_model,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "hidden_dim": config.d_ff,
        "max_position_embeddings": getattr(config.positions, "max_length", 512),
        "activation": activation_setting(config.feed_forward.activation),
        "tie_word_embeddings": config.tie_embeddings,
        "dropout": config.dropout_rate,
        "attention_dropout": config.attention_dropout_rate,
    }


def body(config: nn.Config, ours: str = "") -> list[WeightMapping]:
    """The tensors of the encoder, below a prefix of ours."""
    layers, theirs = f"{ours}stack/layers", "distilbert.transformer.layer.{layer}"
    projections = [f"{theirs}.attention.{name}_lin" for name in ("q", "k", "v", "out")]
    embeddings = "distilbert.embeddings"
    return [
        *attention(f"{layers}/attention", *projections),
        *mlp(f"{layers}/feed_forward", w_in=f"{theirs}.ffn.lin1", w_out=f"{theirs}.ffn.lin2"),
        *norm(f"{layers}/attention_norm", f"{theirs}.sa_layer_norm"),
        *norm(f"{layers}/feed_forward_norm", f"{theirs}.output_layer_norm"),
        *norm(f"{ours}stack/embedding_norm", f"{embeddings}.LayerNorm"),
        WeightMapping(f"{ours}embedding/table", f"{embeddings}.word_embeddings.weight"),
        WeightMapping(f"{ours}stack/position_embedding/table", f"{embeddings}.position_embeddings.weight"),
    ]


def masked(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``DistilBertForMaskedLM``."""
    return [
        *body(config, "encoder/"),
        *dense("dense", "vocab_transform"),
        *norm("norm", "vocab_layer_norm"),
        WeightMapping("head/projection/kernel", "vocab_projector.weight", transpose(1)),
        WeightMapping("bias", "vocab_projector.bias"),
    ]


DISTILBERT = Family(
    "distilbert",
    {
        "DistilBertModel": Architecture(nn.Encoder, body, bare=True),
        "DistilBertForMaskedLM": Architecture(
            nn.MaskedLanguageModel,
            masked,
            lambda config: {"activation": config.model.feed_forward.activation},
        ),
        "DistilBertForSequenceClassification": classifier(
            body,
            "first",
            lambda config: config.settings.get("seq_classif_dropout", 0.2),
            pooler="pre_classifier",
            fields=lambda settings: {"pooler": nn.Pooler("relu")},
        ),
        "DistilBertForTokenClassification": classifier(body, None, lambda config: config.model.dropout_rate),
    },
    config_of,
    settings_of,
    prefix="distilbert.",
    aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    sizes=("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim", "max_position_embeddings"),
    unread=("sinusoidal_pos_embds", "qa_dropout", "seq_classif_dropout", "tie_weights_"),
)
