"""--init-from: initial weights from runs and from tiny checkpoints of transformers."""

import dataclasses
import json
import shutil

import chex
import jax
import numpy as np
import optax
import pytest

from experiments import command_line, init_from
from experiments.language_model import config as language_model_config
from experiments.language_model.run import main as language_model
from experiments.translation import config as translation_config
from experiments.translation.run import main as translation
from tests.experiments.test_language_model import SMALL as LANGUAGE_MODEL
from tests.experiments.test_language_model import make_texts, write_rows
from tests.experiments.test_translation import NUMBERS, write_pairs
from tests.experiments.test_translation import SMALL as TRANSLATION
from tests.pretrained.families.test_families import FIELDS
from tfm_jax import data, nn, pretrained, train
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.load import model_of
from tfm_jax.train.run_directory import RunDirectory, load_config
from tfm_jax.values import to_dict

FROZEN = ("--train.optimizer.learning-rate", "1e-20")  # training leaves the initial weights as they are


def without_model(arguments):
    """Pairs of options and values, without those of the model."""
    named = zip(arguments[::2], arguments[1::2], strict=True)
    return [word for pair in named if not pair[0].startswith("--model") for word in pair]


def save_checkpoint(path, architecture, fields, tokenizer, **settings):
    model = nn.Config(**{**fields, "vocab_size": tokenizer.vocab_size + 3})
    config = pretrained.CheckpointConfig(architecture, model, settings)
    params = jax.jit(model_of(config, find_family(architecture)).init)(jax.random.key(5))
    pretrained.save(path, params, config, tokenizer.backend)
    return params


def load(argv):
    """The config and the initial weights of a translation by its command line."""
    config = command_line.parse(translation_config.Config, argv)
    return init_from.load_initial_weights(config, (nn.EncoderDecoder,))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("texts") / "train.jsonl", make_texts(60, 0))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "train.jsonl", 60, 0)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2") / "checkpoint"
    tokenizer = data.train_bpe(make_texts(60, 0), 280)
    fields = FIELDS["gpt2"] | {"positions": nn.Learned(40)}
    params = save_checkpoint(path, "GPT2LMHeadModel", fields, tokenizer, eos_token_id=2, bos_token_id=1)
    return path, params


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    path = tmp_path_factory.mktemp("t5") / "checkpoint"
    tokenizer = data.train_bpe(["one un two deux"], 262)
    ids = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    return path, save_checkpoint(path, "T5ForConditionalGeneration", FIELDS["t5"], tokenizer, **ids)


def weights_of(out):
    return train.load_params(out / "checkpoints")


@pytest.mark.slow
def test_language_model_starts_from_a_checkpoint_read_once(tmp_path, texts, gpt2, monkeypatch):
    path, params = gpt2
    read, load_pretrained = [], pretrained.load
    monkeypatch.setattr(
        pretrained, "load", lambda path, **options: read.append(path) or load_pretrained(path, **options)
    )
    out = tmp_path / "run"
    arguments = ["--out", str(out), "--data.source", texts, *without_model(LANGUAGE_MODEL)]
    language_model([*arguments, *FROZEN, "--init-from", str(path), "--model.dropout-rate", "0.2"])
    chex.assert_trees_all_close(weights_of(out), params, atol=1e-12)
    saved = load_config(language_model_config.Config, out / "config.json")
    assert saved.model.positions == nn.Learned(40) and saved.model.vocab_size == 283
    assert saved.model.dropout_rate == 0.2 and saved.model.unroll  # the execution fields of the experiment
    assert data.load_tokenizer(out).encode("the cat") == data.load_tokenizer(path).encode("the cat")
    # resumes from its own weights when the checkpoint is gone
    before = weights_of(out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "init_from": str(tmp_path / "gone")}))
    language_model(["--out", str(out), "--resume"])
    chex.assert_trees_all_equal(weights_of(out), before)
    assert read == [str(path)]


def test_translation_starts_from_a_checkpoint_with_its_start_token(tmp_path, t5):
    path, params = t5
    config, initial = load(["--data.source", "pairs", "--init-from", str(path)])
    chex.assert_trees_all_equal(initial.params, params)
    assert "head" in params and "decoder" in params  # untied, but no classifier
    assert config.model.positions == nn.RelativeBias(8, 9) and not config.model.tie_embeddings
    initial.save_preprocessing(tmp_path)
    tokenizer = data.load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 0, 2)


def test_initial_weights_have_the_param_dtype_of_the_run(t5):
    argv = ["--data.source", "pairs", "--init-from", str(t5[0]), "--model.param-dtype", "bfloat16"]
    config, initial = load(argv)
    assert config.model.param_dtype == "bfloat16"
    assert {x.dtype.name for x in jax.tree.leaves(initial.params)} == {"bfloat16"}


