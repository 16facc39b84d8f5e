"""``linear_cross_entropy`` on meshes: one device's numbers, chunks of a device's tokens, one reduction."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.programs import equations
from tfm_jax.ops.losses import cross_entropy, linear_cross_entropy
from tfm_jax.sharding import ShardingRules, use_rules
from tfm_jax.train.plan import programs

B, T, D, V = 8, 12, 16, 24
TOKENS = ("data", "fsdp")
NAMES = ("data", "fsdp", "tensor", "sequence")
MESHES = {
    "data 8": (8, 1, 1, 1),
    "fsdp 8": (1, 8, 1, 1),
    "tensor 8": (1, 1, 8, 1),
    "data 2, fsdp 2, tensor 2": (2, 2, 2, 1),
    "data 2, sequence 4": (2, 1, 1, 4),
    "fsdp 2, tensor 2, sequence 2": (1, 2, 2, 2),
}
OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.01, "ignore_index": 3}


def make_mesh(name, kind=AxisType.Auto):
    return jax.make_mesh(MESHES[name], NAMES, axis_types=(kind,) * 4)


def draw(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    hidden, kernel, bias = (rng.normal(size=shape) for shape in ((B, T, D), (D, V), (V,)))
    weights, labels = rng.uniform(size=(B, T)), rng.integers(0, V, (B, T))
    floats = jnp.asarray(hidden, dtype), *(jnp.asarray(x, jnp.float32) for x in (kernel, bias, weights))
    return *floats, jnp.asarray(labels)


def place(mesh, hidden, kernel, bias, weights, labels):
    specs = P(TOKENS, "sequence"), P("fsdp", "tensor"), P("tensor"), *[P(TOKENS, "sequence")] * 2
    arrays = hidden, kernel, bias, weights, labels
    return [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(arrays, specs, strict=True)]


def loss(hidden, kernel, bias, weights, labels, chunk_size=5):
    return linear_cross_entropy(
        hidden, kernel, labels, bias=bias, weights=weights, chunk_size=chunk_size, **OPTIONS
    )


@functools.partial(jax.jit, static_argnums=5)
def loss_and_gradients(hidden, kernel, bias, weights, labels, chunk_size=5):
    def by(*floats):
        return loss(*floats, labels, chunk_size)

    return jax.value_and_grad(by, (0, 1, 2, 3), has_aux=True)(hidden, kernel, bias, weights)


@functools.cache
def reference():
    """(sum, weight) and the gradients, in float64, from the definition."""
    hidden, kernel, bias, weights, labels = (np.asarray(x, np.float64) for x in draw())
    labels, (smoothing, z_loss) = labels.astype(int), (OPTIONS["label_smoothing"], OPTIONS["z_loss"])
    used = labels != OPTIONS["ignore_index"]
    logits = hidden @ kernel + bias
    log_z = np.log(np.exp(logits).sum(-1))
    target = (1 - smoothing) * np.eye(V)[labels] + smoothing / V
    losses = (target * (log_z[..., None] - logits)).sum(-1) + z_loss * log_z**2
    softmax = np.exp(logits - log_z[..., None])
    by_logits = softmax * (1 + 2 * z_loss * log_z[..., None]) - target
    by_logits = by_logits * np.where(used, weights, 0)[..., None]
    by_kernel = np.einsum("btd,btv->dv", hidden, by_logits)
    gradients = by_logits @ kernel.T, by_kernel, by_logits.sum((0, 1)), np.where(used, losses, 0)
    return ((weights * losses)[used].sum(), weights[used].sum()), gradients


def assert_close(found, wanted, tolerance=1e-5):
    for ours, right in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = max(1.0, float(np.abs(right).max()))
        np.testing.assert_allclose(np.asarray(ours, np.float64), right, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", MESHES)
def test_values_and_gradients_are_the_reference(name, kind):
    mesh = make_mesh(name, kind)
    with jax.set_mesh(mesh):
        arrays = place(mesh, *draw())
        found = loss_and_gradients(*arrays)
    assert_close(found, reference())
    for gradient, x in zip(found[1], arrays[:4], strict=True):
        assert gradient.sharding.is_equivalent_to(x.sharding, x.ndim)


def test_the_reference_is_that_of_one_device_and_of_all_logits():
    hidden, kernel, bias, weights, labels = draw()
    assert_close(loss_and_gradients(hidden, kernel, bias, weights, labels), reference())
    logits = hidden @ kernel + bias[None, None]
    assert_close(cross_entropy(logits, labels, weights=weights, **OPTIONS), reference()[0])


@pytest.mark.parametrize("name", ["fsdp 8", "data 2, fsdp 2, tensor 2"])
def test_bfloat16_products_and_float32_sums(name):
    mesh = make_mesh(name)
    with jax.set_mesh(mesh):
        arrays = place(mesh, *draw(jnp.bfloat16))
        program = jax.make_jaxpr(loss_and_gradients, static_argnums=5)(*arrays, 5)
        found = loss_and_gradients(*arrays)
    assert_close(found, reference(), 0.02)
    assert [x.dtype.name for x in found[1]] == ["bfloat16", *["float32"] * 3]
    inside = list(equations(program.jaxpr))
    products = [e for e in inside if "dot_general" in e.primitive.name]
    assert len(products) == 3  # the logits once, and the gradients
    assert {x.aval.dtype.name for e in products for x in e.invars} == {"bfloat16"}
    assert {e.outvars[0].aval.dtype.name for e in products} == {"float32"}
    names = {"all_gather": "bfloat16", "reduce_scatter": "float32"}
    for primitive, dtype in names.items():
        found = {x.aval.dtype.name for e in inside if e.primitive.name == primitive for x in e.invars}
        assert found == {dtype}


@functools.cache
def compiled(name, chunk_size):
    mesh = make_mesh(name)
    with jax.set_mesh(mesh):
        return loss_and_gradients.lower(*place(mesh, *draw()), chunk_size).compile().as_text()


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("chunk_size", [3, 5])
def test_a_device_runs_through_its_own_tokens(name, chunk_size):
    data, fsdp, tensor, sequence = MESHES[name]
    n = B * T // (data * fsdp * sequence)
    text, trips = compiled(name, chunk_size), math.ceil(n / chunk_size)
    assert {dot.count for dot in programs.dots(text)} == {trips}
    classes = V // tensor
    shapes = [x.shape for x in programs.temporaries(text)]
    assert any(sorted(shape) == sorted([math.ceil(n / trips), classes]) for shape in shapes)  # of a chunk
    assert not any(classes in shape and math.prod(shape) == n * classes for shape in shapes)  # of all tokens


@pytest.mark.parametrize("name", MESHES)
def test_the_gradient_of_the_kernel_is_summed_once(name):
    _, fsdp, tensor, _ = MESHES[name]
    found = programs.collectives(compiled(name, 3))
    inside = [c for c in found if "while/body" in c.name]
    # Inside the loop a device sends a few numbers a token, and only to those with other classes.
    assert all(math.prod(c.shape) <= 3 * 3 for c in inside)
    assert bool(inside) == (tensor > 1)
    kernels = [
        c for c in found if math.prod(c.shape) >= D * V // (fsdp * tensor) and c.shape[0] in (D, D // fsdp)
    ]
    assert all(c.count == 1 for c in kernels)
    kinds = [c.kind for c in kernels]
    assert kinds.count("all-gather") == kinds.count("reduce-scatter") == (fsdp > 1)


def test_under_other_rules_another_axis_shards_the_tokens():
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
    rules = ShardingRules(parameters={}, activations={"B": "rows"})
    with jax.set_mesh(mesh), use_rules(rules):
        hidden, *others = draw()
        arrays = jax.device_put(hidden, NamedSharding(mesh, P("rows"))), *others
        text = loss_and_gradients.lower(*arrays, 3).compile().as_text()
        assert_close(loss_and_gradients(*arrays, 3), reference())
    assert {dot.count for dot in programs.dots(text)} == {B * T // 8 // 3}


def test_a_mesh_of_size_1_is_none():
    mesh = jax.make_mesh((1,) * 4, NAMES, axis_types=(AxisType.Auto,) * 4, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        program = jax.make_jaxpr(loss)(*draw())
    assert not [e for e in equations(program.jaxpr) if "shard_map" in e.primitive.name]


def test_jvp_second_derivatives_and_vmap_on_a_mesh():
    mesh = make_mesh("data 2, fsdp 2, tensor 2")
    hidden, kernel, bias, weights, labels = draw()

    def of_all_logits(hidden, kernel, bias, weights, labels):
        logits = hidden @ kernel + bias[None, None]
        return cross_entropy(logits, labels, weights=weights, **OPTIONS)

    def slope(function, *arrays):
        return jax.jvp(lambda h, k: function(h, k, *arrays[2:]), arrays[:2], arrays[:2])

    def squared_gradient(function, *arrays):
        def norm(kernel):
            by_hidden, by_kernel = jax.grad(lambda h, k: function(h, k, *arrays[2:])[0], (0, 1))(
                arrays[0], kernel
            )
            return jnp.sum(jnp.square(by_hidden)) + jnp.sum(jnp.square(by_kernel))

        return jax.grad(norm)(arrays[1])

    def many(function, *arrays):
        stacked = jnp.stack([arrays[0], 2 * arrays[0]])
        return jax.vmap(lambda h: jax.value_and_grad(lambda k: function(h, k, *arrays[2:])[0])(arrays[1]))(
            stacked
        )

    for derivative in (slope, squared_gradient, many):
        wanted = derivative(of_all_logits, hidden, kernel, bias, weights, labels)
        with jax.set_mesh(mesh):
            arrays = place(mesh, hidden, kernel, bias, weights, labels)
            found = jax.jit(functools.partial(derivative, loss))(*arrays)
        assert_close(found, wanted, 1e-4)


@pytest.mark.parametrize("checked", [True, False])
def test_inside_a_map_over_some_of_the_axes(checked):
    mesh = make_mesh("data 2, fsdp 2, tensor 2")

    def part(hidden, kernel, bias, weights, labels):
        kernel = jax.lax.pcast(kernel, "data", to="varying") if checked else kernel
        total, by_kernel = jax.value_and_grad(lambda k: loss(hidden, k, bias, weights, labels)[0])(kernel)
        return jax.lax.psum((total, by_kernel), "data")

    specs = P("data"), P(), P(), P("data"), P("data")
    with jax.set_mesh(mesh):
        arrays = place(mesh, *draw())
        mapped = jax.shard_map(part, in_specs=specs, out_specs=P(), axis_names={"data"}, check_vma=checked)
        found = jax.jit(mapped)(*arrays)
    (total, _), (_, by_kernel, _, _) = reference()
    assert_close(found, (total, by_kernel))


def test_bad_labels_and_nonfinite_hidden_states_on_a_mesh():
    mesh = make_mesh("data 2, fsdp 2, tensor 2")
    hidden, kernel, bias, weights, labels = draw()
    weights, labels = weights.at[2, 1].set(0), labels.at[1, 5].set(V)
    with jax.set_mesh(mesh):
        arrays = place(mesh, hidden.at[2, 1].set(jnp.nan), kernel, bias, weights, labels)
        (total, weight), (by_hidden, *_) = loss_and_gradients(*arrays)
    assert np.isnan(total) and np.isfinite(weight)
    assert np.argwhere(np.isnan(by_hidden).any(-1)).tolist() == [[1, 5]]
    assert not np.any(by_hidden[2, 1])


def test_sizes_that_do_not_divide():
    mesh = make_mesh("data 2, fsdp 2, tensor 2")
    hidden, kernel, bias, weights, labels = draw()
    with jax.set_mesh(mesh):
        with pytest.raises(
            ValueError, match=r"linear_cross_entropy: got B = 6 in B T V .*; wanted a multiple of 4"
        ):
            loss(hidden[:6], kernel, bias, weights[:6], labels[:6])
        with pytest.raises(ValueError, match=r"linear_cross_entropy: got V = 23 in B T V .*tensor"):
            loss(hidden, kernel[:, :23], bias[:23], weights, labels)
