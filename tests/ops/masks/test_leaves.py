"""Blocks, bounds of tiles, and shards of masks, against the same part of the full table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from tfm_jax.laws.strategies import MASK_KINDS, mask_expressions, mask_of_kind
from tfm_jax.ops import masks
from tfm_jax.ops.masks.tiles import Grid, Span

BATCHES = [(), (2,)]
LENGTHS = [(5, 5), (4, 7)]
N = 3
DEVICES = 4

seeds = st.integers(0, 10**6)


def draw_expression(data):
    """(batch, T, S, mask, its table)."""
    batch, (T, S) = data.draw(st.sampled_from(BATCHES)), data.draw(st.sampled_from(LENGTHS))
    return batch, T, S, *data.draw(mask_expressions(batch, N, T, S))


def full_table(mask, batch, T, S):
    """A mask as a full table over batch and heads."""
    return jnp.broadcast_to(masks.to_heads(mask, batch, N, T, S), (*batch, N, T, S))


# --- blocks ---


@given(st.data())
def test_a_block_is_a_slice(data):
    batch, T, S, mask, table = draw_expression(data)
    rows, cols = 2, 3
    i, j = data.draw(st.integers(0, T - rows)), data.draw(st.integers(0, S - cols))
    got = full_table(mask.block(Span(i, rows), Span(j, cols)), batch, rows, cols)
    np.testing.assert_array_equal(got, table[..., i : i + rows, j : j + cols])


@given(st.data())
def test_a_block_with_a_traced_start_is_a_slice(data):
    batch, T, S, mask, table = draw_expression(data)
    rows, cols = 2, 3

    def block(mask, i, j):
        return full_table(mask.block(Span(i, rows), Span(j, cols)), batch, rows, cols)

    if data.draw(st.booleans()):
        jitted = jax.jit(block)
    else:  # the mask then has NumPy arrays, and the start is a tracer
        closed_over = jax.jit(lambda i, j: block(mask, i, j))

        def jitted(mask, i, j):
            return closed_over(i, j)

    for i in range(T - rows + 1):
        for j in range(S - cols + 1):
            got = jitted(mask, i, j)
            np.testing.assert_array_equal(got, table[..., i : i + rows, j : j + cols])


@given(st.data())
def test_a_block_of_a_block(data):
    batch, T, S, mask, table = draw_expression(data)
    i, j = data.draw(st.integers(0, T - 3)), data.draw(st.integers(0, S - 4))
    k, m = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
    inner = mask.block(Span(i, 3), Span(j, 4)).block(Span(k, 2), Span(m, 3))
    got = full_table(inner, batch, 2, 3)
    np.testing.assert_array_equal(got, table[..., i + k : i + k + 2, j + m : j + m + 3])


@given(st.data())
def test_a_block_beyond_the_end_is_right_up_to_the_end(data):
    batch, T, S, mask, table = draw_expression(data)
    got = full_table(mask.block(Span(T - 1, 2), Span(S - 2, 3)), batch, 2, 3)
    np.testing.assert_array_equal(got[..., :1, :2], table[..., T - 1 :, S - 2 :])


def test_a_block_of_a_known_expression():
    ids = np.array([[1, 1, 2, 2, 3], [1, 2, 2, 2, 2]])
    mask = masks.causal() & masks.segments(ids) | masks.prefix(np.array([0, 2]))
    full = np.asarray(mask.to_dense(5, 5))
    np.testing.assert_array_equal(mask.block(Span(1, 3), Span(2, 2)).to_dense(3, 2), full[:, 1:4, 2:4])


# --- bounds of tiles ---

TILES = [(2, 3), (4, 7), (6, 8)]  # of 5 x 5 and 4 x 7: ragged, all, and larger than all


def tiles_by_loops(table, grid):
    """Whether any pair, and whether every pair, of each tile is unmasked, over batch and heads."""
    any_pair, all_pairs = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
    for i, j in np.ndindex(*grid.shape):
        rows = slice(i * grid.rows, (i + 1) * grid.rows)
        cols = slice(j * grid.cols, (j + 1) * grid.cols)
        any_pair[i, j], all_pairs[i, j] = table[..., rows, cols].any(), table[..., rows, cols].all()
    return any_pair, all_pairs


def broadcast_bounds(bounds, grid):
    """Both results of `bounds` for every tile, after a check of their dtype and shape."""
    for x in bounds:
        assert x.dtype == bool and x.shape[0] in (1, grid.shape[0]) and x.shape[1] in (1, grid.shape[1])
        assert x.ndim == 2
    return [np.broadcast_to(np.asarray(x), grid.shape) for x in bounds]


def check_safe(bounds, table, grid):
    """No tile with an unmasked pair is skipped, and no tile with a masked pair counts as unmasked."""
    some, every = broadcast_bounds(bounds, grid)
    any_pair, all_pairs = tiles_by_loops(table, grid)
    assert (some >= any_pair).all(), "a tile with an unmasked pair would be skipped"
    assert (every <= all_pairs).all(), "a tile with a masked pair would count as unmasked"
    return some, every


@given(st.data())
def test_bounds_are_conservative(data):
    _, T, S, mask, table = draw_expression(data)
    grid = Grid(T, S, *data.draw(st.sampled_from(TILES)))
    some, every = check_safe(mask.bounds(grid), table, grid)
    static = mask.bounds(grid, traced=False)
    assert all(isinstance(x, np.ndarray) for x in static)
    known_some, known_every = check_safe(static, table, grid)
    assert (known_some >= some).all() and (known_every <= every).all()


@given(st.data())
def test_bounds_of_a_traced_mask(data):
    _, T, S, mask, table = draw_expression(data)
    grid = Grid(T, S, *TILES[0])
    static = []

    @jax.jit
    def traced(mask):
        static.append(mask.bounds(grid, traced=False))
        return mask.bounds(grid)

    some, every = check_safe(traced(mask), table, grid)
    assert all(isinstance(x, np.ndarray) for x in static[0])
    known_some, known_every = check_safe(static[0], table, grid)
    assert (known_some >= some).all() and (known_every <= every).all()
    # Tracing changes what is known statically, not the values at run time.
    for got, expected in zip((some, every), broadcast_bounds(mask.bounds(grid), grid), strict=True):
        np.testing.assert_array_equal(got, expected)


def check_exact(mask, table, grid, jitted):
    bounds = jax.jit(lambda m: m.bounds(grid))(mask) if jitted else mask.bounds(grid)
    for got, expected in zip(broadcast_bounds(bounds, grid), tiles_by_loops(table, grid), strict=True):
        np.testing.assert_array_equal(got, expected, err_msg=repr(mask))


@pytest.mark.parametrize("kind", ["causal", "window", "prefix", "padding", "dense", "heads"])
@given(st.data())
def test_bounds_of_one_leaf_are_exact(kind, data):
    (T, S), seed = data.draw(st.sampled_from(LENGTHS)), data.draw(seeds)
    # Not exact for windows at different offsets in each example: their bounds come from the range of offsets.
    batch = () if kind == "window" else data.draw(st.sampled_from(BATCHES))
    mask, table = mask_of_kind(kind, seed, batch, N, T=T, S=S)
    grid = Grid(T, S, *data.draw(st.sampled_from(TILES)))
    check_exact(mask, table, grid, jitted=seed % 8 == 0)
    check_exact(~mask, ~table, grid, jitted=False)


@given(st.data())
def test_bounds_of_packed_documents_are_exact(data):
    (T, S), seed = data.draw(st.sampled_from(LENGTHS)), data.draw(seeds)
    rng = np.random.default_rng(seed)
    # In order, and every document among the queries and among the keys.
    ids, keys = (
        np.sort(np.concatenate([np.tile(np.arange(3), (2, 1)), rng.integers(0, 3, (2, n - 3))], 1))
        for n in (T, S)
    )
    same = T == S and data.draw(st.booleans())
    mask = masks.segments(ids) if same else masks.segments(ids, keys)
    table = ids[:, None, :, None] == (ids if same else keys)[:, None, None]
    check_exact(mask, table, Grid(T, S, *data.draw(st.sampled_from(TILES))), jitted=seed % 8 == 0)


@pytest.mark.parametrize("leads", [((), (2,)), ((2,), ()), ((1,), (2,))])
def test_bounds_of_ids_that_hold_for_the_whole_batch(leads):
    ids, keys = (
        jnp.broadcast_to(jnp.sort(jnp.arange(n) % 3), (*lead, n))
        for lead, n in zip(leads, (4, 7), strict=True)
    )
    mask = masks.segments(ids, keys)
    check_exact(mask, np.asarray(mask.to_dense(4, 7)), Grid(4, 7, 2, 3), jitted=False)


def test_bounds_without_tracing():
    grid = Grid(4, 4, 2, 2)
    lower = [[True, False], [True, True]]
    np.testing.assert_array_equal(masks.causal().bounds(grid, traced=False)[0], lower)
    traced = masks.padding(jnp.zeros(4, bool))
    some, every = (masks.causal() & traced).bounds(grid, traced=False)
    np.testing.assert_array_equal(np.broadcast_to(some, (2, 2)), lower)
    assert not every.any()
    assert not (masks.causal() & traced).bounds(grid)[0].any()


# --- shards ---


def shards(mask):
    """PartitionSpecs of a mask's arrays: over keys, or over queries for dense arrays."""
    axes = {"": (), "T": ("sequence",), "S": ("sequence",), "TS": ("sequence", None)}
    axes["NTS"] = (None, "sequence", None)
    specs = []
    for owner, name, letters in mask.arrays(None):
        rank = np.ndim(getattr(owner, name))
        specs.append(P(*(None,) * (rank - len(letters)), *axes[letters]) if letters else P())
    return jax.tree.unflatten(jax.tree.structure(mask), specs)


