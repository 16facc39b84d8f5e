import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from tfm_jax import data

CORPUS = [
    "the cat sat on the mat",
    "a dog, a cat: <pad> <eos>",
    "2003年3月2日\n\tdéjà vu",
    "the the the cat cat",
]
BYTES, CHARS, BPE = data.ByteTokenizer(), data.char_tokenizer(CORPUS), data.train_bpe(CORPUS, 300)
ALL = pytest.mark.parametrize("tokenizer", [BYTES, CHARS, BPE], ids=["bytes", "chars", "bpe"])
TRICKY = st.one_of(
    st.text(), st.sampled_from(["<pad>", " <eos> ", "e\u0301 é", "\r\n\x00", "𝔸 👩‍👩‍👧", "<unk><bos>"])
)


@ALL
def test_the_contract(tokenizer):
    assert isinstance(tokenizer, data.Tokenizer)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.unk_id in (3, None)
    for text, ids in zip(CORPUS, tokenizer.encode_batch(CORPUS), strict=True):
        assert ids.dtype == np.int32 and ids.tolist() == tokenizer.encode(text)
        assert ids.min() >= 3 and ids.max() < tokenizer.vocab_size


@given(TRICKY)
def test_bytes_and_bpe_return_any_text_exactly(text):
    for tokenizer in (BYTES, BPE):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not {0, 1, 2} & set(ids), "text made a special token"


@given(st.text(alphabet=sorted(set("".join(CORPUS)))))
def test_characters_return_text_of_known_characters_exactly(text):
    ids = CHARS.encode(text)
    assert CHARS.decode(ids) == text and len(ids) == len(text) and not {0, 1, 2, 3} & set(ids)


@given(st.text())
def test_the_byte_tokenizer_is_the_bytes(text):
    assert BYTES.encode(text) == [byte + 3 for byte in text.encode()]


def test_an_unknown_character_is_unknown_and_seen():
    assert CHARS.encode("cZt")[1] == CHARS.unk_id == 3
    assert CHARS.decode(CHARS.encode("cZt")) == "c<unk>t"


@ALL
def test_decoding_leaves_special_tokens_out_and_takes_arrays(tokenizer):
    ids = np.array([1, *tokenizer.encode("the cat"), 2, 0, 0])
    assert tokenizer.decode(ids) == "the cat"


@ALL
@pytest.mark.parametrize("bad", [-1, 100_000])
def test_decoding_an_id_out_of_range_is_an_error(tokenizer, bad):
    with pytest.raises(ValueError, match=f"token id {bad} is out of range"):
        tokenizer.decode([5, bad])


@ALL
def test_a_lone_surrogate_is_an_error(tokenizer):
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        tokenizer.encode("a\ud800")


@ALL
def test_saving_and_loading(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path / "checkpoint")
    assert path == tmp_path / "checkpoint" / "tokenizer.json"
    for place in (path, path.parent, str(path.parent)):
        loaded = data.load_tokenizer(place)
        assert type(loaded) is type(tokenizer)
        assert loaded.vocab_size == tokenizer.vocab_size and loaded.unk_id == tokenizer.unk_id
        for text in [*CORPUS, "<pad>unseen 猫"]:
            assert loaded.encode(text) == tokenizer.encode(text)
            assert loaded.decode(loaded.encode(text)) == tokenizer.decode(tokenizer.encode(text))


@given(st.text())
def test_the_saved_byte_tokenizer_is_the_same_for_other_libraries(text):
    from tfm_jax.data.tokenizers import _byte_backend

    backend = tokenizers.Tokenizer.from_str(_byte_backend().to_str())
    backend.encode_special_tokens = True
    assert backend.encode(text, add_special_tokens=False).ids == BYTES.encode(text)
    assert backend.decode(BYTES.encode(text)) == text


def test_bpe_learns_merges_and_is_deterministic():
    assert 259 < BPE.vocab_size <= 300
    assert len(BPE.encode("the cat")) < len(BYTES.encode("the cat"))
    assert data.train_bpe(CORPUS, 300).backend.to_str() == BPE.backend.to_str()


def test_composed_and_decomposed_accents_stay_different():
    for tokenizer in (BYTES, BPE):
        assert tokenizer.encode("é") != tokenizer.encode("e\u0301")


def foreign(names, **model):
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
def test_the_special_tokens_of_foreign_files_are_found(names, ids, tmp_path):
    unknown = next((name for name in names if "unk" in name.lower()), None)
    backend = foreign(names, **({"unk_token": unknown} if unknown else {}))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = data.load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == ids


def test_the_files_beside_a_foreign_tokenizer_name_its_tokens(tmp_path):
    foreign(["A", "B", "C", "<pad>"]).save(str(tmp_path / "tokenizer.json"))
    config = {"pad_token": "A", "bos_token": {"content": "B"}, "eos_token": None, "sep_token": "C"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = data.load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.decode([1, 5, 2, 0]) == "dog"
    assert data.load_tokenizer(tmp_path, pad="cat").pad_id == 4


def test_truncation_and_padding_of_a_foreign_file_are_switched_off(tmp_path):
    backend = foreign(["[PAD]"])
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.enable_truncation(2)
    backend.enable_padding(length=5)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert data.load_tokenizer(tmp_path).encode("cat dog cat") == [1, 2, 1]


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*nowhere"):
        data.load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        data.load_tokenizer(tmp_path)
    foreign(["[PAD]"]).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="the bos token '<start>' is not in the tokenizer's vocabulary of 3"):
        data.load_tokenizer(tmp_path, bos="<start>")
    with pytest.raises(ValueError, match="vocab_size 100 is too small"):
        data.train_bpe(CORPUS, 100)
    with pytest.raises(ValueError, match="no text"):
        data.char_tokenizer(["", ""])
