"""Logits functions against plain references in float64, and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tfm_jax.ops import sampling

SHAPES = [(3, 11), (2, 3, 5)]
seeds, shapes, shares = st.integers(0, 2**31 - 1), st.sampled_from(SHAPES), st.floats(0.02, 0.98)
INF = np.inf
# One program for each function and shape; numbers are traced, as in a decode loop.
temperature, top_p, min_p = jax.jit(sampling.temperature), jax.jit(sampling.top_p), jax.jit(sampling.min_p)
repetition_penalty, frequency_penalty = (
    jax.jit(sampling.repetition_penalty),
    jax.jit(sampling.frequency_penalty),
)
top_k = jax.jit(sampling.top_k, static_argnums=1)
no_repeat_ngram = jax.jit(sampling.no_repeat_ngram, static_argnums=3)
token_counts = jax.jit(sampling.token_counts, static_argnums=1)


def draw(seed, shape):
    """Logits, for some seeds with ties, for some with masked tokens."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 3, shape)
    x = np.round(x) if seed % 3 == 0 else x
    x = np.where(rng.random(shape) < 0.3, -INF, x) if seed % 2 else x
    x[..., rng.integers(shape[-1])] = rng.normal()
    return jnp.asarray(x, jnp.float32)


def probabilities(x):
    x = np.asarray(x, np.float64)
    mass = np.exp(x - x.max(-1, keepdims=True))
    return mass / mass.sum(-1, keepdims=True)


def along_vocabulary(reference):
    """A reference for one sequence's logits, applied to any leading dims."""
    return lambda x, *args: np.apply_along_axis(reference, -1, np.asarray(x, np.float64), *args)


@along_vocabulary
def top_k_reference(row, k):
    return [x if (row > x).sum() < k else -INF for x in row]


@along_vocabulary
def top_p_reference(row, p):
    """Tries the likeliest one, two, three, ... tokens, until their probability is enough."""
    probability = probabilities(row)
    order = np.argsort(-probability, kind="stable")
    fewest = next((m for m in range(1, len(row)) if probability[order[:m]].sum() >= p), len(row))
    least = probability[order[fewest - 1]]
    return [x if q >= least else -INF for x, q in zip(row, probability, strict=True)]


@along_vocabulary
def min_p_reference(row, p):
    probability = probabilities(row)
    return np.where(probability >= p * probability.max(), row, -INF)


def near_threshold(x, p):
    """Whether rounding decides: a cumulative probability, or a ratio to the likeliest, is almost p."""
    q = probabilities(x)
    sums = np.cumsum(-np.sort(-q, axis=-1), -1)
    return np.abs(sums - p).min() < 1e-5 or np.abs(q / q.max(-1, keepdims=True) - p).min() < 1e-5


def ngram_reference(logits, row, length, n):
    row, out = [int(t) for t in row[:length]], np.array(logits)
    for token in range(len(out)):
        grams = [tuple(row[i : i + n]) for i in range(length - n + 1)]
        new = (*row[length - n + 1 :], token) if length >= n - 1 and n > 1 else (token,)
        if len(new) == n and min(new) >= 0 and new in grams:
            out[token] = -INF
    return out


TRUNCATIONS = {
    "top_k": lambda x: top_k(x, 3),
    "top_p": lambda x: top_p(x, 0.7),
    "min_p": lambda x: min_p(x, 0.2),
}
IDS = np.random.default_rng(5).integers(-1, 5, (2, 3, 8)).astype(np.int32)


def repeated(x, ids=IDS):
    ids = jnp.broadcast_to(ids[(0,) * (3 - x.ndim)], (*x.shape[:-1], 8))
    return ids, token_counts(ids, x.shape[-1])


ALL = {
    **TRUNCATIONS,
    "temperature": lambda x: temperature(x, 0.6),
    "repetition_penalty": lambda x: repetition_penalty(x, repeated(x)[1] > 0, 1.7),
    "frequency_penalty": lambda x: frequency_penalty(x, repeated(x)[1], 0.4),
    "no_repeat_ngram": lambda x: no_repeat_ngram(x, repeated(x)[0], 8, 1),
}
truncations = pytest.mark.parametrize("function", TRUNCATIONS.values(), ids=TRUNCATIONS)
functions = pytest.mark.parametrize("function", ALL.values(), ids=ALL)


