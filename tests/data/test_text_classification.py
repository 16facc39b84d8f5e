import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data

BYTES = data.ByteTokenizer()


def examples_of(texts, **options):
    labels = np.arange(len(texts)) % 3
    return data.text_classification_examples(texts, labels, BYTES, 3, **{"max_length": 99, **options}), labels


@given(texts=st.lists(st.text(max_size=9), min_size=1, max_size=6), more=st.integers(0, 3))
def test_a_batch_is_padded_texts_between_bos_and_eos(texts, more):
    examples, labels = examples_of(texts)
    expected = [[1, *BYTES.encode(text), 2] for text in texts]
    width = max(1, *map(len, expected)) + more
    batch = examples.take(np.arange(len(texts)), (width,))
    assert {name: (x.dtype, x.shape) for name, x in batch.items()} == {
        "tokens": (np.int32, (len(texts), width)),
        "valid": (bool, (len(texts), width)),
        "labels": (np.int32, (len(texts),)),
        "weights": (np.float32, (len(texts),)),
    }
    for i, ids in enumerate(expected):
        assert batch["tokens"][i].tolist() == ids + [0] * (width - len(ids))
        assert batch["valid"][i].sum() == len(ids) and batch["valid"][i, : len(ids)].all()
    np.testing.assert_array_equal(batch["labels"], labels)
    np.testing.assert_array_equal(examples.lengths[:, 0], list(map(len, expected)))


@given(length=st.integers(3, 9))
def test_a_long_text_is_truncated_and_keeps_bos_and_eos(length):
    examples, _ = examples_of(["abcdefghij", "ab"], max_length=length)
    tokens = examples.take(np.arange(1))["tokens"][0]
    assert tokens.tolist() == [1, *BYTES.encode("abcdefghij")[: length - 2], 2]
    chars = data.char_tokenizer(["abcdefghij"])
    chars.bos_id = chars.eos_id = None  # as in some tokenizers of other projects
    examples = data.text_classification_examples(
        ["abcdefghij"], np.zeros(1, int), chars, 1, max_length=length
    )
    assert examples.take(np.arange(1))["tokens"][0].tolist() == chars.encode("abcdefghij")[:length]


def test_truncated_texts_are_logged(caplog):
    examples_of(["abcdefgh", "a", "abcdefghi"], max_length=5)
    assert "truncated 2 of 3 texts to max_length 5" in caplog.text


def test_padding_examples_of_a_batch_have_weight_zero():
    examples, labels = examples_of(["a", "bc", "def", "ghij", "k"])
    batches = list(data.Loader(examples, data.BucketBatchSampler(examples.lengths, [(4,), (6,)], 3)))
    index = np.concatenate([batch["index"] for batch in batches])
    weight = np.concatenate([batch["weights"] for batch in batches])
    np.testing.assert_array_equal(weight, index >= 0)
    assert sorted(index[index >= 0]) == list(range(5))
    for batch in batches:
        assert not batch["valid"][batch["index"] < 0].any()
        real = batch["index"] >= 0
        np.testing.assert_array_equal(batch["labels"][real], labels[batch["index"][real]])


def test_padding_is_that_of_the_tokenizer():
    tokenizer = data.ByteTokenizer()
    tokenizer.pad_id = 7
    examples = data.text_classification_examples(["a", ""], np.zeros(2, int), tokenizer, 1, max_length=9)
    assert examples.take(np.arange(2), (4,))["tokens"].tolist() == [[1, 100, 2, 7], [1, 2, 7, 7]]
    with pytest.raises(ValueError, match="TextClassificationExamples: got pad_id=200; wanted 0 <= pad_id"):
        data.TextClassificationExamples([[1]], np.zeros(1, int), 1, 9, pad_id=200)


def test_other_texts_or_labels_have_another_fingerprint():
    one, same, other = (examples_of(t)[0].fingerprint for t in (["ab", "c"], ["ab", "c"], ["a", "bc"]))
    assert one == same != other
    relabelled = data.text_classification_examples(["ab", "c"], np.array([1, 0]), BYTES, 3, max_length=9)
    assert relabelled.fingerprint != one


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: examples_of(["a"], max_length=2),
            "text_classification_examples: got max_length=2; wanted at least 3",
        ),
        (
            lambda: examples_of(["a"], vocab_size=50),
            "TextClassificationExamples: got id 100 in row 0; wanted 0 <= id < 50",
        ),
        (
            lambda: data.TextClassificationExamples([np.zeros(1, int)], np.zeros(2, int), 3, 4),
            "TextClassificationExamples: got 1 sequences and 2 labels",
        ),
        (
            lambda: data.TextClassificationExamples([np.zeros(1, int)], np.full(1, 3), 3, 4),
            "TextClassificationExamples: got label 3 in row 0",
        ),
        (
            lambda: examples_of(["abc"])[0].take(np.arange(1), (4,)),
            r"TextClassificationExamples: got shape \(4,\) for lengths of up to 5",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(pairs=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=5))
def test_pairs_have_their_special_tokens_and_types(pairs):
    labels = np.arange(len(pairs)) % 3
    options = {"max_length": 99, "token_types": True}
    examples = data.text_pair_classification_examples(pairs, labels, BYTES, 3, **options)
    batch = examples.take(np.arange(len(pairs)))
    for i, (first, second) in enumerate(pairs):
        ids, more = [1, *BYTES.encode(first), 2], [*BYTES.encode(second), 2]
        assert batch["tokens"][i][batch["valid"][i]].tolist() == ids + more
        assert batch["token_types"][i].tolist()[: len(ids + more)] == [0] * len(ids) + [1] * len(more)
        assert not batch["token_types"][i][~batch["valid"][i]].any()
    assert batch["token_types"].dtype == np.int32 and batch["labels"].tolist() == labels.tolist()
    without = data.text_pair_classification_examples(
        pairs, labels, BYTES, 3, max_length=99, token_types=False
    )
    assert "token_types" not in without.take(np.arange(1)) and without.fingerprint != examples.fingerprint


def test_the_longer_text_of_a_pair_is_truncated(caplog):
    examples = data.text_pair_classification_examples(
        [("abcdefgh", "ij")], np.zeros(1, int), BYTES, 1, max_length=8, token_types=False
    )
    assert examples.take(np.arange(1))["tokens"][0].tolist() == [
        1, *BYTES.encode("abc"), 2, *BYTES.encode("ij"), 2
    ]  # fmt: skip
    assert "truncated 1 of 1 texts to max_length 8" in caplog.text


def test_pairs_that_nothing_tells_apart_raise():
    tokenizer = data.char_tokenizer(["ab"])
    tokenizer.bos_id = tokenizer.eos_id = None
    with pytest.raises(ValueError, match="got a tokenizer without BOS and EOS and a model without token"):
        data.text_pair_classification_examples(
            [("a", "b")], np.zeros(1, int), tokenizer, 1, max_length=9, token_types=False
        )
    with pytest.raises(ValueError, match=r"got token_types of other lengths"):
        data.TextClassificationExamples([[1, 2]], np.zeros(1, int), 1, 9, token_types=[[0]])
