"""Variants that a format of transformers does not have, a user's own too: refused by name."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.pretrained.families.test_families import EVERY, FIELDS, POOLERS
from tfm_jax import nn, ops, pretrained
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.load import model_of, shapes_of


class Scale(nnx.Module):
    def __init__(self, size):
        self.scale = nnx.Param(jnp.ones(size))

    def axes(self):
        return {"scale": "D"}

    def __call__(self, x, *_, key=None):
        return x * self.scale[...]


@dataclasses.dataclass(frozen=True)
class DynamicTanh(nn.Norm):
    alpha: float = 0.5

    def build(self, size, *, axis, dtype, rngs):
        return Scale(size)


@dataclasses.dataclass(frozen=True)
class CenteredRMSNorm(nn.RMSNorm):
    """A subclass of a norm of the library, with the same fields and parameters and another output."""

    def build(self, size, *, axis, dtype, rngs):
        return Scale(size)


@dataclasses.dataclass(frozen=True)
class Slopes(nn.Positions):
    slope: float = 0.25

    def build_bias(self, config, *, bidirectional, rngs):
        return lambda q, k: -self.slope * abs(q[..., None, :, None] - k[..., None, None, :])


@dataclasses.dataclass(frozen=True)
class Swish(nn.Activation):
    beta: float = 2.0

    def __call__(self, x):
        return x * jax.nn.sigmoid(self.beta * x)


@dataclasses.dataclass(frozen=True)
class Gain(nn.FeedForward):
    activation: str = "relu"
    bias: bool = True

    def build(self, config, *, rngs):
        gain = Scale(config.d_model)
        return lambda x, *, key=None: (gain(x), {})


@dataclasses.dataclass(frozen=True)
class Mean(nn.Pooling):
    def build(self, config, *, rngs):
        return lambda x, valid=None, *, key=None: x.mean(-2)


@dataclasses.dataclass(frozen=True)
class Rows(nn.PatchEmbedding):
    height: int = 6

    def build(self, config, *, rngs):
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Constant(nn.Initializer):
    value: float = 0.5

    def __call__(self, key, shape, *, in_axes, out_axes):
        return jnp.full(shape, self.value)


VARIANTS = {
    "norm": (DynamicTanh(), CenteredRMSNorm()),
    "positions": (Slopes(),),
    "feed_forward": (Gain(), nn.Mlp(Swish()), nn.Glu(Swish())),
    "pooler": (Mean(), nn.Pooler(Swish())),
    "patches": (Rows(),),
}
CASES = [(name, variant) for name, found in VARIANTS.items() for variant in found]


def config_of(name, **fields):
    family = find_family(name)
    return pretrained.CheckpointConfig(
        name, nn.Config(**{**FIELDS[family.model_type], "pooler": POOLERS.get(name), **fields})
    )


@pytest.mark.parametrize(("field", "variant"), CASES, ids=[repr(variant) for _, variant in CASES])
@pytest.mark.parametrize(("family", "name"), EVERY, ids=[name for _, name in EVERY])
def test_a_format_refuses_a_variant_that_it_lacks_by_name(family, name, field, variant):
    family.write_config(config_of(name))
    if field == "patches" and FIELDS[family.model_type].get("token_types"):
        fields = {"patches": variant, "token_types": 0, "positions": nn.Learned(9)}
    else:
        fields = {field: variant}
    with pytest.raises(ValueError) as error:
        family.write_config(config_of(name, **fields))
    message = str(error.value)
    assert message.startswith(f"save: got {field}") and "; wanted " in message and f" as {field}" in message
    assert repr(variant) in message or f"{field}.activation={Swish()!r}; wanted a name" in message
    assert f": {name}, of the {family.model_type} format, has no other." in message


def test_the_format_says_what_it_has():
    with pytest.raises(ValueError) as error:
        find_family("BertModel").write_config(
            config_of("BertModel", norm=DynamicTanh(0.7), positions=nn.Rope(), feed_forward=nn.Mlp(Swish()))
        )
    assert str(error.value) == (
        "save: got norm=DynamicTanh(alpha=0.7), positions=Rope(theta=10000.0, pairing='half', fraction=1.0), "
        "feed_forward.activation=Swish(beta=2.0); wanted LayerNorm as norm, Learned as positions, a name as "
        "feed_forward.activation: BertModel, of the bert format, has no other. Keep the parameters of such a "
        "model in a checkpoint of train.Checkpoints."
    )


def test_save_refuses_before_it_writes(tmp_path):
    config = config_of("LlamaForCausalLM", norm=DynamicTanh())
    params = nn.functionalize(nn.Decoder, config.model).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"^save: got norm=DynamicTanh\(alpha=0.5\); wanted RMSNorm as norm"):
        pretrained.save(tmp_path / "new", params, config)
    assert not (tmp_path / "new").exists()


def test_a_config_from_a_file_is_refused_too(tmp_path):
    """The settings of the file describe RMSNorm, the model has another norm with equal fields."""
    config = config_of("LlamaForCausalLM")
    settings = find_family("LlamaForCausalLM").write_config(config)
    model = dataclasses.replace(config.model, norm=CenteredRMSNorm(config.model.norm.eps))
    config = dataclasses.replace(config, model=model, settings=settings)
    with pytest.raises(ValueError, match=r"got norm=CenteredRMSNorm\(eps=0.001\); wanted RMSNorm"):
        find_family("LlamaForCausalLM").write_config(config)


def test_no_pooler_is_refused_only_where_the_format_needs_one():
    family = find_family("BertModel")
    family.write_config(config_of("BertModel", pooler=None))
    with pytest.raises(ValueError, match="got pooler=None; wanted Pooler as pooler"):
        family.write_config(config_of("BertForSequenceClassification", pooler=None))


def test_initializers_and_the_backend_change_no_output_and_are_not_saved(tmp_path):
    """``initializer_range`` stays that of the file: no loaded model draws parameters."""
    reference = ops.backends.BACKENDS["reference"]
    mine = dataclasses.replace(reference, name="mine")
    config = config_of(
        "GPT2LMHeadModel",
        initializers=nn.Initializers(kernel=Constant(), embedding=nn.Normal(0.5)),
        attention_implementation=mine,
    )
    config = dataclasses.replace(config, settings={"initializer_range": 0.01})
    params = model_of(config, find_family(config.architecture)).init(jax.random.key(0))
    pretrained.save(tmp_path, params, config)
    assert json.loads((tmp_path / "config.json").read_text())["initializer_range"] == 0.01
    _, got, found, _ = pretrained.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, got, params)
    plain = dataclasses.replace(config.model, initializers=nn.Initializers(), attention_implementation="auto")
    assert dataclasses.replace(found.model, head_dim=None, n_kv_heads=None) == plain


def test_the_model_has_the_class_that_was_asked_for(tmp_path):
    config = config_of("GPT2LMHeadModel")
    family = find_family(config.architecture)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes_of(model_of(config, family)))
    pretrained.save(tmp_path, params, config)
    assert pretrained.load(tmp_path, module=nn.Decoder)[0] == pretrained.load(tmp_path)[0]
    with pytest.raises(ValueError, match="of class Decoder; wanted class Encoder"):
        pretrained.load(tmp_path, module=nn.Encoder)
