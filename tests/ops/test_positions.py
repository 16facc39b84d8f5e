"""Position encodings: rotary keeps norms and depends on differences, ALiBi on distances; T5's buckets."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax.ops.positions import alibi, relative_buckets, rotary, sinusoidal

PAIRINGS = ["half", "interleaved"]
seeds = st.integers(0, 2**31 - 1)


def sinusoidal_reference(positions, dim, theta, pairing):
    out = np.zeros((*positions.shape, dim))
    for i in range(dim // 2):
        angle = positions.astype(np.float64) / theta ** (2 * i / dim)
        at = (i, i + dim // 2) if pairing == "half" else (2 * i, 2 * i + 1)
        out[..., at[0]], out[..., at[1]] = np.sin(angle), np.cos(angle)
    return out


def rotary_reference(x, positions, theta, pairing):
    """The explicit block-diagonal rotation matrix of RoFormer, equation 15."""
    x, h = np.asarray(x, np.float64), x.shape[-1]
    out = np.zeros_like(x)
    for token in np.ndindex(*positions.shape):
        matrix = np.zeros((h, h))
        for i in range(h // 2):
            a, b = (i, i + h // 2) if pairing == "half" else (2 * i, 2 * i + 1)
            angle = positions[token] / theta ** (2 * i / h)
            matrix[a, a] = matrix[b, b] = math.cos(angle)
            matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
        out[token] = np.einsum("ab,nb->na", matrix, x[token])
    return out


def bucket_reference(difference, buckets, max_distance, bidirectional):
    """T5's formula for one Python integer, with a float64 logarithm that is guarded against rounding."""
    first = 0
    if bidirectional:
        buckets //= 2
        first, n = (buckets if difference > 0 else 0), abs(difference)
    else:
        n = max(-difference, 0)
    exact = buckets // 2
    if n < exact:
        return first + n
    share = math.log(n / exact) / math.log(max_distance / exact) * (buckets - exact)
    return first + min(exact + math.floor(share + 1e-9), buckets - 1)


def slopes_reference(n_heads):
    if math.log2(n_heads).is_integer():
        return [2 ** (-8 * (n + 1) / n_heads) for n in range(n_heads)]
    power = 2 ** math.floor(math.log2(n_heads))
    return slopes_reference(power) + slopes_reference(2 * power)[0::2][: n_heads - power]


def draw(seed, shape=(2, 3, 4, 6), high=200):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    return x, jnp.asarray(rng.integers(0, high, shape[:-2]), jnp.int32)


# --- sinusoidal ---


@given(seeds, st.sampled_from(PAIRINGS), st.sampled_from([100.0, 10_000.0]))
def test_sinusoidal_is_the_reference(seed, pairing, theta):
    _, positions = draw(seed)
    got = sinusoidal(positions, 6, theta=theta, pairing=pairing)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, sinusoidal_reference(np.asarray(positions), 6, theta, pairing), atol=5e-5)


def test_the_default_is_the_layout_of_the_paper():
    got = sinusoidal(jnp.arange(3), 4)
    np.testing.assert_allclose(got[0], [0, 1, 0, 1])
    np.testing.assert_allclose(got[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], rtol=1e-6)


@given(seeds, st.integers(-50, 50))
def test_a_shift_of_positions_is_a_fixed_rotation(seed, shift):
    """The paper's reason for sinusoids: PE(pos + k) is a linear function of PE(pos)."""
    _, positions = draw(seed)
    before, after = (
        sinusoidal(p, 6, pairing="half").reshape(-1, 2, 3) for p in (positions, positions + shift)
    )
    cos, sin = (
        jnp.asarray(f(shift / 10_000 ** (np.arange(3) / 3)), jnp.float32)[None] for f in (np.cos, np.sin)
    )
    turned = jnp.stack([before[:, 0] * cos + before[:, 1] * sin, before[:, 1] * cos - before[:, 0] * sin], 1)
    np.testing.assert_allclose(after, turned, atol=1e-4)


@pytest.mark.parity
def test_sinusoidal_half_equals_marian():
    pytest.importorskip("torch")
    marian = pytest.importorskip("transformers.models.marian.modeling_marian")
    table = marian.MarianSinusoidalPositionalEmbedding(50, 8)
    weight = table.create_weight() if hasattr(table, "create_weight") else table._init_weight()
    weight = table.weight if weight is None else weight
    got = sinusoidal(jnp.arange(50), 8, pairing="half")
    np.testing.assert_allclose(got, weight.detach().numpy(), atol=1e-5)