@given(seeds, shapes, st.sampled_from([1, 2, 5]))
def test_top_k_is_the_reference(seed, shape, k):
    x = draw(seed, shape)
    np.testing.assert_array_equal(top_k(x, k), top_k_reference(x, k))
    np.testing.assert_array_equal(top_k(x, shape[-1]), x)


@given(seeds, shapes, shares)
def test_top_p_is_the_reference(seed, shape, p):
    x = draw(seed, shape)
    assume(not near_threshold(x, p))
    got = top_p(x, p)
    np.testing.assert_array_equal(got, top_p_reference(x, p))
    q = probabilities(x)
    assert (np.where(np.isfinite(got), q, 0).sum(-1) >= p).all()


@given(seeds, shapes, shares)
def test_min_p_is_the_reference(seed, shape, p):
    x = draw(seed, shape)
    assume(not near_threshold(x, p))
    np.testing.assert_array_equal(min_p(x, p), min_p_reference(x, p))
    likeliest = x == x.max(-1, keepdims=True)
    np.testing.assert_array_equal(min_p(x, 1.0), jnp.where(likeliest, x, -jnp.inf))


@given(seeds, shapes, st.sampled_from([0.1, 0.7, 1.0, 3.0]))
def test_temperature_divides_and_keeps_the_order(seed, shape, t):
    x = draw(seed, shape)
    got = temperature(x, t)
    np.testing.assert_allclose(got, np.asarray(x, np.float64) / t, rtol=1e-6)
    np.testing.assert_array_equal(jnp.argsort(got), jnp.argsort(x))


@given(seeds, shapes, st.sampled_from([0.5, 1.0, 1.3]))
def test_penalties_are_their_formulas(seed, shape, penalty):
    x, rng = draw(seed, shape), np.random.default_rng(seed)
    counts = rng.integers(0, 4, shape).astype(np.int32)
    wide = np.asarray(x, np.float64)
    want = np.where(counts > 0, wide * penalty ** -np.sign(wide), wide)
    got = repetition_penalty(x, jnp.asarray(counts > 0), penalty)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    if penalty > 1:
        assert (got <= x).all()
    got = frequency_penalty(x, jnp.asarray(counts), penalty)
    np.testing.assert_allclose(got, wide - penalty * counts, atol=1e-5)
    np.testing.assert_array_equal(frequency_penalty(x, jnp.asarray(counts), 0.0), x)


@given(seeds, st.integers(0, 9), st.sampled_from([1, 2, 3, 4]))
def test_no_repeat_ngram_is_the_plain_loop(seed, length, n):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)
    # Few ids, so that they repeat; padding; ids beyond the vocabulary. Entries from `length` on do not count.
    tokens = rng.choice([-1, 0, 1, 1, 2, 3, 6], (2, 5, 9)).astype(np.int32)
    want = [
        [ngram_reference(*row, length, n) for row in zip(*rows, strict=True)]
        for rows in zip(x, tokens, strict=True)
    ]
    np.testing.assert_array_equal(no_repeat_ngram(x, tokens, length, n), want)


def test_no_repeat_ngram_examples():
    def masked(sequence, n):
        tokens = np.pad(np.array(sequence, np.int32), (0, 5 - len(sequence)), constant_values=2)
        return np.flatnonzero(np.isneginf(no_repeat_ngram(jnp.zeros(6), tokens, len(sequence), n))).tolist()

    assert masked([1, 2, 3, 1, 2], 3) == [3]
    assert masked([1, 2, 3, 1, 2], 2) == [3]
    assert masked([1, 2, 3, 1, 2], 1) == [1, 2, 3]
    assert masked([4, 4, 4], 2) == [4] and masked([4, 4, 4], 3) == [4] and masked([4, 4, 4], 4) == []
    assert masked([1, -1, 3, 1, -1], 3) == []  # no n-gram with padding
    assert masked([-1, -1, -1, -1], 2) == [] and masked([-1, 5, -1, 0], 1) == [0, 5]
    assert masked([9, 3, 9], 2) == [3] and masked([3, 9, 3], 2) == []  # 9 is outside the vocabulary
    assert masked([2], 2) == [] and masked([], 1) == [] and masked([2], 4) == []
    np.testing.assert_array_equal(
        sampling.no_repeat_ngram(jnp.zeros(3), jnp.array([1, 2, 1, 0]), 3, 2), [0, 0, -INF]
    )
    # n-grams longer than the buffer.
    np.testing.assert_array_equal(no_repeat_ngram(jnp.zeros(6), np.zeros(5, np.int32), 5, 6), np.zeros(6))


