"""BART, mBART and Marian: encoder-decoders with a bias on the logits."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from tfm_jax import nn, ops
from tfm_jax.pretrained.config_keys import Reading
from tfm_jax.pretrained.families._common import activation_of, activation_setting, wanted
from tfm_jax.pretrained.family import Architecture, Family
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


def _config_of(settings: Reading, **fields: Any) -> nn.Config:
    heads, width = settings["encoder_attention_heads"], settings["encoder_ffn_dim"]
    _check_equal(settings, "attention_heads", "ffn_dim")
    wanted(settings, tie_word_embeddings=True)  # untied, theirs has three embeddings
    return nn.Config(
        vocab_size=settings["vocab_size"],
        d_model=settings["d_model"],
        n_layers=settings["encoder_layers"],
        n_decoder_layers=settings["decoder_layers"],
        n_heads=heads,
        d_ff=width,
        feed_forward=nn.Mlp(activation_of(settings.get("activation_function", "gelu"))),
        attention_bias=True,
        scale_embeddings=settings.get("scale_embedding") or False,
        logits_bias=True,
        dropout_rate=settings.get("dropout", 0.1),
        attention_dropout_rate=settings.get("attention_dropout", 0.0),
        feed_forward_dropout_rate=settings.get("activation_dropout", 0.0),
        **fields,
    )


def _check_equal(settings: Reading, *names: str) -> None:
    """Raises a ValueError for numbers of the encoder that the decoder does not share."""
    numbers = [(f"decoder_{name}", f"encoder_{name}") for name in names]
    wrong = [
        f"{ours}={settings[ours]!r} is not supported, only {settings[theirs]!r}, the encoder's "
        f"{settings.name_of(theirs)}"
        for ours, theirs in numbers
        if settings.get(ours, settings[theirs]) != settings[theirs]
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def _settings_of(config: nn.Config) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "encoder_layers": config.n_layers,
        "decoder_layers": config.n_decoder_layers or config.n_layers,
        "encoder_attention_heads": config.n_heads,
        "decoder_attention_heads": config.n_heads,
        "encoder_ffn_dim": config.d_ff,
        "decoder_ffn_dim": config.d_ff,
        "activation_function": activation_setting(config.feed_forward.activation),
        "scale_embedding": config.scale_embeddings,
        "dropout": config.dropout_rate,
        "attention_dropout": config.attention_dropout_rate,
        "activation_dropout": config.feed_forward_dropout_rate,
        "is_encoder_decoder": True,
    }


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of all three."""
    return [
        *_stack("encoder"),
        *_stack("decoder"),
        WeightMapping("embedding/table", "model.shared.weight"),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
        WeightMapping("logits_bias", "final_logits_bias", _ROW, optional=True),
    ]


_ROW = FLATTEN._replace(save=lambda x: x[None])


def _stack(stack: str) -> list[WeightMapping]:
    layers, theirs = f"{stack}/layers", f"model.{stack}.layers.{{layer}}"
    letters = ("q_proj", "k_proj", "v_proj", "out_proj")
    attend = lambda ours, name: attention(f"{layers}/{ours}", *(f"{theirs}.{name}.{x}" for x in letters))
    return [
        *attend("attention", "self_attn"),
        *norm(f"{layers}/attention_norm", f"{theirs}.self_attn_layer_norm"),
        *attend("cross_attention", "encoder_attn"),
        *norm(f"{layers}/cross_attention_norm", f"{theirs}.encoder_attn_layer_norm"),
        *mlp(f"{layers}/feed_forward", w_in=f"{theirs}.fc1", w_out=f"{theirs}.fc2"),
        *norm(f"{layers}/feed_forward_norm", f"{theirs}.final_layer_norm"),
        *norm(f"{stack}/norm", f"model.{stack}.layer_norm"),
        *norm(f"{stack}/embedding_norm", f"model.{stack}.layernorm_embedding"),
        # Nobody reads the two rows before their first position.
        WeightMapping(
            f"{stack}/position_embedding/table", f"model.{stack}.embed_positions.weight", skip_rows(2)
        ),
    ]


def _learned(settings: Reading) -> dict[str, Any]:
    return {"positions": nn.Learned(settings.get("max_position_embeddings", 1024)), "embedding_norm": True}


def _learned_settings(config: nn.Config) -> dict[str, Any]:
    return {
        **_settings_of(config),
        "max_position_embeddings": getattr(config.positions, "max_length", 1024),
    }


def _bart(settings: Reading) -> nn.Config:
    wanted(settings, normalize_before=False, add_final_layer_norm=False, normalize_embedding=True)
    return _config_of(settings, norm_placement="post", final_norm=False, **_learned(settings))


def _mbart(settings: Reading) -> nn.Config:
    wanted(settings, normalize_before=True, add_final_layer_norm=True, normalize_embedding=True)
    return _config_of(settings, norm_placement="pre", final_norm=True, **_learned(settings))


def _marian(settings: Reading) -> nn.Config:
    vocab_size = settings["vocab_size"]
    wanted(
        settings,
        normalize_before=False,
        add_final_layer_norm=False,
        normalize_embedding=False,
        share_encoder_decoder_embeddings=True,
    )
    if settings.get("decoder_vocab_size"):  # theirs is that of the encoder without it
        wanted(settings, decoder_vocab_size=vocab_size)
    positions = nn.Sinusoidal(pairing="half")
    return _config_of(settings, norm_placement="post", final_norm=False, positions=positions)


def _marian_settings(config: nn.Config) -> dict[str, Any]:
    return {
        **_settings_of(config),
        "decoder_vocab_size": config.vocab_size,
        "share_encoder_decoder_embeddings": True,
    }


def _sines(config: nn.Config, shape: tuple[int, ...]) -> np.ndarray:
    """The table that theirs makes anew, where the file has none."""
    return np.asarray(ops.sinusoidal(jnp.arange(shape[0]), config.d_model, pairing="half"))


_family = functools.partial(
    Family,
    prefix="model.",
    copies=((r"model\.(encoder|decoder)\.embed_tokens\.weight", "model.shared.weight"),),
    aliases={
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    },
    sizes=(
        *("vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads"),
        *("decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim"),
    ),
    unread=("add_bias_logits",),
)
_model = Architecture(nn.EncoderDecoder, names)
FAMILIES = (
    _family("bart", {"BartForConditionalGeneration": _model}, _bart, _learned_settings),
    _family("mbart", {"MBartForConditionalGeneration": _model}, _mbart, _learned_settings),
    _family(
        "marian",
        {"MarianMTModel": _model},
        _marian,
        _marian_settings,
        constants=((r"model\.(encoder|decoder)\.embed_positions\.weight", _sines),),
    ),
)
