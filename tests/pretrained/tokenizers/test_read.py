"""The tokenizer of a checkpoint."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tfm_jax.pretrained.tokenizers.read import read_tokenizer
from tfm_jax.pretrained.tokenizers.special_tokens import class_beside, read_tokenizer_config

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "é", "e"]


def test_a_tokenizer_json(tmp_path):
    tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(
        str(tmp_path / "tokenizer.json")
    )
    assert read_tokenizer(tmp_path).encode("b").ids == [1]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        read_tokenizer(tmp_path)


def test_word_pieces(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.encode("The cats é", "dog").tokens == [
        *("[CLS]", "the", "cat", "##s", "e", "[SEP]"),
        *("[UNK]", "[SEP]"),
    ]
    assert tokenizer.encode("The", "cat").type_ids == [0, 0, 0, 1, 1]
    assert tokenizer.decode(tokenizer.encode("the cats").ids) == "the cats"
    options = {"do_lower_case": False, "strip_accents": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    assert read_tokenizer(tmp_path).encode("The é").tokens == ["[CLS]", "[UNK]", "é", "[SEP]"]


def test_a_vocabulary_without_its_special_tokens(tmp_path):
    (tmp_path / "vocab.txt").write_text("the\ncat\n")
    with pytest.raises(ValueError, match=r"has no \[UNK\], \[CLS\]"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["BertJapaneseTokenizer", "BertweetTokenizer", "RobertaTokenizer"])
def test_words_of_a_class_that_cuts_them_otherwise(tmp_path, kind):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    message = f"vocab.txt is of a tokenizer of class {kind[:-9]}; known is Bert: name BertTokenizer"
    with pytest.raises(ValueError, match=message):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "DistilBertTokenizerFast"}')
    assert read_tokenizer(tmp_path).encode("the").ids == [2, 5, 3]


def test_nothing_is_no_tokenizer(tmp_path):
    assert read_tokenizer(tmp_path) is None


def test_special_tokens_are_texts_or_objects(tmp_path):
    words = ["<pad>", "[UNK]", "<begin>", "[SEP]", "[MASK]", "the"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": "<pad>", "cls_token": {"content": "<begin>", "lstrip": False}})
    )
    more = {"cls_token": "[CLS]"}  # transformers reads the older file last
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(more))
    assert read_tokenizer(tmp_path).encode("the").tokens == ["<begin>", "the", "[SEP]"]


def test_a_tokenizer_json_is_completed_as_its_class_does(tmp_path):
    plain = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<s>": 2}, unk_token="a"))
    plain.save(str(tmp_path / "tokenizer.json"))
    write = lambda said: (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert read_tokenizer(tmp_path).encode("a").ids == [0]
    write({"tokenizer_class": "T5TokenizerFast"})
    assert read_tokenizer(tmp_path).encode("a").ids == [0, 1]
    write({"add_bos_token": True, "bos_token": {"content": "<s>"}, "eos_token": "</s>"})
    assert read_tokenizer(tmp_path).encode("a").ids == [2, 0]
    write({"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>"})
    assert read_tokenizer(tmp_path).encode("a").ids == [2, 0, 1]

    write({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True})
    assert read_tokenizer(tmp_path).encode("a").ids == [2, 0, 1]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"add_bos_token": True}, "asked for add_bos_token, and no bos_token is named"),
        ({"add_eos_token": True, "bos_token": "<s>"}, "asked for add_eos_token, and no eos_token is named"),
        ({"add_bos_token": True, "bos_token": None}, "asked for add_bos_token, and no bos_token is named"),
        (
            {"add_bos_token": True, "bos_token": "<b>"},
            "the bos_token '<b>' around texts, which its vocabulary",
        ),
        ({"add_eos_token": True, "eos_token": {"content": "<e>"}}, "the eos_token '<e>' around texts"),
        ({"tokenizer_class": "T5Tokenizer", "eos_token": "</s>"}, "the eos_token '</s>' around texts"),
        ({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}, r"bos_token '<\|endoftext\|>' around"),
    ],
)
def test_a_token_that_is_asked_for_and_is_not_there(tmp_path, said, message):
    it = tokenizers.Tokenizer(models.WordLevel({"a": 0, "<s>": 1}, unk_token="a"))
    it.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=message) as error:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value)
    # What the file itself puts around a text is what stands there.
    it.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 1)])
    it.save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(tmp_path).encode("a").ids == [1, 0]


CORPUS = ["The quick brown fox jumps over the lazy dog.", "I've 12 dogs, don't you?  \n Ünïcode 数字 too"] * 5
EXTRA = {"GPT2": ["<|endoftext|>"], "Qwen2": ["<|endoftext|>"], "Roberta": ["<s>", "<pad>", "</s>", "<unk>"]}
EXTRA["Roberta"] += ["<mask>"]
EXTRA["Bart"] = EXTRA["Roberta"]


def byte_pairs(directory, kind):
    """vocab.json and merges.txt, trained on a few lines."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=EXTRA[kind], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    trained.model.save(str(directory))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": f"{kind}Tokenizer"}))
    return trained


