"""Exported functions: symbolic sizes give the results of direct calls; masks and caches are arguments."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import generate, nn, ops
from tfm_jax.ops import kv_cache, masks

CONFIG = {"vocab_size": 11, "d_model": 8, "n_layers": 2, "n_heads": 2, "d_ff": 12}
N, K, H, D, F, V = 4, 2, 6, 8, 5, 9
SIZES = ({"b": 1, "t": 2, "s": 5}, {"b": 3, "t": 4, "s": 4})


def numbers(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def integers(shape, below, seed=0):
    return jax.random.randint(jax.random.key(seed), shape, 0, below)


def attentions(b, t, s):
    """Attention with every kind of mask and bias, in one program."""
    q, k, v, self_k, self_v = (numbers((b, n, h, H), i) for i, (n, h) in enumerate(
        ((t, N), (s, K), (s, K), (t, K), (t, K))
    ))  # fmt: skip
    ids, key_ids = integers((b, t), 2), integers((b, s), 2)
    arrays = {
        "q": q, "k": k, "v": v, "self_k": self_k, "self_v": self_v, "ids": ids, "key_ids": key_ids,
        "valid": key_ids > 0, "table": numbers((b, t, s)) > 0, "heads": numbers((b, N, t, s)) > 0,
        "bias": numbers((N, t, s)), "offset": integers((b,), 2), "n": integers((b,), 3),
        "key": jax.random.key(3),
    }  # fmt: skip

    def run(q, k, v, self_k, self_v, ids, key_ids, valid, table, heads, bias, offset, n, key):
        def attend(mask=None, **options):
            return ops.attention(q, k, v, mask, **options)

        def self_attend(mask):
            return ops.attention(q, self_k, self_v, mask)

        def relative(i, j):
            return ops.alibi(N, i, j)

        def summed(q):
            return ops.attention(q, self_k, self_v, masks.causal()).sum()

        return {
            "nothing": attend(),
            "causal": self_attend(masks.causal()),
            "causal at": attend(masks.causal(offset)),
            "causal at the end": attend(masks.causal(k.shape[1] - q.shape[1])),
            "window": self_attend(masks.window(1, 2)),
            "prefix": self_attend(masks.causal() | masks.prefix(n)),
            "padding": attend(masks.padding(valid)),
            "not": attend(~masks.padding(valid)),
            "segments": self_attend(masks.segments(ids)),
            "two segments": attend(masks.segments(ids, key_ids)),
            "dense": attend(table),
            "heads": attend(heads),
            "bias": attend(bias=bias),
            "function": attend(bias=relative),
            "dropout": attend(dropout_rate=0.5, key=key),
            "weights": ops.attention_weights(q, k, masks.padding(valid)),
            "gradient": jax.grad(summed)(q),
        }

    return run, arrays


def others(b, t, s):
    """Every other function of ops."""
    arrays = {
        "x": numbers((b, t, D)), "scale": numbers((D,)), "w_in": numbers((D, F)), "w_out": numbers((F, D)),
        "heads": numbers((b, t, 3, D)), "positions": integers((b, t), 7),
        "key_positions": integers((b, s), 7),
        "logits": numbers((b, t, V)), "labels": integers((b, t), V), "weights": numbers((b, t)) ** 2,
        "tokens": integers((b, t), V), "last": numbers((b, V)), "temperature": numbers((b,)) ** 2 + 1,
        "kernel": numbers((D, V)), "key": jax.random.key(1), "valid": integers((b, t), 2) > 0,
    }  # fmt: skip

    def run(
        x, scale, w_in, w_out, heads, positions, key_positions, logits, labels, weights, tokens, last,
        temperature, kernel, key, valid,
    ):  # fmt: skip
        counts = ops.token_counts(tokens, V)
        return {
            "layer_norm": ops.layer_norm(x, scale, scale),
            "rms_norm": ops.rms_norm(x, scale),
            "sinusoidal": [ops.sinusoidal(positions, D, pairing=p) for p in ("half", "interleaved")],
            "rotary": [ops.rotary(heads, positions, pairing=p) for p in ("half", "interleaved")],
            "alibi": ops.alibi(3, positions, key_positions),
            "relative_buckets": ops.relative_buckets(positions, key_positions),
            "feed_forward": ops.feed_forward(x, w_in, w_out, dropout_rate=0.5, key=key),
            "gated_feed_forward": ops.gated_feed_forward(x, w_in, w_in, w_out),
            "dropout": ops.dropout(x, 0.5, key),
            "cross_entropy": ops.cross_entropy(logits, labels, weights=weights, ignore_index=1),
            "linear_cross_entropy": ops.linear_cross_entropy(
                x, kernel, labels, weights=weights, chunk_size=3
            ),
            "gradient": jax.grad(
                lambda x: ops.linear_cross_entropy(x, kernel, labels, label_smoothing=0.1, chunk_size=3)[0]
            )(x),
            "temperature": ops.temperature(last, temperature),
            "kept": [ops.top_k(last, 3), ops.top_p(last, 0.6), ops.min_p(last, 0.2)],
            "repetition_penalty": ops.repetition_penalty(last, counts > 0, 1.3),
            "frequency_penalty": ops.frequency_penalty(last, counts, 0.3),
            "no_repeat_ngram": [ops.no_repeat_ngram(last, tokens, tokens.shape[1], n) for n in (1, 3)],
            "pool": [nn.heads.pool(x, "mean"), nn.heads.pool(x, "mean", valid), nn.heads.pool(x, "first")],
            "to_dense": masks.causal().to_dense(x.shape[1], x.shape[1]),
        }

    return run, arrays


def model_of(module, *args, **fields):
    model = nn.functionalize(module, nn.Config(**CONFIG | fields), *args)
    return model, jax.jit(model.init)(jax.random.key(0))


def encoders(b, t, s):
    """One encoder for each position scheme."""
    schemes = nn.Learned(9), nn.Rope(pairing="interleaved"), nn.RelativeBias(8, 16)
    models = [model_of(nn.Encoder, positions=scheme, n_layers=1) for scheme in schemes]
    arrays = {
        "params": [params for _, params in models],
        "x": integers((b, t), 11),
        "valid": integers((b, t), 2) > 0,
    }

    def run(params, x, valid):
        pairs = zip(models, params, strict=True)
        return [model.apply(p, x, masks.padding(valid)) for (model, _), p in pairs]

    return run, arrays


def heads(b, t, s):
    """A classifier, a masked language model and an encoder-decoder."""
    modules = nn.Classifier, nn.MaskedLanguageModel, nn.EncoderDecoder
    models = [model_of(module, n_layers=1) for module in modules]
    arrays = {
        "params": [params for _, params in models],
        "x": integers((b, t), 11),
        "source": integers((b, s), 11),
    }

    def run(params, x, source):
        *others, (encoder_decoder, _) = models
        mask = masks.padding(source > 2)
        return [
            *(model.apply(p, x) for (model, _), p in zip(others, params[:-1], strict=True)),
            encoder_decoder.apply(params[-1], source, x, source_mask=mask),
        ]

    return run, arrays


def decoding(b, t, s):
    """Generation from prompts of a decoder and from sources of an encoder-decoder."""
    decoder, params = model_of(nn.Decoder)
    translator, translator_params = model_of(nn.EncoderDecoder, positions=nn.Alibi())
    arrays = {"params": [params, translator_params], "x": integers((b, t), 11), "key": jax.random.key(1)}

    def run(params, x, key):
        config = generate.GenerationConfig(start_id=1, max_length=3)
        beams = config.updated(beams=2, length_penalty=0.6)
        return [
            generate.greedy(decoder, params[0], x, config),
            generate.sample(decoder, params[0], x, config, key=key),
            generate.beam_search(translator, params[1], x, beams),
        ]

    return run, arrays


def specs(case):
    """The shapes of a case's arrays, with symbols for the dims that differ between the sizes."""
    b, t, s = jax.export.symbolic_shape("b, t, s")
    first, second = (case(**sizes)[1] for sizes in SIZES)
    letters = {(1, 3): b, (2, 4): t, (5, 4): s}

    def spec(x, y):
        shape = tuple(m if m == n else letters[m, n] for m, n in zip(x.shape, y.shape, strict=True))
        return jax.ShapeDtypeStruct(shape, x.dtype)

    return jax.tree.map(spec, first, second)