@given(seeds, shapes, st.sampled_from([1, 5]), st.sampled_from([np.int32, np.int16, np.int8]))
def test_token_counts_is_bincount(seed, shape, V, dtype):
    tokens = np.random.default_rng(seed).integers(-V - 2, V + 3, shape).astype(dtype)
    rows = tokens.reshape(-1, shape[-1])
    want = [np.bincount(row[(row >= 0) & (row < V)], minlength=V) for row in rows]
    got = token_counts(jnp.asarray(tokens), V)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, np.reshape(want, (*shape[:-1], V)))


def test_token_counts_of_a_vocabulary_beyond_the_dtype_and_of_no_tokens():
    got = token_counts(jnp.array([3, 255, 3], jnp.uint8), 300)
    assert got.shape == (300,) and got[3] == 2 and got[255] == 1 and got.sum() == 3
    np.testing.assert_array_equal(token_counts(jnp.zeros((2, 0), jnp.int32), 3), np.zeros((2, 3)))


@truncations
@given(seeds, shapes)
def test_kept_logits_are_unchanged_and_masked_ones_stay_masked(function, seed, shape):
    x = draw(seed, shape)
    got = np.asarray(function(x))
    assert ((got == x) | np.isneginf(got)).all()
    top = np.asarray(x).max(-1, keepdims=True)
    assert (got[x == top] == x[x == top]).all()  # the likeliest are kept
    # A kept token is likelier than every masked one.
    least = np.where(np.isneginf(got), INF, got).min(-1, keepdims=True)
    assert (np.where(np.isneginf(got), x, -INF) < least).all()


@pytest.mark.parametrize("name", [*TRUNCATIONS, "temperature"])
@given(seeds, shapes)
def test_permutations_of_the_vocabulary(name, seed, shape):
    function = ALL[name]
    x = draw(seed, shape)
    order = np.random.default_rng(seed).permutation(shape[-1])
    np.testing.assert_array_equal(function(x[..., order]), function(x)[..., order])


@given(seeds)
def test_repetition_under_permutations_of_the_vocabulary(seed):
    rng = np.random.default_rng(seed)
    x, tokens = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32), rng.integers(-1, 5, (3, 9))
    names = rng.permutation(5)
    renamed = jnp.asarray(np.where(tokens < 0, -1, names[tokens]), jnp.int32)
    tokens = jnp.asarray(tokens, jnp.int32)
    y = jnp.zeros_like(x).at[:, names].set(x)
    np.testing.assert_array_equal(
        no_repeat_ngram(y, renamed, 9, 2)[:, names], no_repeat_ngram(x, tokens, 9, 2)
    )
    counts = token_counts(tokens, 5)
    np.testing.assert_array_equal(token_counts(renamed, 5)[:, names], counts)


@given(seeds, shares, shares)
def test_a_larger_p_or_k_keeps_more(seed, a, b):
    x, (low, high) = draw(seed, (3, 11)), sorted((a, b))

    def kept(logits):
        return np.isfinite(np.asarray(logits))

    assert (kept(top_p(x, low)) <= kept(top_p(x, high))).all()
    assert (kept(min_p(x, high)) <= kept(min_p(x, low))).all()
    assert (kept(top_k(x, 2)) <= kept(top_k(x, 5))).all()


def test_top_p_at_its_threshold():
    def kept(x, p):
        return np.isfinite(top_p(jnp.log(jnp.array(x)), p)).tolist()

    assert kept([0.5, 0.25, 0.15, 0.1], 0.4999) == [True, False, False, False]
    assert kept([0.5, 0.25, 0.15, 0.1], 0.5001) == [True, True, False, False]
    assert kept([0.1, 0.25, 0.5, 0.15], 0.9001) == [True, True, True, True]
    assert kept([0.2, 0.4, 0.2, 0.2], 0.5) == [True, True, True, True]  # ties at the threshold
    assert kept([0.25, 0.25, 0.25, 0.25], 1e-6) == [True] * 4
    assert kept([0.3, 0.7], 1e-9) == [False, True]


