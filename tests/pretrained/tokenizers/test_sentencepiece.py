"""Models of sentencepiece, read without it: the ids that it and transformers give."""

import json

import pytest

from tests.pretrained.tokenizers.spm import PIECES, model
from tfm_jax.pretrained.tokenizers.read import read_tokenizer
from tfm_jax.pretrained.tokenizers.sentencepiece import sentence_pieces


def ids(directory, kind, text, **said):
    return sentence_pieces(directory, kind, said).encode(text).ids


def test_t5(tmp_path):
    (tmp_path / "spiece.model").write_bytes(model([*PIECES, ("<pad>", 0, 3)]))
    found = sentence_pieces(tmp_path, "T5", {"extra_ids": 3})
    # The likeliest pieces: ▁ab (-1.5), then bb; the end; an unknown letter once, however long.
    assert found.encode("  abbb  a").ids == [7, 8, 3, 2]
    assert found.encode("a xyz").ids == [3, 5, 0, 2]
    assert [found.token_to_id(f"<extra_id_{i}>") for i in range(3)] == [12, 11, 10]
    assert found.encode("a <extra_id_0>").ids == [3, 12, 2]
    assert found.decode([7, 8, 3, 2]) == "abbb a"
    assert found.encode("a", "b").ids == [3, 2, 5, 4, 2]


def test_mbart(tmp_path):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model())
    n = 4 + len(PIECES) - 3
    assert ids(tmp_path, "MBart", "abbb a") == [8, 9, 4, 2, n + 3]
    assert ids(tmp_path, "MBart", "a", src_lang="ro_RO") == [4, 2, n + 19]
    assert ids(tmp_path, "MBart50", "a", src_lang="sl_SI") == [n + 51, 4, 2]
    assert sentence_pieces(tmp_path, "MBart50", {}).token_to_id("<mask>") == n + 52
    with pytest.raises(ValueError, match="src_lang='xx' is not one of ar_AR"):
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
    found = sentence_pieces(tmp_path, "Marian", {})
    assert found.encode("abbb a").ids == [5, 4, 1, 0]
    assert found.encode(">>fr<< abbb").ids == [7, 5, 4, 0]
    # What only the target's language has is written, never read.
    assert found.encode("z").ids == [9, 2, 0] and found.decode([6, 3, 1, 0]) == "zz a"


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"▁a": 0, "<unk>": 1}, r"vocab\.json has no </s>, <pad>"),
        ({"▁a": 0, "<unk>": 2}, r"vocab\.json has ids with gaps"),
        ({"▁a": 0, "<unk>": 0}, r"vocab\.json has ids with gaps"),
        ({"▁a": 0, "<unk>": "1"}, r"vocab\.json has ids that are no whole numbers: {'<unk>': '1'}"),
        ({"▁a": False, "<unk>": 1.0}, r"vocab\.json has ids that are no whole numbers"),
        ({"▁a": [0]}, r"vocab\.json has ids that are no whole numbers"),
        (["▁a", "<unk>"], r"vocab\.json: got JSON of type list; wanted a JSON object"),
        ({"</s>": 0, "<unk>": 1, "<pad>": 2, "x": 3}, r"vocab\.json has none of the pieces of .*source\.spm"),
        ({}, r"vocab\.json has no </s>, <unk>, <pad>"),
    ],
)
def test_a_vocabulary_that_is_not_of_the_model(tmp_path, vocabulary, message):
    (tmp_path / "source.spm").write_bytes(model())
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError, match=message):
        sentence_pieces(tmp_path, "Marian", {})


@pytest.mark.parametrize("pieces", [PIECES[:1], PIECES[:2], PIECES[3:], [PIECES[1], PIECES[0], *PIECES[2:]]])
@pytest.mark.parametrize("kind", ["MBart", "MBart50"])
def test_pieces_that_mbart_has_nothing_to_replace_in(tmp_path, kind, pieces):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model(pieces))
    with pytest.raises(ValueError, match=r"sentencepiece\.bpe\.model begins with \[.*\], wanted an unknown"):
        sentence_pieces(tmp_path, kind, {})


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
    found = sentence_pieces(tmp_path, "Llama", {})
    assert found.encode("abbb").ids == [1, at["▁ab"], at["bb"]]
    assert found.encode("aé").ids == [1, at["▁a"], at["<0xC3>"], at["<0xA9>"]]
    # Whole; a space is put before the text alone, and only where it has none.
    assert found.encode("ab<X>ab").tokens == ["<s>", "▁ab", "<X>", "a", "b"]
    assert found.encode("ab</s>ab").tokens == ["<s>", "▁ab", "</s>", "a", "b"]
    assert found.encode("ab<X> ab").tokens == ["<s>", "▁ab", "<X>", "▁ab"]
    assert found.encode("<X>a").tokens == ["<s>", "<X>", "a"]
    assert found.encode(" ab").tokens == found.encode("ab").tokens == ["<s>", "▁ab"]
    assert found.encode("  ab  ").tokens == ["<s>", "▁", "▁ab", "▁▁"]
    assert found.decode(found.encode("abbb é").ids) == "abbb é"
    legacy = sentence_pieces(tmp_path, "Llama", {"legacy": True})
    assert legacy.encode("ab<X>ab").tokens == ["<s>", "▁ab", "<X>", "▁ab"]
    bare = sentence_pieces(tmp_path, "Llama", {"add_prefix_space": False})
    assert bare.encode("ab ab").tokens == ["<s>", "a", "b", "▁ab"]
    assert bare.decode(bare.encode(" ab").ids) == " ab"
    assert ids(tmp_path, "Llama", "a", add_bos_token=False, add_eos_token=True) == [at["▁a"], 2]


