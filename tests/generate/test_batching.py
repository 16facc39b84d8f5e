"""Batches by length, vocabulary checks, and buffering up to a stop string."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data
from tfm_jax.generate.batching import StopStringBuffer, bucketed_batches, check_vocabulary


@given(
    st.text("aé€😀b", max_size=12), st.lists(st.text("aé€b", min_size=1, max_size=4), max_size=3), st.data()
)
def test_stable_text_has_no_partial_character_or_stop_string(text, stop, draw):
    tokenizer = data.ByteTokenizer()
    buffer = StopStringBuffer(tokenizer, tokenizer.encode("é"), stop, ())
    previous, ids = "", tokenizer.encode(text)
    while ids and not buffer.done:
        n = draw.draw(st.integers(1, 5))
        buffer.add(ids[:n])
        ids = ids[n:]
        stable = buffer.stable_text()
        assert stable.startswith(previous) and "\ufffd" not in stable
        previous = stable
    # Reference: one character at a time, until the text ends with a stop string.
    wanted = text
    for n in range(len(text) + 1):
        if complete := [s for s in stop if text[:n].endswith(s)]:
            wanted = text[: n - len(max(complete, key=len))]
            break
    assert buffer.text() == wanted and wanted.startswith(previous)


def test_partial_character_at_the_end_of_a_text():
    buffer = StopStringBuffer(data.ByteTokenizer(), [], [], ())
    buffer.add([*data.ByteTokenizer().encode("a€")[:-1]])
    assert buffer.stable_text() == "a" and buffer.text() == "a\ufffd"


@given(st.lists(st.integers(1, 70), max_size=9), st.integers(1, 9), st.sampled_from([None, 70]))
def test_batches_have_few_shapes_and_every_input_once(lengths, batch_size, longest):
    ids = [np.full(n, i + 1, np.int32) for i, n in enumerate(lengths)]
    batches = list(bucketed_batches(ids, batch_size, longest))
    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(ids)))
    assert len({len(batch.tokens) for batch in batches}) <= 1
    for batch in batches:
        B, P = batch.tokens.shape
        assert P in (16, 32, 64, longest or 128) and len(batch.indices) <= B <= batch_size
        for tokens, valid, i in zip(batch.tokens, batch.valid, batch.filled, strict=True):
            np.testing.assert_array_equal(tokens, np.pad(ids[i], (P - lengths[i], 0)))
            np.testing.assert_array_equal(valid, tokens > 0)
            assert P == 16 or lengths[i] > P // 2  # the bucket of its own length
        assert (batch.filled[: len(batch.indices)] == batch.indices).all()
        assert (batch.filled[len(batch.indices) :] == batch.indices[-1]).all()


@given(st.lists(st.integers(1, 20), max_size=9), st.integers(1, 9))
def test_exact_batches_have_no_padding(lengths, batch_size):
    ids = [np.full(n, i + 1, np.int32) for i, n in enumerate(lengths)]
    batches = list(bucketed_batches(ids, batch_size, None, exact=True))
    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(ids)))
    for batch in batches:
        assert batch.valid.all() and len(batch.tokens) <= batch_size
        np.testing.assert_array_equal(batch.tokens[:, 0], batch.filled + 1)


def test_unknown_id_without_text():
    """Special tokens decode to nothing."""
    with pytest.raises(ValueError, match=r"text 1 \('b<new>'\): got the id 9; wanted ids below 7"):
        check_vocabulary(["a", "b<new>"], [[1], [2, 9]], 7, lambda i: "")
