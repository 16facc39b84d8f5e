"""Shardings in axis letters: every rule and its errors, and ``constrain`` under each kind of mapping."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tfm_jax import nn
from tfm_jax.sharding import (
    ShardingRules,
    activation_spec,
    constrain,
    current_rules,
    free_axes,
    parameter_specs,
    ruled_axes,
    use_rules,
)

AXES = ("data", "fsdp", "tensor", "sequence", "expert")


def mesh_of(*sizes, kind=AxisType.Auto, names=AXES):
    sizes = (*sizes, *(1,) * (len(names) - len(sizes)))
    return jax.make_mesh(
        sizes, names, axis_types=(kind,) * len(names), devices=jax.devices()[: int(np.prod(sizes))]
    )


def spec(letters, shape, mesh, rules=None, path="w"):
    return parameter_specs({path: letters}, {path: jax.ShapeDtypeStruct(shape, jnp.float32)}, mesh, rules)[
        path
    ]


@pytest.mark.parametrize(
    ("letters", "shape", "sizes", "wanted"),
    [
        ("V D", (16, 8), (1, 4, 2), P("tensor", "fsdp")),
        ("D N H", (8, 4, 6), (2, 2, 2), P("fsdp", "tensor", None)),
        ("L D K H", (3, 8, 2, 6), (2, 2, 2), P(None, "fsdp", "tensor", None)),
        ("N H D", (4, 6, 8), (1, 2, 4), P("tensor", None, "fsdp")),
        ("F D", (8, 16), (1, 8), P(None, "fsdp")),
        ("E D F", (4, 8, 6), (1, 2, 1, 1, 4), P("expert", "fsdp", None)),
        ("D", (8,), (8,), P(None)),  # parameters are not sharded over data
        ("R N", (32, 1), (1, 1, 8), P(None, None)),  # a size of 1 is replicated
        ("? ?", (5, 7), (2, 2, 2), P(None, None)),
        ("W D", (5, 8), (1, 2, 2), P(None, "fsdp")),  # a letter without a rule
        ("", (), (2, 2, 2), P()),
    ],
)
def test_rules_of_parameters(letters, shape, sizes, wanted):
    assert spec(letters, shape, mesh_of(*sizes)) == wanted


def test_rules_of_a_model_name_every_parameter():
    config = nn.Config(vocab_size=16, d_model=8, n_layers=2, n_heads=4, d_ff=12, pooler=nn.Pooler())
    model = nn.functionalize(nn.Encoder, config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    specs = parameter_specs(model.axes(), shapes, mesh_of(1, 2, 4))
    assert specs["embedding"]["table"] == P("tensor", "fsdp")
    assert specs["stack"]["layers"]["attention"]["output"]["kernel"] == P(None, "tensor", None, "fsdp")
    assert specs["pooler"]["dense"]["kernel"] == P(None, None)  # the exception: D twice
    assert jax.tree.structure(specs) == jax.tree.structure(shapes)
    masked = nn.functionalize(nn.MaskedLanguageModel, dataclasses.replace(config, pooler=None))
    specs = parameter_specs(masked.axes(), jax.eval_shape(masked.init, jax.random.key(0)), mesh_of(1, 2, 4))
    assert specs["dense"]["kernel"] == P(None, None)


def test_a_mesh_without_the_usual_axes():
    mesh = mesh_of(4, 2, names=("data", "model"))
    assert spec("D F", (8, 6), mesh) == P(None, None)
    assert spec("D F", (8, 6), mesh, ShardingRules({"F": "model"})) == P(None, "model")


def test_exceptions_by_path_and_the_later_one_wins():
    rules = ShardingRules(exceptions={"*table": {"V": None}, "b*": {"V": ("fsdp", "tensor"), "D": None}})
    mesh = mesh_of(1, 2, 4)
    assert spec("V D", (16, 8), mesh, rules, "a/table") == P(None, "fsdp")
    assert spec("V D", (16, 8), mesh, rules, "b/table") == P(("fsdp", "tensor"), None)
    assert spec("V D", (16, 8), mesh, rules, "c") == P("tensor", "fsdp")


def test_a_question_mark_replicates_what_is_not_divisible():
    rules = ShardingRules({"V": "tensor?", "D": ("fsdp", "data?")})
    mesh = mesh_of(2, 2, 2)
    assert spec("V D", (7, 8), mesh, rules) == P(None, ("fsdp", "data"))
    assert spec("V D", (8, 6), mesh, rules) == P("tensor", None)


@pytest.mark.parametrize(
    ("letters", "shape", "error"),
    [
        (
            "V D",
            (7, 8),
            r"parameter_specs: stack/table: got V = 7 in V D of shape \[7, 8\]; wanted a multiple of 4, the "
            r"devices of the mesh axis tensor. Choose another mesh, or the rule 'V': 'tensor\?'",
        ),
        (
            "D D",
            (8, 8),
            "parameter_specs: stack/table: got the mesh axis 'fsdp' for D and D of D D; wanted it once in an "
            "array. Add an exception",
        ),
    ],
)
def test_errors_name_the_parameter(letters, shape, error):
    with pytest.raises(ValueError, match=error):
        parameter_specs(
            {"stack": {"table": letters}},
            {"stack": {"table": jax.ShapeDtypeStruct(shape, jnp.float32)}},
            mesh_of(1, 2, 4),
        )


@pytest.mark.parametrize(
    ("tables", "error"),
    [
        ({"parameters": {"W": "tensor"}}, r"got a rule for 'W'; wanted one of B, .*letters=\('W',\)"),
        ({"activations": {"d": None}}, "got a rule for 'd'"),
        ({"exceptions": {"*": {"": None}}}, "got a rule for ''"),
        ({"parameters": {"D": 3}}, "got 'D': 3; wanted None, a mesh axis"),
        ({"parameters": {"D": ("fsdp", None)}}, r"got 'D': \('fsdp', None\); wanted"),
    ],
)
def test_rules_that_are_errors(tables, error):
    with pytest.raises(ValueError, match=f"ShardingRules: {error}"):
        ShardingRules(**tables)


def test_letters_of_your_own_and_with_a_suffix():
    rules = ShardingRules({"W": "tensor", "Hv": "fsdp"}, letters=("W",))
    assert spec("W Hv", (4, 6), mesh_of(1, 2, 4), rules) == P("tensor", "fsdp")
    assert rules == ShardingRules({"W": "tensor", "Hv": "fsdp"}, letters=("W",))
    assert hash(rules) != hash(ShardingRules({"W": "fsdp"}, letters=("W",)))


def test_a_mesh_axis_that_does_not_exist():
    error = "got 'D': 'fsdb'; wanted one of the mesh axes data, fsdp"
    with pytest.raises(ValueError, match=error):
        spec("V", (8,), mesh_of(1, 2), ShardingRules({"D": "fsdb"}))
    with pytest.raises(ValueError, match=error):
        spec("V", (8,), mesh_of(1, 2), ShardingRules(exceptions={"*": {"D": "fsdb"}}))
    rules = ShardingRules(activations={"D": "fsdb?"})
    with use_rules(rules), jax.set_mesh(mesh_of(1, 2)), pytest.raises(ValueError, match=r"got 'D': 'fsdb\?'"):
        constrain(jnp.ones((4, 4)), "B T")
    with use_rules(rules), jax.set_mesh(mesh_of(1, 2)), pytest.raises(ValueError, match=r"got 'D': 'fsdb\?'"):
        ruled_axes()


def test_constrain_is_the_identity_without_a_mesh_that_the_rules_name():
    x = jnp.ones((3, 5, 7))
    assert constrain(x, "B T D") is x
    for mesh in (mesh_of(1), mesh_of(8, names=("other",))):
        with jax.set_mesh(mesh):
            assert constrain(x, "B T D") is x


KINDS = [AxisType.Auto, AxisType.Explicit]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("letters", "shape", "wanted"),
    [
        ("B T D", (8, 6, 5), P(("data", "fsdp"))),
        ("B T N H", (8, 6, 4, 3), P(("data", "fsdp"), None, "tensor")),
        ("B S K H", (1, 6, 4, 3), P(None, None, "tensor")),  # a batch of one
        ("B K ? H", (8, 4, 6, 3), P(("data", "fsdp"), "tensor")),
        ("T V", (6, 4), P(None, "tensor")),
        ("B T D", (6, 5), P()),  # without the batch
        ("B", (3, 8), P(None, ("data", "fsdp"))),  # further leading axes
        ("V", (8, 6, 4), P(None, None, "tensor")),
        ("B T S", (8, 6, 6), P()),  # left to the compiler
        ("B", (), P()),
    ],
)
def test_constrain_shards_by_the_letters(kind, letters, shape, wanted):
    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    with jax.set_mesh(mesh_of(2, 2, 2, kind=kind)) as mesh:
        y = jax.jit(lambda x: constrain(x, letters))(x)
        assert y.sharding.is_equivalent_to(NamedSharding(jax.sharding.get_mesh(), wanted), y.ndim), mesh
    np.testing.assert_array_equal(y, x)


def test_constrain_keeps_the_sharding_of_leading_axes():
    with jax.set_mesh(mesh_of(2, 2, 2, kind=AxisType.Explicit)):
        x = jax.sharding.reshard(jnp.ones((2, 6, 4)), P("data"))
        y = jax.jit(lambda x: constrain(x, "T V"))(x)
        assert y.sharding.spec == P("data", None, "tensor")


def test_constrain_names_what_does_not_fit():
    with jax.set_mesh(mesh_of(2, 2, 2)):
        with pytest.raises(
            ValueError, match=r"constrain\(x, 'B T D'\): got B = 6 in B T D of shape \[6, 4, 4\]"
        ):
            constrain(jnp.ones((6, 4, 4)), "B T D")
        rules = ShardingRules(activations={"B": "data", "D": "data"})
        with (
            use_rules(rules),
            pytest.raises(ValueError, match="got the mesh axis 'data' for B and D of B T D"),
        ):
            constrain(jnp.ones((6, 4, 4)), "B T D")


def constrained_loss(w, x):
    def layer(x, w):
        return constrain(jnp.tanh(constrain(x, "B T D") @ w), "B T D"), None

    return jax.lax.scan(layer, x, w)[0].sum()


@pytest.mark.parametrize("kind", KINDS)
def test_constrain_in_scan_and_in_the_backward_pass(kind):
    w = jax.random.normal(jax.random.key(0), (3, 6, 6))
    x = jax.random.normal(jax.random.key(1), (8, 4, 6))
    wanted = jax.value_and_grad(constrained_loss, (0, 1))(w, x)
    with jax.set_mesh(mesh_of(2, 2, 2, kind=kind)):
        step = jax.jit(jax.value_and_grad(jax.checkpoint(constrained_loss), (0, 1)))
        if kind == AxisType.Explicit:
            x = constrain(x, "B T D")
        got = step(w, x)
        text = step.lower(w, x).as_text()
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, wanted)
    if kind == AxisType.Auto:  # forward, recomputed, and of the gradients
        assert text.count("sharding_constraint") >= 6
    assert got[1][1].sharding.spec[0] == ("data", "fsdp")


def test_constrain_under_vmap():
    x = jnp.arange(8 * 4 * 6, dtype=jnp.float32).reshape(8, 4, 6)
    with jax.set_mesh(mesh_of(2, 2, 2)) as _:
        x_sharded = jax.device_put(x, P(None, "data"))
        y = jax.jit(jax.vmap(lambda x: constrain(2 * x, "B D")))(x_sharded)
        assert y.sharding.spec == P(None, ("data", "fsdp"))
        z = jax.jit(jax.vmap(lambda x: constrain(2 * x, "T V")))(x_sharded)
        assert z.sharding.spec == P(None, None, "tensor")
    np.testing.assert_array_equal(y, 2 * x)
    np.testing.assert_array_equal(z, 2 * x)


def test_constrain_is_the_identity_in_shard_map_and_pmap():
    x = jnp.arange(8 * 6 * 4, dtype=jnp.float32).reshape(8, 6, 4)
    with jax.set_mesh(mesh_of(2, 2, 2)):

        def shard(x):
            assert free_axes() == {} and constrain(x, "B T D") is x
            return constrain(2 * x, "B T V")

        y = jax.jit(jax.shard_map(shard, in_specs=P(("data", "fsdp")), out_specs=P(("data", "fsdp"))))(x)
    np.testing.assert_array_equal(y, 2 * x)
    np.testing.assert_array_equal(jax.pmap(lambda x: constrain(2 * x, "T D"))(x), 2 * x)


def test_constrain_in_shard_map_over_some_axes():
    x = jnp.arange(8 * 6 * 4, dtype=jnp.float32).reshape(8, 6, 4)
    with jax.set_mesh(mesh_of(2, 2, 2)):

        def shard(x):
            assert free_axes() == {"fsdp": 2, "tensor": 2} and x.shape == (4, 6, 4)
            assert activation_spec("x", "B T V", x.shape) == P("fsdp", None, "tensor")
            return constrain(2 * x, "B T V")

        mapped = jax.shard_map(shard, in_specs=P("data"), out_specs=P("data"), axis_names={"data"})
        y = jax.jit(mapped)(x)
        assert y.sharding.spec == P(("data", "fsdp"), None, "tensor")
    np.testing.assert_array_equal(y, 2 * x)


def test_other_rules_trace_again():
    traces = []

    @jax.jit
    def f(x):
        traces.append(current_rules())
        return constrain(x, "B D")

    x, other = jnp.ones((8, 4)), ShardingRules(activations={"B": "tensor"})
    with jax.set_mesh(mesh_of(2, 2, 2)):
        assert f(x).sharding.spec == P(("data", "fsdp"))
        with use_rules(other):
            assert f(x).sharding.spec == P("tensor")
        with use_rules(ShardingRules(activations={"B": "tensor"})):  # equal rules
            f(x)
        f(x)
    assert traces == [ShardingRules(), other]
