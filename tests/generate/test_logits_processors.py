"""Logits processors equal the functions of ops.sampling, and are pytrees that compose."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax.generate.logits_processors import (
    Context,
    FrequencyPenalty,
    MinLength,
    MinP,
    NoRepeatNgram,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    apply_processors,
)
from tfm_jax.ops import sampling

V, M, BATCH = 5, 9, (2, 3)
seeds = st.integers(0, 2**31 - 1)


def draw(seed, length=M, step=0):
    """Logits, and a context with left padding and with ids at positions that must not be read."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(0, 2, (*BATCH, V)), jnp.float32)
    tokens = rng.integers(0, V, (*BATCH, M)).astype(np.int32)
    tokens[np.arange(M) < rng.integers(0, 4, (*BATCH, 1))] = -1
    return x, Context(jnp.asarray(tokens), jnp.int32(length), jnp.int32(step))


def counts_reference(context):
    sequences = np.asarray(context.tokens).reshape(-1, M)[:, : int(context.length)]
    return jnp.asarray([[(x == v).sum() for v in range(V)] for x in sequences], jnp.int32).reshape(*BATCH, V)


PAIRS = {
    "temperature": (Temperature(0.7), lambda x, c: sampling.temperature(x, 0.7)),
    "top_k": (TopK(2), lambda x, c: sampling.top_k(x, 2)),
    "top_p": (TopP(0.6), lambda x, c: sampling.top_p(x, 0.6)),
    "min_p": (MinP(0.3), lambda x, c: sampling.min_p(x, 0.3)),
    "repetition": (
        RepetitionPenalty(1.4),
        lambda x, c: sampling.repetition_penalty(x, counts_reference(c) > 0, 1.4),
    ),
    "frequency": (
        FrequencyPenalty(0.3),
        lambda x, c: sampling.frequency_penalty(x, counts_reference(c), 0.3),
    ),
    "ngram": (NoRepeatNgram(2), lambda x, c: sampling.no_repeat_ngram(x, c.tokens, c.length, 2)),
    "min_length": (MinLength(4, (1, 3)), lambda x, c: x.at[..., [1, 3]].set(-jnp.inf) if c.step < 3 else x),
}
jitted = jax.jit(lambda processor, x, context: processor(x, context))
every = pytest.mark.parametrize(("processor", "function"), PAIRS.values(), ids=PAIRS)


@every
@given(seeds, st.integers(0, M), st.integers(0, 5))
def test_processors_equal_their_functions(processor, function, seed, length, step):
    x, context = draw(seed, length, step)
    np.testing.assert_allclose(jitted(processor, x, context), function(x, context), rtol=1e-6)


@every
def test_processors_have_an_effect_keep_the_dtype_and_vmap(processor, function):
    x, context = draw(1)
    got = processor(x, context)
    assert (np.asarray(got) != x).any()
    assert processor(x.astype(jnp.bfloat16), context).dtype == jnp.bfloat16
    in_axes = (0, Context(0, None, None))
    mapped = jax.vmap(jax.vmap(processor, in_axes), in_axes)
    np.testing.assert_allclose(jax.jit(mapped)(x, context), got, rtol=1e-6)


@given(seeds, st.integers(0, 4))
def test_min_length_counts_eos(seed, n):
    min_length = MinLength(n, (0, 4))
    for step in range(6):
        x, context = draw(seed, step=step)
        got = jitted(min_length, x, context)
        # The token chosen at this step is number step + 1; EOS would be the last one.
        want = x if step + 1 >= n else x.at[..., jnp.array([0, 4])].set(-jnp.inf)
        np.testing.assert_array_equal(got, want)


def test_min_length_without_eos_masks_nothing_and_keeps_nan():
    x, context = draw(2)
    np.testing.assert_array_equal(MinLength(9, ())(x, context), x)
    assert np.isnan(MinLength(9, (1,))(x.at[0, 0, 1].set(jnp.nan), context)[0, 0, 1])


def test_processors_are_applied_in_order():
    x = jnp.array([2.0, 1.9, 0.0])
    context = Context(jnp.array([0, 0]), jnp.int32(2), jnp.int32(0))
    fine, only = FrequencyPenalty(1.0), TopK(1)
    np.testing.assert_allclose(apply_processors([fine, only], x, context), [-np.inf, 1.9, -np.inf])
    np.testing.assert_allclose(apply_processors([only, fine], x, context), [0.0, -np.inf, -np.inf])
    assert apply_processors((), x, context) is x

    def double(logits, context):
        return logits * 2  # any callable

    np.testing.assert_allclose(apply_processors((double, Temperature(2.0)), x, context), x)


def test_only_sizes_cause_a_new_compilation():
    traces = []

    @jax.jit
    def run(processors, x, context):
        traces.append(processors)
        return apply_processors(processors, x, context)

    x, context = draw(3)

    def make(number, k):
        return (
            *(Temperature(number), TopP(number), MinP(number)),
            *(
                RepetitionPenalty(number),
                FrequencyPenalty(number),
                TopK(k),
                NoRepeatNgram(k),
                MinLength(k, (1,)),
            ),
        )

    first, second = run(make(0.5, 3), x, context), run(make(0.9, 3), x, context)
    assert len(traces) == 1 and (first != second).any()
    np.testing.assert_allclose(second, apply_processors(make(0.9, 3), x, context), rtol=1e-5)
    run(make(0.9, 4), x, context)
    assert len(traces) == 2
    assert len(jax.tree.leaves(make(0.5, 3))) == 5


def test_one_number_per_sequence():
    x, context = draw(4)
    t = jnp.linspace(0.5, 2, 6).reshape(BATCH)
    np.testing.assert_allclose(jitted(Temperature(t), x, context), x / t[..., None], rtol=1e-6)
    with pytest.raises(ValueError, match="Temperature: got t"):
        Temperature(-t)


