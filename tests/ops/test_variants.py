"""Each function of ops gives the same results with and without jit and under pmap, and compiles once.

The variants are chex's, which need a TestCase.
"""

import chex
import jax
import numpy as np
import pytest
from absl.testing import parameterized

from tests.functions import FUNCTIONS
from tfm_jax import ops
from tfm_jax.ops import masks, sampling

CASES = [(name.replace(".", "_"), name) for name in FUNCTIONS]


class TestVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    @parameterized.named_parameters(*CASES)
    def test_each_variant_gives_the_results_of_a_direct_call(self, name):
        call, arrays = FUNCTIONS[name]
        got = self.variant(lambda arrays: call(**arrays))(arrays)
        wanted = call(**arrays)
        chex.assert_trees_all_equal_shapes_and_dtypes(got, wanted)
        chex.assert_trees_all_close(got, wanted, rtol=1e-5, atol=1e-6)


def attend(q, offset, scale):
    mask = masks.causal(offset) & masks.window(2, offset=offset) | masks.prefix(offset)
    return ops.attention(q[:2], q, q, mask, scale=scale, soft_cap=scale)


CALLS = {
    "attention": attend,
    "layer_norm": lambda q, offset, scale: ops.layer_norm(q),
    "rotary": lambda q, offset, scale: ops.rotary(q, offset + np.arange(3, dtype=np.int32)),
    "top_p": lambda q, offset, scale: sampling.top_p(q, scale / 8),
    "no_repeat_ngram": lambda q, offset, scale: sampling.no_repeat_ngram(
        q[:, 0], np.zeros((3, 5), np.int32), offset, 2
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_values_do_not_cause_a_compilation_and_shapes_do(name):
    call = jax.jit(chex.assert_max_traces(CALLS[name], n=1))
    q = np.ones((3, 2, 4), np.float32)
    for i in range(3):
        call(q + i, np.int32(i), np.float32(i + 1))
    with pytest.raises(AssertionError, match="traced > 1 times"):
        call(np.ones((3, 2, 6), np.float32), np.int32(1), np.float32(1))
