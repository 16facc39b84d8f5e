"""BERT and RoBERTa: post-norm encoders with a norm on the embeddings and token types.

``FIELDS`` maps the settings of config.json; ``encoder_names`` and ``_masked_names`` map the tensor names.
"""

import functools
from collections.abc import Callable

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import TrackedSettings
from tfm_jax.pretrained.families._common import ACTIVATION, classifier
from tfm_jax.pretrained.family import Architecture, CheckpointConfig, Family
from tfm_jax.pretrained.field_map import Converter, Field, FieldMap, Fields, Group, expect
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

_Names = Callable[..., list[WeightMapping]]
# transformers looks up type 0 in every model: one without types does not fit.
_TYPES = Converter(lambda n: n, lambda n: n or 2)
FIELDS = FieldMap(
    (
        Field("vocab_size"),
        Field("hidden_size", "d_model"),
        Field("num_hidden_layers", "n_layers"),
        Field("num_attention_heads", "n_heads"),
        Field("intermediate_size", "d_ff"),
        Field("layer_norm_eps", "norm.eps", 1e-12),
        Field("hidden_act", "feed_forward.activation", "gelu", ACTIVATION),
        Field("type_vocab_size", "token_types", 2, _TYPES),
        Field("hidden_dropout_prob", "dropout_rate", 0.1),
        Field("attention_probs_dropout_prob", "attention_dropout_rate", 0.1),
    ),
    model={
        "norm": nn.LayerNorm,
        "norm_placement": "post",
        "final_norm": False,
        "embedding_norm": True,
        "feed_forward": nn.Mlp,
        "attention_bias": True,
        "scale_embeddings": False,
    },
    only={"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"},
)
_POSITIONS = Field("max_position_embeddings", "positions.max_length", 512)
BERT_FIELDS = FIELDS.extended(_POSITIONS, model={"positions": nn.Learned})


def _read_positions(settings: TrackedSettings) -> Fields:
    """RoBERTa's table: the positions of tokens follow the row of the padding token's id."""
    padding_id, rows = settings.get("pad_token_id", 1), settings.get("max_position_embeddings", 512)
    if padding_id is None:
        raise ValueError("got pad_token_id=None; wanted an id: RoBERTa's positions start after it.")
    return {"positions": nn.Learned(rows - padding_id - 1, padding_id)}


def _write_positions(model: nn.Config) -> dict[str, object]:
    positions = expect(model.positions, nn.Learned)
    return {
        "max_position_embeddings": positions.rows + _unread_rows(model),
        "pad_token_id": 1 if positions.padding_id is None else positions.padding_id,
    }


ROBERTA_FIELDS = FIELDS.extended(
    Group(_read_positions, _write_positions, variants={"positions": (nn.Learned,)})
)


def _unread_rows(config: nn.Config) -> int:
    """Rows of the checkpoint's position table before that of the padding token; no position reads them."""
    return expect(config.positions, nn.Learned).padding_id or 0


def encoder_names(config: nn.Config, *, param: str, prefix: str) -> list[WeightMapping]:
    """The tensors of the encoder; our paths start with ``param``, the tensor names with ``prefix``."""
    layers, tensor = f"{param}stack/layers", f"{prefix}encoder.layer.{{layer}}"
    projections = f"{tensor}.attention.self"
    return [
        *attention(
            f"{layers}/attention",
            f"{projections}.query",
            f"{projections}.key",
            f"{projections}.value",
            f"{tensor}.attention.output.dense",
        ),
        *mlp(f"{layers}/feed_forward", w_in=f"{tensor}.intermediate.dense", w_out=f"{tensor}.output.dense"),
        *norm(f"{layers}/attention_norm", f"{tensor}.attention.output.LayerNorm"),
        *norm(f"{layers}/feed_forward_norm", f"{tensor}.output.LayerNorm"),
        *norm(f"{param}stack/embedding_norm", f"{prefix}embeddings.LayerNorm"),
        WeightMapping(f"{param}embedding/table", f"{prefix}embeddings.word_embeddings.weight"),
        WeightMapping(f"{param}embedding/token_types", f"{prefix}embeddings.token_type_embeddings.weight"),
        WeightMapping(
            f"{param}stack/position_embedding/table",
            f"{prefix}embeddings.position_embeddings.weight",
            skip_rows(_unread_rows(config)),
        ),
    ]


