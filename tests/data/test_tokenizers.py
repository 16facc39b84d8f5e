import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from tfm_jax import data
from tfm_jax.data.tokenizers import with_special_tokens

CORPUS = [
    "the cat sat on the mat",
    "a dog, a cat: <pad> <eos>",
    "2003年3月2日\n\tdéjà vu",
    "the the the cat cat",
]
BYTES, CHARS, BPE = data.ByteTokenizer(), data.char_tokenizer(CORPUS), data.train_bpe(CORPUS, 300)
EACH = pytest.mark.parametrize("tokenizer", [BYTES, CHARS, BPE], ids=["bytes", "chars", "bpe"])
TRICKY = st.one_of(
    st.text(), st.sampled_from(["<pad>", " <eos> ", "e\u0301 é", "\r\n\x00", "𝔸 👩‍👩‍👧", "<unk><bos>"])
)


@EACH
def test_the_protocol(tokenizer):
    assert isinstance(tokenizer, data.Tokenizer)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.unk_id in (3, None)
    for text, ids in zip(CORPUS, tokenizer.encode_batch(CORPUS), strict=True):
        assert ids.dtype == np.int32 and ids.tolist() == tokenizer.encode(text)
        assert ids.min() >= 3 and ids.max() < tokenizer.vocab_size


@given(TRICKY)
def test_bytes_and_bpe_are_lossless(text):
    for tokenizer in (BYTES, BPE):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not {0, 1, 2} & set(ids), "text encoded to a special token"


@given(st.text(alphabet=sorted(set("".join(CORPUS)))))
def test_characters_are_lossless_for_known_characters(text):
    ids = CHARS.encode(text)
    assert CHARS.decode(ids) == text and len(ids) == len(text) and not {0, 1, 2, 3} & set(ids)


@given(st.text())
def test_byte_ids_are_the_bytes_and_those_of_the_backend(text):
    ids = [byte + 3 for byte in text.encode()]
    assert BYTES.encode(text) == ids
    assert BYTES.backend.encode(text, add_special_tokens=False).ids == ids


@given(st.lists(st.integers(0, 258), max_size=12))
def test_byte_ids_decode_as_python_decodes_bytes(ids):
    expected = bytes(i - 3 for i in ids if i >= 3).decode(errors="replace")
    assert BYTES.decode(ids) == expected


def test_an_unknown_character_is_the_unknown_token():
    assert CHARS.encode("cZt")[1] == CHARS.unk_id == 3
    assert CHARS.decode(CHARS.encode("cZt")) == "c<unk>t"


@EACH
def test_decoding_drops_special_tokens_and_takes_arrays(tokenizer):
    ids = np.array([1, *tokenizer.encode("the cat"), 2, 0, 0])
    assert tokenizer.decode(ids) == "the cat"


@EACH
@pytest.mark.parametrize("bad", [-1, 100_000])
def test_decoding_an_id_out_of_range_is_an_error(tokenizer, bad):
    with pytest.raises(ValueError, match=f"decode: got token id {bad}; wanted 0 to"):
        tokenizer.decode([5, bad])


@EACH
def test_a_lone_surrogate_is_an_error(tokenizer):
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        tokenizer.encode("a\ud800")


@EACH
def test_saving_and_loading(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path / "checkpoint")
    assert path == tmp_path / "checkpoint" / "tokenizer.json"
    for source in (path, path.parent, str(path.parent)):
        loaded = data.load_tokenizer(source)
        assert type(loaded) is type(tokenizer)
        assert loaded.vocab_size == tokenizer.vocab_size and loaded.unk_id == tokenizer.unk_id
        for text in [*CORPUS, "<pad>unseen 猫"]:
            assert loaded.encode(text) == tokenizer.encode(text)
            assert loaded.decode(loaded.encode(text)) == tokenizer.decode(tokenizer.encode(text))


@given(st.text())
def test_the_saved_byte_tokenizer_has_the_same_ids_in_other_libraries(text):
    from tfm_jax.data.tokenizers import _byte_level_json

    backend = tokenizers.Tokenizer.from_str(_byte_level_json())
    backend.encode_special_tokens = True
    assert backend.encode(text, add_special_tokens=False).ids == BYTES.encode(text)
    assert backend.decode(BYTES.encode(text)) == text


