"""A decoder on a mesh with a sequence axis: positions are those of the whole sequence."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.marks import slow
from tfm_jax import nn
from tfm_jax.ops import masks
from tfm_jax.ops.backends import ring_over

NAMES = ("data", "fsdp", "tensor", "sequence", "expert")
SCHEMES = {
    "rope": nn.Rope(),
    "sinusoidal": nn.Sinusoidal(),
    "alibi": nn.Alibi(),
    "relative": nn.RelativeBias(buckets=8, max_distance=12),
    "learned": nn.Learned(24),
}


def mesh(**sizes):
    shape = [sizes.get(name, 1) for name in NAMES]
    return jax.make_mesh(
        shape, NAMES, axis_types=(AxisType.Auto,) * 5, devices=jax.devices()[: np.prod(shape)]
    )


def model(positions, **fields):
    config = nn.Config(
        vocab_size=14, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24, positions=positions, **fields
    )
    return nn.functionalize(nn.Decoder, config)


def logits_and_gradients(model, mask, key=None):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 14, (4, 24)))

    def loss(params):
        logits = model.apply(params, tokens, mask, key=key)
        return jnp.sum(
            jnp.cos(jnp.arange(logits.size).reshape(logits.shape)) * jax.nn.log_softmax(logits)
        ), logits

    return jax.jit(jax.grad(loss, has_aux=True))(model.init(jax.random.key(1)))


IDS = jnp.asarray(np.sort(np.random.default_rng(1).integers(0, 3, (4, 24))))


@pytest.mark.parametrize("name", ["rope", "alibi", "relative", *slow("sinusoidal", "learned")])
@pytest.mark.parametrize(
    "sizes", [{"sequence": 4, "data": 2}, *slow({"sequence": 2, "tensor": 2, "data": 2})]
)
def test_a_decoder_equals_that_on_one_device(name, sizes):
    mask = masks.segments(IDS)
    wanted = logits_and_gradients(model(SCHEMES[name]), mask)
    with jax.set_mesh(mesh(**sizes)):
        for implementation in ("ring", "auto"):
            got = logits_and_gradients(model(SCHEMES[name], attention_implementation=implementation), mask)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5, rtol=1e-4), got, wanted)


@pytest.mark.parametrize("fields", [{"window": 5}, {"attention_dropout_rate": 0.3}])
def test_windows_and_dropout(fields):
    key = jax.random.key(3) if "attention_dropout_rate" in fields else None
    wanted = logits_and_gradients(model(nn.Rope(), **fields), None, key)
    with jax.set_mesh(mesh(sequence=4, data=2)):
        got = logits_and_gradients(model(nn.Rope(), attention_implementation="ring", **fields), None, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5, rtol=1e-4), got, wanted)


def test_on_one_device_the_ring_is_attention():
    wanted, got = (
        logits_and_gradients(model(nn.Alibi(), attention_implementation=name), None)
        for name in ("chunked", "ring")
    )
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


@pytest.mark.parametrize("implementation", ["ring", ring_over("sequence")], ids=["name", "backend"])
def test_parts_of_sequences_are_an_error(implementation):
    module = model(nn.Rope(), attention_implementation=implementation)
    params, tokens = module.init(jax.random.key(1)), jnp.zeros((2, 24), jnp.int32)

    def logits(params, tokens):
        return module.apply(params, tokens)

    parts = P(None, "sequence")
    mapped = jax.shard_map(logits, mesh=mesh(sequence=4), in_specs=(P(), parts), out_specs=parts)
    with pytest.raises(ValueError, match=r"got ring attention inside shard_map .* 'sequence'; wanted"):
        mapped(params, tokens)
    assert logits(params, tokens).shape == (2, 24, 14)


@pytest.mark.parametrize("remat", [None, *slow("full")])
def test_chunked_attention_in_a_decoder_has_no_table(remat):
    """No array of the compiled step has T x S elements: XLA would hoist the mask of all tiles."""
    T = 2048
    module = model(nn.Rope(), attention_implementation="chunked", remat=remat)
    params = jax.eval_shape(module.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((1, T), jnp.int32)

    def loss(params, tokens):
        return jnp.sum(module.bind(params).hidden(tokens) ** 2)

    text = jax.jit(jax.grad(loss)).lower(params, tokens).compile().as_text()
    shapes = {tuple(map(int, x.split(","))) for x in re.findall(r"\w+\[([\d,]+)\]", text or "")}
    assert max(map(math.prod, shapes)) < T * T / 4, shapes
