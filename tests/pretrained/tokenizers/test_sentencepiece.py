"""SentencePiece models: parsing, conversion, and the ids of sentencepiece and transformers."""

import json
import struct
import sys

import hypothesis
import hypothesis.strategies as st
import pytest

from tests.pretrained.tokenizers.spm import PIECES, charsmap, field, message, model, tree
from tfm_jax.pretrained.tokenizers.read import read_tokenizer
from tfm_jax.pretrained.tokenizers.sentencepiece import parse_model, read_sentencepiece

CHARSMAP = charsmap({"Ａ": "a", "ﬁ": "b"})


def test_parsed_fields(tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(model())
    parsed = parse_model(path)
    assert parsed.pieces == [(piece, float(score)) for piece, score, _ in PIECES]
    assert parsed.types == [type_ for *_, type_ in PIECES] and parsed.path == path
    assert parsed[3:] == (True, 0, False, b"", True, True)
    normalizer = [(2, CHARSMAP), (3, 0), (4, 0)]
    path.write_bytes(model(kind=2, trainer=[(40, 5), (35, 1)], normalizer=normalizer))
    assert parse_model(path)[3:] == (False, 5, True, CHARSMAP, False, False)
    # The last value of a field counts; absent fields have their defaults.
    path.write_bytes(field(1, field(1, b"a")) + field(2, field(40, 7)) + field(2, field(40, 0)))
    assert parse_model(path)[1:5] == ([("a", 0.0)], [1], True, 0)


def double(value):
    return b"\x11" + struct.pack("<d", value)  # of field 2


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "a model without pieces"),
        (model()[:-3], "a damaged or truncated file"),
        (model()[:20], "a damaged or truncated file"),
        (b"\xff" * 20, "a damaged or truncated file"),
        (field(1, b""), "an empty piece"),
        (field(1, 3), "an invalid value of ModelProto.pieces"),
        (field(1, field(1, b"\xff")), "pieces that are not UTF-8"),
        (field(1, field(1, 3)), "an invalid value of SentencePiece.piece"),
        (field(1, field(1, b"a") + double(1.0)), "an invalid value of SentencePiece.score"),
        (field(1, field(1, b"a") + field(2, float("nan"))), "scores that are not finite"),
        (field(1, field(1, b"a") + field(2, float("-inf"))), "scores that are not finite"),
        (field(1, field(1, b"a") + field(3, 7)), "an invalid value of SentencePiece.type: 7"),
        (model([*PIECES, PIECES[4]]), r"duplicate pieces \['b'\]"),
        (model(kind=3), r"model type 3 \(words or characters\)"),
        (model() + field(2, 5), "an invalid value of ModelProto.trainer_spec"),
        (model() + field(3, 5), "an invalid value of ModelProto.normalizer_spec"),
        (model(kind=b"\1"), "an invalid value of TrainerSpec.model_type"),
        (model(trainer=[(40, 9)]), "unk_id 9 with 9 pieces"),
        (model(trainer=[(40, (1 << 64) - 1)]), "unk_id -1 with 9 pieces"),
        (model(normalizer=[(2, 7)]), "an invalid value of NormalizerSpec.precompiled_charsmap"),
        (model(normalizer=[(2, b"\1")]), "a charsmap of 1 bytes"),
    ],
)
@pytest.mark.parametrize("name", ["spiece.model", "x.spm"])
def test_invalid_models(tmp_path, name, data, error):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}: got {error}.*; wanted a SentencePiece model"):
        parse_model(tmp_path / name)


def ids(directory, kind, text, **config):
    return read_sentencepiece(directory, kind, config).encode(text).ids


def test_t5(tmp_path):
    (tmp_path / "spiece.model").write_bytes(model([*PIECES, ("<pad>", 0, 3)]))
    tokenizer = read_sentencepiece(tmp_path, "T5", {"extra_ids": 3})
    # The likeliest pieces: ▁ab (-1.5), then bb; EOS; one unknown token for a run of unknown letters.
    assert tokenizer.encode("  abbb  a").ids == [7, 8, 3, 2]
    assert tokenizer.encode("a xyz").ids == [3, 5, 0, 2]
    assert [tokenizer.token_to_id(f"<extra_id_{i}>") for i in range(3)] == [12, 11, 10]
    assert tokenizer.encode("a <extra_id_0>").ids == [3, 12, 2]
    assert tokenizer.decode([7, 8, 3, 2]) == "abbb a"
    assert tokenizer.encode("a", "b").ids == [3, 2, 5, 4, 2]