@pytest.mark.parametrize("p", [1, 1.0, jnp.float32(1)])
def test_p_1_keeps_tokens_whose_probability_rounds_to_0(p):
    x = jnp.asarray(np.random.default_rng(0).normal(0, 100, (3, 11)), jnp.float32).at[:, 4].set(-jnp.inf)
    np.testing.assert_array_equal(sampling.top_p(x, p), x)
    np.testing.assert_array_equal(top_p(x, p), x)


def test_top_p_of_a_large_vocabulary_is_as_exact_as_the_probabilities():
    x = jnp.asarray(np.random.default_rng(1).normal(0, 2, 30_000), jnp.float32)
    q = np.sort(probabilities(x))[::-1]
    for p in (0.3, 0.9, 0.999, 0.99999):
        kept = int(np.isfinite(top_p(x, p)).sum())
        want = int(np.searchsorted(np.cumsum(q), p)) + 1
        assert abs(kept - want) <= 1, p


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p"])
def test_one_number_per_sequence(name):
    function, x, numbers = getattr(sampling, name), draw(4, (2, 3, 5)), np.linspace(0.2, 0.9, 6)
    numbers = numbers.astype(np.float32).reshape(2, 3)
    got = jax.jit(function)(x, numbers)
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(got[i], function(x[i], float(numbers[i])), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.vmap(function))(x, jnp.asarray(numbers)), got, rtol=1e-6)


def test_one_penalty_per_sequence():
    x, counts = draw(4, (2, 3, 5)), jnp.ones((2, 3, 5), jnp.int32)
    penalties = jnp.asarray([[0.5, 1.0, 2.0], [1.5, 3.0, 0.1]])
    for i in np.ndindex(2, 3):
        one = float(penalties[i])
        np.testing.assert_allclose(
            repetition_penalty(x, counts > 0, penalties)[i],
            repetition_penalty(x[i], counts[i] > 0, one),
            rtol=1e-6,
        )
        np.testing.assert_allclose(
            frequency_penalty(x, counts, penalties)[i],
            frequency_penalty(x[i], counts[i], one),
            rtol=1e-6,
        )


@functions
def test_sequences_are_independent_and_jit_and_vmap_match_the_batch(function):
    x = draw(7, (2, 3, 5)).at[0, 1].set(draw(6, (5,)))
    want = np.asarray(function(x))
    np.testing.assert_allclose(jax.jit(function)(x), want, rtol=1e-6)
    if function in TRUNCATIONS.values():
        np.testing.assert_array_equal(jax.jit(jax.vmap(jax.vmap(function)))(x), want)
        np.testing.assert_array_equal(jax.jit(jax.vmap(function, in_axes=1, out_axes=1))(x), want)
    other = np.asarray(function(x.at[1, 2].set(jnp.arange(5.0))))
    same = (other == want).all(-1)
    assert same.sum() >= 5 and same[:1].all() and same[1, :2].all()


def test_vmap_over_lengths_and_tokens():
    x, tokens, lengths = draw(8, (8, 4)), jnp.asarray(IDS[0, 0] % 4), jnp.arange(1, 9)
    tokens = jnp.stack([jnp.roll(tokens, i) for i in range(8)])
    got = jax.jit(jax.vmap(lambda *a: no_repeat_ngram(*a, 2)))(x, tokens, lengths)
    want = [ngram_reference(x[i], tokens[i], i + 1, 2) for i in range(8)]
    np.testing.assert_array_equal(got, want)
    assert np.isneginf(want).any()


def test_under_shard_map():
    x = jnp.stack([draw(s, (11,)) for s in range(8)])
    tokens = jnp.asarray(np.random.default_rng(3).integers(-1, 4, (8, 9)), jnp.int32)

    def every(x, tokens):
        x = top_p(min_p(top_k(temperature(x, 2.0), 9), 0.01), 0.9)
        counts = token_counts(tokens, 11)
        x = frequency_penalty(repetition_penalty(x, counts > 0, 1.2), counts, 0.1)
        return no_repeat_ngram(x, tokens, 9, 2)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    sharded = jax.jit(jax.shard_map(every, mesh=mesh, in_specs=(spec, spec), out_specs=spec))
    np.testing.assert_allclose(sharded(x, tokens), jax.jit(every)(x, tokens), rtol=1e-6)


