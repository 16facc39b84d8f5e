"""Empty inputs: no batch, no queries, no keys, no tokens, no texts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tfm_jax import data, generate, nn, ops
from tfm_jax.ops import masks
from tfm_jax.ops.backends import BACKENDS

N, K, H, D, F, V = 4, 2, 6, 8, 5, 9
SIZES = [(0, 3, 5), (2, 0, 5), (2, 3, 0)]  # B, T, S
CONFIG = {"vocab_size": 11, "d_model": 8, "n_layers": 2, "n_heads": 2, "d_ff": 12}


def ones(*shape, dtype=jnp.float32):
    return jnp.ones(shape, dtype)


def gradient(function, *arrays):
    """The gradients of the sum of all outputs, and the outputs, from one program."""

    def total(arrays):
        out = function(*arrays)
        floats = [x for x in jax.tree.leaves(out) if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum((x.astype(jnp.float32).sum() for x in floats), start=jnp.float32(0)), out

    return jax.jit(jax.grad(total, has_aux=True, allow_int=True))(arrays)


def check_zero(tree):
    for path, x in jax.tree.leaves_with_path(tree):
        assert not np.any(x), jax.tree_util.keystr(path)


def attentions(implementation, B, T, S):
    """Options of attention with every kind of mask and bias, by name."""
    offset = S - T if S >= T else -T
    cases = {
        "nothing": {},
        "causal": {"mask": masks.causal(offset)},
        "window": {"mask": masks.window(1, 1, offset=offset)},
        "padding": {"mask": masks.padding(ones(B, S, dtype=bool))},
        "prefix": {"mask": masks.prefix(ones(B, dtype=jnp.int32))},
        "segments": {"mask": masks.segments(ones(B, T, dtype=jnp.int32), ones(B, S, dtype=jnp.int32))},
        "dense": {"mask": ones(B, N, T, S, dtype=bool)},
        "not": {"mask": ~masks.padding(ones(B, S, dtype=bool)) | masks.causal(offset)},
        "bias": {"bias": ones(N, T, S)},
        "function": {"bias": lambda i, j: ops.alibi(N, i, j)},
        "dropout": {"dropout_rate": 0.5, "key": jax.random.key(0)},
    }
    unsupported = {"xla": ("function", "dropout"), "cpu_decode": ("dropout",)}.get(implementation, ())
    return {name: options for name, options in cases.items() if name not in unsupported}


@pytest.mark.parametrize("implementation", ["auto", "reference", "chunked", "cpu_decode", "xla"])
@pytest.mark.parametrize("sizes", SIZES)
def test_attention_of_empty_inputs_is_0(implementation, sizes):
    B, T, S = sizes
    arrays = ones(B, T, N, H), ones(B, S, K, H), ones(B, S, K, H)

    def run(*arrays):
        cases = attentions(implementation, B, T, S)
        return {
            name: ops.attention(*arrays, **options, implementation=implementation)
            for name, options in cases.items()
        }

    gradients, out = gradient(run, *arrays)
    check_zero((gradients, out))
    assert all(x.shape == (B, T, N, H) for x in out.values())
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, arrays)


@pytest.mark.parametrize("sizes", SIZES)
def test_ring_attention_of_empty_inputs(sizes):
    B, T, S = sizes
    mesh = jax.make_mesh((2,), ("sequence",), axis_types=(AxisType.Auto,))
    arrays = ones(B, 2 * T, N, H), ones(B, 2 * S, K, H), ones(B, 2 * S, K, H)
    attend = functools.partial(ops.attention, implementation="ring")
    sharded = jax.shard_map(attend, mesh=mesh, in_specs=P(None, "sequence"), out_specs=P(None, "sequence"))
    gradients, out = gradient(sharded, *arrays)
    check_zero((gradients, out))
    assert out.shape == (B, 2 * T, N, H)


@pytest.mark.parametrize("sizes", SIZES)
def test_weights_and_explanations_of_empty_inputs(sizes):
    B, T, S = sizes
    q, k, valid = ones(B, T, N, H), ones(B, S, K, H), ones(B, S, dtype=bool)
    assert ops.attention_weights(q, k, masks.padding(valid)).shape == (B, N, T, S)
    assert ops.explain_attention(q, k, k, masks.padding(valid)).implementation is not None
    assert "padding" in repr(masks.padding(valid) & masks.causal(0))


@pytest.mark.parametrize("sizes", [(0, 3), (2, 0), (0, 0)])
def test_every_other_function_of_empty_inputs(sizes):
    B, T = sizes
    positions, logits = ones(B, T, dtype=jnp.int32), ones(B, T, V)
    labels = ones(B, T, dtype=jnp.int32)

    def run(x, heads, logits, scale, w_in, w_out, kernel):
        key = jax.random.key(0)
        options = {"weights": ones(B, T), "label_smoothing": 0.1, "z_loss": 0.1, "ignore_index": 1}
        return {
            "layer_norm": ops.layer_norm(x, scale, scale),
            "rms_norm": ops.rms_norm(x, scale),
            "sinusoidal": [ops.sinusoidal(positions, D, pairing=p) for p in ("half", "interleaved")],
            "rotary": [ops.rotary(heads, positions, pairing=p) for p in ("half", "interleaved")],
            "alibi": ops.alibi(3, positions, positions),
            "relative_buckets": ops.relative_buckets(positions, positions),
            "feed_forward": ops.feed_forward(x, w_in, w_out, dropout_rate=0.5, key=key),
            "gated_feed_forward": ops.gated_feed_forward(x, w_in, w_in, w_out),
            "dropout": ops.dropout(x, 0.5, key),
            "cross_entropy": ops.cross_entropy(logits, labels, **options),
            "linear_cross_entropy": ops.linear_cross_entropy(x, kernel, labels, **options, chunk_size=3),
            "temperature": ops.temperature(logits, 0.5),
            "kept": [ops.top_k(logits, 3), ops.top_p(logits, 0.6), ops.min_p(logits, 0.2)],
            "repetition_penalty": ops.repetition_penalty(logits, logits > 0, 1.3),
            "frequency_penalty": ops.frequency_penalty(logits, (logits > 0).astype(jnp.int32), 0.3),
            "pool": nn.heads.pool(x, None),
        }

    arrays = ones(B, T, D), ones(B, T, 3, D), logits, ones(D), ones(D, F), ones(F, D), ones(D, V)
    gradients, out = gradient(run, *arrays)
    check_zero((gradients, out))  # the losses among them: sum 0, weight 0
    assert all(0 in x.shape for name, x in out.items() if isinstance(x, jax.Array))
    assert out["cross_entropy"] == out["linear_cross_entropy"] == (0, 0)
    assert out["sinusoidal"][1].shape == (B, T, D) and out["rotary"][1].shape == (B, T, 3, D)


def test_no_tokens_change_no_logits():
    logits, no_tokens = ones(2, V), ones(2, 0, dtype=jnp.int32)
    assert not ops.token_counts(no_tokens, V).any()
    for n in (1, 2):
        np.testing.assert_array_equal(ops.no_repeat_ngram(logits, no_tokens, 0, n), logits)


SCHEMES = {
    "sinusoidal": nn.Sinusoidal(),
    "learned": nn.Learned(9),
    "rope": nn.Rope(pairing="interleaved", fraction=0.5),
    "alibi": nn.Alibi(),
    "relative": nn.RelativeBias(8, 16),
}


def model_of(module, *args, **fields):
    model = nn.functionalize(module, nn.Config(**CONFIG | fields), *args)
    return model, jax.tree.map(
        lambda x: jnp.full(x.shape, 0.1), jax.eval_shape(model.init, jax.random.key(0))
    )


def check_model(module, *inputs, args=(), shape, **fields):
    model, params = model_of(module, *args, **fields)
    gradients, out = gradient(lambda params: model.apply(params, *inputs, key=jax.random.key(0)), params)
    assert out.shape == shape
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((gradients, out)))
    return out


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sizes", [(0, 3), (2, 0)])
def test_decoders_of_empty_inputs(scheme, sizes):
    tokens = ones(*sizes, dtype=jnp.int32)
    fields = {"positions": SCHEMES[scheme], "qk_norm": True, "n_layers": 1, "dropout_rate": 0.5}
    check_model(nn.Decoder, tokens, shape=(*sizes, 11), **fields)


@pytest.mark.parametrize("sizes", SIZES)
def test_encoder_decoders_of_empty_inputs(sizes):
    B, T, S = sizes
    inputs = ones(B, S, dtype=jnp.int32), ones(B, T, dtype=jnp.int32)
    check_model(
        nn.EncoderDecoder, *inputs, shape=(B, T, 11), attention_dropout_rate=0.5, feed_forward=nn.Glu()
    )


@pytest.mark.parametrize("pooling", ["mean", "first", None])
def test_classifiers_of_empty_inputs(pooling):
    for B, T in ((0, 3), (2, 0)):
        tokens = ones(B, T, dtype=jnp.int32)
        shape = (B, 3) if pooling else (B, T, 3)
        for inputs in ((tokens,), (tokens, tokens > 0)):
            check_model(nn.Classifier, *inputs, args=(3, pooling), shape=shape, n_layers=1)


def test_other_models_of_empty_inputs():
    no_examples, no_tokens = ones(0, 3, dtype=jnp.int32), ones(2, 0, dtype=jnp.int32)
    check_model(nn.MaskedLanguageModel, no_tokens, shape=(2, 0, 11))
    check_model(nn.Encoder, no_examples, shape=(0, 3, 8))
    check_model(nn.Classifier, no_tokens, args=(3, "first"), pooler=nn.Pooler(), shape=(2, 3))
    images = ones(0, 4, 6, 1)
    fields = {"vocab_size": 0, "patches": nn.Patches(4, 6, 1, 2, class_token=True)}
    check_model(nn.Classifier, images, args=(3, "first"), shape=(0, 3), **fields)


@pytest.mark.parametrize("fields", [{}, {"window": 3}, {"positions": nn.Alibi()}])
def test_decoding_of_an_empty_batch(fields):
    model, params = model_of(nn.Decoder, **fields)
    arguments = model, params, ones(0, 3, dtype=jnp.int32)
    config = generate.GenerationConfig((2,), max_length=4)
    check_shapes(generate.greedy(*arguments, config), (0, 4), (0,), (0, 4))
    check_shapes(generate.sample(*arguments, config, key=jax.random.key(0)), (0, 4), (0,), (0, 4))
    beams = generate.beam_search(*arguments, config.updated(beams=3, n_best=2))
    check_shapes(beams, (0, 2, 4), (0, 2), (0, 2), (0, 2))
    blocks = list(generate.stream(*arguments, config, key=None))
    assert all(block.shape[0] == 0 for block in blocks)


def test_decoding_of_no_tokens():
    model, params = model_of(nn.Decoder)
    cache = nn.init_cache(model, params, 2, 5)
    logits, next_cache = nn.decode_step(model, params, ones(2, 0, dtype=jnp.int32), cache)
    assert logits.shape == (2, 0, 11) and int(next_cache.slots.length) == 0
    for module in (nn.Decoder, nn.EncoderDecoder):
        model, params = model_of(module)
        config = generate.GenerationConfig(start_id=1, max_length=0)
        arguments = model, params, ones(2, 3, dtype=jnp.int32)
        check_shapes(generate.greedy(*arguments, config), (2, 0), (2,), (2, 0))
        check_shapes(generate.sample(*arguments, config, key=jax.random.key(0)), (2, 0), (2,), (2, 0))
        assert list(generate.stream(*arguments, config, key=None)) == []
        beams = generate.beam_search(*arguments, config.updated(beams=4, n_best=2))
        check_shapes(beams, (2, 2, 0), (2, 2), (2, 2), (2, 2))
        assert beams.log_probs[0].tolist() == beams.scores[0].tolist() == [0.0, -math.inf]


def check_shapes(arrays, *shapes):
    assert tuple(x.shape for x in arrays) == shapes


def test_no_texts():
    tokenizer = data.char_tokenizer("abcdefg")
    assert tokenizer.encode_batch([]) == data.ByteTokenizer().encode_batch([]) == []
    generator = generate.TextGenerator(*model_of(nn.Decoder), tokenizer)
    assert generator.write([], key=None, max_length=3) == []
    assert generator.write(["a", "b"], key=jax.random.key(0), max_length=0) == ["", ""]
    translator = generate.TextGenerator(*model_of(nn.EncoderDecoder), tokenizer)
    assert translator.translate([]) == [] and translator.translate(["a"], max_length=0) == [""]
    assert list(generator.stream("a", key=None, max_length=0)) == []


def test_these_tests_cover_every_backend_of_a_cpu():
    other_platforms = {
        name for name, backend in BACKENDS.items() if backend.capabilities.platforms is not None
    }
    assert set(BACKENDS) - other_platforms == {"reference", "chunked", "cpu_decode", "xla", "ring"}
