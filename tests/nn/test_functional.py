"""functionalize: modules as pure functions."""

import concurrent.futures
import copy
import dataclasses
import functools
import gc
import pickle
import subprocess
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.memory import count_objects
from tests.nn.models import TINY, VARIANTS, D, L, N, V
from tfm_jax import generate, nn

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


class Scaled(nnx.Module):
    """A module from outside the library, which counts how often it is called."""

    calls = 0

    def __init__(self, size, *, rngs):
        self.scale = nnx.Param(jnp.ones(size))

    def axes(self):
        return {"scale": "D"}

    def __call__(self, x):
        Scaled.calls += 1
        return x * self.scale[...]


def test_models_of_equal_arguments_are_equal():
    model = nn.functionalize(nn.Classifier, CONFIG, n_classes=7, pooling="first")
    same = nn.functionalize(nn.Classifier, dataclasses.replace(CONFIG), pooling="first", n_classes=7)
    assert model == same and hash(model) == hash(same)
    assert (model.init, model.apply) == (same.init, same.apply)
    others = (
        nn.functionalize(nn.Classifier, CONFIG, n_classes=8, pooling="first"),
        nn.functionalize(nn.Classifier, CONFIG, n_classes=7, pooling="mean"),
        nn.functionalize(nn.Decoder, CONFIG),
    )
    for other in others:
        assert model != other and model.apply != other.apply
    assert nn.functionalize(Scaled, 1) != nn.functionalize(Scaled, True)
    assert repr(nn.functionalize(Scaled, size=3)) == "functionalize(Scaled, size=3)"


def test_a_model_with_an_argument_that_is_not_hashable_equals_itself_alone():
    model, other = (nn.functionalize(Scaled, [3]) for _ in range(2))
    assert model == model and model != other
    assert hash(model) == hash(model)
    np.testing.assert_array_equal(jax.jit(model.apply)({"scale": 2 * jnp.ones(3)}, jnp.ones(3)), 2.0)


def test_equal_models_compile_once():
    def make():
        return nn.functionalize(Scaled, 4)

    params, x = {"scale": jnp.ones(4)}, jnp.ones(4)
    apply = functools.partial(jax.jit, static_argnums=0)(lambda model, params, x: model.apply(params, x))
    Scaled.calls, first = 0, make()
    jax.jit(first.apply)(params, x)
    second = make()
    del first
    gc.collect()
    jax.jit(second.apply)(params, x)
    jax.jit(pickle.loads(pickle.dumps(second)).apply)(params, x)
    assert Scaled.calls == 1
    for _ in range(2):
        apply(make(), params, x)
    assert Scaled.calls == 2


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_model_is_equal(copied):
    model = nn.functionalize(nn.Decoder, CONFIG)
    for x in (model, model.apply, model.init):
        assert copied(x) == x
    params = model.init(jax.random.key(0))
    np.testing.assert_array_equal(copied(model).apply(params, TOKENS), model.apply(params, TOKENS))


def test_a_pickled_model_in_another_process(tmp_path):
    path = tmp_path / "model"
    model = nn.functionalize(nn.Decoder, CONFIG)
    hash(model)  # it is cached, and another in the other process
    path.write_bytes(pickle.dumps((model, model.apply, CONFIG)))
    code = (
        "import pickle, jax, sys; from tfm_jax import nn;"
        "model, apply, config = pickle.load(open(sys.argv[1], 'rb'));"
        "same = nn.functionalize(nn.Decoder, config);"
        "assert model == same and hash(model) == hash(same);"
        "assert apply == same.apply and hash(apply) == hash(same.apply);"
        "print(sum(x.size for x in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    ).stdout
    assert int(out) == nn.summary(nn.functionalize(nn.Decoder, CONFIG)).n_params


def test_threads_get_the_same_model():
    config = dataclasses.replace(CONFIG, d_ff=13)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda _: nn.functionalize(nn.Decoder, config), range(32)))
    assert len(set(map(id, models))) == 1


def test_a_model_that_nobody_holds_is_freed():
    model = nn.functionalize(nn.Decoder, dataclasses.replace(CONFIG, d_ff=9))
    jax.jit(model.apply)(model.init(jax.random.key(0)), TOKENS)
    freed = weakref.ref(model)
    del model
    gc.collect()
    assert freed() is None