@pytest.mark.parametrize("case", [attentions, others, encoders, heads, decoding])
def test_symbolic_sizes_give_the_results_of_direct_calls(case):
    pytest.importorskip("flatbuffers")
    run, _ = case(**SIZES[0])
    exported = jax.export.export(jax.jit(run))(**specs(case))
    exported = jax.export.deserialize(exported.serialize())
    for sizes in SIZES:
        run, arrays = case(**sizes)
        got, want = exported.call(**arrays), jax.jit(run)(**arrays)
        assert jax.tree.structure(got) == jax.tree.structure(want)
        for (path, x), y in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path))


def test_masks_are_arguments_of_exported_functions():
    pytest.importorskip("flatbuffers")
    b, t = jax.export.symbolic_shape("b, t")

    def spec(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype)

    def mask_of(valid, ids, n, table, offset):
        either = masks.causal(offset) | masks.prefix(n)
        return either & masks.padding(valid) & ~masks.window(0) & masks.segments(ids) & masks.dense(table)

    symbolic = mask_of(spec(b, t, dtype=bool), spec(b, t), spec(b), spec(t, t, dtype=bool), spec())

    def attend(q, mask):
        return ops.attention(q, q, q, mask)

    exported = jax.export.export(jax.jit(attend))(spec(b, t, N, H, dtype=jnp.float32), symbolic)
    exported = jax.export.deserialize(exported.serialize())
    for B, T in ((2, 3), (1, 5)):
        q, table = numbers((B, T, N, H)), numbers((T, T)) > -1
        mask = mask_of(integers((B, T), 4) > 0, integers((B, T), 2), integers((B,), T), table, jnp.int32(0))
        np.testing.assert_allclose(exported.call(q, mask), attend(q, mask), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="pytree"):
        exported.call(numbers((2, 3, N, H)), masks.causal(jnp.int32(0)))