def test_translation_starts_from_a_model_with_another_pad_id(tmp_path):
    tokenizer, path = data.train_bpe(["one un two deux"], 262), tmp_path / "bart"
    save_checkpoint(path, "BartForConditionalGeneration", FIELDS["bart"], tokenizer, pad_token_id=1)
    _, initial = load(["--data.source", "pairs", "--init-from", str(path)])
    initial.save_preprocessing(tmp_path)
    loaded = data.load_tokenizer(tmp_path)
    assert loaded.pad_id == 1
    batch = data.translation_examples(["one", "two one"], ["un", "deux"], loaded).take(np.arange(2))
    assert (batch["source"][~batch["valid"]] == 1).all() and not batch["valid"].all()


def untied_run(path):
    """Writes a translation run that was stopped at step 1; returns its model."""
    tokenizer = data.char_tokenizer([*NUMBERS, *NUMBERS.values(), " "])
    model = nn.Config(d_model=8, n_layers=1, n_heads=2, d_ff=8, tie_embeddings=False)
    run = RunDirectory(path, to_dict(translation_config.TextConfig(model=model)))
    tokenizer.save(run.path)
    sized = dataclasses.replace(model, vocab_size=tokenizer.vocab_size)
    params = jax.jit(nn.functionalize(nn.EncoderDecoder, sized).init)(jax.random.key(3))
    with train.Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(1, train.init_state(params, optax.sgd(1.0), jax.random.key(0)))
    return sized


@pytest.mark.slow
def test_run_starts_from_a_run(tmp_path, pairs):
    first, second = tmp_path / "first", tmp_path / "second"
    model = untied_run(first)
    arguments = ["--out", str(second), "--data.source", pairs, "--data.pair", "en-fr", "--search.beams", "1"]
    arguments += [*without_model(TRANSLATION), "--train.steps", "2", "--average", "1", *FROZEN]
    translation([*arguments, "--init-from", str(first)])
    chex.assert_trees_all_close(weights_of(second), weights_of(first), atol=1e-12)
    configured = load_config(translation_config.TextConfig, second / "config.json").model
    assert configured == dataclasses.replace(model, unroll=configured.unroll, dropout_rate=0.0)
    with pytest.raises(SystemExit, match=r"language_model: .*got an nn.EncoderDecoder; wanted an nn.Decoder"):
        language_model(["--out", str(tmp_path / "third"), "--init-from", str(first)])
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model.d-ff", "8"],
            r"(?s)language_model: .*wanted changes of .*:\n  --model.d-ff: configured 8, the weights have 5",
        ),
        (["--model.norm", "RMSNorm"], r"--model.norm: configured RMSNorm\(.*the weights have LayerNorm"),
        (
            ["--data.tokenizer", "bytes"],
            "error: --init-from: got --data.tokenizer; wanted the tokenizer of the weights",
        ),
        (["--data.vocab-size=300"], "got --data.vocab-size; wanted the tokenizer of the weights"),
        (["--data.vocab_size", "300"], "got --data.vocab-size; wanted the tokenizer of the weights"),
        (
            ["--data.length", "64", "--data.overlap", "8"],
            "got a sequence of 64; wanted at most max_length=40",
        ),
    ],
)
def test_options_that_the_checkpoint_decides_exit(tmp_path, texts, gpt2, arguments, message):
    small = [*without_model(LANGUAGE_MODEL), "--data.source", texts, "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match=message):
        language_model([*small, "--init-from", str(gpt2[0]), *arguments])
    assert not (tmp_path / "run").exists()


def test_unsuitable_initial_weights_exit(tmp_path, t5, gpt2, pairs):
    out = ["--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match=r"language_model: .*got an nn.EncoderDecoder; wanted an nn.Decoder"):
        language_model([*out, "--init-from", str(t5[0])])
    with pytest.raises(SystemExit, match=r"error: --init-from: .*: got no config.json; wanted"):
        translation([*out, "--init-from", str(tmp_path)])
    without = tmp_path / "without"
    shutil.copytree(gpt2[0], without)
    (without / "tokenizer.json").unlink()
    with pytest.raises(SystemExit, match="got no tokenizer; wanted a checkpoint with one"):
        language_model([*out, "--init-from", str(without)])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["config.json", "model.json"])
@pytest.mark.parametrize("model", [{"widths": 5}, {"d_model": "x"}, {"norm": {"kind": "Foo"}}])
def test_damaged_run_raises_one_line_with_the_name_of_the_file(tmp_path, name, model):
    (tmp_path / "config.json").write_text(json.dumps({"model": model, "train": {}}))
    if name == "model.json":
        (tmp_path / name).write_text(json.dumps(model))
    with pytest.raises(ValueError, match=rf"{tmp_path}/{name}: .*put a copy of it back"):
        init_from.read_model_config(str(tmp_path), "texts")
