"""Our own attention keeps the laws, on every backend."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import find, settings
from hypothesis.errors import NoSuchExample

from tests import references
from tests.marks import slow
from tests.ops.backends.test_contract import RUNNABLE
from tfm_jax import laws, ops
from tfm_jax.laws.suites.cases.attention import cases, mix, never_empty, weights_of
from tfm_jax.ops import masks

EXAMPLES = settings().max_examples


@pytest.mark.parametrize("name", ["reference", *slow("chunked by 8", "cpu_decode", "xla")])
def test_every_backend_keeps_the_laws(name):
    attend = jax.jit(functools.partial(ops.attention, implementation=RUNNABLE[name]))
    report = laws.check(attend, laws.attention, examples=EXAMPLES)
    # XLA's own differentiates by a promotion that the tests forbid: it refuses bfloat16 here, and no more.
    refused = {"dtype_is_kept"} if name == "xla" else set()
    assert not report.broken, report
    assert {found.law.name for found in report.findings if found.refused} == refused


@laws.holds(laws.attention.only("definition", "empty_rows", "causality", "padding"), examples=EXAMPLES)
def test_torch_keeps_those_that_it_can_be_asked():
    torch = pytest.importorskip("torch")

    def attend(q, k, v, mask):
        q, k, v = (torch.tensor(np.asarray(x)).transpose(1, 2) for x in (q, k, v))
        mask = None if mask is None else torch.tensor(np.asarray(mask))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        return out.transpose(1, 2).numpy()

    return attend


def test_what_the_laws_want_is_the_reference():
    def differs(x):
        out, weights = references.attention(x.q, x.k, x.v, x.mask)
        got = weights_of(x.q, x.k, x.mask)
        return not (np.allclose(got, weights) and np.allclose(mix(got, x.v), out))

    with pytest.raises(NoSuchExample):
        find(cases(), differs, settings=settings(max_examples=EXAMPLES, database=None))


def test_a_mask_is_handed_over_as_the_function_takes_it():
    seen = []

    def attend(q, k, v, mask):
        seen.append(type(mask).__name__)
        return ops.attention(q, k, v, mask)

    suite = laws.attention.only("causality", "no_mask")
    report = laws.check(attend, suite, examples=2, mask=lambda table: masks.dense(table, per_head=True))
    assert report.ok and set(seen) == {"Dense", "NoneType"}


def test_cases_are_of_few_shapes_and_of_every_mask():
    shapes, tables = set(), set()

    def collect(x):
        shapes.add((x.q.shape, x.k.shape))
        if x.mask.shape == (1, 1, 1, 2):
            tables.add(tuple(x.mask.ravel()))
        return False

    with pytest.raises(NoSuchExample):
        find(cases(), collect, settings=settings(max_examples=300, database=None, derandomize=True))
    assert 5 <= len(shapes) <= 9
    assert len(tables) == 4
    x = find(cases(), lambda x: x.mask.shape[2] == 3, settings=settings(database=None, derandomize=True))
    assert never_empty(x).mask.any(-1).all()
