"""A KV cache lets each token attend to itself and earlier tokens, for every split into chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax.ops import kv_cache

B, S, K, H = 2, 7, 3, 4
CHUNKS = st.lists(st.integers(1, 3), min_size=1, max_size=3)


@functools.cache
def reader(T, rolling):
    """A jitted function that reads T tokens, one for all tests."""

    @jax.jit
    def read(buffer, new, slots, positions):
        seen_positions, next_slots = kv_cache.advance(slots, positions)
        seen, kept = kv_cache.append(buffer, new, slots)
        allowed = kv_cache.seen_mask(slots, seen_positions, window=None if not rolling else S + 1)
        return seen, kept, next_slots, allowed.to_dense(T, seen.shape[-2])

    return read


def empty(rolling):
    return jnp.zeros((B, K, S, H)), kv_cache.init_slots((B,), S, rolling=rolling)


@pytest.mark.parametrize("rolling", [False, True])
@given(st.data())
def test_each_token_attends_to_itself_and_earlier_tokens_for_every_split_into_chunks(rolling, data):
    chunks = data.draw(CHUNKS if not rolling else st.lists(st.integers(1, 3), min_size=1, max_size=6))
    n = min(sum(chunks), S) if not rolling else sum(chunks)
    tokens = np.random.default_rng(0).standard_normal((B, K, n, H)).astype(np.float32)
    # Left padding, of another length in each sequence.
    padding = data.draw(st.sampled_from([(0, 0), (0, 1), (2, 0)]))
    positions = np.array([np.maximum(np.arange(n) - n_pad, -1) for n_pad in padding], np.int32)
    buffer, slots = empty(rolling)
    start = 0
    for T in chunks:
        T = min(T, n - start)
        if not T:
            break
        chunk = slice(start, start + T)
        seen, buffer, slots, allowed = reader(T, rolling)(
            buffer, tokens[:, :, chunk], slots, positions[:, chunk]
        )
        for b in range(B):
            for i in range(T):
                attended = np.asarray(seen[b])[:, np.asarray(allowed[b, i])]
                first = max(padding[b], start + i - S if rolling else 0)
                np.testing.assert_array_equal(attended, tokens[b, :, first : start + i + 1])
        start += T
    assert int(slots.length) == n and buffer.shape == (B, K, S, H)
    next_positions = np.asarray(kv_cache.next_positions(slots, 2))
    if n > max(padding):
        np.testing.assert_array_equal(next_positions, [[n - n_pad, n - n_pad + 1] for n_pad in padding])


def test_a_window_masks_older_tokens():
    slots = kv_cache.init_slots((), S)
    seen, next_slots = kv_cache.advance(slots, jnp.arange(4))
    dense = kv_cache.seen_mask(slots, seen, window=2).to_dense(4, S)
    np.testing.assert_array_equal(dense[3], [False] * 2 + [True] * 2 + [False] * 3)
    seen, _ = kv_cache.advance(next_slots, kv_cache.next_positions(next_slots, 1))
    np.testing.assert_array_equal(
        kv_cache.seen_mask(next_slots, seen, window=2).to_dense(1, S),
        [[False] * 3 + [True] * 2 + [False] * 2],
    )


def test_a_full_cache_is_an_error_and_never_a_clamp():
    buffer, slots = empty(False)
    positions = jnp.zeros((B, 4), jnp.int32)
    _, next_slots = kv_cache.advance(slots, positions)
    assert bool(kv_cache.has_room(slots, S)) and not bool(kv_cache.has_room(slots, S + 1))
    assert bool(kv_cache.has_room(next_slots, 3)) and not bool(kv_cache.has_room(next_slots, 4))
    message = "append: got T = 4 tokens for a cache of S = 7 slots, 4 of them in use; wanted T <= 3"
    with pytest.raises(ValueError, match=message):
        kv_cache.advance(next_slots, positions)
    with pytest.raises(ValueError, match=message):
        kv_cache.append(buffer, jnp.zeros((B, K, 4, H)), next_slots)
    # Under jit the length is unknown, but the capacity is not.
    with pytest.raises(ValueError, match="got T = 8 tokens for a cache of S = 7 slots, 0 of them in use"):
        jax.jit(kv_cache.append)(buffer, jnp.zeros((B, K, 8, H)), slots)


def test_a_cache_for_nothing():
    with pytest.raises(ValueError, match="init_slots: got capacity=0; wanted an integer from 1 to"):
        kv_cache.init_slots((B,), 0)


def test_wrong_shapes_and_dtypes():
    buffer, slots = jnp.zeros((B, K, S, H)), kv_cache.init_slots((B,), S)
    for new, wrong in (
        (jnp.zeros((B, K, 2, H + 1)), rf"new has H = {H + 1}, not {H}"),
        (jnp.zeros((1, K, 2, H)), rf"new has \[...\] = \[1, {K}\], not \[{B}, {K}\]"),
        (jnp.zeros((B, K, 2, H), jnp.bfloat16), "new has dtype bfloat16"),
    ):
        with pytest.raises(ValueError, match=rf"^kv_cache.append: got buffer float32.*, but {wrong}\."):
            kv_cache.append(buffer, new, slots)
    for axis in (-1, -2, -3, 1, 3):  # any other axis that differs
        shape = np.array(buffer.shape)
        shape[axis], shape[(axis + 1) % 4] = 2, shape[(axis + 1) % 4] + 1
        with pytest.raises(ValueError, match=r"^kv_cache.append: got buffer .*, but new has "):
            kv_cache.append(buffer, jnp.zeros(shape), slots, axis)
        shape[(axis + 1) % 4] -= 1
        big = kv_cache.init_slots((B,), buffer.shape[axis])
        assert kv_cache.append(buffer, jnp.zeros(shape), big, axis)[0].shape == buffer.shape
    # A sequence too few would write the others' positions into its slots.
    with pytest.raises(
        ValueError, match=rf"^kv_cache.advance: got .*positions has \[...\] = \[1\], not \[{B}\]"
    ):
        kv_cache.advance(slots, jnp.zeros((1, 2), jnp.int32))
    with pytest.raises(ValueError, match=r"^kv_cache.advance: got .*positions has dtype float32"):
        kv_cache.advance(slots, jnp.zeros((B, 2)))
    with pytest.raises(ValueError, match=r"^kv_cache.seen_mask: got .*seen_positions has dtype bool"):
        kv_cache.seen_mask(slots, jnp.zeros((B, S), bool))