# --- rotary ---


@given(seeds, st.sampled_from(PAIRINGS), st.sampled_from([100.0, 10_000.0]))
def test_rotary_is_the_reference(seed, pairing, theta):
    x, positions = draw(seed)
    got = rotary(x, positions, theta=theta, pairing=pairing)
    np.testing.assert_allclose(got, rotary_reference(x, np.asarray(positions), theta, pairing), atol=1e-4)


@given(seeds, st.sampled_from(PAIRINGS))
def test_rotary_keeps_norms_and_the_negative_position_inverts_it(seed, pairing):
    x, positions = draw(seed)
    y = rotary(x, positions, pairing=pairing)
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(rotary(y, -positions, pairing=pairing), x, atol=1e-5)
    np.testing.assert_array_equal(rotary(x, jnp.zeros_like(positions), pairing=pairing), x)


@given(seeds, st.sampled_from(PAIRINGS), st.integers(-100, 100))
def test_rotary_scores_depend_on_differences_only(seed, pairing, shift):
    (q, p), (k, r) = draw(seed), draw(seed + 1)

    def scores(p, r):
        return jnp.einsum("btnh,bsnh->bnts", rotary(q, p, pairing=pairing), rotary(k, r, pairing=pairing))

    np.testing.assert_allclose(scores(p, r), scores(p + shift, r + shift), atol=3e-4)
    assert np.abs(scores(p, r) - scores(p + 1, r)).max() > 1e-3


def test_the_two_pairings_differ_by_a_permutation():
    x, positions = draw(0)
    order = np.asarray([0, 2, 4, 1, 3, 5])
    half = rotary(x[..., order], positions, pairing="half")
    np.testing.assert_allclose(half, rotary(x, positions, pairing="interleaved")[..., order], atol=1e-6)


def test_rotary_broadcasts_positions_over_leading_axes():
    x, _ = draw(0, (2, 5, 3, 4, 6))
    p = jnp.asarray([4, 0, 9])
    want = rotary(x, jnp.broadcast_to(p, (2, 5, 3)))
    for shape in [(3,), (1, 3), (1, 5, 3), (2, 1, 3)]:
        np.testing.assert_array_equal(rotary(x, jnp.broadcast_to(p, shape)), want)
    rows = jax.jit(jax.vmap(rotary, in_axes=(0, None)))(x, p)
    np.testing.assert_allclose(rows, want, atol=1e-6)


def test_rotary_in_bfloat16_has_float32_angles():
    x, _ = draw(0, (4, 2, 6))
    positions = jnp.asarray([1000, 1001, 1002, 1003])  # equal in bfloat16
    got = rotary(x.astype(jnp.bfloat16), positions)
    assert got.dtype == jnp.bfloat16
    want = rotary_reference(x.astype(jnp.bfloat16), np.asarray(positions), 1e4, "half")
    np.testing.assert_allclose(np.float64(got), want, atol=2e-2)


@pytest.mark.parity
def test_rotary_equals_llama_and_gpt_j():
    torch = pytest.importorskip("torch")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    x, positions = draw(1)
    tx, tp = torch.tensor(np.asarray(x)), torch.tensor(np.asarray(positions), dtype=torch.long)

    config = llama.LlamaConfig(hidden_size=24, num_attention_heads=4, rope_theta=10_000.0)
    cos, sin = llama.LlamaRotaryEmbedding(config)(tx, tp)
    want, _ = llama.apply_rotary_pos_emb(tx, tx, cos, sin, unsqueeze_dim=2)
    np.testing.assert_allclose(rotary(x, positions, pairing="half"), want.numpy(), atol=5e-5)

    sin, cos = gptj.create_sinusoidal_positions(200, 6)[tp].split(3, dim=-1)
    want = gptj.apply_rotary_pos_emb(tx, sin, cos)
    np.testing.assert_allclose(rotary(x, positions, pairing="interleaved"), want.numpy(), atol=5e-5)


# --- ALiBi ---