_TIED = {"tie_word_embeddings": True}  # untied, transformers has two biases
_POOLED = FieldMap((), model={"pooler": nn.Pooler("tanh")})


def _masked_names(
    config: nn.Config, *, encoder: _Names, dense_name: str, norm_name: str, head: str
) -> list[WeightMapping]:
    """The tensors of the masked language model."""
    return [
        *encoder(config, param="encoder/"),
        *dense("dense", dense_name),
        *norm("norm", norm_name),
        WeightMapping("head/projection/kernel", f"{head}.weight", transpose(1)),
        WeightMapping("bias", f"{head.removesuffix('.decoder')}.bias"),
    ]


def _model(encoder: _Names, prefix: str) -> Architecture:
    """The encoder, with a pooler where the file has one."""

    def names(config: nn.Config) -> list[WeightMapping]:
        return [*encoder(config, param=""), *dense("pooler/dense", f"{prefix}pooler.dense")]

    return Architecture(nn.Encoder, names, fields=_POOLED, by_file=("pooler",), bare=True)


def _activation(config: CheckpointConfig) -> dict[str, object]:
    return {"activation": expect(config.model.feed_forward, nn.Mlp).activation}


_RATE = "classifier_dropout"


def _head_dropout(config: CheckpointConfig) -> float:
    rate = config.settings.get(_RATE)
    return config.model.dropout_rate if rate is None else rate


_bert = functools.partial(encoder_names, prefix="bert.")
_bert_masked = functools.partial(
    _masked_names,
    encoder=_bert,
    dense_name="cls.predictions.transform.dense",
    norm_name="cls.predictions.transform.LayerNorm",
    head="cls.predictions.decoder",
)
BERT = Family(
    "bert",
    {
        "BertModel": _model(_bert, "bert."),
        "BertForMaskedLM": Architecture(
            nn.MaskedLanguageModel, _bert_masked, _activation, FieldMap((), only=_TIED)
        ),
        "BertForSequenceClassification": classifier(
            _bert, "first", _head_dropout, _RATE, pooler="bert.pooler.dense", fields=_POOLED
        ),
        "BertForTokenClassification": classifier(_bert, None, _head_dropout, _RATE),
    },
    BERT_FIELDS,
    prefix="bert.",
    # The pooler and the next-sentence prediction belong to other heads.
    skipped=(r"bert\.pooler\..*", r"cls\.seq_relationship\..*"),
    copies=((r"cls\.predictions\.decoder\.bias", "cls.predictions.bias"),),
    renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
)


def _read_pooler(settings: TrackedSettings) -> Fields:
    rate = settings.get(_RATE)
    rate = settings.get("hidden_dropout_prob", 0.1) if rate is None else rate
    return {"pooler": nn.Pooler("tanh", rate)}


def _write_pooler(model: nn.Config) -> dict[str, object]:
    rate = expect(model.pooler, nn.Pooler).dropout_rate
    # Not 0.0: the key sets the rate of the classifier's head too.
    return {} if rate in (0.0, model.dropout_rate) else {_RATE: rate}


_roberta = functools.partial(encoder_names, prefix="roberta.")
_roberta_masked = functools.partial(
    _masked_names,
    encoder=_roberta,
    dense_name="lm_head.dense",
    norm_name="lm_head.layer_norm",
    head="lm_head.decoder",
)
ROBERTA = Family(
    "roberta",
    {
        "RobertaModel": _model(_roberta, "roberta."),
        "RobertaForMaskedLM": Architecture(
            nn.MaskedLanguageModel, _roberta_masked, fields=FieldMap((), only=_TIED)
        ),
        "RobertaForSequenceClassification": classifier(
            _roberta,
            "first",
            _head_dropout,
            _RATE,
            head="classifier.out_proj",
            pooler="classifier.dense",
            fields=FieldMap((Group(_read_pooler, _write_pooler, variants={"pooler": (nn.Pooler,)}),)),
        ),
        "RobertaForTokenClassification": classifier(_roberta, None, _head_dropout, _RATE),
    },
    ROBERTA_FIELDS,
    prefix="roberta.",
    skipped=(r"roberta\.pooler\..*",),
    copies=((r"lm_head\.decoder\.bias", "lm_head.bias"),),
)

FAMILIES = (BERT, ROBERTA)
