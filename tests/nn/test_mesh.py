"""Models on meshes: the losses and gradients of one device, and where activations are constrained."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tfm_jax import nn
from tfm_jax.sharding import parameter_specs

AXES = ("data", "fsdp", "tensor", "sequence", "expert")
SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": 24, "feed_forward": nn.Mlp("gelu")}
TOKENS = {"vocab_size": 32, **SIZES}
LLAMA = {"positions": nn.Rope(), "norm": nn.RMSNorm(), "feed_forward": nn.Glu(), "n_kv_heads": 2}
INPUTS = jnp.asarray(np.random.default_rng(0).integers(0, 32, (8, 6)), jnp.int32)
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4, 6, 1)), jnp.float32)
PATCHES = nn.Patches(4, 6, 1, 2, class_token=False)
MODELS = {
    "decoder": (nn.Decoder, TOKENS | LLAMA | {"tie_embeddings": False, "remat": "full"}, (INPUTS,)),
    "encoder-decoder": (nn.EncoderDecoder, TOKENS | {"positions": nn.Learned(8)}, (INPUTS, INPUTS)),
    "masked": (nn.MaskedLanguageModel, TOKENS | {"token_types": 2, "unroll": True}, (INPUTS,)),
    "images": (
        functools.partial(nn.Classifier, n_classes=3, pooling="first"),
        SIZES | {"patches": PATCHES, "pooler": nn.Pooler(), "norm_placement": "post"},
        (IMAGES,),
    ),
}
MESHES = {"fsdp": (1, 8), "tensor": (1, 1, 2), "mixed": (2, 2, 2)}


def mesh_of(sizes):
    sizes = (*sizes, *(1,) * (5 - len(sizes)))
    devices = jax.devices()[: math.prod(sizes)]
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 5, devices=devices)


def step_of(name, **more):
    """A model's loss with its gradient, and the arguments."""
    module, fields, inputs = MODELS[name]
    model = nn.functionalize(module, nn.Config(**fields, **more))

    def loss(params, *inputs):
        return jnp.square(model.apply(params, *inputs)).mean()

    return model, jax.value_and_grad(loss), inputs


def compile_on(mesh, name, **more):
    """The step, compiled with the parameters sharded by their letters and the inputs by their batch."""
    model, step, inputs = step_of(name, **more)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    specs = parameter_specs(model.axes(), shapes, mesh)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    batch = NamedSharding(mesh, P(("data", "fsdp")))
    options = {
        "in_shardings": (shardings, *[batch] * len(inputs)),
        "out_shardings": (NamedSharding(mesh, P()), shardings),
    }
    with jax.set_mesh(mesh):
        return jax.jit(step, **options).lower(shapes, *inputs).compile(), shardings


@functools.cache
def on_one_device(name):
    model, step, inputs = step_of(name)
    params = jax.jit(model.init)(jax.random.key(0))
    return params, jax.jit(step)(params, *inputs)


CASES = [(name, mesh) for name in MODELS for mesh in MESHES]
QUICK = [("decoder", "mixed"), ("images", "fsdp")]


@pytest.mark.parametrize(
    ("name", "mesh"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_losses_and_gradients_are_those_of_one_device(name, mesh):
    params, wanted = on_one_device(name)
    mesh = mesh_of(MESHES[mesh])
    compiled, shardings = compile_on(mesh, name)
    batch = NamedSharding(mesh, P(("data", "fsdp")))
    inputs = [jax.device_put(x, batch) for x in MODELS[name][2]]
    found = compiled(jax.device_put(params, shardings), *inputs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, wanted)


def test_a_decoder_constrains_its_activations():
    model, step, inputs = step_of("decoder", dtype="bfloat16")
    with jax.set_mesh(mesh_of((2, 2, 2))):
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        text = jax.jit(step).lower(shapes, *inputs).as_text()
    pattern = r"sdy.sharding_constraint %\S+ <@mesh, \[(.*?)\]> : tensor<(\S+)>"
    found = {(shape, spec) for spec, shape in re.findall(pattern, text)}
    batch, anything = '{"data", "fsdp"}', "{?}"
    assert found >= {
        ("8x6x16xbf16", f"{batch}, {{}}, {{}}"),  # the residual stream
        ("8x6x4x4xbf16", f'{batch}, {{}}, {{"tensor"}}, {{}}'),  # queries
        ("8x6x2x4xbf16", f'{batch}, {{}}, {{"tensor"}}, {{}}'),  # keys and values
        ("8x6x24xbf16", f'{anything}, {anything}, {{"tensor"}}'),  # hidden units
        ("8x6x32xf32", f'{anything}, {anything}, {{"tensor"}}'),  # logits
    }, found


@pytest.mark.parametrize("fields", [{"positions": nn.Learned(7)}, {"token_types": 3}], ids=str)
def test_only_the_embedding_is_sharded_as_the_vocabulary(fields):
    model = nn.functionalize(nn.Encoder, nn.Config(**TOKENS, **fields))
    params = jax.jit(model.init)(jax.random.key(0))
    types = INPUTS % 3 if "token_types" in fields else None

    def encode(params):
        return model.apply(params, INPUTS, token_types=types)

    wanted = jax.jit(encode)(params)
    with jax.set_mesh(mesh_of((1, 2, 2))):
        found = jax.jit(encode)(params)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
