"""Texts in batches of few shapes; what came of each, in their order."""

import jax
import numpy as np
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from tfm_jax.pretrained import texts
from tfm_jax.pretrained.texts import BatchRunner, over_slices
from tfm_jax.train import data_mesh

TOKENIZER = tokenizers.Tokenizer(models.WordLevel({c: i for i, c in enumerate("?abc")}, unk_token="?"))
TOKENIZER.pre_tokenizer = pre_tokenizers.Whitespace()


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=40), max_size=9),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([1, 24, 33, 80, float("inf")]),
)
def test_each_text_has_what_came_of_it_whatever_shares_its_batch(words, batch_size, devices, at_once):
    shapes = []
    runner = BatchRunner(TOKENIZER, 24, None if devices == 1 else data_mesh(devices))
    runner.tokens_at_once = at_once

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
        assert B % devices == 0 and B // devices * T <= max(at_once, T)
        wanted = -(-(1 << (n - 1).bit_length()) // devices)  # of each device: few numbers of rows
        assert 0 <= slices * B // devices - wanted < slices
        assert at_once != float("inf") or slices == 1


def test_a_cpu_takes_few_tokens_at_once_and_the_answer_is_that_of_all_at_once(monkeypatch):
    monkeypatch.setattr(texts, "CPU_TOKENS", 80)
    seen = []

    def model(scale, tokens, types, valid):
        seen.append(tokens.shape)
        return jax.numpy.where(valid, tokens, 0).sum(-1) * scale

    run = jax.jit(lambda *batch: over_slices(model, 3, *batch))
    found = BatchRunner(TOKENIZER, 24)(["a b", "b", "c c c", "", "a"], 5, run)
    assert [int(x) for _, x in found] == [9, 6, 27, 0, 3]
    assert set(seen) == {(4, 16)}  # eight rows in two slices, though five would fit in one