@pytest.mark.parametrize("n_heads", [1, 2, 3, 4, 6, 8, 12, 16, 20])
def test_alibi_is_the_reference(n_heads):
    q, k = np.asarray([3, 7]), np.asarray([0, 3, 9])
    want = -np.asarray(slopes_reference(n_heads))[:, None, None] * np.abs(q[:, None] - k[None])
    got = alibi(n_heads, jnp.asarray(q), jnp.asarray(k))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_alibi_slopes_of_eight_heads_are_those_of_the_paper():
    got = -alibi(8, jnp.zeros(1, jnp.int32), jnp.ones(1, jnp.int32))[:, 0, 0]
    np.testing.assert_array_equal(got, [2.0**-n for n in range(1, 9)])


@given(seeds, st.integers(-100, 100), st.sampled_from([2, 3]))
def test_alibi_depends_on_distances_only_and_is_symmetric(seed, shift, n_heads):
    rng = np.random.default_rng(seed)
    q, k = (jnp.asarray(rng.integers(0, 99, (2, n)), jnp.int32) for n in (3, 4))
    bias = alibi(n_heads, q, k)
    assert bias.shape == (2, n_heads, 3, 4)
    np.testing.assert_array_equal(bias, alibi(n_heads, q + shift, k + shift))
    np.testing.assert_array_equal(bias, alibi(n_heads, k, q).swapaxes(-1, -2))
    assert (bias <= 0).all() and ((bias == 0) == (q[:, None, :, None] == k[:, None, None, :])).all()


@pytest.mark.parity
@pytest.mark.parametrize("n_heads", [1, 4, 6, 8, 12, 24])
def test_alibi_slopes_are_those_of_bloom_and_mpt(n_heads):
    torch = pytest.importorskip("torch")
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    # Bloom's bias is slope * key position: -slope * distance up to a constant per query.
    theirs = bloom.build_alibi_tensor(torch.ones(1, 5), n_heads, torch.float32).reshape(n_heads, 5).numpy()
    ours = np.asarray(alibi(n_heads, jnp.asarray([4]), jnp.arange(5)))[:, 0]
    np.testing.assert_allclose(ours, theirs - theirs[:, -1:], rtol=1e-6, atol=1e-6)


# --- T5's buckets ---

BUCKETS = [(32, 128, True), (32, 128, False), (8, 20, True), (8, 20, False), (7, 50, False), (4, 2, True)]


@pytest.mark.parametrize(("buckets", "max_distance", "bidirectional"), BUCKETS)
def test_buckets_are_the_reference(buckets, max_distance, bidirectional):
    keys = jnp.arange(-300, 301)
    kwargs = {"buckets": buckets, "max_distance": max_distance, "bidirectional": bidirectional}
    got = relative_buckets(jnp.asarray([0]), keys, **kwargs)
    assert got.dtype == jnp.int32
    want = [bucket_reference(int(d), buckets, max_distance, bidirectional) for d in keys]
    np.testing.assert_array_equal(got[0], want)


@pytest.mark.parity
@pytest.mark.parametrize(("buckets", "max_distance", "bidirectional"), [*BUCKETS[:-1], (320, 800, True)])
def test_buckets_equal_t5(buckets, max_distance, bidirectional):
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    keys = np.arange(-1000, 1001)
    want = t5.T5Attention._relative_position_bucket(torch.tensor(keys), bidirectional, buckets, max_distance)
    got = relative_buckets(
        jnp.asarray([0]),
        jnp.asarray(keys),
        buckets=buckets,
        max_distance=max_distance,
        bidirectional=bidirectional,
    )
    np.testing.assert_array_equal(got[0], want.numpy())


@given(seeds, st.integers(-100, 100), st.booleans())
def test_buckets_depend_on_differences_and_are_in_range_and_monotonic(seed, shift, bidirectional):
    rng = np.random.default_rng(seed)
    q, k = (jnp.asarray(rng.integers(0, 500, (2, n)), jnp.int32) for n in (3, 4))

    def get(q, k):
        return np.asarray(relative_buckets(q, k, buckets=16, max_distance=90, bidirectional=bidirectional))

    got = get(q, k)
    assert got.shape == (2, 3, 4) and (got >= 0).all() and (got < 16).all()
    np.testing.assert_array_equal(got, get(q + shift, k + shift))
    before = got[np.asarray(k)[:, None, :] <= np.asarray(q)[:, :, None]]
    distance = (np.asarray(q)[:, :, None] - np.asarray(k)[:, None, :]).ravel()
    distance = distance[distance >= 0]
    order = np.argsort(distance)
    assert (np.diff(before[order]) >= 0).all()
    if not bidirectional:
        assert (got[np.asarray(k)[:, None, :] >= np.asarray(q)[:, :, None]] == 0).all()


