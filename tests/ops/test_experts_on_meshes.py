"""Mixture of experts on meshes of 8 devices: values and gradients are those of one device."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from tests.marks import slow_rows
from tests.ops.test_mixture_of_experts import D, E, F, draw, gradients, mix
from tfm_jax import sharding

NAMES = ("data", "fsdp", "tensor", "sequence", "expert")
DEFAULT = sharding.ShardingRules()


def rules(**activations):
    return sharding.ShardingRules(activations={**DEFAULT.activations, **activations})


RULES = {
    "default": DEFAULT,
    "tokens over experts": rules(B=("data", "fsdp", "expert")),
    "experts first": rules(B=("expert", "data", "fsdp")),
    "tokens over hidden": rules(T=("sequence", "tensor")),
}
MESHES = [
    ({"expert": 4, "data": 2}, "default"),
    ({"expert": 2, "fsdp": 2, "tensor": 2}, "default"),
    ({"expert": 2, "sequence": 2, "data": 2}, "default"),
    ({"expert": 4}, "tokens over experts"),
    ({"expert": 2, "fsdp": 2}, "experts first"),
    ({"expert": 2, "tensor": 2}, "tokens over hidden"),
    ({"fsdp": 2}, "default"),
]
OPTIONS = {
    "tiled": {"implementation": "tiled"},
    "ragged": {"implementation": "ragged"},
    "capacity": {"capacity_factor": 0.7},
    "dropout": {"dropout_rate": 0.3, "key": jax.random.key(1)},
    "valid": {"valid": jnp.asarray(np.random.default_rng(2).random((4, 6)) < 0.6)},
}
CASES = [(mesh, name, option) for mesh, name in MESHES for option in OPTIONS]
QUICK = [case for case in CASES if case[2] == "tiled" or (case[1] == "default" and len(case[0]) > 1)]


def make_mesh(kind=AxisType.Auto, **sizes):
    return jax.make_mesh(tuple(sizes.get(name, 1) for name in NAMES), NAMES, axis_types=(kind,) * len(NAMES))


def outputs(option):
    x, logits, weights = draw()
    y, dropped = jax.jit(lambda *a: mix(*a, **OPTIONS[option]))(x, logits, weights)
    return y, dropped, gradients(lambda *a: mix(*a, **OPTIONS[option])[0], x, logits, weights)


@pytest.fixture(scope="module")
def alone():
    """What one device gives."""
    return functools.cache(outputs)


def check(mesh, rules, option, alone):
    with jax.set_mesh(mesh), sharding.use_rules(rules):
        got = outputs(option)
    jax.tree.map(
        lambda g, w: np.testing.assert_allclose(np.asarray(g), np.asarray(w), rtol=1e-5, atol=1e-5),
        got,
        alone(option),
    )


@pytest.mark.parametrize(
    ("mesh", "name", "option"), [*QUICK, *slow_rows(case for case in CASES if case not in QUICK)]
)
def test_values_and_gradients_are_those_of_one_device(mesh, name, option, alone):
    check(make_mesh(**mesh), RULES[name], option, alone)


@pytest.mark.parametrize("option", ["tiled", "ragged"])
def test_explicit_axes(option, alone):
    check(make_mesh(AxisType.Explicit, expert=2, fsdp=2, tensor=2), DEFAULT, option, alone)


def test_a_mesh_of_one_device_is_none(alone):
    check(make_mesh(), DEFAULT, "tiled", alone)


def test_experts_that_do_not_divide_are_an_error():
    x, logits, weights = draw(experts=3)
    with (
        jax.set_mesh(make_mesh(expert=2)),
        pytest.raises(ValueError, match=r"mixture_of_experts: w_in: got E = 3 .*multiple of 2"),
    ):
        jax.jit(mix)(x, logits, weights)


def test_the_weights_of_experts_stay_on_their_devices():
    x, logits, weights = (jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), a) for a in draw())
    mesh = make_mesh(expert=4, data=2)

    def loss(*args):
        return jnp.sum(mix(*args)[0])

    with jax.set_mesh(mesh):
        spec = sharding.parameter_specs(["E D F", "E F D", "E D F"], weights, mesh)
        weights = [
            jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=jax.NamedSharding(mesh, s))
            for w, s in zip(weights, spec, strict=True)
        ]
        text = jax.jit(jax.grad(loss, argnums=2)).lower(x, logits, weights).compile().as_text()
    assert f"f32[{E // 4},{D},{F}]" in text  # a device's experts
    assert f"f32[{E},{D},{F}]" not in text and f"f32[{E},{F},{D}]" not in text  # never all


def test_the_backward_pass_keeps_no_gathered_weights():
    x, logits, weights = draw()
    with jax.set_mesh(make_mesh(fsdp=2, expert=2)):
        kept = jax.eval_shape(lambda w: jax.vjp(lambda w: mix(x, logits, w)[0], w)[1], weights)
    shapes = [leaf.shape for leaf in jax.tree.leaves(kept) if leaf.shape[-2:] in ((D, F), (F, D))]
    assert shapes and {math.prod(shape) for shape in shapes} == {E * D * F}  # sharded, not one a device
