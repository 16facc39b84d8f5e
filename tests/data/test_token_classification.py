import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data
from tfm_jax.data.token_classification import read_conll

BYTES = data.ByteTokenizer()


def parse_conll(*texts):
    return read_conll(datasets.Dataset.from_dict({"text": texts}), "x")


WORDS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=4)


def examples_of(words, tokenizer=BYTES, max_length=99, **options):
    labels = [np.arange(len(sentence)) % 3 for sentence in words]
    return data.token_classification_examples(
        words, labels, tokenizer, 3, max_length=max_length, **options
    ), labels


@given(words=st.lists(st.lists(WORDS, max_size=4), min_size=1, max_size=4))
def test_the_first_token_of_each_word_has_its_label_and_others_weight_zero(words):
    examples, labels = examples_of(words)
    batch = examples.take(np.arange(len(words)))
    assert {name: x.dtype for name, x in batch.items()} == {
        "tokens": np.int32, "valid": bool, "labels": np.int32, "weights": np.float32
    }  # fmt: skip
    for row, sentence in enumerate(words):
        text = " ".join(sentence).encode()
        assert batch["tokens"][row][batch["valid"][row]].tolist() == [1, *(byte + 3 for byte in text), 2]
        starts, offset = [], 1
        for word in sentence:
            starts.append(offset)
            offset += len(word.encode()) + 1
        assert np.flatnonzero(batch["weights"][row]).tolist() == starts
        assert batch["labels"][row, starts].tolist() == labels[row].tolist()
        assert batch["labels"][row].sum() == labels[row].sum()  # 0 elsewhere


def test_a_token_that_begins_with_a_space_belongs_to_its_word():
    tokenizer = data.train_bpe(["one two two two"] * 3, 280)
    (example,), _ = examples_of([["one", "two"]], tokenizer)[0].positions, None
    tokens = [tokenizer.backend.id_to_token(i) for i in examples_of([["one", "two"]], tokenizer)[0]._ids]
    assert tokens[example[1]] == "Ġtwo" and example[0] == 1


def test_words_that_are_cut_off_have_no_label(caplog):
    examples, _ = examples_of([["ab", "cd", "ef"], ["g"]], max_length=6)
    assert [found.tolist() for found in examples.positions] == [[1, 4, -1], [1]]
    assert "truncated 1 of 2 texts to max_length 6" in caplog.text
    assert "1 of 4 words have no token, or are cut off" in caplog.text
    batch = examples.take(np.array([0]))
    assert batch["weights"].sum() == 2
    assert examples_of([["ab"]], max_length=3)[0].lengths.tolist() == [[3]]
    with pytest.raises(ValueError, match=r"wanted at least 3.*--data.max-length"):
        examples_of([["ab"]], max_length=2)


def test_word_without_a_token_has_no_label():
    from tokenizers import normalizers

    tokenizer = data.char_tokenizer(["abc "])
    tokenizer.backend.normalizer = normalizers.Replace("b", "")
    assert examples_of([["a", "b", "c"]], tokenizer)[0].positions[0].tolist() == [1, -1, 4]


def test_other_labels_have_another_fingerprint():
    words = [["a", "b"]]
    one = data.token_classification_examples(words, [np.array([0, 1])], BYTES, 2, max_length=9)
    other = data.token_classification_examples(words, [np.array([1, 0])], BYTES, 2, max_length=9)
    assert one.fingerprint != other.fingerprint


def test_padding_examples_of_a_batch_have_weight_zero():
    examples, _ = examples_of([["a"], ["b", "c"], ["d"]])
    batches = list(data.Loader(examples, data.BucketBatchSampler(examples.lengths, [(6,)], 2)))
    assert sum(batch["weights"].sum() for batch in batches) == 4
    assert all(not batch["weights"][batch["index"] < 0].any() for batch in batches)


