"""GPT-NeoX, such as Pythia: parallel sublayers, partial rotary positions, fused heads as in BLOOM."""

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import TrackedSettings, check_only
from tfm_jax.pretrained.families._common import (
    ACTIVATION,
    inverse_frequencies,
    partial_rope_of,
    placement,
)
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.field_map import Field, FieldMap, Fields, Group, expect
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, dense, fused_qkv, mlp, norm, transpose

__all__ = ["GPT_NEOX"]


def _read_rope(settings: TrackedSettings) -> Fields:
    D, N = settings["hidden_size"], settings["num_attention_heads"]
    rope = partial_rope_of(settings)
    if isinstance(rope.fraction, float) and (rotated := int(D // N * rope.fraction)) % 2:
        raise ValueError(
            f"got num_attention_heads={N} and rotary_pct={rope.fraction}, which rotate {rotated} of the "
            f"{D // N} elements of a head; wanted an even number of them."
        )
    # transformers rotates by head_dim, but attends by hidden_size / num_attention_heads.
    if settings.get("head_dim") and (problems := check_only(settings, head_dim=D // N)):
        raise ValueError(" ".join(problems))
    return {"positions": rope}


def _write_rope(model: nn.Config) -> dict[str, object]:
    rope = expect(model.positions, nn.Rope)
    parameters = {"rope_type": "default", "rope_theta": rope.theta, "partial_rotary_factor": rope.fraction}
    return {
        "rope_parameters": parameters,
        "rotary_emb_base": rope.theta,
        "rotary_pct": rope.fraction,
        "rope_scaling": None,
    }


FIELDS = FieldMap(
    (
        Field("vocab_size"),
        Field("hidden_size", "d_model"),
        Field("num_hidden_layers", "n_layers"),
        Field("num_attention_heads", "n_heads"),
        Field("intermediate_size", "d_ff"),
        Field("layer_norm_eps", "norm.eps", 1e-5),
        Field("use_parallel_residual", "norm_placement", True, placement("parallel", "pre")),
        Field("hidden_act", "feed_forward.activation", "gelu", ACTIVATION),
        Field("attention_bias", "attention_bias", True),
        Field("tie_word_embeddings", "tie_embeddings", False),
        Field("hidden_dropout", "dropout_rate", 0.0),
        Field("attention_dropout", "attention_dropout_rate", 0.0),
        Group(_read_rope, _write_rope, variants={"positions": (nn.Rope,)}),
    ),
    model={"norm": nn.LayerNorm, "feed_forward": nn.Mlp, "scale_embeddings": False},
)


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``GPTNeoXForCausalLM``."""
    param, tensor = "stack/layers", "gpt_neox.layers.{layer}"
    return [
        *fused_qkv(f"{param}/attention", f"{tensor}.attention.query_key_value"),
        *dense(f"{param}/attention/output", f"{tensor}.attention.dense"),
        *mlp(
            f"{param}/feed_forward", w_in=f"{tensor}.mlp.dense_h_to_4h", w_out=f"{tensor}.mlp.dense_4h_to_h"
        ),
        *norm(f"{param}/attention_norm", f"{tensor}.input_layernorm"),
        *norm(f"{param}/feed_forward_norm", f"{tensor}.post_attention_layernorm"),
        *norm("stack/norm", "gpt_neox.final_layer_norm"),
        WeightMapping("embedding/table", "gpt_neox.embed_in.weight"),
        WeightMapping("head/projection/kernel", "embed_out.weight", transpose(1)),
    ]


GPT_NEOX = Family(
    "gpt_neox",
    {"GPTNeoXForCausalLM": Architecture(nn.Decoder, names)},
    FIELDS,
    prefix="gpt_neox.",
    constants=((r".*rotary_emb\.inv_freq", inverse_frequencies),),
    unread=("rope_theta", "partial_rotary_factor"),
    renamed=((r"^lm_head\.", "embed_out."),),
)
