import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data

TOKENIZER = data.ByteTokenizer()
TEXTS = st.text(min_size=1, max_size=9).filter(str.strip)
SOURCES, TARGETS = ["one", "", "three", "x" * 30, "zwei"], ["1", "2", " ", "4", "2" * 7]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_translation_batches_hold_the_texts(pairs):
    sources, targets = zip(*pairs, strict=True)
    rows = data.translation_examples(sources, targets, TOKENIZER)
    batch = rows.take(np.arange(len(rows)), (64, 40))
    assert {name: array.shape for name, array in batch.items()} == {
        "source": (len(pairs), 64),
        "target_in": (len(pairs), 40),
        "target_out": (len(pairs), 40),
    }
    assert {array.dtype for array in batch.values()} == {np.dtype("int32")}
    for b, (source, target) in enumerate(pairs):
        ids, n = TOKENIZER.encode(target), len(TOKENIZER.encode(target)) + 1
        s = [*TOKENIZER.encode(source), 2]
        assert batch["source"][b].tolist() == s + [0] * (64 - len(s))
        assert batch["target_in"][b].tolist() == [1, *ids] + [0] * (40 - n)
        assert batch["target_out"][b].tolist() == [*ids, 2] + [0] * (40 - n)
        assert rows.lengths[b].tolist() == [len(s), n]
    tight = rows.take(np.arange(len(rows)))
    assert tight["source"].shape[1], tight["target_in"].shape[1] == tuple(rows.lengths.max(0))


def test_rows_that_are_empty_or_too_long_are_counted_and_told(caplog):
    rows = data.translation_examples(SOURCES, TARGETS, TOKENIZER, max_length=8)
    assert rows.kept.tolist() == [0, 4] and rows.dropped == {"empty": 2, "too_long": 1}
    assert "left out 3 of 5 rows" in caplog.text
    assert TOKENIZER.decode(rows.take(np.array([1]))["source"][0]) == "zwei"
    assert len(data.translation_examples(SOURCES, TARGETS, TOKENIZER, max_length=7)) == 1, (
        "7 digits and an end token"
    )
    assert len(data.translation_examples(SOURCES, TARGETS, TOKENIZER)) == 3


def test_translation_batches_through_buckets_and_loader():
    sources, targets = [str(10**n) for n in range(12)], ["y" * n for n in range(12, 0, -1)]
    rows = data.translation_examples(sources, targets, TOKENIZER)
    shapes = data.choose_buckets(rows.lengths, 3, multiple_of=4)
    batches = data.BucketBatchSampler(rows.lengths, shapes, 4)
    seen = {}
    for batch in data.Loader(rows, batches):
        assert (batch["source"].shape[1], batch["target_out"].shape[1]) in shapes
        assert (batch["target_out"][batch["index"] < 0] == 0).all()
        seen |= {
            int(r): TOKENIZER.decode(t)
            for r, t in zip(batch["index"], batch["target_out"], strict=True)
            if r >= 0
        }
    assert [seen[row] for row in range(12)] == targets


def test_translation_errors():
    with pytest.raises(ValueError, match=r"none of the 1 rows is left: \{'empty': 1"):
        data.translation_examples([""], ["a"], TOKENIZER)
    with pytest.raises(ValueError, match="none of the 0 rows"):
        data.translation_examples([], [], TOKENIZER)
    with pytest.raises(ValueError, match="2 sources but 1 targets"):
        data.translation_examples(["a", "b"], ["a"], TOKENIZER)
    with pytest.raises(ValueError, match="row 1: source id 125 is out of range: wanted 0 <= source id < 120"):
        data.translation_examples(["a", "z"], ["a", "a"], TOKENIZER, vocab_size=120)
    with pytest.raises(ValueError, match="do not fit shape"):
        data.translation_examples(["abcdef"], ["a"], TOKENIZER).take(np.array([0]), (4, 4))

    class Other(data.ByteTokenizer):
        pad_id, bos_id = 1, None

    with pytest.raises(ValueError, match="this tokenizer has pad_id 1, bos_id None, eos_id 2"):
        data.translation_examples(["a"], ["a"], Other())


@given(st.lists(st.text(max_size=20), min_size=1, max_size=6), st.sampled_from([3, 8]))
def test_language_model_rows_predict_every_byte_once(texts, length):
    if not any(texts):
        with pytest.raises(ValueError, match="two tokens or more"):
            data.language_model_examples(texts, TOKENIZER, length)
        return
    rows = data.language_model_examples(texts, TOKENIZER, length)
    batch = rows.take(np.arange(len(rows)))
    labels = batch["labels"][batch["weights"] > 0]
    wanted = sorted(i for text in texts if text for i in [*TOKENIZER.encode(text), 2])
    assert sorted(labels.tolist()) == wanted
    assert (batch["tokens"] == 1).sum() == sum(map(bool, texts))
    overlapping = data.language_model_examples(texts, TOKENIZER, length, overlap=2)
    assert overlapping.n_targets == rows.n_targets and len(overlapping) >= len(rows)


def test_empty_texts_are_counted_and_told(caplog):
    rows = data.language_model_examples(["ab", "", "c"], TOKENIZER, 8)
    assert rows.dropped == {"empty": 1} and "left out 1 of 3 rows" in caplog.text


def test_the_models_vocabulary_is_checked():
    with pytest.raises(ValueError, match="row 1: token id 125 is out of range"):
        data.language_model_examples(["a", "az"], TOKENIZER, 8, vocab_size=120)


def test_a_bad_id_is_named_by_the_row_of_the_texts():
    with pytest.raises(ValueError, match="row 2: source id 125 is out of range"):
        data.translation_examples(["", "a", "z"], ["a", "a", "a"], TOKENIZER, vocab_size=120)
    with pytest.raises(ValueError, match="row 3: target id 125 is out of range"):
        data.translation_examples(["a"] * 4, ["", "a" * 9, "a", "z"], TOKENIZER, vocab_size=120, max_length=5)


@pytest.mark.parametrize("bad", [2**32 + 2, -(2**32) + 2])
def test_ids_are_checked_before_they_are_cast(bad):
    ids = {"bos_id": 1, "eos_id": 2, "vocab_size": 50}
    with pytest.raises(ValueError, match=f"row 1: source id {bad} is out of range"):
        data.TranslationExamples([[3, 2], [bad, 2]], [[4], [5]], **ids)
    with pytest.raises(ValueError, match="wanted integers as target id, got float64"):
        data.TranslationExamples([[3, 2]], [[4.5]], **ids)

    class Wide(data.ByteTokenizer):
        def encode_batch(self, texts):
            return [np.array([bad]) for text in texts]

    with pytest.raises(ValueError, match=f"row 0: token id {bad} is out of range"):
        data.language_model_examples(["a"], Wide(), 8)


def test_a_side_of_no_ids():
    rows = data.TranslationExamples([[3, 2]], [[]], bos_id=1, eos_id=2, vocab_size=50)
    batch = rows.take(np.array([0]), (3, 2))
    assert batch["source"].tolist() == [[3, 2, 0]] and batch["target_out"].tolist() == [[2, 0]]


def test_a_tokenizer_without_a_begin_token_is_told(caplog):
    class Endless(data.ByteTokenizer):
        bos_id = None

    assert data.language_model_examples(["ab"], TOKENIZER, 8).n_targets == 3 and not caplog.text
    assert data.language_model_examples(["ab"], Endless(), 8).n_targets == 2
    assert "first token of each of 1 texts is never predicted" in caplog.text
