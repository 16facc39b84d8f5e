"""BERT and RoBERTa: post-norm encoders with a norm on their embeddings, and token types."""

import functools
from collections.abc import Mapping
from typing import Any

from tfm_jax import nn
from tfm_jax.pretrained.families._common import activation_of, activation_setting, classifier, wanted
from tfm_jax.pretrained.family import Architecture, Config, Family
from tfm_jax.pretrained.weights.tensor_map import (
    WeightMapping,
    attention,
    dense,
    mlp,
    norm,
    skip_rows,
    transpose,
)

__all__ = ["FAMILIES"]


def config_of(settings: Mapping[str, Any], *, padding_id: int | None = None) -> nn.Config:
    """Their settings as ours; the row of a ``padding_id`` and those before it are no positions of tokens."""
    wanted(
        settings,
        is_decoder=False,
        add_cross_attention=False,
        position_embedding_type="absolute",
    )
    return nn.Config(
        vocab_size=settings["vocab_size"],
        d_model=settings["hidden_size"],
        n_layers=settings["num_hidden_layers"],
        n_heads=settings["num_attention_heads"],
        d_ff=settings["intermediate_size"],
        norm=nn.LayerNorm(settings.get("layer_norm_eps", 1e-12)),
        norm_placement="post",
        final_norm=False,
        embedding_norm=True,
        positions=nn.Learned(
            settings.get("max_position_embeddings", 512) - (0 if padding_id is None else padding_id + 1),
            padding_id,
        ),
        feed_forward=nn.Mlp(activation_of(settings.get("hidden_act", "gelu"))),
        attention_bias=True,
        scale_embeddings=False,
        token_types=settings.get("type_vocab_size", 2),
        dropout_rate=settings.get("hidden_dropout_prob", 0.1),
        attention_dropout_rate=settings.get("attention_probs_dropout_prob", 0.1),
    )


def settings_of(config: nn.Config) -> dict[str, Any]:
    """Our config as their settings."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_ff,
        "layer_norm_eps": config.norm.eps,
        "max_position_embeddings": getattr(config.positions, "rows", 512) + _rows_before(config),
        "hidden_act": activation_setting(config.feed_forward.activation),
        "type_vocab_size": config.token_types,
        "hidden_dropout_prob": config.dropout_rate,
        "attention_probs_dropout_prob": config.attention_dropout_rate,
    }


def _rows_before(config: nn.Config) -> int:
    """Rows of their table of positions that nobody reads: those before the padding token's."""
    return getattr(config.positions, "padding_id", None) or 0


def body(config: nn.Config, *, ours: str, prefix: str) -> list[WeightMapping]:
    """The tensors of the encoder, below the prefixes of both."""
    layers, theirs = f"{ours}stack/layers", f"{prefix}encoder.layer.{{layer}}"
    itself = f"{theirs}.attention.self"
    return [
        *attention(
            f"{layers}/attention",
            *(f"{itself}.{name}" for name in ("query", "key", "value")),
            f"{theirs}.attention.output.dense",
        ),
        *mlp(f"{layers}/feed_forward", w_in=f"{theirs}.intermediate.dense", w_out=f"{theirs}.output.dense"),
        *norm(f"{layers}/attention_norm", f"{theirs}.attention.output.LayerNorm"),
        *norm(f"{layers}/feed_forward_norm", f"{theirs}.output.LayerNorm"),
        *norm(f"{ours}stack/embedding_norm", f"{prefix}embeddings.LayerNorm"),
        WeightMapping(f"{ours}embedding/table", f"{prefix}embeddings.word_embeddings.weight"),
        WeightMapping(f"{ours}embedding/token_types", f"{prefix}embeddings.token_type_embeddings.weight"),
        WeightMapping(
            f"{ours}stack/position_embedding/table",
            f"{prefix}embeddings.position_embeddings.weight",
            skip_rows(_rows_before(config)),
        ),
    ]


def _tied(settings: Mapping[str, Any]) -> dict[str, Any]:
    wanted(settings, tie_word_embeddings=True)  # untied, theirs has two biases
    return {}