def test_mbart(tmp_path):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model())
    n = 4 + len(PIECES) - 3
    assert ids(tmp_path, "MBart", "abbb a") == [8, 9, 4, 2, n + 3]
    assert ids(tmp_path, "MBart", "a", src_lang="ro_RO") == [4, 2, n + 19]
    assert ids(tmp_path, "MBart50", "a", src_lang="sl_SI") == [n + 51, 4, 2]
    assert read_sentencepiece(tmp_path, "MBart50", {}).token_to_id("<mask>") == n + 52
    with pytest.raises(ValueError, match="got src_lang='xx'; wanted one of ar_AR"):
        ids(tmp_path, "MBart", "a", src_lang="xx")


def test_marian(tmp_path):
    (tmp_path / "source.spm").write_bytes(model())
    vocabulary = {
        "</s>": 0,
        "▁a": 1,
        "<unk>": 2,
        "z": 3,
        "bb": 4,
        "▁ab": 5,
        "▁z": 6,
        ">>fr<<": 7,
        "<pad>": 8,
        "▁": 9,
    }
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = read_sentencepiece(tmp_path, "Marian", {})
    assert tokenizer.encode("abbb a").ids == [5, 4, 1, 0]
    assert tokenizer.encode(">>fr<< abbb").ids == [7, 5, 4, 0]
    # Pieces of the target language alone are decoded, never encoded.
    assert tokenizer.encode("z").ids == [9, 2, 0] and tokenizer.decode([6, 3, 1, 0]) == "zz a"


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"▁a": 0, "<unk>": 1}, r"vocab\.json: got no </s>, <pad>"),
        ({"▁a": 0, "<unk>": 2}, r"vocab\.json: got ids with gaps"),
        ({"▁a": 0, "<unk>": 0}, r"vocab\.json: got ids with gaps"),
        ({"▁a": 0, "<unk>": "1"}, r"vocab\.json: got ids {'<unk>': '1'}; wanted integers"),
        ({"▁a": False, "<unk>": 1.0}, r"vocab\.json: got ids .*; wanted integers"),
        ({"▁a": [0]}, r"vocab\.json: got ids .*; wanted integers"),
        (["▁a", "<unk>"], r"vocab\.json: got JSON of type list; wanted a JSON object"),
        (
            {"</s>": 0, "<unk>": 1, "<pad>": 2, "x": 3},
            r"vocab\.json: got none of the pieces of .*source\.spm",
        ),
        ({}, r"vocab\.json: got no </s>, <unk>, <pad>"),
    ],
)
def test_marian_vocabulary_of_another_model(tmp_path, vocabulary, message):
    (tmp_path / "source.spm").write_bytes(model())
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError, match=message):
        read_sentencepiece(tmp_path, "Marian", {})


@pytest.mark.parametrize("pieces", [PIECES[:1], PIECES[:2], PIECES[3:], [PIECES[1], PIECES[0], *PIECES[2:]]])
@pytest.mark.parametrize("kind", ["MBart", "MBart50"])
def test_mbart_without_the_pieces_that_it_replaces(tmp_path, kind, pieces):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model(pieces))
    with pytest.raises(
        ValueError, match=r"sentencepiece\.bpe\.model: got first pieces \[.*\]; wanted an unknown"
    ):
        read_sentencepiece(tmp_path, kind, {})


def test_llama(tmp_path):
    bytes_ = [(f"<0x{i:02X}>", 0, 6) for i in range(256)]
    pieces = [
        *PIECES[:3],
        *bytes_,
        ("▁ab", -1, 1),
        ("▁a", -2, 1),
        ("bb", -3, 1),
        ("▁", -9, 1),
        ("a", -9, 1),
        ("b", -9, 1),
        ("<X>", 0, 4),
        ("▁▁", -9, 1),
    ]
    (tmp_path / "tokenizer.model").write_bytes(model(pieces, kind=2, trainer=[(35, 1)]))
    at = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    tokenizer = read_sentencepiece(tmp_path, "Llama", {})
    assert tokenizer.encode("abbb").ids == [1, at["▁ab"], at["bb"]]
    assert tokenizer.encode("aé").ids == [1, at["▁a"], at["<0xC3>"], at["<0xA9>"]]
    # User-defined pieces are not split; a space is added only before the text, if it has none.
    assert tokenizer.encode("ab<X>ab").tokens == ["<s>", "▁ab", "<X>", "a", "b"]
    assert tokenizer.encode("ab</s>ab").tokens == ["<s>", "▁ab", "</s>", "a", "b"]
    assert tokenizer.encode("ab<X> ab").tokens == ["<s>", "▁ab", "<X>", "▁ab"]
    assert tokenizer.encode("<X>a").tokens == ["<s>", "<X>", "a"]
    assert tokenizer.encode(" ab").tokens == tokenizer.encode("ab").tokens == ["<s>", "▁ab"]
    assert tokenizer.encode("  ab  ").tokens == ["<s>", "▁", "▁ab", "▁▁"]
    assert tokenizer.decode(tokenizer.encode("abbb é").ids) == "abbb é"
    legacy = read_sentencepiece(tmp_path, "Llama", {"legacy": True})
    assert legacy.encode("ab<X>ab").tokens == ["<s>", "▁ab", "<X>", "▁ab"]
    bare = read_sentencepiece(tmp_path, "Llama", {"add_prefix_space": False})
    assert bare.encode("ab ab").tokens == ["<s>", "a", "b", "▁ab"]
    assert bare.decode(bare.encode(" ab").ids) == " ab"
    assert ids(tmp_path, "Llama", "a", add_bos_token=False, add_eos_token=True) == [at["▁a"], 2]


