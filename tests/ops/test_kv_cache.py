"""Whatever the pieces in which tokens come, a cache shows each of them those before it."""

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
    """One jitted call that reads T tokens, for all tests."""

    @jax.jit
    def read(buffer, new, slots, positions):
        seen_positions, after = kv_cache.advance(slots, positions)
        seen, kept = kv_cache.append(buffer, new, slots)
        allowed = kv_cache.seen_mask(slots, seen_positions, window=None if not rolling else S + 1)
        return seen, kept, after, allowed.to_dense(T, seen.shape[-2])

    return read


def empty(rolling):
    return jnp.zeros((B, K, S, H)), kv_cache.init_slots((B,), S, rolling=rolling)


@pytest.mark.parametrize("rolling", [False, True])
@given(st.data())
def test_each_token_sees_itself_and_those_before_it_in_any_pieces(rolling, data):
    chunks = data.draw(CHUNKS if not rolling else st.lists(st.integers(1, 3), min_size=1, max_size=6))
    n = min(sum(chunks), S) if not rolling else sum(chunks)
    tokens = np.random.default_rng(0).standard_normal((B, K, n, H)).astype(np.float32)
    # Rows of another length: holes on the left, as in padded prompts.
    holes = data.draw(st.sampled_from([(0, 0), (0, 1), (2, 0)]))
    places = np.array([np.maximum(np.arange(n) - hole, -1) for hole in holes], np.int32)
    buffer, slots = empty(rolling)
    start = 0
    for T in chunks:
        T = min(T, n - start)
        if not T:
            break
        here = slice(start, start + T)
        seen, buffer, slots, allowed = reader(T, rolling)(buffer, tokens[:, :, here], slots, places[:, here])
        for row in range(B):
            for i in range(T):
                shown = np.asarray(seen[row])[:, np.asarray(allowed[row, i])]
                first = max(holes[row], start + i - S if rolling else 0)
                np.testing.assert_array_equal(shown, tokens[row, :, first : start + i + 1])
        start += T
    assert int(slots.length) == n and buffer.shape == (B, K, S, H)
    following = np.asarray(kv_cache.next_positions(slots, 2))
    if n > max(holes):
        np.testing.assert_array_equal(following, [[n - hole, n - hole + 1] for hole in holes])


def test_a_window_closes_what_lies_further_back():
    slots = kv_cache.init_slots((), S)
    seen, after = kv_cache.advance(slots, jnp.arange(4))
    assert kv_cache.seen_mask(slots, seen, window=2).to_dense(4, S)[3].tolist() == [
        False,
        False,
        True,
        True,
    ] + 3 * [False]
    seen, _ = kv_cache.advance(after, kv_cache.next_positions(after, 1))
    np.testing.assert_array_equal(
        kv_cache.seen_mask(after, seen, window=2).to_dense(1, S), [[False] * 3 + [True] * 2 + [False] * 2]
    )


def test_a_full_cache_is_an_error_and_never_a_clamp():
    buffer, slots = empty(False)
    positions = jnp.zeros((B, 4), jnp.int32)
    _, after = kv_cache.advance(slots, positions)
    assert bool(kv_cache.has_room(slots, S)) and not bool(kv_cache.has_room(slots, S + 1))
    assert bool(kv_cache.has_room(after, 3)) and not bool(kv_cache.has_room(after, 4))
    message = "a cache with room for 7 tokens, 4 of them taken, was given 4 more: make it longer"
    with pytest.raises(ValueError, match=message):
        kv_cache.advance(after, positions)
    with pytest.raises(ValueError, match=message):
        kv_cache.append(buffer, jnp.zeros((B, K, 4, H)), after)
    # Under jit the length is not known, but more than there is room for at all is.
    with pytest.raises(ValueError, match="room for 7 tokens, 0 of them taken, was given 8 more"):
        jax.jit(kv_cache.append)(buffer, jnp.zeros((B, K, 8, H)), slots)


def test_a_cache_for_nothing():
    with pytest.raises(ValueError, match="init_slots: got capacity=0; wanted an integer from 1 to"):
        kv_cache.init_slots((B,), 0)
