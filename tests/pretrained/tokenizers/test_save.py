"""Saved tokenizers: transformers, sentence-transformers and this library read the same tokenizer."""

import functools
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

for package in ("torch", "transformers"):  # before the imports of modules that need them
    pytest.importorskip(package)

import transformers  # noqa: E402

from tests.pretrained.tasks.test_text_generation_parity import ENCODERS, KINDS, files, reference_text, writer  # noqa: E402
from tests.pretrained.tokenizers.test_sentencepiece import trained  # noqa: E402, F401  - a fixture
from tests.pretrained.tokenizers.tokenizer_files import BUILT, TEXTS, write  # noqa: E402
from tfm_jax import nn, pretrained  # noqa: E402
from tfm_jax.pretrained.extra_files import read_extra_files, write_files  # noqa: E402
from tfm_jax.pretrained.tokenizers.read import read_tokenizer  # noqa: E402
from tfm_jax.pretrained.tokenizers.save import _comparable, tokenizer_files  # noqa: E402
from tfm_jax.pretrained.tokenizers.tokenizer_config import read_tokenizer_config, truncation_side  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

MODEL = nn.Config(vocab_size=9, d_model=4, n_layers=1, n_heads=1, d_ff=4, positions=nn.Learned(17))


def config_of(directory, **settings):
    return pretrained.CheckpointConfig("BertModel", MODEL, settings, files=read_extra_files(directory))


def saved(directory, tokenizer, config):
    """Writes the files of a tokenizer and a config.json to a new directory."""
    directory.mkdir()
    write_files(directory, tokenizer_files(tokenizer, config, config.settings))
    (directory / "config.json").write_text(json.dumps(config.settings))


def assert_same(got, wanted):
    """Asserts that transformers and this library read the same tokenizer from two directories."""
    first, second = (transformers.AutoTokenizer.from_pretrained(x) for x in (got, wanted))
    assert type(first) is type(second)
    texts = [text for text in TEXTS if text]
    assert first(texts)["input_ids"] == second(texts)["input_ids"]
    truncation = {"truncation": True, "max_length": 5}
    assert first(texts, **truncation)["input_ids"] == second(texts, **truncation)["input_ids"]
    if second.pad_token:
        assert dict(first(texts, padding=True)) == dict(second(texts, padding=True))
    assert first.special_tokens_map == second.special_tokens_map
    assert first.model_max_length == second.model_max_length
    assert read_tokenizer(got).to_str() == read_tokenizer(wanted).to_str()


def assert_matches_transformers(directory):
    """Asserts that both read a directory alike: ids of texts and pairs, truncation, decoding."""
    reference, loaded = transformers.AutoTokenizer.from_pretrained(directory), read_tokenizer(directory)
    wanted = reference(TEXTS)["input_ids"]
    assert [x.ids for x in loaded.encode_batch(TEXTS)] == wanted
    for ids in wanted:
        assert loaded.decode(ids, skip_special_tokens=False) == reference.decode(ids)
    pairs = (TEXTS[1:], TEXTS[:-1])
    assert [x.ids for x in loaded.encode_batch(list(zip(*pairs, strict=True)))] == reference(*pairs)[
        "input_ids"
    ]
    loaded.enable_truncation(5, direction=truncation_side(directory, read_tokenizer_config(directory)))
    assert [x.ids for x in loaded.encode_batch(TEXTS)] == reference(TEXTS, truncation=True, max_length=5)[
        "input_ids"
    ]


@pytest.mark.parametrize("name", BUILT)
def test_loaded_files_are_saved(tmp_path, name):
    source = tmp_path / "source"
    source.mkdir()
    reference = write(source, BUILT[name])
    reference.chat_template = "{{ messages[0].content }}"
    reference.save_pretrained(source)
    config = config_of(source, **json.loads((source / "config.json").read_text()))
    saved(tmp_path / "new", read_tokenizer(source), config)
    files = read_extra_files(source)
    assert "chat_template.jinja" in files and read_extra_files(tmp_path / "new") == files
    # With one more token, the other files stay.
    more = read_tokenizer(source)
    more.add_tokens(["<more>"])
    saved(tmp_path / "more", more, config)
    assert_matches_transformers(tmp_path / "more")
    assert read_tokenizer(tmp_path / "more").encode("the<more>").ids == more.encode("the<more>").ids
    assert (tmp_path / "more" / "chat_template.jinja").exists()


@pytest.mark.parametrize("name", [*KINDS, *ENCODERS])
def test_files_without_a_tokenizer_json(tmp_path, trained, name):  # noqa: F811
    kind = (KINDS | ENCODERS)[name]
    source = tmp_path / "source"
    source.mkdir()
    kind.write(source, trained)
    (source / "tokenizer_config.json").write_text(json.dumps(kind.settings))
    model_type = getattr(transformers, kind.case.config).model_type
    (source / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = read_tokenizer(source)
    saved(tmp_path / "new", tokenizer, config_of(source, model_type=model_type))
    assert read_extra_files(tmp_path / "new") == read_extra_files(source)
    assert_same(tmp_path / "new", source)


def word_level():
    """A word-level tokenizer, of no class in transformers."""
    model = models.WordLevel({"[UNK]": 0, "the": 1, "dog": 2, "fox": 3}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 5), ("[CLS]", 4))
    return tokenizer


def with_lowercase(name):
    """A tokenizer of a class in transformers, with another normalizer."""
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory), BUILT[name])
        tokenizer = read_tokenizer(Path(directory))
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