def test_leading_axes_broadcast():
    q, k = jnp.arange(6).reshape(2, 1, 3), jnp.arange(20).reshape(5, 4)
    assert alibi(2, q, k).shape == (2, 5, 2, 3, 4)
    assert relative_buckets(q, k).shape == (2, 5, 3, 4)
    np.testing.assert_array_equal(relative_buckets(q, k)[1, 3], relative_buckets(q[1, 0], k[3]))


def test_small_and_unsigned_integers_do_not_wrap():
    q, k = jnp.asarray([0, 200], jnp.uint8), jnp.asarray([255], jnp.uint8)
    np.testing.assert_array_equal(alibi(1, q, k) * 2**8, -np.asarray([[[255], [55]]]))


def test_inside_shard_map():
    x, positions = draw(0, (8, 3, 2, 4))

    def f(x, p):
        return (rotary(x, p), sinusoidal(p, 4), alibi(2, p, p), relative_buckets(p, p))

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    got = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(spec, spec), out_specs=spec))(x, positions)
    for a, b in zip(got, f(x, positions), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_wrong_arguments():
    x, p = draw(0)
    ints = jnp.arange(3)
    with pytest.raises(ValueError, match=r"sinusoidal: got a last dimension of 5"):
        sinusoidal(ints, 5)
    with pytest.raises(ValueError, match=r"pairing='pairs'; wanted \"interleaved\" or \"half\""):
        sinusoidal(ints, 4, pairing="pairs")
    with pytest.raises(ValueError, match=r"pairing='pairs'"):
        rotary(x, p, pairing="pairs")
    with pytest.raises(
        ValueError, match=r"got positions float32\[3\]; wanted positions int\[..., T\].*Pass integers"
    ):
        sinusoidal(jnp.ones(3), 4)
    with pytest.raises(ValueError, match=r"rotary: got a last dimension of 5"):
        rotary(x[..., :5], p)
    with pytest.raises(
        ValueError,
        match=r"positions int32\[4\].*\[\*\.\.\., T\].*T = 4, not 3. Does x have its tokens before",
    ):
        rotary(x, jnp.arange(4))
    with pytest.raises(ValueError, match=r"positions int32\[2, 1\].*T = 1, not 3"):
        rotary(x, p[:, :1])
    with pytest.raises(ValueError, match=r"rotary: got x .*int32"):
        rotary(jnp.ones((3, 2, 4), jnp.int32), ints)
    with pytest.raises(ValueError, match=r"n_heads=0"):
        alibi(0, ints, ints)
    with pytest.raises(
        ValueError,
        match=r"alibi: got query_positions int32\[2, 3\], key_positions int32\[5, 4\].*= \[5\], not \[2\]",
    ):
        alibi(2, jnp.ones((2, 3), jnp.int32), jnp.ones((5, 4), jnp.int32))
    with pytest.raises(ValueError, match=r"buckets=7; wanted an even number"):
        relative_buckets(ints, ints, buckets=7)
    with pytest.raises(ValueError, match=r"buckets=1; wanted at least 2"):
        relative_buckets(ints, ints, buckets=1, bidirectional=False)
    with pytest.raises(ValueError, match=r"max_distance=8 .*more than 8"):
        relative_buckets(ints, ints, max_distance=8)


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf, "1", None, True])
def test_wrong_theta(wrong):
    positions = jnp.arange(3)
    with pytest.raises(ValueError, match=r"sinusoidal: got theta=.*; wanted a finite number above 0\."):
        sinusoidal(positions, 4, theta=wrong)
    with pytest.raises(ValueError, match=r"rotary: got theta=.*; wanted a finite number above 0\."):
        rotary(jnp.ones((3, 1, 4)), positions, theta=wrong)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, math.nan, "4", None, True])
def test_wrong_sizes(wrong):
    positions = jnp.arange(3)
    with pytest.raises(ValueError, match=r"alibi: got n_heads=.*; wanted an integer from 1 to"):
        alibi(wrong, positions, positions)
    for name in ("buckets", "max_distance"):
        with pytest.raises(ValueError, match=f"relative_buckets: got {name}=.*; wanted an integer"):
            relative_buckets(positions, positions, **{name: wrong})
