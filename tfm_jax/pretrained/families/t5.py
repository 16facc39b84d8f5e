"""T5 and its version 1.1 (flan): a learned bias by distance, RMS norm, attention without a scale."""

from typing import Any

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import Reading, check_sizes
from tfm_jax.pretrained.families._common import activation_of, activation_setting
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.weights.tensor_map import WeightMapping, attention, mlp, norm, transpose

__all__ = ["T5"]


def config_of(settings: Reading) -> nn.Config:
    """Their settings as ours."""
    D, dropout = settings["d_model"], settings.get("dropout_rate", 0.1)
    # Version 1.1 says by not tying the embeddings that it does not scale either; later files say both.
    scaled = settings.get("scale_decoder_outputs", settings.get("tie_word_embeddings") is not False)
    decoders = settings.get("num_decoder_layers")
    if decoders is not None:
        check_sizes(settings, ("num_decoder_layers",))
    return nn.Config(
        vocab_size=settings["vocab_size"],
        d_model=D,
        n_layers=settings["num_layers"],
        # By the key itself, whatever its alias has: theirs reads the alias last.
        n_decoder_layers=settings.own("num_layers") if decoders is None else decoders,
        n_heads=settings["num_heads"],
        head_dim=settings["d_kv"],
        d_ff=settings["d_ff"],
        norm=nn.RMSNorm(settings.get("layer_norm_epsilon", 1e-6)),
        positions=nn.RelativeBias(
            settings.get("relative_attention_num_buckets", 32),
            settings.get("relative_attention_max_distance", 128),
        ),
        feed_forward=_feed_forward(settings),
        attention_scale=1.0,
        scale_embeddings=False,
        logits_scale=D**-0.5 if scaled else 1.0,
        dropout_rate=dropout,
        attention_dropout_rate=dropout,
        feed_forward_dropout_rate=dropout,
    )


def _feed_forward(settings: Reading) -> nn.Mlp | nn.Glu:
    """By its name, such as "gated-gelu", and by the two keys that transformers makes of it, which count."""
    name = settings.get("feed_forward_proj", "relu")
    *gate, activation = name.split("-")
    if gate not in ([], ["gated"]):
        raise ValueError(
            f"feed_forward_proj={name!r} is not supported, only 'relu', 'gated-gelu' and the like"
        )
    activation = "gelu_new" if name == "gated-gelu" else activation  # an approximation of it
    activation = settings.get("dense_act_fn", activation)
    if activation is None:
        raise ValueError("dense_act_fn must be a name, got None")
    activation = activation_of(activation)
    gated = settings.get("is_gated_act", gate == ["gated"])
    return nn.Glu(activation) if gated else nn.Mlp(activation, bias=False)


def settings_of(config: nn.Config) -> dict[str, Any]:
    """Our config as their settings."""
    layer = config.feed_forward
    gated = isinstance(layer, nn.Glu)
    name = "gelu" if gated and layer.activation == "gelu_new" else activation_setting(layer.activation)
    relative = config.positions if isinstance(config.positions, nn.RelativeBias) else nn.RelativeBias()
    scaled = config.logits_scale != 1.0
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "num_layers": config.n_layers,
        "num_decoder_layers": config.n_decoder_layers or config.n_layers,
        "num_heads": config.n_heads,
        "d_kv": config.H,
        "d_ff": config.d_ff,
        "layer_norm_epsilon": config.norm.eps,
        "relative_attention_num_buckets": relative.buckets,
        "relative_attention_max_distance": relative.max_distance,
        "feed_forward_proj": f"gated-{name}" if gated else name,
        "dense_act_fn": activation_setting(layer.activation),
        "is_gated_act": gated,
        "scale_decoder_outputs": scaled,
        "tie_word_embeddings": config.tie_embeddings,
        "dropout_rate": config.dropout_rate,
        "is_encoder_decoder": True,
    }


def names(config: nn.Config) -> list[WeightMapping]:
    """The tensors of ``T5ForConditionalGeneration``."""
    return [
        *_stack(config, "encoder", 1),
        *_stack(config, "decoder", 2),
        WeightMapping("embedding/table", "shared.weight"),
        WeightMapping("head/projection/kernel", "lm_head.weight", transpose(1)),
    ]


def _stack(config: nn.Config, stack: str, last: int) -> list[WeightMapping]:
    """The tensors of the encoder or the decoder, whose feed-forward layer is the sublayer ``last``."""
    layers, theirs = f"{stack}/layers", f"{stack}.block.{{layer}}.layer"
    first = f"{stack}.block.0.layer.0.SelfAttention"
    attend = lambda ours, name: attention(f"{layers}/{ours}", *(f"{theirs}.{name}.{x}" for x in "qkvo"))
    dense = f"{theirs}.{last}.DenseReluDense"
    gated = isinstance(config.feed_forward, nn.Glu)
    into = {"w_gate": f"{dense}.wi_0", "w_in": f"{dense}.wi_1"} if gated else {"w_in": f"{dense}.wi"}
    return [
        *attend("attention", "0.SelfAttention"),
        *norm(f"{layers}/attention_norm", f"{theirs}.0.layer_norm"),
        *attend("cross_attention", "1.EncDecAttention"),
        *norm(f"{layers}/cross_attention_norm", f"{theirs}.1.layer_norm"),
        *mlp(f"{layers}/feed_forward", **into, w_out=f"{dense}.wo"),
        *norm(f"{layers}/feed_forward_norm", f"{theirs}.{last}.layer_norm"),
        *norm(f"{stack}/norm", f"{stack}.final_layer_norm"),
        WeightMapping(f"{stack}/position_bias/table", f"{first}.relative_attention_bias.weight"),
    ]


T5 = Family(
    "t5",
    {"T5ForConditionalGeneration": Architecture(nn.EncoderDecoder, names)},
    config_of,
    settings_of,
    # It is in old checkpoints, and nobody reads it.
    skipped=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    copies=((r"(encoder|decoder)\.embed_tokens\.weight", "shared.weight"),),
    tied_by_file=True,
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    sizes=("vocab_size", "d_model", "num_heads", "num_layers", "d_kv", "d_ff"),
    unread=("n_positions",),
)