def test_byte_pairs(tmp_path):
    trained = byte_pairs(tmp_path, "GPT2")
    found = read_tokenizer(tmp_path)
    for text in (*CORPUS[:2], "", " x"):
        assert found.encode(text).ids == trained.encode(text).ids
        assert found.decode(found.encode(text).ids) == text
    assert found.encode("a<|endoftext|>").ids[-1] == 0
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="of class None; known are Bart, GPT2, GPTNeoX, Qwen2, Roberta"):
        read_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert read_tokenizer(tmp_path).encode("dogs").ids == trained.encode("dogs").ids
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(ValueError, match="has lines that are no two tokens"):
        read_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nabc xyz\n")
    with pytest.raises(ValueError, match="do not fit together"):
        read_tokenizer(tmp_path)


def test_byte_pairs_between_begin_and_end(tmp_path):
    trained = byte_pairs(tmp_path, "GPT2")
    said = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert read_tokenizer(tmp_path).encode("dogs").ids == [0, *trained.encode("dogs").ids]
    # Where it is not named, it is that of the class.
    del said["bos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert read_tokenizer(tmp_path).encode("dogs").ids == [0, *trained.encode("dogs").ids]
    # Qwen2 has none.
    byte_pairs(tmp_path, "Qwen2")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": True})
    )
    with pytest.raises(ValueError, match="asked for add_bos_token, and no bos_token is named"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"added_tokens_decoder": []}, "added_tokens_decoder=.*, wanted an object of ids"),
        ({"added_tokens_decoder": {"a": {"content": "x"}}}, "added_tokens_decoder="),
        ({"added_tokens_decoder": {"9": {}}}, "added_tokens_decoder="),
        ({"added_tokens_decoder": {"9": {"content": "x", "lstrip": "no"}}}, "added_tokens_decoder="),
        ({"bos_token": 4}, "bos_token=4, wanted a text"),
        ({"bos_token": {"content": 4}}, "bos_token=4, wanted a text"),
        ({"add_prefix_space": "no"}, "add_prefix_space='no', wanted true or false"),
        ({"add_bos_token": 1}, "add_bos_token=1, wanted true or false"),
        ({"extra_ids": -1}, "extra_ids=-1, wanted a whole number"),
        ({"src_lang": True}, "src_lang=True, wanted a text"),
    ],
)
def test_a_setting_of_another_kind_is_refused(tmp_path, settings, message):
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message) as error:
        read_tokenizer_config(tmp_path)
    assert str(error.value).startswith(f"{path} has ")


def test_null_says_nothing(tmp_path):
    said = {"bos_token": {"content": "<s>"}, "unk_token": "<u>", "extra_ids": 3}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(said))
    nulls = {"added_tokens_decoder": None, "do_lower_case": None, "unk_token": None, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(nulls))
    wanted = {"bos_token": "<s>", "unk_token": "<u>", "extra_ids": 3, "eos_token": "</s>"}
    assert read_tokenizer_config(tmp_path) == wanted
    # Where tokenizer_config.json lists the added tokens, it is all that is read.
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(nulls | {"added_tokens_decoder": {}}))
    assert read_tokenizer_config(tmp_path) == {"added_tokens_decoder": {}, "eos_token": "</s>"}


