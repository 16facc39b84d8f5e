"""What is in a model of sentencepiece; whatever bytes it has, one clear error or a tokenizer that works."""

import json
import struct

import hypothesis
import hypothesis.strategies as st
import pytest

from tests.pretrained.tokenizers.spm import PIECES, charsmap, field, message, model, tree
from tfm_jax.pretrained.tokenizers.sentencepiece import sentence_pieces
from tfm_jax.pretrained.tokenizers.sentencepiece_model import read_sentence_model

CHARSMAP = charsmap({"Ａ": "a", "ﬁ": "b"})


def test_what_is_in_it(tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(model())
    found = read_sentence_model(path)
    assert found.pieces == [(piece, float(score)) for piece, score, _ in PIECES]
    assert found.kinds == [kind for *_, kind in PIECES] and found.path == path
    assert found[3:] == (True, 0, False, b"", True, True)
    normalizer = [(2, CHARSMAP), (3, 0), (4, 0)]
    path.write_bytes(model(kind=2, trainer=[(40, 5), (35, 1)], normalizer=normalizer))
    assert read_sentence_model(path)[3:] == (False, 5, True, CHARSMAP, False, False)
    # The last one counts; what is not said has its default.
    path.write_bytes(field(1, field(1, b"a")) + field(2, field(40, 7)) + field(2, field(40, 0)))
    assert read_sentence_model(path)[1:5] == ([("a", 0.0)], [1], True, 0)


def double(value):
    return b"\x11" + struct.pack("<d", value)  # of field 2


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "it has no pieces"),
        (model()[:-3], "no whole message"),
        (model()[:20], "no whole message"),
        (b"\xff" * 20, "no whole message"),
        (field(1, b""), "it has an empty piece"),
        (field(1, 3), "field 1 has the wire type 0, wanted 2"),
        (field(1, field(1, b"\xff")), "invalid start byte"),
        (field(1, field(1, 3)), "field 1 has the wire type 0, wanted 2: str"),
        (field(1, field(1, b"a") + double(1.0)), "field 2 has the wire type 1, wanted 5: float"),
        (field(1, field(1, b"a") + field(2, float("nan"))), "scores that are no numbers"),
        (field(1, field(1, b"a") + field(2, float("-inf"))), "scores that are no numbers"),
        (field(1, field(1, b"a") + field(3, 7)), r"kinds that are not known: \[7\]"),
        (model([*PIECES, PIECES[4]]), r"it has pieces twice: \['b'\]"),
        (model(kind=3), "it is of kind 3, such as of words or characters"),
        (model() + field(2, 5), "field 2 has the wire type 0, wanted 2: bytes"),
        (model() + field(3, 5), "field 3 has the wire type 0, wanted 2: bytes"),
        (model(kind=b"\1"), "field 3 has the wire type 2, wanted 0: int"),
        (model(trainer=[(40, 9)]), "the id of what is unknown is 9, and it has 9 pieces"),
        (model(trainer=[(40, (1 << 64) - 1)]), "the id of what is unknown is 18446744073709551615"),
        (model(normalizer=[(2, 7)]), "field 2 has the wire type 0, wanted 2: bytes"),
        (model(normalizer=[(2, b"\1")]), "its charsmap of 1 bytes"),
    ],
)
@pytest.mark.parametrize("name", ["spiece.model", "x.spm"])
def test_what_is_no_model(tmp_path, name, data, error):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name} is no model of sentencepiece: .*{error}"):
        read_sentence_model(tmp_path / name)


FILES = {"T5": "spiece.model", "Marian": "source.spm", "Llama": "tokenizer.model"}
FILES |= dict.fromkeys(["MBart", "MBart50"], "sentencepiece.bpe.model")
SAID = {"extra_ids": 2}


def good(kind):
    pieces = [*PIECES, ("<pad>", 0, 3), ("<X>", 0, 4), ("<0x41>", 0, 6), ("c", -4, 5)]
    trainer, normalizer = [(35, 1), (40, 0)], [(2, CHARSMAP), (3, 1), (4, 1)]
    return tree(pieces, 2 if kind == "Llama" else 1, trainer, normalizer)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mutated")
    vocabulary = ["</s>", "<unk>", *(piece for piece, *_ in PIECES[3:]), "<pad>"]
    (directory / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
    return directory


def outcome(place, kind, data):
    """Whether the model's bytes give a tokenizer, which then works; else the error names the file."""
    path = place / FILES[kind]
    path.write_bytes(data)
    try:
        tokenizer = sentence_pieces(place, kind, SAID)
    except ValueError as error:
        assert str(path) in str(error)
        return False
    finally:
        path.unlink()
    tokenizer.decode(tokenizer.encode("Ａ ﬁ  abba<X>é\0 z").ids)
    return True


@st.composite
def edits(draw, data):
    """The bytes with some changed, cut out, put in, at places where they are not zero."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from([i for i, byte in enumerate(data) if byte] + [len(data)]))
        cut = draw(st.integers(0, 3) | st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + cut :]
    return data


VALUES = st.integers(0, 3) | st.sampled_from([1 << 31, 1 << 40, (1 << 64) - 1])
VALUES |= st.binary(max_size=3) | st.sampled_from([b"<s>", b"a", CHARSMAP[:-2], CHARSMAP[4:]])
VALUES |= st.sampled_from([0.0, float("nan"), float("inf"), -1e30])


@st.composite
def retyped(draw, pairs):
    """The fields with one that has another value or number, is there twice or not at all, at any depth."""
    number = draw(st.sampled_from(sorted({number for number, _ in pairs})))
    at = draw(st.sampled_from([i for i, pair in enumerate(pairs) if pair[0] == number]))
    value = pairs[at][1]
    how = draw(st.sampled_from(["value"] * 3 + ["number", "again", "none"]))
    if isinstance(value, (list, bytes)) and draw(st.integers(0, 3)):
        new = [(number, draw((retyped if isinstance(value, list) else edits)(value)))]
    elif how == "value":
        new = [(number, draw(VALUES))]
    elif how == "number":
        new = [(draw(st.sampled_from([0, 1, 2, 3, 40])), value)]
    else:
        new = [(number, value)] * (2 if how == "again" else 0)
    return pairs[:at] + new + pairs[at + 1 :]


@pytest.mark.parametrize("kind", FILES)
@hypothesis.settings(max_examples=300)
@hypothesis.given(data=st.data())
def test_any_bytes_give_a_tokenizer_or_an_error_that_names_the_file(place, kind, data):
    pairs = good(kind)
    outcome(place, kind, data.draw(edits(message(pairs)) | retyped(pairs).map(message)))


@pytest.mark.parametrize("kind", FILES)
def test_the_model_that_is_changed_is_a_good_one(place, kind):
    assert outcome(place, kind, message(good(kind)))
    assert not outcome(place, kind, message(good(kind))[:-1])
