"""Our masks, said in words, keep the laws on every backend and with every size of tile; what the table is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import find, settings

from tests.marks import slow
from tests.ops.backends.test_contract import RUNNABLE
from tfm_jax import laws, ops
from tfm_jax.laws.suites.cases.masked_attention import described, drawn, mask_by_words
from tfm_jax.ops import masks

EXAMPLES = settings().max_examples


def by_words(implementation):
    """Our attention, whose mask is made of the words."""

    @functools.partial(jax.jit, static_argnames=("causal", "window"))
    def attend(q, k, v, **words):
        mask = mask_by_words(q.shape[1], **words)
        return ops.attention(q, k, v, mask, implementation=RUNNABLE[implementation])

    return attend


@pytest.mark.parametrize("name", ["reference", *slow("chunked by 8", "cpu_decode")])
def test_every_backend_keeps_the_laws(name):
    report = laws.check(by_words(name), laws.masked_attention, examples=EXAMPLES)
    assert report.ok, report


def test_what_the_words_draw():
    ids = np.array([[1, 1, 2, 2]])
    table = drawn(1, 2, 4, causal=True, window=2, segments=ids, lengths=np.array([3]), offset=1)
    assert table.tolist() == [[[[True, True, False, False], [False, False, True, False]]]]
    assert drawn(1, 2, 4, causal=True, prefix=np.array([2])).tolist()[0][0][0] == [True, True, False, False]
    assert drawn(2, 1, 3).all()


def test_a_case_says_its_words():
    case = described("causal", "window", "segments", perhaps=("offset",))
    x = find(case, lambda x: True, settings=settings(database=None, derandomize=True))
    assert str(x).splitlines()[0] == "attend(q, k, v, causal=True, window=1, segments=[[2]])"
    assert x.but(window=None).given.keys() == {"causal", "segments"}


def test_a_word_that_a_function_does_not_know_is_not_asked():
    @functools.partial(jax.jit, static_argnames="causal")
    def attend(q, k, v, causal=False):
        return ops.attention(q, k, v, masks.causal() if causal else None)

    report = laws.check(
        attend,
        laws.masked_attention.only("causal_triangle", "window_reads_w_keys", "no_guess_without_an_offset"),
        examples=5,
    )
    assert report.unasked == ("window_reads_w_keys",) and not report.broken


def test_a_guess_is_named():
    def attend(q, k, v, causal=False):
        return ops.attention(q, k, v, jnp.tri(q.shape[1], k.shape[1], dtype=bool))

    suite = laws.masked_attention.only("no_guess_without_an_offset")
    (found,) = laws.check(attend, suite, examples=5).findings
    assert "got one, as if query 0 stood at key [0], wanted an error" in found.counter_example
