"""Sentences into vectors: the mean over the tokens, or the first; padding and batches change nothing."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from tfm_jax import nn, pretrained

CONFIG = pretrained.Config(
    "BertModel",
    nn.Config(
        vocab_size=9,
        d_model=6,
        n_layers=1,
        n_heads=2,
        d_ff=5,
        norm=nn.LayerNorm(1e-12),
        norm_placement="post",
        final_norm=False,
        embedding_norm=True,
        positions=nn.Learned(8),
        feed_forward=nn.Mlp("gelu"),
        attention_bias=True,
        scale_embeddings=False,
        token_types=2,
    ),
)
TEXTS = ["a b c", "d", "e f g h a b c d", "b a"]
STEPS = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
]


@pytest.fixture
def directory(tmp_path):
    model = nn.functionalize(nn.Encoder, CONFIG.model)
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel({c: i for i, c in enumerate("?abcdefgh")}, unk_token="?")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    place = tmp_path / "model"
    pretrained.save(place, model.init(jax.random.key(0)), CONFIG, tokenizer)
    write = lambda name, value: (place / name).write_text(json.dumps(value))
    (place / "1_Pooling").mkdir()
    write("modules.json", STEPS)
    write("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    write("sentence_bert_config.json", {"max_seq_length": 4})
    return place


def test_the_vectors(directory):
    encoder = pretrained.load_sentence_encoder(directory)
    got = encoder(TEXTS, batch_size=3)
    assert got.shape == (4, 6) and got.dtype == np.float32
    for text, vector in zip(TEXTS, got, strict=True):
        ids = np.array(["?abcdefgh".index(c) for c in text.split()][:4])
        wanted = np.asarray(encoder.model.apply(encoder.params, ids)).mean(0)
        np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), rtol=1e-5, atol=1e-6)
    first = dataclasses.replace(encoder, pooling="first", normalize=False)(TEXTS[:1])
    wanted = encoder.model.apply(encoder.params, np.array([1, 2, 3]))[0]
    np.testing.assert_allclose(first[0], wanted, rtol=1e-5, atol=1e-6)
    assert encoder([]).shape[0] == 0


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("modules.json", STEPS[:1], ValueError, r"wants \['Transformer'\]; supported are"),
        ("modules.json", [STEPS[0], {**STEPS[1], "path": "../x"}], ValueError, "that are not in its own"),
        ("modules.json", {}, ValueError, "must hold a JSON list"),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": "query", "prompts": {"query": "query: "}},
            ValueError,
            "puts the prompt 'query' before every text",
        ),
        (
            "sentence_bert_config.json",
            {"do_lower_case": True},
            ValueError,
            "do_lower_case=True is not supported",
        ),
        (
            "1_Pooling/config.json",
            {"pooling_mode_max_tokens": True},
            ValueError,
            "max_tokens'. is not supported",
        ),
    ],
)
def test_a_recipe_that_is_not_ours(directory, name, value, error, message):
    (directory / name).write_text(json.dumps(value))
    with pytest.raises(error, match=message):
        pretrained.load_sentence_encoder(directory)


def test_without_a_recipe_or_a_tokenizer(directory):
    (directory / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="there is no tokenizer in"):
        pretrained.load_sentence_encoder(directory)
    (directory / "modules.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no modules\.json"):
        pretrained.load_sentence_encoder(directory)


def test_the_files_of_other_families_are_read_and_the_table_is_the_limit(directory):
    body = directory / "sentence_bert_config.json"
    body.rename(directory / "sentence_roberta_config.json")
    assert pretrained.load_sentence_encoder(directory).max_length == 4
    (directory / "sentence_roberta_config.json").unlink()
    assert pretrained.load_sentence_encoder(directory).max_length == 8


def test_what_is_no_list_of_texts(directory):
    encoder = pretrained.load_sentence_encoder(directory)
    with pytest.raises(ValueError, match=r"texts must be a list of texts, got one text: pass \['a b'\]"):
        encoder("a b")
    with pytest.raises(ValueError, match="batch_size is at least 1, got -1"):
        encoder(TEXTS, batch_size=-1)


def test_the_tokenizer_that_was_passed_stays_as_it_was(directory):
    encoder = pretrained.load_sentence_encoder(directory)
    encoder(TEXTS)
    assert encoder.tokenizer.truncation is None


def test_a_model_with_a_head_gives_no_vectors(directory):
    config = dataclasses.replace(CONFIG, architecture="BertForMaskedLM")
    model = nn.functionalize(nn.MaskedLanguageModel, config.model)
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    pretrained.save(directory / "body", model.init(jax.random.key(0)), config, tokenizer)
    (directory / "modules.json").write_text(json.dumps([{**STEPS[0], "path": "body"}, *STEPS[1:]]))
    with pytest.raises(ValueError, match="is a BertForMaskedLM, wanted an encoder without a head"):
        pretrained.load_sentence_encoder(directory)