def test_the_byte_tokenizer_of_a_run_of_version_0_1_has_the_same_ids():
    run = Path(__file__).parents[1] / "fixtures" / "v0_1" / "language_model" / "run"
    tokenizer = data.load_tokenizer(run)
    assert isinstance(tokenizer, data.ByteTokenizer) and tokenizer.vocab_size == 259
    assert tokenizer.encode("ab é") == [100, 101, 35, 198, 172]
    assert json.loads((run / "tokenizer.json").read_text()) == json.loads(BYTES.backend.to_str())


def test_bpe_learns_merges_and_is_deterministic():
    assert 259 < BPE.vocab_size <= 300
    assert len(BPE.encode("the cat")) < len(BYTES.encode("the cat"))
    assert data.train_bpe(CORPUS, 300).backend.to_str() == BPE.backend.to_str()


def test_composed_and_decomposed_accents_are_different():
    for tokenizer in (BYTES, BPE):
        assert tokenizer.encode("é") != tokenizer.encode("e\u0301")


def word_level(names, **model):
    vocab = {name: i for i, name in enumerate([*names, "cat", "dog"])}
    return tokenizers.Tokenizer(models.WordLevel(vocab, **model))


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]"], (0, 2, 3, 1)),  # BERT
        (["<s>", "<pad>", "</s>", "<unk>"], (1, 0, 2, 3)),  # BART
        (["<|endoftext|>"], (None, 0, 0, None)),  # GPT-2
        ([], (None, None, None, None)),
    ],
)
def test_special_tokens_are_found_by_their_usual_names(names, ids, tmp_path):
    unknown = next((name for name in names if "unk" in name.lower()), None)
    backend = word_level(names, **({"unk_token": unknown} if unknown else {}))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = data.load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == ids


def test_special_tokens_are_those_that_files_beside_the_tokenizer_name(tmp_path):
    word_level(["A", "B", "C", "<pad>"]).save(str(tmp_path / "tokenizer.json"))
    config = {"pad_token": "A", "bos_token": {"content": "B"}, "eos_token": None, "sep_token": "C"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = data.load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.decode([1, 5, 2, 0]) == "dog"
    assert data.load_tokenizer(tmp_path, pad="cat").pad_id == 4


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path):
    backend = word_level(["[PAD]"])
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.enable_truncation(2)
    backend.enable_padding(length=5)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert data.load_tokenizer(tmp_path).encode("cat dog cat") == [1, 2, 1]


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"load_tokenizer: got .*nowhere.*, which does not exist"):
        data.load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: got .*; wanted a tokenizer\.json"):
        data.load_tokenizer(tmp_path)
    word_level(["[PAD]"]).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="load_tokenizer: got bos='<start>'; wanted one of the 3 tokens"):
        data.load_tokenizer(tmp_path, bos="<start>")
    with pytest.raises(ValueError, match="train_bpe: got vocab_size=100; wanted at least 259"):
        data.train_bpe(CORPUS, 100)
    with pytest.raises(ValueError, match="char_tokenizer: got no characters"):
        data.char_tokenizer(["", ""])


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_special_tokens_are_added_to_a_text_and_to_a_pair(kind):
    tokenizer = {
        "characters": lambda: data.char_tokenizer(["ab <eos>"]),
        "bytes": data.ByteTokenizer,
        "bpe": lambda: data.train_bpe(["ab ab ab"], 262),
    }[kind]()
    backend = with_special_tokens(tokenizer)
    first, second = tokenizer.encode("ab <eos>"), tokenizer.encode("b")
    assert backend.encode("ab <eos>").ids == [1, *first, 2]  # the text names no special token
    pair = backend.encode("ab <eos>", "b")
    assert pair.ids == [1, *first, 2, *second, 2]
    assert pair.type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert tokenizer.backend.post_processor is None  # a copy
    assert with_special_tokens(data.JsonTokenizer(backend)).encode("b").ids == [1, *second, 2]  # once


def test_tokenizer_without_eos_adds_bos_alone():
    tokenizer = data.char_tokenizer(["ab"])
    tokenizer.eos_id = None
    assert with_special_tokens(tokenizer).encode("a", "b").ids == [1, 4, 5]
    tokenizer.bos_id = None
    assert with_special_tokens(tokenizer).encode("a").ids == [4]
