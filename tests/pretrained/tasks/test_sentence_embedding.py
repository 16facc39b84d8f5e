"""Sentences into vectors: the mean over the tokens, or the first; padding and batches change nothing."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import models, pre_tokenizers

from tests.pretrained.families.test_families import FIELDS
from tfm_jax import nn, pretrained
from tfm_jax.pretrained.tasks.batch_runner import length_of
from tfm_jax.pretrained.tasks.sentence_layers import pooled
from tfm_jax.train import data_mesh

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


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_a_batch_that_is_full_has_no_mask_and_the_same_vectors(directory, pooling):
    encoder = dataclasses.replace(
        pretrained.load_sentence_encoder(directory), pooling=pooling, normalize=False
    )
    seen, run = [], encoder._run
    encoder.__dict__["_run"] = lambda *given: seen.append(given[2]) or run(*given)
    full = ["e f g h a b", "h g f e"]
    got = encoder(full)
    assert seen == [None]
    np.testing.assert_allclose(got, encoder([*full, "a"])[:2], rtol=1e-5, atol=1e-6)
    assert seen[1].shape == (1, 4, 4)


def test_devices_share_each_batch(directory):
    mesh = data_mesh(3)
    encoder = pretrained.load_sentence_encoder(directory, mesh=mesh)
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(encoder.params)} == {3}
    seen = []
    run = lambda *given: seen.append(given[1]) or encoder._run(*given)
    spied = dataclasses.replace(encoder)
    spied.__dict__["_run"] = run
    wanted = pretrained.load_sentence_encoder(directory)(TEXTS)
    np.testing.assert_allclose(spied(TEXTS), wanted, rtol=1e-5, atol=1e-6)
    # Four rows are filled up to six, two on each device.
    assert [x.sharding.shard_shape(x.shape) for x in seen] == [(1, 2, 4)]
    np.testing.assert_allclose(encoder(TEXTS[:1]), wanted[:1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="wanted axes of type Auto, as train"):
        pretrained.load_sentence_encoder(directory, mesh=jax.make_mesh((3,), ("x",)))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("modules.json", STEPS[:1], ValueError, r"wants \['Transformer'\]; supported are"),
        ("modules.json", [STEPS[0], {**STEPS[1], "path": "../x"}], ValueError, "that are not in its own"),
        ("modules.json", {}, ValueError, "must hold a JSON list"),
        ("modules.json", [3], ValueError, "is no list of steps, each with its type and its path"),
        ("modules.json", [{"idx": 0}], ValueError, "is no list of steps"),
        ("modules.json", [*STEPS[:2], {"type": "my.Dense", "path": "x"}], ValueError, "code of its own"),
        *(
            (
                "modules.json",
                [*STEPS[:2], {**STEPS[2], "type": f"sentence_transformers.models.{kind}"}],
                *said,
            )
            for kind in ("CNN", "LSTM", "WordEmbeddings", "WeightedLayerPooling", "SpladePooling")
            for said in [(ValueError, rf"wants \['Transformer', 'Pooling', '{kind}'\]; supported are")]
        ),
        (
            "config_sentence_transformers.json",
            {"model_type": "SparseEncoder"},
            ValueError,
            "is of a SparseEncoder, wanted a SentenceTransformer",
        ),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": "q"},
            ValueError,
            r"default_prompt_name='q', wanted one of \['document', 'query'\]",
        ),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, ValueError, "truncate_dim=0, wanted"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, ValueError, "prompts=.*wanted an object"),
        ("sentence_bert_config.json", {"do_lower_case": "no"}, ValueError, "do_lower_case='no' is not supp"),
        (
            "sentence_bert_config.json",
            {"tokenizer_args": {"do_lower_case": True}},
            ValueError,
            "tokenizer_args=.* is not supported",
        ),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, ValueError, "transformer_task='fi"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, ValueError, "'median'. is not supported"),
        ("1_Pooling/config.json", {"pooling_mode_x": True}, ValueError, "pooling_mode_x'. is not supported"),
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
    (directory / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no config\.json in"):
        pretrained.load_sentence_encoder(directory)


def test_a_plain_encoder_gives_the_mean(directory):
    """As sentence-transformers makes of it: no modules.json, the mean over the tokens, any length."""
    wanted = dataclasses.replace(pretrained.load_sentence_encoder(directory), normalize=False)(TEXTS)
    (directory / "modules.json").unlink()
    (directory / "1_Pooling" / "config.json").unlink()
    # Which then says nothing, as the prompts do not.
    (directory / "config_sentence_transformers.json").write_text('{"truncate_dim": 3}')
    assert pretrained.load_sentence_encoder(directory).max_length == 8
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 4}')
    encoder = pretrained.load_sentence_encoder(directory)
    assert (encoder.pooling, encoder.normalize, encoder.max_length) == ("mean", False, 4)
    np.testing.assert_array_equal(encoder(TEXTS), wanted)
    # The limit is the tokenizer's where the model's is not said, and the table's at most.
    for said, limit in ((5, 5), (10**30, 8)):
        (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": said}))
        assert pretrained.load_sentence_encoder(directory).max_length == limit
    for said in ("many", -1, 0, 4.5, True):
        (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": said}))
        with pytest.raises(ValueError, match=f"may have {said!r} tokens, wanted a whole number"):
            pretrained.load_sentence_encoder(directory)


def test_the_files_of_other_families_are_read_and_the_table_is_the_limit(directory):
    body = directory / "sentence_bert_config.json"
    body.rename(directory / "sentence_roberta_config.json")
    assert pretrained.load_sentence_encoder(directory).max_length == 4
    (directory / "sentence_roberta_config.json").unlink()
    assert pretrained.load_sentence_encoder(directory).max_length == 8


def test_an_encoder_in_a_folder_of_its_own(directory):
    """As older versions write it; the whole is no model of transformers, and the error says where one is."""
    wanted, body = pretrained.load_sentence_encoder(directory)(TEXTS), directory / "0_Transformer"
    body.mkdir()
    for path in [path for path in directory.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(body / path.name)
    (directory / "modules.json").write_text(json.dumps([STEPS[0] | {"path": body.name}, *STEPS[1:]]))
    np.testing.assert_array_equal(pretrained.load_sentence_encoder(directory)(TEXTS), wanted)
    with pytest.raises(FileNotFoundError, match=rf"a sentence model: load its encoder, {body}, or the whole"):
        pretrained.load(directory)
    assert pretrained.load(body)[2].model == CONFIG.model


def test_what_is_no_list_of_texts(directory):
    encoder = pretrained.load_sentence_encoder(directory)
    with pytest.raises(ValueError, match="got texts='a b', one string; wanted a list of strings"):
        encoder("a b")
    with pytest.raises(ValueError, match=r"got texts\[1\]=None; wanted a string"):
        encoder(["a b", None])
    with pytest.raises(ValueError, match="batch_size is at least 1, got -1"):
        encoder(TEXTS, batch_size=-1)


def test_the_tokenizer_that_was_passed_stays_as_it_was(directory):
    encoder = pretrained.load_sentence_encoder(directory)
    encoder(TEXTS)
    assert encoder.tokenizer.truncation is None


@pytest.mark.parametrize(
    ("architecture", "module", "options"),
    [
        ("BertForMaskedLM", nn.MaskedLanguageModel, {}),
        ("BertForSequenceClassification", nn.Classifier, {"n_classes": 2, "pooling": "first"}),
        ("BertForTokenClassification", nn.Classifier, {"n_classes": 2, "pooling": None}),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_a_head_is_left_out(directory, architecture, module, options, plain):
    pooler = nn.Pooler("tanh") if architecture == "BertForSequenceClassification" else None
    model_config = dataclasses.replace(CONFIG.model, pooler=pooler)
    config = dataclasses.replace(CONFIG, architecture=architecture, model=model_config)
    params = nn.functionalize(module, model_config, **options).init(jax.random.key(1))
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    pretrained.save(directory / "body", params, config, tokenizer)
    (directory / "modules.json").write_text(json.dumps([{**STEPS[0], "path": "body"}, STEPS[1]]))
    encoder = pretrained.load_sentence_encoder(directory / "body" if plain else directory)
    body = nn.functionalize(nn.Encoder, CONFIG.model)
    bare = {name: value for name, value in params["encoder"].items() if name != "pooler"}
    wanted = np.asarray(body.apply(bare, np.array([1, 2, 3]))).mean(0)
    np.testing.assert_allclose(encoder(["a b c"])[0], wanted, rtol=1e-5, atol=1e-6)


def test_a_decoder_gives_no_vectors(directory):
    config = pretrained.Config("GPT2LMHeadModel", nn.Config(**FIELDS["gpt2"]))
    model = nn.functionalize(nn.Decoder, config.model)
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    pretrained.save(directory / "decoder", model.init(jax.random.key(0)), config, tokenizer)
    with pytest.raises(ValueError, match="is a GPT2LMHeadModel, wanted an encoder, such as BertModel"):
        pretrained.load_sentence_encoder(directory / "decoder")


def test_a_token_that_the_model_has_not(directory):
    path = directory / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.add_tokens(["zz"])
    tokenizer.save(str(path))
    encoder = pretrained.load_sentence_encoder(directory)
    assert encoder(["a b"]).shape == (1, 6)
    with pytest.raises(
        ValueError, match=r"text 1 \('a zz'\): got the token 'zz' with the id 9; wanted ids be"
    ):
        encoder(["a", "a zz"])


def test_where_no_length_is_declared_the_positions_are_the_limit(directory):
    (directory / "sentence_bert_config.json").unlink()
    (directory / "tokenizer_config.json").unlink()
    assert pretrained.load_sentence_encoder(directory).max_length == 8
    large = dataclasses.replace(CONFIG.model, positions=nn.Learned(700))
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert length_of(None, tokenizer, large, directory) == 700
    assert length_of(None, tokenizer, dataclasses.replace(large, positions=nn.Alibi()), directory) == 512


MODES = ("mean", "first", "last", "max", "weighted_mean", "mean_sqrt_len")


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 3), st.permutations(MODES))
def test_poolings_are_those_of_each_text_alone(lengths, skipped, modes):
    T, D = max(lengths), 3
    x = np.random.default_rng(sum(lengths)).normal(size=(len(lengths), T, D)).astype(np.float32)
    counted = (np.arange(T) < np.array(lengths)[:, None]) & (np.arange(T) >= skipped)
    got = np.asarray(pooled(x, modes, counted))
    for row, keep, found in zip(x, counted, got, strict=True):
        if not keep.any():
            continue
        y, weights = row[keep], 1 + np.flatnonzero(keep)
        wanted = {"mean": y.mean(0), "first": y[0], "last": y[-1], "max": y.max(0)}
        wanted["weighted_mean"] = (y * weights[:, None]).sum(0) / weights.sum()
        wanted["mean_sqrt_len"] = y.sum(0) / np.sqrt(len(y))
        np.testing.assert_allclose(found, np.concatenate([wanted[m] for m in modes]), rtol=1e-5, atol=1e-6)


def test_an_unknown_pooling(directory):
    encoder = pretrained.load_sentence_encoder(directory)
    with pytest.raises(ValueError, match="got pooling='median'; wanted one of"):
        dataclasses.replace(encoder, pooling="median")


def as_pickle(directory):
    """The same checkpoint as older ones are, with its weights in a pickle."""
    torch = pytest.importorskip("torch")
    path = directory / "model.safetensors"
    tensors = {name: torch.from_numpy(x) for name, x in load_file(path).items()}
    torch.save(tensors, directory / "pytorch_model.bin")
    path.unlink()


@pytest.mark.parity
def test_a_pickle_where_it_is_allowed(directory):
    wanted = pretrained.load_sentence_encoder(directory)(TEXTS)
    as_pickle(directory)
    with pytest.raises(ValueError, match=r"are a pickle, .* or pass allow_pickle=True"):
        pretrained.load_sentence_encoder(directory)
    found = pretrained.load_sentence_encoder(directory, allow_pickle=True)
    np.testing.assert_array_equal(found(TEXTS), wanted)
