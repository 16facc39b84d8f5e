"""Texts in batches of few shapes; what came of each, in their order."""

import numpy as np
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from tfm_jax.pretrained.texts import BatchRunner

TOKENIZER = tokenizers.Tokenizer(models.WordLevel({c: i for i, c in enumerate("?abc")}, unk_token="?"))
TOKENIZER.pre_tokenizer = pre_tokenizers.Whitespace()


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=40), max_size=9), st.integers(1, 5))
def test_each_text_has_what_came_of_it_whatever_shares_its_batch(words, batch_size):
    shapes = []

    def run(tokens, types, valid):
        shapes.append(tokens.shape)
        assert tokens.shape == types.shape == valid.shape and not (tokens * ~valid).any()
        return np.stack([valid.sum(1), (tokens * 5 ** np.arange(tokens.shape[1]) % 7).sum(1)], 1)

    found = BatchRunner(TOKENIZER, 24)([" ".join(x) for x in words], batch_size, run)
    ids = [np.array(["?abc".index(c) for c in x[:24]], int) for x in words]
    for (encoding, got), x in zip(found, ids, strict=True):
        assert encoding.ids == x.tolist()
        assert got.tolist() == [len(x), (x * 5 ** np.arange(len(x)) % 7).sum()]
    assert {T for _, T in shapes} <= {16, 24} and {B for B, _ in shapes} <= {1, 2, 4, 8}