def test_added_tokens_are_never_cut_and_have_their_ids(tmp_path):
    trained = byte_pairs(tmp_path, "Qwen2")
    n, path = trained.get_vocab_size(), tmp_path / "tokenizer_config.json"
    token = {"content": "<|im_start|>", "normalized": False, "special": True}
    said = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {str(n + 1): token}}
    path.write_text(json.dumps(said))
    with pytest.raises(ValueError, match=rf"'<\|im_start\|>' of .* has the id {n + 1}, and would be {n}"):
        read_tokenizer(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<think>": "n"}))
    with pytest.raises(ValueError, match=r"ids that are no whole numbers: \{'<think>': 'n'\}"):
        read_tokenizer(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<think>": n}))
    found = read_tokenizer(tmp_path)
    assert found.encode("<|im_start|>a<think>").ids == [n + 1, *trained.encode("a").ids, n]
    assert found.decode([n + 1, n]) == "<think>"


def of_words(directory, **said):
    """A cased tokenizer.json of BERT, and settings beside it."""
    words = [*WORDS, "The", "É"]
    it = tokenizers.Tokenizer(models.WordPiece({x: i for i, x in enumerate(words)}, unk_token="[UNK]"))
    it.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    it.add_special_tokens(WORDS[:5])
    it.save(str(directory / "tokenizer.json"))
    if said:
        (directory / "tokenizer_config.json").write_text(json.dumps(said))
    return len(words)


def test_settings_beside_a_tokenizer_json_count(tmp_path):
    of_bert = {"tokenizer_class": "BertTokenizerFast"}
    n = of_words(tmp_path)
    assert read_tokenizer(tmp_path).encode("The É").tokens == ["The", "É"]  # the file alone
    for said, wanted in [
        ({"do_lower_case": False}, ["[CLS]", "The", "É", "[SEP]"]),
        ({}, ["[CLS]", "the", "e", "[SEP]"]),
        ({"strip_accents": False}, ["[CLS]", "the", "é", "[SEP]"]),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}, ["The", "É"]),
        ({"do_lower_case": False, "sep_token": "the"}, ["[CLS]", "The", "É", "the"]),
    ]:
        of_words(tmp_path, **of_bert | said)
        assert read_tokenizer(tmp_path).encode("The É").tokens == wanted, said
    (tmp_path / "added_tokens.json").write_text(json.dumps({"The É": n}))
    of_words(tmp_path, **of_bert, pad_token="<pad>", image_token="<image>", do_lower_case=False)
    found = read_tokenizer(tmp_path)
    assert found.encode("The É<image><pad>").ids == [2, n, n + 2, n + 1, 3]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"split_special_tokens": True}, "got split_special_tokens=True, which is not supported"),
        (
            {"sp_model_kwargs": {"alpha": 1}, "tokenizer_class": "MarianTokenizer"},
            "got sp_model_kwargs=.*not supported. Take it out",
        ),
        ({"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}, "got fast_tokenizer_files="),
        (
            {"tokenizer_class": "MPNetTokenizer", "do_lower_case": True},
            "class MPNet, and .*do_lower_case=T",
        ),
        ({"truncation_side": "middle"}, "truncation_side='middle', wanted 'left' or 'right'"),
        ({"extra_special_tokens": [3]}, "extra_special_tokens=.*, wanted a list of tokens"),
        ({"model_input_names": "ids"}, "model_input_names='ids', wanted a list of texts"),
        (
            {"added_tokens_decoder": {"90": {"content": "x"}}},
            "the token 'x' of .* has the id 90, and would",
        ),
    ],
)
def test_a_setting_that_is_not_followed_is_refused(tmp_path, said, message):
    of_words(tmp_path, **said)
    with pytest.raises(ValueError, match=message) as error:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_class_that_is_not_known_takes_the_file_as_it_is_where_the_settings_agree(tmp_path):
    of_words(tmp_path, tokenizer_class="MPNetTokenizer", add_prefix_space=False)
    assert read_tokenizer(tmp_path).encode("The").tokens == ["The"]


@pytest.mark.parametrize(
    ("model_type", "said", "wanted"),
    [
        ("bert", {}, "Bert"),
        ("bert", {"tokenizer_class": "XLMRobertaTokenizer"}, "XLMRoberta"),
        ("bert", {"tokenizer_class": "PreTrainedTokenizerFast"}, None),
        ("qwen2", {"tokenizer_class": "LlamaTokenizerFast"}, "Qwen2"),
        ("mistral", {"tokenizer_class": "LlamaTokenizer"}, None),
        ("llama", {}, None),
        ("llama", {"tokenizer_class": "LlamaTokenizer"}, "Llama"),
        ("bloom", {"tokenizer_class": "BloomTokenizerFast"}, None),
        (None, {"tokenizer_class": "T5TokenizerFast"}, "T5"),
    ],
)
def test_the_class_that_rebuilds_a_file(tmp_path, model_type, said, wanted):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert class_beside(tmp_path, said, False) == wanted
    assert class_beside(tmp_path, said, True) == (None if wanted == "Llama" else wanted)
    (tmp_path / "tokenizer_config.json").unlink()
    assert model_type == "qwen2" or class_beside(tmp_path, {}, False) is None