def test_the_kind_is_that_of_the_files_beside(tmp_path):
    (tmp_path / "spiece.model").write_bytes(model([*PIECES, ("<pad>", 0, 3)]))
    with pytest.raises(
        ValueError, match=r"of class None; known are Llama, .*tokenizer=False or tfm convert --no"
    ):
        read_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert read_tokenizer(tmp_path).encode("a").ids == [3, 2]
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "MBartTokenizerFast"}')
    assert read_tokenizer(tmp_path).encode("a").ids == ids(tmp_path, "MBart", "a") != [3, 2]
    with pytest.raises(ValueError, match=r"spiece\.model is unigram, wanted BPE"):
        ids(tmp_path, "Llama", "a")
    (tmp_path / "spiece.model").write_bytes(model(kind=2))
    with pytest.raises(ValueError, match=r"spiece\.model is BPE, wanted unigram"):
        ids(tmp_path, "T5", "a")


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
    """A tiny model of each kind, by the library itself."""
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
    found = {"t5": train("t5", **pads), "plain": train("plain"), "llama": train("llama", **llama)}
    llama |= {"user_defined_symbols": ["<X>", "o over", "<XX>"], "control_symbols": ["<ctl>"]}
    # Its normalizer is one that transformers does not follow.
    llama |= {"remove_extra_whitespaces": True, "normalization_rule_name": "nmt_nfkc", "vocab_size": 315}
    return found | {"user": train("user", **llama)}


NAMES = {"T5": ("t5", "spiece.model"), "MBart": ("plain", "sentencepiece.bpe.model")}
NAMES |= {"MBart50": ("plain", "sentencepiece.bpe.model"), "Llama": ("llama", "tokenizer.model")}


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["T5", "Llama"])  # transformers 5 makes nothing alike for mBART
def test_the_pieces_are_those_of_the_library(trained, kind, tmp_path):
    library = pytest.importorskip("sentencepiece")
    which, name = NAMES[kind]
    (tmp_path / name).write_bytes(trained[which])
    theirs = library.SentencePieceProcessor(model_proto=trained[which])
    ours = sentence_pieces(tmp_path, kind, {})
    for text in TEXTS:
        if kind == "Llama":
            text = text.lstrip()  # transformers 5 puts a space only before one that has none
        wanted = theirs.encode(text, out_type=str)
        got = ours.encode(text, add_special_tokens=False).tokens
        known = lambda pieces: [x if theirs.piece_to_id(x) != theirs.unk_id() else "?" for x in pieces]
        assert known(got) == known(wanted), text


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("kind", [*NAMES, "Marian"])
def test_the_ids_are_those_of_transformers(trained, kind, tmp_path):
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
    said = {"tokenizer_class": f"{kind}Tokenizer"} | ({"add_bos_token": True} if kind == "Llama" else {})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    theirs = getattr(transformers, f"{kind}Tokenizer").from_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)
    texts = [text for text in TEXTS if kind != "Llama" or not text.startswith(" ")]
    for text in [*texts, "the quick dog", "日本 the dog", "quick-brown"]:
        assert ours.encode(text).ids == theirs(text)["input_ids"], text


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
    "said", [{}, {"legacy": True}, {"add_prefix_space": False}, {"legacy": False}], ids=str
)
def test_spaces_around_the_pieces_of_a_user(trained, said, tmp_path):
    pytest.importorskip("google.protobuf")
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer.model").write_bytes(trained["user"])
    said = said | {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    theirs, ours = transformers.LlamaTokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path)
    for text in INSIDE:
        wanted = theirs(text)["input_ids"]
        assert ours.encode(text).ids == wanted, text
        for written in (wanted, wanted[1:]):
            assert ours.decode(written, skip_special_tokens=False) == theirs.decode(written), text
