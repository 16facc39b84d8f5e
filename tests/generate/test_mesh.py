"""Generation on a mesh: the tokens of one device, with sharded parameters, batch and caches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.marks import slow_rows
from tfm_jax import generate, nn
from tfm_jax.ops import masks
from tfm_jax.sharding import parameter_specs

AXES = ("data", "fsdp", "tensor", "sequence", "expert")
SIZES = {"vocab_size": 32, "d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": 24}
LLAMA = {"positions": nn.Rope(), "norm": nn.RMSNorm(), "feed_forward": nn.Glu(), "n_kv_heads": 2, "window": 5}
MODELS = {
    "decoder": (nn.Decoder, LLAMA | {"tie_embeddings": False}),
    "encoder-decoder": (nn.EncoderDecoder, {}),
}
MESHES = {"fsdp": (1, 4), "tensor": (1, 1, 2), "mixed": (2, 2, 2), "sequence": (2, 1, 2, 2)}
INPUTS = jnp.asarray(np.random.default_rng(0).integers(3, 32, (4, 7)), jnp.int32)
VALID = jnp.arange(7)[None] >= jnp.arange(4)[:, None] // 2


def mesh_of(sizes):
    sizes = (*sizes, *(1,) * (5 - len(sizes)))
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 5, devices=devices)


@functools.cache
def model_of(name):
    module, fields = MODELS[name]
    model = nn.functionalize(module, nn.Config(**SIZES, **fields))
    return model, jax.jit(model.init)(jax.random.key(0))


def outputs(name, params, inputs):
    """Greedy, sampled and beam-searched tokens."""
    model, decoder = model_of(name)[0], name == "decoder"
    start = None if decoder else 1
    config = generate.GenerationConfig((2,), max_length=6, start_id=start)
    valid = {"valid": VALID} if decoder else {"source_mask": masks.padding(VALID)}
    return (
        generate.greedy(model, params, inputs, config, **valid),
        generate.sample(model, params, inputs, config, key=jax.random.key(1), **valid),
        generate.beam_search(model, params, inputs, config.updated(beams=3, n_best=2), **valid),
    )


@functools.cache
def on_one_device(name):
    return outputs(name, model_of(name)[1], INPUTS)


def sharded(name, mesh):
    model, params = model_of(name)
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), parameter_specs(model.axes(), params, mesh)
    )
    batch = NamedSharding(mesh, P(("data", "fsdp")))
    return jax.device_put(params, shardings), jax.device_put(INPUTS, batch)


QUICK = [("decoder", "mixed")]
CASES = [(name, mesh) for name in MODELS for mesh in MESHES if (name, mesh) not in QUICK]


@pytest.mark.parametrize(("name", "mesh"), [*QUICK, *slow_rows(CASES)])
def test_tokens_are_those_of_one_device(name, mesh):
    mesh = mesh_of(MESHES[mesh])
    with jax.set_mesh(mesh):
        found = outputs(name, *sharded(name, mesh))
    for x, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(on_one_device(name)), strict=True):
        np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=1e-4)
    assert found[0].tokens.sharding.is_equivalent_to(NamedSharding(mesh, P(("data", "fsdp"))), 2)


@pytest.mark.parametrize("name", MODELS)
def test_caches_are_sharded_by_batch_and_heads(name):
    mesh = mesh_of((2, 2, 2))
    model = model_of(name)[0]
    with jax.set_mesh(mesh):
        params, inputs = sharded(name, mesh)
        prompt = 4 if name == "decoder" else inputs
        init = jax.jit(lambda params, prompt: nn.init_cache(model, params, prompt, 9))
        cache = nn.init_cache(model, params, prompt, 9) if name == "decoder" else init(params, prompt)
        step = jax.jit(lambda params, cache: nn.decode_step(model, params, inputs[:, :1], cache))
        logits, after = step(params, cache)
    wanted = NamedSharding(mesh, P(("data", "fsdp"), "tensor"))
    for part in jax.tree.leaves((cache.layers, cache.memory, after.layers)):
        assert part.ndim == 4 and part.sharding.is_equivalent_to(wanted, 4), part.sharding
    assert logits.sharding.is_equivalent_to(NamedSharding(mesh, P(("data", "fsdp"), None, "tensor")), 3)


def test_a_batch_of_one_is_replicated():
    mesh = mesh_of((2, 2, 2))
    model, config = model_of("decoder")[0], generate.GenerationConfig((2,), max_length=3)
    with jax.set_mesh(mesh):
        params, inputs = sharded("decoder", mesh)
        found = generate.greedy(model, params, inputs[:1], config)
    wanted = generate.greedy(model, model_of("decoder")[1], INPUTS[:1], config)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)


def test_a_batch_that_does_not_divide():
    mesh = mesh_of((2, 2))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"got B = 3 in B .*; wanted a multiple of 4"):
        generate.greedy(
            model_of("decoder")[0],
            sharded("decoder", mesh)[0],
            INPUTS[:3],
            generate.GenerationConfig((2,), max_length=3),
        )