@functions
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_computes_in_float32_and_keeps_its_dtype(function, dtype):
    half = draw(10, (3, 11)).astype(dtype)
    got, want = function(half), function(half.astype(jnp.float32))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want.astype(dtype))


@functions
def test_nan_stays_nan_and_all_masked_stays_all_masked(function):
    x = draw(2, (3, 11)).at[0].set(jnp.nan).at[1].set(-jnp.inf).at[2, 3].set(jnp.nan)
    got = np.asarray(function(x))
    assert np.isnan(got[0]).all() and np.isneginf(got[1]).all() and np.isnan(got[2, 3])
    if function in TRUNCATIONS.values():
        with jax.debug_nans(True), jax.disable_jit():  # no intermediate value is NaN
            function(x[1])


def test_mask_tokens_masks_all_but_nan():
    got = sampling.mask_tokens(jnp.array([1.0, jnp.nan, 2.0, jnp.nan]), jnp.array([True, True, False, False]))
    np.testing.assert_array_equal(got, [-INF, np.nan, 2.0, np.nan])


@pytest.mark.parity
def test_same_as_transformers():
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.generation.logits_process")
    rng = np.random.default_rng(11)
    x = rng.normal(0, 3, (6, 50)).astype(np.float32)
    ids = rng.integers(0, 9, (6, 17))
    tokens = jnp.asarray(ids, jnp.int32)
    seen = sampling.token_counts(tokens, 50) > 0
    pairs = [
        *((theirs.TemperatureLogitsWarper(t), lambda x, t=t: sampling.temperature(x, t)) for t in (0.3, 1.9)),
        *((theirs.TopKLogitsWarper(k), lambda x, k=k: sampling.top_k(x, k)) for k in (1, 7, 50)),
        *((theirs.TopPLogitsWarper(p), lambda x, p=p: sampling.top_p(x, p)) for p in (0.1, 0.5, 0.95, 1.0)),
        *((theirs.MinPLogitsWarper(p), lambda x, p=p: sampling.min_p(x, p)) for p in (0.05, 0.3, 1.0)),
        *(
            (
                theirs.RepetitionPenaltyLogitsProcessor(r),
                lambda x, r=r: sampling.repetition_penalty(x, seen, r),
            )
            for r in (0.8, 1.3)
        ),
        *(
            (
                theirs.NoRepeatNGramLogitsProcessor(n),
                lambda x, n=n: sampling.no_repeat_ngram(x, tokens, 17, n),
            )
            for n in (1, 2, 3, 17)
        ),
    ]
    for their, our in pairs:
        want = their(torch.tensor(ids), torch.tensor(x)).numpy()
        np.testing.assert_allclose(our(jnp.asarray(x)), want, rtol=1e-6, err_msg=type(their).__name__)