def over_devices(mask, batch, T, S):
    """The tables of each device's queries, concatenated."""
    mesh = jax.make_mesh(
        (DEVICES,), ("sequence",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:DEVICES]
    )
    of_device = jax.shard_map(
        lambda mask: full_table(mask.on_axis("sequence", T, S), batch, T, DEVICES * S),
        mesh=mesh,
        in_specs=(shards(mask),),
        out_specs=P(*(None,) * len(batch), None, "sequence", None),
    )
    return jax.jit(of_device)(mask)


@pytest.mark.parametrize("T, S", [(2, 2), (3, 2)])
@pytest.mark.parametrize("kind", MASK_KINDS)
def test_the_shards_of_a_leaf_are_the_leaf(kind, T, S):
    for seed in range(3):
        batch = BATCHES[seed % 2]
        mask, table = mask_of_kind(kind, seed, batch, N, T=DEVICES * T, S=DEVICES * S)
        np.testing.assert_array_equal(over_devices(mask, batch, T, S), table, err_msg=repr(mask))


@given(st.data())
def test_the_shards_of_an_expression_are_the_expression(data):
    batch, (T, S) = data.draw(st.sampled_from(BATCHES)), data.draw(st.sampled_from([(2, 2), (3, 2)]))
    mask, table = data.draw(mask_expressions(batch, N, DEVICES * T, DEVICES * S))
    np.testing.assert_array_equal(over_devices(mask, batch, T, S), table)


@pytest.mark.parametrize("mask", [masks.causal(), masks.window(left=2) & masks.prefix(3)])
def test_positions_without_an_offset_need_as_many_queries_as_keys(mask):
    with pytest.raises(ValueError, match=r"T = 3 queries, S = 2 keys and no offset.*with_offset"):
        over_devices(mask, (), 3, 2)
    over_devices(mask.with_offset(1), (), 3, 2)


def test_a_window_without_sides_needs_no_offset():
    assert over_devices(masks.window(), (), 3, 2).all()