@pytest.mark.parametrize("window", [None, 3])
def test_a_cache_is_an_argument_of_an_exported_decode_step(window):
    pytest.importorskip("flatbuffers")
    model, params = model_of(nn.Decoder, window=window)
    (b,) = jax.export.symbolic_shape("b")

    def step(params, token, cache):
        logits, cache = nn.decode_step(model, params, token[:, None], cache)
        return logits[:, 0], cache

    def symbol(x):
        return jax.ShapeDtypeStruct((b, *x.shape[1:]) if x.ndim else (), x.dtype)

    caches = {B: nn.init_cache(model, params, B, 4) for B in (1, 3)}
    compiled = jax.jit(step)
    exported = jax.export.export(compiled)(
        jax.tree.map(jnp.asarray, params),
        jax.ShapeDtypeStruct((b,), jnp.int32),
        jax.tree.map(symbol, caches[1]),
    )
    exported = jax.export.deserialize(exported.serialize())
    for B, cache in caches.items():
        direct = cache
        for i in range(2):
            token = integers((B,), 11, seed=i)
            logits, cache = exported.call(params, token, cache)
            want, direct = compiled(params, token, direct)
            np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)
        assert int(cache.slots.length) == 2


def test_a_symbolic_length_that_may_exceed_a_cache_is_an_error_unless_it_is_constrained():
    def append(buffer, new):
        return kv_cache.append(buffer, new, kv_cache.init_slots((), 4))[0]

    buffer = jax.ShapeDtypeStruct((K, 4, H), jnp.float32)
    for constraints in ([], ["t <= 4"]):
        (t,) = jax.export.symbolic_shape("t", constraints=constraints)

        def export(t):
            return jax.export.export(jax.jit(append))(buffer, jax.ShapeDtypeStruct((K, t, H), jnp.float32))

        if constraints:
            new = numbers((K, 3, H))
            np.testing.assert_array_equal(export(t).call(jnp.zeros((K, 4, H)), new)[:, :3], new)
        else:
            with pytest.raises(ValueError, match="T = t tokens for a cache of S = 4 slots; wanted T <= S"):
                export(t)


def test_backends_that_need_static_lengths_are_unsupported():
    b, t = jax.export.symbolic_shape("b, t")
    x = jax.ShapeDtypeStruct((b, t, N, H), jnp.float32)

    def explain(x):
        return print(ops.explain_attention(x, x, x)) or x

    jax.export.export(jax.jit(explain))(x)

    def chunked(x):
        return ops.attention(x, x, x, implementation="chunked")

    with pytest.raises(ValueError, match="needs lengths that are known before tracing, not T = t, S = t"):
        jax.export.export(jax.jit(chunked))(x)
    # Tiles work with a symbolic batch and static lengths, with dropout too.
    fixed = jax.ShapeDtypeStruct((b, 7, N, H), jnp.float32)

    def dropped(x, key):
        return ops.attention(x, x, x, dropout_rate=0.5, key=key, implementation="chunked")

    exported = jax.export.export(jax.jit(dropped))(fixed, jax.random.key(0))
    x, key = numbers((2, 7, N, H)), jax.random.key(0)
    np.testing.assert_allclose(exported.call(x, key), dropped(x, key), rtol=1e-5, atol=1e-6)