X, COUNTS, TOKENS = jnp.zeros((2, 3)), jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 4), jnp.int32)
WRONG = {
    "temperature 0": (
        lambda: sampling.temperature(X, 0.0),
        "temperature: got t=0.0; wanted a finite .* above 0",
    ),
    "temperature below 0": (lambda: sampling.temperature(X, -1), "got t=-1; wanted"),
    "temperature inf": (lambda: sampling.temperature(X, float("inf")), "got t=inf; wanted"),
    "temperature nan": (lambda: sampling.temperature(X, float("nan")), "got t=nan; wanted"),
    "one temperature": (lambda: sampling.temperature(X, jnp.array([1.0, 0.0])), r"got t=\[1. 0.\]; wanted"),
    "temperatures": (
        lambda: sampling.temperature(X, jnp.ones(3)),
        r"temperature: got .*t float32\[3\]; .*t has \[...\] = \[3\], not \[2\]. Pass one number, or one per",
    ),
    "int logits": (
        lambda: sampling.temperature(COUNTS, 1.0),
        r"temperature: got logits int32\[2, 3\]; wanted",
    ),
    "no vocabulary": (
        lambda: sampling.top_p(jnp.zeros((2, 0)), 0.5),
        r"top_p: got logits float32\[2, 0\]; .*V at least 1",
    ),
    "scalar logits": (
        lambda: sampling.min_p(jnp.zeros(()), 0.5),
        r"min_p: got logits float32\[\]; wanted logits float\[..., V\]",
    ),
    "k 0": (lambda: sampling.top_k(X, 0), "top_k: got k=0; wanted an integer from 1 to"),
    "k 1.0": (lambda: sampling.top_k(X, 1.0), "top_k: got k=1.0; wanted an integer"),
    "k above V": (lambda: sampling.top_k(X, 4), "top_k: got k=4; wanted at most V = 3"),
    "top_p 0": (lambda: sampling.top_p(X, 0.0), r"top_p: got p=0.0; wanted a number in \(0, 1\]"),
    "top_p above 1": (lambda: sampling.top_p(X, 1.1), r"top_p: got p=1.1; wanted a number in \(0, 1\]"),
    "min_p 0": (lambda: sampling.min_p(X, 0.0), r"min_p: got p=0.0; wanted a number in \(0, 1\]"),
    "min_p above 1": (lambda: sampling.min_p(X, 2), r"min_p: got p=2; wanted"),
    "seen int": (
        lambda: sampling.repetition_penalty(X, COUNTS, 1.1),
        r"repetition_penalty: got .*seen int32\[2, 3\]; .*seen bool\[..., V\], but seen has dtype int32",
    ),
    "seen smaller": (
        lambda: sampling.repetition_penalty(X, jnp.zeros(3, bool), 1.1),
        r"seen bool\[3\].*seen has \[...\] = \[\], not \[2\]",
    ),
    "repetition 0": (
        lambda: sampling.repetition_penalty(X, COUNTS > 0, 0.0),
        "repetition_penalty: got penalty=0.0; wanted a finite number above 0",
    ),
    "counts float": (
        lambda: sampling.frequency_penalty(X, X, 1.0),
        r"frequency_penalty: got .*counts float32\[2, 3\]; .*counts int\[..., V\]",
    ),
    "frequency nan": (
        lambda: sampling.frequency_penalty(X, COUNTS, float("nan")),
        "frequency_penalty: got penalty=nan; wanted a finite number",
    ),
    "n 0": (lambda: sampling.no_repeat_ngram(X, TOKENS, 4, 0), "no_repeat_ngram: got n=0; wanted an integer"),
    "length": (lambda: sampling.no_repeat_ngram(X, TOKENS, 5, 2), "got length=5; wanted .* from 0 to M = 4"),
    "length below 0": (lambda: sampling.no_repeat_ngram(X, TOKENS, -1, 2), "got length=-1; wanted"),
    "length float": (
        lambda: sampling.no_repeat_ngram(X, TOKENS, 2.5, 2),
        "got length=2.5; wanted one integer",
    ),
    "lengths": (lambda: sampling.no_repeat_ngram(X, TOKENS, jnp.array([1, 2]), 2), r"got length=\[1 2\]"),
    "other leading dims": (
        lambda: sampling.no_repeat_ngram(X, TOKENS[0], 4, 2),
        r"tokens int32\[4\]; .*tokens int\[..., M\], but tokens has \[...\] = \[\], not \[2\]",
    ),
    "V 0": (lambda: sampling.token_counts(TOKENS, 0), "token_counts: got V=0; wanted an integer"),
    "tokens float": (
        lambda: sampling.token_counts(X, 3),
        r"token_counts: got tokens float32\[2, 3\]; wanted tokens int\[..., M\]",
    ),
    "no axis": (
        lambda: sampling.token_counts(jnp.int32(1), 3),
        r"token_counts: got tokens int32\[\]; wanted tokens int\[..., M\]",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_traced_numbers_are_not_checked_but_their_shapes_are():
    assert jax.jit(sampling.top_p)(X, 2.0).shape == X.shape
    with pytest.raises(ValueError, match=r"p float32\[3\].* Pass one number, or one per sequence"):
        jax.jit(sampling.top_p)(X, jnp.ones(3))
