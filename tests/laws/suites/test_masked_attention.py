"""``ops.attention`` with structured masks satisfies the laws on every backend."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import find, settings

from tests.marks import slow
from tests.ops.backends.test_contract import RUNNABLE
from tfm_jax import laws, ops
from tfm_jax.laws.suites.cases.masked_attention import dense_mask, masked_cases, structured_mask
from tfm_jax.ops import masks

EXAMPLES = settings().max_examples


def attend_with(implementation):
    """``ops.attention`` with a structured mask."""

    @functools.partial(jax.jit, static_argnames=("causal", "window"))
    def attend(q, k, v, **mask_args):
        mask = structured_mask(q.shape[1], **mask_args)
        return ops.attention(q, k, v, mask, implementation=RUNNABLE[implementation])

    return attend


@pytest.mark.parametrize("name", ["reference", *slow("chunked by 8", "cpu_decode")])
def test_backends(name):
    report = laws.check(attend_with(name), laws.masked_attention, examples=EXAMPLES)
    assert report.ok, report


def test_dense_mask():
    ids = np.array([[1, 1, 2, 2]])
    table = dense_mask(1, 2, 4, causal=True, window=2, segments=ids, lengths=np.array([3]), offset=1)
    assert table.tolist() == [[[[True, True, False, False], [False, False, True, False]]]]
    assert dense_mask(1, 2, 4, causal=True, prefix=np.array([2])).tolist()[0][0][0] == [
        True,
        True,
        False,
        False,
    ]
    assert dense_mask(2, 1, 3).all()


def test_case_shows_its_mask_arguments():
    case = masked_cases("causal", "window", "segments", optional=("offset",))
    x = find(case, lambda x: True, settings=settings(database=None, derandomize=True))
    assert str(x).splitlines()[0] == "attend(q, k, v, causal=True, window=1, segments=[[2]])"
    assert x.replace_mask(window=None).mask_args.keys() == {"causal", "segments"}


def test_unknown_argument_is_not_supported():
    @functools.partial(jax.jit, static_argnames="causal")
    def attend(q, k, v, causal=False):
        return ops.attention(q, k, v, masks.causal() if causal else None)

    report = laws.check(
        attend,
        laws.masked_attention.only("causal_mask", "sliding_window", "offset_is_required"),
        examples=5,
    )
    assert report.unsupported == ("sliding_window",) and not report.violated


def test_counterexample_shows_the_guessed_offset():
    def attend(q, k, v, causal=False):
        return ops.attention(q, k, v, jnp.tri(q.shape[1], k.shape[1], dtype=bool))

    suite = laws.masked_attention.only("offset_is_required")
    (found,) = laws.check(attend, suite, examples=5).findings
    assert "got that of offset [0]; wanted an error" in found.counterexample
