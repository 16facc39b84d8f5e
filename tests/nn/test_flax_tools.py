"""Flax's ``nnx.tabulate``, ``nnx.display`` and ``nnx.capture`` on every module; configs can be pickled."""

import copy
import dataclasses
import functools
import os
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import treescope
from flax import nnx

from tests.nn import third_party
from tests.nn.models import TINY, VARIANTS, B, D, L, T, tokens
from tfm_jax import nn, registry
from tfm_jax.ops import masks
from tfm_jax.ops.backends import BACKENDS

SMALL = dataclasses.replace(TINY, n_layers=2)
IDS = tokens(B, T)
VALID = jnp.asarray(np.arange(T) < np.array([[T], [T - 2]]))
X = jnp.ones((B, T, D))
IMAGES = dataclasses.replace(SMALL, vocab_size=0, patches=nn.Patches(4, 6, 1, (2, 2)))
POOLED = dataclasses.replace(SMALL, token_types=2, pooler=nn.Pooler("tanh"))
EXPERTS = dataclasses.replace(SMALL, feed_forward=nn.MixtureOfExperts(4, 2), remat="full", dropout_rate=0.1)
THIRD_PARTY = dataclasses.replace(
    SMALL, norm=third_party.DynamicTanh(), positions=third_party.Swing(), feed_forward=third_party.Experts()
)


IN_GRAPH_MODE = pytest.mark.skipif(
    os.environ.get("NNX_GRAPH_MODE") == "false",
    reason="nnx.tabulate then traces flags such as return_weights",
)


def with_variant(name, **fields):
    return dataclasses.replace(SMALL, **VARIANTS[name] | fields)


MODULES = {
    "decoder": (nn.Decoder, (with_variant("alibi"),), (IDS,), {"mask": masks.padding(VALID)}),
    "encoder-decoder": (
        *(nn.EncoderDecoder, (with_variant("rope"),), (IDS, IDS)),
        {"source_mask": masks.padding(VALID), "return_weights": True},
    ),
    "classifier": (nn.Classifier, (POOLED, 3, "first"), (IDS, VALID), {}),
    "attention": (nn.MultiHeadAttention, (SMALL,), (X,), {"mask": masks.causal()}),
    "experts": (nn.Decoder, (EXPERTS,), (IDS,), {"key": jax.random.key(0), "return_auxiliary": True}),
}
SLOW_MODULES = {
    "masked": (nn.MaskedLanguageModel, (SMALL,), (IDS,), {"mask": masks.padding(VALID)}),
    "images": (nn.Encoder, (IMAGES,), (jnp.ones((B, 4, 6, 1)),), {}),
    "unrolled": (nn.Decoder, (dataclasses.replace(SMALL, unroll=True),), (IDS,), {}),
    "third party": (nn.Decoder, (THIRD_PARTY,), (IDS,), {}),
    "block": (nn.DecoderBlock, (SMALL,), (X,), {"memory": X, "mask": masks.causal() & masks.window(2)}),
    "stack": (nn.EncoderStack, (with_variant("relative"),), (X,), {"mask": masks.padding(VALID)}),
    "embedding": (nn.Embedding, (POOLED,), (IDS,), {}),
    "head": (nn.ClassificationHead, (SMALL, 3, "mean"), (X,), {}),
    **{
        f"{module.__name__} {name}": (module, (with_variant(name),), (IDS, IDS)[:n], {})
        for name in VARIANTS
        for module, n in ((nn.Decoder, 1), (nn.EncoderDecoder, 2))
    },
}


@pytest.fixture
def clean_classes():
    """Undoes what ``nnx.tabulate`` leaves in classes: inherited methods, on which ``nnx.capture`` fails, and
    after an error its wrappers."""
    classes = {}

    def watch(model):
        for _, module in nnx.iter_modules(model):
            classes.setdefault(type(module), dict(vars(type(module))))
        return model

    yield watch
    for cls, attributes in classes.items():
        for name, value in dict(vars(cls)).items():
            if name not in attributes:
                delattr(cls, name)
            elif value is not attributes[name]:
                setattr(cls, name, attributes[name])


def check_table(name, watch):
    module, args, inputs, options = (MODULES | SLOW_MODULES)[name]
    model = watch(module(*args, rngs=nnx.Rngs(0)))
    table = nnx.tabulate(model, *inputs, **options, console_kwargs={"force_terminal": False, "width": 300})
    (total,) = re.findall(r"Total Parameters: ([\d,]+)", table)
    assert int(total.replace(",", "")) == nn.summary(nn.functionalize(module, *args)).n_params
    paths = set(re.findall(r"^│ (\S*)", table, re.MULTILINE))
    if "decoder" in name or name == "classifier":
        stack = "decoder" if module is nn.EncoderDecoder else "stack"
        stack = "encoder/stack" if module is nn.Classifier else stack
        assert {f"{stack}/layers/attention/query", f"{stack}/layers/feed_forward", f"{stack}/norm"} <= paths
    return table


