import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data

TOKENIZER = data.ByteTokenizer()
TEXTS = st.text(min_size=1, max_size=9).filter(str.strip)
SOURCES, TARGETS = ["one", "", "three", "x" * 30, "zwei"], ["1", "2", " ", "4", "2" * 7]


def tokenizer_with_padding(pad_id):
    tokenizer = data.ByteTokenizer()
    tokenizer.pad_id = pad_id
    return tokenizer


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), st.sampled_from([0, 5]))
def test_translation_batches_hold_the_texts(pairs, pad):
    sources, targets = zip(*pairs, strict=True)
    examples = data.translation_examples(sources, targets, tokenizer_with_padding(pad))
    batch = examples.take(np.arange(len(examples)), (64, 40))
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "source": ((len(pairs), 64), "int32"),
        "valid": ((len(pairs), 64), "bool"),
        "target": ((len(pairs), 40), "int32"),
        "labels": ((len(pairs), 40), "int32"),
        "weights": ((len(pairs), 40), "float32"),
    }
    for b, (source, target) in enumerate(pairs):
        ids, n = TOKENIZER.encode(target), len(TOKENIZER.encode(target)) + 1
        s = [*TOKENIZER.encode(source), 2]
        assert batch["source"][b].tolist() == s + [pad] * (64 - len(s))
        assert batch["valid"][b].tolist() == [True] * len(s) + [False] * (64 - len(s))
        assert batch["target"][b].tolist() == [1, *ids] + [pad] * (40 - n)
        assert batch["labels"][b].tolist() == [*ids, 2] + [pad] * (40 - n)
        assert batch["weights"][b].tolist() == [1] * n + [0] * (40 - n)
        assert examples.lengths[b].tolist() == [len(s), n]
    tight = examples.take(np.arange(len(examples)))
    assert (tight["source"].shape[1], tight["target"].shape[1]) == tuple(examples.lengths.max(0))


def test_pairs_that_are_empty_or_too_long_are_counted_and_logged(caplog):
    examples = data.translation_examples(SOURCES, TARGETS, TOKENIZER, max_length=8)
    assert examples.kept.tolist() == [0, 4] and examples.dropped == {"empty": 2, "too_long": 1}
    assert "dropped 3 of 5 texts" in caplog.text
    assert TOKENIZER.decode(examples.take(np.array([1]))["source"][0]) == "zwei"
    assert len(data.translation_examples(SOURCES, TARGETS, TOKENIZER, max_length=7)) == 1, "7 digits and EOS"
    assert len(data.translation_examples(SOURCES, TARGETS, TOKENIZER)) == 3


def test_translation_batches_through_buckets_and_loader():
    sources, targets = [str(10**n) for n in range(12)], ["y" * n for n in range(12, 0, -1)]
    examples = data.translation_examples(sources, targets, TOKENIZER)
    shapes = data.choose_buckets(examples.lengths, 3, multiple_of=4)
    batches = data.BucketBatchSampler(examples.lengths, shapes, 4)
    seen = {}
    for batch in data.Loader(examples, batches):
        assert (batch["source"].shape[1], batch["labels"].shape[1]) in shapes
        padding = batch["index"] < 0
        assert not batch["weights"][padding].any() and not batch["valid"][padding].any()
        seen |= {
            int(r): TOKENIZER.decode(t)
            for r, t in zip(batch["index"], batch["labels"], strict=True)
            if r >= 0
        }
    assert [seen[row] for row in range(12)] == targets


def test_translation_errors():
    with pytest.raises(
        ValueError, match=r"translation_examples: got 1 texts, of which none is left: \{'empty': 1"
    ):
        data.translation_examples([""], ["a"], TOKENIZER)
    with pytest.raises(ValueError, match="got 0 texts, of which none is left"):
        data.translation_examples([], [], TOKENIZER)
    with pytest.raises(ValueError, match="translation_examples: got 2 sources and 1 targets"):
        data.translation_examples(["a", "b"], ["a"], TOKENIZER)
    with pytest.raises(ValueError, match="got source id 125 in row 1; wanted 0 <= source id < 120"):
        data.translation_examples(["a", "z"], ["a", "a"], TOKENIZER, vocab_size=120)
    with pytest.raises(ValueError, match=r"TranslationExamples: got shape .* for lengths of up to"):
        data.translation_examples(["abcdef"], ["a"], TOKENIZER).take(np.array([0]), (4, 4))

    for name in ("pad_id", "bos_id", "eos_id"):
        other = data.ByteTokenizer()
        setattr(other, name, None)
        with pytest.raises(
            ValueError, match=f"got a tokenizer with .*{name}=None.*; wanted a pad, BOS and EOS"
        ):
            data.translation_examples(["a"], ["a"], other)
        ids = {"pad_id": 0, "bos_id": 1, "eos_id": 2, name: 50}
        with pytest.raises(ValueError, match=f"TranslationExamples: got {name}=50; wanted 0 <= {name} < 50"):
            data.TranslationExamples([[3, 2]], [[4]], vocab_size=50, **ids)


