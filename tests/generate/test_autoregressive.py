"""Greedy decoding, sampling and streaming equal the reference loop."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.generate.models import V, build, count_compilations, log_probs, next_log_probs, tokens
from tests.marks import slow_but
from tfm_jax import generate, nn
from tfm_jax.generate import autoregressive
from tfm_jax.ops import masks

B, S, LENGTH = 3, 5, 6
PADDED = jnp.array([[False, False, True, True], [True, True, True, False], [True, True, True, True]])
FIELDS = {
    "sinusoidal": {},
    "window, grouped": {"window": 3, "n_kv_heads": 1, "positions": nn.Rope()},
    "learned": {"positions": nn.Learned(20)},
    "relative": {"positions": nn.RelativeBias(6, 8)},
}


def reference_loop(model, params, prompt, choose, source=None, eos_ids=(2,), length=LENGTH):
    """One forward pass per token; ``choose(log_probs, step)``."""
    tokens = [int(token) for token in prompt]
    for step in range(length):
        tokens.append(int(choose(next_log_probs(model, params, tokens, source), step)))
        if tokens[-1] in eos_ids:
            break
    output = tokens[len(prompt) :]
    return output + [0] * (length - len(output))


def most_likely(log_probs, step):
    return log_probs.argmax()


def test_greedy_equals_the_reference_loop():
    model, params = build(nn.EncoderDecoder)
    source, lengths = tokens(B, S), [5, 3, 4]
    valid = jnp.arange(S)[None] < jnp.array(lengths)[:, None]
    got = jax.jit(functools.partial(generate.greedy, model, max_length=LENGTH))(
        params, source, source_mask=masks.padding(valid)
    )
    assert got.tokens.shape == (B, LENGTH) and got.tokens.dtype == jnp.int32
    for b in range(B):
        wanted = reference_loop(model, params, [1], most_likely, source[b, : lengths[b]])
        np.testing.assert_array_equal(got.tokens[b], wanted)
    assert len(np.unique(got.tokens)) > 2


@pytest.mark.parametrize("name", slow_but(["window, grouped", "learned"], FIELDS))
def test_padded_prompts_equal_each_alone(name):
    fields = FIELDS[name]
    model, params = build(nn.Decoder, **fields)
    prompt = tokens(B, 4)
    got = generate.greedy(model, params, prompt, max_length=LENGTH, valid=PADDED)
    for b in range(B):
        unpadded = np.asarray(prompt[b])[np.asarray(PADDED[b])]
        wanted = reference_loop(model, params, unpadded, most_likely)
        np.testing.assert_array_equal(got.tokens[b], wanted)
        n = int(got.lengths[b])
        expected = log_probs(model, params, unpadded, got.tokens[b : b + 1, :n])[0]
        np.testing.assert_allclose(got.log_probs[b, :n], expected, rtol=1e-4, atol=1e-5)
        assert (got.log_probs[b, n:] == 0).all()


def test_outputs_are_padded_after_eos():
    model, params = build(nn.EncoderDecoder)
    source = tokens(20, S, seed=1)
    greedy = functools.partial(generate.greedy, model, params, source, max_length=LENGTH)
    free = np.asarray(greedy(eos_id=None).tokens)
    eos_ids = sorted({int(free[0, 1]), int(free[1, 2])})  # tokens that occur
    got = greedy(eos_id=tuple(eos_ids))
    for same in (eos_ids, np.array(eos_ids), jnp.array(eos_ids)):
        np.testing.assert_array_equal(greedy(eos_id=same).tokens, got.tokens)
    lengths = [next((i + 1 for i, token in enumerate(tokens) if token in eos_ids), LENGTH) for tokens in free]
    np.testing.assert_array_equal(got.lengths, lengths)
    assert len(set(lengths)) > 1
    for output, n, wanted in zip(got.tokens, lengths, free, strict=True):
        np.testing.assert_array_equal(output, [*wanted[:n], *[0] * (LENGTH - n)])


def test_min_length():
    model, params = build(nn.Decoder)
    prompt = tokens(20, 4, seed=1)
    free = generate.greedy(model, params, prompt, max_length=LENGTH, eos_id=(2, 4, 5))
    assert (free.lengths < 4).any()
    got = generate.greedy(model, params, prompt, max_length=LENGTH, eos_id=(2, 4, 5), min_length=4)
    assert (got.lengths >= 4).all() and (got.lengths == 4).any()
    for output, n in zip(got.tokens, got.lengths, strict=True):
        assert not np.isin(output[:3], (2, 4, 5)).any() and (n == LENGTH or int(output[n - 1]) in (2, 4, 5))


def test_min_length_comes_before_truncation_sampling():
    model, params = build(nn.Decoder)
    prompt = tokens(20, 4, seed=1)
    options = {"max_length": LENGTH, "eos_id": (2, 4, 5), "min_length": 4}
    got = generate.sample(
        model, params, prompt, key=jax.random.key(0), processors=(generate.TopK(1),), **options
    )
    np.testing.assert_array_equal(got.tokens, generate.greedy(model, params, prompt, **options).tokens)


def test_sample_equals_the_reference_loop():
    model, params = build(nn.Decoder)
    prompt, key = jnp.array([[3, 4], [5, 6]]), jax.random.key(7)
    processors = (generate.Temperature(0.7), generate.TopK(4))
    got = generate.sample(model, params, prompt, key=key, max_length=LENGTH, processors=processors)
    # The log-probabilities are the model's, before the processors.
    for b in range(2):
        expected = log_probs(model, params, prompt[b], got.tokens[b : b + 1])[0]
        np.testing.assert_allclose(got.log_probs[b], expected, rtol=1e-4, atol=1e-5)
    for b, sequence_key in zip(range(2), jax.random.split(key, 2), strict=True):

        def draw(log_probs, step, key=sequence_key):
            kept = np.where(log_probs >= np.sort(log_probs)[-4], log_probs / 0.7, -np.inf)
            return jax.random.categorical(jax.random.fold_in(key, step), jnp.asarray(kept, jnp.float32))

        np.testing.assert_array_equal(
            got.tokens[b], reference_loop(model, params, prompt[b], draw, eos_ids=())
        )
    assert len(np.unique(got.tokens)) > 2


def test_one_key_per_sequence_makes_sampling_independent_of_batching():
    model, params = build(nn.Decoder)
    prompt, keys = tokens(B, 4), jax.random.split(jax.random.key(1), B)
    sample = functools.partial(generate.sample, model, params, max_length=LENGTH)
    got = sample(prompt, key=keys)
    order = jnp.array([2, 0, 1])
    np.testing.assert_array_equal(sample(prompt[order], key=keys[order]).tokens, got.tokens[order])
    np.testing.assert_array_equal(sample(prompt[1:2], key=keys[1:2]).tokens, got.tokens[1:2])
    assert not np.array_equal(sample(prompt, key=keys[order]).tokens, got.tokens)
    with pytest.raises(
        ValueError, match=r"generate: got keys \[2\]; wanted one key, or one per sequence \[3\]"
    ):
        sample(prompt, key=keys[:2])


def test_sample_follows_the_models_distribution():
    model, params = build(nn.Decoder)
    prompt = jnp.tile(jnp.array([[3, 4]]), (4000, 1))
    got = generate.sample(
        model, params, prompt, key=jax.random.key(0), max_length=1, processors=(generate.Temperature(2.0),)
    )
    wanted = jax.nn.softmax(jnp.asarray(next_log_probs(model, params, [3, 4])) / 2.0)
    np.testing.assert_allclose(np.bincount(got.tokens[:, 0], minlength=V) / 4000, wanted, atol=0.04)


@pytest.mark.parametrize("every", [1, 4, 9])
def test_stream_equals_generate(every):
    model, params = build(nn.Decoder)
    prompt, key = tokens(B, 4), jax.random.key(3)
    options = {"max_length": LENGTH, "eos_id": (2, 4), "valid": PADDED}
    for expected, stream_key in (
        (generate.sample(model, params, prompt, key=key, **options), key),
        (generate.greedy(model, params, prompt, **options), None),
    ):
        blocks = list(generate.stream(model, params, prompt, key=stream_key, every=every, **options))
        joined = np.concatenate(blocks, axis=1)
        np.testing.assert_array_equal(joined, expected.tokens[:, : joined.shape[1]])
        longest = int(expected.lengths.max())
        assert joined.shape[1] == min(-(-longest // every) * every, LENGTH), "it ends with the last sequence"


def test_stream_is_lazy():
    model, params = build(nn.Decoder)
    stream = generate.stream(model, params, tokens(B, 4), key=None, max_length=LENGTH, every=2)
    first, second = itertools.islice(stream, 2)
    assert first.shape == second.shape == (B, 2)
    with pytest.raises(ValueError, match="stream: got every=0; wanted an integer from 1 to"):
        generate.stream(model, params, tokens(B, 4), key=None, max_length=LENGTH, every=0)


def test_one_compilation_serves_all_prompts_of_a_shape():
    model, params = build(nn.Decoder)
    sample = functools.partial(generate.sample, model, params, max_length=4)
    sample(tokens(B, 4), key=jax.random.key(0), processors=(generate.Temperature(0.5),))
    with jax.log_compiles(True), count_compilations() as compiled:
        sample(tokens(B, 4, seed=5), key=jax.random.key(1), processors=(generate.Temperature(0.9),))
        sample(tokens(B, 4, seed=5), key=jax.random.key(1), processors=(lambda logits, context: -logits,))
    # The second call has another processor, so only its loop is compiled again.
    assert sum("_decode" in name for name in compiled) == 1
    assert not any("_start" in name for name in compiled)


def test_nan_logits_and_masked_vocabularies_give_minus_1():
    model, params = build(nn.EncoderDecoder)
    got = generate.greedy(model, params, tokens(2, S), max_length=3, bos_id=99)
    np.testing.assert_array_equal(got.tokens, -1)
    model, params = build(nn.Decoder)
    prompt = jnp.array([[3, 50], [3, 4]])
    got = generate.sample(model, params, prompt, key=jax.random.key(0), max_length=3)
    np.testing.assert_array_equal(got.tokens[0], -1)
    assert (got.tokens[1] >= 0).all()

    def nan_of_three(logits, context):
        return logits.at[:, 3].set(jnp.nan)

    got = generate.greedy(model, params, prompt[1:], max_length=3, processors=(nan_of_three,))
    np.testing.assert_array_equal(got.tokens, -1)
    # A temperature near 0 makes logits infinite: with several, the largest is unknown.
    cold = functools.partial(generate.sample, model, params, prompt[1:], key=jax.random.key(0), max_length=3)
    got = cold(processors=(lambda logits, context: logits.at[:, 3:5].set(jnp.inf),))
    np.testing.assert_array_equal(got.tokens, -1)
    got = cold(eos_id=None, processors=(lambda logits, context: logits.at[:, 4].set(jnp.inf),))
    np.testing.assert_array_equal(got.tokens, 4)
    # Nine tokens, none twice, two in the prompt: nothing is left for the last two.
    got = generate.greedy(
        model, params, prompt[1:], max_length=9, eos_id=None, processors=(generate.NoRepeatNgram(1),)
    )
    assert sorted(got.tokens[0, :7].tolist()) == sorted(set(range(V)) - {3, 4})
    np.testing.assert_array_equal(got.tokens[0, 7:], -1)


def test_source_mask_without_memory_mask():
    model, params = build(nn.EncoderDecoder)
    source = tokens(B, S)
    for mask in (masks.causal(), jnp.tril(jnp.ones((S, S), bool)), masks.segments(jnp.ones(S, jnp.int32))):
        with pytest.raises(ValueError, match="requires a memory_mask"):
            generate.greedy(model, params, source, max_length=S, source_mask=mask)


@pytest.mark.parametrize("size", [1, 127, 128, 129, 700])
def test_argmax_takes_the_first_of_equal_tokens(size):
    x = np.random.default_rng(size).integers(0, 4, (5, size)).astype(np.float32)
    x[1] = -np.inf
    x[2, :-1] = -np.inf
    x[3] = np.random.default_rng(0).choice([-0.0, 0.0], size).astype(np.float32)
    np.testing.assert_array_equal(autoregressive._argmax(jnp.asarray(x)), x.argmax(1))


def test_dense_memory_mask():
    model, params = build(nn.EncoderDecoder)
    source, table = tokens(B, S), jnp.asarray(np.random.default_rng(0).random((LENGTH, S)) < 0.5)
    greedy = functools.partial(generate.greedy, model, params, source, eos_id=None)
    got = greedy(max_length=LENGTH, memory_mask=table)
    read = jnp.concatenate([jnp.ones((B, 1), jnp.int32), got.tokens[:, :-1]], axis=1)
    expected = jax.nn.log_softmax(model.apply(params, source, read, memory_mask=table))
    np.testing.assert_array_equal(got.tokens, expected.argmax(-1))
    np.testing.assert_allclose(got.log_probs, expected.max(-1), rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(greedy(max_length=LENGTH).log_probs - got.log_probs)).max() > 1e-3
    with pytest.raises(ValueError, match="T = 7"):  # the mask has one row per target token
        greedy(max_length=LENGTH + 1, memory_mask=table)
    cache = nn.init_cache(model, params, source, LENGTH, memory_mask=table)
    with pytest.raises(
        ValueError, match="prefill: got valid with a memory_mask that has one row per target token"
    ):
        generate.prefill(model, params, tokens(B, 4), cache, valid=PADDED)


def test_inside_shard_map():
    model, params = build(nn.EncoderDecoder)
    source = tokens(4, S)
    greedy = functools.partial(generate.greedy, model, max_length=LENGTH)
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    sharded = jax.shard_map(greedy, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    np.testing.assert_array_equal(jax.jit(sharded)(params, source).tokens, greedy(params, source).tokens)


def test_sharded_keys():
    model, params = build(nn.Decoder)
    prompt, keys = tokens(2, 4), jax.random.split(jax.random.key(0), 4)

    def sample(key):
        return generate.sample(model, params, prompt, key=key, max_length=4).tokens

    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    got = jax.jit(jax.shard_map(sample, mesh=mesh, in_specs=P("data"), out_specs=P("data")))(keys)
    np.testing.assert_array_equal(got, jnp.concatenate([sample(keys[:2]), sample(keys[2:])]))


def test_in_float64():
    with jax.enable_x64(True):
        model, params = build(nn.Decoder)
        prompt = jnp.asarray(tokens(2, 4))
        got = generate.greedy(model, params, prompt, max_length=4)
        best = generate.beam_search(model, params, prompt, beams=1, max_length=4)
    np.testing.assert_array_equal(got.tokens, best.tokens[:, 0])


def sampled(prompt, module=nn.Decoder, **options):
    model, params = build(module, **options.pop("fields", {}))
    return generate.sample(model, params, prompt, **{"key": jax.random.key(0), "max_length": 3, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": -1}, "sample: got max_length=-1; wanted an integer from 0 to "),
        ({"min_length": 4}, "sample: got min_length=4 with max_length=3; wanted min_length <= max_length"),
        ({"max_length": 2.5}, "sample: got max_length=2.5; wanted an integer"),
        ({"max_length": 10**30}, "sample: got max_length=1000.*; wanted an integer .* to 2"),
        ({"max_length": float("nan")}, "sample: got max_length=nan; wanted an integer"),
        ({"min_length": -1}, "sample: got min_length=-1; wanted an integer from 0 to "),
        ({"min_length": True}, "sample: got min_length=True; wanted an integer"),
        ({"eos_id": "2"}, "sample: got eos_id='2'; wanted an integer"),
        ({"eos_id": 2.0}, "sample: got eos_id=2.0; wanted an integer"),
        ({"eos_id": jnp.array([1.5])}, "sample: got eos_id=1.5; wanted an integer"),
        ({"pad_id": None}, "sample: got pad_id=None; wanted an integer"),
        ({"pad_id": jnp.int32(1)}, "sample: got pad_id=Array.*; wanted an integer .*, not an array"),
        ({"max_length": np.array([3, 3])}, "sample: got max_length=array.*; wanted .*, not an array"),
        ({"bos_id": 1.5}, "sample: got bos_id=1.5; wanted an integer"),
        ({"key": None}, "sample: got key=None; wanted a PRNG key.* For the most likely tokens call greedy."),
        (
            {"processors": generate.TopK(2)},
            r"processors: got TopK\(k=2\); wanted a sequence. Put it into a tuple",
        ),
        ({"eos_id": (2, -5)}, "sample: got eos_id=-5; wanted an integer from 0 to"),
        ({"pad_id": -1}, "sample: got pad_id=-1"),
        ({"valid": jnp.ones((1, 3), bool)}, r"left_pad: got valid bool\[1, 3\]; wanted bool\[1, 2\]"),
        ({"valid": jnp.zeros((1, 2), bool)}, r"got empty prompts at \[0\]; wanted at least one token"),
        ({"source_mask": masks.causal()}, "got source_mask or memory_mask with a decoder-only model"),
        (
            {"module": nn.EncoderDecoder, "valid": jnp.ones((1, 2), bool)},
            "got valid with an encoder-decoder; wanted valid=None",
        ),
        ({"processors": (generate.TopK(10),)}, "10"),
        (
            {"fields": {"positions": nn.Learned(3)}},
            "Learned: got a sequence of .*; wanted at most max_length=3",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        sampled(jnp.ones((1, 2), jnp.int32), **options)


@pytest.mark.parametrize(
    "prompt",
    [jnp.ones(S, jnp.int32), jnp.int32(1), jnp.ones((B, S)), jnp.ones((B, 0), jnp.int32)],
)
def test_invalid_inputs(prompt):
    for module, name in ((nn.Decoder, "prompt"), (nn.EncoderDecoder, "source")):
        with pytest.raises(
            ValueError, match=f"generate: got {name} .*; wanted int .B, length., length at least 1"
        ):
            sampled(prompt, module)