@pytest.mark.parametrize(
    ("positions", "labels", "message"),
    [
        ([[0, 1]], [[0]], "got 1 sequences with 2 words and 1 labels"),
        ([[0]], [[2]], "got label 2 in row 0"),
        ([[3]], [[0]], "got position 3 in row 0"),
    ],
)
def test_what_does_not_fit_raises(positions, labels, message):
    arrays = [[np.array(row) for row in rows] for rows in (positions, labels)]
    with pytest.raises(ValueError, match=f"TokenClassificationExamples: {message}"):
        data.TokenClassificationExamples([[1, 2]], *arrays, 2, 9)
    examples, _ = examples_of([["abc"]])
    with pytest.raises(ValueError, match=r"got shape \(2,\) for lengths of up to 5"):
        examples.take(np.array([0]), (2,))


def test_sentences_are_lists_of_words_or_texts_with_spaces():
    table = datasets.Dataset.from_dict(
        {"a": [["New York", "x"], []], "b": ["one  two", "three"], "n": [1, 2]}
    )
    assert data.sentences(table, "a") == [["New York", "x"], []]
    assert data.sentences(table, "b") == [["one", "two"], ["three"]]
    with pytest.raises(ValueError, match="sentences: got 1 in row 0 of column 'n'; wanted words"):
        data.sentences(table, "n")


@pytest.mark.parametrize("separator", ["\t", " "])
def test_conll(separator):
    lines = ["-DOCSTART- -X- O", "", "EU X B-ORG", "rejects X O", "", "", "# X O", "Ann X B-PER", ""]
    found = parse_conll("\n".join(lines).replace(" ", separator))
    assert found[:] == {
        "tokens": [["EU", "rejects"], ["#", "Ann"]],
        "tags": [["B-ORG", "O"], ["O", "B-PER"]],
    }


def test_conll_with_comments_and_windows_line_ends():
    assert parse_conll("# a comment\r\na b\tO\r\n")[:] == {"tokens": [["a b"]], "tags": [["O"]]}


def test_conll_ends_lines_at_line_ends_and_words_at_spaces_alone():
    """A word of the web may have other characters that Python takes for line ends or spaces."""
    assert parse_conll("a\u2028b\tO\n\nc\x85\tX")[:]["tokens"] == [["a\u2028b"], ["c"]]
    assert parse_conll("10\xa0000 km  B\nb X O\n")[:] == {
        "tokens": [["10\xa0000", "b"]],
        "tags": [["B", "O"]],
    }


def test_comments_of_conll_have_another_number_of_fields():
    found = parse_conll("# sentence 12\na O\n# O\n#\n\n#tag X\n# two words more\nb O\n")
    assert found["tokens"] == [["a", "#"], ["#tag", "b"]] and found["tags"] == [["O", "O"], ["X", "O"]]
    assert parse_conll("#a O\n#b O")["tokens"] == [["#a", "#b"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tO\nb\n", "x, line 2: got 'b'; wanted a word and its tag"),
        ("New O\nNew York O\n", "line 2: got 'New York O'; wanted a word and its tag, 2 fields as in line 1"),
        ("# c d e\na X O\nb O", "line 3: got 'b O'; wanted a word and its tag, 3 fields as in line 2"),
        ("# text = a b\n1\ta\tDET\n2\tb\tX\n\n1-2\tam\t_\n", "x: got the number of a word .* as in CoNLL-U"),
        ("\n", "x: got no"),
    ],
)
def test_what_is_no_conll_raises(text, message):
    with pytest.raises(ValueError, match=message):
        parse_conll(text)


def test_conll_of_several_files_and_of_a_long_one(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.conll").write_text(f"{name} O")
    found = read_conll(data.load(str(tmp_path)), "x")
    assert found["tokens"] == [["a"], ["b"]]
    (tmp_path / "a.conll").write_text("a O\n" * 16_383 + "c O")  # almost as long as the longest row
    assert read_conll(data.load(str(tmp_path)), "x")["tokens"][1:] == [["b"]]
    long = [f"word{i} X" for i in range(20_000)]  # one sentence, in several rows of the data set
    (tmp_path / "long.txt").write_text("\n".join(long) + "\n")
    rows = data.load(str(tmp_path / "long.txt"))
    (words,) = read_conll(rows, "x")["tokens"]
    assert len(rows) > 2 and len(words) == 20_000
