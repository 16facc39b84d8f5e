"""BART, mBART, Pegasus and Marian: encoder-decoders with a bias on the logits."""

import functools

import jax.numpy as jnp
import numpy as np

from tfm_jax import nn, ops
from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.families._common import ACTIVATION
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.field_map import Converter, Field, FieldMap, Same
from tfm_jax.pretrained.weights.tensor_map import (
    FLATTEN,
    WeightMapping,
    attention,
    mlp,
    norm,
    skip_rows,
    transpose,
)

__all__ = ["FAMILIES"]

FIELDS = FieldMap(
    (
        Field("vocab_size"),
        Field("d_model"),
        Field("encoder_layers", "n_layers"),
        Field("decoder_layers", "n_decoder_layers"),
        Field("encoder_attention_heads", "n_heads"),
        Same("decoder_attention_heads", "encoder_attention_heads", "n_heads"),
        Field("encoder_ffn_dim", "d_ff"),
        Same("decoder_ffn_dim", "encoder_ffn_dim", "d_ff"),
        Field("activation_function", "feed_forward.activation", "gelu", ACTIVATION),
        Field("scale_embedding", "scale_embeddings", False, Converter(lambda x: x or False, lambda x: x)),
        Field("dropout", "dropout_rate", 0.1),
        Field("attention_dropout", "attention_dropout_rate", 0.0),
        Field("activation_dropout", "feed_forward_dropout_rate", 0.0),
    ),
    model={"feed_forward": nn.Mlp, "attention_bias": True, "logits_bias": True},
    only={"tie_word_embeddings": True},  # untied, transformers has three embeddings
    written={"is_encoder_decoder": True},
)
_POST = {"norm_placement": "post", "final_norm": False}
_PRE = {"norm_placement": "pre", "final_norm": True}
_POSITIONS = Field("max_position_embeddings", "positions.max_length", 1024)
_LEARNED = {"positions": nn.Learned, "embedding_norm": True}
# Version 3 of transformers had these settings; each family has one value of them.
_BART_NORMS = {"normalize_before": False, "add_final_layer_norm": False, "normalize_embedding": True}
_MBART_NORMS = {"normalize_before": True, "add_final_layer_norm": True, "normalize_embedding": True}
_PEGASUS_NORMS = {"normalize_before": True, "add_final_layer_norm": True, "normalize_embedding": False}
_MARIAN_NORMS = {"normalize_before": False, "add_final_layer_norm": False, "normalize_embedding": False}
_SHARED = {"share_encoder_decoder_embeddings": True}
_SINUSOIDAL = {"positions": nn.Sinusoidal(pairing="half")}
BART = FIELDS.extended(_POSITIONS, model=_POST | _LEARNED, only=_BART_NORMS)
MBART = FIELDS.extended(_POSITIONS, model=_PRE | _LEARNED, only=_MBART_NORMS)
PEGASUS = FIELDS.extended(model=_PRE | _SINUSOIDAL, only=_PEGASUS_NORMS)
MARIAN = FIELDS.extended(
    Same("decoder_vocab_size", "vocab_size", "vocab_size", unset=(None, 0)),
    model=_POST | _SINUSOIDAL,
    only=_MARIAN_NORMS | _SHARED,
    written=_SHARED,
)


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of all four families."""
    return [
        *_stack("encoder"),
        *_stack("decoder"),
        WeightMapping("embedding/table", "model.shared.weight"),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
        WeightMapping("logits_bias", "final_logits_bias", _ROW, optional=True),
    ]


_ROW = FLATTEN._replace(save=lambda x: x[None])  # the tensor is [1, V]


def _stack(stack: str) -> list[WeightMapping]:
    layers, tensor = f"{stack}/layers", f"model.{stack}.layers.{{layer}}"
    letters = ("q_proj", "k_proj", "v_proj", "out_proj")

    def attend(param: str, name: str) -> list[WeightMapping]:
        return attention(f"{layers}/{param}", *(f"{tensor}.{name}.{x}" for x in letters))

    return [
        *attend("attention", "self_attn"),
        *norm(f"{layers}/attention_norm", f"{tensor}.self_attn_layer_norm"),
        *attend("cross_attention", "encoder_attn"),
        *norm(f"{layers}/cross_attention_norm", f"{tensor}.encoder_attn_layer_norm"),
        *mlp(f"{layers}/feed_forward", w_in=f"{tensor}.fc1", w_out=f"{tensor}.fc2"),
        *norm(f"{layers}/feed_forward_norm", f"{tensor}.final_layer_norm"),
        *norm(f"{stack}/norm", f"model.{stack}.layer_norm"),
        *norm(f"{stack}/embedding_norm", f"model.{stack}.layernorm_embedding"),
        # No position reads the first two rows of the table.
        WeightMapping(
            f"{stack}/position_embedding/table", f"model.{stack}.embed_positions.weight", skip_rows(2)
        ),
    ]


def _sines(config: nn.Config, shape: tuple[int, ...]) -> np.ndarray:
    """The position table that transformers computes where the file has none."""
    return np.asarray(ops.sinusoidal(jnp.arange(shape[0]), config.d_model, pairing="half"))


def _pegasus_tables(settings: Settings) -> dict[str, np.ndarray]:
    """The position tables, in float64 as transformers computes them."""
    D, rows = settings["d_model"], settings.get("max_position_embeddings", 1024)
    angles = np.arange(rows)[:, None] / 10_000.0 ** (np.arange(0, D, 2) / D)
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    return {f"model.{stack}.embed_positions.weight": table for stack in ("encoder", "decoder")}


_TABLES = ((r"model\.(encoder|decoder)\.embed_positions\.weight", _sines),)
_family = functools.partial(
    Family,
    prefix="model.",
    copies=((r"model\.(encoder|decoder)\.embed_tokens\.weight", "model.shared.weight"),),
    aliases={
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    },
    unread=("add_bias_logits",),
)
_model = Architecture(nn.EncoderDecoder, names)
FAMILIES = (
    _family("bart", {"BartForConditionalGeneration": _model}, BART),
    _family("mbart", {"MBartForConditionalGeneration": _model}, MBART),
    _family(
        "pegasus",
        {"PegasusForConditionalGeneration": _model},
        PEGASUS,
        constants=_TABLES,
        tables=_pegasus_tables,
    ),
    _family("marian", {"MarianMTModel": _model}, MARIAN, constants=_TABLES),
)
