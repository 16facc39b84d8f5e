"""Tiles of queries and keys against plain loops over the elements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax.ops.masks.tiles import Grid, Span

# All dims differ, so that a swap shows: ragged tiles, even tiles, one tile larger than the table.
RAGGED, EVEN, LARGER = Grid(9, 8, 4, 5), Grid(8, 15, 4, 5), Grid(3, 1, 4, 5)
GRIDS = pytest.mark.parametrize("grid", [RAGGED, EVEN, LARGER], ids=["ragged", "even", "larger"])
N, H = 6, 7
RNG = np.random.default_rng(0)

sizes = st.integers(1, 12)
grids = st.builds(Grid, sizes, sizes, sizes, sizes)


def tiles_of(n, size):
    """The elements of each tile of an axis, by a loop."""
    tiles = []
    for i in range(n):
        if i % size == 0:
            tiles.append([])
        tiles[-1].append(i)
    return tiles


@given(grids)
def test_shape_and_ends(grid):
    down, across = tiles_of(grid.T, grid.rows), tiles_of(grid.S, grid.cols)
    assert grid.shape == (len(down), len(across))
    (i, i_last), (j, j_last) = grid.ends(-2), grid.ends(-1)
    assert {x.dtype for x in (i, i_last, j, j_last)} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(i, [[tile[0]] for tile in down])
    np.testing.assert_array_equal(i_last, [[tile[-1]] for tile in down])
    np.testing.assert_array_equal(j, [tile[0] for tile in across])
    np.testing.assert_array_equal(j_last, [tile[-1] for tile in across])


@given(grids)
def test_spans_are_the_tiles(grid):
    down, across = grid.shape
    for i, tile in enumerate(tiles_of(grid.T, grid.rows)):
        queries, _ = grid.spans(i, across - 1)
        assert [*range(queries.start, queries.start + queries.size)][: len(tile)] == tile
        assert queries.size == grid.rows
    for j, tile in enumerate(tiles_of(grid.S, grid.cols)):
        _, keys = grid.spans(down - 1, j)
        assert [*range(keys.start, keys.start + keys.size)][: len(tile)] == tile
        assert keys.size == grid.cols


@pytest.mark.parametrize("trace", [lambda f: f, jax.jit], ids=["static", "traced"])
def test_a_span_takes_its_elements_and_repeats_the_last_beyond_the_end(trace):
    x = RNG.integers(0, 100, (3, 7, 2))
    take = trace(lambda start: Span(start, 4).take(x, -2))
    indices = trace(lambda start: Span(start, 4).indices())
    for start in range(7):
        assert indices(start).dtype == jnp.int32
        assert indices(start).tolist() == [start, start + 1, start + 2, start + 3]
        np.testing.assert_array_equal(take(start), x[:, [min(start + i, 6) for i in range(4)]])


@given(grids, st.sampled_from([-2, -1]), st.integers(-3, -1), st.sampled_from(["edge", "constant"]))
def test_split(grid, of, axis, mode):
    n, size = {-2: (grid.T, grid.rows), -1: (grid.S, grid.cols)}[of]
    x = np.moveaxis(np.arange(1, 6 * n + 1).reshape(2, 3, n), -1, axis)
    got = grid.split(x, axis, of, mode)
    assert isinstance(got, np.ndarray) and got.dtype == x.dtype
    tiles = tiles_of(n, size)
    at = x.ndim + axis
    assert got.shape == (*x.shape[:at], len(tiles), size, *x.shape[at + 1 :])
    for i, tile in enumerate(tiles):
        for r in range(size):
            one = got.take(i, at).take(r, at)
            beyond = x.take(n - 1, at) if mode == "edge" else np.zeros_like(one)
            np.testing.assert_array_equal(one, x.take(tile[r], at) if r < len(tile) else beyond)


@GRIDS
def test_split_of_a_jax_array_is_the_same(grid):
    x = RNG.integers(0, 100, (2, grid.T, grid.S)).astype(np.int32)
    for axis in (-2, -1):
        for mode in ("edge", "constant"):
            got = grid.split(jnp.asarray(x), axis, axis, mode)
            assert isinstance(got, jax.Array)
            np.testing.assert_array_equal(got, grid.split(x, axis, axis, mode))
    np.testing.assert_array_equal(grid.split(x, -2, -2), grid.split(x, -2, -2, "edge"))


@GRIDS
@pytest.mark.parametrize("batch, K", [((), 3), ((2,), 6), ((10, 2), 1)])
def test_query_tiles_and_their_inverse(grid, batch, K):
    x = RNG.random((*batch, grid.T, N, H), np.float32)
    G, down = N // K, grid.shape[0]
    expected = np.zeros((down, *batch, K, G * grid.rows, H), np.float32)
    for i, tile in enumerate(tiles_of(grid.T, grid.rows)):
        for r, t in enumerate(tile):
            for n in range(N):
                expected[i, ..., n // G, n % G * grid.rows + r, :] = x[..., t, n, :]
    tiles = grid.query_tiles(jnp.asarray(x), K)
    np.testing.assert_array_equal(tiles, expected)
    np.testing.assert_array_equal(grid.join_query_tiles(tiles, N), x)
    # Neither the padding beyond the last query nor the last axis changes the result.
    others = jnp.where(tiles == 0, 9.0, tiles)[..., :2]
    np.testing.assert_array_equal(grid.join_query_tiles(others, N), x[..., :2])


@GRIDS
@pytest.mark.parametrize("batch", [(), (10, 2)])
def test_key_tiles(grid, batch):
    K = 3
    x = RNG.random((*batch, grid.S, K, H), np.float32)
    expected = np.zeros((grid.shape[1], *batch, K, grid.cols, H), np.float32)
    for j, tile in enumerate(tiles_of(grid.S, grid.cols)):
        for c, s in enumerate(tile):
            for k in range(K):
                expected[j, ..., k, c, :] = x[..., s, k, :]
    np.testing.assert_array_equal(grid.key_tiles(jnp.asarray(x)), expected)


@GRIDS
@pytest.mark.parametrize("batch, h", [((), 1), ((10, 2), 6)])
@pytest.mark.parametrize("all_queries", [True, False])
@pytest.mark.parametrize("all_keys", [True, False])
def test_table_tiles(grid, batch, h, all_queries, all_keys):
    x = RNG.random((*batch, h, grid.T if all_queries else 1, grid.S if all_keys else 1), np.float32)
    down = tiles_of(grid.T, grid.rows) if x.shape[-2] > 1 else [[0]]
    across = tiles_of(grid.S, grid.cols) if x.shape[-1] > 1 else [[0]]
    rows, cols = grid.rows if x.shape[-2] > 1 else 1, grid.cols if x.shape[-1] > 1 else 1
    expected = np.zeros((len(down), len(across), *batch, h, rows, cols), np.float32)
    for i, queries in enumerate(down):
        for j, keys in enumerate(across):
            for r, t in enumerate(queries):
                for c, s in enumerate(keys):
                    expected[i, j, ..., r, c] = x[..., t, s]
    np.testing.assert_array_equal(grid.table_tiles(jnp.asarray(x)), expected)
