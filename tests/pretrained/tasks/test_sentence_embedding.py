"""Sentence embeddings: pooling, prompts and limits; padding and batching do not change the vectors."""

import dataclasses
import json
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import models, pre_tokenizers

from tests.memory import check_another_use_keeps_nothing
from tests.pretrained.families.test_families import FIELDS
from tfm_jax import nn, pretrained
from tfm_jax.pretrained.tasks import sentence_embedding
from tfm_jax.pretrained.tasks.batch_runner import max_length_of
from tfm_jax.pretrained.tasks.sentence_layers import LayerNorm, pooled
from tfm_jax.train import make_mesh

CONFIG = pretrained.CheckpointConfig(
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
MODULES = [
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
    root = tmp_path / "model"
    pretrained.save(root, model.init(jax.random.key(0)), CONFIG, tokenizer)

    def write(name, value):
        return (root / name).write_text(json.dumps(value))

    (root / "1_Pooling").mkdir()
    write("modules.json", MODULES)
    write("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    write("sentence_bert_config.json", {"max_seq_length": 4})
    return root


def test_vectors_are_pooled_and_normalized(directory):
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


def test_loading_a_config_again_compiles_nothing_and_keeps_nothing(directory):
    def use():
        encoder = pretrained.load_sentence_encoder(directory)
        encoder(TEXTS)
        return weakref.ref(encoder)

    check_another_use_keeps_nothing(use, sentence_embedding._vectors)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_a_full_batch_has_no_mask_and_the_same_vectors(directory, pooling):
    encoder = dataclasses.replace(
        pretrained.load_sentence_encoder(directory), pooling=pooling, normalize=False
    )
    seen, run = [], encoder._run
    encoder.__dict__["_run"] = lambda *args: seen.append(args[2]) or run(*args)
    full = ["e f g h a b", "h g f e"]
    got = encoder(full)
    assert seen == [None]
    np.testing.assert_allclose(got, encoder([*full, "a"])[:2], rtol=1e-5, atol=1e-6)
    assert seen[1].shape == (1, 4, 4)


def test_devices_share_each_batch(directory):
    mesh = make_mesh(data=3)
    encoder = pretrained.load_sentence_encoder(directory, mesh=mesh)
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(encoder.params)} == {3}
    seen = []
    spied = dataclasses.replace(encoder)
    spied.__dict__["_run"] = lambda *args: seen.append(args[1]) or encoder._run(*args)
    wanted = pretrained.load_sentence_encoder(directory)(TEXTS)
    np.testing.assert_allclose(spied(TEXTS), wanted, rtol=1e-5, atol=1e-6)
    # Four sequences are padded to six, two on each device.
    assert [x.sharding.shard_shape(x.shape) for x in seen] == [(1, 2, 4)]
    np.testing.assert_allclose(encoder(TEXTS[:1]), wanted[:1], rtol=1e-5, atol=1e-6)
    D = CONFIG.model.d_model
    normed = dataclasses.replace(encoder, layers=(LayerNorm(jnp.full(D, 2.0), jnp.ones(D)), jnp.negative))
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(normed._layers)} == {3}
    single = dataclasses.replace(normed, mesh=None)
    single = dataclasses.replace(single, params=jax.device_put(single.params, jax.devices()[0]))
    np.testing.assert_allclose(normed(TEXTS), single(TEXTS), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="wanted axes of type Auto, as those of train"):
        pretrained.load_sentence_encoder(directory, mesh=jax.make_mesh((3,), ("x",)))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        (
            "modules.json",
            MODULES[:1],
            ValueError,
            r"modules \['Transformer'\]; wanted",
        ),
        (
            "modules.json",
            [MODULES[0], {**MODULES[1], "path": "../x"}],
            ValueError,
            "wanted folders inside",
        ),
        ("modules.json", {}, ValueError, "wanted a JSON list"),
        ("modules.json", [3], ValueError, "wanted objects, each with"),
        ("modules.json", [{"idx": 0}], ValueError, "wanted objects, each with a type"),
        (
            "modules.json",
            [*MODULES[:2], {"type": "my.Dense", "path": "x"}],
            ValueError,
            "got .'my.Dense'.; wanted classes",
        ),
        *(
            (
                "modules.json",
                [*MODULES[:2], {**MODULES[2], "type": f"sentence_transformers.models.{kind}"}],
                *expected,
            )
            for kind in ("CNN", "LSTM", "WordEmbeddings", "WeightedLayerPooling", "SpladePooling")
            for expected in [(ValueError, rf"got the modules .*'{kind}'\]; wanted ")]
        ),
        (
            "config_sentence_transformers.json",
            {"model_type": "SparseEncoder"},
            ValueError,
            "got model_type='SparseEncoder'; wanted 'SentenceTransformer'",
        ),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": "q"},
            ValueError,
            r"default_prompt_name='q'; wanted one of \['document', 'query'\]",
        ),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, ValueError, "truncate_dim=0; wanted"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, ValueError, "prompts=.*; wanted an object"),
        (
            "sentence_bert_config.json",
            {"do_lower_case": "no"},
            ValueError,
            "do_lower_case='no'; wanted",
        ),
        (
            "sentence_bert_config.json",
            {"tokenizer_args": {"do_lower_case": True}},
            ValueError,
            "got tokenizer_args=.*; wanted supported",
        ),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, ValueError, "transformer_task='fi"),
        (
            "1_Pooling/config.json",
            {"pooling_mode": "median"},
            ValueError,
            "pooling .'median'.; wanted",
        ),
        (
            "1_Pooling/config.json",
            {"pooling_mode_x": True},
            ValueError,
            "pooling .'pooling_mode_x'.; wanted",
        ),
    ],
)
def test_unsupported_modules_and_options_are_errors(directory, name, value, error, message):
    (directory / name).write_text(json.dumps(value))
    with pytest.raises(error, match=message):
        pretrained.load_sentence_encoder(directory)


