"""Batched inference: few shapes, outputs in the order of the texts."""

import functools
import sys

import jax
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from tokenizers import models, pre_tokenizers

from tfm_jax.pretrained.tasks import batch_runner
from tfm_jax.pretrained.tasks.batch_runner import BatchRunner, map_slices
from tfm_jax.train import make_mesh

TOKENIZER = tokenizers.Tokenizer(models.WordLevel({c: i for i, c in enumerate("?abc")}, unk_token="?"))
TOKENIZER.pre_tokenizer = pre_tokenizers.Whitespace()


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=40), max_size=9),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([1, 24, 33, 80, sys.maxsize]),
)
def test_outputs_do_not_depend_on_the_other_texts_of_a_batch(words, batch_size, devices, limit):
    shapes = []
    runner = BatchRunner(TOKENIZER, 24, None if devices == 1 else make_mesh(data=devices))
    runner.tokens_per_slice = limit

    def run(*batch):
        tokens, types = map(np.asarray, batch[:2])
        valid = np.ones(tokens.shape, bool) if batch[2] is None else np.asarray(batch[2])
        assert batch[2] is None or not valid.all()
        shapes.append(tokens.shape)
        assert tokens.shape == types.shape == valid.shape and not (tokens * ~valid).any()
        return np.stack([valid.sum(2), (tokens * 5 ** np.arange(tokens.shape[2]) % 7).sum(2)], 2)

    found = runner([" ".join(x) for x in words], batch_size, run)
    ids = [np.array(["?abc".index(c) for c in x[:24]], int) for x in words]
    for (encoding, got), x in zip(found, ids, strict=True):
        assert encoding.ids == x.tolist()
        assert got.tolist() == [len(x), (x * 5 ** np.arange(len(x)) % 7).sum()]
    assert {T for *_, T in shapes} <= {16, 24}
    texts_of = [len(words[i : i + batch_size]) for i in range(0, len(words), batch_size)]
    for (slices, B, T), n in zip(shapes, texts_of, strict=True):
        assert B % devices == 0 and B // devices * T <= max(limit, T)
        wanted = -(-(1 << (n - 1).bit_length()) // devices)  # per device: few different batch sizes
        assert slices * B == wanted * devices or devices == 3
        assert limit != sys.maxsize or slices == 1


@pytest.mark.parametrize("shape", [None, (2,), (2, 2)])
def test_slices_on_a_cpu_give_the_output_of_one_batch(monkeypatch, shape):
    monkeypatch.setattr(batch_runner, "_CPU_TOKENS", 48)
    axes = () if shape is None else tuple("xy"[: len(shape)])
    mesh = None if shape is None else jax.make_mesh(shape, axes, (AxisType.Auto,) * len(axes))
    n, seen, traced = 1 if mesh is None else mesh.size, [], []

    def model(scale, tokens, types, valid):
        traced.append(tokens.shape)
        return jax.numpy.where(valid, tokens, 0).sum(-1) * scale

    def run(*batch):
        seen.append(batch)
        return jax.jit(functools.partial(map_slices, model))(3, *batch)

    words = [" ".join("abc"[: 1 + i % 3]) for i in range(7 * n)]
    found = BatchRunner(TOKENIZER, 24, mesh)(words, 8 * n, run)
    assert [int(x) for _, x in found] == [3 * sum(range(1, 2 + i % 3)) for i in range(7 * n)]
    # Each device has eight sequences of sixteen tokens, in slices of two, though three would fit.
    ((tokens, _, valid),) = seen
    assert tokens.sharding.shard_shape(tokens.shape) == valid.sharding.shard_shape(valid.shape) == (4, 2, 16)
    assert set(traced) == {(2 * n, 16)}
    assert "scan" in str(jax.make_jaxpr(functools.partial(map_slices, model))(3, *seen[0]))


@pytest.mark.parametrize("length", [16, 17, 48, 80, 112, 200])
def test_a_full_batch_is_not_padded_and_has_no_mask(length):
    seen = []

    def run(*batch):
        seen.append(batch)
        return np.zeros(batch[0].shape[:2])

    BatchRunner(TOKENIZER, length)([" ".join("a" * length)] * 32, 32, run)
    ((tokens, _, valid),) = seen
    assert tokens.size == 32 * length and valid is None and tokens.shape[1] * length <= 1024


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9), max_size=6), st.integers(1, 5))
def test_ids_outside_the_vocabulary_are_errors_that_name_the_text(words, V):
    """Only after truncation: a token that is cut off is not read."""
    texts = [" ".join(word) for word in words]
    runner = BatchRunner(TOKENIZER, 4, side="left", vocab_size=V)

    def run(*batch):
        return np.zeros(batch[0].shape[:2])

    ids = [["?abc".index(c) for c in word[-4:]] for word in words]
    wrong = [(i, x) for i, row in enumerate(ids) for x in row if x >= V]
    if not wrong:
        assert [found.ids for found, _ in runner(texts, 3, run)] == ids
        return
    (i, x), *_ = wrong
    with pytest.raises(ValueError, match=f"text {i} .*got the token '{'?abc'[x]}' with the id {x}; wanted"):
        runner(texts, 3, run)