def test_making_and_running_one_config_again_keeps_no_memory():
    params = nn.functionalize(nn.Decoder, CONFIG).init(jax.random.key(0))

    def objects():
        model = nn.functionalize(nn.Decoder, CONFIG)
        generate.greedy(model, params, TOKENS, generate.GenerationConfig(max_length=2, eos_ids=()))
        jax.jit(model.apply)(params, TOKENS)
        del model
        return count_objects()

    counts = [objects() for _ in range(6)]
    # A cache that lets go of an object makes it fewer.
    assert counts[-1] <= counts[2], counts


def test_module_and_config():
    model = nn.functionalize(nn.Decoder, config=CONFIG)
    assert model.module is nn.Decoder and model.config is CONFIG
    with pytest.raises(
        AttributeError, match=r"got functionalize\(Scaled, 3\) without a Config among its arguments"
    ):
        _ = nn.functionalize(Scaled, 3).config


def test_bind_gives_the_module_with_its_methods():
    model = nn.functionalize(nn.Decoder, CONFIG)
    params = model.init(jax.random.key(0))
    module = model.bind(params)
    assert isinstance(module, nn.Decoder)
    hidden = module.hidden(TOKENS)
    np.testing.assert_array_equal(module.unembed(hidden), model.apply(params, TOKENS))
    with pytest.raises(ValueError, match="params: got those of another model"):
        model.bind({})


class Layers(nnx.Module):
    """Stacked and listed modules and parameters from outside the library."""

    def __init__(self, axes, *, rngs):
        self.declared = tuple(axes.items())
        self.stacked = nnx.vmap(lambda key: Scaled(5, rngs=rngs), in_axes=0)(jnp.arange(3))
        self.listed = nnx.List([Scaled(5, rngs=rngs), Scaled(5, rngs=rngs)])
        self.tables = nnx.List([nnx.Param(jnp.ones((2, 5)))])
        self.nothing = None

    def axes(self):
        return dict(self.declared)


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_axes_of_every_model(fields):
    def check(module, **more):
        model = nn.functionalize(module, dataclasses.replace(TINY, **fields | more))
        sizes = jax.tree.map(lambda x: x.shape, jax.eval_shape(model.init, jax.random.key(0)))

        def same(path, axes, shape):
            names = {"V": V, "D": D, "N": N, "H": config.H, "K": config.K, "F": config.d_ff, "L": L}
            for letter, size in zip(axes.split(), shape, strict=True):
                assert names.get(letter, size) == size, (path, axes, shape)

        config = model.config
        jax.tree_util.tree_map_with_path(same, model.axes(), sizes)
        return model.axes()

    without_logits = {name: None for name in fields if name.startswith("logits")}
    check(nn.Decoder)
    axes = check(nn.EncoderDecoder, share_embeddings=False)
    assert axes["decoder"]["layers"]["cross_attention"]["output"]["kernel"] == "L N H D"
    assert axes["source_embedding"]["table"] == "V D"
    if not without_logits:
        check(nn.MaskedLanguageModel, token_types=3)
        check(nn.Classifier, patches=nn.Patches(2, 3, class_token=True))
        check(nn.Encoder, pooler=nn.Pooler())


AXES = {"stacked": "L", "tables": "E D", "nothing": "D"}


def test_axes_of_a_module_from_outside():
    model = nn.functionalize(Layers, AXES)
    assert model.axes() == {
        "stacked": {"scale": "L D"},
        "listed": {0: {"scale": "D"}, 1: {"scale": "D"}},
        "tables": {0: "E D"},
    }
    assert jax.tree.structure(model.axes()) == jax.tree.structure(model.init(jax.random.key(0)))


def test_undeclared_axes_are_question_marks():
    axes = nn.functionalize(Layers, {"stacked": "L"}).axes()
    assert axes["tables"] == {0: "? ?"}
    assert axes["stacked"] == {"scale": "L D"}


@pytest.mark.parametrize(
    ("axes", "error"),
    [
        (
            {"tables": "E D"},
            r"got axes 'D' for parameter stacked/scale float32\[3, 5\] of Scaled; wanted a letter",
        ),
        (
            AXES | {"tables": "E"},
            r"got axes 'E' for parameter tables/0 .*; wanted a letter for each of its 2 axes",
        ),
        (AXES | {"other": "E"}, "got axes of other from Layers; wanted names of its attributes"),
    ],
)
def test_wrong_axes_are_named(axes, error):
    with pytest.raises(ValueError, match=f"^Pure.axes: {error}"):
        nn.functionalize(Layers, axes).axes()
