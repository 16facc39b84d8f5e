"""Variants that the library does not know have a whole life: init, jit, scan, cache, training, files."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests import parameters
from tests.nn import third_party as mine
from tfm_jax import nn, ops, registry, train, values
from tfm_jax.nn.decoding import decode_step, init_cache
from tfm_jax.ops import masks

V, T, L = 11, 6, 2
TINY = nn.Config(vocab_size=V, d_model=8, n_heads=2, d_ff=10, n_layers=L)
DECODERS = {
    "norm": {"norm": mine.DynamicTanh(0.7), "qk_norm": True, "positions": nn.Rope()},
    "norm without bias": {"norm": mine.BiasFreeLayerNorm(), "embedding_norm": True},
    "position bias": {"positions": mine.LogBias()},
    "rotation": {"positions": mine.Swing(5.0)},
    "activation": {"feed_forward": nn.Mlp(mine.Swish(2.0))},
    "feed-forward": {"feed_forward": mine.Experts(3, mine.Swish())},
    "initializer": {"initializers": nn.Initializers(mine.SmallUniform(), mine.SmallUniform(0.5))},
}
IMAGES = dataclasses.replace(
    TINY, vocab_size=0, positions=nn.Learned(9), patches=mine.OverlappingPatches(channels=3)
)
CONFIGS = {name: dataclasses.replace(TINY, **fields) for name, fields in DECODERS.items()}
CONFIGS |= {"patches": IMAGES, "pooler": dataclasses.replace(TINY, pooler=mine.MeanPooler())}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, V, (2, T)), jnp.int32)


@pytest.fixture
def all_registered(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    for cls in mine.CLASSES:
        nn.register_variant(cls)


@functools.cache
def decoder(name):
    model = nn.functionalize(nn.Decoder, CONFIGS[name])
    params = jax.jit(model.init)(jax.random.key(0))
    # Draws of another scale than those of init, so that every parameter matters.
    params = parameters.draw(model) if name != "initializer" else params
    return model, params, jax.jit(model.apply)(params, TOKENS)


def assert_close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_scanned_layers_equal_unrolled_ones(name):
    model, params, logits = decoder(name)
    unrolled = nn.functionalize(nn.Decoder, dataclasses.replace(model.config, unroll=True))
    assert_close(jax.jit(unrolled.apply)(params, TOKENS), logits)


@pytest.mark.parametrize("name", DECODERS)
def test_cached_decoding_equals_the_full_forward_pass(name):
    model, params, logits = decoder(name)

    @jax.jit
    def decode(params):
        cache = init_cache(model, params, 2, T)
        first, cache = decode_step(model, params, TOKENS[:, :4], cache)
        return jnp.concatenate([first, decode_step(model, params, TOKENS[:, 4:], cache)[0]], 1)

    assert_close(decode(params), logits)


def loss_of(model, params, tokens, key=None):
    logits, extras = model.apply(params, tokens[:, :-1], key=key, return_auxiliary=True)
    total, weight = ops.cross_entropy(logits, tokens[:, 1:])
    for part, count in extras["auxiliary"].values():
        total = total + 0.1 * weight * part / count
    return total, weight


def abstract(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def check_a_train_step_and_a_checkpoint(loss_fn, params, batch, directory):
    """One step changes every parameter, and a checkpoint keeps them."""
    optimizer = optax.sgd(0.1)
    step = train.make_train_step(lambda p, batch, key: (loss_fn(p, batch, key), {}), optimizer)
    before = train.init_state(params, optimizer, jax.random.key(1))
    after, metrics = jax.jit(step)(before, batch)
    assert np.isfinite(metrics["loss"][0])
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
    unchanged = [path for path, x in jax.tree_util.tree_leaves_with_path(changed) if not x]
    assert not unchanged
    with train.Checkpoints(directory) as checkpoints:
        checkpoints.save(1, after)
        restored, _ = checkpoints.restore(jax.tree.map(abstract, after))
    jax.tree.map(np.testing.assert_array_equal, restored.params, after.params)


@pytest.mark.parametrize("name", DECODERS)
def test_a_train_step_changes_every_parameter_and_a_checkpoint_keeps_it(name, tmp_path):
    model, params, _ = decoder(name)
    check_a_train_step_and_a_checkpoint(
        lambda p, batch, key: loss_of(model, p, batch["tokens"], key), params, {"tokens": TOKENS}, tmp_path
    )


def test_patches_and_a_pooler_are_trained_and_kept_in_a_checkpoint(tmp_path):
    model, images = image_classifier()
    batch = {"images": images, "labels": jnp.array([2, 0])}
    check_a_train_step_and_a_checkpoint(
        lambda p, batch, key: ops.cross_entropy(model.apply(p, batch["images"], key=key), batch["labels"]),
        parameters.draw(model),
        batch,
        tmp_path,
    )


def image_classifier():
    model = nn.functionalize(nn.Classifier, dataclasses.replace(IMAGES, pooler=mine.MeanPooler()), 3, "mean")
    return model, jnp.asarray(np.random.default_rng(1).normal(size=(2, 7, 7, 3)), jnp.float32)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_written_and_read_back_if_its_variants_are_registered(name, all_registered):
    config = CONFIGS[name]
    written = values.to_dict(config)
    assert values.from_dict(nn.Config, json.loads(json.dumps(written))) == config
    assert hash(config) == hash(dataclasses.replace(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_an_unregistered_variant_is_neither_written_nor_read(name):
    config = CONFIGS[name]
    with pytest.raises(
        ValueError, match=r"^Config\.\w+: .*wanted a registered variant.*nn.register_variant\("
    ):
        values.to_dict(config)
    written = values.to_dict(config, variants=mine.CLASSES)
    with pytest.raises(
        ValueError, match=r"^Config\.\w+: .*No class is registered .*load_run\(directory, vari"
    ):
        values.from_dict(nn.Config, written)
    assert values.from_dict(nn.Config, written, variants=mine.CLASSES) == config


def test_text_of_nested_variants():
    text = "Experts(n_experts=2, activation=Swish(beta=2.0))"
    value = mine.Experts(2, mine.Swish(2.0))
    assert values.to_text(value, mine.CLASSES) == text
    assert values.from_text(nn.FeedForward, text, mine.CLASSES) == value
    assert values.from_text(nn.FeedForward, "Mlp(activation=Swish)", mine.CLASSES) == nn.Mlp(mine.Swish())
    with pytest.raises(ValueError, match="'Rope' is none of these"):
        values.from_text(nn.FeedForward, "Mlp(activation=Rope())")
    initializers = {"kernel": "SmallUniform(limit=0.1)"}
    found = values.from_dict(nn.Initializers, initializers, mine.CLASSES)
    assert found == nn.Initializers(mine.SmallUniform(0.1), nn.Normal())


@pytest.mark.parametrize("name", CONFIGS)
def test_axes_name_every_axis_of_every_parameter(name):
    module, *args = (nn.Classifier, 3) if name == "patches" else (nn.Encoder,)
    model = nn.functionalize(module, CONFIGS[name], *args)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    jax.tree.map(lambda axes, x: len(axes.split()) == len(x.shape) or pytest.fail(axes), model.axes(), shapes)


def test_auxiliary_sums_are_added_over_layers():
    model, params, _ = decoder("feed-forward")
    found, extras = model.apply(params, TOKENS, return_auxiliary=True)
    np.testing.assert_array_equal(found, model.apply(params, TOKENS))
    stack = model.bind(params).decoder_stack()
    x, total, positions = (
        stack.embed_positions(model.bind(params).embedding(TOKENS), jnp.arange(T)[None]),
        0.0,
        None,
    )
    for block in stack.unstack():
        assert block(x, masks.causal())[1] == {}
        x, of_block = block(x, masks.causal(), positions=positions, return_auxiliary=True)
        total += of_block["auxiliary"]["balance"][0]
    balance, weight = extras["auxiliary"]["balance"]
    assert balance.shape == weight.shape == () and weight == L * TOKENS.size
    assert_close(balance, total)
    assert balance / weight >= 1.0  # 1 where all experts are used alike


def test_auxiliary_sums_are_added_over_both_stacks_and_unrolled_layers():
    fields = {"feed_forward": mine.Experts(), "unroll": True, "remat": "full"}
    model = nn.functionalize(nn.EncoderDecoder, dataclasses.replace(TINY, **fields))
    params = parameters.draw(model)
    _, extras = model.apply(params, TOKENS, TOKENS[:, :4], return_auxiliary=True, return_weights=True)
    assert extras["auxiliary"]["balance"][1] == L * (2 * T + 2 * 4)
    assert extras.keys() == {"auxiliary", "weights"}


def test_a_model_without_auxiliary_sums_has_none():
    model = nn.functionalize(nn.Decoder, TINY)
    _, extras = model.apply(parameters.draw(model), TOKENS, return_auxiliary=True)
    assert extras == {"auxiliary": {}}


def test_a_bias_in_an_encoder_reads_both_directions():
    model = nn.functionalize(nn.Encoder, dataclasses.replace(TINY, positions=mine.LogBias()))
    _, extras = model.apply(parameters.draw(model), TOKENS, return_weights=True)
    assert bool((extras["weights"]["encoder"] > 0).all())
    without = nn.functionalize(nn.Encoder, dataclasses.replace(TINY, positions=None))
    params = parameters.draw(model)
    biased, plain = model.apply(params, TOKENS), without.apply(_without_bias(params), TOKENS)
    assert np.abs(biased - plain).max() > 1e-3


def _without_bias(params):
    return params | {"stack": {k: v for k, v in params["stack"].items() if k != "position_bias"}}


def test_a_scheme_limits_lengths_and_blocks_need_what_it_gives():
    model = nn.functionalize(nn.Decoder, dataclasses.replace(TINY, positions=mine.LogBias(max_length=5)))
    params = parameters.draw(model)
    with pytest.raises(ValueError, match=r"^LogBias: got a sequence of 6; wanted at most max_length=5"):
        model.apply(params, TOKENS)
    with pytest.raises(ValueError, match=r"^LogBias: got a sequence of 7"):
        init_cache(model, params, 2, 7)
    for scheme, wanted in ((mine.LogBias(), "got bias=None"), (mine.Swing(), "got positions=None")):
        block = nn.EncoderBlock(dataclasses.replace(TINY, positions=scheme), rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match=wanted):
            block(jnp.zeros((1, 2, 8)))


def test_check_config_is_called_for_every_variant():
    with pytest.raises(
        ValueError, match=r"got a head dimension of 3 with Swing\(period=7.0\); wanted an even"
    ):
        dataclasses.replace(TINY, head_dim=3, positions=mine.Swing())

    @dataclasses.dataclass(frozen=True)
    class Picky(nn.Activation):
        def check_config(self, config):
            raise ValueError(f"{config.d_ff} is too wide")

        def __call__(self, x):
            return x

    with pytest.raises(ValueError, match="10 is too wide"):
        dataclasses.replace(TINY, feed_forward=nn.Mlp(Picky()))
    with pytest.raises(TypeError, match="abstract"):
        type("NoCall", (nn.Activation,), {})()


def test_patches_and_a_pooler_in_a_classifier():
    model, images = image_classifier()
    params = parameters.draw(model)
    logits = jax.jit(model.apply)(params, images)
    assert logits.shape == (2, 3)
    # The upper left patch reads rows and columns 0 to 2.
    grads = jax.grad(lambda x: model.bind(params).encoder.embedding(x)[:, 0].sum())(images)
    assert bool((grads[:, :3, :3] != 0).all()) and not bool(grads.at[:, :3, :3].set(0).any())
    assert all(
        bool((x != 0).any())
        for x in jax.tree.leaves(jax.grad(lambda p: model.apply(p, images).sum())(params))
    )


def test_a_mean_pooler_gets_the_valid_tokens():
    config = dataclasses.replace(TINY, pooler=mine.MeanPooler())
    model = nn.functionalize(nn.Encoder, config)
    params = parameters.draw(model)
    encoder, valid = model.bind(params), jnp.arange(T)[None] < jnp.array([[T], [3]])
    pooled = encoder.pooled(TOKENS, masks.padding(valid))
    assert_close(pooled[1], encoder.pooled(TOKENS[1:, :3])[0])
    classifier = nn.functionalize(nn.Classifier, config, 3, "mean")
    assert classifier.apply(parameters.draw(classifier), TOKENS, valid).shape == (2, 3)
    with pytest.raises(ValueError, match=r"got an array, .* for MeanPooler\(\); wanted masks.padding"):
        encoder.pooled(TOKENS, jnp.ones((2, T, T), bool))
    with pytest.raises(ValueError, match=r"got pooling='first' with MeanPooler\(\); wanted pooling='mean'"):
        nn.functionalize(nn.Classifier, config, 3, "first")


def test_initializers_draw_kernels_and_embeddings():
    params = decoder("initializer")[1]
    embedding = params["embedding"]["table"]
    assert 0.3 < float(jnp.abs(embedding).max()) <= 0.5
    kernels = {
        jax.tree_util.keystr(path): x
        for path, x in jax.tree_util.tree_leaves_with_path(params)
        if "kernel" in jax.tree_util.keystr(path) or "w_" in jax.tree_util.keystr(path)
    }
    assert len(kernels) == 6 and all(0.15 < float(jnp.abs(x).max()) <= 0.2 for x in kernels.values())


def test_an_initializer_of_another_shape_is_an_error():
    @dataclasses.dataclass(frozen=True)
    class Flat(nn.Initializer):
        def __call__(self, key, shape, *, in_axes, out_axes):
            return jnp.zeros(3)

    config = dataclasses.replace(TINY, initializers=nn.Initializers(embedding=Flat()))
    with pytest.raises(ValueError, match=r"^Flat: got a parameter of shape \(3,\); wanted \(11, 8\)"):
        nn.functionalize(nn.Decoder, config)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            lambda x: (x[..., :1], {}),
            r"got x .*, sublayer_output float32\[2, 2, 1\]; .*keeps the shape of its input",
        ),
        (lambda x: (x.astype(jnp.bfloat16), {}), r"got x .*, sublayer_output bfloat16.* and its dtype"),
        (lambda x: x, r"got \w+ from .*Odd\(.*\); wanted \(y, auxiliary\), .*Return \(y, {}\) where"),
        (lambda x: (x, {}, 1), r"got \(.*, {}, 'int'\) from .*Odd"),
        (lambda x: (x, None), r"got \(.*, 'NoneType'\) from .*Odd"),
        (lambda x: (x, {"balance": x.sum()}), r"got \(.*, {'balance': '\w+'}\) from .*Odd"),
    ],
)
def test_a_feed_forward_with_another_output_is_an_error(output, message):
    @dataclasses.dataclass(frozen=True)
    class Odd(nn.FeedForward):
        def build(self, config, *, rngs):
            return lambda x, key=None: output(x)

    block = nn.EncoderBlock(dataclasses.replace(TINY, feed_forward=Odd()), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=f"^nn.Block: {message}"):
        block(jnp.zeros((2, 2, 8)))


def variant_of(kind, **methods):
    return dataclasses.dataclass(frozen=True)(type("Odd", (kind,), methods))()


def odd_norm(function):
    return {"norm": variant_of(nn.Norm, build=lambda self, size, *, axis, dtype, rngs: function)}


def odd_module(kind, function):
    return variant_of(kind, build=lambda self, config, *, rngs: function)


def odd_bias(self, config, *, bidirectional, rngs):
    return None


def mean(x):
    return x.mean(-1)


def flatten(x, valid=None, *, key=None):
    return x


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (odd_norm(mean), r"^function: got input float32\[2, 6, 8\], output float32\[2, 6\]; .*Return the sh"),
        (odd_norm(mean) | {"norm_placement": "post"}, r"^function: got input .*, output float32\[2, 6\];"),
        (odd_norm(mean) | {"qk_norm": True}, r"^function: got input .*, output float32\[2, 6\];"),
        (odd_norm(lambda x: x.astype(jnp.bfloat16)), r"^function: got input .*, output bfloat16"),
        (
            {"positions": variant_of(nn.Positions, rotate=lambda self, x, positions: x[..., :2])},
            r"^Odd.rotate: got input float32\[2, 6, 2, 4\], output float32\[2, 6, 2, 2\];",
        ),
        (
            {
                "positions": variant_of(
                    nn.Positions, build_embedding=lambda self, config, *, rngs: lambda x, positions: mean(x)
                )
            },
            r"^Odd.build_embedding: got input float32\[2, 6, 8\], output float32\[2, 6\];",
        ),
        (
            {"positions": variant_of(nn.Positions, build_bias=odd_bias)},
            r"^Odd.build_bias: got None; wanted a module. Override the property has_bias",
        ),
        (
            {"patches": odd_module(nn.PatchEmbedding, lambda x: x[..., None])},
            r"^Odd: got output .*; wanted output float32\[..., T, 8\].*A patch embedding returns",
        ),
        (
            {"pooler": odd_module(nn.Pooling, flatten)},
            r"^Odd: got x float32\[2, 6, 8\], pooled float32\[2, 6, 8\];.*A pooler returns one vector",
        ),
    ],
)
def test_an_output_of_another_shape_or_dtype_is_an_error(fields, message):
    config = dataclasses.replace(TINY, **fields)
    inputs = jnp.ones((2, T)) if config.patches else TOKENS
    with pytest.raises(ValueError, match=message):
        model = nn.functionalize(nn.Classifier, config, 3, "mean")
        jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0)), inputs)


def test_a_scheme_without_a_bias_says_so():
    methods = {"build_bias": odd_bias, "has_bias": property(lambda self: False)}
    config = dataclasses.replace(TINY, positions=variant_of(nn.Positions, **methods))
    model = nn.functionalize(nn.Decoder, config)
    plain = nn.functionalize(nn.Decoder, dataclasses.replace(TINY, positions=None))
    params = parameters.draw(model)
    np.testing.assert_array_equal(model.apply(params, TOKENS), plain.apply(params, TOKENS))


@pytest.mark.parametrize("activation", [mine.Swish, jax.nn.relu, 3])
def test_a_head_takes_the_name_of_an_activation_or_an_instance(activation):
    with pytest.raises(ValueError, match=r"^activation: got .*; wanted a name or an instance of nn\.Act"):
        nn.functionalize(nn.MaskedLanguageModel, TINY, activation)
