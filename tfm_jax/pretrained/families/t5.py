"""T5 and T5 1.1 (Flan-T5): encoder-decoder with relative position biases, RMSNorm, unscaled attention."""

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import TrackedSettings
from tfm_jax.pretrained.families._common import activation_of, activation_setting
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.field_map import Field, FieldMap, Fields, Group, expect
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, attention, mlp, norm, transpose

__all__ = ["T5"]

_FEED_FORWARDS = {nn.Mlp: False, nn.Glu: True}
"""The feed-forward layers of the format, and whether they are gated."""


def _n_encoder_layers(settings: TrackedSettings) -> int:
    # transformers sets num_decoder_layers before it applies the alias of num_layers.
    return settings.without_alias("num_layers")


def _read_feed_forward(settings: TrackedSettings) -> Fields:
    """From a name such as "gated-gelu"; the two keys that transformers derives from it take precedence."""
    name = settings.get("feed_forward_proj", "relu")
    *gate, activation = name.split("-")
    if gate not in ([], ["gated"]):
        raise ValueError(f"got feed_forward_proj={name!r}; wanted an activation, or 'gated-' and one.")
    activation = "gelu_new" if name == "gated-gelu" else activation  # the tanh approximation
    activation = settings.get("dense_act_fn", activation)
    if activation is None:
        raise ValueError("got dense_act_fn=None; wanted the name of an activation.")
    activation = activation_of(activation)
    gated = settings.get("is_gated_act", gate == ["gated"])
    return {"feed_forward": nn.Glu(activation) if gated else nn.Mlp(activation, bias=False)}


def _write_feed_forward(model: nn.Config) -> dict[str, object]:
    layer = expect(model.feed_forward, *_FEED_FORWARDS)
    gated = _FEED_FORWARDS[type(layer)]
    name = "gelu" if gated and layer.activation == "gelu_new" else activation_setting(layer.activation)
    return {
        "feed_forward_proj": f"gated-{name}" if gated else name,
        "dense_act_fn": activation_setting(layer.activation),
        "is_gated_act": gated,
    }


def _read_logits_scale(settings: TrackedSettings) -> Fields:
    # T5 1.1 neither ties nor scales; its older files have the first key only.
    scaled = settings.get("scale_decoder_outputs", settings.get("tie_word_embeddings") is not False)
    return {"logits_scale": settings["d_model"] ** -0.5 if scaled else 1.0}


def _write_logits_scale(model: nn.Config) -> dict[str, object]:
    return {"scale_decoder_outputs": model.logits_scale != 1.0, "tie_word_embeddings": model.tie_embeddings}


_RATES = ("dropout_rate", "attention_dropout_rate", "feed_forward_dropout_rate")
FIELDS = FieldMap(
    (
        Field("vocab_size"),
        Field("d_model"),
        Field("num_layers", "n_layers"),
        Field("num_decoder_layers", "n_decoder_layers", _n_encoder_layers),
        Field("num_heads", "n_heads"),
        Field("d_kv", "head_dim"),
        Field("d_ff"),
        Field("layer_norm_epsilon", "norm.eps", 1e-6),
        Field("relative_attention_num_buckets", "positions.buckets", 32),
        Field("relative_attention_max_distance", "positions.max_distance", 128),
        Group(_read_feed_forward, _write_feed_forward, variants={"feed_forward": tuple(_FEED_FORWARDS)}),
        Group(_read_logits_scale, _write_logits_scale),
        Field("dropout_rate", _RATES, 0.1),
    ),
    model={
        "norm": nn.RMSNorm,
        "positions": nn.RelativeBias,
        "attention_scale": 1.0,
        "scale_embeddings": False,
    },
    written={"is_encoder_decoder": True},
)


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``T5ForConditionalGeneration``."""
    return [
        *_stack(config, "encoder", 1),
        *_stack(config, "decoder", 2),
        WeightMapping("embedding/table", "shared.weight"),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
    ]


def _stack(config: nn.Config, stack: str, last: int) -> list[WeightMapping]:
    """The tensors of one stack; its feed-forward layer has the index ``last`` in each block."""
    layers, tensor = f"{stack}/layers", f"{stack}.block.{{layer}}.layer"
    first = f"{stack}.block.0.layer.0.SelfAttention"
    dense = f"{tensor}.{last}.DenseReluDense"
    gated = _FEED_FORWARDS[type(expect(config.feed_forward, *_FEED_FORWARDS))]
    into = {"w_gate": f"{dense}.wi_0", "w_in": f"{dense}.wi_1"} if gated else {"w_in": f"{dense}.wi"}

    def attend(param: str, name: str) -> list[WeightMapping]:
        return attention(f"{layers}/{param}", *(f"{tensor}.{name}.{x}" for x in "qkvo"))

    return [
        *attend("attention", "0.SelfAttention"),
        *norm(f"{layers}/attention_norm", f"{tensor}.0.layer_norm"),
        *attend("cross_attention", "1.EncDecAttention"),
        *norm(f"{layers}/cross_attention_norm", f"{tensor}.1.layer_norm"),
        *mlp(f"{layers}/feed_forward", **into, w_out=f"{dense}.wo"),
        *norm(f"{layers}/feed_forward_norm", f"{tensor}.{last}.layer_norm"),
        *norm(f"{stack}/norm", f"{stack}.final_layer_norm"),
        WeightMapping(f"{stack}/position_bias/table", f"{first}.relative_attention_bias.weight"),
    ]


T5 = Family(
    "t5",
    {"T5ForConditionalGeneration": Architecture(nn.EncoderDecoder, names)},
    FIELDS,
    # Old checkpoints have this tensor; the model does not read it.
    skipped=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    copies=((r"(encoder|decoder)\.embed_tokens\.weight", "shared.weight"),),
    tied_by_file=True,
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    unread=("n_positions",),
)