@IN_GRAPH_MODE
@pytest.mark.parametrize("name", MODULES)
def test_tabulate_shows_every_module(name, clean_classes):
    table = check_table(name, clean_classes)
    if name == "attention":
        assert "mask: causal()" in table


@IN_GRAPH_MODE
@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_MODULES)
def test_tabulate_shows_modules_of_every_variant(name, clean_classes):
    check_table(name, clean_classes)


@pytest.mark.parametrize("name", MODULES | SLOW_MODULES)
def test_display_shows_every_module(name, capsys):
    module, args, _, _ = (MODULES | SLOW_MODULES)[name]
    model = nnx.eval_shape(lambda: module(*args, rngs=nnx.Rngs(0)))
    nnx.display(model)
    text = capsys.readouterr().out
    html = treescope.render_to_html(model, compressed=False)  # what a notebook shows
    assert text.startswith(f"{module.__name__}(") and module.__name__ in html
    for _, inner in nnx.iter_modules(model):
        assert f"{type(inner).__name__}(" in text and type(inner).__name__ in html


def capture(model, *inputs, **options):
    found = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(*inputs, **options)
    return found[0], nnx.to_pure_dict(found[1])


@functools.cache
def unrolled(module, name):
    return nn.functionalize(module, with_variant(name, unroll=True, n_layers=L))


@pytest.mark.parametrize("name", ["alibi", "rope"])
def test_capture_has_the_values_of_each_layer(name):
    model = unrolled(nn.Decoder, name)
    params = model.init(jax.random.key(1))
    output, found = capture(model.bind(params), IDS)
    wanted = model.apply(params, IDS)
    np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["__call__"][0], output)
    blocks = found["stack"]["layers"]["__call__"]
    assert len(blocks) == L
    # The layers one by one, by hand.
    bound = model.bind(params)
    positions = jnp.arange(T, dtype=jnp.int32)
    x, bias = (
        bound.stack.embed_positions(bound.embedding(IDS), positions),
        bound.stack.bias(positions, positions),
    )
    for (y, _), block in zip(blocks, bound.stack.unstack(), strict=True):
        x, _ = block(x, masks.causal(), positions=positions[None], bias=bias)
        np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-6)
    queries = found["stack"]["layers"]["attention"]["query"]["__call__"]
    assert len(queries) == L and not np.allclose(queries[0], queries[1])


def test_capture_of_extras_dropout_and_both_stacks_under_jit():
    model = unrolled(nn.EncoderDecoder, "sinusoidal")
    params = model.init(jax.random.key(1))

    @jax.jit
    def run(params, key):
        return capture(model.bind(params), IDS, IDS, key=key, return_weights=True)

    key = jax.random.key(2)
    (logits, extras), found = run(params, key)
    wanted, wanted_extras = model.apply(params, IDS, IDS, key=key, return_weights=True)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), extras, wanted_extras)
    for stack, name in (("encoder", "attention"), ("decoder", "attention"), ("decoder", "cross_attention")):
        values = found[stack]["layers"][name]["__call__"]
        assert len(values) == L and all(x.shape == (B, T, D) for x, _ in values)


def test_capture_of_scanned_layers_is_an_error_after_which_the_module_works():
    model = nn.functionalize(nn.Decoder, dataclasses.replace(SMALL, dropout_rate=0.1))
    module = model.bind(model.init(jax.random.key(1)))
    wanted = module(IDS)
    with pytest.raises(
        ValueError, match=r"got nnx.capture with scanned layers, .*; wanted unrolled ones. Set un"
    ):
        capture(module, IDS)
    np.testing.assert_array_equal(module(IDS), wanted)


def test_capture_of_a_module_without_a_stack():
    attention = nn.MultiHeadAttention(SMALL, rngs=nnx.Rngs(0))
    (out, _), found = capture(attention, X)
    np.testing.assert_array_equal(found["output"]["__call__"][0], out)


@dataclasses.dataclass(frozen=True)
class OwnNorm(third_party.DynamicTanh):
    """A variant of a user, registered by the test."""

    beta: float = 0.25


CONFIGS = [dataclasses.replace(TINY, **fields) for fields in VARIANTS.values()]
CONFIGS += [POOLED, IMAGES, EXPERTS, THIRD_PARTY, dataclasses.replace(TINY, norm=OwnNorm(0.3, 0.4))]
CONFIGS += [dataclasses.replace(TINY, attention_implementation=BACKENDS["xla"]), nn.paper_big()]
CONFIGS += [dataclasses.replace(TINY, positions=third_party.LogBias())]
CONFIGS += [
    dataclasses.replace(
        TINY,
        feed_forward=nn.Mlp(third_party.Swish()),
        initializers=nn.Initializers(third_party.SmallUniform()),
    )
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_is_equal_after_pickling_and_copying(config, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    nn.register_variant(OwnNorm)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(config, protocol)), config)
    assert_same(copy.copy(config), config)
    assert_same(copy.deepcopy(config), config)


def assert_same(made, config):
    assert made == config and hash(made) == hash(config) and repr(made) == repr(config)