def test_processors_are_values_and_pytrees():
    assert TopK(3) == TopK(3) != TopK(4) and TopP(0.5) == TopP(0.5) and hash(TopP(0.5)) == hash(TopP(0.5))
    with pytest.raises(dataclasses.FrozenInstanceError):
        TopK(3).k = 4
    for processor, _ in PAIRS.values():
        leaves, tree = jax.tree.flatten(processor)
        assert jax.tree.unflatten(tree, leaves) == processor
        jax.tree.unflatten(tree, [object()] * len(leaves))  # as JAX does


def test_processors_in_a_scan():
    """No repeated pair, and EOS at the fourth token at the earliest, against a Python loop."""
    processors = (NoRepeatNgram(2), MinLength(4, (0,)))
    x = jnp.array([4.0, 3.0, 2.0, 1.0])

    def step(tokens, i):
        token = apply_processors(processors, x, Context(tokens, i + 1, i)).argmax().astype(jnp.int32)
        return tokens.at[i + 1].set(token), token

    start = jnp.full(8, -1, jnp.int32).at[0].set(1)
    got = jax.jit(lambda: jax.lax.scan(step, start, jnp.arange(7, dtype=jnp.int32)))()[1]
    tokens = [1]
    for i in range(7):
        pairs = set(itertools.pairwise(tokens))
        tokens.append(next(t for t in range(4) if (tokens[-1], t) not in pairs and not (t == 0 and i < 3)))
    np.testing.assert_array_equal(got, tokens[1:])


@pytest.mark.parity
def test_same_as_transformers_with_a_prompt():
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.generation.logits_process")
    x, context = draw(5)
    x, tokens = x.reshape(6, V), jnp.abs(context.tokens.reshape(6, M))
    context = Context(tokens, context.length, jnp.int32(3))
    cpu = {"device": "cpu"}
    their = theirs.LogitsProcessorList(
        [
            theirs.RepetitionPenaltyLogitsProcessor(1.3),
            theirs.NoRepeatNGramLogitsProcessor(3),
            theirs.MinNewTokensLengthLogitsProcessor(M - 3, 4, [2], **cpu),
            theirs.TemperatureLogitsWarper(0.8),
            theirs.TopKLogitsWarper(4),
            theirs.TopPLogitsWarper(0.9),
            theirs.MinPLogitsWarper(0.1),
        ]
    )
    # Theirs count the tokens before EOS, ours count EOS too.
    ours = (RepetitionPenalty(1.3), NoRepeatNgram(3), MinLength(5, (2,)), Temperature(0.8))
    ours += (TopK(4), TopP(0.9), MinP(0.1))
    want = their(torch.tensor(np.asarray(tokens), dtype=torch.long), torch.tensor(np.asarray(x)))
    np.testing.assert_allclose(apply_processors(ours, x, context), want.numpy(), rtol=1e-6)


WRONG = {
    "t": (lambda: Temperature(0), "Temperature: got t=0; wanted a finite number above 0"),
    "t inf": (lambda: Temperature(float("inf")), "Temperature: got t=inf"),
    "k": (lambda: TopK(0), "TopK: got k=0; wanted an integer from 1 to"),
    "k float": (lambda: TopK(2.0), r"TopK: got k=2.0; wanted an integer"),
    "p": (lambda: TopP(0.0), r"TopP: got p=0.0; wanted a number in \(0, 1\]"),
    "p above 1": (lambda: TopP(1.01), r"TopP: got p=1.01; wanted"),
    "min p": (lambda: MinP(-0.1), r"MinP: got p=-0.1; wanted a number in \(0, 1\]"),
    "repetition": (lambda: RepetitionPenalty(-1.0), "RepetitionPenalty: got penalty=-1.0; wanted .* above 0"),
    "frequency": (
        lambda: FrequencyPenalty(float("nan")),
        "FrequencyPenalty: got penalty=nan; wanted a finite",
    ),
    "n": (lambda: NoRepeatNgram(0), "NoRepeatNgram: got n=0; wanted an integer from 1 to "),
    "length": (lambda: MinLength(-1, (2,)), "MinLength: got n=-1; wanted an integer from 0 to "),
    "one EOS id": (lambda: MinLength(3, 2), r"MinLength: got eos_ids=2; wanted a tuple"),
    "EOS id": (lambda: MinLength(3, (2, -1)), "MinLength: got an EOS id=-1; wanted an integer"),
    "t nan": (lambda: Temperature(float("nan")), "Temperature: got t=nan"),
    "t text": (lambda: Temperature("1"), "Temperature: got t='1'; wanted a finite number above 0"),
    "t flag": (lambda: Temperature(True), "Temperature: got t=True"),
    "t per sequence": (lambda: Temperature(jnp.array([1.0, -1.0])), r"got t=\[ 1. -1.\]; wanted"),
    "k flag": (lambda: TopK(True), "TopK: got k=True; wanted an integer"),
    "k huge": (lambda: TopK(10**30), "TopK: got k=1000"),
    "p nan": (lambda: TopP(float("nan")), "TopP: got p=nan"),
    "p none": (lambda: MinP(None), "MinP: got p=None"),
    "repetition inf": (lambda: RepetitionPenalty(float("inf")), "RepetitionPenalty: got penalty=inf"),
    "k above V": (lambda: TopK(6)(*draw(0)), "top_k: got k=6; wanted at most V = 5"),
    "EOS id above V": (
        lambda: MinLength(3, (2, 5))(*draw(0)),
        r"got eos_ids=\(2, 5\); wanted ids below V = 5",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_invalid_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
