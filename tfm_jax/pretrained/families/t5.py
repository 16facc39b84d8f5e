"""T5 and its version 1.1 (flan): a learned bias by distance, RMS norm, attention without a scale."""

from collections.abc import Mapping
from typing import Any

from tfm_jax import nn
from tfm_jax.pretrained.config import Architecture, Family
from tfm_jax.pretrained.names import Entry, attention, mlp, norm, transposed
from tfm_jax.pretrained.settings import activation_of, activation_setting, wanted

__all__ = ["T5"]


def config_of(settings: Mapping[str, Any]) -> nn.Config:
    """Their settings as ours."""
    wanted(settings, is_decoder=False)
    D, L = settings["d_model"], settings["num_layers"]
    # Version 1.1 says by not tying the embeddings that it does not scale either; later files say both.
    scaled = settings.get("scale_decoder_outputs", settings.get("tie_word_embeddings", True))
    dropout = settings.get("dropout_rate", 0.1)
    return nn.Config(
        vocab_size=settings["vocab_size"],
        d_model=D,
        n_layers=L,
        n_decoder_layers=settings.get("num_decoder_layers") or L,
        n_heads=settings["num_heads"],
        head_dim=settings["d_kv"],
        d_ff=settings["d_ff"],
        norm=nn.RMSNorm(settings.get("layer_norm_epsilon", 1e-6)),
        positions=nn.RelativeBias(
            settings.get("relative_attention_num_buckets", 32),
            settings.get("relative_attention_max_distance", 128),
        ),
        feed_forward=_feed_forward(settings.get("feed_forward_proj", "relu")),
        attention_scale=1.0,
        scale_embeddings=False,
        logits_scale=D**-0.5 if scaled else 1.0,
        dropout_rate=dropout,
        attention_dropout_rate=dropout,
        feed_forward_dropout_rate=dropout,
    )


def _feed_forward(name: str) -> nn.Mlp | nn.Glu:
    if name == "gated-gelu":  # an approximation of it
        return nn.Glu("gelu_new")
    activation = activation_of(name.removeprefix("gated-"))
    return nn.Glu(activation) if name.startswith("gated-") else nn.Mlp(activation, bias=False)


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
        "scale_decoder_outputs": scaled,
        "tie_word_embeddings": config.tie_embeddings,
        "dropout_rate": config.dropout_rate,
        "is_encoder_decoder": True,
    }


def names(config: nn.Config) -> list[Entry]:
    """The tensors of ``T5ForConditionalGeneration``."""
    return [
        *_stack(config, "encoder", 1),
        *_stack(config, "decoder", 2),
        Entry("embedding/table", "shared.weight"),
        Entry("head/projection/kernel", "lm_head.weight", transposed(1)),
    ]


def _stack(config: nn.Config, stack: str, last: int) -> list[Entry]:
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
        Entry(f"{stack}/position_bias/table", f"{first}.relative_attention_bias.weight"),
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
)
