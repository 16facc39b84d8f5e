"""ViT: pre-norm encoder of image patches with a class token and learned positions."""

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import TrackedSettings
from tfm_jax.pretrained.families._common import ACTIVATION, classifier
from tfm_jax.pretrained.family import Architecture, CheckpointConfig, Family
from tfm_jax.pretrained.field_map import Field, FieldMap, Fields, Group, Same, expect
from tfm_jax.pretrained.weights.tensor_map import Conversion, WeightMapping, attention, dense, mlp, norm

__all__ = ["VIT"]

_FIRST = Conversion(lambda x, shape: x.reshape(shape), lambda x: x[None])
"""Of a tensor with a leading axis of size 1."""


def _sides(size: int | list[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _size(sides: tuple[int, int]) -> int | tuple[int, int]:
    return sides[0] if sides[0] == sides[1] else sides


def _read_patches(settings: TrackedSettings) -> Fields:
    height, width = _sides(settings.get("image_size", 224))
    size = _size(_sides(settings.get("patch_size", 16)))
    patches = nn.Patches(height, width, settings.get("num_channels", 3), size, class_token=True)
    return {"patches": patches, "positions": nn.Learned(patches.count + 1)}


def _write_patches(model: nn.Config) -> dict[str, object]:
    patches = expect(model.patches, nn.Patches)
    return {
        "image_size": _size((patches.height, patches.width)),
        "patch_size": _size(patches.sides),
        "num_channels": patches.channels,
    }


FIELDS = FieldMap(
    (
        Field("hidden_size", "d_model"),
        Field("num_hidden_layers", "n_layers"),
        Field("num_attention_heads", "n_heads"),
        Field("intermediate_size", "d_ff"),
        Field("layer_norm_eps", "norm.eps", 1e-12),
        Group(_read_patches, _write_patches, variants={"patches": (nn.Patches,), "positions": (nn.Learned,)}),
        Field("hidden_act", "feed_forward.activation", "gelu", ACTIVATION),
        Field("qkv_bias", "attention_bias", True),
        Field("hidden_dropout_prob", "dropout_rate", 0.0),
        Field("attention_probs_dropout_prob", "attention_dropout_rate", 0.0),
    ),
    model={"norm": nn.LayerNorm, "feed_forward": nn.Mlp, "attention_output_bias": True},
)
_POOLER = FieldMap(
    (
        Field("pooler_act", "pooler.activation", "tanh", ACTIVATION),
        Same("pooler_output_size", "hidden_size", "d_model", unset=(None, 0)),
    ),
    model={"pooler": nn.Pooler},
)


def encoder_names(config: nn.Config, param: str = "") -> list[WeightMapping]:
    """The tensors of the encoder; our paths start with ``param``."""
    layers, tensor = f"{param}stack/layers", "vit.encoder.layer.{layer}"
    projections, embeddings = f"{tensor}.attention.attention", "vit.embeddings"
    projection = f"{embeddings}.patch_embeddings.projection"
    return [
        *attention(
            f"{layers}/attention",
            f"{projections}.query",
            f"{projections}.key",
            f"{projections}.value",
            f"{tensor}.attention.output.dense",
        ),
        *mlp(f"{layers}/feed_forward", w_in=f"{tensor}.intermediate.dense", w_out=f"{tensor}.output.dense"),
        *norm(f"{layers}/attention_norm", f"{tensor}.layernorm_before"),
        *norm(f"{layers}/feed_forward_norm", f"{tensor}.layernorm_after"),
        *norm(f"{param}stack/norm", "vit.layernorm"),
        WeightMapping(f"{param}embedding/projection/kernel", f"{projection}.weight", _convolution(config)),
        WeightMapping(f"{param}embedding/projection/bias", f"{projection}.bias"),
        WeightMapping(f"{param}embedding/class_token", f"{embeddings}.cls_token", _FIRST),
        WeightMapping(f"{param}stack/position_embedding/table", f"{embeddings}.position_embeddings", _FIRST),
    ]


def _convolution(config: nn.Config) -> Conversion:
    """A convolution [D, C, height, width] as our kernel [height * width * C, D]."""
    patches = expect(config.patches, nn.Patches)
    return Conversion(
        lambda x, shape: x.transpose(2, 3, 1, 0).reshape(shape),
        lambda x: x.reshape(*patches.sides, patches.channels, -1).transpose(3, 2, 0, 1),
    )


def _model_names(config: nn.Config) -> list[WeightMapping]:
    return [*encoder_names(config), *dense("pooler/dense", "vit.pooler.dense")]


def _no_dropout(config: CheckpointConfig) -> float:
    return 0.0


VIT = Family(
    "vit",
    {
        "ViTModel": Architecture(nn.Encoder, _model_names, fields=_POOLER, by_file=("pooler",), bare=True),
        "ViTForImageClassification": classifier(encoder_names, "first", _no_dropout),
    },
    FIELDS,
    prefix="vit.",
    skipped=(r"vit\.pooler\..*", r"vit\.embeddings\.mask_token"),  # of other heads
    unread=("encoder_stride", "pooler_act", "pooler_output_size"),
)