def _masked(
    config: nn.Config, *, encoder: Any, dense_name: str, norm_name: str, head: str
) -> list[WeightMapping]:
    bias = head.removesuffix(".decoder")
    return [
        *encoder(config, ours="encoder/"),
        *dense("dense", dense_name),
        *norm("norm", norm_name),
        WeightMapping("head/projection/kernel", f"{head}.weight", transpose(1)),
        WeightMapping("bias", f"{bias}.bias"),
    ]


def _model(encoder: Any, prefix: str) -> Architecture:
    """The encoder, with a pooler where the file has one."""
    names = lambda config: [*encoder(config, ours=""), *dense("pooler/dense", f"{prefix}pooler.dense")]
    return Architecture(nn.Encoder, names, fields=_pooled, by_file=("pooler",), bare=True)


def _pooled(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"pooler": nn.Pooler("tanh")}


def _head_dropout(config: Config) -> float:
    rate = config.settings.get("classifier_dropout")
    return config.model.dropout_rate if rate is None else rate


_bert = functools.partial(body, prefix="bert.")
BERT = Family(
    "bert",
    {
        "BertModel": _model(_bert, "bert."),
        "BertForMaskedLM": Architecture(
            nn.MaskedLanguageModel,
            functools.partial(
                _masked,
                encoder=_bert,
                dense_name="cls.predictions.transform.dense",
                norm_name="cls.predictions.transform.LayerNorm",
                head="cls.predictions.decoder",
            ),
            lambda config: {"activation": config.model.feed_forward.activation},
            _tied,
        ),
        "BertForSequenceClassification": classifier(
            _bert, "first", _head_dropout, pooler="bert.pooler.dense", fields=_pooled
        ),
        "BertForTokenClassification": classifier(_bert, None, _head_dropout),
    },
    config_of,
    settings_of,
    prefix="bert.",
    # The pooler and the next sentence are of other heads.
    skipped=(r"bert\.pooler\..*", r"cls\.seq_relationship\..*"),
    sizes=("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    copies=((r"cls\.predictions\.decoder\.bias", "cls.predictions.bias"),),
    renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
)

_roberta = functools.partial(body, prefix="roberta.")


def _roberta_pooler(settings: Mapping[str, Any]) -> dict[str, Any]:
    rate = settings.get("classifier_dropout")
    rate = settings.get("hidden_dropout_prob", 0.1) if rate is None else rate
    return {"pooler": nn.Pooler("tanh", rate)}


def _roberta_config(settings: Mapping[str, Any]) -> nn.Config:
    padding_id = settings.get("pad_token_id", 1)
    if padding_id is None:
        raise ValueError("pad_token_id=None is not supported: RoBERTa's positions begin behind that id")
    return config_of(settings, padding_id=padding_id)


def _roberta_settings(config: nn.Config) -> dict[str, Any]:
    rate = None if config.pooler is None else config.pooler.dropout_rate
    # The pooler of the body has none, and says nothing of a head.
    said = {} if rate in (None, 0.0, config.dropout_rate) else {"classifier_dropout": rate}
    padding_id = getattr(config.positions, "padding_id", None)
    return {**settings_of(config), **said, "pad_token_id": 1 if padding_id is None else padding_id}


ROBERTA = Family(
    "roberta",
    {
        "RobertaModel": _model(_roberta, "roberta."),
        "RobertaForMaskedLM": Architecture(
            nn.MaskedLanguageModel,
            functools.partial(
                _masked,
                encoder=_roberta,
                dense_name="lm_head.dense",
                norm_name="lm_head.layer_norm",
                head="lm_head.decoder",
            ),
            fields=_tied,
        ),
        "RobertaForSequenceClassification": classifier(
            _roberta,
            "first",
            _head_dropout,
            head="classifier.out_proj",
            pooler="classifier.dense",
            fields=_roberta_pooler,
        ),
        "RobertaForTokenClassification": classifier(_roberta, None, _head_dropout),
    },
    _roberta_config,
    _roberta_settings,
    prefix="roberta.",
    skipped=(r"roberta\.pooler\..*",),
    sizes=("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    copies=((r"lm_head\.decoder\.bias", "lm_head.bias"),),
)

FAMILIES = (BERT, ROBERTA)