def test_spaces_before_marks_in_what_is_decoded(tmp_path):
    n = of_words(tmp_path, tokenizer_class="PreTrainedTokenizerFast", clean_up_tokenization_spaces=True)
    with pytest.raises(ValueError, match="clean_up_tokenization_spaces=True, which is not supported beside"):
        read_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    it = tokenizers.Tokenizer.from_file(str(path))
    it.add_tokens([" .", " n't"])
    it.decoder = decoders.Fuse()
    it.save(str(path))
    found = read_tokenizer(tmp_path)
    assert found.decode([5, n, 6, n + 1]) == "the.catn't"
    found.save(str(path))
    assert read_tokenizer(tmp_path).to_str() == found.to_str()


@pytest.mark.parity
def test_added_tokens_that_a_vocabulary_lacks_have_the_ids_that_are_declared(tmp_path):
    """As Qwen2.5 has them: the end token is neither the first nor the last of those that are added."""
    transformers = pytest.importorskip("transformers")
    trained = byte_pairs(tmp_path, "Qwen2")
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    del vocabulary["<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(sorted(vocabulary, key=vocabulary.get))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    n = len(vocabulary)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]
    added = {str(n + i): {"content": x, "special": i < 3, "normalized": False} for i, x in enumerate(names)}
    said = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    said |= {"bos_token": None, "unk_token": None, "additional_special_tokens": names[1:3]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said | {"added_tokens_decoder": added}))
    theirs, ours = transformers.Qwen2Tokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path)
    assert [ours.token_to_id(name) for name in names] == [n, n + 1, n + 2, n + 3]
    for text in ("the<|im_end|>", "<|im_start|>dog<tool>s<|endoftext|>", *CORPUS[:2]):
        assert ours.encode(text).ids == theirs(text)["input_ids"], text
    assert trained.encode("dogs").tokens == ours.encode("dogs").tokens


@pytest.mark.parity
@pytest.mark.parametrize("kind", EXTRA)
def test_byte_pairs_as_transformers_reads_them(tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    byte_pairs(tmp_path, kind)
    if "<mask>" in EXTRA[kind]:
        mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False}
        mask |= {"normalized": False, "single_word": False, "special": True}
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": f"{kind}Tokenizer", "mask_token": mask})
        )
    name = "RobertaTokenizer" if kind == "Bart" else f"{kind}Tokenizer"  # where both are one
    theirs, ours = getattr(transformers, name).from_pretrained(tmp_path), read_tokenizer(tmp_path)
    for text in (*CORPUS[:2], "", " x", f"the {EXTRA[kind][-1]} dog"):
        assert ours.encode(text).ids == theirs(text)["input_ids"], text


@pytest.mark.parity
@pytest.mark.parametrize("where", ["added_tokens_decoder", "added_tokens.json"])
def test_added_tokens_whose_ids_are_in_another_order_than_their_roles(tmp_path, where):
    """Qwen2.5's: none of its special tokens is in vocab.json, and the end token is the last of them."""
    transformers = pytest.importorskip("transformers")
    trained = byte_pairs(tmp_path, "Qwen2")
    vocabulary = {token: i - 1 for token, i in trained.get_vocab().items() if token != "<|endoftext|>"}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    n = len(vocabulary)
    ids = {"<|endoftext|>": n, "<|im_start|>": n + 1, "<|im_end|>": n + 2}
    said = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    if where == "added_tokens.json":
        (tmp_path / where).write_text(json.dumps(ids))
    else:
        said[where] = {str(i): {"content": token, **flags} for token, i in ids.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said | {"unk_token": None}))
    ours, theirs = read_tokenizer(tmp_path), transformers.Qwen2Tokenizer.from_pretrained(tmp_path)
    assert {token: ours.token_to_id(token) for token in ids} == ids
    for text in (*CORPUS[:2], "<|im_start|>user\nthe dog<|im_end|>\n", "a<|endoftext|>"):
        assert ours.encode(text).ids == theirs(text)["input_ids"], text
