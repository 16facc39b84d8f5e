"""Greedy decoding, sampling and streaming equal the reference loop."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.generate.models import V, build, config, count_compilations, log_probs, next_log_probs, tokens
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
    got = jax.jit(functools.partial(generate.greedy, model, config=config(LENGTH)))(
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
    got = generate.greedy(model, params, prompt, config(LENGTH), valid=PADDED)
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
    greedy = functools.partial(generate.greedy, model, params, source)
    free = np.asarray(greedy(config(LENGTH, eos_ids=())).tokens)
    eos_ids = tuple(sorted({int(free[0, 1]), int(free[1, 2])}))  # tokens that occur
    got = greedy(config(LENGTH, eos_ids=eos_ids))
    lengths = [next((i + 1 for i, token in enumerate(tokens) if token in eos_ids), LENGTH) for tokens in free]
    np.testing.assert_array_equal(got.lengths, lengths)
    assert len(set(lengths)) > 1
    for output, n, wanted in zip(got.tokens, lengths, free, strict=True):
        np.testing.assert_array_equal(output, [*wanted[:n], *[0] * (LENGTH - n)])
    with_eos = greedy(config(LENGTH, eos_ids=eos_ids, pad_id=None)).tokens
    padded = np.arange(LENGTH) >= np.array(lengths)[:, None]
    np.testing.assert_array_equal(with_eos, np.where(padded, eos_ids[0], got.tokens))


def test_min_length():
    model, params = build(nn.Decoder)
    prompt = tokens(20, 4, seed=1)
    free = generate.greedy(model, params, prompt, config(LENGTH, eos_ids=(2, 4, 5)))
    assert (free.lengths < 4).any()
    got = generate.greedy(model, params, prompt, config(LENGTH, eos_ids=(2, 4, 5), min_length=4))
    assert (got.lengths >= 4).all() and (got.lengths == 4).any()
    for output, n in zip(got.tokens, got.lengths, strict=True):
        assert not np.isin(output[:3], (2, 4, 5)).any() and (n == LENGTH or int(output[n - 1]) in (2, 4, 5))


def test_min_length_comes_before_truncation_sampling():
    model, params = build(nn.Decoder)
    prompt = tokens(20, 4, seed=1)
    greedy = config(LENGTH, eos_ids=(2, 4, 5), min_length=4)
    top_1 = greedy.updated(processors=(generate.TopK(1),))
    got = generate.sample(model, params, prompt, top_1, key=jax.random.key(0))
    np.testing.assert_array_equal(got.tokens, generate.greedy(model, params, prompt, greedy).tokens)


def test_sample_equals_the_reference_loop():
    model, params = build(nn.Decoder)
    prompt, key = jnp.array([[3, 4], [5, 6]]), jax.random.key(7)
    processors = (generate.Temperature(0.7), generate.TopK(4))
    got = generate.sample(model, params, prompt, config(LENGTH, eos_ids=(), processors=processors), key=key)
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
    sample = functools.partial(generate.sample, model, params, config=config(LENGTH, eos_ids=()))
    got = sample(prompt, key=keys)
    order = jnp.array([2, 0, 1])
    np.testing.assert_array_equal(sample(prompt[order], key=keys[order]).tokens, got.tokens[order])
    np.testing.assert_array_equal(sample(prompt[1:2], key=keys[1:2]).tokens, got.tokens[1:2])
    assert not np.array_equal(sample(prompt, key=keys[order]).tokens, got.tokens)
    wanted = r"sample: got key .*\[2\]; wanted key \[B\], .* Pass one key, or one per sequence"
    with pytest.raises(ValueError, match=wanted):
        sample(prompt, key=keys[:2])


def test_sample_follows_the_models_distribution():
    model, params = build(nn.Decoder)
    prompt = jnp.tile(jnp.array([[3, 4]]), (4000, 1))
    hot = config(1, processors=(generate.Temperature(2.0),))
    got = generate.sample(model, params, prompt, hot, key=jax.random.key(0))
    wanted = jax.nn.softmax(jnp.asarray(next_log_probs(model, params, [3, 4])) / 2.0)
    np.testing.assert_allclose(np.bincount(got.tokens[:, 0], minlength=V) / 4000, wanted, atol=0.04)


@pytest.mark.parametrize("every", [1, 4, 9])
def test_stream_equals_generate(every):
    model, params = build(nn.Decoder)
    prompt, key = tokens(B, 4), jax.random.key(3)
    arguments, valid = (model, params, prompt, config(LENGTH, eos_ids=(2, 4))), PADDED
    for expected, stream_key in (
        (generate.sample(*arguments, key=key, valid=valid), key),
        (generate.greedy(*arguments, valid=valid), None),
    ):
        blocks = list(generate.stream(*arguments, key=stream_key, every=every, valid=valid))
        joined = np.concatenate(blocks, axis=1)
        np.testing.assert_array_equal(joined, expected.tokens[:, : joined.shape[1]])
        longest = int(expected.lengths.max())
        assert joined.shape[1] == min(-(-longest // every) * every, LENGTH), "it ends with the last sequence"


def test_stream_is_lazy():
    model, params = build(nn.Decoder)
    stream = functools.partial(generate.stream, model, params, tokens(B, 4), key=None)
    first, second = itertools.islice(stream(config(LENGTH, eos_ids=()), every=2), 2)
    assert first.shape == second.shape == (B, 2)
    with pytest.raises(ValueError, match="stream: got every=0; wanted an integer from 1 to"):
        stream(config(LENGTH), every=0)
    with pytest.raises(ValueError, match="stream: got do_sample=True; wanted do_sample=False"):
        stream(config(LENGTH, do_sample=True))


def test_one_compilation_serves_all_prompts_of_a_shape():
    model, params = build(nn.Decoder)

    def sample(seed, processor):
        one = config(4, eos_ids=(), processors=(processor,))
        generate.sample(model, params, tokens(B, 4, seed=seed), one, key=jax.random.key(seed))

    sample(0, generate.Temperature(0.5))
    with jax.log_compiles(True), count_compilations() as compiled:
        sample(5, generate.Temperature(0.9))
        sample(5, lambda logits, context: -logits)
    # The second call has another processor, so only its loop is compiled again.
    assert sum("_decode" in name for name in compiled) == 1
    assert not any("_start" in name for name in compiled)


def test_nan_logits_and_masked_vocabularies_give_minus_1():
    model, params = build(nn.EncoderDecoder)
    got = generate.greedy(model, params, tokens(2, S), config(3, start_id=99))
    np.testing.assert_array_equal(got.tokens, -1)
    model, params = build(nn.Decoder)
    prompt = jnp.array([[3, 50], [3, 4]])
    got = generate.sample(model, params, prompt, config(3, eos_ids=()), key=jax.random.key(0))
    np.testing.assert_array_equal(got.tokens[0], -1)
    assert (got.tokens[1] >= 0).all()

    def nan_of_three(logits, context):
        return logits.at[:, 3].set(jnp.nan)

    got = generate.greedy(model, params, prompt[1:], config(3, processors=(nan_of_three,)))
    np.testing.assert_array_equal(got.tokens, -1)
    # A temperature near 0 makes logits infinite: with several, the largest is unknown.
    for tokens_at, wanted in ((slice(3, 5), -1), (slice(4, 5), 4)):

        def cold(logits, context, at=tokens_at):
            return logits.at[:, at].set(jnp.inf)

        infinite = config(3, eos_ids=(), processors=(cold,))
        got = generate.sample(model, params, prompt[1:], infinite, key=jax.random.key(0))
        np.testing.assert_array_equal(got.tokens, wanted)
    # Nine tokens, none twice, two in the prompt: nothing is left for the last two.
    once = config(9, eos_ids=(), processors=(generate.NoRepeatNgram(1),))
    got = generate.greedy(model, params, prompt[1:], once)
    assert sorted(got.tokens[0, :7].tolist()) == sorted(set(range(V)) - {3, 4})
    np.testing.assert_array_equal(got.tokens[0, 7:], -1)


def test_source_mask_without_memory_mask():
    model, params = build(nn.EncoderDecoder)
    source = tokens(B, S)
    for mask in (masks.causal(), jnp.tril(jnp.ones((S, S), bool)), masks.segments(jnp.ones(S, jnp.int32))):
        with pytest.raises(ValueError, match="requires a memory_mask"):
            generate.greedy(model, params, source, config(S), source_mask=mask)


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
    greedy = functools.partial(generate.greedy, model, params, source)
    free = config(LENGTH, eos_ids=())
    got = greedy(free, memory_mask=table)
    read = jnp.concatenate([jnp.ones((B, 1), jnp.int32), got.tokens[:, :-1]], axis=1)
    expected = jax.nn.log_softmax(model.apply(params, source, read, memory_mask=table))
    np.testing.assert_array_equal(got.tokens, expected.argmax(-1))
    np.testing.assert_allclose(got.log_probs, expected.max(-1), rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(greedy(free).log_probs - got.log_probs)).max() > 1e-3
    with pytest.raises(ValueError, match="T = 6, not 7"):  # the mask has one row per target token
        greedy(config(LENGTH + 1), memory_mask=table)
    cache = nn.init_cache(model, params, source, LENGTH, memory_mask=table)
    with pytest.raises(
        ValueError, match="prefill: got valid with a memory_mask that has one row per target token"
    ):
        generate.prefill(model, params, tokens(B, 4), cache, valid=PADDED)


def test_inside_shard_map():
    model, params = build(nn.EncoderDecoder)
    source = tokens(4, S)
    greedy = functools.partial(generate.greedy, model, config=config(LENGTH))
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    sharded = jax.shard_map(greedy, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    np.testing.assert_array_equal(jax.jit(sharded)(params, source).tokens, greedy(params, source).tokens)


def test_sharded_keys():
    model, params = build(nn.Decoder)
    prompt, keys = tokens(2, 4), jax.random.split(jax.random.key(0), 4)

    def sample(key):
        return generate.sample(model, params, prompt, config(4, eos_ids=()), key=key).tokens

    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    got = jax.jit(jax.shard_map(sample, mesh=mesh, in_specs=P("data"), out_specs=P("data")))(keys)
    np.testing.assert_array_equal(got, jnp.concatenate([sample(keys[:2]), sample(keys[2:])]))


def test_in_float64():
    with jax.enable_x64(True):
        model, params = build(nn.Decoder)
        prompt = jnp.asarray(tokens(2, 4))
        got = generate.greedy(model, params, prompt, config(4))
        best = generate.beam_search(model, params, prompt, config(4))
    np.testing.assert_array_equal(got.tokens, best.tokens[:, 0])


def sampled(prompt, module=nn.Decoder, **options):
    model, params = build(module, **options.pop("fields", {}))
    one = config(**{"max_length": 3, "eos_ids": (), **options.pop("config", {})})
    return generate.sample(model, params, prompt, one, **{"key": jax.random.key(0), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": None}, "sample: got key=None; wanted a PRNG key.* For the most likely tokens call greedy."),
        (
            {"valid": jnp.ones((1, 3), bool)},
            r"sample: got inputs .*, valid bool\[1, 3\]; wanted .* T = 3, not 2",
        ),
        (
            {"valid": jnp.ones((1, 2))},
            "sample: got .*; wanted .*, but valid has dtype float32. It is False at",
        ),
        ({"valid": jnp.zeros((1, 2), bool)}, r"got empty inputs at \[0\]; wanted at least one token"),
        ({"source_mask": masks.causal()}, "got source_mask or memory_mask with a decoder-only model"),
        (
            {"module": nn.EncoderDecoder, "valid": jnp.ones((1, 2), bool)},
            "sample: got valid with an encoder-decoder; wanted valid=None",
        ),
        (
            {"module": nn.EncoderDecoder, "config": {"start_id": None}},
            "sample: got start_id=None with an encoder-dec",
        ),
        ({"config": {"processors": (generate.TopK(10),)}}, "10"),
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
    ("prompt", "message"),
    [
        (jnp.ones(S, jnp.int32), "but inputs has rank 1, not 2. A single sequence is"),
        (jnp.int32(1), "but inputs has rank 0, not 2"),
        (jnp.ones((B, S)), r"wanted inputs int\[B, T\], but inputs has dtype float32"),
        (jnp.ones((B, 0), jnp.int32), "wanted at least one token in each, such as BOS"),
    ],
)
@pytest.mark.parametrize("module", [nn.Decoder, nn.EncoderDecoder])
def test_invalid_inputs(module, prompt, message):
    with pytest.raises(ValueError, match=f"sample: got inputs .*{message}"):
        sampled(prompt, module)


def test_equal_configs_compile_once():
    model, params = build(nn.Decoder)
    prompt = tokens(B, 4)

    @functools.partial(jax.jit, static_argnums=(0, 3))
    @chex.assert_max_traces(1)
    def greedy(model, params, prompt, config):
        return generate.greedy(model, params, prompt, config).tokens

    def make():
        return config(
            5, processors=(generate.NoRepeatNgram(2), generate.Temperature(0.5)), length_penalty=0.6
        )

    one, other = make(), make()
    assert one is not other and one == other and hash(one) == hash(other)
    got = greedy(model, params, prompt, one)
    np.testing.assert_array_equal(greedy(model, params, prompt, other), got)


def test_numbers_of_processors_may_be_traced():
    model, params = build(nn.Decoder)
    prompt = tokens(B, 4)

    def sample(t):
        warm = config(4, processors=(generate.Temperature(t),))
        return generate.sample(model, params, prompt, warm, key=jax.random.key(0)).tokens

    for t in (0.5, 3.0):
        np.testing.assert_array_equal(jax.jit(sample)(t), sample(t))
    assert (sample(0.5) != sample(3.0)).any()