@pytest.mark.parametrize("pad, filled", [(5, 5), (None, 0), (300, 0)])
def test_padding_is_that_of_the_tokenizer_if_the_model_has_it(pad, filled):
    tokenizer = tokenizer_with_padding(pad)
    batch = data.language_model_examples(["ab"], tokenizer, 5, vocab_size=200).take(np.array([0]))
    assert batch["tokens"].tolist() == [[1, 100, 101, filled, filled]]
    assert batch["labels"].tolist() == [[100, 101, 2, filled, filled]]
    assert batch["weights"].tolist() == [[1, 1, 1, 0, 0]]
    with pytest.raises(ValueError, match="PackedSequences: got pad_id=9; wanted 0 <= pad_id < 9"):
        data.PackedSequences([[1, 2]], 4, 9, pad_id=9)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=6), st.sampled_from([3, 8]))
def test_every_byte_is_predicted_once(texts, length):
    if not any(texts):
        with pytest.raises(ValueError, match="two tokens or more"):
            data.language_model_examples(texts, TOKENIZER, length)
        return
    examples = data.language_model_examples(texts, TOKENIZER, length)
    batch = examples.take(np.arange(len(examples)))
    labels = batch["labels"][batch["weights"] > 0]
    wanted = sorted(i for text in texts if text for i in [*TOKENIZER.encode(text), 2])
    assert sorted(labels.tolist()) == wanted
    assert (batch["tokens"] == 1).sum() == sum(map(bool, texts))
    overlapping = data.language_model_examples(texts, TOKENIZER, length, overlap=2)
    assert overlapping.n_targets == examples.n_targets and len(overlapping) >= len(examples)


def test_empty_texts_are_counted_and_logged(caplog):
    examples = data.language_model_examples(["ab", "", "c"], TOKENIZER, 8)
    assert examples.dropped == {"empty": 1} and "dropped 1 of 3 texts" in caplog.text


def test_ids_are_checked_against_the_vocabulary_of_the_model():
    with pytest.raises(ValueError, match="got token id 125 in row 1"):
        data.language_model_examples(["a", "az"], TOKENIZER, 8, vocab_size=120)


def test_a_bad_id_is_named_with_the_row_of_its_text():
    with pytest.raises(ValueError, match="got source id 125 in row 2"):
        data.translation_examples(["", "a", "z"], ["a", "a", "a"], TOKENIZER, vocab_size=120)
    with pytest.raises(ValueError, match="got target id 125 in row 3"):
        data.translation_examples(["a"] * 4, ["", "a" * 9, "a", "z"], TOKENIZER, vocab_size=120, max_length=5)


@pytest.mark.parametrize("bad", [2**32 + 2, -(2**32) + 2])
def test_ids_are_checked_before_they_are_cast(bad):
    ids = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "vocab_size": 50}
    with pytest.raises(ValueError, match=f"TranslationExamples: got source id {bad} in row 1"):
        data.TranslationExamples([[3, 2], [bad, 2]], [[4], [5]], **ids)
    with pytest.raises(ValueError, match="got target id of float64; wanted integers"):
        data.TranslationExamples([[3, 2]], [[4.5]], **ids)

    class Wide(data.ByteTokenizer):
        def encode_batch(self, texts):
            return [np.array([bad]) for text in texts]

    with pytest.raises(ValueError, match=f"PackedSequences: got token id {bad} in row 0"):
        data.language_model_examples(["a"], Wide(), 8)


def test_a_target_without_ids():
    examples = data.TranslationExamples([[3, 2]], [[]], pad_id=0, bos_id=1, eos_id=2, vocab_size=50)
    batch = examples.take(np.array([0]), (3, 2))
    assert batch["source"].tolist() == [[3, 2, 0]] and batch["labels"].tolist() == [[2, 0]]


def test_a_tokenizer_without_bos_is_logged(caplog):
    without_bos = data.ByteTokenizer()
    without_bos.bos_id = None
    assert data.language_model_examples(["ab"], TOKENIZER, 8).n_targets == 3 and not caplog.text
    assert data.language_model_examples(["ab"], without_bos, 8).n_targets == 2
    assert "first token of each of 1 texts is never predicted" in caplog.text
