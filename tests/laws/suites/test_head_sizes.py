"""``kv_heads``, ``heads`` and ``head_dim`` of the suites of attention."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import settings

from benchmarks.peers import ours
from tests.mutants.attention import RIGHT
from tfm_jax import laws, ops
from tfm_jax.laws.suites.cases.attention import cases

EXAMPLES = settings().max_examples
SUITES = (laws.attention, laws.masked_attention, laws.attention_dropout)
FUNCTIONS = ours.peer("reference").suites


def seen_by(suite, **options):
    """The report, and the sizes (N, K, H) of all calls."""
    seen, function = set(), FUNCTIONS[suite.name]

    def attend(q, k, *rest, **mask_args):
        seen.add((q.shape[2], k.shape[2], q.shape[3]))
        return function(q, k, *rest, **mask_args)

    return laws.check(attend, suite, examples=EXAMPLES, **options), seen


@pytest.mark.parametrize(
    "suite, law",
    [
        (laws.attention, "definition"),
        (laws.masked_attention, "segments_are_independent"),
        (laws.attention_dropout, "dropped_or_scaled"),
    ],
)
def test_sizes(suite, law):
    report, seen = seen_by(suite.only(law), kv_heads="equal")
    assert report.ok and all(N == K for N, K, H in seen) and len(seen) > 2
    report, seen = seen_by(suite.only(law), heads=6, head_dim=8)
    assert report.ok and {(N, H) for N, K, H in seen} == {(6, 8)} and {K for N, K, H in seen} >= {1, 3}
    report, seen = seen_by(suite.only(law), heads=3, head_dim=48, kv_heads="equal")
    assert report.ok and seen == {(3, 3, 48)}


def test_a_function_without_grouped_heads_supports_all_laws_of_equal_heads():
    def equal_only(q, k, v, mask):
        if q.shape[2] != k.shape[2]:
            raise ValueError("no groups")
        return RIGHT(q, k, v, mask)

    names = ("definition", "grouped_query_heads", "heads_are_independent", "gradients")
    report = laws.check(jax.jit(equal_only), laws.attention.only(*names), examples=EXAMPLES, kv_heads="equal")
    assert report.ok and not any(found.unsupported for found in report.findings)
    assert [found.law.name for found in report.findings] == [
        "definition",
        "heads_are_independent",
        "gradients",
    ]


def test_one_head_shares_no_dropout_mask_with_another():
    report, seen = seen_by(laws.attention_dropout.only("draws_are_independent"), heads=1)
    assert report.ok and {N for N, K, H in seen} == {1}


def test_laws_that_call_one_head_are_left_out_for_fixed_heads():
    report, seen = seen_by(laws.attention.only("heads_are_independent", "padding"), heads=2)
    assert [found.law.name for found in report.findings] == ["padding"] and {N for N, K, H in seen} == {2}


def test_a_law_without_a_case_of_these_sizes_is_not_supported():
    @laws.law(cases(fits=lambda shape: shape.S == 43))
    def long(attend, x):
        """It is about long sequences."""

    suite = laws.Suite("attention", "", laws.attention.subject, (long,))
    (finding,) = laws.check(RIGHT, suite, examples=1, head_dim=8).findings
    assert finding.status == "not supported" and "no case of this law has the sizes" in finding.reason


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    "options, message",
    [
        ({"kv_heads": "one"}, "got kv_heads='one'; wanted one of any, equal"),
        ({"heads": 0}, "got heads=0; wanted at least 1"),
        ({"head_dim": 3}, "got head_dim=3; wanted at least 4"),
    ],
)
def test_other_sizes_are_errors(suite, options, message):
    with pytest.raises(ValueError, match=message):
        laws.check(RIGHT, suite, **options)


def test_the_gradient_of_a_fully_masked_row_is_a_contract():
    def attend(q, k, v, mask):
        out = ops.attention(q, k, v, mask)
        return out if mask is None else jnp.where(mask.any(-1)[:, 0, :, None, None], out, q)

    def wrong(q, k, v, mask):
        return attend(q, k, v, mask) + v.sum()

    for function, severity in ((attend, "contract"), (wrong, "wrong result")):
        (finding,) = laws.check(jax.jit(function), laws.attention.only("gradients"), examples=20).findings
        assert (finding.status, finding.severity) == ("violated", severity)
        rows = finding.counterexample.splitlines()[1:]
        assert ("  ." in rows) == (severity == "contract")