def test_the_class_comes_from_the_config_files(tmp_path):
    (tmp_path / "spiece.model").write_bytes(model([*PIECES, ("<pad>", 0, 3)]))
    with pytest.raises(
        ValueError, match=r"tokenizer class None; wanted one of Llama, .*tokenizer=False, or tfm convert --no"
    ):
        read_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert read_tokenizer(tmp_path).encode("a").ids == [3, 2]
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "MBartTokenizerFast"}')
    assert read_tokenizer(tmp_path).encode("a").ids == ids(tmp_path, "MBart", "a") != [3, 2]
    with pytest.raises(ValueError, match=r"spiece\.model: got a Unigram model; wanted BPE"):
        ids(tmp_path, "Llama", "a")
    (tmp_path / "spiece.model").write_bytes(model(kind=2))
    with pytest.raises(ValueError, match=r"spiece\.model: got a BPE model; wanted Unigram"):
        ids(tmp_path, "T5", "a")


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "spiece.model").write_bytes(model())
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"spiece\.model: .* pip install 'tfm_jax\[sentencepiece\]'"):
        read_sentencepiece(tmp_path, "T5", {})


def test_unknown_fields_of_a_newer_version_are_ignored(tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(model(trainer=[(199, 5)]) + field(199, b"x"))
    assert len(parse_model(path).pieces) == len(PIECES)


FILES = {"T5": "spiece.model", "Marian": "source.spm", "Llama": "tokenizer.model"}
FILES |= dict.fromkeys(["MBart", "MBart50"], "sentencepiece.bpe.model")
CONFIG = {"extra_ids": 2}


def valid_model(kind):
    pieces = [*PIECES, ("<pad>", 0, 3), ("<X>", 0, 4), ("<0x41>", 0, 6), ("c", -4, 5)]
    trainer, normalizer = [(35, 1), (40, 0)], [(2, CHARSMAP), (3, 1), (4, 1)]
    return tree(pieces, 2 if kind == "Llama" else 1, trainer, normalizer)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("mutated")
    vocabulary = ["</s>", "<unk>", *(piece for piece, *_ in PIECES[3:]), "<pad>"]
    (path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
    return path


def is_valid(directory, kind, data):
    """Whether the bytes are read as a tokenizer, which must then work; else the error must name the file."""
    path = directory / FILES[kind]
    path.write_bytes(data)
    try:
        tokenizer = read_sentencepiece(directory, kind, CONFIG)
    except ValueError as error:
        assert str(path) in str(error)
        return False
    finally:
        path.unlink()
    tokenizer.decode(tokenizer.encode("Ａ ﬁ  abba<X>é\0 z").ids)
    return True


@st.composite
def edits(draw, data):
    """Bytes with some replaced, deleted or inserted, at offsets of nonzero bytes."""
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
    """Fields with one, at any depth, of another value or number, or duplicated or deleted."""
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
def test_any_bytes_are_a_tokenizer_or_an_error_with_the_file_name(directory, kind, data):
    pairs = valid_model(kind)
    is_valid(directory, kind, data.draw(edits(message(pairs)) | retyped(pairs).map(message)))


@pytest.mark.parametrize("kind", FILES)
def test_the_fuzzed_model_is_valid(directory, kind):
    assert is_valid(directory, kind, message(valid_model(kind)))
    assert not is_valid(directory, kind, message(valid_model(kind))[:-1])


CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "a quick cat, and 3 dogs!",
    "dogs and foxes: two of each?",
] * 20
TEXTS = [
    "the quick dog",
    "a fox  jumps",
    " Über the dog ",
    "12 dogs, 3 cats\tand",
    "日本 the ｆｏｘ",
    "",
    "quick-brown",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Tiny models, trained by sentencepiece."""
    library = pytest.importorskip("sentencepiece")
    directory = tmp_path_factory.mktemp("trained")
    common = {"sentence_iterator": iter(CORPUS), "minloglevel": 2, "vocab_size": 40}

    def train(name, **options):
        prefix = directory / name
        options = common | {"sentence_iterator": iter(CORPUS)} | options
        library.SentencePieceTrainer.train(model_prefix=str(prefix), **options)
        return prefix.with_suffix(".model").read_bytes()

    pads = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    llama = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    llama |= {"remove_extra_whitespaces": False, "vocab_size": 310}
    trained_models = {"t5": train("t5", **pads), "plain": train("plain"), "llama": train("llama", **llama)}
    llama |= {"user_defined_symbols": ["<X>", "o over", "<XX>"], "control_symbols": ["<ctl>"]}
    # With a normalizer, which transformers ignores.
    llama |= {"remove_extra_whitespaces": True, "normalization_rule_name": "nmt_nfkc", "vocab_size": 315}
    return trained_models | {"user": train("user", **llama)}


NAMES = {"T5": ("t5", "spiece.model"), "MBart": ("plain", "sentencepiece.bpe.model")}
NAMES |= {"MBart50": ("plain", "sentencepiece.bpe.model"), "Llama": ("llama", "tokenizer.model")}


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["T5", "Llama"])  # transformers 5 has no normalizer for mBART
def test_pieces_match_sentencepiece(trained, kind, tmp_path):
    library = pytest.importorskip("sentencepiece")
    which, name = NAMES[kind]
    (tmp_path / name).write_bytes(trained[which])
    reference = library.SentencePieceProcessor(model_proto=trained[which])
    loaded = read_sentencepiece(tmp_path, kind, {})
    for text in TEXTS:
        if kind == "Llama":
            text = text.lstrip()  # transformers 5 adds no space before a text that starts with one
        wanted = reference.encode(text, out_type=str)
        got = loaded.encode(text, add_special_tokens=False).tokens
        got, wanted = (
            [x if reference.piece_to_id(x) != reference.unk_id() else "?" for x in pieces]
            for pieces in (got, wanted)
        )
        assert got == wanted, text


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("kind", [*NAMES, "Marian"])
def test_ids_match_transformers(trained, kind, tmp_path):
    pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    transformers = pytest.importorskip("transformers")
    if kind == "Marian":
        for name in ("source.spm", "target.spm"):
            (tmp_path / name).write_bytes(trained["plain"])
        library = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=trained["plain"])
        pieces = [library.id_to_piece(i) for i in reversed(range(3, library.get_piece_size()))]
        vocabulary = {piece: i for i, piece in enumerate(["</s>", "<unk>", *pieces, ">>fr<<", "<pad>"])}
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    else:
        which, name = NAMES[kind]
        (tmp_path / name).write_bytes(trained[which])
    config = {"tokenizer_class": f"{kind}Tokenizer"} | ({"add_bos_token": True} if kind == "Llama" else {})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    reference = getattr(transformers, f"{kind}Tokenizer").from_pretrained(tmp_path)
    loaded = read_tokenizer(tmp_path)
    texts = [text for text in TEXTS if kind != "Llama" or not text.startswith(" ")]
    for text in [*texts, "the quick dog", "日本 the dog", "quick-brown"]:
        assert loaded.encode(text).ids == reference(text)["input_ids"], text


INSIDE = [
    *(
        *TEXTS,
        "the<X>quick",
        "the <X> quick",
        "<X>dog",
        " <X>dog",
        "<X><XX>dog",
        "<XX>",
        "jumpso overthe",
        " ",
    ),
    *("the</s>dog", "the </s> dog", "<s>dog", "  <s>  dog", "a<unk>b", "the<ctl>dog", "▁the▁dog", "\n dog\n"),
]


@pytest.mark.parity
@pytest.mark.parametrize(
    "config", [{}, {"legacy": True}, {"add_prefix_space": False}, {"legacy": False}], ids=str
)
def test_spaces_around_user_defined_pieces(trained, config, tmp_path):
    pytest.importorskip("google.protobuf")
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer.model").write_bytes(trained["user"])
    config = config | {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    reference, loaded = transformers.LlamaTokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path)
    for text in INSIDE:
        wanted = reference(text)["input_ids"]
        assert loaded.encode(text).ids == wanted, text
        for written in (wanted, wanted[1:]):
            assert loaded.decode(written, skip_special_tokens=False) == reference.decode(written), text
