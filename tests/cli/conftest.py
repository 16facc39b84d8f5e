"""The ``tfm`` command in this process, and tiny models for it."""

import dataclasses
import functools
import io
import json
import sys
from pathlib import Path

import jax
import optax
import pytest

from tests.pretrained.weights.test_files import CONFIG as LLAMA
from tests.saved_runs import CONFIG, load_run_once, make_run
from tfm_jax import cli, data, nn, pretrained, runs, train, values
from tfm_jax.pretrained.checkpoint_files import CheckpointFiles
from tfm_jax.pretrained.load import load_files
from tfm_jax.pretrained.tasks import text_generation


@functools.cache
def load_checkpoint_once(path, dtype, allow_pickle):
    return load_files(CheckpointFiles(Path(path), allow_pickle=allow_pickle), dtype)


@pytest.fixture
def tfm(capsys, monkeypatch):
    """Runs the command: (status, standard output, standard error). Each model is loaded and compiled once."""

    def load(files, dtype):
        return load_checkpoint_once(str(files), dtype, files.allow_pickle)

    def run(*argv, stdin=None):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = cli.main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    def load_generator(source, **options):
        return (load_run_once if runs.is_run(source) else load_text_generator)(source, **options)

    load_text_generator = runs.load_text_generator
    monkeypatch.setattr(runs, "load_text_generator", load_generator)
    monkeypatch.setattr(text_generation, "load_files", load)
    return run


@pytest.fixture(scope="session")
def translator(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("translator"), nn.EncoderDecoder, scales=(3.0,))


@pytest.fixture(scope="session")
def writer(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("writer"), nn.Decoder, scales=(2.0,), alphabet="abcdef\n\\")


@pytest.fixture(scope="session")
def learned(tmp_path_factory):
    config = dataclasses.replace(CONFIG, positions=nn.Learned(24))
    return make_run(tmp_path_factory.mktemp("learned"), nn.Decoder, config, scales=(2.0,))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny Llama checkpoint whose settings ask for sampling."""
    tokenizer = data.char_tokenizer("abcdefgh")
    config = pretrained.CheckpointConfig("LlamaForCausalLM", LLAMA.model)
    config = dataclasses.replace(
        config, model=dataclasses.replace(LLAMA.model, vocab_size=tokenizer.vocab_size)
    )
    config = dataclasses.replace(
        config, generation={"do_sample": True, "max_new_tokens": 9, "eos_token_id": 2, "top_k": 7}
    )
    params = jax.jit(nn.functionalize(nn.Decoder, config.model).init)(jax.random.key(2))
    directory = tmp_path_factory.mktemp("checkpoints") / "llama"
    pretrained.save(directory, params, config, tokenizer.backend)
    return directory


@pytest.fixture(scope="session")
def run_of_pairs(tmp_path_factory):
    """A run that classifies pairs of texts."""
    run = tmp_path_factory.mktemp("runs") / "pairs"
    run.mkdir()
    tokenizer = data.char_tokenizer("abcdefg ")
    tokenizer.save(run)
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size, token_types=2)
    values_of = values.to_dict(config)
    (run / "config.json").write_text(json.dumps({"model": values_of, "train": {"checkpoint_every": 1}}))
    params = jax.jit(nn.functionalize(nn.Classifier, config, 2, "mean").init)(jax.random.key(1))
    with train.Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(1, train.init_state(params, optax.sgd(0.1), jax.random.key(0)))
    task = runs.Task(task="text-classification", labels=("no", "yes"), pooling="mean", pairs=True)
    runs.write_task(run, task, runs.Origin.now({}, 0))
    return run
