"""Subjects: wrong shapes and parts violate laws, and options describe the function under test."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import settings

from tests.mutants.layer_norm import norm
from tfm_jax import laws, ops

EXAMPLES = settings().max_examples


@pytest.mark.parametrize(
    "suite, wrong, message",
    [
        (
            laws.attention,
            lambda q, k, v, mask: v[..., :3],
            "shape: got [1, 1, 1, 3]; wanted [B, T, N, H] = [1, 1, 1, 4]",
        ),
        (laws.layer_norm, lambda x: x[..., :1], "shape: got [1, 1, 1]; wanted [B, T, D] = [1, 1, 2]"),
        (laws.rotary, lambda x, at: x[0], "shape: got [1, 1, 2]; wanted [B, T, N, H] = [1, 1, 1, 2]"),
        (laws.alibi, lambda q, k: q[:, None] + k[None], "wanted [N, T, S] = [1, 1, 1]"),
        (laws.sinusoidal, lambda at: at[:, None], "shape: got [1, 1]; wanted [T, D] = [1, 0]"),
        (laws.cross_entropy, lambda x, *rest: (x[..., 0], x[..., 0]), "wanted the sum, a scalar = []"),
        (laws.feed_forward, lambda x: x[0], "shape: got [1, 8]; wanted [B, T, D] = [1, 1, 8]"),
        (laws.top_p, lambda x, p: x[:, :1], "shape: got [1, 1]; wanted [B, V] = [1, 2]"),
        (laws.logits_processor, lambda x, *rest: x[0], "shape: got [2]; wanted [B, V] = [1, 2]"),
        (laws.dropout, lambda x, rate, key: x[0], "shape: got [16]; wanted the shape of x = [16, 16]"),
    ],
)
def test_other_shapes_violate_a_law(suite, wrong, message):
    report = laws.check(wrong, suite.only(next(iter(suite)).name), examples=5)
    assert message in str(report)


def test_one_number_instead_of_sum_and_weight_violates_a_law():
    report = laws.check(lambda *_: 1.0, laws.cross_entropy.only("chunks_add"), examples=2)
    assert report.violated and "wanted (sum, weight)" in str(report)


def test_a_violation_within_a_call_is_not_an_assertion_of_the_function():
    def violated():
        raise laws.Violation("output: got a number")

    with pytest.raises(laws.Violation, match=r"^output: got a number$"):
        laws.Subject(jnp.tanh).run(violated)


def test_function_need_not_be_hashable():
    class Double:
        __hash__ = None

        def __call__(self, x):
            return 2 * x

    suite = laws.SUITES["transformations"].only("remat_changes_nothing")
    assert laws.check(Double(), suite, examples=2).ok


def test_other_eps_pairing_or_theta_is_found():
    suite = laws.rotary.only("definition")
    assert laws.check(norm, laws.layer_norm.only("definition"), examples=EXAMPLES, eps=1e-3).violated
    assert laws.check(ops.rotary, suite, pairing="interleaved").violated
    assert laws.check(ops.rotary, suite, theta=100.0).violated
    with pytest.raises(ValueError, match="got pairing='odd'; wanted one of half, interleaved"):
        laws.check(ops.rotary, suite, pairing="odd")


def test_alibi_after_option():
    @jax.jit
    def wrong_after_the_query(q, k):
        return ops.alibi(4, q, k) * jnp.where(q[:, None] >= k[None], 1.0, -3.0)[None]

    suite = laws.alibi.only("never_positive", "decreases_with_distance", "slopes")
    assert laws.check(wrong_after_the_query, suite, after=False).ok
    report = laws.check(wrong_after_the_query, suite)
    assert report.violated == ("never_positive", "decreases_with_distance", "slopes")


def test_relative_buckets_options():
    suite = laws.relative_buckets.only("definition", "direction")
    assert laws.check(ops.relative_buckets, suite, buckets=16).violated == ("definition",)
    report = laws.check(ops.relative_buckets, suite, bidirectional=False)
    assert report.violated == ("definition", "direction")
    report = laws.check(
        lambda q, k: ops.relative_buckets(q, k).astype(jnp.float32), suite.only("definition"), examples=2
    )
    assert "dtype: got float32; wanted integers" in str(report)


def test_feed_forward_dim_option():
    sizes = set()
    suite = laws.feed_forward.only("vectors_are_independent")
    laws.check(lambda x: sizes.add(x.shape[-1]) or x, suite, examples=EXAMPLES, dim=5)
    assert sizes == {5}


def test_dropout_key_option():
    suite = laws.dropout.only("kept_elements_are_scaled", "same_key_same_mask")
    seen = set()

    def drop(x, rate, seed):
        seen.add(type(seed))
        return ops.dropout(x, rate, jax.random.key(seed))

    assert laws.check(drop, suite, examples=EXAMPLES, key=lambda seed: seed).ok
    assert seen == {int}
