"""ViT: a pre-norm encoder of patches, with a class token before them and learned positions."""

from collections.abc import Mapping
from typing import Any

from tfm_jax import nn
from tfm_jax.pretrained.families._common import activation_of, activation_setting, classifier, wanted
from tfm_jax.pretrained.family import Architecture, Family
from tfm_jax.pretrained.weights.tensor_map import Conversion, WeightMapping, attention, dense, mlp, norm

__all__ = ["VIT"]

_FIRST = Conversion(lambda x, shape: x.reshape(shape), lambda x: x[None])  # the tensor has a first axis of 1


def _sides(size: int | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _size(sides: tuple[int, int]) -> int | tuple[int, int]:
    return sides[0] if sides[0] == sides[1] else sides


def config_of(settings: Mapping[str, Any]) -> nn.Config:
    """Their settings as ours."""
    D = settings["hidden_size"]
    height, width = _sides(settings.get("image_size", 224))
    size = _sides(settings.get("patch_size", 16))
    channels = settings.get("num_channels", 3)
    patches = nn.Patches(height, width, channels, _size(size), class_token=True)
    return nn.Config(
        d_model=D,
        n_layers=settings["num_hidden_layers"],
        n_heads=settings["num_attention_heads"],
        d_ff=settings["intermediate_size"],
        norm=nn.LayerNorm(settings.get("layer_norm_eps", 1e-12)),
        positions=nn.Learned(patches.count + 1),
        feed_forward=nn.Mlp(activation_of(settings.get("hidden_act", "gelu"))),
        attention_bias=settings.get("qkv_bias", True),
        attention_output_bias=True,
        patches=patches,
        dropout_rate=settings.get("hidden_dropout_prob", 0.0),
        attention_dropout_rate=settings.get("attention_probs_dropout_prob", 0.0),
    )


def settings_of(config: nn.Config) -> dict[str, Any]:
    """Our config as their settings."""
    patches = config.patches or nn.Patches(224, 224, 3, 16)
    pooler = {} if config.pooler is None else {"pooler_act": activation_setting(config.pooler.activation)}
    return {
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_ff,
        "layer_norm_eps": config.norm.eps,
        "image_size": _size((patches.height, patches.width)),
        "patch_size": _size(patches.sides),
        "num_channels": patches.channels,
        "hidden_act": activation_setting(config.feed_forward.activation),
        "qkv_bias": config.attention_bias,
        "hidden_dropout_prob": config.dropout_rate,
        "attention_probs_dropout_prob": config.attention_dropout_rate,
        "pooler_output_size": config.d_model,
        **pooler,
    }


def body(config: nn.Config, ours: str = "") -> list[WeightMapping]:
    """The tensors of the encoder, below a prefix of ours."""
    layers, theirs = f"{ours}stack/layers", "vit.encoder.layer.{layer}"
    itself, embeddings = f"{theirs}.attention.attention", "vit.embeddings"
    projection = f"{embeddings}.patch_embeddings.projection"
    return [
        *attention(
            f"{layers}/attention",
            *(f"{itself}.{name}" for name in ("query", "key", "value")),
            f"{theirs}.attention.output.dense",
        ),
        *mlp(f"{layers}/feed_forward", w_in=f"{theirs}.intermediate.dense", w_out=f"{theirs}.output.dense"),
        *norm(f"{layers}/attention_norm", f"{theirs}.layernorm_before"),
        *norm(f"{layers}/feed_forward_norm", f"{theirs}.layernorm_after"),
        *norm(f"{ours}stack/norm", "vit.layernorm"),
        WeightMapping(f"{ours}embedding/projection/kernel", f"{projection}.weight", _convolution(config)),
        WeightMapping(f"{ours}embedding/projection/bias", f"{projection}.bias"),
        WeightMapping(f"{ours}embedding/class_token", f"{embeddings}.cls_token", _FIRST),
        WeightMapping(f"{ours}stack/position_embedding/table", f"{embeddings}.position_embeddings", _FIRST),
    ]


def _convolution(config: nn.Config) -> Conversion:
    """Theirs [D, channels, rows, columns], ours [rows * columns * channels, D]."""
    sides, channels = config.patches.sides, config.patches.channels
    return Conversion(
        lambda x, shape: x.transpose(2, 3, 1, 0).reshape(shape),
        lambda x: x.reshape(*sides, channels, -1).transpose(3, 2, 0, 1),
    )


def _model(config: nn.Config) -> list[WeightMapping]:
    return [*body(config), *dense("pooler/dense", "vit.pooler.dense")]


def _pooler(settings: Mapping[str, Any]) -> dict[str, Any]:
    D = settings["hidden_size"]
    wanted({"pooler_output_size": settings.get("pooler_output_size") or D}, pooler_output_size=D)
    return {"pooler": nn.Pooler(activation_of(settings.get("pooler_act", "tanh")))}


VIT = Family(
    "vit",
    {
        "ViTModel": Architecture(nn.Encoder, _model, fields=_pooler, by_file=("pooler",), bare=True),
        "ViTForImageClassification": classifier(body, "first", lambda config: 0.0),
    },
    config_of,
    settings_of,
    prefix="vit.",
    skipped=(r"vit\.pooler\..*", r"vit\.embeddings\.mask_token"),  # of other heads
    sizes=("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    unread=("encoder_stride", "pooler_act", "pooler_output_size"),
)
