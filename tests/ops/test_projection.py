"""The linear projection: a tensordot, whose kernel's gradient is a float32 sum of bfloat16 products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.programs import equations
from tfm_jax.ops.projection import gradient_dtype, project

RNG = np.random.default_rng(0)
SHAPES = {
    "D F": ((2, 3, 5), (5, 7), 1),
    "D N H": ((2, 3, 6), (6, 2, 4), 1),
    "N H D": ((3, 2, 4), (2, 4, 5), 2),
    "one vector": ((5,), (5, 7), 1),
    "no tokens": ((0, 5), (5, 7), 1),
}


def draw(case, dtype=jnp.float32):
    x, kernel, n = SHAPES[case]
    return jnp.asarray(RNG.normal(size=x), dtype), jnp.asarray(RNG.normal(size=kernel), jnp.float32), n


def gradients(function, x, kernel, n):
    out, pullback = jax.vjp(lambda x, k: function(x, k, n), x, kernel)
    return out, *pullback(jnp.cos(out.astype(jnp.float32)).astype(out.dtype))


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_project_is_tensordot_forward_and_backward(case, dtype):
    x, kernel, n = draw(case, dtype)
    found = gradients(project, x, kernel, n)
    wanted = gradients(lambda x, k, n: jnp.tensordot(x, k.astype(x.dtype), axes=n), x, kernel, n)
    assert [y.dtype for y in found] == [dtype, dtype, jnp.float32]
    tolerance = 1e-5 if dtype == jnp.float32 else 0.02
    for ours, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(
            ours.astype(jnp.float32), right.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )


def products(function, *arguments):
    """The dtypes of the factors and the result of each matrix product."""
    found = [
        e for e in equations(jax.make_jaxpr(function)(*arguments).jaxpr) if "dot_general" in e.primitive.name
    ]
    return [([x.aval.dtype.name for x in e.invars], e.outvars[0].aval.dtype.name) for e in found]


def test_the_kernels_gradient_is_a_float32_sum_of_bfloat16_products():
    x, kernel, n = draw("D F", jnp.bfloat16)

    def run(x, kernel):
        return gradients(project, x, kernel, n)

    factors = ["bfloat16"] * 2
    assert products(run, x, kernel) == [(factors, "bfloat16"), (factors, "bfloat16"), (factors, "float32")]
    with gradient_dtype("bfloat16"):
        assert products(run, x, kernel) == [(factors, "bfloat16")] * 3


def test_the_sum_over_many_tokens_is_exact_to_float32():
    x = jnp.ones((4096, 1), jnp.bfloat16).at[0].set(256)
    kernel = jnp.ones((1, 1), jnp.float32)
    by_kernel = jax.jit(jax.grad(lambda k: project(x, k).sum().astype(jnp.float32)))(kernel)
    assert by_kernel == 256 + 4095  # bfloat16 has 8 bits


def test_a_scan_over_layers_saves_no_copy_of_the_weights():
    kernels = jnp.ones((3, 6, 6), jnp.float32)

    def layers(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(project(x, kernel)), None), x, kernels)[0]

    _, pullback = jax.vjp(layers, jnp.ones((2, 6), jnp.bfloat16), kernels)
    saved = [(x.shape, x.dtype.name) for x in jax.tree.leaves(pullback)]
    assert ((3, 2, 6), "bfloat16") in saved
    assert ((3, 6, 6), "bfloat16") not in saved


def test_under_vmap_and_without_gradient_of_the_kernel():
    x, kernel, n = draw("D F", jnp.bfloat16)
    many = jax.vmap(lambda x: project(x, kernel, n))(x)
    np.testing.assert_array_equal(many, project(x, kernel, n))
    by_x = jax.grad(lambda x: project(x, kernel, n).sum().astype(jnp.float32))(x)
    np.testing.assert_allclose(by_x[0, 0].astype(jnp.float32), kernel.sum(1), rtol=0.02, atol=0.02)


def test_rematerialization_of_products_saves_the_product():
    x, kernel, _ = draw("D F", jnp.bfloat16)

    def saved(policy):
        function = jax.checkpoint(lambda x: jnp.sin(project(x, kernel)), policy=policy)
        return [leaf.shape for leaf in jax.tree.leaves(jax.vjp(function, x)[1])]

    assert (2, 3, 7) in saved(jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
    assert (2, 3, 7) not in saved(jax.checkpoint_policies.nothing_saveable)


def test_gradient_of_a_replicated_kernel_inside_shard_map():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    x, kernel, _ = draw("D F", jnp.bfloat16)

    def gradient(kernel, x):
        return jax.grad(lambda kernel: jnp.sin(project(x, kernel).astype(jnp.float32)).sum())(kernel)

    mapped = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=(P(), P("data")), out_specs=P()))
    np.testing.assert_allclose(mapped(kernel, x), gradient(kernel, x), rtol=1e-5, atol=1e-5)