def test_a_missing_tokenizer_or_config_is_an_error(directory):
    (directory / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="got no tokenizer in"):
        pretrained.load_sentence_encoder(directory)
    (directory / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"without a config\.json; wanted its encoder"):
        pretrained.load_sentence_encoder(directory)


def test_an_encoder_without_modules_gives_the_mean(directory):
    """As in sentence-transformers: without a modules.json the mean over the tokens, of any length."""
    wanted = dataclasses.replace(pretrained.load_sentence_encoder(directory), normalize=False)(TEXTS)
    (directory / "modules.json").unlink()
    (directory / "1_Pooling" / "config.json").unlink()
    # Without a modules.json this file has no effect.
    (directory / "config_sentence_transformers.json").write_text('{"truncate_dim": 3}')
    assert pretrained.load_sentence_encoder(directory).max_length == 8
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 4}')
    encoder = pretrained.load_sentence_encoder(directory)
    assert (encoder.pooling, encoder.normalize, encoder.max_length) == ("mean", False, 4)
    np.testing.assert_array_equal(encoder(TEXTS), wanted)
    # The limit is that of the tokenizer where the model has none, and at most the position table.
    for declared, limit in ((5, 5), (10**30, 8)):
        (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": declared}))
        assert pretrained.load_sentence_encoder(directory).max_length == limit
    for declared in ("many", -1, 0, 4.5, True):
        (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": declared}))
        with pytest.raises(ValueError, match=f"length of {declared!r} tokens; wanted an integer"):
            pretrained.load_sentence_encoder(directory)


def test_body_options_of_other_families_are_read_and_the_table_is_the_limit(directory):
    body = directory / "sentence_bert_config.json"
    body.rename(directory / "sentence_roberta_config.json")
    assert pretrained.load_sentence_encoder(directory).max_length == 4
    (directory / "sentence_roberta_config.json").unlink()
    assert pretrained.load_sentence_encoder(directory).max_length == 8


def test_the_encoder_may_be_in_a_folder(directory):
    """As older versions write it; ``load`` then needs the folder, and its error names it."""
    wanted, body = pretrained.load_sentence_encoder(directory)(TEXTS), directory / "0_Transformer"
    body.mkdir()
    for path in [path for path in directory.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(body / path.name)
    (directory / "modules.json").write_text(json.dumps([MODULES[0] | {"path": body.name}, *MODULES[1:]]))
    np.testing.assert_array_equal(pretrained.load_sentence_encoder(directory)(TEXTS), wanted)
    with pytest.raises(FileNotFoundError, match=rf"a sentence model .*; wanted its encoder, {body}. Or load"):
        pretrained.load(directory)
    assert pretrained.load(body)[2].model == CONFIG.model


def test_texts_must_be_a_list(directory):
    encoder = pretrained.load_sentence_encoder(directory)
    with pytest.raises(ValueError, match="got texts='a b', one string; wanted a list of strings"):
        encoder("a b")
    with pytest.raises(ValueError, match=r"got texts\[1\]=None; wanted a string"):
        encoder(["a b", None])
    with pytest.raises(ValueError, match="got batch_size=-1; wanted an integer of at least 1"):
        encoder(TEXTS, batch_size=-1)


def test_the_tokenizer_of_the_caller_does_not_change(directory):
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
def test_a_head_is_dropped(directory, architecture, module, options, plain):
    pooler = nn.Pooler("tanh") if architecture == "BertForSequenceClassification" else None
    model_config = dataclasses.replace(CONFIG.model, pooler=pooler)
    config = dataclasses.replace(CONFIG, architecture=architecture, model=model_config)
    params = nn.functionalize(module, model_config, **options).init(jax.random.key(1))
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    pretrained.save(directory / "body", params, config, tokenizer)
    (directory / "modules.json").write_text(json.dumps([{**MODULES[0], "path": "body"}, MODULES[1]]))
    encoder = pretrained.load_sentence_encoder(directory / "body" if plain else directory)
    body = nn.functionalize(nn.Encoder, CONFIG.model)
    bare = {name: value for name, value in params["encoder"].items() if name != "pooler"}
    wanted = np.asarray(body.apply(bare, np.array([1, 2, 3]))).mean(0)
    np.testing.assert_allclose(encoder(["a b c"])[0], wanted, rtol=1e-5, atol=1e-6)


def test_a_decoder_is_an_error(directory):
    config = pretrained.CheckpointConfig("GPT2LMHeadModel", nn.Config(**FIELDS["gpt2"]))
    model = nn.functionalize(nn.Decoder, config.model)
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    pretrained.save(directory / "decoder", model.init(jax.random.key(0)), config, tokenizer)
    with pytest.raises(ValueError, match=r"got .*, a GPT2LMHeadModel; wanted an encoder, such as BertModel"):
        pretrained.load_sentence_encoder(directory / "decoder")


def test_a_token_outside_the_vocabulary_is_an_error(directory):
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


def test_the_default_maximum_length_is_that_of_the_positions(directory):
    (directory / "sentence_bert_config.json").unlink()
    (directory / "tokenizer_config.json").unlink()
    assert pretrained.load_sentence_encoder(directory).max_length == 8
    large = dataclasses.replace(CONFIG.model, positions=nn.Learned(700))
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert max_length_of(None, tokenizer, large, directory) == 700
    assert max_length_of(None, tokenizer, dataclasses.replace(large, positions=nn.Alibi()), directory) == 512


MODES = ("mean", "first", "last", "max", "weighted_mean", "mean_sqrt_len")


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 3), st.permutations(MODES))
def test_pooling_equals_that_of_each_sequence_alone(lengths, skipped, modes):
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


def test_an_unknown_pooling_is_an_error(directory):
    encoder = pretrained.load_sentence_encoder(directory)
    with pytest.raises(ValueError, match="got pooling='median'; wanted one of"):
        dataclasses.replace(encoder, pooling="median")


def as_pickle(directory):
    """Rewrites a checkpoint with its weights in a pickle, as older ones have them."""
    torch = pytest.importorskip("torch")
    path = directory / "model.safetensors"
    tensors = {name: torch.from_numpy(x) for name, x in load_file(path).items()}
    torch.save(tensors, directory / "pytorch_model.bin")
    path.unlink()


@pytest.mark.parity
def test_a_pickle_is_read_only_if_allowed(directory):
    wanted = pretrained.load_sentence_encoder(directory)(TEXTS)
    as_pickle(directory)
    with pytest.raises(ValueError, match=r"got a pickle, .* or pass allow_pickle=True"):
        pretrained.load_sentence_encoder(directory)
    found = pretrained.load_sentence_encoder(directory, allow_pickle=True)
    np.testing.assert_array_equal(found(TEXTS), wanted)
