"""functionalize: modules as pure functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tfm_jax import nn

CONFIG = nn.Config(vocab_size=11, d_model=6, n_heads=2, d_ff=5, n_layers=3)
TOKENS = jnp.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])


def test_parameters_are_a_plain_dict_of_float32_arrays():
    params = nn.functionalize(nn.Decoder, CONFIG).init(jax.random.key(0))

    def visit(tree):
        if isinstance(tree, jax.Array):
            assert tree.dtype == jnp.float32
            return 1
        assert type(tree) is dict
        return sum(visit(value) for value in tree.values())

    assert visit(params) == len(jax.tree.leaves(params))


def test_init_is_deterministic_in_its_key():
    model = nn.functionalize(nn.Decoder, CONFIG)
    one, same, other = (model.init(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one["embedding"]["table"], other["embedding"]["table"])
    # Compiled, a fused multiply may round the last bit otherwise.
    compiled = jax.jit(model.init)(jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), compiled, one)


def test_apply_equals_the_module():
    module = nn.Decoder(CONFIG, rngs=nnx.Rngs(jax.random.key(0)))
    model = nn.functionalize(nn.Decoder, CONFIG)
    np.testing.assert_array_equal(module(TOKENS), model.apply(model.init(jax.random.key(0)), TOKENS))


def test_numpy_parameters():
    model = nn.functionalize(nn.Decoder, CONFIG)
    params = model.init(jax.random.key(0))
    got = model.apply(jax.tree.map(np.asarray, params), TOKENS)
    np.testing.assert_array_equal(got, model.apply(params, TOKENS))


def test_modules_work_as_plain_nnx_modules():
    assert nn.Decoder(CONFIG, rngs=nnx.Rngs(0))(TOKENS).shape == (2, 5, 11)


def test_apply_does_not_change_its_arguments():
    model = nn.functionalize(nn.Decoder, CONFIG)
    params = model.init(jax.random.key(0))
    before = jax.tree.map(np.asarray, params)
    model.apply(params, TOKENS)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert jax.tree.structure(params) == jax.tree.structure(before)


@pytest.mark.parametrize("axis", ["pmap", "shard_map"])
def test_one_example_per_device(axis):
    model = nn.functionalize(nn.Decoder, CONFIG)
    params = model.init(jax.random.key(0))
    wanted = model.apply(params, TOKENS)
    if axis == "pmap":
        got = jax.pmap(model.apply, in_axes=(None, 0))(params, TOKENS)
    else:
        mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
        got = jax.jit(jax.shard_map(model.apply, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data")))(
            params, TOKENS
        )
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_parameters_of_another_model_are_named():
    model = nn.functionalize(nn.Decoder, CONFIG)
    params = model.init(jax.random.key(0))
    params["embedding"]["table"] = jnp.ones((12, 6))
    params["extra"] = jnp.ones(2)
    del params["stack"]["norm"]["bias"]
    with pytest.raises(ValueError) as error:
        model.apply(params, TOKENS)
    message = str(error.value)
    assert "embedding/table: got (12, 6), wanted (11, 6)" in message
    assert "extra: unknown, got (2,)" in message
    assert "stack/norm/bias: missing, wanted (6,)" in message


def test_keyword_arguments_reach_the_module():
    config = dataclasses.replace(CONFIG, vocab_size=0, patches=nn.Patches(4, 6, channels=3, size=2))
    model = nn.functionalize(nn.Classifier, config, n_classes=7, pooling="first")
    params = model.init(jax.random.key(0))
    assert model.apply(params, jnp.ones((2, 4, 6, 3))).shape == (2, 7)
