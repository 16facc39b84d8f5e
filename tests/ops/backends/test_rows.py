"""Which queries a mask leaves without any key, from its structure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.programs import equations
from tfm_jax.ops import masks
from tfm_jax.ops.backends._rows import queries_with_keys

B, T, S = 3, 11, 14
rng = np.random.default_rng(0)
VALID = rng.random((B, S)) < 0.3
VALID[1] = False
IDS, KEY_IDS = rng.integers(-2, 4, (B, T)), rng.integers(-3, 3, (B, S))
CASES = {
    "padding": masks.padding(VALID),
    "padding and causal": masks.padding(VALID) & masks.causal(1),
    "padding and a window": masks.padding(VALID) & masks.window(2, 1, offset=2),
    "prefix": masks.prefix(np.array([0, 3, S])) & masks.window(3, offset=0),
    "segments": masks.segments(IDS, KEY_IDS),
    "segments, shared": masks.segments(IDS[0], KEY_IDS[0]),
    "segments and causal": masks.segments(IDS, KEY_IDS) & masks.causal(2),
    "all": masks.segments(IDS, KEY_IDS) & masks.padding(VALID) & masks.window(4, 2, offset=1),
}


@pytest.mark.parametrize("case", list(CASES))
def test_it_equals_the_rows_of_the_table(case):
    mask = CASES[case]
    wanted = np.broadcast_to(mask.to_dense(T, S), (B, T, S)).any(-1)
    assert wanted.any() and not wanted.all()
    np.testing.assert_array_equal(queries_with_keys(mask, (B,), T, S), wanted)


@pytest.mark.parametrize("case", ["padding and causal", "all"])
def test_no_array_has_a_pair_of_axes(case):
    def run(valid, query_ids, key_ids):
        mask = masks.padding(valid) & masks.causal(8)
        mask = mask & masks.segments(query_ids, key_ids) if case == "all" else mask
        return queries_with_keys(mask, (B,), 300, 400)

    jaxpr = jax.make_jaxpr(run)(jnp.ones((B, 400), bool), jnp.ones((B, 300), int), jnp.ones((B, 400), int))
    sizes = [variable.aval.size for e in equations(jaxpr.jaxpr) for variable in e.outvars]
    assert max(sizes) <= B * 700


@pytest.mark.parametrize("mask", [masks.causal(), masks.window(3, 0), masks.causal() & masks.segments(IDS)])
def test_the_structure_says_that_every_query_sees_itself(mask):
    assert queries_with_keys(mask, (B,), T, T) is None
    assert np.asarray(mask.to_dense(T, T)).any(-1).all()
