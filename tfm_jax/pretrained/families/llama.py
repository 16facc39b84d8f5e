"""Llama, Mistral, Qwen2 and Qwen3: RMSNorm, rotary positions, grouped-query attention, a GLU."""

import dataclasses
import functools

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import Settings, TrackedSettings
from tfm_jax.pretrained.families._common import ACTIVATION, ROPE, inverse_frequencies
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.field_map import Field, FieldMap, Fields, Group
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, attention, mlp, norm, transpose

__all__ = ["FAMILIES"]

WINDOW = 4096
"""``sliding_window`` of files that lack the key; null is no window."""


def _head_dim(settings: Settings) -> int:
    return settings["hidden_size"] // settings["num_attention_heads"]


def _n_heads(settings: Settings) -> int:
    return settings["num_attention_heads"]


FIELDS = FieldMap(
    (
        Field("vocab_size"),
        Field("hidden_size", "d_model"),
        Field("num_hidden_layers", "n_layers"),
        Field("num_attention_heads", "n_heads"),
        Field("num_key_value_heads", "n_kv_heads", _n_heads),
        Field("intermediate_size", "d_ff"),
        Field("rms_norm_eps", "norm.eps", 1e-6),
        Field("hidden_act", "feed_forward.activation", "silu", ACTIVATION),
        Field("tie_word_embeddings", "tie_embeddings", False),
        Field("attention_dropout", "attention_dropout_rate", 0.0),
        ROPE,
    ),
    model={"norm": nn.RMSNorm, "feed_forward": nn.Glu, "scale_embeddings": False},
)


def _read_window(settings: TrackedSettings) -> Fields:
    """Qwen's layers have a window from some layer on; our layers are all alike."""
    if not settings.get("use_sliding_window", False):
        return {"window": None}
    L, window = settings["num_hidden_layers"], settings.get("sliding_window", WINDOW)
    first = settings.get("max_window_layers", 28)
    default = ["sliding_attention" if i >= first else "full_attention" for i in range(L)]
    kinds = set(settings.get("layer_types") or default)
    if window is None or kinds == {"full_attention"}:
        return {"window": None}
    if kinds != {"sliding_attention"}:
        raise ValueError(f"got layer_types {sorted(kinds)}; wanted one type for all layers.")
    return {"window": window}


def _write_window(model: nn.Config) -> dict[str, object]:
    kind = "full_attention" if model.window is None else "sliding_attention"
    return {
        "use_sliding_window": model.window is not None,
        "sliding_window": model.window,
        "max_window_layers": 0 if model.window is not None else model.n_layers,
        "layer_types": [kind] * model.n_layers,
    }


_HEAD_DIM = Field("head_dim", "head_dim", _head_dim)
_BIAS = Field("attention_bias", "attention_bias", False)
_QWEN_WINDOW = Group(_read_window, _write_window)
LLAMA = FIELDS.extended(_HEAD_DIM, _BIAS, only={"mlp_bias": False}, written={"mlp_bias": False})
MISTRAL = FIELDS.extended(
    # transformers takes a head_dim of 0 for an absent one here, and in none of the others.
    dataclasses.replace(_HEAD_DIM, unset=(None, 0)),
    Field("sliding_window", "window", WINDOW),
)
QWEN2 = FIELDS.extended(
    _HEAD_DIM, _QWEN_WINDOW, model={"attention_bias": True, "attention_output_bias": False}
)
QWEN3 = FIELDS.extended(_HEAD_DIM, _QWEN_WINDOW, _BIAS, model={"qk_norm": True})


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of all four families."""
    param, tensor = "stack/layers", "model.layers.{layer}"
    projections = [f"{tensor}.self_attn.{letter}_proj" for letter in "qkvo"]
    return [
        *attention(f"{param}/attention", *projections),
        *norm(f"{param}/attention/query_norm", f"{tensor}.self_attn.q_norm"),
        *norm(f"{param}/attention/key_norm", f"{tensor}.self_attn.k_norm"),
        *mlp(
            f"{param}/feed_forward",
            w_gate=f"{tensor}.mlp.gate_proj",
            w_in=f"{tensor}.mlp.up_proj",
            w_out=f"{tensor}.mlp.down_proj",
        ),
        *norm(f"{param}/attention_norm", f"{tensor}.input_layernorm"),
        *norm(f"{param}/feed_forward_norm", f"{tensor}.post_attention_layernorm"),
        *norm("stack/norm", "model.norm"),
        WeightMapping("embedding/table", "model.embed_tokens.weight"),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
    ]


_family = functools.partial(
    Family,
    prefix="model.",
    constants=((r".*rotary_emb\.inv_freq", inverse_frequencies),),
    unread=("max_window_layers", "sliding_window", "layer_types", "use_sliding_window", "use_mrope"),
)
_decoder = Architecture(nn.Decoder, names)
FAMILIES = (
    _family("llama", {"LlamaForCausalLM": _decoder}, LLAMA),
    _family("mistral", {"MistralForCausalLM": _decoder}, MISTRAL),
    _family("qwen2", {"Qwen2ForCausalLM": _decoder}, QWEN2),
    _family("qwen3", {"Qwen3ForCausalLM": _decoder}, QWEN3),
)
