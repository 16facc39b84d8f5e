"""Parameters have ``config.param_dtype``, and the same bits with and without x64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import generate, nn, ops, train
from tfm_jax.ops import masks

SIZES = {"d_model": 8, "n_layers": 2, "n_heads": 2, "d_ff": 6}
TOKENS = SIZES | {"vocab_size": 11}
LLAMA = {"positions": nn.Rope(), "norm": nn.RMSNorm(), "feed_forward": nn.Glu(), "n_kv_heads": 1}
BIASED = {"attention_bias": True, "logits_bias": True, "share_embeddings": False, "tie_embeddings": False}
MODULES = {
    "decoder": (nn.Decoder, TOKENS | LLAMA | {"qk_norm": True}),
    "relative": (nn.EncoderDecoder, TOKENS | BIASED | {"positions": nn.RelativeBias(8, 16)}),
    "masked": (
        nn.MaskedLanguageModel,
        TOKENS | {"positions": nn.Learned(9, padding_id=1), "token_types": 2, "embedding_norm": True},
    ),
    "images": (
        functools.partial(nn.Classifier, n_classes=3, pooling="first"),
        SIZES
        | {
            "positions": nn.Learned(7),
            "patches": nn.Patches(4, 6, 2, 2, class_token=True),
            "pooler": nn.Pooler(),
        },
    ),
}


def same(got, wanted):
    jax.tree.map(lambda x, y: (np.testing.assert_array_equal(x, y), x.dtype == y.dtype or 1 / 0), got, wanted)


@pytest.mark.parametrize("name", MODULES)
def test_x64_changes_no_parameter(name):
    module, fields = MODULES[name]

    def init():
        return nn.functionalize(module, nn.Config(**fields)).init(jax.random.key(3))

    wanted = init()
    assert {x.dtype for x in jax.tree.leaves(wanted)} == {jnp.dtype("float32")}
    with jax.enable_x64(True):
        same(init(), wanted)


@pytest.mark.parametrize("name", MODULES)
def test_bfloat16_parameters_are_the_float32_ones_rounded(name):
    module, fields = MODULES[name]

    def make(dtype):
        return nn.functionalize(module, nn.Config(**fields, param_dtype=dtype))

    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make("float32").init(jax.random.key(3)))
    same(make("bfloat16").init(jax.random.key(3)), rounded)


def trained(model, params, tokens):
    """State and metrics after two steps with dropout, accumulation, clipping and EMA."""

    def loss(params, batch, key):
        logits = model.apply(params, batch, key=key)
        return ops.cross_entropy(logits, batch, label_smoothing=0.1, z_loss=1e-3), {}

    optimizer = train.adamw(train.warmup_cosine(1e-2, 2, 9), 0.1)
    step = train.make_train_step(loss, optimizer, accumulate=2, clip_norm=0.5, ema_decay=0.9)
    state, step = train.init_state(params, optimizer, jax.random.key(0), ema=True), jax.jit(step)
    state, _ = step(state, tokens)
    state, metrics = step(state, tokens)
    return state.step, state.params, state.opt_state, state.ema, metrics


def outputs():
    """Logits, a trained state and generated tokens of one model."""
    rates = {"dropout_rate": 0.2, "attention_dropout_rate": 0.2, "feed_forward_dropout_rate": 0.2}
    model = nn.functionalize(nn.Decoder, nn.Config(**TOKENS, **rates, positions=nn.Alibi(), window=4))
    params = model.init(jax.random.key(3))
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 11, (2, 5)), jnp.int32)
    valid = jnp.asarray([[True] * 5, [False] * 2 + [True] * 3])
    config = generate.GenerationConfig((2,), max_length=4)
    ngrams = config.updated(processors=(generate.NoRepeatNgram(2),))
    processors = generate.Temperature(0.7), generate.TopP(0.9), generate.RepetitionPenalty(1.2)
    warm = generate.GenerationConfig(max_length=4, processors=processors)
    return {
        "logits": model.apply(params, tokens, masks.padding(valid)),
        "trained": trained(model, params, tokens),
        "greedy": generate.greedy(model, params, tokens, ngrams, valid=valid),
        "sample": generate.sample(model, params, tokens, warm, key=jax.random.key(5), valid=valid),
        "beams": generate.beam_search(
            model, params, tokens, config.updated(beams=2, length_penalty=0.6), valid=valid
        ),
        "cache": generate.prefill(model, params, tokens, nn.init_cache(model, params, 2, 7), valid=valid),
    }


@pytest.mark.slow
def test_x64_changes_no_output():
    wanted = outputs()
    with jax.enable_x64(True):
        same(outputs(), wanted)


def test_x64_changes_no_dropout():
    x = jnp.ones((40, 8), jnp.float32)
    wanted = ops.dropout(x, 0.3, jax.random.key(4))
    with jax.enable_x64(True):
        same(ops.dropout(x, 0.3, jax.random.key(4)), wanted)


def test_x64_changes_no_update():
    params = {"w": jnp.linspace(-1, 1, 5, dtype=jnp.float32)}

    def updated():
        optimizer = train.adamw(train.warmup_cosine(1e-2, 2, 9), 0.1)
        state = optimizer.init(params)
        with jax.numpy_dtype_promotion("standard"):
            for _ in range(3):
                updates, state = optimizer.update(params, state, params)
        return updates, state

    wanted = updated()
    with jax.enable_x64(True):
        same(updated(), wanted)


def test_float64_optimizer_stays_in_float64():
    with jax.enable_x64(True):
        params = {"w": jnp.ones(3, jnp.float64)}
        optimizer = train.adamw(1e-3)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates["w"].dtype == jnp.float64