CUSTOM = {
    "word level": word_level,
    "byte level": functools.partial(with_lowercase, "gpt2"),
    "unigram": functools.partial(with_lowercase, "t5"),
}
TYPES = ["bert", "distilbert", "roberta", "gpt2", "opt", "bloom", "gpt_neox", "llama", "mistral", "qwen3"]
TYPES += ["t5", "bart", "mbart", "marian"]


@pytest.mark.parametrize("kind", CUSTOM)
def test_custom_tokenizers(tmp_path, kind):
    for model_type in TYPES:
        tokenizer = CUSTOM[kind]()
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(pad_token="[PAD]")
        saved(
            tmp_path / model_type,
            tokenizer,
            pretrained.CheckpointConfig("BertModel", MODEL, {"model_type": model_type}),
        )
        assert_matches_transformers(tmp_path / model_type)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        assert _comparable(read_tokenizer(tmp_path / model_type).to_str()) == _comparable(tokenizer.to_str())
        new = json.loads((tmp_path / model_type / "tokenizer_config.json").read_text())
        assert new["model_max_length"] == 17 and new["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_special_tokens_of_a_custom_tokenizer(tmp_path):
    settings = {"model_type": "bert", "pad_token_id": 5, "eos_token_id": [4], "bos_token_id": 2}
    saved(tmp_path / "new", word_level(), pretrained.CheckpointConfig("BertModel", MODEL, settings))
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    wanted = {"pad_token": "[SEP]", "eos_token": "[CLS]", "unk_token": "[UNK]", "sep_token": "[SEP]"}
    assert reference.special_tokens_map == wanted | {"cls_token": "[CLS]"}
    assert reference(["the", "the dog"], padding=True)["input_ids"] == [[4, 1, 5, 5], [4, 1, 2, 5]]


def test_qwen2_with_a_custom_tokenizer(tmp_path):
    config = pretrained.CheckpointConfig("Qwen2ForCausalLM", MODEL, {"model_type": "qwen2"})
    with pytest.raises(ValueError, match="cannot read beside model_type='qwen2'; wanted"):
        tokenizer_files(word_level(), config, config.settings)


def test_qwen2_with_an_equivalent_decoder(tmp_path):
    """It differs from Qwen2's in settings that change no id."""
    source = tmp_path / "source"
    source.mkdir()
    write(source, BUILT["qwen2"])
    tokenizer = read_tokenizer(source)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    config = pretrained.CheckpointConfig("Qwen2ForCausalLM", MODEL, {"model_type": "qwen2"})
    saved(tmp_path / "new", tokenizer, config)
    assert_matches_transformers(tmp_path / "new")
    assert read_tokenizer(tmp_path / "new").encode("the dog").ids == tokenizer.encode("the dog").ids


def test_sentence_transformers_checkpoint(tmp_path):
    """A cased BERT, loaded and saved: all three libraries read the same model."""
    library = pytest.importorskip("sentence_transformers")
    base = pytest.importorskip("sentence_transformers.base.modules")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    (tmp_path / "body").mkdir()
    reference = write(tmp_path / "body", BUILT["bert, cased"])
    sizes = {"hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 1, "intermediate_size": 11}
    settings = transformers.BertConfig(vocab_size=len(reference), max_position_embeddings=40, **sizes)
    transformers.BertModel(settings).save_pretrained(tmp_path / "body")
    steps = [base.Transformer(str(tmp_path / "body")), modules.Pooling(12, "max"), base.Dense(12, 7)]
    steps.append(base.Normalize())
    made = library.SentenceTransformer(modules=steps, prompts={"query": "the "}, truncate_dim=5)
    made.max_seq_length = 6
    made.save(str(tmp_path / "source"))
    (tmp_path / "source" / "preprocessor_config.json").write_text("{}")
    _, params, config, tokenizer = pretrained.load(tmp_path / "source")
    pretrained.save(tmp_path / "new", params, config, tokenizer)
    assert_same(tmp_path / "new", tmp_path / "source")
    assert read_extra_files(tmp_path / "new") == read_extra_files(tmp_path / "source")
    again = library.SentenceTransformer(str(tmp_path / "new"), device="cpu", local_files_only=True)
    texts = TEXTS[::4]
    wanted = made.encode(texts, prompt_name="query")
    np.testing.assert_allclose(again.encode(texts, prompt_name="query"), wanted, atol=1e-6)
    encoder = pretrained.load_sentence_encoder(tmp_path / "new")
    np.testing.assert_allclose(encoder(texts, prompt_name="query"), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["marian", "gpt2"])
def test_text_generation_checkpoint(tmp_path, trained, name):  # noqa: F811
    """transformers and this library generate the same text from the saved checkpoint as from its source."""
    tokenizer, source = files(tmp_path, KINDS[name], trained, "written")
    model = writer(tokenizer, source, KINDS[name])
    _, params, config, loaded = pretrained.load(source)
    pretrained.save(tmp_path / "new", params, config, loaded)
    assert_same(tmp_path / "new", source)
    kind = transformers.AutoModelForSeq2SeqLM if name == "marian" else transformers.AutoModelForCausalLM
    again = kind.from_pretrained(tmp_path / "new")
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    texts = ["the quick dog", " I've 12 dogs"]
    wanted = [reference_text(tokenizer, model, text) for text in texts]
    assert [reference_text(opened, again, text) for text in texts] == wanted
    generator = pretrained.load_text_generator(tmp_path / "new")
    write_on = generator.translate if name == "marian" else functools.partial(generator.write, key=None)
    assert write_on(texts) == wanted


def test_configs_that_differ_in_files_alone_are_equal():
    one, two = (
        pretrained.CheckpointConfig("BertModel", MODEL, files=files) for files in ({}, {"vocab.txt": b"a"})
    )
    assert one == two and "vocab.txt" not in repr(two)
    assert jax.tree.leaves(one) == [one]
