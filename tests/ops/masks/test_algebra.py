"""Masks against boolean tables made by loops, the laws of their algebra, and JAX transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from tests.references import table
from tfm_jax.laws.strategies import mask_expressions
from tfm_jax.ops import masks
from tfm_jax.ops.masks.algebra import conjuncts, nodes

BATCHES = [(), (2,), (3, 2)]
LENGTHS = [(4, 4), (3, 5)]
N = 2
RNG = np.random.default_rng(0)
VALID = RNG.random((2, 5)) < 0.6
IDS = RNG.integers(0, 3, (2, 5))


def same(a, b, batch=(), T=5, S=5):
    """Whether two masks allow the same pairs at one shape."""
    tables = [np.broadcast_to(masks.to_heads(x, batch, N, T, S), (*batch, N, T, S)) for x in (a, b)]
    return np.array_equal(*tables)


# --- values ---


@given(st.data())
def test_an_expression_is_its_table(data):
    batch, (T, S) = data.draw(st.sampled_from(BATCHES)), data.draw(st.sampled_from(LENGTHS))
    mask, expected = data.draw(mask_expressions(batch, N, T, S))
    got = masks.to_heads(mask, batch, N, T, S)
    assert got.dtype == bool and got.ndim == len(batch) + 3
    assert got.shape[-3] in (1, N) and got.shape[-2:] == (T, S)
    np.testing.assert_array_equal(np.broadcast_to(got, expected.shape), expected)


@pytest.mark.parametrize("T, S", [(5, 5), (1, 1), (0, 0)])
def test_leaves_without_offset(T, S):
    cases = {
        "causal": (masks.causal(), lambda i, j: j <= i),
        "window": (masks.window(1, 2), lambda i, j: i - 1 <= j <= i + 2),
        "left": (masks.window(left=0), lambda i, j: j >= i),
        "right": (masks.window(right=1), lambda i, j: j <= i + 1),
        "prefix": (masks.prefix(2), lambda i, j: j < 2),
        "everything": (masks.window(), lambda i, j: True),
    }
    for name, (mask, holds) in cases.items():
        dense = mask.to_dense(T, S)
        assert dense.shape == (T, S), name
        np.testing.assert_array_equal(dense, table(T, S, holds), err_msg=name)


def test_shape_of_to_dense():
    heads = masks.dense(np.ones((3, 5, 5), bool), per_head=True)
    assert masks.padding(VALID).to_dense(4, 5).shape == (2, 4, 5)
    assert (masks.padding(VALID) & masks.causal()).to_dense(5, 5).shape == (2, 5, 5)
    assert (masks.padding(VALID[:1]) & masks.segments(IDS)).to_dense(5, 5).shape == (2, 5, 5)
    assert heads.to_dense(5, 5).shape == (3, 5, 5)
    assert (masks.padding(VALID) & heads).to_dense(5, 5).shape == (2, 3, 5, 5)
    assert masks.dense(np.ones((2, 1, 5, 5), bool), per_head=True).to_dense(5, 5).shape == (2, 1, 5, 5)
    np.testing.assert_array_equal(
        (masks.padding(VALID) & masks.causal()).to_dense(5, 5), VALID[:, None] & np.tri(5, dtype=bool)
    )


@pytest.mark.parametrize("offset", [0, 2, 4])
def test_an_offset_selects_rows_of_the_larger_mask(offset):
    T, S = 3, 7
    for make in (masks.causal, lambda o=None: masks.window(2, 1, o)):
        larger = make().to_dense(S, S)
        np.testing.assert_array_equal(make(offset).to_dense(T, S), larger[offset : offset + T])
        np.testing.assert_array_equal(make().with_offset(offset).to_dense(T, S), larger[offset : offset + T])


def test_one_offset_per_sequence():
    mask = (masks.causal() & ~masks.window(right=0, left=0) | masks.prefix(1)).with_offset(jnp.array([0, 3]))
    got = mask.to_dense(2, 6)
    assert got.shape == (2, 2, 6)
    for b, offset in enumerate([0, 3]):
        np.testing.assert_array_equal(got[b], table(2, 6, lambda i, j, o=offset: j < o + i or j < 1))


def test_with_offset_changes_positional_leaves_only():
    mask = masks.padding(VALID) & masks.prefix(2) | masks.segments(IDS)
    assert jax.tree.structure(mask) == jax.tree.structure(mask.with_offset(3))
    assert same(mask, mask.with_offset(3), (2,))
    assert same(masks.causal(4).with_offset(None), masks.causal())


# --- laws ---


@given(st.data())
def test_the_algebra_is_boolean(data):
    batch = data.draw(st.sampled_from(BATCHES))
    a, b, c = (data.draw(mask_expressions(batch, N, 5, 5))[0] for _ in range(3))
    everything = masks.window()
    for left, right in [
        (~(a & b), ~a | ~b),
        (~(a | b), ~a & ~b),
        (~~a, a),
        (a & everything, a),
        (a | ~everything, a),
        (a & ~a, ~everything),
        (a | ~a, everything),
        (a & b, b & a),
        (a | (b & c), (a | b) & (a | c)),
        (a & (b & c), (a & b) & c),
    ]:
        assert same(left, right, batch), f"{left}\n{right}"


def test_windows_that_equal_other_masks():
    assert same(masks.window(left=4, right=4), masks.window())
    assert not same(masks.window(left=3, right=4), masks.window())
    assert same(masks.window(right=0), masks.causal())
    assert same(masks.window(1, 2), masks.window(left=1) & masks.window(right=2))


def test_prefix_and_causal():
    assert same(masks.causal() | masks.prefix(5), masks.window())
    assert same(masks.causal() | masks.prefix(1), masks.causal())
    assert same(masks.prefix(np.array([2, 4])) & masks.prefix(3), masks.prefix(np.array([2, 3])), (2,))
    assert same(masks.prefix(np.array([3, 5])), masks.padding(np.arange(5) < np.array([[3], [5]])), (2,))


def test_segments_are_symmetric_and_allow_the_diagonal():
    dense = np.asarray(masks.segments(IDS).to_dense(5, 5))
    np.testing.assert_array_equal(dense, dense.swapaxes(1, 2))
    assert dense[:, np.arange(5), np.arange(5)].all()
    assert same(masks.segments(IDS), masks.segments(IDS, IDS.astype(np.uint8)), (2,))


def test_conjuncts_are_the_operands_of_and_and_nodes_all_but_the_and():
    a, b, c = masks.causal(), masks.window(3), masks.prefix(2)
    assert conjuncts(None) == [] and conjuncts(a) == [a]
    assert conjuncts((a & b) & c) == [a, b, c]
    either = a | b
    assert conjuncts(either & c) == [either, c]
    assert list(nodes(either & c)) == [either, a, b, c] and list(nodes(None)) == []


# --- with plain arrays ---


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_plain_arrays_on_either_side(convert):
    array = RNG.random((5, 5)) < 0.5
    plain, causal = convert(array), masks.causal()
    tri = np.tri(5, dtype=bool)
    for mask, expected in [
        (plain & causal, array & tri),
        (causal & plain, array & tri),
        (plain | causal, array | tri),
        (causal | plain, array | tri),
    ]:
        assert isinstance(mask, masks.Mask)
        np.testing.assert_array_equal(mask.to_dense(5, 5), expected)


def test_the_rank_of_a_plain_array_decides_its_axes_once_the_batch_is_known():
    heads = RNG.random((2, N, 5, 5)) < 0.5
    assert same(masks.causal() & heads, masks.causal() & masks.dense(heads, per_head=True), (2,))
    assert same(masks.as_mask(heads, 1), masks.dense(heads, per_head=True), (2,))
    assert same(masks.as_mask(heads[0], 0), masks.dense(heads[0], per_head=True))
    assert same(masks.as_mask(heads[:, 0], 1), masks.dense(heads[:, 0]), (2,))
    assert same(masks.as_mask(heads[0, 0], 1), masks.dense(heads[0, 0]), (2,))
    assert masks.as_mask(None, 1) is None
    mask = masks.causal()
    assert masks.as_mask(mask, 1) is mask


@pytest.mark.parametrize(
    "make",
    [
        masks.padding,
        masks.dense,
        lambda x: masks.as_mask(x, 0),
        lambda x: masks.causal() & x,
        lambda x: x & masks.causal(),
        lambda x: x | masks.causal(),
    ],
)
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_only_booleans_are_masks(make, convert):
    with pytest.raises(
        ValueError, match=r"got \w+ int32\[5, 5\]; wanted \w+ bool\[...\].*x != 0.*astype\(bool\)"
    ):
        make(convert(np.ones((5, 5), np.int32)))
    with pytest.raises(ValueError, match=r"got \w+ float32\[5, 5\]; wanted \w+ bool\[...\].*bias"):
        make(convert(np.zeros((5, 5), np.float32)))


def test_python_operators_that_would_lose_a_mask_are_errors():
    with pytest.raises(TypeError, match=r"& \| ~"):
        masks.causal() and masks.padding(VALID)
    with pytest.raises(TypeError, match=r"& \| ~"):
        not masks.causal()
    for other in (None, True, 1, [[True]]):
        with pytest.raises(TypeError, match="unsupported operand"):
            masks.causal() & other
        with pytest.raises(TypeError, match="unsupported operand"):
            other | masks.causal()


# --- wrong arguments ---


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: masks.causal(1.5),
            r"masks.causal: got offset float64\[\]; wanted offset int\[...\].* an int or an array of ints\.",
        ),
        (lambda: masks.causal(True), "offset has dtype bool"),
        (lambda: masks.causal().with_offset(jnp.ones(2)), r"with_offset: got offset float32\[2\]"),
        (lambda: masks.window(left=-1), "left = -1; wanted None .no limit. or an int"),
        (lambda: masks.window(right=1.0), r"right = 1.0"),
        (lambda: masks.window(left=2**40), r"left = 1099511627776; wanted None .no limit. or"),
        (lambda: masks.prefix(2**40), "masks.prefix: got n = 1099511627776; wanted ints within int32"),
        (lambda: masks.prefix(np.uint32(2**32 - 1)), "n = 4294967295"),
        (lambda: masks.prefix(jnp.array([3, 2**32 - 1], jnp.uint32)), "n = 4294967295"),
        (lambda: masks.causal().with_offset(-(2**31) - 1), "with_offset: got offset = -2147483649"),
        (lambda: masks.segments(np.array([1, 1 + 2**32])), "query_ids = 4294967297"),
        (lambda: masks.window(jnp.array(2)), "known before tracing"),
        (lambda: masks.window(True), "left = True"),
        (lambda: masks.window(1, 1, 0.5), "masks.window: got offset"),
        (lambda: masks.prefix(None), "n = None"),
        (lambda: masks.prefix(2.0), r"masks.prefix: got n float64\[\]"),
        (lambda: masks.segments(np.ones(5)), r"masks.segments: got query_ids float64\[5\]"),
        (lambda: masks.segments(IDS, np.ones(5)), "key_ids has dtype float64"),
        (lambda: masks.segments(None), "query_ids = None"),
        (lambda: masks.as_mask(masks.causal, 0), "masks.causal\\(\\)"),
        (lambda: masks.as_mask(np.ones(5, bool), 1), r"shape \[5\] with 1 batch dims.*masks.padding"),
        (lambda: masks.as_mask(np.ones((2, 2, 2, 5, 5), bool), 1), "with 1 batch dims"),
        (lambda: masks.as_mask(np.ones((N, 5, 5), bool), 2), "with 2 batch dims.*per_head=True"),
        (lambda: masks.causal().to_dense(3, 5), "T = 3 queries, S = 5 keys and no offset.*with_offset"),
        (lambda: masks.window(left=2).to_dense(3, 5), r"window\(left=2\): got T = 3"),
        (lambda: masks.segments(IDS).to_dense(5, 6), "no key_ids"),
        (lambda: masks.padding(VALID).to_dense(5, 6), r"got valid bool\[2, 5\].*S = 5, not 6"),
        (lambda: masks.dense(np.ones((1, 5), bool)).to_dense(5, 5), r"got array bool\[1, 5\].*T = 1, not 5"),
        (
            lambda: (masks.causal() & np.bool_(True)).to_dense(5, 5),
            r"got array bool\[\]; wanted array \[T, S\]",
        ),
        (
            lambda: (masks.padding(VALID) & np.ones((2, N, 5, 5), bool)).to_dense(5, 5),
            "different leading dims.*per_head=True",
        ),
        (
            lambda: (masks.padding(VALID) & masks.prefix(np.ones(3, int))).to_dense(5, 5),
            r"\[...\] = \[2\], not \[3\]",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_largest_numbers_and_empty_arrays_are_accepted():
    for mask in (masks.window(2**31 - 1, 2**31 - 1), masks.prefix(2**31 - 1), masks.prefix(np.uint32(5))):
        assert mask.to_dense(5, 5).all()
    assert masks.segments(np.zeros(0, np.int64)).to_dense(0, 0).shape == (0, 0)
    assert jax.jit(lambda n: masks.prefix(n).to_dense(5, 5))(np.uint32(5)).all()


@pytest.mark.parametrize(
    "mask, message",
    [
        (
            masks.padding(np.ones((3, 5), bool)),
            r"valid bool\[3, 5\]; wanted valid \[S\] or \[\.\.\.\|1, S\].*\[\.\.\.\] = \[3\], not \[2\]",
        ),
        (masks.padding(np.ones((1, 2, 5), bool)), r"\[1, 2, 5\]"),
        (masks.padding(np.ones((2, 4), bool)), r"S = 4, not 5"),
        (masks.segments(np.ones((2, 3), int), np.ones(5, int)), r"got query_ids int64\[2, 3\].*T = 3, not 5"),
        (masks.segments(IDS, np.ones((2, 4), int)), r"got key_ids int64\[2, 4\]"),
        (masks.causal(np.zeros(3, int)), r"got offset int64\[3\]; wanted offset \[\] or \[\.\.\.\|1\]"),
        (masks.prefix(np.zeros((2, 1), int)), r"got n int64\[2, 1\].*\[\.\.\.\] = \[2, 1\], not \[2\]"),
        (masks.dense(np.ones((3, 5, 5), bool)), r"got array bool\[3, 5, 5\].*\[\.\.\.\] = \[3\], not \[2\]"),
        (masks.dense(np.ones((3, 5, 5), bool), per_head=True), r"\[3, 5, 5\].*N = 3, not 2"),
        (masks.dense(np.ones((2, 5, 1), bool)), r"\[2, 5, 1\].*S = 1, not 5"),
    ],
)
def test_nothing_broadcasts_along_a_wrong_axis(mask, message):
    with pytest.raises(ValueError, match=message):
        masks.to_heads(mask, (2,), N, 5, 5)
    with pytest.raises(ValueError, match=message):
        masks.to_heads(masks.causal() & ~(masks.window(1) | mask), (2,), N, 5, 5)


def test_a_batched_mask_needs_a_batched_query():
    with pytest.raises(ValueError, match=r"got valid bool\[2, 5\].*\[\.\.\.\] = \[2\], not \[\]"):
        masks.to_heads(masks.padding(VALID), (), N, 5, 5)


# --- JAX transformations ---

MASK = (masks.causal() & masks.padding(jnp.asarray(VALID)) | masks.prefix(jnp.array([1, 2]))) & masks.window(
    3
)
DENSE = np.asarray(MASK.to_dense(5, 5))


def test_leaves_are_the_arrays_only():
    assert jax.tree.leaves(masks.causal() & ~masks.window(2, 3)) == []
    assert jax.tree.leaves(masks.causal(3)) == [3]
    assert jax.tree.structure(masks.window(2)) != jax.tree.structure(masks.window(3))
    assert [x.shape for x in jax.tree.leaves(MASK)] == [(2, 5), (2,)]


def test_jit_compiles_once_for_all_values():
    traces = []

    @jax.jit
    def read(mask):
        traces.append(mask)
        return mask.to_dense(2, 5)

    for offset in (0, 1, 3):
        np.testing.assert_array_equal(
            read(masks.causal(offset)), table(2, 5, lambda i, j, o=offset: j <= o + i)
        )
    assert len(traces) == 1


def test_vmap_maps_leaves_like_a_batch():
    got = jax.vmap(lambda mask: mask.to_dense(5, 5))(MASK)
    np.testing.assert_array_equal(got, DENSE)
    offsets = masks.causal(jnp.array([0, 2]))
    np.testing.assert_array_equal(jax.vmap(lambda mask: mask.to_dense(2, 5))(offsets), offsets.to_dense(2, 5))
    # in_axes as a mask of axis numbers
    axes = jax.tree.map(lambda _: 0, MASK)
    np.testing.assert_array_equal(jax.vmap(lambda m: m.to_dense(5, 5), in_axes=(axes,))(MASK), DENSE)


def test_scan_over_masks_and_with_a_mask_in_the_carry():
    _, rows = jax.lax.scan(lambda carry, mask: (carry, mask.to_dense(5, 5)), None, MASK)
    np.testing.assert_array_equal(rows, DENSE)

    def step(carry, _):
        mask, offset = carry
        return (mask, offset + 1), mask.with_offset(offset).to_dense(1, 5)[0]

    _, rows = jax.lax.scan(step, (masks.causal() & masks.window(2), jnp.int32(0)), None, length=5)
    np.testing.assert_array_equal(rows, (masks.causal() & masks.window(2)).to_dense(5, 5))


def test_cond_checkpoint_and_grad():
    def loss(x, mask):
        return jnp.where(mask.to_dense(5, 5), x, 0.0).sum()

    x = jnp.ones((2, 5, 5))
    for f in (loss, jax.checkpoint(loss), lambda x, m: jax.lax.cond(True, loss, lambda x, m: 0.0, x, m)):
        np.testing.assert_array_equal(jax.grad(f)(x, MASK), DENSE.astype(np.float32))


@pytest.mark.parametrize(
    "mask", [masks.causal(), masks.window(1, 2) & masks.causal(), None], ids=["causal", "window", "rows"]
)
def test_pmap_and_shard_map(mask):
    valid = RNG.random((8, 5)) < 0.6
    rows = masks.padding(jnp.asarray(valid))
    mask = rows if mask is None else rows & mask
    expected = np.asarray(mask.to_dense(5, 5))
    np.testing.assert_array_equal(jax.pmap(lambda m: m.to_dense(5, 5))(mask), expected)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    read = jax.shard_map(
        lambda m: m.to_dense(5, 5),
        mesh=mesh,
        in_specs=(jax.tree.map(lambda _: P("data"), mask),),
        out_specs=P("data"),
    )
    np.testing.assert_array_equal(jax.jit(read)(mask), expected)


def test_pmap_with_a_mask_without_leaves():
    x = jnp.ones((8, 3, 3))
    got = jax.pmap(lambda x, m: jnp.where(m.to_dense(3, 3), x, 0.0))(x, masks.causal())
    np.testing.assert_array_equal(got, np.broadcast_to(np.tri(3, dtype=np.float32), (8, 3, 3)))


def test_unflatten_accepts_abstract_and_odd_leaves():
    shapes = jax.eval_shape(lambda m: m, MASK)
    assert jax.eval_shape(lambda m: m.to_dense(5, 5), shapes).shape == (2, 5, 5)
    for leaf in (None, object(), P("data"), 0, "x"):
        odd = jax.tree.map(lambda _, leaf=leaf: leaf, MASK)
        assert isinstance(odd, masks.Mask)
        assert repr(odd).startswith("(causal() & padding(")


# --- repr ---


def test_repr_draws_the_mask():
    assert repr(masks.causal() & masks.window(left=1) | masks.padding(np.arange(4) < 1)) == (
        "causal() & window(left=1) | padding(bool[4])  (T = 4, S = 4; # = may attend)\n"
        "# . . .\n"
        "# # . .\n"
        "# # # .\n"
        "# . # #"
    )


def test_repr_takes_sizes_from_the_arrays_and_draws_the_first_example():
    assert repr(masks.dense(np.eye(2, 3, dtype=bool))) == (
        "dense(bool[2, 3])  (T = 2, S = 3; # = may attend)\n# . .\n. # ."
    )
    assert repr(~masks.padding(np.array([[True, False], [True, True]]))) == (
        "~padding(bool[2, 2])  (T = 2, S = 2; # = may attend)\n. #\n. #"
    )
    assert repr(masks.segments(np.array([1, 2]), np.array([1, 1, 2]))).endswith("\n# # .\n. . #")
    heads = np.stack([np.eye(2, dtype=bool), np.ones((2, 2), bool)])
    assert repr(masks.dense(heads, per_head=True)).endswith("\n# .\n. #")
    assert len(repr(masks.causal()).splitlines()) == 9


def test_repr_is_small():
    lines = repr(masks.padding(np.ones((64, 4096), bool)) & masks.causal()).splitlines()
    assert lines[0] == "padding(bool[64, 4096]) & causal()  (T = 4096, S = 4096, cut to 16; # = may attend)"
    assert lines[1:] == [" ".join("#" * (i + 1) + "." * (15 - i)) for i in range(16)]


def test_repr_is_the_code_that_makes_the_mask():
    a, b, c = masks.causal(), masks.window(1), masks.prefix(2)

    def first(mask):
        return repr(mask).split("  (")[0]

    assert first((a | b) & ~c) == "(causal() | window(left=1)) & ~prefix(2)"
    assert first(a | b & c) == "causal() | window(left=1) & prefix(2)"
    assert first(~(a & b)) == "~(causal() & window(left=1))"
    assert first(masks.causal(0)) == "causal(offset=0)"
    assert first(masks.window(0, 2, jnp.array([1]))) == "window(left=0, right=2, offset=int32[1])"


def test_repr_under_tracing_is_the_expression_only():
    seen = []
    jax.jit(lambda m: seen.append(repr(m)))(masks.causal(3) & masks.padding(VALID))
    assert seen == ["causal(offset=int32[]) & padding(bool[2, 5])"]
    # A mask without tracers is drawn everywhere.
    seen.clear()
    jax.jit(lambda x: seen.append(repr(masks.causal())))(1)
    jax.vmap(lambda x: seen.append(repr(masks.causal())))(jnp.ones(2))
    assert seen == [repr(masks.causal())] * 2


def test_repr_of_a_mask_that_cannot_be_evaluated_is_the_expression_only():
    assert repr(masks.causal() & np.ones((2, 3), bool)) == "causal() & dense(bool[2, 3])"
